//! What is wrong with the configuration of an issuer, all of it at once.

use std::collections::BTreeSet;

use super::{IssuerConfig, KeySource, fetch};
pub use crate::model::identity::MAX_LEEWAY;
use crate::model::{SignedDuration, claim::ClaimSpec};

/// The most of [`IssuerConfig::max_token_age`].
pub const MAX_MAX_TOKEN_AGE: SignedDuration = SignedDuration::from_hours(24);
/// The most of [`IssuerConfig::jwks_max_age`].
pub const MAX_JWKS_AGE: SignedDuration = SignedDuration::from_hours(7 * 24);
/// The most claims of one issuer.
pub const MAX_CLAIMS: usize = 64;

/// Words that a Cedar policy cannot use as an attribute's name.
const RESERVED: [&str; 10] = ["true", "false", "if", "then", "else", "in", "is", "like", "has", "__cedar"];

/// What makes a configuration unusable: texts for the operator, none when it is sound.
pub fn faults(config: &IssuerConfig) -> Vec<String> {
    let mut found = Vec::new();
    if let Err(fault) = fetch::check_url(&config.url, config.allow_private_network) {
        found.push(format!("url {:?} {fault}", config.url));
    }
    if config.audiences.is_empty() {
        found.push("audiences is empty: name the audience that jobs ask their tokens for, for example this service's URL".to_owned());
    }
    if config.audiences.iter().any(|audience| audience.is_empty() || audience.contains('*') || audience.chars().any(char::is_control)) {
        found.push("audiences holds one that is empty or has a '*' or a control character; an audience is compared exactly".to_owned());
    }
    if config.algorithms.is_empty() {
        found.push("algorithms is empty: name those that the issuer signs with, for example RS256".to_owned());
    }
    if matches!(&config.keys, KeySource::File(path) if path.as_os_str().is_empty()) {
        found.push("the path of the key file is empty".to_owned());
    }
    bounded(&mut found, "leeway", config.leeway, SignedDuration::ZERO, MAX_LEEWAY);
    bounded(&mut found, "max_token_age", config.max_token_age, SignedDuration::from_secs(1), MAX_MAX_TOKEN_AGE);
    bounded(&mut found, "jwks_max_age", config.jwks_max_age, SignedDuration::from_secs(1), MAX_JWKS_AGE);
    claim_faults(&mut found, &config.claims);
    if let Some(pem) = &config.ca_pem
        && let Err(fault) = fetch::roots(pem)
    {
        found.push(format!("ca_pem {fault}"));
    }
    found
}

/// What an operator should have a reason for: a provider's default audience, which tokens that were never meant for this
/// service carry too.
pub fn warnings(config: &IssuerConfig) -> Vec<String> {
    config
        .audiences
        .iter()
        .filter(|audience| is_default_audience(audience, &config.url))
        .map(|audience| {
            format!("the audience {audience:?} is the issuer's default, so tokens meant for other services carry it too; let jobs ask for one of this service's own")
        })
        .collect()
}

fn is_default_audience(audience: &str, url: &str) -> bool {
    // The instance's own URL (GitLab), the URL of the owner (GitHub) or the organisation (Buildkite), the API server
    // (Kubernetes), the organisation's id (CircleCI).
    let owner = |prefix| audience.strip_prefix(prefix).is_some_and(|owner: &str| !owner.is_empty() && !owner.contains('/'));
    audience.trim_end_matches('/') == url.trim_end_matches('/')
        || owner("https://github.com/")
        || owner("https://buildkite.com/")
        || audience.trim_start_matches("https://").starts_with("kubernetes.default.svc")
        || url.strip_prefix("https://oidc.circleci.com/org/").is_some_and(|org| org == audience)
}

fn bounded(found: &mut Vec<String>, name: &str, value: SignedDuration, least: SignedDuration, most: SignedDuration) {
    if value < least || value > most {
        found.push(format!("{name} is {value:#}; it must be between {least:#} and {most:#}"));
    }
}

fn claim_faults(found: &mut Vec<String>, claims: &[ClaimSpec]) {
    if claims.len() > MAX_CLAIMS {
        found.push(format!("there are {} claims; at most {MAX_CLAIMS} are taken", claims.len()));
    }
    let mut names = BTreeSet::new();
    for claim in claims {
        if !is_identifier(&claim.name) || RESERVED.contains(&claim.name.as_str()) {
            found.push(format!(
                "the claim name {:?} cannot stand in a policy: it must be [A-Za-z_][A-Za-z0-9_]* and no word of Cedar's own",
                claim.name
            ));
        }
        if !names.insert(&claim.name) {
            found.push(format!("the claim {:?} is configured twice", claim.name));
        }
        if claim.path.is_empty() || claim.path.iter().any(String::is_empty) {
            found.push(format!("the claim {:?} has an empty path: give the keys from the token's top to its place", claim.name));
        }
    }
}

fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= 64
        && bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
