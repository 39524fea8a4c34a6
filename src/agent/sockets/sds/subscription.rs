//! What a client of a stream wants, has and has rejected: the state-of-the-world protocol, without the stream.

use std::collections::BTreeSet;

use tonic::Status;

use super::secret::{Found, TYPE_URL};
use crate::proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};

/// The most secrets of one stream. Envoy opens a stream for each.
pub const MAX_NAMES: usize = 128;

/// The longest name of one, in bytes: as long as a SPIFFE ID may be.
pub const MAX_NAME: usize = 2048;

/// Which secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Names {
    /// All that the process may have: its first request named none.
    All,
    /// These.
    Of(BTreeSet<String>),
}

/// What a request was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    /// A subscription: it is answered now.
    Subscribed,
    /// The last response is in use.
    Accepted,
    /// The last response is not in use, and what was before it is.
    Rejected {
        /// What it was called.
        version: String,
        /// As the client says.
        reason: String,
    },
    /// About a response that is not the last.
    Stale,
}

/// A stream's state.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    names: Option<Names>,
    /// The version that was sent last, accepted or not: it is sent again only when it is asked for.
    sent: Option<String>,
    /// How many responses were sent: the nonce of the last.
    count: u64,
}

impl Subscription {
    /// Whether a request came.
    pub fn has_begun(&self) -> bool {
        self.names.is_some()
    }

    /// What it wants; nothing before it began.
    pub fn names(&self) -> &Names {
        static NOTHING: Names = Names::Of(BTreeSet::new());
        self.names.as_ref().unwrap_or(&NOTHING)
    }

    /// Takes a request.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for one that the protocol does not know or that is too large.
    pub fn hear(&mut self, request: &DiscoveryRequest) -> Result<Heard, Status> {
        if !matches!(request.type_url.as_str(), "" | TYPE_URL) {
            return Err(Status::invalid_argument(format!("only {TYPE_URL} is served here")));
        }
        if request.resource_names.len() > MAX_NAMES || request.resource_names.iter().any(|name| name.len() > MAX_NAME) {
            return Err(Status::invalid_argument(format!("at most {MAX_NAMES} names of {MAX_NAME} bytes each are taken")));
        }
        let is_first = request.response_nonce.is_empty();
        // Only an older response's nonce is stale: since the last one the names may have changed, and nothing been there for the new ones.
        if !is_first && (self.count == 0 || request.response_nonce != self.count.to_string()) {
            return Ok(Heard::Stale);
        }
        let version = self.sent.clone().unwrap_or_default();
        if self.take_names(&request.resource_names) || is_first {
            self.sent = None;
        }
        Ok(match (&request.error_detail, is_first) {
            (Some(error), false) => Heard::Rejected { version, reason: error.message.clone() },
            (None, false) => Heard::Accepted,
            (_, true) => Heard::Subscribed,
        })
    }

    /// The response to send: none when there is nothing to send, or nothing but what was sent.
    pub fn answer(&mut self, found: Found) -> Option<DiscoveryResponse> {
        // A response without a secret would say that it is gone: a client that has one keeps it until there is another.
        if found.secrets.is_empty() || self.sent.as_ref() == Some(&found.version) {
            return None;
        }
        self.count += 1;
        self.sent = Some(found.version.clone());
        Some(DiscoveryResponse {
            version_info: found.version,
            resources: found.secrets,
            type_url: TYPE_URL.to_owned(),
            nonce: self.count.to_string(),
        })
    }

