//! `[[registry]]`: container registries that trust our token endpoint.

use std::{path::PathBuf, sync::Arc};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::file::{At, Reader};
use crate::{
    issuer::{
        registry::{
            RegistryConfig, RegistryIssuer,
            signer::{DEFAULT_ROTATE_EVERY, MAX_ROTATE_EVERY, MIN_ROTATE_EVERY},
        },
        x509::{Ca, Cas, FileKey, RingRoot, TokenCa},
    },
    model::{
        SignedDuration,
        name::{RegistryName, TrustDomain},
    },
};

/// The longest `host`, `service` and `issuer` of a registry, in bytes.
const MAX_TEXT: usize = 255;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RegistrySection {
    pub name: RegistryName,
    /// What image references call it: `host[:port]`.
    pub host: String,
    /// Its `auth.token.service`.
    pub service: String,
    /// Its `auth.token.issuer`.
    pub issuer: String,
    /// Its `auth.token.rootcertbundle`: the token CA, whose key is `key`.
    pub certificate: PathBuf,
    pub key: PathBuf,
    #[serde(default = "default_rotate_every")]
    pub rotate_every: SignedDuration,
}

fn default_rotate_every() -> SignedDuration {
    DEFAULT_ROTATE_EVERY
}

/// The CAs whose certificates callers have, or get.
pub(super) struct CallersCas<'a> {
    /// `[[ca]]`
    pub own: &'a Cas,
    /// `[[trust_domain]]`: its CAs, PEM.
    pub trusted: Vec<(&'a TrustDomain, &'a [u8])>,
}

impl CallersCas<'_> {
    /// Which of them has a key in common with a token CA's file, in words.
    fn sharing(&self, token_ca: &TokenCa) -> Option<String> {
        let own = self.own.iter().find(|(_, ca)| match ca {
            Ca::Fixed(authority) => {
                let chain = authority.chain_der().iter().map(Vec::as_slice);
                token_ca.shares_key_with(chain.chain([authority.root_der()]))
            }
            // The keys of a ring are made here, and are nobody else's.
            Ca::Rotating(ring) => token_ca.shares_key_with(ring.maker().root.iter().map(RingRoot::der)),
        });
        let trusted = || {
            self.trusted.iter().find(|(_, pem)| {
                let ders: Vec<_> = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
                token_ca.shares_key_with(ders.iter().map(AsRef::as_ref))
            })
        };
        own.map(|(name, _)| format!("the CA {name}")).or_else(|| trusted().map(|(name, _)| format!("the trust domain {name}")))
    }
}

impl Reader {
    pub(super) fn registries(&mut self, sections: &[At<RegistrySection>], callers: &CallersCas<'_>) -> RegistryIssuer {
        let mut registries: Vec<RegistryConfig> = Vec::new();
        for At { line, value } in sections {
            let name = &value.name;
            if registries.iter().any(|other| other.name == *name) {
                self.fault(*line, format!("there are two registries of the name {name}"));
            }
            if let Some(other) = registries.iter().find(|other| other.service == value.service && other.name != *name) {
                let why = "a token for the one could be taken by the other";
                self.fault(*line, format!("registry {name}: the registry {} has the same service; {why}", other.name));
            }
            for fault in text_faults(value) {
                self.fault(*line, format!("registry {name}: {fault}"));
            }
            let Some(ca) = self.token_ca(*line, value) else { continue };
            if let Some(sharing) = callers.sharing(&ca) {
                self.fault(
                    *line,
                    format!(
                        "registry {name}: certificate: {sharing} has a key of this file in its chain, so that whoever holds a certificate of \
                         it could sign tokens for this registry; keep the token CA's root out of the file, or give it one of its own"
                    ),
                );
            }
            registries.push(RegistryConfig {
                name: name.clone(),
                host: value.host.clone(),
                service: value.service.clone(),
                issuer: value.issuer.clone(),
                rotate_every: value.rotate_every,
                ca: Arc::new(ca),
            });
        }
        RegistryIssuer::new(registries)
    }

    fn token_ca(&mut self, line: usize, section: &RegistrySection) -> Option<TokenCa> {
        let (certificate, key) = (self.read(line, &section.certificate), self.read(line, &section.key).map(Zeroizing::new));
        let (certificate, key) = (certificate?, key?);
        let key = FileKey::from_pem(&String::from_utf8_lossy(&key)).map_err(|fault| vec![fault]);
        match key.and_then(|key| TokenCa::load(&certificate, Arc::new(key), self.now)) {
            Ok(ca) => Some(ca),
            Err(faults) => {
                faults.into_iter().for_each(|fault| self.fault(line, format!("registry {}: {fault}", section.name)));
                None
            }
        }
    }
}

fn text_faults(section: &RegistrySection) -> Vec<String> {
    let mut faults = Vec::new();
    if !is_host(&section.host) {
        faults.push(format!("host is {:?}; write it as image references do: host or host:port, without a scheme", section.host));
    }
    for (key, text) in [("service", &section.service), ("issuer", &section.issuer)] {
        if text.is_empty() || text.len() > MAX_TEXT || !text.bytes().all(|b| (0x21..0x7f).contains(&b) && b != b'"' && b != b'\\') {
            faults.push(format!("{key} must be 1 to {MAX_TEXT} printable ASCII characters without space, quotes and backslash"));
        }
    }
    if !(MIN_ROTATE_EVERY..=MAX_ROTATE_EVERY).contains(&section.rotate_every) {
        faults.push(format!("rotate_every must be {MIN_ROTATE_EVERY:#} to {MAX_ROTATE_EVERY:#}"));
    }
    faults
}

/// `host[:port]`, where the host is a name, an IPv4 address, or an IPv6 address in brackets.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_is_good = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_')),
    };
    let port_is_good = port.is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0));
    text.len() <= MAX_TEXT && host_is_good && port_is_good
}

#[cfg(test)]
mod tests {
    use super::is_host;

    #[test]
    fn a_host_is_written_as_in_an_image_reference() {
        for good in
            ["127.0.0.1:5000", "localhost", "registry.example.org", "registry.example.org:443", "[::1]:5000", "[::1]", "my_registry:1"]
        {
            assert!(is_host(good), "{good}");
        }
        for bad in ["", ":5000", "https://a", "a/b", "a:0", "a:65536", "a:", "a:+1", "A", "a b", "::1", "[::1", "[a]:1", "a@b"] {
            assert!(!is_host(bad), "{bad}");
        }
    }
}
