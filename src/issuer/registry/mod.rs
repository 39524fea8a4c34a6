//! What container registries take: a secret for the lease's life, and at the token endpoint a short JWT for each exchange of it
//! (distribution, "Token Authentication Specification").
//!
//! | file | what it holds |
//! |---|---|
//! | [`scope`] | what a client asks for, and what of it a lease has |
//! | [`secret`] | what a holder presents, and what is kept of it |
//! | [`signer`] | the keys that sign tokens |
//! | [`role_check`] | every fault of a role, at load |

pub mod role_check;
pub mod scope;
pub mod secret;
pub mod signer;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;

pub use secret::{SECRET_PREFIX, lease_named_in};
use signer::Signer;

use super::{Again, Issuer, KeyCertifier, Minted, NotMinted, Order};
use crate::{
    clock,
    model::{
        SignedDuration, Timestamp,
        credential::{Credential, RegistryCredential},
        error::{Code, Error, Result},
        lease::{Handle, Lease, LeaseState, LiveSecret, MAX_LIVE_SERIALS, REGISTRY_LEEWAY, Reach},
        name::RegistryName,
        role::{RegistryRole, RoleSpec},
        secret::Secret,
        template::Place,
        time::whole_second,
    },
    policy::Grant,
};

/// What everybody is told whose exchange is refused: no hint whether there is such a lease, and in which state.
pub const EXCHANGE_REFUSED: &str = "no live lease takes this user name and password; issue a new one";

/// The longest life of one token.
pub const MAX_TOKEN_TTL: SignedDuration = SignedDuration::from_mins(5);

/// The shortest life of a token that a client is told (distribution, "Token Authentication Specification", `expires_in`): docker takes
/// less for this. A registry takes a token for its leeway of as much after its end, so that what is told is true also of a shorter one.
const MIN_TOLD_LIFE: SignedDuration = REGISTRY_LEEWAY;

/// A registry, as configured.
pub struct RegistryConfig {
    /// What roles call it.
    pub name: RegistryName,
    /// What image references call it: `host[:port]`.
    pub host: String,
    /// Its `service`: the `aud` of its tokens.
    pub service: String,
    /// Its `issuer`: the `iss` of its tokens.
    pub issuer: String,
    /// How long a key signs: [`signer::MIN_ROTATE_EVERY`] to [`signer::MAX_ROTATE_EVERY`].
    pub rotate_every: SignedDuration,
    /// What its `rootcertbundle` trusts.
    pub ca: Arc<dyn KeyCertifier>,
}

/// Issues secrets for any number of registries, and exchanges them for tokens.
#[derive(Default)]
pub struct RegistryIssuer {
    registries: BTreeMap<RegistryName, Registry>,
}

struct Registry {
    host: String,
    service: String,
    issuer: String,
    signer: Signer,
}

/// What a registry's client asks for at the token endpoint.
pub struct Exchange<'a> {
    /// The secret, as presented.
    pub secret: &'a Secret,
    /// The registry's `service`; the client says it.
    pub service: &'a str,
    /// The scopes, as sent.
    pub scopes: &'a [String],
    /// The longest life that the lease's role gives a token; [`MAX_TOKEN_TTL`] bounds it too.
    pub token_ttl: SignedDuration,
}

/// A token for a registry.
pub struct RegistryToken {
    /// The signed JWT.
    pub token: Secret,
    /// For how many seconds a registry takes it, as its client is told: its life, and 60 when that is less, for so long is the leeway
    /// that the registry gives.
    pub expires_in: u32,
    /// What it grants, one `repository:name:action,action` for each; the intersection of what was asked and what the lease has.
    pub granted: Vec<String>,
    /// The registry.
    pub registry: RegistryName,
}

impl RegistryIssuer {
    /// An issuer for these registries; of two with the same name the last counts.
    pub fn new(registries: impl IntoIterator<Item = RegistryConfig>) -> Self {
        let registry = |config: RegistryConfig| {
            let RegistryConfig { name, host, service, issuer, rotate_every, ca } = config;
            (name, Registry { host, service, issuer, signer: Signer::new(ca, rotate_every) })
        };
        Self { registries: registries.into_iter().map(registry).collect() }
    }

    /// The registries, in order of name.
    pub fn names(&self) -> impl Iterator<Item = &RegistryName> {
        self.registries.keys()
    }

    /// Exchanges a secret of a live lease for a token. The token ends with the secret and the lease at the latest.
    ///
    /// # Errors
    /// `Unauthenticated` with one text, whatever is wrong; what it was is in its cause. `InvalidRequest` to the holder of a live secret
    /// for scopes past [`scope::MAX_SCOPES`] and [`scope::MAX_SCOPE`]. `IssuerUnavailable` when nothing can be signed.
    pub fn exchange(&self, lease: &Lease, asked: &Exchange<'_>, now: Timestamp) -> Result<RegistryToken> {
        let Handle::Registry { registry: name, repositories, actions, secrets } = &lease.handle else {
            return Err(refused("the lease is of another kind"));
        };
        let live = secret::presented(asked.secret, secrets, now).ok_or_else(|| refused("no live secret of the lease was presented"))?;
        if lease.state != LeaseState::Active || lease.expires_at <= now {
            return Err(refused("the lease is not active"));
        }
        let registry = self.registries.get(name).ok_or_else(|| refused("the lease's registry is configured no more"))?;
        if registry.service != asked.service {
            return Err(refused("another registry's service was asked for"));
        }
        if scope::are_too_many(asked.scopes) {
            let bounds = format!("ask for at most {} scopes of at most {} bytes each", scope::MAX_SCOPES, scope::MAX_SCOPE);
            return Err(Error::new(Code::InvalidRequest, bounds));
        }
        let granted = scope::granted(asked.scopes, repositories, actions);
        let ends = lease.expires_at.min(live.not_after);
        let (token, life) = registry.sign(lease, &granted, asked.token_ttl, ends, now)?;
        Ok(RegistryToken {
            token,
            expires_in: u32::try_from(life.max(MIN_TOLD_LIFE).as_secs()).unwrap_or(u32::MAX),
            granted: granted.iter().map(ToString::to_string).collect(),
            registry: name.clone(),
        })
    }

