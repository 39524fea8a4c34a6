//! What container registries take: a secret for the lease's life, and at the token endpoint a short JWT for each exchange of it.

use async_trait::async_trait;

use super::{Again, Issuer, Minted, NotMinted, Order};
use crate::model::{
    Timestamp,
    error::{Error, Result},
    lease::Lease,
    name::RegistryName,
    secret::Secret,
};

/// The longest life of one token.
pub const MAX_TOKEN_TTL: crate::model::SignedDuration = crate::model::SignedDuration::from_mins(5);

/// Issues secrets for any number of registries, and exchanges them for tokens.
#[derive(Default)]
pub struct RegistryIssuer {}

/// What a registry's client asks for at the token endpoint.
pub struct Exchange<'a> {
    /// The secret, as presented.
    pub secret: &'a Secret,
    /// The registry's `service`; the client says it.
    pub service: &'a str,
    /// The scopes, as sent.
    pub scopes: &'a [String],
}

/// A token for a registry.
pub struct RegistryToken {
    /// The signed JWT.
    pub token: Secret,
    /// Its life in seconds.
    pub expires_in: u32,
    /// What it grants, one `repository:name:action,action` for each; the intersection of what was asked and what the lease has.
    pub granted: Vec<String>,
    /// The registry.
    pub registry: RegistryName,
}

impl RegistryIssuer {
    /// Exchanges a secret of a live lease for a token. Refuses with `Code::Unauthenticated` and one text, whatever is wrong.
    pub fn exchange(&self, _lease: &Lease, _asked: &Exchange<'_>, _now: Timestamp) -> Result<RegistryToken> {
        Err(Error::internal("not built yet"))
    }
}

#[async_trait]
impl Issuer for RegistryIssuer {
    async fn mint(&self, _order: &Order<'_>) -> Result<Minted, NotMinted> {
        Err(Error::internal("not built yet").into())
    }

    async fn remint(&self, _order: &Order<'_>, _lease: &Lease) -> Result<Again> {
        Ok(Again::Never)
    }
}
