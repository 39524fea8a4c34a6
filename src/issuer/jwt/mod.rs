//! JWTs, and the keys that sign them: published before they sign, kept until the last token under them is dead.
//!
//! | file | what it holds |
//! |---|---|
//! | here | the issuer: a grant becomes a token; tokens for other issuers |
//! | [`claims`] | what a token says; every fault of a role, at load |
//! | [`documents`] | discovery and the key set |
//! | [`maker`] | how its keys are made, and how long a token keeps one published; the rest of their life is in [`crate::keys`] |
//! | `key` | one key |

pub mod claims;
pub mod documents;
mod key;
pub mod maker;

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value};
use url::Url;

pub use documents::Document;
pub use key::SigningAlgorithm;
pub use maker::{JwtKeyMaker, JwtKeys, MAX_TOKEN_LIFE};

use self::claims::Facts;
use super::{Again, Issuer, Minted, NotMinted, Order, TokenSigner};
use crate::model::{
    Timestamp,
    credential::{Credential, JwtCredential},
    error::{Code, Error, Result},
    host::is_loopback,
    lease::{Handle, Lease, LeaseId, LeaseState, Reach},
    request::Input,
    role::{JwtRole, Role, RoleSpec},
    secret::Secret,
    time::whole_second,
};

/// The longest URL of an issuer, in bytes (AWS takes no longer one for an OIDC provider).
pub const MAX_ISSUER: usize = 255;

/// Issues JWTs; without a desk it refuses to, because `[oidc]` is not configured.
#[derive(Default)]
pub struct JwtIssuer {
    desk: Option<Desk>,
}

/// This service as an issuer of JWTs.
pub struct JwtConfig {
    /// The `iss`: see [`issuer_fault`].
    pub issuer: String,
    /// The keys.
    pub ring: Arc<JwtKeys>,
    /// What roles add, for `claims_supported`.
    pub claims: Vec<String>,
}

struct Desk {
    config: JwtConfig,
    /// The path of the issuer's URL, without a slash at its end.
    path: String,
}

/// What is wrong with the URL of an issuer: OpenID Connect Discovery 1.0 section 3 wants https, no query and no fragment. Loopback may go
/// without TLS. It has one form only, because relying parties compare it byte by byte.
pub fn issuer_fault(issuer: &str) -> Option<String> {
    let refuse = |why: &str| Some(format!("the issuer {issuer:?} {why}"));
    if issuer.len() > MAX_ISSUER {
        return refuse("is longer than 255 bytes");
    }
    let Ok(url) = Url::parse(issuer) else { return refuse("is no URL, such as https://id.example.org") };
    if url.scheme() != "https" && !(url.scheme() == "http" && is_loopback(&url)) {
        return refuse("is not https (plain http is for loopback)");
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return refuse("holds a user, a query or a fragment");
    }
    if issuer.ends_with('/') {
        return refuse("ends in a slash; leave it out");
    }
    // A URL without a path is written with one slash.
    if url.as_str().trim_end_matches('/') != issuer || url.path().contains("//") {
        return refuse(&format!("is not in normal form; that would be {:?}", url.as_str().trim_end_matches('/')));
    }
    None
}

impl JwtIssuer {
    /// An issuer of this name over these keys.
    ///
    /// # Errors
    /// What [`issuer_fault`] says.
    pub fn new(config: JwtConfig) -> std::result::Result<Self, String> {
        if let Some(fault) = issuer_fault(&config.issuer) {
            return Err(fault);
        }
        let path = Url::parse(&config.issuer).map_err(|error| error.to_string())?.path().trim_end_matches('/').to_owned();
        Ok(Self { desk: Some(Desk { config, path }) })
    }

    /// The keys; none when this service signs no JWTs.
    pub fn ring(&self) -> Option<&Arc<JwtKeys>> {
        self.desk.as_ref().map(|desk| &desk.config.ring)
    }

