//! What goes wrong on the way to the server and back: how a script should treat it, a stable code, a line that helps.

use std::{borrow::Cow, fmt};

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::text;

/// The longest text of a server that is passed on, in characters.
pub const MAX_SERVER_TEXT: usize = 2_000;

/// The longest id of a call that is passed on, in characters.
pub const MAX_CALL_ID: usize = 64;

/// The metadata that holds it.
const CALL_ID: &str = "x-daypass-call-id";

/// How a script should treat an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The caller must change the command or its settings.
    Usage,
    /// The server does not know who is asking.
    NotAuthenticated,
    /// The server knows, and says no.
    Denied,
    /// There is no such thing.
    NotFound,
    /// Trying again later can help.
    Unavailable,
    /// Anything else.
    Other,
}

/// An error, ready to be shown. Holds nothing secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    code: Cow<'static, str>,
    message: String,
    call_id: Option<String>,
}

/// What a fallible step of the client gives.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of our own making.
    pub fn new(kind: Kind, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { kind, code: code.into(), message: message.into(), call_id: None }
    }

    /// The caller must change the command or its settings.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, "USAGE", message)
    }

    /// The server cannot be reached.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, "UNAVAILABLE", message)
    }

    /// It took longer than `--timeout`.
    pub fn timed_out(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, "DEADLINE_EXCEEDED", message)
    }

    /// The server answered with something that the contract does not know.
    pub fn bad_answer(what: impl fmt::Display) -> Self {
        Self::new(Kind::Other, "BAD_ANSWER", format!("the server's answer {what}; is daypass as new as daypassd?"))
    }

    /// From the status of a call: the kind by its gRPC code, the stable reason from `google.rpc.ErrorInfo` when it is
    /// there, else the code's own name. A status that was made on this side, because the connection broke, is unavailable.
    pub fn from_status(status: &Status) -> Self {
        if broken_connection(status) {
            return Self::unavailable("the connection to the server broke before it answered; try again, and look at the server's log");
        }
        let (kind, name) = kind_and_name(status.code());
        let code = match status.get_details_error_info() {
            Some(info) if is_reason(&info.reason) => Cow::Owned(info.reason),
            _ => Cow::Borrowed(name),
        };
        let message = match status.message() {
            "" => format!("the server says {name}"),
            message => text::one_line(message).chars().take(MAX_SERVER_TEXT).collect(),
        };
        Self { kind, code, message, call_id: call_id(status) }
    }

    /// The same with a hint of what to do next.
    #[must_use]
    pub fn hint(mut self, hint: &str) -> Self {
        self.message = format!("{}; {hint}", self.message.trim_end_matches('.'));
        self
    }

    /// How a script should treat it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The stable code: SCREAMING_SNAKE_CASE.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The text for people: one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What the server's log and audit record know the call by, where they say more than the caller is told: of a defect, and of
    /// what is unavailable.
    pub fn call_id(&self) -> Option<&str> {
        self.call_id.as_deref()
    }

    /// Whether the same call may be sent again.
    pub fn is_retryable(&self) -> bool {
        self.kind == Kind::Unavailable && self.code != "DEADLINE_EXCEEDED"
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The name as in <https://github.com/grpc/grpc/blob/master/doc/statuscodes.md>.
fn kind_and_name(code: Code) -> (Kind, &'static str) {
    match code {
        Code::Ok => (Kind::Other, "OK"),
        Code::Cancelled => (Kind::Other, "CANCELLED"),
        Code::Unknown => (Kind::Other, "UNKNOWN"),
        Code::InvalidArgument => (Kind::Other, "INVALID_ARGUMENT"),
        Code::DeadlineExceeded => (Kind::Unavailable, "DEADLINE_EXCEEDED"),
        Code::NotFound => (Kind::NotFound, "NOT_FOUND"),
        Code::AlreadyExists => (Kind::Other, "ALREADY_EXISTS"),
        Code::PermissionDenied => (Kind::Denied, "PERMISSION_DENIED"),
        Code::ResourceExhausted => (Kind::Other, "RESOURCE_EXHAUSTED"),
        Code::FailedPrecondition => (Kind::Other, "FAILED_PRECONDITION"),
        Code::Aborted => (Kind::Other, "ABORTED"),
        Code::OutOfRange => (Kind::Other, "OUT_OF_RANGE"),
        Code::Unimplemented => (Kind::Other, "UNIMPLEMENTED"),
        Code::Internal => (Kind::Other, "INTERNAL"),
        Code::Unavailable => (Kind::Unavailable, "UNAVAILABLE"),
        Code::DataLoss => (Kind::Other, "DATA_LOSS"),
        Code::Unauthenticated => (Kind::NotAuthenticated, "UNAUTHENTICATED"),
    }
}

/// The call id, where the operator who has the log can help with it.
fn call_id(status: &Status) -> Option<String> {
    let helps = matches!(status.code(), Code::Internal | Code::Unknown | Code::Unavailable | Code::DeadlineExceeded);
    let id = status.metadata().get(CALL_ID)?.to_str().ok()?;
    let is_id = (1..=MAX_CALL_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    (helps && is_id).then(|| id.to_owned())
}

/// Whether a status came from our own transport and not from the server: only then it has a source.
fn broken_connection(status: &Status) -> bool {
    use std::error::Error as _;
    status.source().is_some()
}

/// The form of a reason, as `google.rpc.ErrorInfo` states it: at most 63 characters of [A-Z0-9_].
fn is_reason(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn each_grpc_code_has_its_kind() {
        let kinds = [
            (Code::Unauthenticated, Kind::NotAuthenticated, "UNAUTHENTICATED"),
            (Code::PermissionDenied, Kind::Denied, "PERMISSION_DENIED"),
            (Code::NotFound, Kind::NotFound, "NOT_FOUND"),
            (Code::Unavailable, Kind::Unavailable, "UNAVAILABLE"),
            (Code::DeadlineExceeded, Kind::Unavailable, "DEADLINE_EXCEEDED"),
            (Code::InvalidArgument, Kind::Other, "INVALID_ARGUMENT"),
            (Code::ResourceExhausted, Kind::Other, "RESOURCE_EXHAUSTED"),
            (Code::Internal, Kind::Other, "INTERNAL"),
        ];
        for (code, kind, name) in kinds {
            let error = Error::from_status(&Status::new(code, "why"));
            assert_eq!((error.kind(), error.code(), error.message()), (kind, name, "why"));
        }
    }

    #[test]
    fn the_stable_reason_wins_over_the_codes_name() {
        let details = ErrorDetails::with_error_info("TOKEN_EXPIRED", "daypass", std::collections::HashMap::new());
        let status = Status::with_error_details(Code::Unauthenticated, "the token has expired", details);
        assert_eq!(Error::from_status(&status).code(), "TOKEN_EXPIRED");
    }

    #[test]
    fn a_reason_of_another_form_is_not_taken() {
        for reason in ["", "lower", "WITH SPACE", "\u{1b}[31mRED", &"A".repeat(64)] {
            let details = ErrorDetails::with_error_info(reason, "daypass", std::collections::HashMap::new());
            let status = Status::with_error_details(Code::NotFound, "gone", details);
            assert_eq!(Error::from_status(&status).code(), "NOT_FOUND", "{reason:?}");
        }
    }

    #[test]
    fn a_servers_text_is_one_bounded_line_without_control_characters() {
        let error = Error::from_status(&Status::internal(format!("a\r\nb\u{1b}[2Jc{}", "x".repeat(3_000))));
        assert!(error.message().starts_with("a b\u{fffd}[2Jc"), "{}", error.message());
        assert_eq!(error.message().chars().count(), MAX_SERVER_TEXT);
    }

    #[test]
    fn the_call_id_is_passed_on_where_the_servers_log_says_more() {
        let with_id = |code, id: &str| {
            let mut status = Status::new(code, "why");
            status.metadata_mut().insert(CALL_ID, id.parse().unwrap());
            Error::from_status(&status).call_id().map(str::to_owned)
        };
        for code in [Code::Internal, Code::Unknown, Code::Unavailable, Code::DeadlineExceeded] {
            assert_eq!(with_id(code, "0af3").as_deref(), Some("0af3"));
        }
        for code in [Code::PermissionDenied, Code::NotFound, Code::InvalidArgument, Code::Unauthenticated] {
            assert_eq!(with_id(code, "0af3"), None);
        }
        for bad in ["", "a b", "a;b", &"a".repeat(MAX_CALL_ID + 1)] {
            assert_eq!(with_id(Code::Internal, bad), None, "{bad:?}");
        }
        assert_eq!(Error::from_status(&Status::internal("why")).call_id(), None);
    }

    #[test]
    fn only_what_may_pass_by_itself_is_tried_again() {
        assert!(Error::from_status(&Status::unavailable("")).is_retryable());
        assert!(!Error::from_status(&Status::deadline_exceeded("")).is_retryable());
        assert!(!Error::from_status(&Status::internal("")).is_retryable());
        assert!(!Error::timed_out("").is_retryable());
    }
}
