//! Issuers: one folder for each kind of credential. An issuer knows no store, no audit log, no gRPC, no other issuer.

/// AWS sessions, and by way of them what `docker login` at Amazon ECR takes.
pub mod aws;
/// JWTs.
pub mod jwt;
/// What container registries take.
pub mod registry;
/// X.509 certificates.
pub mod x509;

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    keys::Ring,
    model::{
        Timestamp,
        credential::Credential,
        error::{Error, Result},
        lease::{Handle, Lease, LeaseId, Reach},
        request::Input,
        revocation::{AwsDeny, RevokedSerial},
        role::RoleSpec,
    },
    policy::Grant,
};

/// What is to be made, and for whom.
#[derive(Clone, Copy)]
pub struct Order<'a> {
    /// The permission.
    pub grant: &'a Grant,
    /// The lease under which it will be.
    pub lease: LeaseId,
    /// What the caller sent for the kind of the role.
    pub input: &'a Input,
    /// Which credential of the lease it will be, from 1.
    pub generation: u32,
    /// The handle of the lease when it is being renewed.
    pub earlier: Option<&'a Handle>,
    /// When the lease was or is being issued, or renewed.
    pub now: Timestamp,
}

/// What must be on record before a remote system is asked, so that a crash in between leaves nothing untracked.
pub struct Reservation {
    /// How what may be made will be found.
    pub handle: Handle,
    /// It will not expire later than this.
    pub expires_at: Timestamp,
    /// How far a revocation will reach.
    pub reach: Reach,
}

/// What an issuer made: the credential on its way out, and what is kept of it.
pub struct Minted {
    /// The credential.
    pub credential: Credential,
    /// How to find it again; for a renewal it holds what still lives beside the new one.
    pub handle: Handle,
    /// When it expires: never after the grant's `expires_at`, but for the seconds that a remote system's answer takes
    /// (see [`Reservation::expires_at`]).
    pub expires_at: Timestamp,
    /// How far a revocation will reach.
    pub reach: Reach,
}

/// Why nothing was handed over.
#[derive(Debug)]
pub struct NotMinted {
    /// For the caller and the log.
    pub error: Error,
    /// Whether a remote system may have made something all the same: no answer came, or none that could be read.
    pub maybe_made: bool,
}

/// An error of what is made in this process.
impl From<Error> for NotMinted {
    fn from(error: Error) -> Self {
        Self { error, maybe_made: false }
    }
}

/// What a retried request gets.
pub enum Again {
    /// The same credential.
    Same(Credential),
    /// Nobody can make it again, because no secret is kept: the lease is to be closed, and another one takes its place.
    Never,
}

/// Makes credentials of one kind.
#[async_trait]
pub trait Issuer: Send + Sync {
    /// What to put on record before [`Issuer::mint`]; none where nothing is made outside this process. Refuses all that can be
    /// refused without asking.
    fn reserve(&self, order: &Order<'_>) -> Result<Option<Reservation>> {
        let _made_here = order;
        Ok(None)
    }

