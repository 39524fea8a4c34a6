//! Tokens of configured OIDC issuers.
//!
//! | file | what it does |
//! |---|---|
//! | here | the configuration of an issuer |
//! | `preset` | what is known of GitHub, GitLab, Kubernetes, Buildkite and CircleCI |
//! | `faults` | what is wrong with a configuration |
//! | `json`, `jose` | strict parsers of what a stranger sends |
//! | `claims` | what a token must say |
//! | `verify` | the walk of a token from text to [`crate::model::identity::VerifiedToken`] |
//! | `svid` | JWT-SVIDs, verified with a trust bundle |
//! | `keys`, `cache`, `fetch` | an issuer's keys: parsed, kept, fetched |

mod cache;
mod claims;
mod faults;
mod fetch;
mod jose;
mod json;
mod keys;
mod preset;
mod svid;
mod verify;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use cache::{FETCHES_PER_MINUTE, FILE_CHECK_INTERVAL, REFRESH_AFTER};
pub use claims::{MAX_AUDIENCES, MAX_JTI, MAX_SUB, MAX_TOKEN_LIFE};
pub use faults::{MAX_CLAIMS, MAX_JWKS_AGE, MAX_LEEWAY, MAX_MAX_TOKEN_AGE, faults, warnings};
pub use fetch::{FETCH_TIMEOUT, MAX_BODY};
pub use jose::{MAX_KID, MAX_TOKEN};
pub use json::{MAX_DEPTH, MAX_MEMBERS, MAX_NODES};
pub use keys::{MAX_KEYS, MIN_RSA_BITS};
pub use preset::{PRESETS, Preset, preset};
pub use svid::{JwtSvid, SVID_LEEWAY, verify_svid};
pub use verify::TokenVerifier;

use crate::model::{SignedDuration, claim::ClaimSpec, identity::TokenUse, name::IssuerName};

/// The default of [`IssuerConfig::max_token_age`].
pub const DEFAULT_MAX_TOKEN_AGE: SignedDuration = SignedDuration::from_hours(1);
/// The default of [`IssuerConfig::leeway`].
pub const DEFAULT_LEEWAY: SignedDuration = SignedDuration::from_secs(10);
/// The default of [`IssuerConfig::jwks_max_age`].
pub const DEFAULT_JWKS_MAX_AGE: SignedDuration = SignedDuration::from_hours(24);

/// A signature algorithm that a token may have (RFC 7518 section 3.1, RFC 8037 section 3.1). HMAC and `none` are not
/// among them, so they cannot be configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    #[serde(rename = "RS384")]
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    #[serde(rename = "RS512")]
    Rs512,
    /// RSASSA-PSS with SHA-256.
    #[serde(rename = "PS256")]
    Ps256,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// ECDSA on P-384 with SHA-384.
    #[serde(rename = "ES384")]
    Es384,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 7] = [Self::Rs256, Self::Rs384, Self::Rs512, Self::Ps256, Self::Es256, Self::Es384, Self::EdDsa];

    /// Its `alg`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm of an `alg`, exactly as the standard writes it.
    pub fn of(alg: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == alg)
    }
}

/// Where an issuer's keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// OIDC Discovery 1.0: `<url>/.well-known/openid-configuration`, then its `jwks_uri`.
    Discovery,
    /// A file that holds a JWK Set (RFC 7517 section 5); read again when it changes.
    File(PathBuf),
}

/// One issuer whose tokens are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerConfig {
    /// Its name here; it is part of every subject, so it must never be reused for another issuer.
    pub name: IssuerName,
    /// The exact `iss` of its tokens, and the base of its discovery.
    pub url: String,
    /// The audiences that are ours; at least one. Each is compared exactly.
    pub audiences: Vec<String>,
    /// The claims that policies and templates may use.
    pub claims: Vec<ClaimSpec>,
    /// The algorithms that its tokens may have; at least one.
    pub algorithms: Vec<Algorithm>,
    /// Where its keys come from.
    pub keys: KeySource,
    /// How often one token may be used.
    pub token_use: TokenUse,
    /// Whether a token without `jti` is refused.
    pub jti_required: bool,
    /// A token whose `iat` is longer ago is refused, whatever its `exp`. Up to [`MAX_MAX_TOKEN_AGE`].
    pub max_token_age: SignedDuration,
    /// How far clocks may differ, for `exp`, `nbf` and `iat`. Up to [`MAX_LEEWAY`].
    pub leeway: SignedDuration,
    /// While the issuer is down its keys serve until they are this old. Up to [`MAX_JWKS_AGE`].
    pub jwks_max_age: SignedDuration,
    /// Whether its host may have a private, loopback or link-local address (and plain http on loopback).
    pub allow_private_network: bool,
    /// The CAs that its TLS must chain to, PEM, in place of the system's.
    pub ca_pem: Option<Vec<u8>>,
}

impl IssuerConfig {
    /// An issuer found by discovery, with the default bounds and no claims but the registered ones.
    pub fn new(name: IssuerName, url: impl Into<String>, audiences: Vec<String>, algorithms: Vec<Algorithm>) -> Self {
        Self {
            name,
            url: url.into(),
            audiences,
            claims: Vec::new(),
            algorithms,
            keys: KeySource::Discovery,
            token_use: TokenUse::OncePerRole,
            jti_required: false,
            max_token_age: DEFAULT_MAX_TOKEN_AGE,
            leeway: DEFAULT_LEEWAY,
            jwks_max_age: DEFAULT_JWKS_MAX_AGE,
            allow_private_network: false,
            ca_pem: None,
        }
    }
}
