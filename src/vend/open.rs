//! What failed half-way and must be closed: a bounded list in memory, beside what the store itself has due.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use tokio::sync::Notify;

use crate::model::lease::LeaseId;

/// The most leases that wait in memory to be closed. More than that (a store that is away for long under load) run to their
/// expiry instead: none of them was ever handed out.
pub const MAX_OPEN: usize = 10_000;

/// Leases whose credential never left, to be closed as soon as the store answers.
#[derive(Default)]
pub struct Open {
    abandoned: Mutex<BTreeSet<LeaseId>>,
    ring: Notify,
}

impl Open {
    /// Remembers a lease whose credential was not handed out.
    pub(super) fn abandon(&self, id: LeaseId) {
        let mut abandoned = self.abandoned.lock().unwrap_or_else(PoisonError::into_inner);
        if abandoned.len() < MAX_OPEN {
            abandoned.insert(id);
        } else {
            tracing::error!(lease = %id, "too many leases wait to be closed; this one runs to its expiry, its credential was never handed out");
        }
        drop(abandoned);
        self.ring.notify_one();
    }

    /// Whether a lease is to be closed: it must not be handed out to a retry meanwhile.
    pub(super) fn holds(&self, id: LeaseId) -> bool {
        self.abandoned.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// Up to `limit` of them, oldest first; they stay listed until [`Open::closed`].
    pub(super) fn take(&self, limit: usize) -> Vec<LeaseId> {
        self.abandoned.lock().unwrap_or_else(PoisonError::into_inner).iter().take(limit).copied().collect()
    }

    /// Forgets what was closed.
    pub(super) fn closed(&self, ids: &[LeaseId]) {
        let mut abandoned = self.abandoned.lock().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            abandoned.remove(id);
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.abandoned.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Resolves when something was added.
    pub async fn rung(&self) {
        self.ring.notified().await;
    }
}
