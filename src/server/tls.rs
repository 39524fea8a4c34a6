//! The TLS edge: whom we trust as clients, and the certificate that we show.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::{self, sign::any_supported_type},
    server::ResolvesServerCert,
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
        name::CaName,
    },
};

/// The trust domains as configured, each with the CAs of ours whose CRLs hold for it.
type Domains = Vec<(TrustDomainConfig, Vec<CaName>)>;

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
}

impl TlsEdge {
    pub(super) fn new(domains: &Domains, certificate: &[u8], key: &[u8], clock: Arc<dyn Clock>) -> Result<Self> {
        let verifier = Arc::new(ClientVerifier::new(trust_store(domains, &BTreeMap::new())?, clock));
        let Shown { config, web } = shown(&verifier, certificate, key)?;
        Ok(Self { config: ArcSwap::new(config), web: ArcSwap::new(web), verifier })
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
        shown(&self.verifier, certificate, key)
    }

    /// Shows another certificate from the next handshake on.
    pub(super) fn show(&self, prepared: Shown) {
        self.config.store(prepared.config);
        self.web.store(prepared.web);
    }

    /// Trusts other clients from now on; live connections are looked at again by who watches [`ClientVerifier::version`].
    pub(super) fn trust(&self, domains: &Domains, own_crls: &BTreeMap<CaName, Vec<u8>>) -> Result<()> {
        self.verifier.replace(trust_store(domains, own_crls)?);
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

fn shown(verifier: &Arc<ClientVerifier>, certificate: &[u8], key: &[u8]) -> Result<Shown> {
    let identity = identity(certificate, key)?;
    let mut web = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::internal)?
        .with_no_client_auth()
        .with_cert_resolver(identity.clone());
    web.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Shown { config: server_config(verifier.clone(), identity)?, web: Arc::new(web) })
}

fn trust_store(domains: &Domains, own_crls: &BTreeMap<CaName, Vec<u8>>) -> Result<TrustStore> {
    let with_own = |(domain, own): &(TrustDomainConfig, Vec<CaName>)| {
        let mut domain = domain.clone();
        domain.crls.extend(own.iter().filter_map(|ca| own_crls.get(ca)).cloned());
        domain
    };
    TrustStore::new(domains.iter().map(with_own).collect()).map_err(|faults| Error::internal(faults.join("; ")))
}

/// What a handshake shows: a chain, leaf first, and its key, both PEM.
pub(super) fn identity(certificate: &[u8], key: &[u8]) -> Result<Arc<dyn ResolvesServerCert>> {
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<std::result::Result<Vec<_>, _>>().map_err(Error::internal)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(Error::internal)?;
    let certified = CertifiedKey::new(chain, any_supported_type(&key).map_err(Error::internal)?);
    certified.keys_match().map_err(Error::internal)?;
    Ok(Arc::new(rustls::sign::SingleCertAndKey::from(certified)))
}
