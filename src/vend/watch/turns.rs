//! Turns to take leases up. When a server dies, all its holders come to the next one at once; what they ask of the store must not keep it
//! from the rotations that are due meanwhile, and one caller's thousands must not keep another's one waiting.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::model::error::{Code, Error, Result};

/// Leases that are taken up at one server at once.
pub const TAKEN_UP_AT_ONCE: usize = 64;

/// Those of one caller among them.
pub const TAKEN_UP_AT_ONCE_PER_CALLER: usize = 16;

/// How long a holder waits for its turn before it is sent away, to come again or to go to another server.
pub const LONGEST_TURN: Duration = Duration::from_secs(5);

/// The turns of a server.
pub(super) struct Turns {
    all: Arc<Semaphore>,
    longest: Duration,
}

/// The turns of one caller.
#[derive(Clone)]
pub(super) struct CallerTurns {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
    longest: Duration,
}

/// A turn; the next one's when this is dropped.
pub(super) struct Turn {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Turns {
    /// A holder waits for its turn for at most `longest`.
    pub(super) fn new(longest: Duration) -> Self {
        Self { all: Arc::new(Semaphore::new(TAKEN_UP_AT_ONCE)), longest }
    }

    pub(super) fn of_a_caller(&self) -> CallerTurns {
        CallerTurns { own: Arc::new(Semaphore::new(TAKEN_UP_AT_ONCE_PER_CALLER)), all: self.all.clone(), longest: self.longest }
    }
}

impl CallerTurns {
    /// Waits for a turn, in order of arrival.
    ///
    /// # Errors
    /// `Unavailable` after the longest wait.
    pub(super) async fn next(&self) -> Result<Turn> {
        let turn = async {
            // The caller's first: who waits for its own stands in nobody's way.
            let own = self.own.clone().acquire_owned().await?;
            Ok(Turn { _own: own, _all: self.all.clone().acquire_owned().await? })
        };
        match timeout(self.longest, turn).await {
            Ok(turn) => turn.map_err(|closed: AcquireError| Error::internal(closed)),
            Err(_) => Err(Error::new(Code::Unavailable, "too many leases are being taken up here; try again, or another server")),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    async fn all_of(turns: &CallerTurns) -> Vec<Turn> {
        let mut taken = Vec::new();
        while let Some(turn) = turns.next().now_or_never() {
            taken.push(turn.unwrap());
        }
        taken
    }

    #[tokio::test]
    async fn a_caller_has_its_part_and_all_have_theirs() {
        let turns = Turns::new(Duration::from_millis(1));
        let first = turns.of_a_caller();
        let taken = all_of(&first).await;
        assert_eq!(taken.len(), TAKEN_UP_AT_ONCE_PER_CALLER);
        let mut others = Vec::new();
        while let more = all_of(&turns.of_a_caller()).await
            && !more.is_empty()
        {
            others.extend(more);
        }
        assert_eq!(taken.len() + others.len(), TAKEN_UP_AT_ONCE);

        let refused = first.next().await.err().expect("nobody gave a turn back");
        assert_eq!(refused.code(), Code::Unavailable);
        drop(taken);
        assert_eq!(all_of(&first).await.len(), TAKEN_UP_AT_ONCE_PER_CALLER, "who went away has left nothing behind");
    }
}
