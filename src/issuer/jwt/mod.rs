//! JWTs, and the keys that sign them: published before they sign, kept until the last token under them is dead.

use async_trait::async_trait;

use super::{Again, Issuer, Minted, NotMinted, Order};
use crate::model::{
    Timestamp,
    error::{Error, Result},
    lease::Lease,
};

/// Issues JWTs.
#[derive(Default)]
pub struct JwtIssuer {}

/// A document that relying parties fetch.
pub struct Document {
    /// JSON.
    pub body: String,
    /// Changes when the body does; without quotes.
    pub etag: String,
    /// How long a cache may keep it, in seconds.
    pub max_age: u32,
}

impl JwtIssuer {
    /// `/.well-known/openid-configuration` (OpenID Connect Discovery 1.0, section 4); none when this service signs no JWTs.
    pub fn discovery(&self) -> Option<Document> {
        None
    }

    /// `/jwks.json` (RFC 7517, section 5); none when this service signs no JWTs.
    pub fn jwks(&self, _now: Timestamp) -> Option<Document> {
        None
    }
}

#[async_trait]
impl Issuer for JwtIssuer {
    async fn mint(&self, _order: &Order<'_>) -> Result<Minted, NotMinted> {
        Err(Error::internal("not built yet").into())
    }

    async fn remint(&self, _order: &Order<'_>, _lease: &Lease) -> Result<Again> {
        Err(Error::internal("not built yet"))
    }
}
