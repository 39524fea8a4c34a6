//! Issuers: one folder for each kind of credential. An issuer knows no store, no audit log, no gRPC, no other issuer.

/// X.509 certificates.
pub mod x509;

use async_trait::async_trait;

use crate::{
    model::{
        Timestamp,
        credential::Credential,
        error::Error,
        lease::{Handle, Lease, Reach},
        request::Input,
    },
    policy::Grant,
};

/// What an issuer made: the credential on its way out, and what is kept of it.
pub struct Minted {
    /// The credential.
    pub credential: Credential,
    /// How to find it again; for a renewal it holds the serials that still live beside the new one.
    pub handle: Handle,
    /// When it expires: never after the grant's `expires_at`.
    pub expires_at: Timestamp,
    /// How far a revocation will reach.
    pub reach: Reach,
}

/// Makes credentials of one kind.
#[async_trait]
pub trait Issuer: Send + Sync {
    /// Checks an input before anything is decided or stored: cheap, and its refusal is the caller's to mend.
    fn check(&self, input: &Input) -> Result<(), Error>;

    /// Makes a credential for a grant. `earlier` is the handle of the lease that is being renewed.
    async fn mint(&self, grant: &Grant, input: &Input, earlier: Option<&Handle>, now: Timestamp) -> Result<Minted, Error>;

    /// Makes the credential of a stored lease again for a retried request, or refuses with `Code::RequestIdReused` when
    /// the request or the role is not the same any more.
    async fn remint(&self, grant: &Grant, input: &Input, lease: &Lease, now: Timestamp) -> Result<Credential, Error>;
}
