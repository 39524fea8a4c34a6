//! Leases to test with.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
};

use daypass::{
    clock,
    model::{
        SignedDuration, Timestamp,
        credential::CredentialKind,
        lease::{Change, Handle, Lease, LeaseId, LeaseState, LiveSecret, LiveSerial, Reach},
        name::CaName,
        revocation::{AwsDeny, DenyBy, RevocationList},
        role::RegistryAction,
    },
    store::NewLease,
};

/// When the tests' time begins; stores read no clock.
pub const START: i64 = 1_800_000_000;

/// How long the tests' stores keep ended leases.
pub const RETENTION: SignedDuration = SignedDuration::from_hours(24);

/// The life of a lease.
pub const TTL: SignedDuration = SignedDuration::from_mins(15);

/// Seconds after the start.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(START + seconds).unwrap()
}

/// The revocation list of the CA of every lease here.
pub fn list() -> RevocationList {
    RevocationList::Crl(ca())
}

/// A CA.
pub fn ca() -> CaName {
    "main".parse().unwrap()
}

/// An active lease, issued a millisecond after the one that was made before it.
pub fn lease(tenant: &str, role: &str, subject: &str) -> Lease {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let millis = i64::try_from(MADE.fetch_add(1, Ordering::Relaxed)).unwrap();
    lease_at(Timestamp::from_millisecond(START * 1000 + millis).unwrap(), tenant, role, subject)
}

/// An active lease, issued at this time.
pub fn lease_at(issued_at: Timestamp, tenant: &str, role: &str, subject: &str) -> Lease {
    let tenant = tenant.parse().unwrap();
    let expires_at = Timestamp::from_second((issued_at + TTL).as_second()).unwrap();
    let hex = |bytes: [u8; 16]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Lease {
        id: LeaseId::new(issued_at, clock::random(), &tenant),
        version: 1,
        role: role.parse().unwrap(),
        kind: CredentialKind::X509,
        tenant,
        subject: subject.to_owned().try_into().unwrap(),
        state: LeaseState::Active,
        issued_at,
        expires_at,
        renew_until: expires_at + TTL,
        generation: 1,
        reach: Reach::Crl,
        live_until: expires_at,
        revoked_at: None,
        renewed_at: None,
        held_until: None,
        acknowledged: 0,
        claim: None,
        enrolled: false,
        handle: Handle::X509 {
            ca: ca(),
            serials: vec![LiveSerial { serial: hex(clock::random()), not_after: expires_at, ca: None }],
            tbs: hex(clock::random()),
            next_key: None,
        },
    }
}

/// A lease of each kind, pending where a remote system makes its credential.
pub fn of_every_kind() -> Vec<Lease> {
    let of = |kind, state, reach, handle| {
        let lease = lease("acme", "web", "spiffe://acme/a");
        Lease {
            kind,
            state,
            reach,
            handle: match handle {
                Some(handle) => handle,
                None => lease.handle.clone(),
            },
            ..lease
        }
    };
    let role_arn = "arn:aws:iam::123456789012:role/ci/deploy".to_owned();
    let aws = |deny, key_id| Some(Handle::Aws { deny, role_arn: role_arn.clone(), session: "daypass-1".to_owned(), key_id });
    let deny = |by| Some(AwsDeny { aws: "main".parse().unwrap(), by, role_arn: role_arn.clone() });
    let key_id = || Some("ASIA0123456789ABCDEF".to_owned());
    let registry = Handle::Registry {
        registry: "dev".parse().unwrap(),
        repositories: vec!["demo/*".to_owned(), "team/app".to_owned()],
        actions: RegistryAction::ALL.to_vec(),
        secrets: vec![
            LiveSecret { sha256: "ab".repeat(32), not_after: at(900) },
            LiveSecret { sha256: "cd".repeat(32), not_after: at(990) },
        ],
    };
    let jwt = Handle::Jwt {
        jti: "0192f0c1-7b5a-7000-8000-000000000000.1".to_owned(),
        aud: "https://ä.example/\"quoted\"".to_owned(),
        claims: "ab".repeat(16),
    };
    vec![
        of(CredentialKind::X509, LeaseState::Active, Reach::Crl, None),
        of(CredentialKind::Aws, LeaseState::Pending, Reach::Lease, aws(deny(DenyBy::SessionTag), None)),
        of(CredentialKind::Aws, LeaseState::Active, Reach::Lease, aws(deny(DenyBy::SessionName), key_id())),
        of(CredentialKind::Aws, LeaseState::Active, Reach::RoleSessions, aws(deny(DenyBy::IssueTime), key_id())),
        of(CredentialKind::Ecr, LeaseState::Active, Reach::Expiry, aws(None, key_id())),
        of(CredentialKind::Registry, LeaseState::Active, Reach::Lease, Some(registry)),
        of(CredentialKind::Jwt, LeaseState::Active, Reach::Expiry, Some(jwt)),
    ]
}

/// The lists of those of them that have one, each once, in order.
pub fn lists_of_every_kind() -> Vec<RevocationList> {
    let lists: BTreeSet<RevocationList> = of_every_kind().iter().flat_map(Lease::revocation).map(|(list, _)| list).collect();
    lists.into_iter().collect()
}

/// The lease as a store takes it, without conditions.
pub fn new(lease: &Lease) -> NewLease {
    NewLease { lease: lease.clone(), request_key: None, token_use: None, tenant_cap: 1_000_000, caller_cap: 1_000_000 }
}

/// The lease after a change.
pub fn changed(lease: &Lease, change: Change) -> Lease {
    lease.apply(change).unwrap()
}

/// The lease renewed for another life.
pub fn renewed(lease: &Lease) -> Lease {
    changed(
        lease,
        Change::Renew {
            at: lease.issued_at,
            expires_at: lease.expires_at + SignedDuration::from_secs(60),
            handle: lease.handle.clone(),
            shown: None,
        },
    )
}

/// The lease once its credential was made.
pub fn activated(lease: &Lease) -> Lease {
    changed(lease, Change::Activate { expires_at: lease.expires_at, handle: lease.handle.clone() })
}

/// The lease on its way to be revoked.
pub fn revoking(lease: &Lease) -> Lease {
    changed(lease, Change::BeginRevoke { at: lease.issued_at + SignedDuration::from_secs(5) })
}

/// The lease at the end of its revocation; `live_until` counts in whole seconds.
pub fn revoked(lease: &Lease) -> Lease {
    let live_until = Timestamp::from_second(lease.issued_at.as_second() + 6).unwrap();
    changed(&revoking(lease), Change::FinishRevoke { live_until })
}

/// The lease after its time.
pub fn expired(lease: &Lease) -> Lease {
    changed(lease, Change::Expire)
}
