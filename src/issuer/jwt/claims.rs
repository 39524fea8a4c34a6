//! What a token says: a role over an identity becomes one text of JSON, the same whenever it is made again.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;

use super::maker::MAX_TOKEN_LIFE;
use crate::model::{
    SignedDuration, Timestamp,
    error::{Code, Error, Result},
    hex,
    identity::Identity,
    lease::LeaseId,
    request::MAX_AUDIENCE,
    role::{JwtRole, Role},
    spiffe::SpiffeId,
    template::{Place, Template},
};

/// The most audiences of a role.
pub const MAX_AUDIENCES: usize = 32;

/// The most claims that a role adds.
pub const MAX_CLAIMS: usize = 32;

/// The longest name of a claim, in bytes.
pub const MAX_CLAIM_NAME: usize = 128;

/// The longest `sub` that is no SPIFFE ID, in bytes (OpenID Connect Core 1.0 section 2).
pub const MAX_SUB: usize = 255;

/// How far `nbf` lies before `iat`: a relying party whose clock is behind takes the token all the same.
pub const BACKDATE: SignedDuration = SignedDuration::from_secs(30);

/// Claims that this service writes, and those by which a relying party decides more than who the holder is (RFC 7519 section 4.1; OpenID
/// Connect Core 1.0 sections 2, 3.1.3.6 and 3.3.2.11; RFC 7800 section 3.1; RFC 8693 section 4; RFC 8417 section 2.2).
pub const RESERVED: [&str; 20] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "azp",
    "nonce",
    "auth_time",
    "acr",
    "amr",
    "at_hash",
    "c_hash",
    "cnf",
    "act",
    "may_act",
    "scope",
    "client_id",
    "events",
];

/// Where the names of claims begin by which AWS takes a session's tags, its source identity and its role ("Pass session tags in AWS STS", IAM
/// user guide): a token that says them says what its holder may do there.
pub const RESERVED_PREFIX: &str = "https://aws.amazon.com/";

/// What `claims_supported` names besides what roles add.
pub(super) const ALWAYS: [&str; 7] = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"];

/// What of a token does not follow from its role and holder.
pub(super) struct Facts<'a> {
    pub issuer: &'a str,
    pub audience: &'a str,
    pub jti: &'a str,
    pub lease: LeaseId,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
}

/// The payload, as JSON with its members in the order of their names.
pub(super) fn payload(role: &Role, spec: &JwtRole, identity: &Identity, facts: &Facts<'_>) -> Result<String> {
    let subject = subject(&spec.subject, role, identity)?;
    let iat = facts.issued_at.as_second();
    let mut members: BTreeMap<&str, Value> = BTreeMap::from([
        ("iss", facts.issuer.into()),
        ("sub", subject.into()),
        ("aud", facts.audience.into()),
        ("jti", facts.jti.into()),
        ("iat", iat.into()),
        ("nbf", iat.saturating_sub(BACKDATE.as_secs()).into()),
        ("exp", facts.expires_at.as_second().into()),
    ]);
    for (name, template) in &spec.claims {
        let value = template.render_with_lease(Place::ClaimText, identity, &role.name, facts.lease)?;
        // A role with such a name does not load.
        if members.insert(name, value.into()).is_some() {
            return Err(Error::internal(format_args!("the role {} overwrites the claim {name}", role.name)));
        }
    }
    serde_json::to_string(&members).map_err(Error::internal)
}

/// The first 16 bytes of SHA-256 over a payload, lower-case hex: what `Handle::Jwt` keeps of it.
pub(super) fn fingerprint(payload: &str) -> String {
    hex::encode(&digest(&SHA256, payload.as_bytes()).as_ref()[..16])
}

fn subject(template: &Template, role: &Role, identity: &Identity) -> Result<String> {
    let refuse = |why: String| Err(Error::new(Code::ClaimNotUsable, format!("the role {} gives you no usable sub: {why}", role.name)));
    if is_spiffe(template) {
        let subject = template.render(Place::UriSegment, identity, &role.name)?;
        return match subject.parse::<SpiffeId>() {
            Ok(_) => Ok(subject),
            Err(why) => refuse(why.to_string()),
        };
    }
    let subject = template.render(Place::ClaimText, identity, &role.name)?;
    if subject.len() > MAX_SUB {
        return refuse(format!("it is longer than {MAX_SUB} bytes"));
    }
    // Whoever reads SPIFFE IDs would take it for one, and its trust domain would be the caller's choice.
    if subject.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:")) {
        return refuse("a claim's value makes a SPIFFE ID of it".to_owned());
    }
    Ok(subject)
}

