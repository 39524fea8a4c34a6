//! Roles of other kinds than X.509, and roles whose credentials end after moments.

use daypass::{
    clock::{Clock, SystemClock},
    proto::v1,
};
use tonic::{Code, Status};

use super::server::{at, lease, status};

/// How long a credential of a role that begins with `brief-` lives.
const BRIEF_SECONDS: i64 = 2;

/// The roles that have leases of their own, and the numbers of those; any other role has the first.
const ROLES: [(&str, u32); 12] = [
    ("web", 1),
    ("deploy", 0x11),
    ("push", 0x12),
    ("federate", 0x13),
    ("brief-web", 0x14),
    ("brief-deploy", 0x15),
    ("brief-push", 0x16),
    ("brief-federate", 0x17),
    ("brief-flaky", 0x18),
    ("brief-final", 0x19),
    ("deploy-2", 0x1a),
    ("broken-deploy", 0x1b),
];

/// The id of a role's lease.
pub fn lease_id(role: &str) -> String {
    let (_, number) = ROLES.iter().find(|(name, _)| *name == role).unwrap_or(&ROLES[0]);
    lease(*number).id
}

/// The role of a lease.
pub fn role_of(id: &str) -> Option<&'static str> {
    ROLES.iter().find(|(_, number)| lease(*number).id == id).map(|(role, _)| *role)
}

/// What a role of another kind than X.509 gives.
pub fn issue(role: &str) -> Option<(v1::Lease, v1::Credential)> {
    renew(role, 1)
}

/// The same for a later generation.
pub fn renew(role: &str, generation: u32) -> Option<(v1::Lease, v1::Credential)> {
    use v1::credential::Kind;
    let expires_at = ends(role);
    let text = |what: &str| format!("{what}-canary-{generation}");
    let (kind, made) = match role.trim_start_matches("brief-") {
        "deploy" | "deploy-2" => (
            v1::CredentialKind::Aws,
            Kind::Aws(v1::AwsCredential {
                access_key_id: format!("ASIA{generation:012}"),
                secret_access_key: text("secret"),
                session_token: text("session"),
                expires_at,
                region: "eu-central-1".to_owned(),
            }),
        ),
        // It would break out of its line.
        "broken-deploy" => (
            v1::CredentialKind::Aws,
            Kind::Aws(v1::AwsCredential {
                access_key_id: "ASIA\n[default]".to_owned(),
                secret_access_key: text("secret"),
                session_token: text("session"),
                expires_at,
                region: String::new(),
            }),
        ),
        "push" => (
            v1::CredentialKind::Registry,
            Kind::Registry(v1::RegistryCredential {
                registry: "127.0.0.1:5000".to_owned(),
                username: "daypass".to_owned(),
                secret: text("secret"),
                expires_at,
            }),
        ),
        "federate" | "flaky" | "final" => (v1::CredentialKind::Jwt, Kind::Jwt(v1::JwtCredential { token: text("token"), expires_at })),
        _ => return None,
    };
    Some((lease_of(role, kind, generation), v1::Credential { kind: Some(made) }))
}

/// The lease of a certificate that ends after moments.
pub fn brief_certificate(role: &str, generation: u32) -> Option<v1::Lease> {
    (role == "brief-web").then(|| lease_of(role, v1::CredentialKind::X509, generation))
}

/// The certificate with the end of its lease.
pub fn ending_as(made: v1::Credential, lease: &v1::Lease) -> v1::Credential {
    match made.kind {
        Some(v1::credential::Kind::X509(x509)) => {
            v1::Credential { kind: Some(v1::credential::Kind::X509(v1::X509Credential { not_after: lease.expires_at, ..x509 })) }
        }
        _ => made,
    }
}

/// Renewals that do not succeed: `brief-flaky` at first, `brief-final` never.
pub fn refuse(role: &str, call: usize) -> Result<(), Status> {
    match role {
        // More than the client tries within one call.
        "brief-flaky" if call <= 4 => Err(status(Code::Unavailable, "STORE_UNAVAILABLE", "the lease store does not answer")),
        "brief-final" => Err(status(Code::PermissionDenied, "DENIED", "no policy permits it")),
        _ => Ok(()),
    }
}

fn lease_of(role: &str, kind: v1::CredentialKind, generation: u32) -> v1::Lease {
    let (_, number) = ROLES.iter().find(|(name, _)| *name == role).unwrap_or(&ROLES[0]);
    v1::Lease { role: role.to_owned(), kind: kind.into(), generation, expires_at: ends(role), ..lease(*number) }
}

fn ends(role: &str) -> Option<prost_types::Timestamp> {
    match role.starts_with("brief-") {
        true => at(SystemClock.now().as_second() + BRIEF_SECONDS + 1),
        false => at(1_800_000_900),
    }
}
