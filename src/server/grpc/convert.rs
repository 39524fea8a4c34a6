//! Between the contract and the model. Every field is named, so that a new one breaks the build.

use tonic::Code as GrpcCode;

use crate::{
    model::{
        SignedDuration, Timestamp,
        credential::{AwsCredential, Credential, CredentialKind, JwtCredential, RegistryCredential, X509Credential},
        error::{Code, Error, Result},
        identity::Subject,
        lease::{Handle, Lease, LeaseFilter, LeaseId, LeaseState, Reach},
        request::{Input, IssueRequest, MAX_AUDIENCE, MAX_CSR, RequestId},
    },
    policy::{Explanation, MIN_TTL},
    proto::v1,
    vend::{HeldLease, MAX_REASON, Renewal, RevokeStep, WatchRequest, WatchWhat, Watched, WhoAmI},
};

pub(super) fn invalid(why: impl std::fmt::Display) -> Error {
    Error::new(Code::InvalidRequest, why.to_string())
}

pub(super) fn issue_request(request: v1::IssueRequest) -> Result<IssueRequest> {
    let v1::IssueRequest { role, ttl, request_id, input } = request;
    let input = match input {
        None => Input::None,
        Some(v1::issue_request::Input::X509(x509)) => x509_input(x509)?,
        Some(v1::issue_request::Input::Jwt(jwt)) => jwt_input(jwt)?,
    };
    Ok(IssueRequest {
        role: role.parse().map_err(invalid)?,
        ttl: ttl.map(|ttl| span(&ttl)).transpose()?,
        request_id: maybe(request_id).map(RequestId::try_from).transpose().map_err(invalid)?,
        input,
    })
}

pub(super) fn renew_request(request: v1::RenewRequest) -> Result<Renewal> {
    let v1::RenewRequest { lease_id, ttl, input, generation } = request;
    let input = match input {
        None => Input::None,
        Some(v1::renew_request::Input::X509(x509)) => x509_input(x509)?,
        Some(v1::renew_request::Input::Jwt(jwt)) => jwt_input(jwt)?,
    };
    Ok(Renewal {
        lease: self::lease_id(&lease_id)?,
        generation: (generation != 0).then_some(generation),
        ttl: ttl.map(|ttl| span(&ttl)).transpose()?,
        input,
    })
}

pub(super) fn watch_request(request: v1::WatchRequest) -> Result<WatchRequest> {
    let v1::WatchRequest { what, next_x509 } = request;
    let what = match what {
        Some(v1::watch_request::What::Issue(issue)) => WatchWhat::Issue(issue_request(issue)?),
        Some(v1::watch_request::What::Held(held)) => WatchWhat::Held(held_lease(held)?),
        None => return Err(invalid("say what to watch: a new lease, or one that you hold")),
    };
    Ok(WatchRequest { what, next_csr: next_x509.map(csr).transpose()? })
}

fn held_lease(held: v1::HeldLease) -> Result<HeldLease> {
    let v1::HeldLease { lease_id, generation, input, ttl } = held;
    let input = match input {
        None => Input::None,
        Some(v1::held_lease::Input::X509(x509)) => x509_input(x509)?,
        Some(v1::held_lease::Input::Jwt(jwt)) => jwt_input(jwt)?,
    };
    let ttl = ttl.map(|ttl| span(&ttl)).transpose()?;
    if ttl.is_some_and(|ttl| ttl < MIN_TTL) {
        return Err(invalid("ttl is at least 1s"));
    }
    Ok(HeldLease { id: self::lease_id(&lease_id)?, generation, ttl, input })
}

pub(super) fn acknowledge_request(request: v1::AcknowledgeRequest) -> Result<(LeaseId, u32, Option<Vec<u8>>)> {
    let v1::AcknowledgeRequest { lease_id, generation, next_x509 } = request;
    Ok((self::lease_id(&lease_id)?, generation, next_x509.map(csr).transpose()?))
}

pub(super) fn watched(watched: Watched) -> v1::WatchResponse {
    let Watched { lease, credential, now } = watched;
    v1::WatchResponse { lease: Some(self::lease(&lease, now)), credential: credential.map(self::credential) }
}

pub(super) fn x509_input(input: v1::X509Input) -> Result<Input> {
    csr(input).map(|csr_der| Input::X509 { csr_der })
}

fn csr(input: v1::X509Input) -> Result<Vec<u8>> {
    let v1::X509Input { csr_der } = input;
    if csr_der.len() > MAX_CSR {
        return Err(Error::new(Code::InvalidCsr, format!("the CSR is larger than {MAX_CSR} bytes")));
    }
    Ok(csr_der)
}

