//! When a lease is due for its next credential: a pure function of the lease, so that every server says the same.

use serde::{Deserialize, Serialize};

use super::{Lease, stamp};
use crate::model::{SignedDuration, Timestamp};

/// The earliest part of a credential's life at which the next one is due, in thousandths. The time of each lease is drawn between this
/// and [`LATEST`], a half in the mean, once for the lease: leases that were issued together do not rotate together.
const EARLIEST: i64 = 333;
/// The latest part.
const LATEST: i64 = 667;
/// How long the window is, in thousandths of the life.
const WINDOW: i64 = 83;

/// When the next credential of a lease is to be had. Who watches gets it at `start`; who polls asks between `start` and `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotationWindow {
    /// From when on.
    pub start: Timestamp,
    /// Until when, so that there is time left to try again.
    pub end: Timestamp,
}

/// One server among those that share a store: 8 random bytes, drawn at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServerId(pub u64);

/// How long a server that began to make a credential has for it.
pub const CLAIM_LIFE: SignedDuration = SignedDuration::from_secs(10);

/// The server that has the stream of a lease's holder: it alone rotates the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Which.
    #[serde(rename = "b")]
    pub by: ServerId,
    /// Until when somebody may be making a credential (millisecond resolution). When the holder moves to another server, because this one
    /// died or is slow, that one waits so long before it makes one itself.
    #[serde(rename = "u", with = "stamp::millis")]
    pub until: Timestamp,
}

impl Claim {
    /// A server's claim to make the next credential, from `now` on.
    pub fn to_rotate(by: ServerId, now: Timestamp) -> Self {
        Self { by, until: now.checked_add(CLAIM_LIFE).unwrap_or(now) }
    }

    /// Until when somebody may still be making a credential, seen at `now`: no longer than a claim that began now. A server whose clock is ahead
    /// claims for as much longer, and must not keep the next one from its work when it dies.
    pub fn lapses_by(self, now: Timestamp) -> Timestamp {
        self.until.max(now).min(Self::to_rotate(self.by, now).until)
    }

    /// Whether somebody may still be making a credential.
    pub fn is_live(self, now: Timestamp) -> bool {
        now < self.until
    }
}

impl Lease {
    /// When its newest credential was made.
    pub fn made_at(&self) -> Timestamp {
        self.renewed_at.unwrap_or(self.issued_at)
    }

    /// When its next credential is due; none when no renewal within that time can move its expiry: its holder then replaces the lease.
    pub fn rotation(&self) -> Option<RotationWindow> {
        let made_at = self.made_at();
        if !self.renewable(made_at) {
            return None;
        }
        let life = self.held_until().duration_since(made_at);
        let part = |thousandths: i64| SignedDuration::from_millis(i64::try_from(life.as_millis()).unwrap_or(i64::MAX) / 1000 * thousandths);
        let start = made_at.checked_add(part(self.drawn())).ok()?;
        let end = start.checked_add(part(WINDOW)).ok()?;
        self.gains(self.renew_until, end).then_some(RotationWindow { start, end })
    }

    /// The part of the life after which it is due, in thousandths: drawn with the id, whose random bytes nobody chose.
    fn drawn(&self) -> i64 {
        // The bytes before the last one, whose lower half is the partition.
        let [.., a, b, _] = *self.id.as_bytes();
        EARLIEST + i64::from(u16::from_be_bytes([a, b])) * (LATEST - EARLIEST) / i64::from(u16::MAX)
    }
}
