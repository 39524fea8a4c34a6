//! What is handed out. Nothing of it is kept.

use serde::{Deserialize, Serialize};

use super::{Timestamp, secret::Secret};

/// The kind of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CredentialKind {
    /// An X.509 certificate.
    X509,
    /// An AWS session.
    Aws,
    /// What `docker login` at Amazon ECR takes, by way of an AWS session.
    Ecr,
    /// What a container registry's token endpoint here takes.
    Registry,
    /// A signed JWT.
    Jwt,
}

impl CredentialKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::X509, Self::Aws, Self::Ecr, Self::Registry, Self::Jwt];

    /// Its name in configuration, JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::Aws => "aws",
            Self::Ecr => "ecr",
            Self::Registry => "registry",
            Self::Jwt => "jwt",
        }
    }
}

/// A credential on its way to its holder.
pub enum Credential {
    /// An X.509 certificate.
    X509(X509Credential),
    /// An AWS session.
    Aws(AwsCredential),
    /// What `docker login` takes: at Amazon ECR, or at a registry that trusts our token endpoint.
    Registry(RegistryCredential),
    /// A signed JWT.
    Jwt(JwtCredential),
}

impl Credential {
    /// Whether a repeated request gets the very same one. The others hold a secret, which nobody keeps.
    pub fn can_be_made_again(&self) -> bool {
        match self {
            Self::X509(_) | Self::Jwt(_) => true,
            Self::Aws(_) | Self::Registry(_) => false,
        }
    }
}

/// An AWS session.
pub struct AwsCredential {
    /// The access key's id; not secret.
    pub access_key_id: String,
    /// The secret access key.
    pub secret_access_key: Secret,
    /// The session token.
    pub session_token: Secret,
    /// When the session ends, in whole seconds.
    pub expires_at: Timestamp,
    /// The region that the holder should use.
    pub region: String,
}

/// What `docker login` takes.
pub struct RegistryCredential {
    /// The registry, as an image reference names it: `host[:port]`.
    pub registry: String,
    /// The user name.
    pub username: String,
    /// The password.
    pub secret: Secret,
    /// When it ceases to be taken, in whole seconds.
    pub expires_at: Timestamp,
}

/// A signed JWT.
pub struct JwtCredential {
    /// The token, in compact form (RFC 7519 section 3).
    pub token: Secret,
    /// Its `exp`, in whole seconds.
    pub expires_at: Timestamp,
}

/// A certificate with what is needed to present and to verify it. None of it is secret: the key stays with the holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509Credential {
    /// The leaf first, then intermediates, each DER; the root is not among them.
    pub chain_der: Vec<Vec<u8>>,
    /// The roots to trust, each DER.
    pub root_der: Vec<Vec<u8>>,
    /// When the leaf begins to be valid.
    pub not_before: Timestamp,
    /// When the leaf ceases to be valid.
    pub not_after: Timestamp,
}
