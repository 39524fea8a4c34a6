//! Two servers over one store, one CA, tenants with agents, and a clock that stands still.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use daypass::{
    audit::{AuditLog, AuditOptions, DiskLog, read},
    clock::Clock,
    issuer::{
        Issuers,
        x509::{Authority, CaConfig, DEFAULT_CRL_LIFE, X509Issuer, bootstrap},
    },
    model::{
        SignedDuration, Timestamp,
        catalog::Catalog,
        credential::Credential,
        error::{Error, Result},
        event::Event,
        identity::{CertificateIdentity, Identity, PeerCertificate, Proof, Subject},
        lease::{Lease, LeaseFilter, LeaseId, LeaseState, Serial},
        name::CaName,
        request::Input,
        role::{ExtKeyUsage, KeyType, OnClone, Role, RoleOwner, RoleSpec, X509Role},
        secret::Secret,
        template::Template,
        tenant::{Member, Tenant, TenantKind},
    },
    policy::PolicyBook,
    store::{EntryStore, LeaseStore, embedded::EmbeddedStore, redis::RedisOptions, redis::RedisStore},
    vend::{Call, CreatedEnrollment, Enrollments, Issued, NewEnrollment, Origin, Renewal, Rules, Vend},
};
use rcgen::{CertificateParams, KeyPair};

use super::faults::FaultyEntries;
use crate::{
    support::redis::Redis,
    vend::faulty::{Faults, FaultyLog, FaultyStore},
};

pub const POLICY: &str = r#"
@id("enroll")
permit(principal is Certificate in Tenant::"ops", action == Action::"enroll", resource == Role::"agent")
when { ["ops", "acme", "ended", "nobody", "lost"].contains(context.tenant) };
@id("enroll-others")
permit(principal is Certificate in Tenant::"ops", action == Action::"enroll", resource in Tenant::"acme");
@id("enroll-web")
permit(principal is Certificate in Tenant::"ops", action == Action::"enroll", resource == Role::"web");
@id("own") @reason("own is the very certificate")
permit(principal is Certificate, action in [Action::"renew", Action::"read", Action::"revoke"], resource) when { resource.own };
@id("issue") @reason("a test's role")
permit(principal is Certificate, action == Action::"issue", resource);
@id("operator") @reason("a test's operator")
permit(principal == Certificate::"spiffe://dev/operator", action in [Action::"read", Action::"revoke"], resource);
"#;

pub struct ManualClock(Mutex<Timestamp>);

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

impl ManualClock {
    pub fn forward(&self, span: SignedDuration) {
        *self.0.lock().unwrap() += span;
    }
}

/// One server.
#[derive(Clone)]
pub struct Server {
    pub vend: Arc<Vend>,
    pub enrollments: Arc<Enrollments>,
}

pub struct World {
    pub servers: [Server; 2],
    pub store: Arc<dyn LeaseStore>,
    pub entries: Arc<dyn EntryStore>,
    pub clock: Arc<ManualClock>,
    pub ca: CaName,
    issuers: Issuers,
    dir: tempfile::TempDir,
    _redis: Option<Redis>,
    _publishers: tokio::task::JoinSet<()>,
}

/// A key, and any number of requests for it.
pub struct Key(KeyPair);

impl Key {
    pub fn new() -> Self {
        Self(KeyPair::generate().unwrap())
    }

    /// Each one is signed anew.
    pub fn csr(&self) -> Input {
        Input::X509 { csr_der: CertificateParams::default().serialize_request(&self.0).unwrap().der().to_vec() }
    }
}

