//! A revocation at any server ends the lease's stream at every other one, within a second: whoever revokes adds to one short list, and every
//! server with streams looks at its revision. What that costs does not grow with the streams.

use std::collections::HashSet;

use crate::{
    model::{
        SignedDuration, Timestamp,
        error::Result,
        hex,
        lease::{Lease, LeaseId},
        revocation::{RevocationList, RevokedSerial},
    },
    vend::Vend,
};

/// How long a revocation stays on the list. A server that saw none for nearly as long looks at every lease that it has streams for.
pub const RECENT_KEPT: SignedDuration = SignedDuration::from_mins(5);

/// After how long without a look at the list a server takes it that it may have missed some.
const MISSED_AFTER: SignedDuration = SignedDuration::from_mins(4);

/// What a server has seen of the list.
#[derive(Debug, Default)]
pub struct SeenRevoked {
    revision: Option<u64>,
    at: Option<Timestamp>,
}

impl Vend {
    /// Says to every server that leases were revoked.
    pub(in crate::vend) async fn tell_revoked(&self, leases: &[Lease]) -> Result<()> {
        leases.iter().for_each(|lease| self.watches.end_lease(lease.id));
        let now = self.clock.now();
        let not_after = now.checked_add(RECENT_KEPT).unwrap_or(Timestamp::MAX);
        let entry = |lease: &Lease| RevokedSerial { serial: lease.id.to_hex(), revoked_at: lease.revoked_at.unwrap_or(now), not_after };
        self.store.add_revoked(&RevocationList::Recent, &leases.iter().map(entry).collect::<Vec<_>>()).await
    }

    /// Ends the streams of leases that were revoked at other servers. One cheap read when none was.
    pub async fn see_revoked(&self, seen: &mut SeenRevoked) -> Result<()> {
        let now = self.clock.now();
        let revision = self.store.revocation_revision(&RevocationList::Recent).await?;
        if seen.revision != Some(revision) {
            let (read, recent) = self.store.revoked(&RevocationList::Recent, now).await?;
            self.watches.end_revoked(recent.iter().filter_map(lease_named).collect::<HashSet<_>>());
            seen.revision = Some(read);
        }
        if seen.at.is_some_and(|at| now.duration_since(at) > MISSED_AFTER) {
            self.watches.schedule_all(now);
        }
        seen.at = Some(now);
        Ok(())
    }
}

fn lease_named(entry: &RevokedSerial) -> Option<LeaseId> {
    Some(LeaseId::from_bytes(hex::decode(&entry.serial)?.try_into().ok()?))
}
