//! A tenant: a team or a sub-processor, who its callers are, and until when.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Timestamp,
    claim::ClaimValue,
    identity::{PeerCertificate, VerifiedToken},
    name::{IssuerName, TenantName, TrustDomain},
};

/// What a tenant is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TenantKind {
    /// A team of our own.
    Team,
    /// An outside vendor; it must have an end date.
    SubProcessor,
}

/// Callers that belong to a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Member {
    /// Holders of certificates of a trust domain.
    Certificate {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// The identity, exactly, or ending in `/*` for any one further path segment.
        id: String,
    },
    /// Holders of an issuer's tokens.
    Token {
        /// The issuer.
        issuer: IssuerName,
        /// Claims that must all be present with exactly these values; at least one.
        claims: BTreeMap<String, ClaimValue>,
    },
}

impl Member {
    /// Whether a certificate's holder is this member.
    pub fn matches_certificate(&self, peer: &PeerCertificate) -> bool {
        self.is_certificate(&peer.trust_domain, &peer.id)
    }

    /// Whether the holder of any certificate of this identity is this member.
    pub fn is_certificate(&self, of: &TrustDomain, shown: &str) -> bool {
        match self {
            Self::Certificate { trust_domain, id } => trust_domain == of && matches_id(id, shown),
            Self::Token { .. } => false,
        }
    }

    /// Whether a token's holder is this member.
    pub fn matches_token(&self, token: &VerifiedToken) -> bool {
        match self {
            Self::Certificate { .. } => false,
            Self::Token { issuer, claims } => {
                *issuer == token.issuer && !claims.is_empty() && claims.iter().all(|(name, value)| token.claims.get(name) == Some(value))
            }
        }
    }
}

fn matches_id(pattern: &str, id: &str) -> bool {
    match pattern.strip_suffix("/*") {
        None => pattern == id,
        Some(parent) => id
            .strip_prefix(parent)
            .and_then(|rest| rest.strip_prefix('/'))
            .is_some_and(|segment| !segment.is_empty() && !segment.contains('/')),
    }
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its name.
    pub name: TenantName,
    /// What it is to us.
    pub kind: TenantKind,
    /// When its contract ends: nothing is vended from then on, and nothing lives past it.
    pub ends_at: Option<Timestamp>,
    /// Its callers.
    pub members: Vec<Member>,
    /// The most leases that may be live (pending, active or revoking) at once.
    pub max_live_leases: u32,
    /// The most leases of one caller that may be live at once.
    pub max_live_leases_per_caller: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_one_whole_segment() {
        assert!(matches_id("spiffe://a/x/*", "spiffe://a/x/y"));
        for other in ["spiffe://a/x", "spiffe://a/x/", "spiffe://a/x/y/z", "spiffe://a/xy/z", "spiffe://b/x/y"] {
            assert!(!matches_id("spiffe://a/x/*", other), "{other}");
        }
        assert!(!matches_id("spiffe://a/x", "spiffe://a/x/"));
    }
}
