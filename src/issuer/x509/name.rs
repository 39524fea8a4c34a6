//! The whole-name rules: what may stand in a certificate after a template was rendered.
//!
//! [`crate::model::template`] keeps a claim within its segment or label; this looks at the name that came out.

use url::Url;

use crate::model::{
    name::{MAX_DNS_NAME, host_fault},
    spiffe::SpiffeId,
};

/// The longest common name, in characters (RFC 5280 appendix A.1, ub-common-name).
pub const MAX_COMMON_NAME: usize = 64;

/// Checks a URI for a SAN: a SPIFFE ID of a workload, or an absolute URI in its normal form, without user or password.
pub fn check_uri(uri: &str) -> Result<(), String> {
    if uri.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:")) {
        return check_spiffe_id(uri);
    }
    if !uri.bytes().all(|b| b.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&b)) {
        return Err(format!("{uri:?} holds characters that no URI has (RFC 3986 section 2)"));
    }
    let parsed = Url::parse(uri).map_err(|error| format!("{uri:?} is no absolute URI: {error}"))?;
    if parsed.as_str() != uri {
        return Err(format!("{uri:?} is not in normal form; that would be {:?}", parsed.as_str()));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(format!("{uri:?} holds a user name or a password"));
    }
    Ok(())
}

/// Whether a URI is a SPIFFE ID by its scheme.
pub fn is_spiffe(uri: &str) -> bool {
    uri.starts_with("spiffe://")
}

/// Checks a SPIFFE ID of a workload: one with a path.
pub fn check_spiffe_id(uri: &str) -> Result<(), String> {
    let refuse = |why: &str| Err(format!("{uri:?} is no SPIFFE ID of a workload: {why}"));
    match uri.parse::<SpiffeId>() {
        Ok(id) if id.path.is_empty() => refuse("a path follows the trust domain"),
        Ok(_) => Ok(()),
        Err(fault) => refuse(&fault.to_string()),
    }
}

/// Checks a DNS name for a SAN (RFC 5280 section 4.2.1.6). A leading `*.` is taken where `wildcard` allows it, over two labels at least.
pub fn check_dns(name: &str, wildcard: bool) -> Result<(), String> {
    let refuse = |why: &str| Err(format!("{name:?} is no DNS name for a certificate: {why}"));
    let (host, labels_needed) = match name.strip_prefix("*.") {
        Some(_) if !wildcard => return refuse("a wildcard must stand in the role itself"),
        Some(host) => (host, 2),
        None => (name, 1),
    };
    if name.len() > MAX_DNS_NAME {
        return refuse("it is longer than 253 bytes");
    }
    if let Some(fault) = host_fault(host) {
        return refuse(fault);
    }
    if host.split('.').count() < labels_needed {
        return refuse("a wildcard needs two labels at least");
    }
    Ok(())
}

/// Checks a common name: 1 to 64 characters, none of them a control, no space at its ends.
pub fn check_common_name(name: &str) -> Result<(), String> {
    let length = name.chars().count();
    if length == 0 || length > MAX_COMMON_NAME || name.chars().any(char::is_control) || name.trim() != name {
        return Err(format!("{name:?} is no common name: that is 1 to {MAX_COMMON_NAME} characters, no control, no space at its ends"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spiffe_ids_are_strict() {
        for good in ["spiffe://example.org/a", "spiffe://a/b/c.d_e-f", "spiffe://a/..."] {
            assert_eq!(check_uri(good), Ok(()), "{good}");
        }
        for bad in [
            "spiffe://example.org",
            "spiffe://example.org/",
            "spiffe://example.org/a/",
            "spiffe://example.org//a",
            "spiffe://example.org/a/../b",
            "spiffe://example.org/./b",
            "spiffe://example.org/a?b",
            "spiffe://example.org/a#b",
            "spiffe://example.org:80/a",
            "spiffe://user@example.org/a",
            "spiffe://Example.org/a",
            "spiffe:///a",
            "spiffe://example.org/a%20b",
            "spiffe://example.org/a b",
            "spiffe://example.org/ä",
            "SPIFFE://example.org/a",
            "Spiffe://example.org/a",
            "spiffe:example.org/a",
            "spiffe:/example.org/a",
            "spiffeä",
            "aaaaaaä",
        ] {
            assert!(check_uri(bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn other_uris_are_in_normal_form() {
        for good in ["https://example.org/a?b=c", "urn:uuid:0192f0c1-7b5a-7000-8000-000000000000", "ssh://host/x"] {
            assert_eq!(check_uri(good), Ok(()), "{good}");
        }
        for bad in [
            "https://example.org",
            "https://EXAMPLE.org/",
            "https://example.org/a/../b",
            "https://u:p@example.org/",
            "https://u@example.org/",
            "/relative",
            "example.org",
            "",
            "https://example.org/a b",
            "https://example.org/\u{0}",
            "https://exämple.org/",
            "https://example.org:443/",
            "https://example.org\\@evil/",
        ] {
            assert!(check_uri(bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn dns_names() {
        for good in ["a", "localhost", "a.example", "1a.example", "x--y.example"] {
            assert_eq!(check_dns(good, false), Ok(()), "{good}");
        }
        assert_eq!(check_dns("*.a.example", true), Ok(()));
        let long = format!("{}.example", "a.".repeat(130));
        for bad in
            ["", ".", "a.", ".a", "a..b", "-a.b", "a-.b", "A.b", "a_b.c", "a b", "*.a.example", "*", "a.*.b", "10.0.0.1", "ä.b", &long]
        {
            assert!(check_dns(bad, false).is_err(), "{bad} was taken");
        }
        for bad in ["*.example", "*.*.example.org", "**.a.example", "*a.b.example", "*."] {
            assert!(check_dns(bad, true).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn common_names() {
        assert_eq!(check_common_name(&"é".repeat(64)), Ok(()));
        for bad in ["", " a", "a ", "a\0b", "a\nb", &"a".repeat(65)] {
            assert!(check_common_name(bad).is_err(), "{bad:?} was taken");
        }
    }
}
