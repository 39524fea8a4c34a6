//! Credentials of the kinds that a client caches: by the name of the role, `aws-900` is a session of 900 seconds, `registry-900` a
//! registry's secret, and `moved-900` one whose role is for another registry from the second call on.

use daypass::{
    clock::{Clock, SystemClock},
    proto::v1,
};

/// The registry that the roles are for.
pub const REGISTRY: &str = "127.0.0.1:5000";

/// Where the role `moved-900` is moved to.
pub const MOVED: &str = "moved.example.org";

/// The lease and credential number `call` of a role; none when the role is of another kind.
pub fn answer(role: &str, call: usize) -> Option<v1::IssueResponse> {
    let (kind, life) = role.split_once('-')?;
    let life: i64 = life.parse().ok()?;
    let now = SystemClock.now().as_second();
    let at = |second| Some(prost_types::Timestamp { seconds: second, nanos: 0 });
    let expires_at = at(now + life);
    let (kind, credential) = match kind {
        "aws" => {
            let session = v1::AwsCredential {
                access_key_id: format!("ASIA{call}"),
                secret_access_key: format!("canary-key-{call}"),
                session_token: format!("canary-session-{call}"),
                expires_at,
                region: "eu-central-1".to_owned(),
            };
            (v1::CredentialKind::Aws, v1::credential::Kind::Aws(session))
        }
        "registry" | "moved" => {
            let registry = if kind == "moved" && call > 1 { MOVED } else { REGISTRY };
            let secret = v1::RegistryCredential {
                registry: registry.to_owned(),
                username: format!("lease-{call}"),
                secret: format!("canary-secret-{call}"),
                expires_at,
            };
            (v1::CredentialKind::Registry, v1::credential::Kind::Registry(secret))
        }
        _ => return None,
    };
    let revocation = v1::Revocation { reach: v1::RevocationReach::Lease.into(), live_until: expires_at };
    let lease = v1::Lease {
        id: super::server::GOOD.to_owned(),
        role: role.to_owned(),
        kind: kind.into(),
        issued_at: at(now),
        expires_at,
        revocation: Some(revocation),
        serial: String::new(),
        ..super::server::lease(1)
    };
    Some(v1::IssueResponse { lease: Some(lease), credential: Some(v1::Credential { kind: Some(credential) }) })
}
