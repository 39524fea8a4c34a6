//! The pauses between attempts.

use std::time::Duration;

/// Pauses that grow with each failure in a row: each is drawn between the half and the whole of a bound that begins at `first` and doubles up
/// to `longest`. Drawn, because those who lost the same server must not all come back at once.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    bound: Duration,
}

impl Backoff {
    /// No failure yet.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, bound: first }
    }

    /// How long to wait after another failure.
    pub fn pause(&mut self) -> Duration {
        let [drawn] = super::random::<1>();
        let bound = self.bound;
        self.bound = bound.saturating_mul(2).min(self.longest);
        bound / 2 + bound / 2 * u32::from(drawn) / 255
    }

    /// An attempt went well: the next failure is a first one.
    pub const fn reset(&mut self) {
        self.bound = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_secs(3);

    #[test]
    fn a_pause_is_drawn_between_half_and_all_of_a_bound_that_doubles_up_to_the_longest() {
        let mut seen = [Duration::MAX, Duration::ZERO];
        for _ in 0..200 {
            let mut backoff = Backoff::new(FIRST, LONGEST);
            for bound in [FIRST, FIRST * 2, FIRST * 4, LONGEST, LONGEST] {
                let pause = backoff.pause();
                assert!(pause >= bound / 2 && pause <= bound, "{pause:?} of {bound:?}");
                if bound == FIRST {
                    seen = [seen[0].min(pause), seen[1].max(pause)];
                }
            }
        }
        assert!(seen[0] < FIRST * 5 / 8 && seen[1] > FIRST * 7 / 8, "they are spread: {seen:?}");
    }

    #[test]
    fn what_went_well_makes_the_next_failure_a_first_one() {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        for _ in 0..5 {
            backoff.pause();
        }
        backoff.reset();
        assert!(backoff.pause() <= FIRST);
        assert!(backoff.pause() > FIRST / 2);
    }
}