    /// Makes a credential.
    async fn mint(&self, order: &Order<'_>) -> Result<Minted, NotMinted>;

    /// Makes the credential of a stored lease again for a retried request, or refuses with `Code::RequestIdReused` when
    /// the request or the role is not the same any more.
    async fn remint(&self, order: &Order<'_>, lease: &Lease) -> Result<Again>;
}

/// Makes a remote system refuse what was revoked. Its work is idempotent: it states the whole list each time.
#[async_trait]
pub trait DenyDesk: Send + Sync {
    /// The policies that roles of the configuration name.
    fn lists(&self) -> Vec<AwsDeny>;

    /// Whether a policy can be written here: its way into AWS is configured.
    fn knows(&self, list: &AwsDeny) -> bool;

    /// Makes the policy deny exactly what is on the list; removes it when the list is empty. Once this returned, the remote system has
    /// acknowledged the change; [`DenyDesk::settled_at`] says when it holds everywhere.
    async fn publish(&self, list: &AwsDeny, revoked: &[RevokedSerial], now: Timestamp) -> Result<()>;

    /// Whether the policy says now what the list says: for the pass that mends what another hand changed.
    async fn agrees(&self, list: &AwsDeny, revoked: &[RevokedSerial], now: Timestamp) -> Result<bool>;

    /// How many entries of a list the policy can name; none where it names none.
    fn room(&self, list: &AwsDeny) -> Option<usize>;

    /// When a change that was acknowledged at `published_at` holds everywhere.
    fn settled_at(&self, list: &AwsDeny, published_at: Timestamp) -> Timestamp;
}

/// Signs JWTs as this service, for issuers that need one on the way to something else.
pub trait TokenSigner: Send + Sync {
    /// The `iss` of its tokens.
    fn issuer(&self) -> &str;

    /// A signed JWT in compact form, over `claims`, to which `iss` is added.
    fn sign(&self, claims: serde_json::Map<String, serde_json::Value>, now: Timestamp) -> Result<crate::model::secret::Secret>;
}

/// Certifies keys that sign registry tokens.
pub trait KeyCertifier: Send + Sync {
    /// A certificate over a P-256 public key (SubjectPublicKeyInfo, DER): the leaf, then what lies between it and the root, each DER.
    fn certify(&self, public_key: &[u8], not_before: Timestamp, not_after: Timestamp) -> Result<Vec<Vec<u8>>>;

    /// When the CA ends.
    fn not_after(&self) -> Timestamp;
}

/// An issuer whose credentials are made by a remote system, and denied there.
pub trait RemoteIssuer: Issuer + DenyDesk {}

impl<T: Issuer + DenyDesk> RemoteIssuer for T {}

/// The issuers of a configuration.
#[derive(Clone)]
pub struct Issuers {
    /// X.509 certificates.
    pub x509: Arc<x509::X509Issuer>,
    /// AWS sessions. A port, so that tests can put a fault before and behind each call.
    pub aws: Arc<dyn RemoteIssuer>,
    /// What registries take.
    pub registry: Arc<registry::RegistryIssuer>,
    /// JWTs.
    pub jwt: Arc<jwt::JwtIssuer>,
}

impl Issuers {
    /// X.509 alone.
    pub fn only_x509(x509: x509::X509Issuer) -> Self {
        Self {
            x509: Arc::new(x509),
            aws: Arc::new(aws::AwsIssuer::default()),
            registry: Arc::new(registry::RegistryIssuer::default()),
            jwt: Arc::new(jwt::JwtIssuer::default()),
        }
    }

    /// The rings of keys that they sign with.
    pub fn rings(&self) -> Vec<Arc<dyn Ring>> {
        let jwt = self.jwt.ring().map(|ring| ring.clone() as Arc<dyn Ring>);
        let cas = self.x509.cas().rings().map(|(_, ring)| ring.clone() as Arc<dyn Ring>);
        cas.chain(jwt).collect()
    }

    /// Gives these rings, which have looked at no shelf yet, the keys that `before` has in memory: a reload does not have to wait for the
    /// store.
    pub fn take_over_rings(&self, before: &Self) {
        if let (Some(ring), Some(before)) = (self.jwt.ring(), before.jwt.ring()) {
            ring.take_over(before);
        }
        for (name, ring) in self.x509.cas().rings() {
            if let Some(x509::Ca::Rotating(before)) = before.x509.cas().get(name) {
                ring.take_over(before);
            }
        }
    }

    /// The issuer of a role's kind.
    pub fn of(&self, spec: &RoleSpec) -> &dyn Issuer {
        match spec {
            RoleSpec::X509(_) => &*self.x509,
            RoleSpec::Aws(_) | RoleSpec::Ecr(_) => &*self.aws,
            RoleSpec::Registry(_) => &*self.registry,
            RoleSpec::Jwt(_) => &*self.jwt,
        }
    }
}