    /// Whether they are others than before. No name at all means all in the first request, and none in a later one.
    fn take_names(&mut self, names: &[String]) -> bool {
        let wanted = match (names, &self.names) {
            ([], None | Some(Names::All)) => Names::All,
            (names, _) => Names::Of(names.iter().cloned().collect()),
        };
        self.names.replace(wanted) != self.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::google::rpc::Status as Detail;

    fn found(version: &str) -> Found {
        Found { version: version.to_owned(), secrets: vec![prost_types::Any::default()] }
    }

    fn nothing() -> Found {
        Found { version: "nothing".to_owned(), secrets: Vec::new() }
    }

    fn request(names: &[&str], nonce: &str) -> DiscoveryRequest {
        DiscoveryRequest {
            resource_names: names.iter().map(|&name| name.into()).collect(),
            response_nonce: nonce.to_owned(),
            type_url: TYPE_URL.to_owned(),
            ..Default::default()
        }
    }

    fn nack(names: &[&str], nonce: &str) -> DiscoveryRequest {
        let error_detail = Some(Detail { message: "bad key".to_owned(), ..Default::default() });
        DiscoveryRequest { error_detail, ..request(names, nonce) }
    }

    #[test]
    fn each_content_is_sent_once_and_a_rejected_one_not_again() {
        let mut stream = Subscription::default();
        assert_eq!(stream.hear(&request(&["web"], "")).unwrap(), Heard::Subscribed);
        assert_eq!(stream.answer(nothing()), None, "it waits for what is to come");
        let first = stream.answer(found("a")).unwrap();
        assert_eq!((first.version_info.as_str(), first.nonce.as_str(), first.type_url.as_str()), ("a", "1", TYPE_URL));
        assert_eq!(stream.answer(found("a")), None);
        assert_eq!(stream.hear(&request(&["web"], "1")).unwrap(), Heard::Accepted);
        assert_eq!(stream.answer(found("a")), None);
        assert_eq!(stream.answer(nothing()), None, "what lapsed is not taken away");
        assert_eq!(stream.answer(found("b")).unwrap().nonce, "2");
        let rejected = Heard::Rejected { version: "b".to_owned(), reason: "bad key".to_owned() };
        assert_eq!(stream.hear(&nack(&["web"], "2")).unwrap(), rejected);
        assert_eq!(stream.answer(found("b")), None, "until the material changes");
        assert_eq!(stream.answer(found("c")).unwrap().nonce, "3");
    }

    #[test]
    fn what_is_about_an_older_response_counts_for_nothing() {
        let mut stream = Subscription::default();
        stream.hear(&request(&["web"], "")).unwrap();
        assert_eq!(stream.hear(&request(&["other"], "7")).unwrap(), Heard::Stale, "nothing was sent yet");
        stream.answer(found("a")).unwrap();
        stream.answer(found("b")).unwrap();
        assert_eq!(stream.hear(&nack(&["web"], "1")).unwrap(), Heard::Stale);
        assert_eq!(stream.hear(&request(&["other"], "1")).unwrap(), Heard::Stale);
        assert_eq!(stream.names(), &Names::Of(BTreeSet::from(["web".to_owned()])));
        assert_eq!(stream.answer(found("b")), None);
    }

    #[test]
    fn other_names_and_a_new_subscription_are_answered_now() {
        let mut stream = Subscription::default();
        assert!(!stream.has_begun());
        stream.hear(&request(&[], "")).unwrap();
        assert!(stream.has_begun());
        assert_eq!(stream.names(), &Names::All);
        stream.answer(found("a")).unwrap();
        assert_eq!(stream.hear(&request(&[], "1")).unwrap(), Heard::Accepted);
        assert_eq!(stream.answer(found("a")), None);
        assert_eq!(stream.names(), &Names::All);
        assert_eq!(stream.hear(&request(&["web"], "1")).unwrap(), Heard::Accepted);
        assert!(stream.answer(found("a")).is_some(), "for other names, whatever they come to");
        assert_eq!(stream.hear(&request(&["web"], "2")).unwrap(), Heard::Accepted);
        stream.hear(&DiscoveryRequest { version_info: "a".to_owned(), ..request(&["web"], "") }).unwrap();
        assert!(stream.answer(found("a")).is_some(), "a client that comes back tells its version and has no nonce");
        stream.hear(&request(&[], "3")).unwrap();
        assert_eq!(stream.names(), &Names::Of(BTreeSet::new()), "it wants nothing any more");
    }

    #[test]
    fn names_that_change_twice_on_one_response_are_taken_both_times() {
        let mut stream = Subscription::default();
        stream.hear(&request(&["web"], "")).unwrap();
        stream.answer(found("a")).unwrap();
        assert_eq!(stream.hear(&request(&["other"], "1")).unwrap(), Heard::Accepted);
        assert_eq!(stream.answer(nothing()), None, "there is nothing of it yet");
        assert_eq!(stream.hear(&request(&["other", "third"], "1")).unwrap(), Heard::Accepted);
        assert_eq!(stream.names(), &Names::Of(BTreeSet::from(["other".to_owned(), "third".to_owned()])));
        assert_eq!(stream.hear(&request(&[], "1")).unwrap(), Heard::Accepted);
        assert_eq!(stream.hear(&request(&["web"], "1")).unwrap(), Heard::Accepted);
        assert_eq!(stream.answer(found("a")).unwrap().nonce, "2", "after it wanted nothing, too");
    }

    #[test]
    fn what_the_protocol_does_not_know_and_what_is_too_much_is_refused() {
        let other = DiscoveryRequest { type_url: "type.googleapis.com/x".to_owned(), ..request(&[], "") };
        assert!(Subscription::default().hear(&other).is_err());
        assert!(Subscription::default().hear(&DiscoveryRequest { type_url: String::new(), ..request(&[], "") }).is_ok());
        let names: Vec<_> = (0..=MAX_NAMES).map(|number| number.to_string()).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        assert!(Subscription::default().hear(&request(&names, "")).is_err());
        assert!(Subscription::default().hear(&request(&names[1..], "")).is_ok());
        assert!(Subscription::default().hear(&request(&[&"x".repeat(MAX_NAME + 1)], "")).is_err());
    }
}
