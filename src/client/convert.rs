//! Between the contract's messages and our own types. Every message is destructured, so that a new field breaks the build
//! here and is thought about.

use jiff::{SignedDuration, Timestamp};

use super::{
    error::{Error, Result},
    types::{
        AwsCredential, ConsideredPolicy, Credential, CredentialKind, Explanation, FailedCondition, IssueOrder, Issued, JwtCredential,
        Lease, LeaseFilter, LeaseState, OrderInput, Page, Reach, Record, RegistryCredential, RenewOrder, Revocation, RevokeFailure,
        RevokeStep, RotationWindow, WhoAmI, X509Credential,
    },
};
use crate::{model::secret::Secret, proto::v1};

pub(super) fn issue_request(order: IssueOrder) -> v1::IssueRequest {
    use v1::issue_request::Input;
    let IssueOrder { role, ttl, request_id, input } = order;
    let input = match input {
        OrderInput::Csr(csr_der) => Some(Input::X509(v1::X509Input { csr_der })),
        OrderInput::Audience(audience) => Some(Input::Jwt(v1::JwtInput { audience })),
        OrderInput::Nothing => None,
    };
    v1::IssueRequest { role, ttl: ttl.map(duration), request_id, input }
}

pub(super) fn renew_request(order: RenewOrder) -> v1::RenewRequest {
    use v1::renew_request::Input;
    let RenewOrder { lease_id, ttl, input } = order;
    let input = match input {
        OrderInput::Csr(csr_der) => Some(Input::X509(v1::X509Input { csr_der })),
        OrderInput::Audience(audience) => Some(Input::Jwt(v1::JwtInput { audience })),
        OrderInput::Nothing => None,
    };
    v1::RenewRequest { lease_id, ttl: ttl.map(duration), input, generation: 0 }
}

pub(super) fn filter(filter: LeaseFilter) -> v1::LeaseFilter {
    let LeaseFilter { role, tenant, subject, state, issued_before } = filter;
    v1::LeaseFilter {
        role: role.unwrap_or_default(),
        tenant: tenant.unwrap_or_default(),
        subject: subject.unwrap_or_default(),
        state: state.map_or(v1::LeaseState::Unspecified, state_to_proto).into(),
        issued_before: issued_before
            .map(|at| prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() })
            .map(forward_nanos),
    }
}

pub(super) fn issue_response(answer: v1::IssueResponse) -> Result<Issued> {
    let v1::IssueResponse { lease: got, credential: made } = answer;
    Ok(Issued { lease: lease(got)?, credential: credential(made)? })
}

pub(super) fn renew_response(answer: v1::RenewResponse) -> Result<Issued> {
    let v1::RenewResponse { lease: got, credential: made } = answer;
    Ok(Issued { lease: lease(got)?, credential: credential(made)? })
}

pub(super) fn get_response(answer: v1::GetResponse) -> Result<Lease> {
    let v1::GetResponse { lease: got } = answer;
    lease(got)
}

pub(super) fn revoke_response(answer: v1::RevokeResponse) -> Result<Lease> {
    let v1::RevokeResponse { lease: got } = answer;
    lease(got)
}

pub(super) fn list_response(answer: v1::ListResponse) -> Result<Page> {
    let v1::ListResponse { leases, next_page_token } = answer;
    let leases = leases.into_iter().map(|got| lease(Some(got))).collect::<Result<_>>()?;
    Ok(Page { leases, next: (!next_page_token.is_empty()).then_some(next_page_token) })
}

pub(super) fn who_am_i(answer: v1::WhoAmIResponse) -> Result<WhoAmI> {
    let v1::WhoAmIResponse { subject, tenant, method, authority, expires_at, claims, peer, roles } = answer;
    let json = |text: String| serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text));
    Ok(WhoAmI {
        subject,
        tenant,
        method,
        authority,
        expires_at: expires_at.map(|at| timestamp(at, "expires_at")).transpose()?,
        claims: claims.into_iter().map(|(name, text)| (name, json(text))).collect(),
        peer,
        roles,
    })
}

pub(super) fn explanation(answer: v1::ExplainResponse) -> Explanation {
    let v1::ExplainResponse { allowed, reason, policies, policy_version } = answer;
    Explanation { allowed, reason, policies: policies.into_iter().map(considered).collect(), policy_version }
}

