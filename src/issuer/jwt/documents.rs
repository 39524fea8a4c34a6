//! The two documents that relying parties fetch.
//!
//! A key says `use: sig`. That is what OIDC relying parties want (AWS, Google Cloud, Kubernetes, and the libraries that pick a key by
//! `use`); SPIFFE's own bundle format (SPIFFE Trust Domain and Bundle, section 4.2.2) wants `jwt-svid` there and is another document.
//! SPIRE's OIDC discovery provider makes the same choice, and verifiers of JWT-SVIDs that go by discovery take these keys.

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::json;

use super::{SigningAlgorithm, claims::ALWAYS, maker::JwtKeys};
use crate::model::{SignedDuration, Timestamp, hex};

/// A document that relying parties fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The path of its URL. A server serves it under the same name without the issuer's own path, too.
    pub path: String,
    /// JSON.
    pub body: String,
    /// Changes when the body does; without quotes.
    pub etag: String,
    /// How long a cache may keep it, in seconds.
    pub max_age: u32,
}

/// Where discovery stands under an issuer (OpenID Connect Discovery 1.0 section 4).
pub(super) const DISCOVERY: &str = "/.well-known/openid-configuration";

/// Where the key set stands.
pub(super) const JWKS: &str = "/jwks.json";

/// OpenID Connect Discovery 1.0 section 3, as far as it applies to who signs tokens and does not log anybody in.
pub(super) fn discovery(issuer: &str, path: &str, ring: &JwtKeys, claims: &[String]) -> Document {
    let supported: Vec<&str> = ALWAYS.into_iter().chain(claims.iter().map(String::as_str)).collect();
    let algorithms: Vec<&str> = algorithms(ring).into_iter().map(SigningAlgorithm::as_str).collect();
    let body = json!({
        "issuer": issuer,
        "jwks_uri": format!("{issuer}{JWKS}"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": algorithms,
        "scopes_supported": ["openid"],
        "claims_supported": supported,
    });
    document(format!("{path}{DISCOVERY}"), body.to_string(), ring.schedule().stale_after())
}

/// RFC 7517 section 5.
pub(super) fn jwks(path: &str, ring: &JwtKeys, now: Timestamp) -> Document {
    let published = ring.published(now);
    let keys: Vec<_> = published.keys.iter().map(|key| key.held.key.jwk()).collect();
    document(format!("{path}{JWKS}"), json!({ "keys": keys }).to_string(), published.sure_for)
}

/// What the keys and the next ones sign with.
fn algorithms(ring: &JwtKeys) -> Vec<SigningAlgorithm> {
    let mut algorithms: Vec<_> = ring.held().iter().map(|held| held.key.algorithm()).collect();
    algorithms.push(ring.maker().algorithm);
    algorithms.sort_unstable();
    algorithms.dedup();
    algorithms
}

fn document(path: String, body: String, max_age: SignedDuration) -> Document {
    let etag = hex::encode(&digest(&SHA256, body.as_bytes()).as_ref()[..16]);
    Document { path, body, etag, max_age: u32::try_from(max_age.as_secs()).unwrap_or(0) }
}
