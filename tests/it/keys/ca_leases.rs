//! Leases over a change of their CA's key: each certificate is revoked at the authority that issued it, and none outlives it.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};

use daypass::{
    audit::{AuditOptions, DiskLog},
    background,
    clock::Clock,
    issuer::{
        Issuers,
        x509::{Ca, CaMaker, Cas, DEFAULT_CRL_LIFE, X509Issuer},
    },
    keys::{Activation, KeyRing, KeyState, Ring, Schedule, Vault},
    model::{
        SignedDuration, Timestamp,
        catalog::Catalog,
        error::Code,
        identity::CertificateIdentity,
        lease::{Handle, Lease, LeaseFilter, LeaseId},
        name::CaName,
        request::{Input, IssueRequest},
        role::{ExtKeyUsage, KeyType, OnClone, Role, RoleOwner, RoleSpec, X509Role},
        template::Template,
        tenant::{Member, Tenant, TenantKind},
    },
    policy::PolicyBook,
    store::{
        EntryStore, LeaseStore,
        embedded::EmbeddedStore,
        redis::{RedisOptions, RedisStore},
    },
    vend::{Call, Issued, Renewal, Rules, Vend},
};
use rcgen::{CertificateParams, KeyPair};
use tokio::{sync::watch, task::JoinSet};
use x509_parser::{certificate::X509Certificate, prelude::FromDer, revocation_list::CertificateRevocationList};

use super::vault;
use crate::{support::redis::Redis, vend::world::operator};

const DAY: SignedDuration = SignedDuration::from_hours(24);

const SCHEDULE: Schedule = Schedule { every: SignedDuration::from_hours(24 * 30), publish_ahead: DAY };

/// As long as a configuration with these must say at least: every, publish_ahead, and the longest life of a certificate.
const LIFE: SignedDuration = SignedDuration::from_hours(24 * 32);

struct SetClock(Mutex<Timestamp>);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

struct World {
    vend: Arc<Vend>,
    leases: Arc<dyn LeaseStore>,
    ring: Arc<KeyRing<CaMaker>>,
    vault: Vault,
    clock: Arc<SetClock>,
    _passes: JoinSet<()>,
    _running: watch::Sender<bool>,
}

impl World {
    async fn new<S: LeaseStore + EntryStore + 'static>(store: Arc<S>, dir: &Path) -> Self {
        let start: Timestamp = "2027-01-15T08:00:00Z".parse().unwrap();
        let clock = Arc::new(SetClock(Mutex::new(start)));
        let (leases, entries): (Arc<dyn LeaseStore>, Arc<dyn EntryStore>) = (store.clone(), store);
        let maker = CaMaker {
            ca: "issuing".parse().unwrap(),
            crl_url: "http://127.0.0.1/crl/{ca}.crl".to_owned(),
            crl_life: DEFAULT_CRL_LIFE,
            life: LIFE,
            root: None,
            root_crl_url: None,
            acknowledged_after: None,
        };
        assert_eq!(maker.faults(), Vec::<String>::new());
        let ring = Arc::new(KeyRing::new("issuing", SCHEDULE, maker));
        let vault = vault(&entries, 1, &[1]);
        ring.rotate(&vault, start).await.unwrap();
        let cas = Cas::new(BTreeMap::from([("issuing".parse().unwrap(), Ca::Rotating(ring.clone()))]));
        let log = Arc::new(DiskLog::open(AuditOptions::new(dir.join("audit"))).unwrap());
        let policy = "@id(\"all\") @reason(\"a test\") permit(principal is Certificate in Tenant::\"ops\", action, resource);";
        let book = PolicyBook::load("policy.cedar", policy, Arc::new(catalog()), "test").unwrap();
        let rules = Rules { book, issuers: Issuers::only_x509(X509Issuer::over(cas)) };
        let vend = Arc::new(Vend::new(leases.clone(), log, clock.clone(), rules));
        let ((running, shutdown), (_settle, settled)) = (watch::channel(false), watch::channel(true));
        let passes = background::start(&vend, &shutdown, &settled);
        Self { vend, leases, ring, vault, clock, _passes: passes, _running: running }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The CRL of an authority, once it is out.
    async fn crl(&self, name: &str) -> Vec<String> {
        let name: CaName = name.parse().unwrap();
        let published = async {
            loop {
                if let Some(crl) = self.vend.crls().published(&name) {
                    return crl;
                }
                tokio::task::yield_now().await;
            }
        };
        let crl = tokio::time::timeout(std::time::Duration::from_secs(20), published).await.expect("its CRL comes");
        let (_, parsed) = CertificateRevocationList::from_der(&crl.der).unwrap();
        assert_eq!(parsed.issuer().iter_common_name().next().unwrap().as_str().unwrap(), name.as_str());
        parsed.iter_revoked_certificates().map(|entry| entry.raw_serial_as_string().replace(':', "")).collect()
    }

