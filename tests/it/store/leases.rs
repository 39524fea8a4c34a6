//! Leases to test with.

use std::sync::atomic::{AtomicU64, Ordering};

use daypass::{
    clock,
    model::{
        SignedDuration, Timestamp,
        credential::CredentialKind,
        lease::{Change, Handle, Lease, LeaseId, LeaseState, LiveSerial, Reach},
        name::CaName,
        revocation::RevocationList,
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

/// The CA of every lease here.
/// The revocation list of that CA.
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
        handle: Handle::X509 {
            ca: ca(),
            serials: vec![LiveSerial { serial: hex(clock::random()), not_after: expires_at }],
            tbs: hex(clock::random()),
        },
    }
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
    changed(lease, Change::Renew { expires_at: lease.expires_at + SignedDuration::from_secs(60), handle: lease.handle.clone() })
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
