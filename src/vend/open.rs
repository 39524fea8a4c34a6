//! What failed half-way and must be closed: a bounded list in memory, beside what the store itself has due.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::model::lease::{Lease, LeaseId};

/// The most leases that wait in memory to be closed. More than that (a store that is away for long under load) run to their
/// expiry instead, and the log names them.
pub const MAX_OPEN: usize = 10_000;

/// Why a lease is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Its credential was handed to nobody, unless a retry of the same request took the lease over meanwhile.
    NeverHandedOut {
        /// The newest version that the call which failed may have left.
        version: u32,
    },
    /// Its revocation is on record, or may be.
    Revoked,
}

impl Why {
    /// The credential of this lease was handed to nobody.
    pub(super) fn not_handed_out(lease: &Lease) -> Self {
        Self::NeverHandedOut { version: lease.version }
    }

    /// Whether a lease, as it is stored now, is still to be closed.
    pub(super) fn still_holds(self, lease: &Lease) -> bool {
        match self {
            // Every change counts the version up, a retry that takes it over too.
            Self::NeverHandedOut { version } => lease.version <= version,
            Self::Revoked => true,
        }
    }
}

/// Leases to be closed as soon as store and log answer.
#[derive(Default)]
pub struct Open {
    waiting: Mutex<BTreeMap<LeaseId, Why>>,
    ring: Notify,
}

impl Open {
    /// Remembers a lease to be closed, and rings when it is a new one. Of two reasons the stronger one stays: a revocation holds whoever
    /// takes the lease over.
    pub(super) fn add(&self, id: LeaseId, why: Why) {
        let mut waiting = self.waiting();
        let full = waiting.len() >= MAX_OPEN && !waiting.contains_key(&id);
        let before = waiting.get(&id).copied();
        let new = !full && before.is_none();
        if !full && before != Some(Why::Revoked) {
            waiting.insert(id, why);
        }
        drop(waiting);
        if full {
            tracing::error!(lease = %id, ?why, "too many leases wait to be closed; this one runs to its expiry");
        }
        if new {
            self.ring.notify_one();
        }
    }

    /// Whether a lease is to be closed: it must not be handed out to a retry meanwhile.
    pub(super) fn holds(&self, id: LeaseId) -> bool {
        self.waiting().contains_key(&id)
    }

    /// Up to `limit` of them, oldest first; they stay listed until [`Open::closed`].
    pub(super) fn take(&self, limit: usize) -> Vec<(LeaseId, Why)> {
        self.waiting().iter().take(limit).map(|(id, why)| (*id, *why)).collect()
    }

    /// Forgets what was closed.
    pub(super) fn closed(&self, ids: &[LeaseId]) {
        let mut waiting = self.waiting();
        for id in ids {
            waiting.remove(id);
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting().len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Resolves when something was added.
    pub async fn rung(&self) {
        self.ring.notified().await;
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<LeaseId, Why>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    #[test]
    fn it_is_bounded_and_keeps_what_it_has() {
        let (open, tenant) = (Open::default(), "acme".parse().unwrap());
        let id = |n: usize| {
            let mut random = [0; 10];
            random[..8].copy_from_slice(&n.to_be_bytes());
            LeaseId::new(Timestamp::UNIX_EPOCH, random.map(|byte| byte.rotate_left(4)), &tenant)
        };
        for n in 0..MAX_OPEN + 10 {
            open.add(id(n), Why::NeverHandedOut { version: 1 });
        }
        assert!(open.len() <= MAX_OPEN);
        let (first, _) = open.take(1)[0];
        open.add(first, Why::Revoked);
        assert_eq!(open.take(1), [(first, Why::Revoked)], "what is listed already is never turned away");
        open.add(first, Why::NeverHandedOut { version: 1 });
        assert_eq!(open.take(1), [(first, Why::Revoked)], "a revocation holds, whatever fails after it");
        open.closed(&[first]);
        assert!(!open.holds(first));
    }
}
