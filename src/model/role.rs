//! A role: what can be had under one name, and within which bounds.

use serde::{Deserialize, Serialize};

use super::{
    SignedDuration,
    credential::CredentialKind,
    name::{CaName, RoleName, TenantName},
    template::Template,
};

/// The longest life that a role may give, through all renewals.
pub const MAX_LIFE: SignedDuration = SignedDuration::from_hours(24 * 90);

/// Whose a role is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleOwner {
    /// Callers of this tenant only, whatever the policy says.
    Tenant(TenantName),
    /// Callers of any tenant that the policy permits.
    Shared,
}

/// A role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Its name.
    pub name: RoleName,
    /// Whose it is.
    pub owner: RoleOwner,
    /// The life of a credential when the caller does not say; at most `max_ttl`.
    pub default_ttl: SignedDuration,
    /// The longest life of one credential.
    pub max_ttl: SignedDuration,
    /// The longest life of a lease from its issue on, through all renewals; at least `max_ttl`.
    /// When it equals `max_ttl` the role's leases can only be renewed up to there.
    pub max_life: SignedDuration,
    /// What kind of credential it vends, and what that says.
    pub spec: RoleSpec,
}

impl Role {
    /// The kind of credential that it vends.
    pub fn kind(&self) -> CredentialKind {
        match self.spec {
            RoleSpec::X509(_) => CredentialKind::X509,
        }
    }
}

/// What a role's credential says, by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleSpec {
    /// An X.509 certificate.
    X509(X509Role),
}

/// What an X.509 certificate says. Everything comes from here; a CSR gives a public key and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509Role {
    /// The issuing CA.
    pub ca: CaName,
    /// The subject's common name; absent means an empty subject (and a critical SAN, RFC 5280 section 4.2.1.6).
    pub common_name: Option<Template>,
    /// URI SANs.
    pub uri_sans: Vec<Template>,
    /// DNS SANs.
    pub dns_sans: Vec<Template>,
    /// IP SANs, as text of an address.
    pub ip_sans: Vec<std::net::IpAddr>,
    /// Extended key usages; at least one.
    pub ext_key_usage: Vec<ExtKeyUsage>,
    /// The public keys that are taken; at least one.
    pub key_types: Vec<KeyType>,
}

/// An extended key usage (RFC 5280 section 4.2.1.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExtKeyUsage {
    /// TLS server authentication.
    ServerAuth,
    /// TLS client authentication.
    ClientAuth,
}

/// A type of public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum KeyType {
    /// ECDSA on P-256.
    #[serde(rename = "p256")]
    P256,
    /// ECDSA on P-384.
    #[serde(rename = "p384")]
    P384,
    /// Ed25519.
    #[serde(rename = "ed25519")]
    Ed25519,
    /// RSA of 2048 to 4096 bits.
    #[serde(rename = "rsa")]
    Rsa,
}
