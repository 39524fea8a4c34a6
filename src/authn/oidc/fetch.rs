//! Fetching an issuer's key set, without letting anyone choose what is fetched: configured hosts only, no redirect,
//! public addresses only, little data, little time.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use reqwest::{
    Client,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use url::{Host, Url};

use super::{IssuerConfig, json::Object};

/// How long discovery and key set may take together.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest document that is read, in bytes.
pub const MAX_BODY: usize = 256 * 1024;

/// Fetches the key set of one issuer.
pub(super) struct Fetcher {
    client: Client,
    issuer: String,
    allow_private_network: bool,
}

impl Fetcher {
    /// A fetcher; makes no request.
    pub fn new(config: &IssuerConfig) -> Result<Self, String> {
        let client = Client::builder()
            .tls_backend_preconfigured(tls(config.ca_pem.as_deref())?)
            .dns_resolver(Arc::new(GuardedResolver { allow_private_network: config.allow_private_network }))
            .redirect(redirect::Policy::none())
            // A proxy would resolve the name itself, past the guard.
            .no_proxy()
            .timeout(FETCH_TIMEOUT)
            .pool_max_idle_per_host(0)
            .user_agent(concat!("daypass/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|fault| format!("no HTTP client: {}", chain(&fault)))?;
        Ok(Self { client, issuer: config.url.clone(), allow_private_network: config.allow_private_network })
    }

    /// The bytes of the issuer's key set, by OpenID Connect Discovery 1.0 section 4.
    pub async fn key_set(&self) -> Result<Vec<u8>, String> {
        tokio::time::timeout(FETCH_TIMEOUT, self.discover_and_get())
            .await
            .unwrap_or_else(|_| Err(format!("the issuer did not answer within {} s", FETCH_TIMEOUT.as_secs())))
    }

    async fn discover_and_get(&self) -> Result<Vec<u8>, String> {
        let discovery = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let body = self.get(&discovery).await.map_err(|fault| format!("discovery: {fault}"))?;
        let jwks_uri = self.jwks_uri(&body).map_err(|fault| format!("discovery: {fault}"))?;
        self.get(&jwks_uri).await.map_err(|fault| format!("key set: {fault}"))
    }

    /// The `jwks_uri` of a discovery document whose `issuer` is exactly ours (section 4.3).
    fn jwks_uri(&self, body: &[u8]) -> Result<String, String> {
        let text = std::str::from_utf8(body).map_err(|_| "the document is not UTF-8".to_owned())?;
        let document = Object::parse(text).map_err(|fault| format!("the document {fault}"))?;
        if document.string("issuer") != Ok(Some(&self.issuer)) {
            return Err(format!("the document is not for the issuer {:?}", self.issuer));
        }
        match document.string("jwks_uri") {
            Ok(Some(uri)) => Ok(uri.to_owned()),
            _ => Err("the document has no jwks_uri".to_owned()),
        }
    }

    async fn get(&self, url: &str) -> Result<Vec<u8>, String> {
        let url = check_url(url, self.allow_private_network)?;
        let mut response = self.client.get(url).header("accept", "application/json").send().await.map_err(|fault| chain(&fault))?;
        if response.status().is_redirection() {
            return Err("the issuer redirects, which is not followed".to_owned());
        }
        if response.status().as_u16() != 200 {
            return Err(format!("the issuer answered with status {}", response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|fault| chain(&fault))? {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(format!("the issuer's answer is longer than {MAX_BODY} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// Whether a URL may be fetched: https, or http on loopback where private networks are allowed; an address in it is one
/// that may be connected to. The error completes "url ...".
pub(super) fn check_url(text: &str, allow_private_network: bool) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|fault| format!("is no URL: {fault}"))?;
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err("must not have a user, a query or a fragment".to_owned());
    }
    let address = match url.host() {
        Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
        Some(Host::Domain(_)) => None,
        None => return Err("has no host".to_owned()),
    };
    let loopback = address.is_some_and(|address| address.is_loopback()) || url.host_str() == Some("localhost");
    match url.scheme() {
        "https" => {}
        "http" if loopback && allow_private_network => {}
        _ => return Err("must be https (http only on loopback, with allow_private_network)".to_owned()),
    }
    if !allow_private_network && (loopback || address.is_some_and(|address| !is_public(address))) {
        return Err("is at a private or loopback address, which needs allow_private_network".to_owned());
    }
    Ok(url)
}

/// Resolves a name to the addresses that may be connected to. The connection goes to what this gave, so a name that
/// changes its mind between check and use gains nothing.
struct GuardedResolver {
    allow_private_network: bool,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private_network = self.allow_private_network;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found.filter(|address| allow_private_network || is_public(address.ip())).collect();
            if allowed.is_empty() {
                return Err("the name has only private or loopback addresses, which needs allow_private_network".into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is one of the open internet (IANA's special-purpose registries).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    let special = a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b)) // shared address space, RFC 6598
        || (a == 192 && b == 0 && c == 0) // protocol assignments, RFC 6890
        || (a == 198 && (b == 18 || b == 19)) // benchmarking, RFC 2544
        || (a == 192 && b == 88 && c == 99); // 6to4 relays, RFC 7526
    !(special
        || v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_multicast()
        || v4.is_broadcast()
        || v4.is_documentation())
}

fn is_public_v6(v6: Ipv6Addr) -> bool {
    let parts = v6.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match parts {
        [0, 0, 0, 0, 0, 0xffff, high, low] => embedded(high, low),    // IPv4-mapped
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low), // NAT64, RFC 6052
        [0x2002, high, low, ..] => embedded(high, low),               // 6to4, RFC 3056
        [0x2001, second, ..] if second < 0x200 => false,              // protocol assignments, Teredo among them, RFC 2928
        [0x2001, 0xdb8, ..] => false,                                 // documentation, RFC 3849
        [0x3fff, second, ..] if second < 0x1000 => false,             // documentation, RFC 9637
        [first, ..] => first & 0xe000 == 0x2000,                      // global unicast, RFC 4291
    }
}

fn tls(ca_pem: Option<&[u8]>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|fault| format!("no TLS for fetching keys: {fault}"))?;
    let config = match ca_pem {
        Some(pem) => builder.with_root_certificates(roots(pem)?).with_no_client_auth(),
        None => {
            let verifier = rustls_platform_verifier::Verifier::new(provider)
                .map_err(|fault| format!("the system's CA certificates cannot be used ({fault}); install ca-certificates or set ca_pem"))?;
            // Named "dangerous" by rustls as any verifier of one's own is; this one is the system's.
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
        }
    };
    Ok(config)
}

/// The CAs of a PEM file; the error completes "ca_pem ...".
pub(super) fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|fault| format!("is not PEM: {fault}"))?;
        roots.add(certificate).map_err(|fault| format!("holds a certificate that cannot be a CA: {fault}"))?;
    }
    if roots.is_empty() {
        return Err("holds no certificate".to_owned());
    }
    Ok(roots)
}

/// An error with its causes: reqwest's own text stops at "error sending request".
fn chain(fault: &dyn std::error::Error) -> String {
    let mut text = fault.to_string();
    let mut source = fault.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_open_internet_is_public() {
        for public in [
            "1.1.1.1",
            "140.82.112.3",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "2606:50c0::1",
            "2a00::1",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for private in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.0.1",
            "192.168.1.1",
            "192.0.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "fec0::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "2002:7f00:1::",
            "2002:a00:1::",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "3fff::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
    }

    #[tokio::test]
    async fn a_name_is_resolved_to_addresses_that_may_be_connected_to() {
        let resolve = async |allow_private_network| {
            let resolver = GuardedResolver { allow_private_network };
            resolver.resolve("localhost".parse().unwrap()).await.map(Iterator::collect::<Vec<_>>).map_err(|fault| fault.to_string())
        };
        assert!(resolve(true).await.unwrap().iter().all(|address| address.ip().is_loopback()));
        assert!(resolve(false).await.unwrap_err().contains("only private"));
    }

    #[test]
    fn urls_are_https_and_public_unless_configured() {
        for good in ["https://token.actions.githubusercontent.com", "https://oidc.circleci.com/org/1", "https://example.org:8443/a"] {
            assert!(check_url(good, false).is_ok(), "{good}");
        }
        for private in [
            "https://127.0.0.1",
            "https://[::1]/",
            "https://10.0.0.1/",
            "https://localhost",
            "https://0x7f.1/",
            "https://2130706433/",
            "https://169.254.169.254/",
        ] {
            assert!(check_url(private, false).is_err(), "{private}");
            assert!(check_url(private, true).is_ok(), "{private}");
        }
        for loopback in ["http://127.0.0.1:8080", "http://[::1]:1", "http://localhost:1/x"] {
            assert!(check_url(loopback, false).is_err(), "{loopback}");
            assert!(check_url(loopback, true).is_ok(), "{loopback}");
        }
        for bad in [
            "http://example.org",
            "http://10.0.0.1",
            "http://localhost.example.org",
            "ftp://example.org",
            "file:///etc/passwd",
            "https://u@example.org",
            "https://example.org?a=b",
            "https://example.org#f",
            "example.org",
            "",
        ] {
            assert!(check_url(bad, true).is_err(), "{bad}");
        }
    }
}