pub(super) fn revoke_step(answer: v1::RevokeMatchingResponse) -> Result<RevokeStep> {
    use v1::revoke_matching_response::Step;
    let v1::RevokeMatchingResponse { step } = answer;
    Ok(match step.ok_or_else(|| missing("step"))? {
        Step::Matched(v1::RevokeMatched { count, denied }) => RevokeStep::Matched { count, denied },
        Step::Progress(v1::RevokeProgress { revoked, failed }) => RevokeStep::Progress { revoked, failed },
        Step::Failure(v1::RevokeFailure { lease_id, reason, message }) => {
            RevokeStep::Failure(RevokeFailure { id: self::lease_id(&lease_id)?, code: reason, message })
        }
        Step::Summary(v1::RevokeSummary { revoked, failed, live_until }) => {
            let live_until = live_until.map(|at| timestamp(at, "live_until")).transpose()?;
            RevokeStep::Summary { revoked, failed, live_until }
        }
    })
}

pub(super) fn record(answer: v1::TailResponse) -> Result<Record> {
    let v1::TailResponse { seq, record } = answer;
    let one_object = !record.contains(['\n', '\r']) && serde_json::from_str::<serde_json::Map<_, _>>(&record).is_ok();
    if !one_object {
        return Err(Error::bad_answer(format_args!("has a record {seq} that is not one JSON object on one line")));
    }
    Ok(Record { seq, json: record })
}

fn considered(policy: v1::ConsideredPolicy) -> ConsideredPolicy {
    let v1::ConsideredPolicy { id, effect, satisfied, line, failed } = policy;
    ConsideredPolicy { id, effect, satisfied, line, failed: failed.into_iter().map(failed_condition).collect() }
}

fn failed_condition(failed: v1::FailedCondition) -> FailedCondition {
    let v1::FailedCondition { condition, claims, absent } = failed;
    FailedCondition { condition, claims, absent }
}

pub(super) fn lease(got: Option<v1::Lease>) -> Result<Lease> {
    let v1::Lease {
        id,
        role,
        kind,
        tenant,
        subject,
        state,
        issued_at,
        expires_at,
        renewable,
        revocation,
        generation,
        renew_until,
        revoked_at,
        serial,
        credential_id,
        rotation,
        acknowledged_generation,
        enrolled,
    } = got.ok_or_else(|| missing("lease"))?;
    Ok(Lease {
        id: lease_id(&id)?,
        role,
        kind: kind_of(kind)?,
        tenant,
        subject,
        state: state_of(state)?,
        issued_at: timestamp(issued_at.ok_or_else(|| missing("issued_at"))?, "issued_at")?,
        expires_at: timestamp(expires_at.ok_or_else(|| missing("expires_at"))?, "expires_at")?,
        renewable,
        revocation: revocation_of(revocation)?,
        generation,
        renew_until: renew_until.map(|at| timestamp(at, "renew_until")).transpose()?,
        revoked_at: revoked_at.map(|at| timestamp(at, "revoked_at")).transpose()?,
        serial,
        credential_id,
        rotation: rotation.map(rotation_window).transpose()?,
        acknowledged_generation,
        enrolled,
    })
}

fn rotation_window(got: v1::RotationWindow) -> Result<RotationWindow> {
    let v1::RotationWindow { start, end } = got;
    let at = |at: Option<prost_types::Timestamp>, name| timestamp(at.ok_or_else(|| missing(name))?, name);
    Ok(RotationWindow { start: at(start, "rotation.start")?, end: at(end, "rotation.end")? })
}

/// A UUID as the service writes it (RFC 9562, section 4): scripts put it into files where a line end or a quote would mean something.
fn lease_id(text: &str) -> Result<String> {
    let id = uuid::Uuid::try_parse(text).ok().map(|id| id.to_string()).filter(|id| id == text);
    id.ok_or_else(|| Error::bad_answer("names a lease by what is no UUID"))
}

fn revocation_of(got: Option<v1::Revocation>) -> Result<Revocation> {
    let v1::Revocation { reach, live_until } = got.ok_or_else(|| missing("revocation"))?;
    let reach = match v1::RevocationReach::try_from(reach) {
        Ok(v1::RevocationReach::Crl) => Reach::Crl,
        Ok(v1::RevocationReach::Expiry) => Reach::Expiry,
        Ok(v1::RevocationReach::Lease) => Reach::Lease,
        Ok(v1::RevocationReach::RoleSessions) => Reach::RoleSessions,
        Ok(v1::RevocationReach::Unspecified) | Err(_) => return Err(unknown("revocation reach", reach)),
    };
    Ok(Revocation { reach, live_until: timestamp(live_until.ok_or_else(|| missing("live_until"))?, "live_until")? })
}

