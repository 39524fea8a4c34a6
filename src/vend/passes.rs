//! The passes: each one idempotent and without input, safe to run at any number of servers at once. `background` drives them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{Vend, open::Why, record::event_of_pass, revoke::Manner};
use crate::{
    model::{
        SignedDuration, Timestamp,
        error::{Error, Result},
        event::Event,
        lease::{Change, Lease, LeaseId, LeaseState},
        revocation::{RevocationList, RevokedSerial},
        role::MAX_LIFE,
    },
    store::{OPEN_GRACE, Swap},
};

/// Leases that a sweep takes at a time.
pub const SWEEP_BATCH: usize = 1000;

/// How many of the newest records a start looks at for revocations that are to be taken up: a batch of revocations is 1000 of them.
pub const RECENT: u64 = 5_000;
const _: () = assert!(RECENT <= super::MAX_OPEN as u64);

/// What a start wants of a record.
#[derive(Deserialize)]
struct Recent {
    #[serde(default)]
    lease: Option<RecentLease>,
}

#[derive(Deserialize)]
struct RecentLease {
    id: LeaseId,
    state: LeaseState,
}

/// What a sweep did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// Leases whose time had passed.
    pub expired: usize,
    /// Revocations that a crash or an outage had left open.
    pub finished: usize,
    /// Reservations that were never handed out.
    pub closed: usize,
    /// Ended leases whose retention was over.
    pub purged: usize,
}

impl Swept {
    /// Whether nothing was due.
    pub fn is_idle(&self) -> bool {
        *self == Self::default()
    }
}

impl Vend {
    /// Takes due leases off the store: expires, ends revocations, closes reservations, forgets what is old. At most one batch; call again
    /// while it did something.
    pub async fn sweep(&self) -> Result<Swept> {
        let now = self.clock.now();
        let due = self.store.due(now, SWEEP_BATCH).await?;
        let crowded = due.len() == SWEEP_BATCH;
        let (mut expiring, mut revoking, mut reserved, mut old) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for lease in due {
            match lease.state {
                LeaseState::Active => expiring.push(lease),
                LeaseState::Revoking => revoking.push(lease),
                LeaseState::Pending => reserved.push(lease),
                LeaseState::Revoked | LeaseState::Expired => old.push(lease),
            }
        }
        let mut swept = Swept { expired: self.expire(&expiring, now).await?, purged: old.len(), ..Swept::default() };
        swept.closed = self.close(reserved, now).await;
        if !old.is_empty() {
            self.store.purge(&old, now).await?;
        }
        if !revoking.is_empty() {
            swept.finished = self.finish_revocations(revoking, crowded, now).await?;
        }
        Ok(swept)
    }

    /// Forgets what the store remembers only for a time: uses of tokens, serials of certificates that have expired.
    pub async fn forget(&self) -> Result<()> {
        self.store.purge(&[], self.clock.now()).await
    }

    async fn expire(&self, leases: &[Lease], now: Timestamp) -> Result<usize> {
        let expired: Vec<Lease> = leases.iter().filter_map(|lease| lease.apply(Change::Expire).ok()).collect();
        if expired.is_empty() {
            return Ok(0);
        }
        let swaps = self.store.swap(&expired).await?;
        // Whoever wrote it records it: with several servers each expiry is on record once.
        let mine = expired.iter().zip(&swaps).filter(|(_, swap)| **swap == Swap::Done).map(|(lease, _)| lease);
        let events: Vec<Event> = mine.map(|lease| event_of_pass("sweep/expire", lease, now)).collect();
        let count = events.len();
        if let Err(error) = self.record(events).await {
            tracing::warn!(%error, count, "expiries are not on record");
        }
        Ok(count)
    }

