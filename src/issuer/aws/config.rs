//! A way into AWS: where its services are, who this service is there, and how long it waits.

use std::{fmt, path::PathBuf, time::Duration};

use aws_sdk_sts::config::SharedCredentialsProvider;
use url::Url;

use super::limits;
use crate::model::{SignedDuration, host::is_loopback, name::AwsName};

/// How long one request for a credential, or one change of a policy, may take in all: waiting for a slot, for the identity's own
/// credentials, and every call.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest timeout. It stays below the 30 s after which a lease that a crash left pending is closed, so that no session is made for a
/// lease that was already closed.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a change of an IAM policy may take until it holds everywhere. AWS states no bound ("IAM is eventually consistent", IAM user
/// guide, "Troubleshooting IAM"); its own console speaks of seconds.
pub const DEFAULT_PROPAGATION: SignedDuration = SignedDuration::from_secs(60);

/// The longest propagation that may be configured.
pub const MAX_PROPAGATION: SignedDuration = SignedDuration::from_mins(15);

/// Calls to AWS at once by one way; more wait, within their timeout.
pub const DEFAULT_CONCURRENCY: usize = 64;

/// The most calls at once that may be configured.
pub const MAX_CONCURRENCY: usize = 1024;

/// How many characters one deny policy may have by default: it leaves a fifth of what AWS gives all inline policies of a role together.
pub const DEFAULT_DENY_SIZE: usize = 8_000;

/// The smallest size of a deny policy that may be configured: room for some ten leases.
pub const MIN_DENY_SIZE: usize = 512;

/// The `sub` by which this service itself reaches AWS when none is configured.
pub const DEFAULT_SUBJECT: &str = "daypass";

/// A way into AWS.
#[derive(Debug, Clone, PartialEq)]
pub struct AwsConfig {
    /// Its name.
    pub name: AwsName,
    /// The region, of whose STS sessions are asked, and which holders are told to use.
    pub region: String,
    /// Where STS, IAM and ECR are, in place of AWS' own endpoints.
    pub endpoint: Option<String>,
    /// Whether `endpoint` may be plain HTTP to another machine.
    pub allow_http: bool,
    /// How long a request may take in all; see [`DEFAULT_TIMEOUT`].
    pub timeout: Duration,
    /// Who this service is there.
    pub identity: AwsIdentity,
    /// How long a change of an IAM policy may take until it holds everywhere.
    pub propagation: SignedDuration,
    /// Calls at once.
    pub concurrency: usize,
    /// How many characters one deny policy may have.
    pub deny_size: usize,
}

/// Who this service is at AWS.
#[derive(Clone)]
pub enum AwsIdentity {
    /// What the SDK finds: environment, profile, web identity file, container, instance.
    Ambient,
    /// A role that it assumes with a JWT of its own: no key of AWS is held.
    WebIdentity {
        /// The IAM role.
        role_arn: String,
        /// The JWT's `aud`.
        audience: String,
        /// The JWT's `sub`.
        subject: String,
    },
    /// A file of AWS' INI format, profile `default`: for an endpoint that is not AWS' own, and for nothing else.
    CredentialsFile(PathBuf),
    /// What the program that embeds this one brings. No configuration file can say it.
    Given(SharedCredentialsProvider),
}

impl AwsConfig {
    /// A way with every default.
    pub fn new(name: AwsName, region: impl Into<String>) -> Self {
        Self {
            name,
            region: region.into(),
            endpoint: None,
            allow_http: false,
            timeout: DEFAULT_TIMEOUT,
            identity: AwsIdentity::Ambient,
            propagation: DEFAULT_PROPAGATION,
            concurrency: DEFAULT_CONCURRENCY,
            deny_size: DEFAULT_DENY_SIZE,
        }
    }

    /// What is wrong with it, in words.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if self.region.is_empty() || self.region.len() > 32 || !self.region.bytes().all(legal) {
            faults.push(format!("region must be a name like eu-central-1, not {:?}", self.region));
        }
        faults.extend(self.endpoint.as_deref().and_then(|endpoint| endpoint_fault(endpoint, self.allow_http)));
        if self.timeout < Duration::from_millis(100) || self.timeout > MAX_TIMEOUT {
            faults.push(format!("timeout must be 100 milliseconds to {} seconds", MAX_TIMEOUT.as_secs()));
        }
        if matches!(self.identity, AwsIdentity::CredentialsFile(_)) && self.endpoint.is_none() {
            faults.push("a key in a file is never this service's identity at AWS itself: it is for another endpoint".to_owned());
        }
        if self.propagation.is_negative() || self.propagation > MAX_PROPAGATION {
            faults.push(format!("propagation must be 0 to {} minutes", MAX_PROPAGATION.as_mins()));
        }
        if self.concurrency == 0 || self.concurrency > MAX_CONCURRENCY {
            faults.push(format!("concurrency must be 1 to {MAX_CONCURRENCY}"));
        }
        if self.deny_size < MIN_DENY_SIZE || self.deny_size > limits::INLINE_POLICIES {
            faults.push(format!("deny_size must be {MIN_DENY_SIZE} to {} characters", limits::INLINE_POLICIES));
        }
        if let AwsIdentity::WebIdentity { role_arn, audience, subject } = &self.identity {
            faults.extend(limits::role_arn(role_arn).err());
            if audience.is_empty() || subject.is_empty() {
                faults.push("the identity's audience and subject must not be empty".to_owned());
            }
        }
        faults
    }
}