    async fn rotate_at_once(&self) {
        self.ring.prepare(&self.vault, self.now()).await.unwrap();
        self.ring.activate(&self.vault, Activation::AtOnce, self.now()).await.unwrap();
    }

    async fn issue(&self) -> Issued {
        let request = IssueRequest { role: "web".parse().unwrap(), ttl: None, request_id: None, input: input() };
        self.vend.issue(&call(), request).await.unwrap()
    }
}

fn call() -> Call {
    operator()
}

fn input() -> Input {
    let pair = KeyPair::generate().unwrap();
    Input::X509 { csr_der: CertificateParams::default().serialize_request(&pair).unwrap().der().to_vec() }
}

fn catalog() -> Catalog {
    let operator = Member::Certificate { trust_domain: "dev".parse().unwrap(), id: "spiffe://dev/operator".to_owned() };
    let ops = Tenant {
        name: "ops".parse().unwrap(),
        kind: TenantKind::Team,
        ends_at: None,
        members: vec![operator],
        max_live_leases: 10_000,
        max_live_leases_per_caller: 10_000,
    };
    let web = Role {
        name: "web".parse().unwrap(),
        owner: RoleOwner::Shared,
        default_ttl: DAY,
        max_ttl: DAY,
        max_life: DAY * 3,
        max_life_per_token: DAY,
        on_clone: OnClone::default(),
        spec: RoleSpec::X509(X509Role {
            ca: "issuing".parse().unwrap(),
            common_name: None,
            uri_sans: vec![Template::parse("spiffe://dev/web").unwrap()],
            dns_sans: vec![],
            ip_sans: vec![],
            ext_key_usage: vec![ExtKeyUsage::ClientAuth],
            key_types: vec![KeyType::P256],
            enrollment: false,
        }),
    };
    Catalog {
        tenants: BTreeMap::from([("ops".parse().unwrap(), Arc::new(ops))]),
        roles: BTreeMap::from([("web".parse().unwrap(), Arc::new(web))]),
        trust_domains: BTreeMap::from([("dev".parse().unwrap(), CertificateIdentity::Spiffe)]),
        ..Catalog::default()
    }
}

fn renewal(lease: LeaseId) -> Renewal {
    Renewal { lease, generation: None, ttl: None, input: input() }
}

/// The authority and the serial of each certificate of a lease, oldest first.
fn certificates(lease: &Lease) -> Vec<(String, String)> {
    let Handle::X509 { ca, serials, .. } = &lease.handle else { panic!("no certificate") };
    serials.iter().map(|live| (live.ca.as_ref().unwrap_or(ca).to_string(), live.serial.clone())).collect()
}

async fn over_a_change<S: LeaseStore + EntryStore + 'static>(store: Arc<S>) {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(store, dir.path()).await;
    assert!(world.crl("issuing-1").await.is_empty());
    let lease = world.issue().await.lease;
    world.rotate_at_once().await;
    let renewed = world.vend.renew(&call(), renewal(lease.id)).await.unwrap().lease;
    let old = certificates(&renewed).remove(0).1;
    assert!(world.crl("issuing-2").await.is_empty());
    // Forced as it was, it signs only now that its CRL is out.
    let renewed = world.vend.renew(&call(), renewal(lease.id)).await.unwrap().lease;
    let stored = world.leases.get(&[lease.id]).await.unwrap().pop().unwrap().unwrap();
    assert_eq!(stored, renewed);
    let made = certificates(&stored);
    assert_eq!(made.first().unwrap(), &("issuing-1".to_owned(), old));
    assert_eq!(made.last().unwrap().0, "issuing-2");

    let revoked = world.vend.revoke(&call(), lease.id, "test").await.unwrap();
    assert!(revoked.live_until <= world.now() + DEFAULT_CRL_LIFE + SignedDuration::from_secs(1));
    let of = |ca: &str| -> Vec<String> {
        let mut serials: Vec<String> = made.iter().filter(|(own, _)| own == ca).map(|(_, serial)| serial.clone()).collect();
        serials.sort();
        serials
    };
    for ca in ["issuing-1", "issuing-2"] {
        assert_eq!(world.crl(ca).await, of(ca), "{ca}");
    }
    // From the record alone it comes back to both, should the store have lost it.
    let (list, now) = (|ca: &str| ca.parse::<CaName>().unwrap().into(), world.now());
    world.leases.purge(&[], now + DAY * 30).await.unwrap();
    assert!(world.leases.revoked(&list("issuing-1"), now).await.unwrap().1.is_empty());
    world.vend.reconcile(vec![revoked]).await.unwrap();
    for ca in ["issuing-1", "issuing-2"] {
        assert_eq!(world.leases.revoked(&list(ca), now).await.unwrap().1.len(), of(ca).len(), "{ca}");
    }
}

