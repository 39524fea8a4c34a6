//! A SPIFFE ID, as the SPIFFE ID standard, section 2, has it. Nothing is normalised: what is not in the one right form is
//! refused, so that no two texts are one identity.

use super::name::TrustDomain;

/// The longest SPIFFE ID, in bytes (section 2.3).
pub const MAX_SPIFFE_ID: usize = 2048;

/// A SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpiffeId {
    /// The trust domain (section 2.1).
    pub trust_domain: TrustDomain,
    /// The path with its leading slash (section 2.2); empty for the trust domain itself.
    pub path: String,
}

/// Why a text is no SPIFFE ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSpiffeId {
    /// Longer than [`MAX_SPIFFE_ID`].
    #[error("it is longer than {MAX_SPIFFE_ID} bytes")]
    Length,
    /// Another scheme, or not lower-case.
    #[error("it does not begin with spiffe://, in lower case")]
    Scheme,
    /// A trust domain with a port, a user, upper case, or nothing.
    #[error("its trust domain is not 1 to 255 characters of [a-z0-9._-]")]
    TrustDomain,
    /// A path with an empty or dot segment, a trailing slash, or another character, a query's and a fragment's among them.
    #[error("its path has an empty segment, a dot segment, a trailing slash, or a character outside [A-Za-z0-9._-]")]
    Path,
}

impl std::fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "spiffe://{}{}", self.trust_domain, self.path)
    }
}

impl std::str::FromStr for SpiffeId {
    type Err = BadSpiffeId;

    fn from_str(text: &str) -> Result<Self, BadSpiffeId> {
        if text.len() > MAX_SPIFFE_ID {
            return Err(BadSpiffeId::Length);
        }
        let rest = text.strip_prefix("spiffe://").ok_or(BadSpiffeId::Scheme)?;
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let trust_domain = domain.parse().map_err(|_| BadSpiffeId::TrustDomain)?;
        let segment = |segment: &str| {
            !matches!(segment, "" | "." | "..") && segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        };
        if !path.is_empty() && !path[1..].split('/').all(segment) {
            return Err(BadSpiffeId::Path);
        }
        Ok(Self { trust_domain, path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_standard_form_only() {
        for good in ["spiffe://example.org", "spiffe://example.org/a", "spiffe://a_b-c.1/A/b.c/..d/_-.", "spiffe://1.2.3.4/x"] {
            let id: SpiffeId = good.parse().unwrap();
            assert_eq!(id.to_string(), good);
        }
        for (bad, why) in [
            ("", BadSpiffeId::Scheme),
            ("https://example.org/a", BadSpiffeId::Scheme),
            ("SPIFFE://example.org/a", BadSpiffeId::Scheme),
            ("spiffe:example.org", BadSpiffeId::Scheme),
            (" spiffe://example.org", BadSpiffeId::Scheme),
            ("spiffe://", BadSpiffeId::TrustDomain),
            ("spiffe:///a", BadSpiffeId::TrustDomain),
            ("spiffe://Example.org/a", BadSpiffeId::TrustDomain),
            ("spiffe://example.org:443/a", BadSpiffeId::TrustDomain),
            ("spiffe://user@example.org/a", BadSpiffeId::TrustDomain),
            ("spiffe://ex%61mple.org/a", BadSpiffeId::TrustDomain),
            ("spiffe://exämple.org/a", BadSpiffeId::TrustDomain),
            ("spiffe://[::1]/a", BadSpiffeId::TrustDomain),
            ("spiffe://example.org?a", BadSpiffeId::TrustDomain),
            ("spiffe://example.org#a", BadSpiffeId::TrustDomain),
            ("spiffe://example.org/", BadSpiffeId::Path),
            ("spiffe://example.org/a/", BadSpiffeId::Path),
            ("spiffe://example.org//a", BadSpiffeId::Path),
            ("spiffe://example.org/a//b", BadSpiffeId::Path),
            ("spiffe://example.org/./a", BadSpiffeId::Path),
            ("spiffe://example.org/a/../b", BadSpiffeId::Path),
            ("spiffe://example.org/a%2fb", BadSpiffeId::Path),
            ("spiffe://example.org/a?b", BadSpiffeId::Path),
            ("spiffe://example.org/a#b", BadSpiffeId::Path),
            ("spiffe://example.org/a b", BadSpiffeId::Path),
            ("spiffe://example.org/a+b", BadSpiffeId::Path),
            ("spiffe://example.org/ä", BadSpiffeId::Path),
            ("spiffe://example.org/a\0", BadSpiffeId::Path),
        ] {
            assert_eq!(bad.parse::<SpiffeId>(), Err(why), "{bad}");
        }
        assert!(format!("spiffe://a/{}", "b".repeat(MAX_SPIFFE_ID - 11)).parse::<SpiffeId>().is_ok());
        assert_eq!(format!("spiffe://a/{}", "b".repeat(MAX_SPIFFE_ID - 10)).parse::<SpiffeId>(), Err(BadSpiffeId::Length));
        assert_eq!(format!("spiffe://{}/b", "a".repeat(256)).parse::<SpiffeId>(), Err(BadSpiffeId::TrustDomain));
    }
}