/// Plain HTTP would show session keys to whoever sits between.
fn endpoint_fault(endpoint: &str, allow_http: bool) -> Option<String> {
    let Ok(url) = Url::parse(endpoint) else { return Some(format!("endpoint {endpoint:?} is no URL")) };
    match url.scheme() {
        _ if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() => {
            Some("endpoint must be a URL without user, query and fragment".to_owned())
        }
        "https" => None,
        "http" if is_loopback(&url) || allow_http => None,
        "http" => Some(format!("endpoint {endpoint:?} would send session keys in the clear: take https, or say allow_http = true")),
        _ => Some(format!("endpoint {endpoint:?} must be https")),
    }
}

impl PartialEq for AwsIdentity {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ambient, Self::Ambient) => true,
            (
                Self::WebIdentity { role_arn, audience, subject },
                Self::WebIdentity { role_arn: other_arn, audience: other_audience, subject: other_subject },
            ) => (role_arn, audience, subject) == (other_arn, other_audience, other_subject),
            (Self::CredentialsFile(file), Self::CredentialsFile(other)) => file == other,
            // What another program brings cannot be compared.
            _ => false,
        }
    }
}

/// Without what [`AwsIdentity::Given`] holds.
impl fmt::Debug for AwsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ambient => f.write_str("Ambient"),
            Self::CredentialsFile(file) => write!(f, "CredentialsFile({})", file.display()),
            Self::WebIdentity { role_arn, .. } => write!(f, "WebIdentity({role_arn})"),
            Self::Given(_) => f.write_str("Given(..)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> AwsConfig {
        AwsConfig::new("main".parse().unwrap(), "eu-central-1")
    }

    #[test]
    fn the_defaults_hold() {
        assert_eq!(config().faults(), [""; 0]);
        let grace = Duration::from_secs(30);
        assert!(MAX_TIMEOUT < grace);
    }

    #[test]
    fn bounds_are_kept() {
        let off = |change: &dyn Fn(&mut AwsConfig)| {
            let mut config = config();
            change(&mut config);
            config.faults()
        };
        for (fault, change) in [
            ("region", &(|config: &mut AwsConfig| config.region = "EU".to_owned()) as &dyn Fn(&mut AwsConfig)),
            ("timeout", &|config| config.timeout = Duration::from_secs(21)),
            ("timeout", &|config| config.timeout = Duration::ZERO),
            ("propagation", &|config| config.propagation = SignedDuration::from_mins(16)),
            ("propagation", &|config| config.propagation = SignedDuration::from_secs(-1)),
            ("concurrency", &|config| config.concurrency = 0),
            ("concurrency", &|config| config.concurrency = MAX_CONCURRENCY + 1),
            ("deny_size", &|config| config.deny_size = limits::INLINE_POLICIES + 1),
            ("deny_size", &|config| config.deny_size = MIN_DENY_SIZE - 1),
            ("endpoint", &|config| config.endpoint = Some("http://sts.example.com".to_owned())),
            ("endpoint", &|config| config.endpoint = Some("ftp://127.0.0.1".to_owned())),
            ("endpoint", &|config| config.endpoint = Some("127.0.0.1:4566".to_owned())),
            ("endpoint", &|config| config.endpoint = Some("https://user:password@sts.example.com".to_owned())),
            ("role_arn", &|config| {
                config.identity =
                    AwsIdentity::WebIdentity { role_arn: "nothing".to_owned(), audience: "a".to_owned(), subject: "s".to_owned() };
            }),
        ] {
            let faults = off(change);
            assert!(faults.len() == 1 && faults[0].contains(fault), "{fault}: {faults:?}");
        }
        for good in ["http://127.0.0.1:4566", "http://[::1]:4566", "http://localhost:1", "https://sts.example.com"] {
            assert_eq!(off(&|config| config.endpoint = Some(good.to_owned())), [""; 0], "{good}");
        }
        assert_eq!(
            off(&|config| {
                config.endpoint = Some("http://sts.example.com".to_owned());
                config.allow_http = true;
            }),
            [""; 0]
        );
    }
}
