//! Exchange: a registry lease's secret becomes a token of a few minutes; and the documents by which others verify our JWTs.

use aws_lc_rs::digest::{SHA256, digest};

pub use crate::issuer::registry::EXCHANGE_REFUSED;

use super::{Origin, Rules, Vend, record::event_from};
use crate::{
    issuer::{
        jwt::Document,
        registry::{Exchange, RegistryToken, lease_named_in},
    },
    model::{
        SignedDuration, Timestamp,
        error::{Code, Error, Result},
        event::{Actor, Event, Outcome},
        lease::{Handle, Lease, LeaseId, LeaseState},
        role::{RoleOwner, RoleSpec},
        secret::Secret,
    },
};

/// The id of no lease, of the form that all have: who asks with a name that is no id costs the store the same look.
const NO_LEASE: [u8; 16] = [0, 0, 0, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, 0];

/// A token for a registry, on record.
pub struct Exchanged {
    /// The token.
    pub token: RegistryToken,
    /// When its life began.
    pub issued_at: Timestamp,
}

impl Vend {
    /// Exchanges a registry lease's secret for a token. `username` is the lease's id.
    ///
    /// # Errors
    /// `Unauthenticated` with [`EXCHANGE_REFUSED`], whatever is wrong. That is not on record yet: guesses are bounded at the edge, and
    /// those within its bound go on record by [`Vend::exchange_refused`]. `StoreUnavailable`, `AuditUnavailable`: nothing was given.
    pub async fn exchange(&self, origin: &Origin, username: &str, secret: &Secret, service: &str, scopes: &[String]) -> Result<Exchanged> {
        // 1. Find the lease. The time is from before: a token of a lease that is revoked meanwhile ends within what the revocation says.
        let now = self.clock.now();
        let rules = self.rules.load_full();
        let id = username.parse().unwrap_or(LeaseId::from_bytes(NO_LEASE));
        let found = self.store.get(&[id]).await?.pop().flatten();

        // 2. Check it, then the secret. Without a lease the same is hashed, so that the time tells nothing either.
        let (lease, token_ttl) = match found.ok_or("there is no such lease").and_then(|lease| usable(lease, &rules, now)) {
            Ok(usable) => usable,
            Err(why) => {
                std::hint::black_box(digest(&SHA256, secret.expose().as_bytes()));
                return Err(refused(why));
            }
        };
        let token = match rules.issuers.registry.exchange(&lease, &Exchange { secret, service, scopes, token_ttl }, now) {
            Ok(token) => token,
            Err(error) if error.code() == Code::Unauthenticated => return Err(refused(error.cause().unwrap_or(error.public()))),
            Err(error) => return Err(error),
        };

        // 3. On record, then answer.
        self.record(vec![exchanged(origin, &lease, &token, now)]).await?;
        Ok(Exchanged { token, issued_at: now })
    }

    /// Puts a refused exchange on record, and gives the error for the caller. The record says which lease was named and what was wrong; the
    /// caller learns neither.
    pub async fn exchange_refused(&self, origin: &Origin, username: &str, error: Error) -> Error {
        let outcome = if error.code().is_refusal() { Outcome::Denied } else { Outcome::Failed };
        let event = Event {
            // Under no tenant: who guesses writes nothing into what a tenant reads.
            lease_id: username.parse().ok(),
            reason: Some(error.code().as_str().into()),
            detail: vec![error.cause().unwrap_or(error.public()).to_owned()],
            ..event_from(origin, outcome, self.clock.now())
        };
        self.put_on_record(event, error).await
    }

    /// `/.well-known/openid-configuration`; none when this service signs no JWTs.
    pub fn oidc_discovery(&self) -> Option<Document> {
        self.rules.load().issuers.jwt.discovery()
    }

    /// `/jwks.json`; none when this service signs no JWTs.
    pub fn jwks(&self) -> Option<Document> {
        self.rules.load().issuers.jwt.jwks(self.clock.now())
    }
}

/// The user name that stands for a secret which comes without one, as a refresh token does: a secret names its own lease. Empty when it is
/// none.
pub fn username_in(secret: &Secret) -> String {
    lease_named_in(secret).map(|id| id.to_string()).unwrap_or_default()
}

/// The lease as it may be used and the longest life of a token of its role, or what is wrong with it.
fn usable(lease: Lease, rules: &Rules, now: Timestamp) -> Result<(Lease, SignedDuration), &'static str> {
    let catalog = rules.book.catalog();
    let Handle::Registry { registry, .. } = &lease.handle else {
        return Err("the lease is of another kind");
    };
    if lease.state != LeaseState::Active || lease.expires_at <= now {
        return Err("the lease is not active");
    }
    let role = catalog.roles.get(&lease.role).ok_or("the lease's role is gone")?;
    let RoleSpec::Registry(spec) = &role.spec else {
        return Err("the lease's role is of another kind since");
    };
    if spec.registry != *registry {
        return Err("the lease's role is for another registry since");
    }
    if let RoleOwner::Tenant(owner) = &role.owner
        && *owner != lease.tenant
    {
        return Err("the lease's role is another tenant's since");
    }
    let tenant = catalog.tenants.get(&lease.tenant).ok_or("the lease's tenant is gone")?;
    let ends_at = tenant.ends_at.unwrap_or(Timestamp::MAX);
    if ends_at <= now {
        return Err("the lease's tenant has ended");
    }
    // No token outlives the tenant, also when its end was moved forward since.
    Ok((Lease { expires_at: lease.expires_at.min(ends_at), ..lease }, spec.token_ttl))
}

fn refused(why: &str) -> Error {
    Error::new(Code::Unauthenticated, EXCHANGE_REFUSED).because(why)
}

/// The holder of the secret acts as the lease's own subject.
fn exchanged(origin: &Origin, lease: &Lease, token: &RegistryToken, now: Timestamp) -> Event {
    Event {
        actor: Some(Actor {
            subject: lease.subject.to_string(),
            method: "registry".into(),
            authority: token.registry.to_string(),
            serial: None,
            peer: None,
            claims: Default::default(),
        }),
        tenant: Some(lease.tenant.clone()),
        role: Some(lease.role.clone()),
        lease_id: Some(lease.id),
        detail: token.granted.clone(),
        ..event_from(origin, Outcome::Done, now)
    }
}
