//! What a decision tells Cedar: the caller, the resource and the context as entities and values. Whatever a caller
//! controls goes in as data; no text of it is ever parsed.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use cedar_policy::{Context, Entities, Entity, EntityUid, Request, RestrictedExpression};

use super::{
    Action,
    schema::{Vocabulary, uid},
};
use crate::model::{
    Timestamp,
    catalog::Catalog,
    claim::ClaimValue,
    error::{Code, Error, Result},
    identity::{Identity, PeerCertificate, Proof, VerifiedToken},
    lease::Lease,
    name::{RoleName, TenantName},
    role::{Role, RoleOwner},
    tenant::Tenant,
};

/// The caller as Cedar sees it, checked against the catalog in force.
pub(super) struct Caller<'a> {
    pub identity: &'a Identity,
    pub tenant: &'a std::sync::Arc<Tenant>,
    pub ty: String,
    pub id: &'a str,
    uid: EntityUid,
    entity: Entity,
}

/// What is acted on.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    /// A role by name, and as configured.
    Role(&'a RoleName, Option<&'a Role>),
    /// A lease.
    Lease(&'a Lease),
    /// A tenant, which need not be configured.
    Tenant(&'a TenantName),
}

/// One question.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub action: Action,
    pub target: Target<'a>,
    /// Whole seconds; only for `issue` and `renew`.
    pub ttl_seconds: Option<i64>,
    /// Whose agent it will be; only for `enroll`.
    pub tenant: Option<&'a TenantName>,
    pub peer_address: Option<IpAddr>,
    pub now: Timestamp,
}

/// A question in Cedar's terms.
pub(super) struct Query {
    pub request: Request,
    pub entities: Entities,
}

impl<'a> Caller<'a> {
    /// Refuses a caller whose tenant, issuer or claims are not (or no longer) as the catalog has them: an attribute that
    /// is not there would make a `forbid` that reads it fail, and so not forbid.
    pub fn new(catalog: &'a Catalog, vocabulary: &Vocabulary, identity: &'a Identity) -> Result<Self> {
        let gone = || Error::new(Code::NoTenant, "your tenant is no longer configured; ask the operators");
        let tenant = catalog.tenants.get(&identity.tenant).ok_or_else(gone)?;
        let (ty, attributes) = match &identity.proof {
            Proof::Certificate(peer) => (Some(&vocabulary.certificate), certificate_attributes(catalog, peer)?),
            Proof::Token { token, .. } => (vocabulary.tokens.get(&token.issuer), token_attributes(catalog, token)?),
            // Good for one thing, which asks no policy: who made the code was asked.
            Proof::Enrollment(_) => return Err(Error::internal("policies are asked about an enrolment code")),
        };
        let ty = ty.ok_or_else(|| Error::internal("a token's issuer is in the catalog and not in the vocabulary"))?;
        let id = identity.subject().as_str();
        let uid = uid(ty, id);
        let parents = HashSet::from([super::schema::uid(&vocabulary.tenant, identity.tenant.as_str())]);
        let entity = Entity::new(uid.clone(), attributes, parents).map_err(Error::internal)?;
        Ok(Self { identity, tenant, ty: ty.to_string(), id, uid, entity })
    }

    /// Whether a lease is this caller's.
    pub fn owns(&self, lease: &Lease) -> bool {
        self.identity.owns(lease)
    }
}

impl Target<'_> {
    /// The Cedar type.
    pub fn ty(&self) -> &'static str {
        match self {
            Self::Role(..) => "Role",
            Self::Lease(_) => "Lease",
            Self::Tenant(_) => "Tenant",
        }
    }

    /// The role that it is or is of.
    pub fn role(&self) -> Option<&RoleName> {
        match self {
            Self::Role(name, _) => Some(name),
            Self::Lease(lease) => Some(&lease.role),
            Self::Tenant(_) => None,
        }
    }

    /// The tenant that it is or is in.
    pub fn tenant(&self) -> Option<&TenantName> {
        match self {
            Self::Role(_, Some(Role { owner: RoleOwner::Tenant(tenant), .. })) => Some(tenant),
            Self::Role(..) => None,
            Self::Lease(lease) => Some(&lease.tenant),
            Self::Tenant(name) => Some(name),
        }
    }

    fn entity(&self, vocabulary: &Vocabulary, caller: &Caller<'_>) -> Result<Entity> {
        let tenants = || self.tenant().map(|tenant| uid(&vocabulary.tenant, tenant.as_str()));
        let (uid, attributes, parents) = match self {
            Self::Role(name, role) => {
                let kind = role.map_or("", |role| role.kind().as_str());
                (uid(&vocabulary.role, name.as_str()), HashMap::from([text("kind", kind)]), tenants().into_iter().collect())
            }
            // A lease is in its holder's tenant, whoever owns its role by now. No policy can name one lease, so all of
            // them share an id, and leases with equal facts get equal answers.
            Self::Lease(lease) => {
                let own = ("own".to_owned(), RestrictedExpression::new_bool(caller.owns(lease)));
                let attributes = HashMap::from([text("subject", lease.subject.as_str()), text("kind", lease.kind.as_str()), own]);
                let role = uid(&vocabulary.role, lease.role.as_str());
                (uid(&vocabulary.lease, "lease"), attributes, tenants().into_iter().chain([role]).collect())
            }
            Self::Tenant(name) => (uid(&vocabulary.tenant, name.as_str()), HashMap::new(), HashSet::new()),
        };
        Entity::new(uid, attributes, parents).map_err(Error::internal)
    }
}

