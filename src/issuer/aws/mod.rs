//! AWS sessions: STS makes them, a policy at the IAM role denies what was revoked.

use async_trait::async_trait;

use super::{Again, DenyDesk, Issuer, Minted, NotMinted, Order, Reservation};
use crate::model::{
    Timestamp,
    error::{Error, Result},
    lease::Lease,
    revocation::{AwsDeny, RevokedSerial},
};

/// Issues AWS sessions by any number of ways into AWS.
#[derive(Default)]
pub struct AwsIssuer {}

#[async_trait]
impl Issuer for AwsIssuer {
    fn reserve(&self, _order: &Order<'_>) -> Result<Option<Reservation>> {
        Err(Error::internal("not built yet"))
    }

    async fn mint(&self, _order: &Order<'_>) -> Result<Minted, NotMinted> {
        Err(Error::internal("not built yet").into())
    }

    async fn remint(&self, _order: &Order<'_>, _lease: &Lease) -> Result<Again> {
        Ok(Again::Never)
    }
}

#[async_trait]
impl DenyDesk for AwsIssuer {
    fn lists(&self) -> Vec<AwsDeny> {
        Vec::new()
    }

    fn knows(&self, _list: &AwsDeny) -> bool {
        false
    }

    async fn publish(&self, _list: &AwsDeny, _revoked: &[RevokedSerial], _now: Timestamp) -> Result<()> {
        Err(Error::internal("not built yet"))
    }

    async fn agrees(&self, _list: &AwsDeny, _revoked: &[RevokedSerial], _now: Timestamp) -> Result<bool> {
        Ok(true)
    }

    fn settled_at(&self, _list: &AwsDeny, published_at: Timestamp) -> Timestamp {
        published_at
    }
}
