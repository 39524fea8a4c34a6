//! How the process ends.

use std::io;

use crate::client::error::{Error, Kind};

/// The exit code: a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// Anything that the others do not say.
    Failed,
    /// The command or its settings are wrong.
    Usage,
    /// The server does not know who asks.
    NotAuthenticated,
    /// The server says no.
    Denied,
    /// There is no such thing.
    NotFound,
    /// Unavailable, or timed out.
    Unavailable,
    /// Ended by SIGINT.
    Interrupted,
    /// Ended by SIGTERM.
    Terminated,
    /// What `exec` has from its command.
    Command(u8),
}

impl Exit {
    /// Ended by a signal: 128 and its number, as shells have it.
    pub fn signal(number: i32) -> Self {
        u8::try_from(number).map_or(Self::Failed, |number| Self::Command(128_u8.saturating_add(number)))
    }

    /// The number itself.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotAuthenticated => 3,
            Self::Denied => 4,
            Self::NotFound => 5,
            Self::Unavailable => 6,
            Self::Interrupted => 130,
            Self::Terminated => 143,
            Self::Command(code) => code,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
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
            assert_eq!(Exit::from(kind).code(), code);
        }
        assert_eq!(Exit::Done.code(), 0);
        assert_eq!((Exit::signal(2), Exit::signal(9).code()), (Exit::Command(130), 137));
    }

    #[test]
    fn a_closed_pipe_is_no_error_and_a_full_disk_is() {
        assert!(matches!(Stop::from(io::Error::from(io::ErrorKind::BrokenPipe)), Stop::ClosedPipe));
        assert!(matches!(Stop::from(io::Error::from(io::ErrorKind::StorageFull)), Stop::Error(_)));
    }
}
