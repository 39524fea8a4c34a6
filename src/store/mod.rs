//! Where leases live. Two adapters, one port, one conformance suite.
//!
//! A store keeps records and indexes; it decides nothing. Changes are computed by [`Lease::apply`] and written by
//! compare-and-set on the lease's version, so that legal transitions stand in one place. Each method is one atomic step
//! for each partition that it touches, and is safe to repeat after an unknown outcome.

/// Leases in SQLite on this machine's disk.
pub mod embedded;
/// Leases in Redis, standalone or Cluster.
pub mod redis;

use async_trait::async_trait;

use crate::model::{
    SignedDuration, Timestamp,
    error::{Code, Error},
    lease::{Lease, LeaseFilter, LeaseId, LeaseState},
    name::{CaName, TenantName},
    revocation::{RevocationList, RevokedSerial},
};

/// How long a reservation or a revocation may stay open before the sweep looks at it.
pub const OPEN_GRACE: SignedDuration = SignedDuration::from_secs(30);

/// How long an ended lease stays readable after its expiry, unless configured otherwise.
pub const DEFAULT_RETENTION: SignedDuration = SignedDuration::from_hours(24);

/// The most leases in one call: list pages, batches of changes, due leases.
pub const MAX_BATCH: usize = 1000;

/// A new lease with the conditions under which it may be stored, all checked in one atomic step.
#[derive(Debug, Clone)]
pub struct NewLease {
    /// The lease, at version 1.
    pub lease: Lease,
    /// Identifies the caller's request (a digest over tenant, subject and request id). While a live lease holds the same
    /// key, that lease is returned and nothing is stored.
    pub request_key: Option<[u8; 16]>,
    /// A use of a token; refused as a replay unless the request key gives a lease.
    pub token_use: Option<TokenUseKey>,
    /// The most live leases of the tenant.
    pub tenant_cap: u32,
    /// The most live leases of the caller (tenant and subject).
    pub caller_cap: u32,
}

/// A use of a token. When `key` is on record already it is a replay, unless `retry` is on record too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenUseKey {
    /// A digest over issuer and `jti`, and over the role where a token may be used once for each.
    pub key: [u8; 16],
    /// A digest over `key` and what makes a request the same request (its id, or its public key): who repeats that may.
    pub retry: Option<[u8; 16]>,
    /// When the token can no longer be presented, leeway included: until then the use is remembered.
    pub until: Timestamp,
}

/// What came of storing a new lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// It is durable.
    Stored,
    /// The request was answered before, with this lease.
    Existing(Box<Lease>),
    /// The token was used before.
    TokenReplayed,
    /// The tenant has as many live leases as it may have.
    TenantCap,
    /// The caller has as many live leases as it may have.
    CallerCap,
}

/// A page of leases, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The leases.
    pub leases: Vec<Lease>,
    /// Where the next page starts (after this id, in the order of [`LeaseId`]); none after the last.
    pub next: Option<LeaseId>,
}

/// What came of a compare-and-set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// Written and durable.
    Done,
    /// The stored version is not the one before the new one.
    Conflict,
    /// There is no such lease.
    Missing,
}

/// How many leases are live, and how late the sweep is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Live leases (pending, active, revoking).
    pub live: u64,
    /// The due time of the lease that has waited longest for the sweep; none when nothing is on record.
    pub oldest_due: Option<Timestamp>,
}

/// What servers share besides leases: few, small, changed by compare-and-set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Collection {
    /// Keys of the service, sealed: `<ring>-<number>`.
    Keys,
    /// Enrolment codes that were not redeemed, by the hash of the code.
    Enrollments,
    /// Servers that run, and what those who watch the trust bundle there have acknowledged, by [`crate::model::lease::ServerId`].
    Servers,
}

impl Collection {
    /// Every collection.
    pub const ALL: [Self; 3] = [Self::Keys, Self::Enrollments, Self::Servers];

    /// Its name in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Enrollments => "enrollments",
            Self::Servers => "servers",
        }
    }
}

/// One of a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key in the collection: 1 to 128 characters of `[A-Za-z0-9_-]`.
    pub key: String,
    /// Counts its changes, from 1.
    pub version: u64,
    /// What it says, at most [`MAX_ENTRY`] bytes.
    pub body: Vec<u8>,
}

/// The longest body of an [`Entry`], in bytes.
pub const MAX_ENTRY: usize = 64 * 1024;

/// The most entries of one collection.
pub const MAX_ENTRIES: usize = 10_000;

/// A lease store. Every error has code [`Code::StoreUnavailable`] and may mean that the outcome is unknown; every method
/// answers or fails within the adapter's configured time limit.
#[async_trait]
pub trait LeaseStore: Send + Sync {
    /// Stores a new lease, or says why not. Repeating it with the same lease answers `Stored` again.
    async fn put(&self, new: &NewLease) -> Result<Put, Error>;

    /// Puts the use of a token on record, for a renewal under `tenant`. `false` when it is a replay, as for [`LeaseStore::put`].
    async fn use_token(&self, tenant: &TenantName, token: &TokenUseKey) -> Result<bool, Error>;

    /// Leases by id, in the order asked; none where there is no such lease. At most [`MAX_BATCH`].
    async fn get(&self, ids: &[LeaseId]) -> Result<Vec<Option<Lease>>, Error>;

    /// A page of at most `limit` (1 to [`MAX_BATCH`]) leases that match, with ids greater than `after`, in the order of ids
    /// over all partitions. Uses the narrowest index; its cost grows with the leases under that index, never with all. A page may
    /// be shorter than `limit`, even empty, while `next` is set.
    async fn list(&self, filter: &LeaseFilter, after: Option<LeaseId>, limit: usize) -> Result<Page, Error>;