impl World {
    pub fn on_sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(EmbeddedStore::open(&dir.path().join("leases.db"), SignedDuration::from_hours(1)).unwrap());
        Self::over(dir, store.clone(), store, None)
    }

    pub fn on_redis() -> Self {
        let redis = Redis::start();
        let store = Arc::new(RedisStore::new(RedisOptions::new(redis.url())).unwrap());
        Self::over(tempfile::tempdir().unwrap(), store.clone(), store, Some(redis))
    }

    /// With ports of the first server that fail when told; those of the second one never do.
    pub fn faulty(faults: &Faults) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(EmbeddedStore::open(&dir.path().join("leases.db"), SignedDuration::from_hours(1)).unwrap());
        Self::build(dir, store.clone(), store, None, Some(faults))
    }

    pub fn over(dir: tempfile::TempDir, store: Arc<dyn LeaseStore>, entries: Arc<dyn EntryStore>, redis: Option<Redis>) -> Self {
        Self::build(dir, store, entries, redis, None)
    }

    fn build(
        dir: tempfile::TempDir,
        store: Arc<dyn LeaseStore>,
        entries: Arc<dyn EntryStore>,
        redis: Option<Redis>,
        faults: Option<&Faults>,
    ) -> Self {
        // Redis forgets uses of tokens by its own clock only when it is told to purge; the time is of no matter to it.
        let start: Timestamp = "2027-01-15T08:00:00Z".parse().unwrap();
        let clock = Arc::new(ManualClock(Mutex::new(start)));
        let issuers = issuers(start);
        let ca: CaName = "main".parse().unwrap();
        let mut publishers = tokio::task::JoinSet::new();
        let servers = [0, 1].map(|n| {
            let mut log: Arc<dyn AuditLog> = Arc::new(DiskLog::open(AuditOptions::new(dir.path().join(format!("audit-{n}")))).unwrap());
            let (mut store, mut entries) = (store.clone(), entries.clone());
            if let (0, Some(faults)) = (n, faults) {
                log = Arc::new(FaultyLog(log, faults.clone()));
                (store, entries) = (Arc::new(FaultyStore(store, faults.clone())), Arc::new(FaultyEntries(entries, faults.clone())));
            }
            let rules = Rules { book: book(catalog()), issuers: issuers.clone() };
            let vend = Arc::new(Vend::new(store, log, clock.clone(), rules));
            publishers.spawn(publish_when_asked(vend.clone(), ca.clone()));
            let enrollments = Arc::new(Enrollments::new(vend.clone(), entries));
            Server { vend, enrollments }
        });
        Self { servers, store, entries, clock, ca, issuers, dir, _redis: redis, _publishers: publishers }
    }

    /// A reload at both servers.
    pub fn reload(&self, change: impl FnOnce(&mut Catalog)) {
        let mut catalog = catalog();
        change(&mut catalog);
        for server in &self.servers {
            server.vend.replace_rules(Rules { book: book(catalog.clone()), issuers: self.issuers.clone() });
        }
    }

    pub async fn create(&self, tenant: &str) -> CreatedEnrollment {
        self.try_create(&operator(), "agent", tenant, Some("scanner")).await.unwrap()
    }

    pub async fn try_create(&self, call: &Call, role: &str, tenant: &str, name: Option<&str>) -> Result<CreatedEnrollment> {
        let name = name.map(|name| name.parse().unwrap());
        let new = NewEnrollment { tenant: tenant.parse().unwrap(), role: role.parse().unwrap(), name, ttl: None };
        let call = Call { origin: origin("EnrollmentService/Create"), ..call.clone() };
        self.servers[0].enrollments.create(&call, new).await
    }

    pub async fn redeem(&self, code: &Secret, key: &Key) -> Result<Issued> {
        self.servers[0].enrollments.redeem(&origin("EnrollmentService/Redeem"), code, key.csr()).await
    }

    /// A new agent of a tenant.
    pub async fn agent(&self, tenant: &str) -> (Lease, Call) {
        let code = self.create(tenant).await.code;
        let issued = self.redeem(&code, &Key::new()).await.unwrap();
        let call = holder(&issued);
        (issued.lease, call)
    }

    /// The next certificate, by the one that is shown.
    pub async fn renew(&self, call: &Call, lease: LeaseId, generation: Option<u32>) -> Result<(Lease, Call)> {
        let renewal = Renewal { lease, generation, ttl: None, input: Key::new().csr() };
        let issued = self.servers[0].vend.renew(call, renewal).await?;
        let call = holder(&issued);
        Ok((issued.lease, call))
    }

    pub async fn stored(&self, id: LeaseId) -> Lease {
        self.store.get(&[id]).await.unwrap().pop().unwrap().unwrap()
    }

    pub async fn active(&self) -> Vec<Lease> {
        let filter = LeaseFilter { state: Some(LeaseState::Active), ..LeaseFilter::default() };
        self.store.list(&filter, None, 1000).await.unwrap().leases
    }

    /// The serials on the CRL's list.
    pub async fn revoked(&self) -> Vec<String> {
        let (_, revoked) = self.store.revoked(&self.ca.clone().into(), self.clock.now()).await.unwrap();
        revoked.into_iter().map(|entry| entry.serial).collect()
    }

    /// The records of both servers.
    pub fn events(&self) -> Vec<Event> {
        self.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The same as they lie on disk.
    pub fn lines(&self) -> Vec<String> {
        let of = |n: usize| read::records(&self.dir.path().join(format!("audit-{n}")), 0).unwrap().map(|record| record.unwrap().1.clone());
        of(0).chain(of(1)).collect()
    }
}

async fn publish_when_asked(vend: Arc<Vend>, ca: CaName) {
    loop {
        vend.crls().rung(&ca).await;
        while vend.publish_crl(&ca).await.is_err() {
            tokio::task::yield_now().await;
        }
    }
}

pub fn origin(method: &'static str) -> Origin {
    Origin { method, peer_address: Some([127, 0, 0, 1].into()), call_id: "test".to_owned() }
}

pub fn operator() -> Call {
    caller("ops", peer("spiffe://dev/operator", Serial::from_random([7; 20]).to_hex()))
}

pub fn peer(id: &str, serial: String) -> PeerCertificate {
    PeerCertificate {
        trust_domain: "dev".parse().unwrap(),
        identity: CertificateIdentity::Spiffe,
        id: id.to_owned(),
        subject: Subject::try_from(id.to_owned()).unwrap(),
        serial,
        fingerprint: "00".repeat(32),
        not_after: "2028-01-01T00:00:00Z".parse().unwrap(),
    }
}

