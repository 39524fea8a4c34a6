//! Under which conditions a new lease may be stored: caps, the use of a token, a request that comes again.

use aws_lc_rs::digest::{Context, SHA256};

use crate::{
    model::{
        Timestamp,
        error::{Code, Error},
        identity::{Identity, MAX_LEEWAY, Proof, TokenUse},
        lease::Lease,
        name::RoleName,
        request::{IssueRequest, RequestId},
    },
    policy::Grant,
    store::{NewLease, Put, TokenUseKey},
};

/// A lease with the conditions of its request.
pub(super) fn conditions(grant: &Grant, lease: Lease, request: &IssueRequest) -> NewLease {
    let identity = grant.identity();
    NewLease {
        request_key: request.request_id.as_ref().map(|id| request_key(identity, id)),
        token_use: token_use_by(identity, request),
        tenant_cap: grant.tenant().max_live_leases,
        caller_cap: grant.tenant().max_live_leases_per_caller,
        lease,
    }
}

/// The use of the caller's token, or code, by a request.
pub(super) fn token_use_by(identity: &Identity, request: &IssueRequest) -> Option<TokenUseKey> {
    // The id alone would let the token serve again, for any key, once the lease that it gave has ended. That of an enrolment is the key.
    let input = if identity.enrolled().is_some() { &[] } else { request.input.bytes() };
    let same = request.request_id.as_ref().map(|id| digest([b"issue", id.as_str().as_bytes(), input]));
    token_use(identity, &request.role, same.as_ref().map(<[u8; 16]>::as_slice))
}

/// The use of the caller's token for a role, when its issuer's tokens are not free to be used again. `same` is what makes a request
/// the same one, so that a retry after a failure is no replay.
pub(in crate::vend) fn token_use(identity: &Identity, role: &RoleName, same: Option<&[u8]>) -> Option<TokenUseKey> {
    let key = match &identity.proof {
        Proof::Certificate(_) => return None,
        Proof::Token { token, .. } => match token.token_use {
            TokenUse::Any => return None,
            TokenUse::Once => token.token_id,
            TokenUse::OncePerRole => digest([b"token-use", &token.token_id[..], role.as_str().as_bytes()]),
        },
        Proof::Enrollment(enrolled) => enrolled.token_id,
    };
    let retry = same.map(|same| digest([b"token-retry", &key, same]));
    // Past its expiry and the largest leeway that an issuer may be configured with, no verifier takes the token any more.
    let until = identity.expires_at().checked_add(MAX_LEEWAY).unwrap_or(Timestamp::MAX);
    Some(TokenUseKey { key, retry, until })
}

/// The mark of the nth replacement of a request's answer, kept among the uses of tokens.
pub(super) fn replacement(identity: &Identity, id: &RequestId, nth: u8, until: Timestamp) -> TokenUseKey {
    TokenUseKey { key: digest([b"replacement", &request_key(identity, id), &[nth]]), retry: None, until }
}

/// The mark of the nth time that what a code gave was given again, kept among the uses of tokens.
pub(super) fn repeat(code: &TokenUseKey, nth: u8) -> TokenUseKey {
    TokenUseKey { key: digest([b"enrollment-repeat", &code.key, &[nth]]), retry: None, until: code.until }
}

/// The same for the same caller and request id only; lengths go in first so that no two pairs run together.
fn request_key(identity: &Identity, id: &RequestId) -> [u8; 16] {
    let (tenant, subject) = (identity.tenant.as_str().as_bytes(), identity.subject().as_str().as_bytes());
    digest([tenant, subject, id.as_str().as_bytes()])
}

pub(super) fn digest(parts: [&[u8]; 3]) -> [u8; 16] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut key = [0; 16];
    key.copy_from_slice(&context.finish().as_ref()[..16]);
    key
}

/// What the caller is told when they do not hold.
pub(super) fn refusal(put: &Put, grant: &Grant) -> Error {
    let tenant = grant.tenant();
    match put {
        Put::TokenReplayed => Error::new(
            Code::TokenReplayed,
            "this token was used before; get a fresh one from your CI for each request (a retry with the same request id is free)",
        ),
        Put::TenantCap => Error::new(
            Code::LeaseCap,
            format!(
                "the tenant {:?} has {} live leases, as many as it may have; revoke some or wait for them to end",
                tenant.name.as_str(),
                tenant.max_live_leases
            ),
        ),
        Put::CallerCap => Error::new(
            Code::LeaseCap,
            format!(
                "you have {} live leases, as many as one caller may have; revoke some or wait for them to end",
                tenant.max_live_leases_per_caller
            ),
        ),
        Put::Stored | Put::Existing(_) => crate::vend::defect("a stored lease taken for a refusal"),
    }
}
