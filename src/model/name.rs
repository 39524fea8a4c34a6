//! Names of configured things, valid by construction.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest name, in bytes: a DNS label, so that any name can stand in a host name.
pub const MAX_NAME: usize = 63;

/// A name that breaks the rule below.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {what} is 1 to {MAX_NAME} characters of [a-z0-9-] and starts with a letter or digit; got {got:?}")]
pub struct BadName {
    what: &'static str,
    got: String,
}

fn check(what: &'static str, text: &str) -> Result<(), BadName> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let ok = !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(legal) && !text.starts_with('-');
    if ok {
        return Ok(());
    }
    Err(BadName { what, got: text.chars().take(MAX_NAME + 1).collect() })
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                check($what, text).map(|()| Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                check($what, &text).map(|()| Self(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name!(
    /// The name of a role.
    RoleName, "role name"
);
name!(
    /// The name of a tenant.
    TenantName, "tenant name"
);
name!(
    /// The configured name of an OIDC issuer (not its URL).
    IssuerName, "issuer name"
);
name!(
    /// The name of an issuing CA.
    CaName, "CA name"
);
name!(
    /// The name of a way into AWS: a region, endpoints, an identity.
    AwsName, "AWS name"
);
name!(
    /// The name of a container registry.
    RegistryName, "registry name"
);

name!(
    /// The name of an agent that is enrolled.
    AgentName, "agent name"
);

/// The longest DNS name, in bytes (RFC 1035 section 2.3.4, without the root's dot).
pub const MAX_DNS_NAME: usize = 253;

/// Why a text is no host name in its one form; none when it is: labels of lower-case letters, digits and hyphens (RFC 1123 section 2.1), no
/// wildcard, no dot at the end, and nothing that reads as an address.
pub fn host_fault(name: &str) -> Option<&'static str> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if name.len() > MAX_DNS_NAME {
        return Some("it is longer than 253 bytes");
    }
    if !name.split('.').all(label) {
        return Some("each label is 1 to 63 of [a-z0-9-], with no hyphen at its ends");
    }
    let last = name.rsplit('.').next().unwrap_or_default();
    last.bytes().all(|b| b.is_ascii_digit()).then_some("its last label is a number, so that it reads as an address")
}

/// A trust domain: a lower-case DNS name, as the SPIFFE ID standard (section 2.1) has it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(String);

/// A trust domain that breaks the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a trust domain is 1 to 255 characters of [a-z0-9._-]; got {0:?}")]
pub struct BadTrustDomain(String);

impl TrustDomain {
    /// The trust domain as text, without a scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = BadTrustDomain;
    fn try_from(text: String) -> Result<Self, BadTrustDomain> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if !text.is_empty() && text.len() <= 255 && text.bytes().all(legal) {
            return Ok(Self(text));
        }
        Err(BadTrustDomain(text.chars().take(256).collect()))
    }
}

impl std::str::FromStr for TrustDomain {
    type Err = BadTrustDomain;
    fn from_str(text: &str) -> Result<Self, BadTrustDomain> {
        Self::try_from(text.to_owned())
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> String {
        domain.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_has_one_form() {
        let long = format!("{}b", "a.".repeat(MAX_DNS_NAME / 2));
        for good in ["a", "localhost", "1a.example", "x--y.example", &long] {
            assert_eq!(host_fault(good), None, "{good}");
        }
        let (longer, label) = (format!("{long}b"), "a".repeat(64));
        for bad in ["", ".", "a.", ".a", "a..b", "-a.b", "a-.b", "A.b", "a_b.c", "a b", "*.a", "10.0.0.1", "a.1", "ä.b", &longer, &label] {
            assert!(host_fault(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn names_refuse_case_space_unicode_and_length() {
        for bad in ["", "A", "a b", " a", "a ", "ä", "-a", "a/b", "a.b", "a\0", &"a".repeat(64)] {
            assert!(bad.parse::<RoleName>().is_err(), "{bad:?} was taken");
        }
        for good in ["a", "0", "web", "vendor-client", &"a".repeat(63)] {
            assert_eq!(good.parse::<RoleName>().unwrap().as_str(), good);
        }
    }
}