    fn issue(&self, order: &Order<'_>) -> Result<Minted> {
        let spec = registry_role(order.grant)?;
        let registry = self.registries.get(&spec.registry);
        let registry =
            registry.ok_or_else(|| Error::internal(format_args!("there is no registry {}, and a role names it", spec.registry)))?;
        let mut secrets = living_secrets(order.earlier, &spec.registry, order.now)?;
        let expires_at = whole_second(order.grant.expires_at());
        if expires_at <= order.now {
            return Err(Error::new(Code::InvalidRequest, "less than a second is left for this credential"));
        }
        let repositories = repositories(spec, order.grant)?;
        let secret = secret::generate(order.lease);
        secrets.push(LiveSecret { sha256: secret::fingerprint(&secret), not_after: expires_at });
        Ok(Minted {
            credential: Credential::Registry(RegistryCredential {
                registry: registry.host.clone(),
                username: order.lease.to_string(),
                secret,
                expires_at,
            }),
            handle: Handle::Registry { registry: spec.registry.clone(), repositories, actions: spec.actions.clone(), secrets },
            expires_at,
            reach: Reach::Lease,
        })
    }
}

#[async_trait]
impl Issuer for RegistryIssuer {
    async fn mint(&self, order: &Order<'_>) -> Result<Minted, NotMinted> {
        Ok(self.issue(order)?)
    }

    async fn remint(&self, _order: &Order<'_>, _lease: &Lease) -> Result<Again> {
        Ok(Again::Never)
    }
}

impl Registry {
    /// A token and its life. Its end is rounded to the past and so is its beginning, so that it never lives longer than it may.
    fn sign(
        &self,
        lease: &Lease,
        granted: &[scope::Access],
        token_ttl: SignedDuration,
        ends: Timestamp,
        now: Timestamp,
    ) -> Result<(Secret, SignedDuration)> {
        let key = self.signer.key(now)?;
        let wanted = now.checked_add(token_ttl.min(MAX_TOKEN_TTL)).unwrap_or(ends);
        let expires_at = wanted.min(ends).min(key.not_after());
        let access = granted.iter().map(|access| json!({ "type": "repository", "name": access.name, "actions": access.actions }));
        let claims = json!({
            "iss": self.issuer,
            "sub": lease.id.to_string(),
            // A string: version 2.8 takes no list.
            "aud": self.service,
            "exp": expires_at.as_second(),
            "nbf": now.as_second(),
            "iat": now.as_second(),
            "jti": URL_SAFE_NO_PAD.encode(clock::random::<16>()),
            "access": access.collect::<Vec<_>>(),
        });
        let life = SignedDuration::from_secs(expires_at.as_second() - now.as_second());
        Ok((key.sign(&claims)?, life))
    }
}

fn registry_role(grant: &Grant) -> Result<&RegistryRole> {
    match &grant.role().spec {
        RoleSpec::Registry(spec) => Ok(spec),
        _ => Err(Error::internal(format_args!("the role {} is not of kind registry", grant.role().name))),
    }
}

/// The role's repositories for a caller. What is rendered is checked as a whole: no claim can bring a segment or a wildcard, and no name
/// gets in that a registry would read otherwise.
fn repositories(spec: &RegistryRole, grant: &Grant) -> Result<Vec<String>> {
    let render = |template: &crate::model::template::Template| {
        let name = template.render(Place::RepositorySegment, grant.identity(), &grant.role().name)?;
        if !scope::is_pattern(&name) {
            let why = format!("the role's repository {:?} does not become the name of a repository for you", template.source());
            return Err(Error::new(Code::ClaimNotUsable, why));
        }
        Ok(name)
    };
    spec.repositories.iter().map(render).collect()
}

/// The secrets of a renewed lease that still live, oldest first: its holder may go on with them.
fn living_secrets(earlier: Option<&Handle>, registry: &RegistryName, now: Timestamp) -> Result<Vec<LiveSecret>> {
    let refuse = |why: String| Err(Error::new(Code::NotRenewable, why));
    let (earlier_registry, secrets) = match earlier {
        None => return Ok(Vec::new()),
        Some(Handle::Registry { registry, secrets, .. }) => (registry, secrets),
        Some(_) => return refuse("the role vends another kind of credential since this lease began; ask for a new lease".to_owned()),
    };
    let living: Vec<_> = secrets.iter().filter(|secret| secret.not_after > now).cloned().collect();
    if earlier_registry != registry && !living.is_empty() {
        return refuse("the role is for another registry since this lease began; ask for a new lease".to_owned());
    }
    if living.len() >= MAX_LIVE_SERIALS {
        return refuse(format!("{} secrets live under this lease; wait until one expires, or ask for a new lease", living.len()));
    }
    Ok(living)
}

fn refused(why: &str) -> Error {
    Error::new(Code::Unauthenticated, EXCHANGE_REFUSED).because(why)
}
