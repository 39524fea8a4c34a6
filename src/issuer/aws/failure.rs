//! What AWS' errors mean here. Only the error's own name goes out: messages and bodies may hold anything.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use aws_sdk_sts::{
    config::{ConfigBag, Intercept, RuntimeComponents, http::HttpResponse, interceptors::BeforeTransmitInterceptorContextRef},
    error::{BoxError, ProvideErrorMetadata, SdkError},
    operation::RequestId,
};

use crate::{
    issuer::NotMinted,
    model::error::{Code, Error},
};

/// The longest name of an error that is passed on; AWS' own are shorter.
const MAX_NAME: usize = 64;

/// AWS' names for "not so fast".
const THROTTLED: [&str; 8] = [
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "RequestLimitExceeded",
    "TooManyRequestsException",
    "SlowDown",
];

/// AWS' names for what passes by itself, although the answer's status says otherwise.
const PASSING: [&str; 6] = [
    "IDPCommunicationError",
    "ServiceUnavailable",
    "InternalFailure",
    "InternalError",
    "ConcurrentModification",
    "ConcurrentModificationException",
];

/// A call that did not succeed.
#[derive(Debug)]
pub(super) struct Failed {
    pub error: Error,
    /// AWS' own name for it.
    pub name: Option<String>,
    /// Whether AWS may have done it all the same.
    pub maybe_made: bool,
    /// Whether it may succeed in a moment.
    pub passing: bool,
}

impl Failed {
    /// AWS did not answer in time, or was not even asked.
    pub fn too_slow(asked: &str, sent: bool) -> Self {
        let error = Error::new(Code::IssuerUnavailable, format!("AWS does not answer in time ({asked}); try again"));
        Self { error, name: None, maybe_made: sent, passing: false }
    }

    pub fn is(&self, name: &str) -> bool {
        self.name.as_deref() == Some(name)
    }
}

impl From<Failed> for NotMinted {
    fn from(failed: Failed) -> Self {
        Self { error: failed.error, maybe_made: failed.maybe_made }
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

/// Notes whether a request began to leave this process.
#[derive(Debug, Clone, Default)]
pub(super) struct Sent(Arc<AtomicBool>);

impl Sent {
    pub fn happened(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Intercept for Sent {
    fn name(&self) -> &'static str {
        "Sent"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.store(true, Ordering::Release);
        Ok(())
    }
}

/// What an error of the SDK means. `asked` names the call, as IAM policies do.
pub(super) fn failed<E>(error: &SdkError<E, HttpResponse>, asked: &str, sent: &Sent) -> Failed
where
    E: ProvideErrorMetadata + RequestId + std::error::Error + 'static,
{
    match error {
        SdkError::ServiceError(answer) => answered(answer.err(), answer.raw().status().as_u16(), asked),
        SdkError::ResponseError(answer) => unreadable(asked, answer.raw().status().as_u16()),
        SdkError::TimeoutError(_) => Failed::too_slow(asked, sent.happened()),
        other => not_answered(other, asked, sent),
    }
}

fn answered<E: ProvideErrorMetadata + RequestId>(error: &E, status: u16, asked: &str) -> Failed {
    let name = error.code().filter(|name| is_name(name)).map(str::to_owned);
    if (200..300).contains(&status) {
        return unreadable(asked, status);
    }
    let shown = name.clone().unwrap_or_else(|| format!("status {status}"));
    let known = |list: &[&str]| name.as_deref().is_some_and(|name| list.contains(&name));
    let throttled = status == 429 || known(&THROTTLED);
    let passing = throttled || status >= 500 || known(&PASSING);
    let error_of = |code, text: String| {
        let request_id = error.request_id().filter(|id| is_name(id)).unwrap_or("unknown");
        Error::new(code, text).because(format!("status {status}, AWS' request id {request_id}"))
    };
    let error = match passing {
        true if throttled => error_of(Code::IssuerUnavailable, format!("AWS asks to slow down ({asked}): {shown}; try again later")),
        true => error_of(Code::IssuerUnavailable, format!("AWS has a problem of its own ({asked}): {shown}; try again later")),
        false => error_of(Code::IssuerRefused, format!("AWS refuses {asked}: {shown}{}", advice(&shown))),
    };
    // An error with AWS' name in it is AWS' own word that nothing was made. One without may come from what stands between.
    Failed { maybe_made: name.is_none() && status >= 500, error, name, passing }
}

fn unreadable(asked: &str, status: u16) -> Failed {
    let error = Error::new(Code::IssuerUnavailable, format!("AWS' answer to {asked} cannot be read; try again later"));
    Failed { error: error.because(format!("status {status}")), name: None, maybe_made: true, passing: false }
}

/// No answer: the request was not made, not sent, or broke off.
fn not_answered<E>(error: &SdkError<E, HttpResponse>, asked: &str, sent: &Sent) -> Failed
where
    E: std::error::Error + 'static,
{
    let chain = chain_of(error);
    let never_connected = chain
        .iter()
        .any(|error| error.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(hyper_util::client::legacy::Error::is_connect));
    let left = sent.happened() && !never_connected;
    let text = match sent.happened() {
        true => format!("AWS cannot be reached ({asked}); try again later"),
        false => format!("this service's own way into AWS cannot be used now ({asked}); try again later"),
    };
    let why: Vec<String> = chain.iter().skip(1).map(ToString::to_string).collect();
    let error = Error::new(Code::IssuerUnavailable, text).because(why.join(": "));
    Failed { error, name: None, maybe_made: left, passing: sent.happened() }
}

/// An error and what caused it, outermost first.
fn chain_of<'a>(error: &'a (dyn std::error::Error + 'static)) -> Vec<&'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source()).take(16).collect()
}

/// Whether a text of an answer is a name and nothing else.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// What to look at, for names that people meet.
fn advice(name: &str) -> &'static str {
    match name {
        "AccessDenied" | "AccessDeniedException" => {
            "; the role's trust policy (and the policy of this service's own identity) must allow it, with sts:TagSession for tags and sts:SetSourceIdentity"
        }
        "MalformedPolicyDocument" => "; the role's session policy is no policy to AWS",
        "PackedPolicyTooLarge" => "; session policy, ARNs and tags are too large together: make them shorter",
        "RegionDisabledException" => "; STS must be switched on in this region for the account",
        "InvalidIdentityToken" | "IDPRejectedClaim" | "IDPRejectedClaimException" => {
            "; AWS must know this service as an OIDC provider, with this audience and subject"
        }
        "ExpiredToken" | "ExpiredTokenException" | "InvalidClientTokenId" | "SignatureDoesNotMatch" | "RequestExpired" => {
            "; look at this service's own credentials and clock"
        }
        "NoSuchEntity" => "; there is no such role",
        _ => "",
    }
}
