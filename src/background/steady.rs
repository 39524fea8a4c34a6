//! A wall clock that jumps forward must delete nothing and end nothing: what goes by the time waits until as much time has really passed.
//!
//! A machine that was suspended looks just the same, for [`Instant`] does not count that time on every system: what is to be deleted then waits
//! for as long as it slept.

use std::time::{Duration, Instant};

use crate::model::Timestamp;

/// How far the wall clock may run ahead of the time that passed (it is slewed, or the machine was busy).
pub const TOLERATED: Duration = Duration::from_secs(60);

/// Compares the wall clock with the time that passes.
pub struct Steady {
    wall: Timestamp,
    at: Instant,
    held_until: Option<Instant>,
}

impl Steady {
    /// Begins to compare.
    pub fn new(wall: Timestamp, at: Instant) -> Self {
        Self { wall, at, held_until: None }
    }

    /// Whether the wall clock can be gone by now. After a jump forward it cannot, until the time that it skipped has passed or it was set
    /// back.
    pub fn holds(&mut self, wall: Timestamp, at: Instant) -> bool {
        let passed = at.saturating_duration_since(self.at);
        let walked = wall.duration_since(self.wall);
        (self.wall, self.at) = (wall, at);
        match Duration::try_from(walked) {
            Ok(walked) if walked > passed + TOLERATED => {
                let skipped = walked.saturating_sub(passed);
                tracing::error!(?skipped, "the wall clock jumped forward; nothing expires or is forgotten until that time has passed");
                self.held_until = at.checked_add(skipped).or(self.held_until);
            }
            Ok(_) => {}
            Err(_) => self.held_until = None,
        }
        self.held_until.is_none_or(|until| at >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SignedDuration;

    fn start() -> (Timestamp, Instant) {
        ("2027-01-15T08:00:00Z".parse().unwrap(), Instant::now())
    }

    #[test]
    fn a_jump_forward_holds_until_that_time_has_passed() {
        let (wall, at) = start();
        let mut steady = Steady::new(wall, at);
        let (second, hour) = (Duration::from_secs(1), SignedDuration::from_hours(1));
        assert!(steady.holds(wall + SignedDuration::from_secs(1), at + second));
        assert!(!steady.holds(wall + hour, at + second * 2));
        assert!(!steady.holds(wall + hour + SignedDuration::from_secs(1), at + second * 3));
        let passed = Duration::from_secs(3600);
        assert!(steady.holds(wall + hour * 2, at + passed + second));
    }

    #[test]
    fn a_clock_that_is_put_right_is_believed_at_once() {
        let (wall, at) = start();
        let mut steady = Steady::new(wall, at);
        let second = Duration::from_secs(1);
        assert!(!steady.holds(wall + SignedDuration::from_hours(100), at + second));
        assert!(steady.holds(wall + SignedDuration::from_secs(2), at + second * 2));
    }

    #[test]
    fn a_clock_that_is_slewed_is_no_jump() {
        let (wall, at) = start();
        let mut steady = Steady::new(wall, at);
        assert!(steady.holds(wall + SignedDuration::from_secs(3000), at + Duration::from_secs(2990)));
    }
}