pub fn caller(tenant: &str, peer: PeerCertificate) -> Call {
    let identity = Identity { tenant: tenant.parse().unwrap(), proof: Proof::Certificate(peer) };
    Call { identity: Arc::new(identity), origin: origin("LeaseService/Renew") }
}

/// Who shows the certificate that was issued.
pub fn holder(issued: &Issued) -> Call {
    let lease = &issued.lease;
    caller(lease.tenant.as_str(), peer(lease.subject.as_str(), lease.handle.credential_id().to_owned()))
}

/// What the certificate's signature covers.
pub fn leaf(issued: &Issued) -> Vec<u8> {
    use x509_parser::prelude::FromDer;
    let Credential::X509(made) = &issued.credential else { panic!("no certificate") };
    let (_, leaf) = x509_parser::certificate::X509Certificate::from_der(&made.chain_der[0]).unwrap();
    leaf.tbs_certificate.as_ref().to_vec()
}

pub fn failed<T>(outcome: Result<T>) -> Error {
    outcome.map(drop).unwrap_err()
}

fn book(catalog: Catalog) -> PolicyBook {
    PolicyBook::load("policy.cedar", POLICY, Arc::new(catalog), "test").unwrap()
}

fn issuers(now: Timestamp) -> Issuers {
    let day = SignedDuration::from_hours(24);
    let root = bootstrap::create_root("Test root", now, day * 100).unwrap();
    let issuing = bootstrap::create_issuing(&root, "Test CA", None, now, day * 50).unwrap();
    let config = CaConfig {
        name: "main".parse().unwrap(),
        chain_pem: issuing.certificate_pem.clone().into_bytes(),
        root_pem: root.certificate_pem.clone().into_bytes(),
        key: bootstrap::file_key(&issuing).unwrap(),
        crl_url: "http://127.0.0.1/crl/main.crl".to_owned(),
        crl_life: DEFAULT_CRL_LIFE,
    };
    let authority = Arc::new(Authority::load(config, now).unwrap());
    Issuers::only_x509(X509Issuer::new(BTreeMap::from([(authority.name().clone(), authority)])))
}

/// Operators; vendors that have agents, whose contract has ended, whose agents are nobody's, or somebody else's.
fn catalog() -> Catalog {
    let member = |id: &str| Member::Certificate { trust_domain: "dev".parse().unwrap(), id: id.to_owned() };
    let tenant = |name: &str, ids: &[&str]| Tenant {
        name: name.parse().unwrap(),
        kind: TenantKind::Team,
        ends_at: None,
        members: ids.iter().map(|id| member(id)).collect(),
        max_live_leases: 5000,
        max_live_leases_per_caller: 1000,
    };
    let ended = Tenant { ends_at: Some("2027-01-01T00:00:00Z".parse().unwrap()), ..tenant("ended", &["spiffe://dev/agent/ended/*"]) };
    let tenants = [
        tenant("ops", &["spiffe://dev/operator", "spiffe://dev/agent/ops/*", "spiffe://dev/agent/lost/*"]),
        tenant("acme", &["spiffe://dev/agent/acme/*"]),
        tenant("nobody", &["spiffe://dev/x"]),
        tenant("lost", &["spiffe://dev/y"]),
        ended,
    ];
    let roles = [
        role("agent", RoleOwner::Shared, "spiffe://dev/agent/{tenant}/{enrollment.name}", true),
        role("acme-agent", RoleOwner::Tenant("acme".parse().unwrap()), "spiffe://dev/agent/{tenant}/fixed", true),
        role("web", RoleOwner::Shared, "spiffe://dev/{tenant}/web", false),
    ];
    Catalog {
        issuers: BTreeMap::new(),
        trust_domains: BTreeMap::from([("dev".parse().unwrap(), CertificateIdentity::Spiffe)]),
        tenants: tenants.into_iter().map(|t| (t.name.clone(), Arc::new(t))).collect(),
        roles: roles.into_iter().map(|role| (role.name.clone(), Arc::new(role))).collect(),
    }
}

pub fn role(name: &str, owner: RoleOwner, uri: &str, enrollment: bool) -> Role {
    Role {
        name: name.parse().unwrap(),
        owner,
        default_ttl: SignedDuration::from_hours(1),
        max_ttl: SignedDuration::from_hours(4),
        max_life: SignedDuration::from_hours(24),
        max_life_per_token: SignedDuration::from_hours(4),
        on_clone: OnClone::Revoke,
        spec: RoleSpec::X509(X509Role {
            ca: "main".parse().unwrap(),
            common_name: None,
            uri_sans: vec![Template::parse_for_enrollment(uri).unwrap()],
            dns_sans: vec![],
            ip_sans: vec![],
            ext_key_usage: vec![ExtKeyUsage::ClientAuth],
            key_types: vec![KeyType::P256],
            enrollment,
        }),
    }
}
