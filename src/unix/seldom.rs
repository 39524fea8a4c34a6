//! Lines of the log that whoever connects brings about: nobody must fill the disk with them.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How many lines of one kind are written in [`WINDOW`]; metrics count the others.
pub const MAX_LINES: u32 = 10;

/// See [`MAX_LINES`].
pub const WINDOW: Duration = Duration::from_secs(10);

/// One kind of line.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<Option<(Instant, u32)>>);

impl Seldom {
    /// Whether one more may be written at `now`.
    pub fn may(&self, now: Instant) -> bool {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (begun, written) = window.filter(|(begun, _)| now.duration_since(*begun) < WINDOW).unwrap_or((now, 0));
        *window = Some((begun, written.saturating_add(1)));
        written < MAX_LINES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_in_each_window() {
        let (seldom, begun) = (Seldom::default(), Instant::now());
        let written = |at: Duration| (0..1_000).filter(|_| seldom.may(begun + at)).count();
        assert_eq!(written(Duration::ZERO), MAX_LINES as usize);
        assert_eq!(written(WINDOW - Duration::from_millis(1)), 0);
        assert_eq!(written(WINDOW), MAX_LINES as usize);
    }
}
