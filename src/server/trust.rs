//! Whom the TLS edge trusts, kept in step with the configuration and with the CRLs that we sign ourselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};

use super::{conn::Registry, tls::TlsEdge};
use crate::{
    authn::mtls::{RotatingCa, TrustDomainConfig},
    background::ticker,
    model::{
        Timestamp,
        error::{Error, Result},
        name::CaName,
        pem,
    },
    vend::{PublicCa, PublishedCrl, Vend},
};

/// How often live connections are looked at again even when nothing changed: certificates expire.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How many clients are verified again in one go, some 40 ms of one core: the first of many are cut before the last are looked at.
const SLICE: usize = 256;

/// The trust domains as configured, each with the CAs of ours whose certificates are of it.
type Domains = Vec<(TrustDomainConfig, Vec<CaName>)>;

/// The sources of trust.
pub(super) struct Trust {
    edge: Arc<TlsEdge>,
    /// One lock for all: what the edge trusts is made of them together, and a reload meets a new CRL or a new key at any moment.
    sources: Mutex<Sources>,
    /// Whether every CA of ours that a trust domain names was complete once, see [`Sources::complete`].
    complete: AtomicBool,
}

#[derive(Default)]
struct Sources {
    domains: Domains,
    /// Our authorities, by their own names.
    own: BTreeMap<CaName, Own>,
    /// The configured CAs of ours of which once every authority had a CRL. From then on another one is trusted when its CRL is here, and
    /// not before: it signs nothing yet.
    complete: BTreeSet<CaName>,
    /// The configured CAs of ours that rotate.
    rotating: BTreeSet<CaName>,
}

/// An authority of ours.
struct Own {
    /// The configured name.
    ca: CaName,
    /// Its root, where it is trusted because it is ours. A fixed one is trusted where a trust domain's own file has its root.
    root_pem: Option<String>,
    /// Its own certificate, DER, where it is one of a CA that rotates.
    certificate: Option<Vec<u8>>,
    crl: Option<Vec<u8>>,
}

impl Trust {
    pub(super) fn new(edge: Arc<TlsEdge>, domains: Domains) -> Result<Self> {
        let trust = Self { edge, sources: Mutex::default(), complete: false.into() };
        trust.replace(domains)?;
        Ok(trust)
    }

