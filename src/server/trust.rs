//! Whom the TLS edge trusts, kept in step with the configuration and with the CRLs that we sign ourselves.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{conn::Registry, tls::TlsEdge};
use crate::{
    authn::mtls::TrustDomainConfig,
    background::ticker,
    model::{
        Timestamp,
        error::{Error, Result},
        name::CaName,
    },
    vend::{PublishedCrl, Vend},
};

/// How often live connections are looked at again even when nothing changed: certificates expire.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How many clients are verified again in one go, some 40 ms of one core: the first of many are cut before the last are looked at.
const SLICE: usize = 256;

type Domains = Vec<(TrustDomainConfig, Vec<CaName>)>;

/// The sources of trust.
pub(super) struct Trust {
    edge: Arc<TlsEdge>,
    /// One lock for both: what the edge trusts is made of both, and a reload meets a new CRL at any moment.
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

    fn lock(&self) -> MutexGuard<'_, Sources> {
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
            && let Err(error) = take_crl(&trust, &ca, crl).await
        {
            tracing::error!(%error, %ca, "our own CRL cannot be taken into the trust of clients");
        }
        if published.changed().await.is_err() {
            return;
        }
    }
}

/// Parses a CRL, which may be long, and builds the trust anew, away from the threads that serve.
async fn take_crl(trust: &Arc<Trust>, ca: &CaName, crl: Arc<PublishedCrl>) -> Result<()> {
    let (trust, ca) = (trust.clone(), ca.clone());
    tokio::task::spawn_blocking(move || trust.crl_published(&ca, crl.der.clone())).await.map_err(Error::internal)?
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
        let cut = look(&edge, &registry, vend.now()).await;
        if cut > 0 {
            tracing::info!(cut, "connections of clients that are no longer trusted were ended");
            metrics::counter!("daypass_connections_cut_total").increment(cut as u64);
        }
    }
}