    /// `/.well-known/openid-configuration` (OpenID Connect Discovery 1.0, section 4); none when this service signs no JWTs.
    pub fn discovery(&self) -> Option<Document> {
        let Desk { config, path } = self.desk.as_ref()?;
        Some(documents::discovery(&config.issuer, path, &config.ring, &config.claims))
    }

    /// `/jwks.json` (RFC 7517, section 5); none when this service signs no JWTs.
    pub fn jwks(&self, now: Timestamp) -> Option<Document> {
        let Desk { config, path } = self.desk.as_ref()?;
        Some(documents::jwks(path, &config.ring, now))
    }

    fn config(&self) -> Result<&JwtConfig> {
        let desk = self.desk.as_ref().ok_or_else(|| Error::internal("a role vends JWTs and there is no [oidc]"))?;
        Ok(&desk.config)
    }

    fn make(&self, order: &Order<'_>) -> Result<Minted> {
        let (config, grant) = (self.config()?, order.grant);
        let (role, spec) = (grant.role(), jwt_role(grant.role())?);
        let (audience, generation) = match order.earlier {
            None => (asked_audience(spec, order.input)?, 1),
            Some(earlier) => (kept_audience(spec, earlier, order.input)?, next_generation(order.lease, earlier)?),
        };
        let (issued_at, expires_at) = (whole_second(order.now), whole_second(grant.expires_at()));
        check_life(issued_at, expires_at)?;
        let jti = format!("{}.{generation}", order.lease);
        let facts = Facts { issuer: &config.issuer, audience, jti: &jti, lease: order.lease, issued_at, expires_at };
        let payload = claims::payload(role, spec, grant.identity(), &facts)?;
        let token = sign(&config.ring, &payload, order.now)?;
        let handle = Handle::Jwt { jti: jti.clone(), aud: audience.to_owned(), claims: claims::fingerprint(&payload) };
        Ok(Minted { credential: Credential::Jwt(JwtCredential { token, expires_at }), handle, expires_at, reach: Reach::Expiry })
    }

    /// Role, identity, audience and times must all be what they were: then the token says the same, word for word.
    fn make_again(&self, order: &Order<'_>, lease: &Lease) -> Result<Credential> {
        let (config, grant) = (self.config()?, order.grant);
        let Handle::Jwt { jti, aud, claims: said } = &lease.handle else {
            return Err(reused("the role vends another kind of credential since"));
        };
        let spec = jwt_role(grant.role())?;
        if !matches!(lease.state, LeaseState::Active | LeaseState::Pending) || lease.expires_at <= order.now {
            return Err(Error::new(Code::LeaseState, "the lease of this request id has ended; ask again with a new request id"));
        }
        if lease.generation != 1 {
            return Err(reused("the lease of this request id was renewed since"));
        }
        if grant.expires_at() < lease.expires_at {
            return Err(reused("the token that was issued for it lives longer than this request may"));
        }
        if asked_audience(spec, order.input)? != aud {
            return Err(reused("it was used for another audience"));
        }
        let (issued_at, expires_at) = (whole_second(lease.issued_at), lease.expires_at);
        let facts = Facts { issuer: &config.issuer, audience: aud, jti, lease: lease.id, issued_at, expires_at };
        let payload = claims::payload(grant.role(), spec, grant.identity(), &facts)?;
        if claims::fingerprint(&payload) != *said {
            return Err(reused("the role or your identity changed since"));
        }
        Ok(Credential::Jwt(JwtCredential { token: sign(&config.ring, &payload, order.now)?, expires_at }))
    }
}

#[async_trait]
impl Issuer for JwtIssuer {
    async fn mint(&self, order: &Order<'_>) -> Result<Minted, NotMinted> {
        Ok(self.make(order)?)
    }

    async fn remint(&self, order: &Order<'_>, lease: &Lease) -> Result<Again> {
        self.make_again(order, lease).map(Again::Same)
    }
}

impl TokenSigner for JwtIssuer {
    fn issuer(&self) -> &str {
        self.desk.as_ref().map_or("", |desk| &desk.config.issuer)
    }

