//! The TLS edge: whom we trust as clients, and the certificate that we show.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::{self, sign::any_supported_type},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::{
    authn::mtls::{ClientVerifier, TrustDomainConfig, TrustStore, Verdict, server_config},
    clock::Clock,
    model::{
        Timestamp,
        error::{Error, Result},
    },
};

/// What shows a certificate from the next handshake on.
pub(super) struct Shown {
    config: Arc<ServerConfig>,
    web: Arc<ServerConfig>,
}

/// The edge.
pub(super) struct TlsEdge {
    config: ArcSwap<ServerConfig>,
    /// For HTTP: the same certificate, and nobody is asked for one.
    web: ArcSwap<ServerConfig>,
    verifier: Arc<ClientVerifier>,
    shows: AtomicBool,
}

impl TlsEdge {
    /// An edge that trusts nobody yet, and shows nothing: every handshake fails.
    pub(super) fn new(clock: Arc<dyn Clock>) -> Result<Self> {
        let verifier = Arc::new(ClientVerifier::new(trust_store(Vec::new())?, clock));
        let Shown { config, web } = shown(&verifier, Arc::new(Nothing))?;
        Ok(Self { config: ArcSwap::new(config), web: ArcSwap::new(web), verifier, shows: AtomicBool::new(false) })
    }

    /// Whether it has a certificate to show.
    pub(super) fn shows(&self) -> bool {
        self.shows.load(Ordering::Acquire)
    }

    /// The configuration for the next handshake.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// The configuration for the next handshake of HTTP.
    pub(super) fn web(&self) -> Arc<ServerConfig> {
        self.web.load_full()
    }

    /// What shows another certificate, once it is given to [`TlsEdge::show`].
    pub(super) fn prepare(&self, certificate: &[u8], key: &[u8]) -> Result<Shown> {
        shown(&self.verifier, identity(certificate, key)?)
    }

    /// Shows another certificate from the next handshake on.
    pub(super) fn show(&self, prepared: Shown) {
        self.config.store(prepared.config);
        self.web.store(prepared.web);
        self.shows.store(true, Ordering::Release);
    }

    /// Trusts other clients from now on; live connections are looked at again by who watches [`ClientVerifier::version`].
    pub(super) fn trust(&self, domains: Vec<TrustDomainConfig>) -> Result<()> {
        self.verifier.replace(trust_store(domains)?);
        Ok(())
    }

    /// Ticks when the trust changes.
    pub(super) fn version(&self) -> tokio::sync::watch::Receiver<u64> {
        self.verifier.version()
    }

    /// The identity in a client's chain, verified against the trust of this moment.
    pub(super) fn judge(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<Verdict> {
        self.verifier.judge(chain, now)
    }

    /// Whether [`TlsEdge::judge`] would find the same again.
    pub(super) fn stands(&self, verdict: &Verdict, now: Timestamp) -> bool {
        self.verifier.stands(verdict, now)
    }
}

fn shown(verifier: &Arc<ClientVerifier>, identity: Arc<dyn ResolvesServerCert>) -> Result<Shown> {
    let mut web = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::internal)?
        .with_no_client_auth()
        .with_cert_resolver(identity.clone());
    web.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Shown { config: server_config(verifier.clone(), identity)?, web: Arc::new(web) })
}

fn trust_store(domains: Vec<TrustDomainConfig>) -> Result<TrustStore> {
    TrustStore::new(domains).map_err(|faults| Error::internal(faults.join("; ")))
}

/// No certificate: a handshake ends with an alert.
#[derive(Debug)]
struct Nothing;

impl ResolvesServerCert for Nothing {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

/// What a handshake shows: a chain, leaf first, and its key, both PEM.
pub(super) fn identity(certificate: &[u8], key: &[u8]) -> Result<Arc<dyn ResolvesServerCert>> {
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<std::result::Result<Vec<_>, _>>().map_err(Error::internal)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(Error::internal)?;
    let certified = CertifiedKey::new(chain, any_supported_type(&key).map_err(Error::internal)?);
    certified.keys_match().map_err(Error::internal)?;
    Ok(Arc::new(rustls::sign::SingleCertAndKey::from(certified)))
}