    /// Revokes leases whose credential was never handed out.
    async fn close(&self, leases: Vec<Lease>, now: Timestamp) -> usize {
        let outcomes = self.revoke_batch(leases, |lease| closed_after_failure(lease, now), now, Manner::Unheld).await;
        outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).count()
    }

    /// Closes leases that were left open by calls that failed. Answers how many it closed; fails when it could close none.
    pub async fn close_open(&self) -> Result<usize> {
        let waiting = self.open.take(SWEEP_BATCH);
        if waiting.is_empty() {
            return Ok(0);
        }
        let now = self.clock.now();
        let ids: Vec<LeaseId> = waiting.iter().map(|(id, _)| *id).collect();
        let found = self.store.get(&ids).await?;
        // A write whose outcome is unknown may land late: what is missing stays listed until that is out of the question.
        let horizon = LeaseId::floor(now.checked_sub(OPEN_GRACE).unwrap_or(Timestamp::MIN));
        let (mut closed, mut unheld, mut late) = (Vec::new(), Vec::new(), Vec::new());
        for ((id, why), lease) in waiting.into_iter().zip(found) {
            match lease {
                Some(lease) if why.still_holds(&lease) => {
                    if why == Why::Revoked {
                        late.push(lease);
                    } else {
                        unheld.push(lease);
                    }
                }
                Some(_) => closed.push(id),
                None if id < horizon => closed.push(id),
                None => {}
            }
        }
        let mut failed = None;
        for (closing, manner) in [(unheld, Manner::Unheld), (late, Manner::Late)] {
            for (id, outcome) in self.revoke_batch(closing, |lease| closed_after_failure(lease, now), now, manner).await {
                match outcome {
                    // One that is `revoking` yet is the sweep's from now on.
                    Ok(_) => closed.push(id),
                    Err(error) => failed = Some(error),
                }
            }
        }
        self.open.closed(&closed);
        match failed {
            Some(error) if closed.is_empty() => Err(error),
            _ => Ok(closed.len()),
        }
    }

    /// Takes up the revocations that a process which died had on record and perhaps not in the store yet: among the newest [`RECENT`] records
    /// of the log, so that a start takes as long whatever the log holds. What was carried out is found so. Answers how many there were.
    pub async fn take_up(&self) -> Result<usize> {
        let reader = self.audit.reader();
        let after = reader.durable().borrow().saturating_sub(RECENT);
        let revoking = tokio::task::spawn_blocking(move || {
            let mut revoking = BTreeSet::new();
            for record in reader.after(after)?.take(usize::try_from(RECENT).unwrap_or(usize::MAX)) {
                let Recent { lease } = serde_json::from_str(&record?.1).map_err(Error::internal)?;
                revoking.extend(lease.filter(|lease| lease.state == LeaseState::Revoking).map(|lease| lease.id));
            }
            Ok::<_, Error>(revoking)
        });
        let revoking = revoking.await.map_err(Error::internal)??;
        for id in &revoking {
            self.open.add(*id, Why::Revoked);
        }
        Ok(revoking.len())
    }

    /// Gives back to the store what it lost: leases and revocations, from their newest snapshots in the audit log. Answers how many
    /// leases were written. A list has an entry back for as long as it says that it needs it, which may be past its lease's expiry.
    pub async fn reconcile(&self, snapshots: Vec<Lease>) -> Result<usize> {
        let now = self.clock.now();
        let revoked = snapshots.iter().filter(|lease| matches!(lease.state, LeaseState::Revoking | LeaseState::Revoked));
        let mut lists: BTreeMap<RevocationList, Vec<RevokedSerial>> = BTreeMap::new();
        for (list, entries) in revoked.flat_map(Lease::revocation) {
            lists.entry(list).or_default().extend(entries.into_iter().filter(|entry| entry.not_after > now));
        }
        for (list, entries) in snapshots.iter().filter(|lease| lease.state == LeaseState::Active).flat_map(Lease::superseded) {
            lists.entry(list).or_default().extend(entries.into_iter().filter(|entry| entry.not_after > now));
        }
        let alive: Vec<Lease> = snapshots.into_iter().filter(|lease| lease.expires_at > now).collect();
        let mut restored = 0;
        for batch in alive.chunks(crate::store::MAX_BATCH) {
            restored += self.store.restore(batch).await?;
        }
        for (list, entries) in lists.iter().filter(|(_, entries)| !entries.is_empty()) {
            self.store.add_revoked(list, entries).await?;
        }
        if restored > 0 {
            let mut event = Event::new(now, "reconcile/restore", crate::model::event::Outcome::Done);
            event.actor = Some(crate::model::event::Actor::service("reconcile/restore"));
            event.detail.push(format!("{restored} leases were restored from the audit log"));
            self.record(vec![event]).await?;
        }
        Ok(restored)
    }
}

/// How far back the audit log can hold a lease that is still alive: what roles give today says nothing of what they gave before.
pub const LONGEST_LIFE: SignedDuration = SignedDuration::from_hours(24 * 91);
const _: () = assert!(LONGEST_LIFE.as_secs() > MAX_LIFE.as_secs());

fn closed_after_failure(lease: &Lease, now: Timestamp) -> Event {
    let mut event = Event { lease: Some(lease.clone()), ..event_of_pass("sweep/close", lease, now) };
    event.detail.push("a call that made or revoked this lease failed half-way; what it may have left is closed".to_owned());
    event
}