    fn sign(&self, mut claims: Map<String, Value>, now: Timestamp) -> Result<Secret> {
        let config = self.config()?;
        if !claims.get("sub").is_some_and(Value::is_string) || !claims.get("aud").is_some_and(Value::is_string) {
            return Err(Error::internal("a token without a sub or an aud is not signed"));
        }
        let expires_at = claims.get("exp").and_then(Value::as_i64).and_then(|second| Timestamp::from_second(second).ok());
        let expires_at = expires_at.ok_or_else(|| Error::internal("a token without an exp is not signed"))?;
        check_life(whole_second(now), expires_at)?;
        if claims.insert("iss".to_owned(), config.issuer.clone().into()).is_some() {
            return Err(Error::internal("a token whose iss somebody else wrote is not signed"));
        }
        sign(&config.ring, &Value::Object(claims).to_string(), now)
    }
}

fn sign(ring: &JwtKeys, payload: &str, now: Timestamp) -> Result<Secret> {
    ring.active(now)?.key.sign(payload).map_err(Error::internal)
}

/// A key stays published for as long as this after it signed last: a token that lived longer would outlive it.
fn check_life(issued_at: Timestamp, expires_at: Timestamp) -> Result<()> {
    let life = expires_at.duration_since(issued_at);
    if life.is_positive() && life <= MAX_TOKEN_LIFE {
        return Ok(());
    }
    Err(Error::internal(format_args!("a token would live {life:#}; it is more than nothing and at most {MAX_TOKEN_LIFE:#}")))
}

fn jwt_role(role: &Role) -> Result<&JwtRole> {
    match &role.spec {
        RoleSpec::Jwt(spec) => Ok(spec),
        _ => Err(Error::internal(format_args!("the role {} is not of kind jwt", role.name))),
    }
}

/// The audience that was asked for, or the only one. A CSR is no audience: clients send one whatever the kind.
fn asked_audience<'a>(spec: &'a JwtRole, input: &Input) -> Result<&'a str> {
    let choices = || spec.audiences.join("\", \"");
    match (input, spec.audiences.as_slice()) {
        (Input::Jwt { audience }, audiences) => audiences
            .iter()
            .find(|own| *own == audience)
            .map(String::as_str)
            .ok_or_else(|| Error::new(Code::InvalidRequest, format!("the role has no audience {audience:?}; it has \"{}\"", choices()))),
        (Input::X509 { .. } | Input::None, [only]) => Ok(only),
        (Input::X509 { .. } | Input::None, _) => {
            Err(Error::new(Code::InvalidRequest, format!("the role has more than one audience; ask for one of \"{}\"", choices())))
        }
    }
}

/// The audience of a lease stays what it is.
fn kept_audience<'a>(spec: &'a JwtRole, earlier: &Handle, input: &Input) -> Result<&'a str> {
    let refuse = |why: String| Err(Error::new(Code::NotRenewable, why));
    let Handle::Jwt { aud, .. } = earlier else {
        return refuse("the role vends another kind of credential since this lease began; ask for a new lease".to_owned());
    };
    if let Input::Jwt { audience } = input
        && audience != aud
    {
        return Err(Error::new(Code::InvalidRequest, format!("the lease is for the audience {aud:?}; ask for a new lease for another")));
    }
    match spec.audiences.iter().find(|own| *own == aud) {
        Some(audience) => Ok(audience),
        None => refuse(format!("the role has the audience {aud:?} no more; ask for a new lease")),
    }
}

fn next_generation(lease: LeaseId, earlier: &Handle) -> Result<u32> {
    let number = match earlier {
        Handle::Jwt { jti, .. } => jti.rsplit_once('.').and_then(|(_, number)| number.parse::<u32>().ok()),
        _ => None,
    };
    number.and_then(|number| number.checked_add(1)).ok_or_else(|| Error::internal(format_args!("the lease {lease} has no jti of ours")))
}

fn reused(why: &str) -> Error {
    Error::new(Code::RequestIdReused, format!("this request id cannot be answered again: {why}; ask again with a new request id"))
}
