//! What is kept of a credential, to find it again.

use serde::{Deserialize, Serialize};

use super::stamp;
use crate::model::{
    Timestamp,
    name::{CaName, RegistryName},
    revocation::AwsDeny,
    role::RegistryAction,
};

/// A certificate that lives under a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveSerial {
    /// Its serial, lower-case hex, 2 to 40 characters.
    #[serde(rename = "s")]
    pub serial: String,
    /// When it expires.
    #[serde(rename = "e", with = "stamp::seconds")]
    pub not_after: Timestamp,
    /// The CA that issued it, where that is not the handle's: the lease was renewed when another one signed.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<CaName>,
}

/// What is kept to find a credential again: never the credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Handle {
    /// An X.509 lease.
    X509 {
        /// The CA that issued the newest certificate, by its own name: of a CA that rotates each key has one.
        ca: CaName,
        /// The certificates that live under it, oldest first, at most [`super::MAX_LIVE_SERIALS`], or
        /// [`super::MAX_LIVE_SERIALS_ENROLLED`].
        serials: Vec<LiveSerial>,
        /// The first 16 bytes of SHA-256 over what the newest certificate's signature covers (its TBSCertificate), lower-case
        /// hex: a retried request makes the same certificate again or is refused.
        tbs: String,
        /// The public key of the next certificate, given ahead by the holder: SubjectPublicKeyInfo (RFC 5280 section 4.1), DER in
        /// lower-case hex. A renewal uses it up.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next_key: Option<String>,
    },
    /// An AWS session, or what `docker login` takes by way of one.
    Aws {
        /// Where a revocation denies it; none where nothing can.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deny: Option<AwsDeny>,
        /// The IAM role.
        role_arn: String,
        /// The session's name.
        session: String,
        /// The newest session's access key id, which is no secret; none until AWS has answered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key_id: Option<String>,
    },
    /// Secrets that a registry's token endpoint takes.
    Registry {
        /// The registry.
        registry: RegistryName,
        /// Repositories, rendered when the lease was issued: exact, or with `*` for one segment.
        repositories: Vec<String>,
        /// What may be done there.
        actions: Vec<RegistryAction>,
        /// The secrets that live under it, oldest first, at most [`super::MAX_LIVE_SERIALS`].
        secrets: Vec<LiveSecret>,
    },
    /// A JWT.
    Jwt {
        /// Its `jti`.
        jti: String,
        /// Its `aud`.
        aud: String,
        /// The first 16 bytes of SHA-256 over its payload, lower-case hex: a retried request makes the same claims again or is refused.
        claims: String,
    },
}

/// A secret that lives under a lease, as far as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveSecret {
    /// SHA-256 over the secret, lower-case hex.
    #[serde(rename = "h")]
    pub sha256: String,
    /// When it ceases to be taken.
    #[serde(rename = "e", with = "stamp::seconds")]
    pub not_after: Timestamp,
}

impl Handle {
    /// What names the newest credential at the system that takes it: a serial, an access key id, a `jti`; empty where nothing does.
    pub fn credential_id(&self) -> &str {
        match self {
            Self::X509 { serials, .. } => serials.last().map_or("", |live| &live.serial),
            Self::Aws { key_id, .. } => key_id.as_deref().unwrap_or_default(),
            Self::Registry { .. } => "",
            Self::Jwt { jti, .. } => jti,
        }
    }
}