/// Verifies again whose verdict does not stand any more, and cuts those who fail. Answers how many.
async fn look(edge: &Arc<TlsEdge>, registry: &Arc<Registry>, now: Timestamp) -> usize {
    let mut doubtful = registry.doubtful(|verdict| edge.stands(verdict, now));
    let mut cut = 0;
    while !doubtful.is_empty() {
        let slice = doubtful.split_off(doubtful.len().saturating_sub(SLICE));
        let (edge, registry) = (edge.clone(), registry.clone());
        let judged = tokio::task::spawn_blocking(move || registry.cut_unless_same(&slice, |chain| edge.judge(chain, now)));
        match judged.await {
            Ok(lost) => cut += lost,
            // They stay doubtful: the next look meets them again.
            Err(error) => tracing::error!(%error, "some clients could not be verified again"),
        }
    }
    cut
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::{CertificateDer, pem::PemObject};
    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        clock::{Clock, SystemClock},
        issuer::x509::{Authority, CaConfig, DEFAULT_CRL_LIFE, bootstrap, plan::San},
        model::{SignedDuration, error::Code, identity::CertificateIdentity, revocation::RevokedSerial},
    };

    struct World {
        edge: Arc<TlsEdge>,
        domains: Domains,
        ca: CaName,
        client: Vec<CertificateDer<'static>>,
        /// Our CRL that names the client.
        crl: Vec<u8>,
    }

    impl World {
        fn new() -> Self {
            let (now, day) = (SystemClock.now(), SignedDuration::from_hours(24));
            let root = bootstrap::create_root("Root", now, day * 30).unwrap();
            let issuing = bootstrap::create_issuing(&root, "Issuing", None, now, day * 20).unwrap();
            let ca: CaName = "issuing".parse().unwrap();
            let config = CaConfig {
                name: ca.clone(),
                chain_pem: issuing.certificate_pem.clone().into_bytes(),
                root_pem: root.certificate_pem.clone().into_bytes(),
                key: bootstrap::file_key(&issuing).unwrap(),
                crl_url: "http://127.0.0.1/crl/issuing.crl".to_owned(),
                crl_life: DEFAULT_CRL_LIFE,
            };
            let authority = Authority::load(config, now).unwrap();
            let server = bootstrap::create_server_certificate(&authority, vec![San::Dns("localhost".to_owned())], now, day).unwrap();
            let client = bootstrap::create_client_certificate(&authority, "spiffe://dev/vendor", now, day).unwrap();
            let client: Vec<_> =
                CertificateDer::pem_slice_iter(client.chain_pem.as_bytes()).collect::<std::result::Result<_, _>>().unwrap();
            let domain = TrustDomainConfig::new(
                "dev".parse().unwrap(),
                root.certificate_pem.clone().into_bytes(),
                Vec::new(),
                false,
                CertificateIdentity::Spiffe,
            );
            let domains = vec![(domain, vec![ca.clone()])];
            let edge = TlsEdge::new(&domains, server.chain_pem.as_bytes(), server.key_pem.as_bytes(), Arc::new(SystemClock)).unwrap();
            let serial = edge.judge(&client, now).unwrap().peer().serial.clone();
            let revoked = RevokedSerial { serial, revoked_at: now, not_after: now + day };
            let crl = authority.sign_crl(1, &[revoked], now).unwrap().der;
            Self { edge: Arc::new(edge), domains, ca, client, crl }
        }

        fn code(&self) -> Option<Code> {
            self.edge.judge(&self.client, SystemClock.now()).err().map(|error| error.code())
        }
    }

    #[test]
    fn a_reload_and_a_new_crl_never_wait_for_each_other() {
        let world = World::new();
        let trust = Arc::new(Trust::new(world.edge.clone(), world.domains.clone()));
        let (done, finished) = std::sync::mpsc::channel();
        let (reloading, domains, reloaded) = (trust.clone(), world.domains.clone(), done.clone());
        std::thread::spawn(move || {
            (0..300).for_each(|_| reloading.replace(domains.clone()).unwrap());
            reloaded.send(()).unwrap();
        });
        let (ca, crl) = (world.ca.clone(), world.crl.clone());
        std::thread::spawn(move || {
            (0..300).for_each(|_| trust.crl_published(&ca, crl.clone()).unwrap());
            done.send(()).unwrap();
        });
        for _ in 0..2 {
            finished.recv_timeout(Duration::from_secs(60)).expect("one waits for the other, for ever");
        }
        assert_eq!(world.code(), Some(Code::CertificateRevoked));
    }

    #[test]
    fn a_trust_domain_that_a_reload_binds_to_our_ca_sees_the_crl_from_before() {
        let world = World::new();
        let unbound: Domains = world.domains.iter().map(|(domain, _)| (domain.clone(), Vec::new())).collect();
        let trust = Trust::new(world.edge.clone(), unbound);
        trust.crl_published(&world.ca, world.crl.clone()).unwrap();
        assert_eq!(world.code(), None, "no trust domain listens to our CRL");
        trust.replace(world.domains.clone()).unwrap();
        assert_eq!(world.code(), Some(Code::CertificateRevoked));
    }

    /// A CRL waits its turn while a reload builds the trust; the thread that serves must not wait with it.
    #[tokio::test]
    async fn a_crl_is_taken_away_from_the_thread_that_serves() {
        let world = World::new();
        let trust = Arc::new(Trust::new(world.edge.clone(), world.domains.clone()));
        let (held, is_held) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let reloading = trust.clone();
        std::thread::spawn(move || {
            let _sources = reloading.lock();
            held.send(()).unwrap();
            let _in_time = released.recv_timeout(Duration::from_secs(10));
        });
        is_held.recv().unwrap();
        let crl = PublishedCrl {
            der: world.crl.clone(),
            revoked: Vec::new(),
            number: 1,
            revision: 1,
            this_update: SystemClock.now(),
            next_update: SystemClock.now(),
        };
        let taken = take_crl(&trust, &world.ca, Arc::new(crl));
        tokio::pin!(taken);
        assert!(futures::poll!(&mut taken).is_pending(), "it waited for the reload, on the thread that serves");
        assert_eq!(world.code(), None);
        release.send(()).unwrap();
        taken.await.unwrap();
        assert_eq!(world.code(), Some(Code::CertificateRevoked));
    }

    fn enter(world: &World, registry: &Registry, connections: usize) -> Vec<oneshot::Receiver<()>> {
        let verdict = world.edge.judge(&world.client, SystemClock.now()).unwrap();
        (0..connections).map(|_| registry.enter(world.client.clone(), verdict.clone()).1).collect()
    }

    fn open(connections: &mut [oneshot::Receiver<()>]) -> usize {
        connections.iter_mut().filter_map(|cut| (cut.try_recv() == Err(oneshot::error::TryRecvError::Empty)).then_some(())).count()
    }

    #[tokio::test]
    async fn a_look_costs_no_verification_until_trust_or_time_moves_on() {
        let (world, registry, now) = (World::new(), Arc::new(Registry::default()), SystemClock.now());
        let mut connections = enter(&world, &registry, 3);
        assert!(registry.doubtful(|verdict| world.edge.stands(verdict, now)).is_empty());
        // The same trust, built anew: all are verified again, and then stand.
        world.edge.trust(&world.domains, &BTreeMap::new()).unwrap();
        assert_eq!(registry.doubtful(|verdict| world.edge.stands(verdict, now)).len(), 3);
        assert_eq!(look(&world.edge, &registry, now).await, 0);
        assert!(registry.doubtful(|verdict| world.edge.stands(verdict, now)).is_empty());
        assert_eq!(open(&mut connections), 3);
    }

    #[tokio::test]
    async fn an_expired_certificate_ends_its_connections_in_its_second() {
        let (world, registry) = (World::new(), Arc::new(Registry::default()));
        let mut connections = enter(&world, &registry, 2);
        let not_after = world.edge.judge(&world.client, SystemClock.now()).unwrap().peer().not_after;
        assert_eq!(look(&world.edge, &registry, not_after).await, 0, "it is good through that second");
        assert_eq!(look(&world.edge, &registry, not_after + SignedDuration::from_secs(1)).await, 2);
        assert_eq!(open(&mut connections), 0);
    }

    #[tokio::test]
    async fn all_of_many_connections_end_when_their_certificate_is_revoked() {
        let (world, registry, now) = (World::new(), Arc::new(Registry::default()), SystemClock.now());
        let connections = 2 * SLICE + 1;
        let mut live = enter(&world, &registry, connections);
        let trust = Trust::new(world.edge.clone(), world.domains.clone());
        trust.crl_published(&world.ca, world.crl.clone()).unwrap();
        assert_eq!(look(&world.edge, &registry, now).await, connections);
        assert_eq!(open(&mut live), 0);
    }

    /// Its handshake ended under the old trust, and it entered after everyone had been looked at.
    #[tokio::test]
    async fn a_latecomer_under_an_old_verdict_is_met_by_the_next_look() {
        let (world, registry, now) = (World::new(), Arc::new(Registry::default()), SystemClock.now());
        let verdict = world.edge.judge(&world.client, now).unwrap();
        let trust = Trust::new(world.edge.clone(), world.domains.clone());
        trust.crl_published(&world.ca, world.crl.clone()).unwrap();
        assert_eq!(look(&world.edge, &registry, now).await, 0);
        let (_, _cut) = registry.enter(world.client.clone(), verdict);
        assert_eq!(look(&world.edge, &registry, now).await, 1);
    }
}