pub(super) fn credential(got: Option<v1::Credential>) -> Result<Credential> {
    let v1::Credential { kind } = got.ok_or_else(|| missing("credential"))?;
    let ends = |at: Option<prost_types::Timestamp>| timestamp(at.ok_or_else(|| missing("expires_at"))?, "expires_at");
    let filled = |text: String, what: &str| if text.is_empty() { Err(missing(what)) } else { Ok(text) };
    match kind.ok_or_else(|| missing("credential of a kind that this daypass knows"))? {
        v1::credential::Kind::X509(made) => certificate(made),
        v1::credential::Kind::Aws(v1::AwsCredential { access_key_id, secret_access_key, session_token, expires_at, region }) => {
            Ok(Credential::Aws(AwsCredential {
                access_key_id: filled(access_key_id, "access_key_id")?,
                secret_access_key: Secret::new(filled(secret_access_key, "secret_access_key")?),
                session_token: Secret::new(filled(session_token, "session_token")?),
                expires_at: ends(expires_at)?,
                region,
            }))
        }
        v1::credential::Kind::Registry(v1::RegistryCredential { registry, username, secret, expires_at }) => {
            Ok(Credential::Registry(RegistryCredential {
                registry: filled(registry, "registry")?,
                username: filled(username, "username")?,
                secret: Secret::new(filled(secret, "secret")?),
                expires_at: ends(expires_at)?,
            }))
        }
        v1::credential::Kind::Jwt(v1::JwtCredential { token, expires_at }) => {
            Ok(Credential::Jwt(JwtCredential { token: Secret::new(filled(token, "token")?), expires_at: ends(expires_at)? }))
        }
    }
}

fn certificate(made: v1::X509Credential) -> Result<Credential> {
    let v1::X509Credential { chain_der, root_der, not_before, not_after } = made;
    if chain_der.is_empty() {
        return Err(missing("certificate"));
    }
    Ok(Credential::X509(X509Credential {
        chain_der,
        root_der,
        not_before: timestamp(not_before.ok_or_else(|| missing("not_before"))?, "not_before")?,
        not_after: timestamp(not_after.ok_or_else(|| missing("not_after"))?, "not_after")?,
    }))
}

fn kind_of(kind: i32) -> Result<CredentialKind> {
    match v1::CredentialKind::try_from(kind) {
        Ok(v1::CredentialKind::X509) => Ok(CredentialKind::X509),
        Ok(v1::CredentialKind::Aws) => Ok(CredentialKind::Aws),
        Ok(v1::CredentialKind::Ecr) => Ok(CredentialKind::Ecr),
        Ok(v1::CredentialKind::Registry) => Ok(CredentialKind::Registry),
        Ok(v1::CredentialKind::Jwt) => Ok(CredentialKind::Jwt),
        Ok(v1::CredentialKind::Unspecified) | Err(_) => Err(unknown("credential kind", kind)),
    }
}

fn state_of(state: i32) -> Result<LeaseState> {
    match v1::LeaseState::try_from(state) {
        Ok(v1::LeaseState::Pending) => Ok(LeaseState::Pending),
        Ok(v1::LeaseState::Active) => Ok(LeaseState::Active),
        Ok(v1::LeaseState::Revoking) => Ok(LeaseState::Revoking),
        Ok(v1::LeaseState::Revoked) => Ok(LeaseState::Revoked),
        Ok(v1::LeaseState::Expired) => Ok(LeaseState::Expired),
        Ok(v1::LeaseState::Unspecified) | Err(_) => Err(unknown("lease state", state)),
    }
}

fn state_to_proto(state: LeaseState) -> v1::LeaseState {
    match state {
        LeaseState::Pending => v1::LeaseState::Pending,
        LeaseState::Active => v1::LeaseState::Active,
        LeaseState::Revoking => v1::LeaseState::Revoking,
        LeaseState::Revoked => v1::LeaseState::Revoked,
        LeaseState::Expired => v1::LeaseState::Expired,
    }
}

pub(super) fn duration(span: SignedDuration) -> prost_types::Duration {
    prost_types::Duration { seconds: span.as_secs(), nanos: span.subsec_nanos() }
}

pub(super) fn timestamp(at: prost_types::Timestamp, field: &str) -> Result<Timestamp> {
    let prost_types::Timestamp { seconds, nanos } = at;
    Timestamp::new(seconds, nanos).map_err(|_| Error::bad_answer(format_args!("has an {field} out of range")))
}

/// A protobuf timestamp counts nanoseconds forward, also before 1970; jiff counts them away from zero.
fn forward_nanos(at: prost_types::Timestamp) -> prost_types::Timestamp {
    match at.nanos {
        ..0 => prost_types::Timestamp { seconds: at.seconds - 1, nanos: at.nanos + 1_000_000_000 },
        _ => at,
    }
}

pub(super) fn missing(what: &str) -> Error {
    Error::bad_answer(format_args!("lacks a {what}"))
}

