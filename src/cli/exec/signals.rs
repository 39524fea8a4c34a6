//! The signals that this process gets, with who sent them.
//!
//! On a terminal the command is in our process group, and the kernel sends what is typed (Ctrl-C, Ctrl-\) to both of us: that must
//! not be passed on, or it would arrive twice. What another process sends to us alone must be. So the sender matters.

use std::fs;

use rustix::process::Signal;
use signal_hook::{
    iterator::{Handle, SignalsInfo, exfiltrator::WithOrigin},
    low_level::siginfo::{Cause, Origin},
};
use tokio::sync::mpsc;

use crate::client::error::{Error, Kind, Result};

/// What is caught and passed on. Stopping and continuing is left to the kernel, which does it to the whole job.
const CAUGHT: [Signal; 7] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::USR1, Signal::USR2, Signal::WINCH];

/// Signals that wait to be passed on; more than that say nothing new.
const WAITING: usize = 64;

/// A signal that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caught {
    /// Which.
    pub signal: Signal,
    /// Who sent it; none when the kernel did, for the terminal.
    pub sender: Option<i32>,
}

impl Caught {
    /// Whether it asks to end, and not only tells something.
    pub fn ends(&self) -> bool {
        [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM].contains(&self.signal)
    }
}

/// The signals as they come; nothing is caught any more when this is dropped.
pub struct Signals {
    caught: mpsc::Receiver<Caught>,
    handle: Handle,
}

impl Signals {
    /// Catches signals from now on. What was ignored when this process began (by `nohup`, or for a job in the background of a
    /// script) stays ignored, for the command too.
    pub fn catch() -> Result<Self> {
        let fault = |error: std::io::Error| Error::new(Kind::Other, "SYSTEM", format!("signals cannot be caught: {error}"));
        let ignored = fs::read_to_string("/proc/self/status").map_or(0, |status| ignored(&status));
        let numbers = CAUGHT.iter().map(|signal| signal.as_raw()).filter(|number| ignored & (1 << (number - 1)) == 0);
        let mut signals = SignalsInfo::<WithOrigin>::new(numbers).map_err(fault)?;
        let handle = signals.handle();
        let (sender, caught) = mpsc::channel(WAITING);
        let take = move || {
            for caught in signals.forever().filter_map(|origin| read(&origin)) {
                // When so many wait, one more says nothing new.
                let _ = sender.try_send(caught);
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(take).map_err(fault)?;
        Ok(Self { caught, handle })
    }

    /// The next one. Dropping the future loses none.
    pub async fn next(&mut self) -> Caught {
        match self.caught.recv().await {
            Some(caught) => caught,
            // The thread has ended, which it does only with this value.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.handle.close();
    }
}

fn read(origin: &Origin) -> Option<Caught> {
    let signal = Signal::from_named_raw(origin.signal)?;
    let sender = match origin.cause {
        Cause::Kernel => None,
        _ => origin.process.map(|process| process.pid),
    };
    Some(Caught { signal, sender })
}

/// The mask of ignored signals in `/proc/self/status`: bit n-1 is signal n (proc(5)).
fn ignored(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        assert_eq!(ignored("Name:\tx\nSigIgn:\t0000000000000003\nSigCgt:\t00\n"), 3);
        assert_eq!(ignored("Name:\tx\n"), 0);
    }
}
