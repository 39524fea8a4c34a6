//! What is handed out. Nothing of it is kept.

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// The kind of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CredentialKind {
    /// An X.509 certificate.
    X509,
}

impl CredentialKind {
    /// Its name in configuration, JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X509 => "x509",
        }
    }
}

/// A credential on its way to its holder.
pub enum Credential {
    /// An X.509 certificate.
    X509(X509Credential),
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