fn unknown(what: &str, value: i32) -> Error {
    Error::bad_answer(format_args!("has an unknown {what} ({value})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    }

    fn sample() -> v1::Lease {
        v1::Lease {
            id: "0192f0c1-7b5a-7000-8000-000000000000".to_owned(),
            role: "web".to_owned(),
            kind: v1::CredentialKind::X509.into(),
            tenant: "payments".to_owned(),
            subject: "spiffe://example.org/agent".to_owned(),
            state: v1::LeaseState::Active.into(),
            issued_at: Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 123_000_000 }),
            expires_at: stamp(1_800_000_900),
            renewable: true,
            revocation: Some(v1::Revocation { reach: v1::RevocationReach::Crl.into(), live_until: stamp(1_800_000_900) }),
            generation: 1,
            renew_until: stamp(1_800_003_600),
            revoked_at: None,
            serial: "0a1b".to_owned(),
            credential_id: "0a1b".to_owned(),
            rotation: None,
            acknowledged_generation: 0,
            enrolled: false,
        }
    }

    #[test]
    fn a_leases_json_is_the_contract() {
        let json = serde_json::to_value(lease(Some(sample())).unwrap()).unwrap();
        let expected = serde_json::json!({
            "id": "0192f0c1-7b5a-7000-8000-000000000000",
            "role": "web",
            "kind": "x509",
            "tenant": "payments",
            "subject": "spiffe://example.org/agent",
            "state": "active",
            "issued_at": "2027-01-15T08:00:00.123Z",
            "expires_at": "2027-01-15T08:15:00Z",
            "renewable": true,
            "revocation": {"reach": "crl", "live_until": "2027-01-15T08:15:00Z"},
            "generation": 1,
            "renew_until": "2027-01-15T09:00:00Z",
            "serial": "0a1b",
            "credential_id": "0a1b",
            "acknowledged_generation": 0,
            "enrolled": false,
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn what_is_missing_or_unknown_is_an_error_that_names_it() {
        type Spoil = fn(&mut v1::Lease);
        let cases: [(Spoil, &str); 6] = [
            (|l| l.state = 0, "lease state"),
            (|l| l.state = 99, "lease state (99)"),
            (|l| l.kind = 7, "credential kind"),
            (|l| l.issued_at = None, "issued_at"),
            (|l| l.revocation = None, "revocation"),
            (|l| l.expires_at = stamp(i64::MAX), "expires_at"),
        ];
        for (spoil, name) in cases {
            let mut got = sample();
            spoil(&mut got);
            let error = lease(Some(got)).unwrap_err();
            assert!(error.message().contains(name), "{error}");
        }
        assert!(credential(Some(v1::Credential { kind: None })).is_err());
    }

    #[test]
    fn a_lease_id_is_a_uuid_as_the_service_writes_it() {
        let good = sample().id;
        let bad = ["", "x", "--all", &format!("{good}\nPATH=/tmp/evil"), &format!("{good} "), &good.replace('-', ""), &good.to_uppercase()];
        for bad in bad {
            let error = lease(Some(v1::Lease { id: bad.to_owned(), ..sample() })).unwrap_err();
            assert_eq!(error.message().matches(['\n', '\r']).count(), 0, "{error}");
            assert!(error.message().contains("no UUID"), "{error}");
            let step = v1::revoke_matching_response::Step::Failure(v1::RevokeFailure { lease_id: bad.to_owned(), ..Default::default() });
            assert!(revoke_step(v1::RevokeMatchingResponse { step: Some(step) }).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_time_before_1970_keeps_its_meaning() {
        let before: Timestamp = "1969-12-31T23:59:59.5Z".parse().unwrap();
        let sent = filter(LeaseFilter { issued_before: Some(before), ..LeaseFilter::default() });
        assert_eq!(sent.issued_before, Some(prost_types::Timestamp { seconds: -1, nanos: 500_000_000 }));
    }

    #[test]
    fn a_record_must_be_one_json_object_on_one_line() {
        let of = |text: &str| record(v1::TailResponse { seq: 1, record: text.to_owned() });
        assert!(of(r#"{"seq":1}"#).is_ok());
        for bad in ["", "[]", "1", "{\"a\":\n1}", "{}{}", "{\"a\":\"\u{1b}[2J\"}"] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn claims_are_json_again() {
        let claims = [("repository_id".to_owned(), "\"42\"".to_owned()), ("n".to_owned(), "7".to_owned())].into();
        let who = who_am_i(v1::WhoAmIResponse { claims, ..v1::WhoAmIResponse::default() }).unwrap();
        assert_eq!(serde_json::to_value(who.claims).unwrap(), serde_json::json!({"n": 7, "repository_id": "42"}));
    }
}