#[tokio::test]
async fn a_lease_renewed_over_a_change_is_revoked_at_both_in_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    over_a_change(Arc::new(EmbeddedStore::open(&dir.path().join("leases.db"), SignedDuration::from_hours(1)).unwrap())).await;
}

#[tokio::test]
async fn a_lease_renewed_over_a_change_is_revoked_at_both_in_redis() {
    let redis = Redis::start();
    over_a_change(Arc::new(RedisStore::new(RedisOptions::new(redis.url())).unwrap())).await;
}

#[tokio::test]
async fn a_retry_gets_its_certificate_also_when_another_key_signs_by_then() {
    let (dir, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Arc::new(EmbeddedStore::open(&store.path().join("leases.db"), SignedDuration::from_hours(1)).unwrap());
    let world = World::new(store, dir.path()).await;
    world.crl("issuing-1").await;
    let Input::X509 { csr_der } = input() else { panic!("no CSR") };
    let request = || IssueRequest {
        role: "web".parse().unwrap(),
        ttl: None,
        request_id: Some("step".to_owned().try_into().unwrap()),
        input: Input::X509 { csr_der: csr_der.clone() },
    };
    let first = world.vend.issue(&call(), request()).await.unwrap();
    world.rotate_at_once().await;
    world.crl("issuing-2").await;
    let again = world.vend.issue(&call(), request()).await.unwrap();
    assert_eq!(again.lease.id, first.lease.id);
    assert_eq!(certificates(&again.lease), certificates(&first.lease));
    // Once its CA is gone nobody can make it again.
    world.ring.retire(&world.vault, 1, world.now()).await.unwrap();
    assert_eq!(world.vend.issue(&call(), request()).await.map(drop).unwrap_err().code(), Code::RequestIdReused);
}

/// Four turns of the ring, a look each six hours: whatever lives is under an authority that is published and whose CRL is out.
#[tokio::test]
async fn on_its_schedule_a_ca_leaves_nothing_behind_that_lives() {
    let (dir, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Arc::new(EmbeddedStore::open(&store.path().join("leases.db"), SignedDuration::from_hours(1)).unwrap());
    let world = World::new(store, dir.path()).await;
    let mut ever = Vec::new();
    for _ in 0..4 * 125 {
        *world.clock.0.lock().unwrap() += SignedDuration::from_hours(6);
        let now = world.now();
        world.ring.rotate(&world.vault, now).await.unwrap();
        let news = world.ring.claim_news(&world.vault, now).await.unwrap();
        world.ring.told(&world.vault, &news, now).await.unwrap();
        world.ring.prune(&world.vault, now).await.unwrap();
        world.vend.follow_cas();
        let authorities = world.vend.trust_bundle().authorities;
        for authority in &authorities {
            world.crl(authority.name.as_str()).await;
        }
        let active: Vec<_> = authorities.iter().filter(|authority| authority.state == KeyState::Active).collect();
        assert_eq!(active.len(), 1);
        assert!(authorities.len() <= 3, "{}", authorities.len());
        let issued = world.issue().await;
        let (ca, _) = certificates(&issued.lease).pop().unwrap();
        assert_eq!(ca, active[0].name.as_str());
        assert_eq!(issued.lease.expires_at.duration_since(now), DAY, "the CA outlives each leaf");
        let (_, root) = X509Certificate::from_der(&active[0].root_der[0]).unwrap();
        assert!(root.validity().not_after.timestamp() >= issued.lease.expires_at.as_second());
        if ever.last() != Some(&ca) {
            ever.push(ca);
        }
        let living = world.leases.list(&LeaseFilter::default(), None, 1000).await.unwrap().leases;
        let names: Vec<&str> = authorities.iter().map(|authority| authority.name.as_str()).collect();
        for lease in living.iter().filter(|lease| lease.expires_at > now) {
            for (ca, _) in certificates(lease) {
                assert!(names.contains(&ca.as_str()), "{ca} is gone, and {} lives until {}", lease.id, lease.expires_at);
            }
        }
    }
    assert!((4..=6).contains(&ever.len()), "{ever:?}");
}