fn jwt_input(input: v1::JwtInput) -> Result<Input> {
    let v1::JwtInput { audience } = input;
    if audience.is_empty() || audience.len() > MAX_AUDIENCE {
        return Err(invalid(format!("an audience is 1 to {MAX_AUDIENCE} bytes")));
    }
    Ok(Input::Jwt { audience })
}

pub(super) fn lease_id(text: &str) -> Result<LeaseId> {
    text.parse().map_err(invalid)
}

pub(super) fn span(ttl: &prost_types::Duration) -> Result<SignedDuration> {
    if ttl.nanos != 0 {
        return Err(invalid("ttl is in whole seconds"));
    }
    Ok(SignedDuration::from_secs(ttl.seconds))
}

pub(super) fn maybe(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

pub(super) fn filter(filter: Option<v1::LeaseFilter>) -> Result<LeaseFilter> {
    let v1::LeaseFilter { role, tenant, subject, state, issued_before } = filter.unwrap_or_default();
    let state = match v1::LeaseState::try_from(state).map_err(invalid)? {
        v1::LeaseState::Unspecified => None,
        v1::LeaseState::Pending => Some(LeaseState::Pending),
        v1::LeaseState::Active => Some(LeaseState::Active),
        v1::LeaseState::Revoking => Some(LeaseState::Revoking),
        v1::LeaseState::Revoked => Some(LeaseState::Revoked),
        v1::LeaseState::Expired => Some(LeaseState::Expired),
    };
    Ok(LeaseFilter {
        role: maybe(role).map(|role| role.parse()).transpose().map_err(invalid)?,
        tenant: maybe(tenant).map(|tenant| tenant.parse()).transpose().map_err(invalid)?,
        subject: maybe(subject).map(Subject::try_from).transpose().map_err(invalid)?,
        state,
        issued_before: issued_before.as_ref().map(from_timestamp).transpose()?,
    })
}

/// A reason for the record: bounded, without control characters.
pub(super) fn reason(text: &str) -> Result<String> {
    if text.len() > MAX_REASON || text.chars().any(char::is_control) {
        return Err(invalid(format!("a reason is at most {MAX_REASON} bytes without control characters")));
    }
    Ok(text.to_owned())
}

fn from_timestamp(at: &prost_types::Timestamp) -> Result<Timestamp> {
    Timestamp::new(at.seconds, at.nanos).map_err(invalid)
}

pub(super) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
}

pub(super) fn lease(lease: &Lease, now: Timestamp) -> v1::Lease {
    let Lease {
        id,
        version: _,
        role,
        kind,
        tenant,
        subject,
        state,
        issued_at,
        expires_at,
        renew_until,
        generation,
        reach,
        live_until,
        revoked_at,
        handle,
        renewed_at: _,
        held_until: _,
        acknowledged,
        claim: _,
        enrolled,
    } = lease;
    let serial = match handle {
        Handle::X509 { .. } => handle.credential_id(),
        Handle::Aws { .. } | Handle::Registry { .. } | Handle::Jwt { .. } => "",
    };
    v1::Lease {
        id: id.to_string(),
        role: role.to_string(),
        kind: match kind {
            CredentialKind::X509 => v1::CredentialKind::X509,
            CredentialKind::Aws => v1::CredentialKind::Aws,
            CredentialKind::Ecr => v1::CredentialKind::Ecr,
            CredentialKind::Registry => v1::CredentialKind::Registry,
            CredentialKind::Jwt => v1::CredentialKind::Jwt,
        }
        .into(),
        tenant: tenant.to_string(),
        subject: subject.to_string(),
        state: match state {
            LeaseState::Pending => v1::LeaseState::Pending,
            LeaseState::Active => v1::LeaseState::Active,
            LeaseState::Revoking => v1::LeaseState::Revoking,
            LeaseState::Revoked => v1::LeaseState::Revoked,
            LeaseState::Expired => v1::LeaseState::Expired,
        }
        .into(),
        issued_at: Some(timestamp(*issued_at)),
        expires_at: Some(timestamp(*expires_at)),
        renewable: lease.renewable(now),
        revocation: Some(v1::Revocation {
            reach: match reach {
                Reach::Crl => v1::RevocationReach::Crl,
                Reach::Lease => v1::RevocationReach::Lease,
                Reach::RoleSessions => v1::RevocationReach::RoleSessions,
                Reach::Expiry => v1::RevocationReach::Expiry,
            }
            .into(),
            live_until: Some(timestamp(*live_until)),
        }),
        generation: *generation,
        renew_until: Some(timestamp(*renew_until)),
        revoked_at: revoked_at.map(timestamp),
        serial: serial.to_owned(),
        credential_id: handle.credential_id().to_owned(),
        rotation: lease
            .rotation()
            .filter(|_| lease.renewable(now))
            .map(|window| v1::RotationWindow { start: Some(timestamp(window.start)), end: Some(timestamp(window.end)) }),
        acknowledged_generation: *acknowledged,
        enrolled: *enrolled,
    }
}

