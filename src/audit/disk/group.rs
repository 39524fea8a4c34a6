//! How long the writer waits for more appends before it commits a group.
//!
//! One sync costs the same for one record as for a hundred, so under load it pays to wait a little. For a lone caller it only costs
//! time. So the writer waits only when it knows of more callers than have appended: those that it has just answered, together
//! with those that queued meanwhile, were all in flight at one moment, and are different requests.

use std::time::Duration;

/// The longest wait for more appends.
pub(super) const LINGER: Duration = Duration::from_millis(1);

/// What the writer knows of the load.
#[derive(Debug, Default)]
pub(super) struct Load {
    in_flight: usize,
}

impl Load {
    /// A group of `answered` appends was answered while `queued` more had come.
    pub(super) fn answered(&mut self, answered: usize, queued: usize) {
        self.in_flight = answered + queued;
    }

    /// How many appends to wait for, for [`LINGER`] at most, when the first one came after `idle`; 1 is no wait.
    pub(super) fn expected(&self, idle: Duration) -> usize {
        // After a pause the callers of before are gone.
        if idle > LINGER { 1 } else { self.in_flight.max(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_caller_is_never_kept_waiting() {
        let mut load = Load::default();
        for idle in [0, 1, 10, 10_000].map(Duration::from_micros) {
            assert_eq!(load.expected(idle), 1);
            load.answered(1, 0);
        }
    }

    #[test]
    fn callers_that_overlapped_are_waited_for_and_forgotten_after_a_pause() {
        let mut load = Load::default();
        load.answered(1, 2);
        assert_eq!(load.expected(Duration::ZERO), 3);
        assert_eq!(load.expected(LINGER + Duration::from_micros(1)), 1);
        load.answered(1, 0);
        assert_eq!(load.expected(Duration::ZERO), 1);
    }
}
