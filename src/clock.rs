//! Time and randomness. Everything else takes them as a parameter.

mod backoff;

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::sleep;

pub use backoff::Backoff;

/// How often [`until`] looks at the clock: a machine that sleeps does not count the time.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Now, in UTC.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        // The one place that reads the wall clock; clippy.toml bans it elsewhere.
        #[allow(clippy::disallowed_methods)]
        let now = Timestamp::now();
        // Milliseconds are what leases and the contract keep; finer ones would differ between an answer and its record.
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }
}

/// Waits until a time has come.
pub async fn until(clock: &dyn Clock, at: Timestamp) {
    while let Ok(left) = Duration::try_from(clock.now().duration_until(at))
        && !left.is_zero()
    {
        sleep(left.min(LOOK_EVERY)).await;
    }
}

/// Fills an array with random bytes from the system's generator.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("aws-lc's generator cannot fail once the process runs; without it nothing may be minted");
    bytes
}