    /// Whether it is known which certificates of our own making are revoked. Not so from the start until the first CRLs are
    /// signed, which needs the lease store: until then nobody may be taken for what its certificate says.
    pub(super) fn knows_revocations(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// Trusts other domains from now on.
    pub(super) fn replace(&self, domains: Domains) -> Result<()> {
        let mut sources = self.lock();
        self.edge.trust(sources.trusted(&domains))?;
        sources.domains = domains;
        self.complete.store(sources.is_complete(), Ordering::Release);
        Ok(())
    }

    /// From now on these are our authorities. Those that stay keep their CRLs.
    pub(super) fn meet(&self, authorities: Vec<PublicCa>) -> Result<()> {
        let mut sources = self.lock();
        let mut before = std::mem::take(&mut sources.own);
        for PublicCa { name, ca, rotates, chain_der, root_der, .. } in authorities {
            // One without a chain is its own root.
            let certificate = chain_der.first().or(root_der.first()).filter(|_| rotates).cloned();
            if rotates {
                sources.rotating.insert(ca.clone());
            }
            let root_pem = rotates.then(|| {
                let mut text = String::new();
                root_der.iter().for_each(|der| pem::push(&mut text, "CERTIFICATE", der));
                text
            });
            let crl = before.remove(&name).and_then(|known| known.crl);
            sources.own.insert(name, Own { ca, root_pem, certificate, crl });
        }
        self.put_in_force(&mut sources)
    }

    fn crl_published(&self, name: &CaName, der: Vec<u8>) -> Result<()> {
        let mut sources = self.lock();
        // Kept even when no trust domain names it yet: the next configuration may.
        let Some(own) = sources.own.get_mut(name) else { return Ok(()) };
        own.crl = Some(der);
        let ca = own.ca.clone();
        if sources.domains.iter().any(|(_, cas)| cas.contains(&ca)) {
            return self.put_in_force(&mut sources);
        }
        sources.note_complete();
        Ok(())
    }

    fn put_in_force(&self, sources: &mut Sources) -> Result<()> {
        sources.note_complete();
        self.edge.trust(sources.trusted(&sources.domains))?;
        self.complete.store(sources.is_complete(), Ordering::Release);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sources {
    fn note_complete(&mut self) {
        let all: BTreeSet<&CaName> = self.own.values().map(|own| &own.ca).collect();
        let lacking: BTreeSet<&CaName> = self.own.values().filter(|own| own.crl.is_none()).map(|own| &own.ca).collect();
        let complete: Vec<CaName> = all.difference(&lacking).map(|ca| (*ca).clone()).collect();
        self.complete.extend(complete);
    }

    fn is_complete(&self) -> bool {
        self.domains.iter().flat_map(|(_, cas)| cas).all(|ca| self.complete.contains(ca))
    }

    /// The trust domains with what is ours in them: roots of CAs that rotate, and CRLs.
    fn trusted(&self, domains: &Domains) -> Vec<TrustDomainConfig> {
        let with_own = |(domain, cas): &(TrustDomainConfig, Vec<CaName>)| {
            let mut domain = domain.clone();
            // Until its CA is complete one is trusted without a CRL: its holders are told to come again, and not that they are unknown.
            let trusted = |own: &&Own| cas.contains(&own.ca) && (own.crl.is_some() || !self.complete.contains(&own.ca));
            for own in self.own.values().filter(trusted) {
                domain.ca_pem.extend(own.root_pem.iter().flat_map(|pem| [b"\n", pem.as_bytes()].concat()));
                domain.crls.extend(own.crl.clone());
            }
            // Before it was complete once it may have authorities that are not met yet.
            let known = cas.iter().filter(|ca| self.rotating.contains(ca) && self.complete.contains(ca));
            domain.rotating = known.map(|ca| self.in_force(ca)).collect();
            domain
        };
        domains.iter().map(with_own).collect()
    }

    /// A CA that rotates, with its authorities that are trusted.
    fn in_force(&self, ca: &CaName) -> RotatingCa {
        let trusted = self.own.values().filter(|own| own.ca == *ca && own.crl.is_some());
        RotatingCa { name: ca.clone(), authorities: trusted.filter_map(|own| own.certificate.clone()).collect() }
    }
}

/// Takes our authorities, and each CRL of ours as soon as it is signed, into the trust of the TLS edge.
pub(super) async fn follow(trust: Arc<Trust>, vend: Arc<Vend>) {
    let mut changed = vend.crls().changed();
    let mut begun = BTreeSet::new();
    let mut followed = FuturesUnordered::new();
    loop {
        changed.mark_unchanged();
        let (meeting, authorities) = (trust.clone(), vend.trust_bundle().authorities);
        let met = tokio::task::spawn_blocking(move || meeting.meet(authorities)).await;
        if let Err(error) = met.map_err(Error::internal).and_then(|met| met) {
            tracing::error!(%error, "our own CAs cannot be taken into the trust of clients");
        }
        for ca in vend.crls().cas() {
            if begun.insert(ca.clone()) {
                followed.push(follow_crl(trust.clone(), vend.clone(), ca));
            }
        }
        tokio::select! {
            changed = changed.changed() => if changed.is_err() { return },
            Some(gone) = followed.next() => drop(begun.remove(&gone)),
        }
    }
}

/// Until the CA is gone.
async fn follow_crl(trust: Arc<Trust>, vend: Arc<Vend>, ca: CaName) -> CaName {
    let Some(mut published) = vend.crls().subscribe(&ca) else { return ca };
    loop {
        let crl = published.borrow_and_update().clone();
        if let Some(crl) = crl
            && let Err(error) = take_crl(&trust, &ca, crl).await
        {
            tracing::error!(%error, %ca, "our own CRL cannot be taken into the trust of clients");
        }
        if published.changed().await.is_err() {
            return ca;
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
        keys::KeyState,
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
            let edge = TlsEdge::new(Arc::new(SystemClock)).unwrap();
            edge.show(edge.prepare(server.chain_pem.as_bytes(), server.key_pem.as_bytes()).unwrap());
            edge.trust(domains.iter().map(|(domain, _)| domain.clone()).collect()).unwrap();
            let serial = edge.judge(&client, now).unwrap().peer().serial.clone();
            let revoked = RevokedSerial { serial, revoked_at: now, not_after: now + day };
            let crl = authority.sign_crl(1, &[revoked], now).unwrap().der;
            Self { edge: Arc::new(edge), domains, ca, client, crl }
        }

        /// Trust in these domains, which has met our CA.
        fn trust(&self, domains: Domains) -> Arc<Trust> {
            let trust = Trust::new(self.edge.clone(), domains).unwrap();
            let (name, ca) = (self.ca.clone(), self.ca.clone());
            let fixed = PublicCa {
                name,
                ca,
                state: KeyState::Active,
                rotates: false,
                chain_der: Vec::new(),
                root_der: Vec::new(),
                crl_url: String::new(),
            };
            trust.meet(vec![fixed]).unwrap();
            Arc::new(trust)
        }

        fn code(&self) -> Option<Code> {
            self.edge.judge(&self.client, SystemClock.now()).err().map(|error| error.code())
        }
    }

    #[test]
    fn a_reload_and_a_new_crl_never_wait_for_each_other() {
        let world = World::new();
        let trust = world.trust(world.domains.clone());
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
        let trust = world.trust(unbound);
        trust.crl_published(&world.ca, world.crl.clone()).unwrap();
        assert_eq!(world.code(), None, "no trust domain listens to our CRL");
        trust.replace(world.domains.clone()).unwrap();
        assert_eq!(world.code(), Some(Code::CertificateRevoked));
    }

    /// A CRL waits its turn while a reload builds the trust; the thread that serves must not wait with it.
    #[tokio::test]
    async fn a_crl_is_taken_away_from_the_thread_that_serves() {
        let world = World::new();
        let trust = world.trust(world.domains.clone());
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
            issuer: Vec::new(),
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
        world.edge.trust(world.domains.iter().map(|(domain, _)| domain.clone()).collect()).unwrap();
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
        let trust = world.trust(world.domains.clone());
        trust.crl_published(&world.ca, world.crl.clone()).unwrap();
        assert_eq!(look(&world.edge, &registry, now).await, connections);
        assert_eq!(open(&mut live), 0);
    }

    /// Its handshake ended under the old trust, and it entered after everyone had been looked at.
    #[tokio::test]
    async fn a_latecomer_under_an_old_verdict_is_met_by_the_next_look() {
        let (world, registry, now) = (World::new(), Arc::new(Registry::default()), SystemClock.now());
        let verdict = world.edge.judge(&world.client, now).unwrap();
        let trust = world.trust(world.domains.clone());
        trust.crl_published(&world.ca, world.crl.clone()).unwrap();
        assert_eq!(look(&world.edge, &registry, now).await, 0);
        let (_, _cut) = registry.enter(world.client.clone(), verdict);
        assert_eq!(look(&world.edge, &registry, now).await, 1);
    }
}