    /// Writes changed leases, each only over the version before it, and keeps indexes, caps, due times and request keys in
    /// step. Answers in the order asked. Repeating a swap that was done answers `Done` again when the stored lease equals it.
    async fn swap(&self, leases: &[Lease]) -> Result<Vec<Swap>, Error>;

    /// Writes leases that the store lost or knows in an older version; leaves newer ones alone. Caps are not checked. Answers how many
    /// were written.
    async fn restore(&self, leases: &[Lease]) -> Result<usize, Error>;

    /// At most `limit` leases whose due time ([`Lease::due_at`]) is not after `now`, the longest-waiting first. Does not claim them:
    /// two servers may get the same ones, and the version decides whose change counts.
    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<Lease>, Error>;

    /// Removes ended leases for good (only in the version given), and forgets token uses and revoked serials whose time passed before `now`.
    async fn purge(&self, leases: &[Lease], now: Timestamp) -> Result<(), Error>;

    /// Adds to a revocation list and counts its revision up when anything was new. Idempotent.
    async fn add_revoked(&self, list: &RevocationList, serials: &[RevokedSerial]) -> Result<(), Error>;

    /// The revision of a revocation list: one cheap read, to see whether another server changed it. 0 when nothing ever was.
    async fn revocation_revision(&self, list: &RevocationList) -> Result<u64, Error>;

    /// A revocation list with its revision, entries that expired before `now` left out.
    async fn revoked(&self, list: &RevocationList, now: Timestamp) -> Result<(u64, Vec<RevokedSerial>), Error>;

    /// Every list that was ever added to.
    async fn revocation_lists(&self) -> Result<Vec<RevocationList>, Error>;

    /// The next CRL number of a CA: strictly growing over all servers and restarts, and at least `floor`. The floor keeps it growing
    /// when the store lost its count; at most 2^53.
    async fn next_crl_number(&self, ca: &CaName, floor: u64) -> Result<u64, Error>;

    /// Counts for metrics and readiness.
    async fn stats(&self) -> Result<Stats, Error>;

    /// Identifies the data set: changes when the store may have lost acknowledged writes (another primary, an emptied
    /// server), which is a reason to reconcile it with the audit log.
    async fn incarnation(&self) -> Result<String, Error>;
}

/// What servers share besides leases. Both adapters have it beside [`LeaseStore`]; errors and repetitions are as there.
#[async_trait]
pub trait EntryStore: Send + Sync {
    /// The revision of a collection: it changes whenever an entry does. One cheap read.
    async fn entries_revision(&self, collection: Collection) -> Result<u64, Error>;

    /// The entries of a collection, in order of key, at most [`MAX_ENTRIES`].
    async fn entries(&self, collection: Collection) -> Result<Vec<Entry>, Error>;

    /// One entry.
    async fn entry(&self, collection: Collection, key: &str) -> Result<Option<Entry>, Error>;

    /// Writes an entry over the version before it ([`Entry::version`] 1 over none). `false` when another version is there, or when the
    /// collection is full. Repeating a write that was done answers `true` again when the entry there equals it.
    async fn write_entry(&self, collection: Collection, entry: &Entry) -> Result<bool, Error>;

    /// Deletes an entry in this version. `false` when another version is there; `true` when there is none.
    async fn delete_entry(&self, collection: Collection, key: &str, version: u64) -> Result<bool, Error>;
}

/// That an entry keeps its bounds: a breach is a defect of ours.
pub(crate) fn check_entry(entry: &Entry) -> Result<(), Error> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    let Entry { key, version: _, body } = entry;
    if key.is_empty() || key.len() > 128 || !key.bytes().all(legal) || body.len() > MAX_ENTRY {
        return Err(Error::internal(format_args!("an entry of {} bytes under {key:?} breaks its bounds", body.len())));
    }
    Ok(())
}

/// An error of a store: the caller learns that it is away, the log why.
pub(crate) fn unavailable(internal: impl std::fmt::Display) -> Error {
    Error::new(Code::StoreUnavailable, "the lease store does not answer; nothing was issued or changed for sure, try again")
        .because(internal)
}

/// A state as the stores write it: its place in [`LeaseState::ALL`]. Those below [`FIRST_ENDED`] are live.
pub(crate) fn state_number(state: LeaseState) -> u8 {
    match state {
        LeaseState::Pending => 0,
        LeaseState::Active => 1,
        LeaseState::Revoking => 2,
        LeaseState::Revoked => FIRST_ENDED,
        LeaseState::Expired => 4,
    }
}

/// The lowest number of a state that has ended.
pub(crate) const FIRST_ENDED: u8 = 3;

/// Milliseconds since 1970, rounded up: stored times are whole milliseconds, so what lies before `at` lies before these.
pub(crate) fn ceil_millis(at: Timestamp) -> i64 {
    let floor = at.as_millisecond();
    if Timestamp::from_millisecond(floor).is_ok_and(|exact| exact < at) { floor + 1 } else { floor }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_states_are_their_places_and_part_the_live_from_the_ended() {
        for (place, state) in LeaseState::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(state_number(state)), place);
            assert_eq!(state_number(state) < FIRST_ENDED, state.is_live());
        }
    }

    #[test]
    fn milliseconds_round_up_on_both_sides_of_1970() {
        for (nanos, millis) in [(0, 0), (1, 1), (1_000_000, 1), (1_000_001, 2), (-1, 0), (-1_000_000, -1), (-1_000_001, -1)] {
            assert_eq!(ceil_millis(Timestamp::from_nanosecond(nanos).unwrap()), millis, "{nanos}");
        }
    }
}
