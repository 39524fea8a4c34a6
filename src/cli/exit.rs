//! How the process ends.

use std::io;

use crate::client::error::{Error, Kind};

/// The exit code: a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Anything that the others do not say.
    Failed = 1,
    /// The command or its settings are wrong.
    Usage = 2,
    /// The server does not know who asks.
    NotAuthenticated = 3,
    /// The server says no.
    Denied = 4,
    /// There is no such thing.
    NotFound = 5,
    /// Unavailable, or timed out.
    Unavailable = 6,
    /// Ended by SIGINT: 128 and its number, as shells have it.
    Interrupted = 130,
    /// Ended by SIGTERM.
    Terminated = 143,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<Kind> for Exit {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Usage => Self::Usage,
            Kind::NotAuthenticated => Self::NotAuthenticated,
            Kind::Denied => Self::Denied,
            Kind::NotFound => Self::NotFound,
            Kind::Unavailable => Self::Unavailable,
            Kind::Other => Self::Failed,
        }
    }
}

/// Why a command stops early.
#[derive(Debug)]
pub enum Stop {
    /// An error to tell.
    Error(Error),
    /// Whoever read our output has gone: nothing is left to say.
    ClosedPipe,
    /// The process was told to end.
    Signal(Exit),
}

/// What a command gives.
pub type Outcome<T = Exit> = Result<T, Stop>;

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Of standard output.
impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ClosedPipe,
            _ => Self::Error(Error::new(Kind::Other, "OUTPUT", format!("standard output cannot be written: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_contract() {
        let codes = [
            (Kind::Usage, 2),
            (Kind::NotAuthenticated, 3),
            (Kind::Denied, 4),
            (Kind::NotFound, 5),
            (Kind::Unavailable, 6),
            (Kind::Other, 1),
        ];
        for (kind, code) in codes {
            assert_eq!(Exit::from(kind) as u8, code);
        }
        assert_eq!(Exit::Done as u8, 0);
    }

    #[test]
    fn a_closed_pipe_is_no_error_and_a_full_disk_is() {
        assert!(matches!(Stop::from(io::Error::from(io::ErrorKind::BrokenPipe)), Stop::ClosedPipe));
        assert!(matches!(Stop::from(io::Error::from(io::ErrorKind::StorageFull)), Stop::Error(_)));
    }
}
