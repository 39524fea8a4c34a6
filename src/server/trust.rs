//! Whom the TLS edge trusts, kept in step with the configuration and with the CRLs that we sign ourselves.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{conn::Registry, tls::TlsEdge};
use crate::{
    authn::mtls::TrustDomainConfig,
    background::ticker,
    model::{error::Result, name::CaName},
    vend::Vend,
};

/// How often live connections are looked at again even when nothing changed: certificates expire.
const LOOK_EVERY: Duration = Duration::from_secs(2);

type Domains = Vec<(TrustDomainConfig, Vec<CaName>)>;

/// The sources of trust.
pub(super) struct Trust {
    edge: Arc<TlsEdge>,
    sources: Mutex<Sources>,
    /// Whether `sources` has a CRL of every CA of ours that a trust domain names.
    complete: AtomicBool,
}

struct Sources {
    domains: Domains,
    own_crls: BTreeMap<CaName, Vec<u8>>,
}

impl Trust {
    pub(super) fn new(edge: Arc<TlsEdge>, domains: Domains) -> Self {
        let sources = Sources { domains, own_crls: BTreeMap::new() };
        let complete = sources.is_complete().into();
        Self { edge, sources: Mutex::new(sources), complete }
    }

    /// Whether it is known which certificates of our own making are revoked. Not so from the start until the first CRL is
    /// signed, which needs the lease store: until then nobody may be taken for what its certificate says.
    pub(super) fn knows_revocations(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// Trusts other domains from now on.
    pub(super) fn replace(&self, domains: Domains) -> Result<()> {
        let mut sources = self.lock();
        self.edge.trust(&domains, &sources.own_crls)?;
        sources.domains = domains;
        self.complete.store(sources.is_complete(), Ordering::Release);
        Ok(())
    }

    fn crl_published(&self, ca: &CaName, der: Vec<u8>) -> Result<()> {
        let mut sources = self.lock();
        // Kept even when no trust domain names it yet: the next configuration may.
        sources.own_crls.insert(ca.clone(), der);
        if sources.domains.iter().any(|(_, own)| own.contains(ca)) {
            self.edge.trust(&sources.domains, &sources.own_crls)?;
        }
        self.complete.store(sources.is_complete(), Ordering::Release);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sources {
    fn is_complete(&self) -> bool {
        self.domains.iter().flat_map(|(_, own)| own).all(|ca| self.own_crls.contains_key(ca))
    }
}

/// Takes each CRL of ours into the trust of the TLS edge as soon as it is signed.
pub(super) async fn follow_crl(trust: Arc<Trust>, vend: Arc<Vend>, ca: CaName) {
    let Some(mut published) = vend.crls().subscribe(&ca) else { return };
    loop {
        let crl = published.borrow_and_update().clone();
        if let Some(crl) = crl
            && let Err(error) = trust.crl_published(&ca, crl.der.clone())
        {
            tracing::error!(%error, %ca, "our own CRL cannot be taken into the trust of clients");
        }
        if published.changed().await.is_err() {
            return;
        }
    }
}

/// Ends live connections of clients that are no longer trusted: at once when the trust changes, and every two seconds for
/// certificates that expired.
pub(super) async fn cut_untrusted(edge: Arc<TlsEdge>, registry: Arc<Registry>, vend: Arc<Vend>) {
    let mut version = edge.version();
    let mut tick = ticker(LOOK_EVERY);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            changed = version.changed() => if changed.is_err() { return },
        }
        let (edge, registry, now) = (edge.clone(), registry.clone(), vend.now());
        let cut = tokio::task::spawn_blocking(move || registry.cut_unless(|chain| edge.identify(chain, now).is_ok())).await;
        let cut = cut.unwrap_or_default();
        if cut > 0 {
            tracing::info!(cut, "connections of clients that are no longer trusted were ended");
            metrics::counter!("daypass_connections_cut_total").increment(cut as u64);
        }
    }
}