impl Query {
    /// `with_context` only when a policy reads it: Cedar takes longer to make a datetime and an address than to decide.
    pub fn new(vocabulary: &Vocabulary, caller: &Caller<'_>, ask: &Ask<'_>, with_context: bool) -> Result<Self> {
        let context = if with_context { context(caller, ask)? } else { Context::empty() };
        let resource = ask.target.entity(vocabulary, caller)?;
        let action = vocabulary.action(ask.action).clone();
        let request = Request::new(caller.uid.clone(), action, resource.uid(), context, None).map_err(Error::internal)?;
        let entities = Entities::from_entities([caller.entity.clone(), resource], None).map_err(Error::internal)?;
        Ok(Self { request, entities })
    }
}

fn context(caller: &Caller<'_>, ask: &Ask<'_>) -> Result<Context> {
    // Cedar's datetime takes milliseconds.
    let mut pairs = vec![("time".to_owned(), RestrictedExpression::new_datetime(format!("{:.3}", ask.now)))];
    if let Some(ttl) = ask.ttl_seconds {
        pairs.push(("ttl_seconds".to_owned(), RestrictedExpression::new_long(ttl)));
    }
    if let Some(tenant) = ask.tenant {
        pairs.push(text("tenant", tenant.as_str()));
    }
    if let Some(address) = ask.peer_address {
        pairs.push(("peer_address".to_owned(), RestrictedExpression::new_ip(address.to_canonical().to_string())));
    }
    if let Some(peer) = caller.identity.peer() {
        let fields = [
            text("trust_domain", peer.trust_domain.as_str()),
            text("id", &peer.id),
            text("subject", peer.subject.as_str()),
            text("serial", &peer.serial),
        ];
        pairs.push(("peer".to_owned(), RestrictedExpression::new_record(fields).map_err(Error::internal)?));
    }
    Context::from_pairs(pairs).map_err(Error::internal)
}

fn certificate_attributes(catalog: &Catalog, peer: &PeerCertificate) -> Result<HashMap<String, RestrictedExpression>> {
    if !catalog.trust_domains.contains_key(&peer.trust_domain) {
        return Err(Error::new(Code::CertificateRevoked, "your certificate's trust domain is no longer configured; ask the operators"));
    }
    Ok(HashMap::from([text("trust_domain", peer.trust_domain.as_str()), text("id", &peer.id), text("subject", peer.subject.as_str())]))
}

fn token_attributes(catalog: &Catalog, token: &VerifiedToken) -> Result<HashMap<String, RestrictedExpression>> {
    let refuse = |why: String| Error::new(Code::Unauthenticated, why);
    let issuer = &token.issuer;
    let specs =
        catalog.issuers.get(issuer).ok_or_else(|| refuse("your token's issuer is no longer configured; ask the operators".into()))?;
    let mut claims = Vec::with_capacity(specs.len());
    for spec in specs {
        match token.claims.get(&spec.name) {
            Some(value) if value.ty() == spec.ty => claims.push((spec.name.clone(), claim(value))),
            Some(_) => return Err(refuse(format!("the claim {} of your token is not of the configured type", spec.name))),
            None if spec.required => return Err(refuse(format!("your token lacks the claim {}", spec.name))),
            None => {}
        }
    }
    let claims = RestrictedExpression::new_record(claims).map_err(Error::internal)?;
    let named = [text("subject", token.subject.as_str()), text("issuer", issuer.as_str()), ("claims".to_owned(), claims)];
    Ok(HashMap::from(named))
}

fn claim(value: &ClaimValue) -> RestrictedExpression {
    match value {
        ClaimValue::Boolean(value) => RestrictedExpression::new_bool(*value),
        ClaimValue::Integer(value) => RestrictedExpression::new_long(*value),
        ClaimValue::String(value) => RestrictedExpression::new_string(value.clone()),
        ClaimValue::Strings(values) => RestrictedExpression::new_set(values.iter().cloned().map(RestrictedExpression::new_string)),
    }
}

fn text(name: &str, value: &str) -> (String, RestrictedExpression) {
    (name.to_owned(), RestrictedExpression::new_string(value.to_owned()))
}