/// Where the values of a role's `sub` stand: a JWT-SVID's is a SPIFFE ID (JWT-SVID section 3.1).
pub fn subject_place(source: &str) -> Place {
    if source.starts_with("spiffe://") { Place::UriSegment } else { Place::ClaimText }
}

fn is_spiffe(template: &Template) -> bool {
    subject_place(template.source()) == Place::UriSegment
}

/// What is wrong with a role of this kind, found at load and not at the first request.
pub fn role_faults(max_ttl: SignedDuration, spec: &JwtRole) -> Vec<String> {
    let mut faults = Vec::new();
    if max_ttl > MAX_TOKEN_LIFE {
        faults.push(format!(
            "max_ttl of a JWT is at most {MAX_TOKEN_LIFE:#}: nothing but its expiry ends it (renewals may go on until max_life)"
        ));
    }
    audience_faults(&spec.audiences, &mut faults);
    subject_faults(&spec.subject, &mut faults);
    if spec.claims.len() > MAX_CLAIMS {
        faults.push(format!("there are {} claims; at most {MAX_CLAIMS} are taken", spec.claims.len()));
    }
    for (name, template) in &spec.claims {
        let legal = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
        if RESERVED.contains(&name.as_str())
            || name.get(..RESERVED_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(RESERVED_PREFIX))
        {
            faults.push(format!("claims: {name} is reserved: this service writes it, or relying parties decide by it"));
        } else if name.is_empty() || name.len() > MAX_CLAIM_NAME || !name.bytes().all(legal) {
            faults.push(format!("claims: {name:?} is not 1 to {MAX_CLAIM_NAME} printable ASCII characters without quotes and backslash"));
        }
        if let Some(why) = literal_fault(template) {
            faults.push(format!("claims: {name}: {why}"));
        }
    }
    faults
}

fn audience_faults(audiences: &[String], faults: &mut Vec<String>) {
    if audiences.is_empty() || audiences.len() > MAX_AUDIENCES {
        faults.push(format!("audiences: name 1 to {MAX_AUDIENCES}"));
    }
    for (at, audience) in audiences.iter().enumerate() {
        if audience.is_empty() || audience.len() > MAX_AUDIENCE || !audience.bytes().all(|byte| byte.is_ascii_graphic()) {
            faults.push(format!("audiences: {audience:?} is not 1 to {MAX_AUDIENCE} printable ASCII characters without spaces"));
        }
        if audiences[..at].contains(audience) {
            faults.push(format!("audiences: {audience:?} stands there twice"));
        }
    }
}

fn subject_faults(subject: &Template, faults: &mut Vec<String>) {
    if subject.names_lease() {
        faults.push("subject: {lease} cannot stand in it: a sub says who the holder is, and stays the same from lease to lease".to_owned());
    }
    if let Some(why) = literal_fault(subject) {
        faults.push(format!("subject: {why}"));
    }
    let source = subject.source();
    if !is_spiffe(subject) {
        if source.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:")) {
            faults.push(format!("subject: {source:?} is no SPIFFE ID: it starts with spiffe://, in lower case"));
        }
        return;
    }
    let domain = source["spiffe://".len()..].split('/').next().unwrap_or_default();
    if domain.contains(['{', '}']) {
        faults.push("subject: no placeholder may choose the trust domain; write it out".to_owned());
    }
    match subject.sample().parse::<SpiffeId>() {
        Ok(id) if id.path.is_empty() => faults.push("subject: the SPIFFE ID of a workload has a path".to_owned()),
        Ok(_) => {}
        Err(why) => faults.push(format!("subject: it is no SPIFFE ID: {why}")),
    }
}

/// What stands between placeholders is bound like what stands in their places.
fn literal_fault(template: &Template) -> Option<&'static str> {
    let sample = template.sample();
    if sample.is_empty() {
        return Some("it is empty");
    }
    let printable = sample.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    (!printable).then_some("it holds more than printable ASCII")
}
