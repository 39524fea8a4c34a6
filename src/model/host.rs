//! Where a URL leads.

use url::{Host, Url};

/// Whether it leads to this machine, by an address of loopback or as `localhost`: what goes there without TLS passes nobody.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_told_from_others() {
        let is_loopback = |text: &str| is_loopback(&Url::parse(text).unwrap());
        for own in ["http://localhost", "http://127.0.0.1:80", "http://127.8.9.1/a", "http://[::1]:8080/"] {
            assert!(is_loopback(own), "{own}");
        }
        for other in
            ["http://localhost.example.org", "http://example.org", "http://10.0.0.1", "http://[::2]", "http://localhost.", "data:x"]
        {
            assert!(!is_loopback(other), "{other}");
        }
    }
}