pub(super) fn credential(credential: Credential) -> v1::Credential {
    use v1::credential::Kind;
    let kind = match credential {
        Credential::X509(X509Credential { chain_der, root_der, not_before, not_after }) => Kind::X509(v1::X509Credential {
            chain_der,
            root_der,
            not_before: Some(timestamp(not_before)),
            not_after: Some(timestamp(not_after)),
        }),
        Credential::Aws(AwsCredential { access_key_id, secret_access_key, session_token, expires_at, region }) => {
            Kind::Aws(v1::AwsCredential {
                access_key_id,
                secret_access_key: secret_access_key.expose().to_owned(),
                session_token: session_token.expose().to_owned(),
                expires_at: Some(timestamp(expires_at)),
                region,
            })
        }
        Credential::Registry(RegistryCredential { registry, username, secret, expires_at }) => Kind::Registry(v1::RegistryCredential {
            registry,
            username,
            secret: secret.expose().to_owned(),
            expires_at: Some(timestamp(expires_at)),
        }),
        Credential::Jwt(JwtCredential { token, expires_at }) => {
            Kind::Jwt(v1::JwtCredential { token: token.expose().to_owned(), expires_at: Some(timestamp(expires_at)) })
        }
    };
    v1::Credential { kind: Some(kind) }
}

pub(super) fn explanation(explanation: Explanation) -> v1::ExplainResponse {
    let Explanation { allowed, reason, policies, policy_version } = explanation;
    let considered = policies.into_iter().map(|policy| {
        let crate::policy::ConsideredPolicy { id, permits, satisfied, line, failed } = policy;
        let failed = failed.into_iter().map(|failed| {
            let crate::policy::FailedCondition { condition, claims, absent } = failed;
            v1::FailedCondition { condition, claims, absent }
        });
        v1::ConsideredPolicy {
            id,
            effect: if permits { "permit" } else { "forbid" }.to_owned(),
            satisfied,
            line: u32::try_from(line).unwrap_or(u32::MAX),
            failed: failed.collect(),
        }
    });
    v1::ExplainResponse { allowed, reason: reason.to_owned(), policies: considered.collect(), policy_version }
}

pub(super) fn who_am_i(seen: &WhoAmI) -> v1::WhoAmIResponse {
    let WhoAmI { identity, roles } = seen;
    let claims = identity.claims().into_iter().flatten();
    v1::WhoAmIResponse {
        subject: identity.subject().to_string(),
        tenant: identity.tenant.to_string(),
        method: identity.method().to_owned(),
        authority: identity.authority().to_owned(),
        expires_at: Some(timestamp(identity.expires_at())),
        claims: claims.map(|(name, value)| (name.clone(), serde_json::to_string(value).unwrap_or_default())).collect(),
        peer: identity.peer().map(|peer| peer.subject.to_string()).unwrap_or_default(),
        roles: roles.iter().map(ToString::to_string).collect(),
    }
}

pub(super) fn revoke_step(step: RevokeStep) -> v1::RevokeMatchingResponse {
    use v1::revoke_matching_response::Step;
    let step = match step {
        RevokeStep::Matched { count, denied } => Step::Matched(v1::RevokeMatched { count, denied }),
        RevokeStep::Progress { revoked, failed } => Step::Progress(v1::RevokeProgress { revoked, failed }),
        RevokeStep::Failed { id, error } => Step::Failure(v1::RevokeFailure {
            lease_id: id.to_string(),
            reason: error.code().as_str().to_owned(),
            message: error.public().to_owned(),
        }),
        RevokeStep::Summary { revoked, failed, live_until } => {
            Step::Summary(v1::RevokeSummary { revoked, failed, live_until: live_until.map(timestamp) })
        }
    };
    v1::RevokeMatchingResponse { step: Some(step) }
}

/// The gRPC code's name for metrics.
pub(in crate::server) fn outcome(code: GrpcCode) -> &'static str {
    match code {
        GrpcCode::Ok => "ok",
        GrpcCode::InvalidArgument => "invalid_argument",
        GrpcCode::Unauthenticated => "unauthenticated",
        GrpcCode::PermissionDenied => "permission_denied",
        GrpcCode::NotFound => "not_found",
        GrpcCode::ResourceExhausted => "resource_exhausted",
        GrpcCode::Unavailable => "unavailable",
        GrpcCode::DeadlineExceeded => "deadline_exceeded",
        _ => "other",
    }
}
