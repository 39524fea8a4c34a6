//! The values that flags take, parsed once.

use std::{str::FromStr, time::Duration};

use jiff::{SignedDuration, Timestamp};

use crate::model::{enrollment::EnrollmentId, lease::LeaseId, request::RequestId};

/// The longest request id, in bytes.
pub const MAX_REQUEST_ID: usize = 128;

/// The longest reason, in bytes.
pub const MAX_REASON: usize = 256;

/// A time, or a span before now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// A time.
    At(Timestamp),
    /// This long ago.
    Ago(SignedDuration),
}

impl Before {
    /// The time, counted back from `now`.
    pub fn resolve(self, now: Timestamp) -> Result<Timestamp, jiff::Error> {
        match self {
            Self::At(at) => Ok(at),
            Self::Ago(span) => now.checked_sub(span),
        }
    }
}

impl FromStr for Before {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(at) = text.parse() {
            return Ok(Self::At(at));
        }
        span(text).map(Self::Ago).map_err(|_| "write a time like 2026-01-31T12:00:00Z, or a span like 2h".to_owned())
    }
}

/// A span of zero or more: "15m", "1h30m", "90s"; a bare number is seconds.
fn span(text: &str) -> Result<SignedDuration, String> {
    let text = text.trim();
    let wrong = || "write a span like 15m, 90s or 1h30m".to_owned();
    let found = match text.parse::<u32>() {
        Ok(seconds) => SignedDuration::from_secs(seconds.into()),
        Err(_) => text.parse().map_err(|_| wrong())?,
    };
    if found.is_negative() { Err(wrong()) } else { Ok(found) }
}

/// A life: whole seconds, at least one.
pub(super) fn ttl(text: &str) -> Result<SignedDuration, String> {
    let found = span(text)?;
    if found.as_secs() < 1 || found.subsec_nanos() != 0 {
        return Err("it must be whole seconds, and at least one".to_owned());
    }
    Ok(found)
}

/// A time limit: 1 ms to 1 h.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    let found = Duration::try_from(span(text)?).map_err(|error| error.to_string())?;
    let allowed = Duration::from_millis(1)..=Duration::from_secs(3600);
    if !allowed.contains(&found) {
        return Err("it must be between 1ms and 1h".to_owned());
    }
    Ok(found)
}

/// 1 to [`MAX_REQUEST_ID`] printable ASCII characters without spaces, as the server takes it.
pub(super) fn request_id(text: &str) -> Result<String, String> {
    let id = RequestId::try_from(text.to_owned());
    id.map(|id| id.as_str().to_owned()).map_err(|_| format!("it must be 1 to {MAX_REQUEST_ID} printable ASCII characters, none a space"))
}

/// At most [`MAX_REASON`] bytes without control characters, as the server takes it.
pub(super) fn reason(text: &str) -> Result<String, String> {
    if text.len() > MAX_REASON || text.chars().any(char::is_control) {
        return Err(format!("it must be at most {MAX_REASON} bytes without control characters"));
    }
    Ok(text.to_owned())
}

/// A lease's id, as the server writes it.
pub(super) fn lease_id(text: &str) -> Result<String, String> {
    text.parse::<LeaseId>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// An enrolment's id, as the server writes it.
pub(super) fn enrollment_id(text: &str) -> Result<String, String> {
    text.parse::<EnrollmentId>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// The name of a role or a tenant.
pub(super) fn name<N: FromStr<Err: ToString>>(text: &str) -> Result<String, String> {
    text.parse::<N>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (text, seconds) in
            [("15m", 900), ("1h30m", 5_400), ("90s", 90), ("1h 30m", 5_400), ("90", 90), ("PT5M", 300), ("2 hours", 7_200)]
        {
            assert_eq!(span(text), Ok(SignedDuration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "m", "-5m", "5 parsecs", "15m ago", "1e9", "99999999999"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_the_server_would_refuse_is_refused_here() {
        assert_eq!(request_id("ci-42/deploy!"), Ok("ci-42/deploy!".to_owned()));
        for bad in ["", "a b", "a\t", "\u{e4}", &"a".repeat(MAX_REQUEST_ID + 1)] {
            assert!(request_id(bad).is_err(), "{bad:?}");
        }
        assert_eq!(reason("key lost, \u{e4}h"), Ok("key lost, \u{e4}h".to_owned()));
        for bad in ["a\nb", "\u{1b}[2J", "\u{9b}", &"a".repeat(MAX_REASON + 1)] {
            assert!(reason(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn before_is_a_time_or_a_span_ago() {
        let now: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        let at = |text: &str| text.parse::<Before>().unwrap().resolve(now).unwrap().to_string();
        assert_eq!(at("2h"), "2026-01-31T10:00:00Z");
        assert_eq!(at("2025-12-31T00:00:00+01:00"), "2025-12-30T23:00:00Z");
        assert!("yesterday".parse::<Before>().is_err());
    }
}
