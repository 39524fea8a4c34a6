//! One CA, one tenant of operators, one of jobs, one role.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};

use daypass::{
    audit::{AuditLog, AuditOptions, DiskLog, read},
    clock::Clock,
    issuer::{
        Issuers, RemoteIssuer,
        jwt::{JwtConfig, JwtIssuer},
        registry::{RegistryConfig, RegistryIssuer},
        x509::{Authority, CaConfig, DEFAULT_CRL_LIFE, TokenCa, X509Issuer, bootstrap},
    },
    model::{
        SignedDuration, Timestamp,
        catalog::Catalog,
        claim::{ClaimSpec, ClaimType, ClaimValue, Claims},
        error::{Code, Result},
        event::Event,
        identity::{CertificateIdentity, Identity, PeerCertificate, Proof, Subject, TokenUse, VerifiedToken},
        lease::{Handle, Lease, LeaseFilter, LeaseId, LeaseState},
        name::CaName,
        request::{Input, IssueRequest, RequestId},
        revocation::{AwsDeny, DenyBy},
        role::{ExtKeyUsage, JwtRole, KeyType, RegistryAction, RegistryRole, Role, RoleOwner, RoleSpec, X509Role},
        template::Template,
        tenant::{Member, Tenant, TenantKind},
    },
    policy::PolicyBook,
    store::{LeaseStore, embedded::EmbeddedStore},
    vend::{Call, Issued, Origin, Renewal, Rules, Vend, WatchLimits},
};
use rcgen::{CertificateParams, KeyPair};

use super::{
    cloud::{Cloud, list},
    faulty::{Faults, FaultyLog, FaultyStore},
};
use crate::aws::world::deploy;

pub const POLICY: &str = r#"
@id("operator") @reason("a test's operator")
permit(principal is Certificate in Tenant::"ops", action, resource);
@id("job")
permit(principal is Token::ci in Tenant::"jobs", action == Action::"issue", resource == Role::"web")
when { principal.claims.repository_id == "74" };
@id("job-aws")
permit(principal is Token::ci in Tenant::"jobs", action == Action::"issue", resource == Role::"deploy")
when { principal.claims.repository_id == "74" };
@id("job-own") 
permit(principal is Token::ci in Tenant::"jobs", action in [Action::"renew", Action::"read", Action::"revoke"], resource in Role::"web")
when { resource.own };
"#;

/// What the registry is called in its tokens.
pub const SERVICE: &str = "registry.example";

pub struct ManualClock(Mutex<Timestamp>);

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

impl ManualClock {
    pub fn forward(&self, span: SignedDuration) {
        let mut now = self.0.lock().unwrap();
        *now += span;
    }
}

pub struct World {
    pub vend: Arc<Vend>,
    pub store: Arc<dyn LeaseStore>,
    pub faults: Faults,
    pub clock: Arc<ManualClock>,
    pub cloud: Arc<Cloud>,
    pub ca: CaName,
    pub dir: tempfile::TempDir,
    pub log: Arc<dyn AuditLog>,
    issuers: Issuers,
    csr: Vec<u8>,
    publishers: tokio::task::JoinSet<()>,
}

/// One more server in a world.
pub struct Server {
    pub vend: Arc<Vend>,
    _publishers: tokio::task::JoinSet<()>,
}

impl World {
    pub fn new() -> Self {
        let faults = Faults::default();
        let cloud = Cloud::new(faults.clone());
        Self::over(cloud.clone(), cloud, faults)
    }

    /// With a remote system of the caller's own.
    pub fn over(aws: Arc<dyn RemoteIssuer>, cloud: Arc<Cloud>, faults: Faults) -> Self {
        Self::with(aws, cloud, faults, embedded)
    }

    /// Over a store of the caller's own.
    pub fn on(store: Arc<dyn LeaseStore>) -> Self {
        let faults = Faults::default();
        let cloud = Cloud::new(faults.clone());
        Self::with(cloud.clone(), cloud, faults, |_| store)
    }

    fn with(aws: Arc<dyn RemoteIssuer>, cloud: Arc<Cloud>, faults: Faults, store: impl FnOnce(&Path) -> Arc<dyn LeaseStore>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let start: Timestamp = "2027-01-15T08:00:00Z".parse().unwrap();
        let clock = Arc::new(ManualClock(Mutex::new(start)));
        let store = store(dir.path());
        let log = Arc::new(DiskLog::open(AuditOptions::new(dir.path().join("audit"))).unwrap());
        let issuers = Issuers { aws, ..issuers(dir.path(), start) };
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
        let (log, ca): (Arc<dyn AuditLog>, CaName) = (log, "main".parse().unwrap());
        let vend = vend(&store, &log, &faults, &clock, &issuers);
        let mut world = Self { vend, store, faults, clock, cloud, ca, dir, log, issuers, csr, publishers: tokio::task::JoinSet::new() };
        world.publish();
        world
    }

    /// The process dies, and another one starts over the same store and the same log. What was on its way to them when it died arrives.
    pub async fn restart(&mut self) {
        self.publishers.shutdown().await;
        self.vend = vend(&self.store, &self.log, &self.faults, &self.clock, &self.issuers);
        self.store.purge(&[], Timestamp::MIN).await.unwrap();
        self.vend.take_up().await.unwrap();
        let origin = operator().origin;
        self.vend.unauthenticated(&origin, daypass::model::error::Error::new(Code::Unauthenticated, "whoever")).await;
        self.publish();
    }

    /// From now on nothing publishes but the service's own passes, once they are started.
    pub async fn only_passes(&mut self) {
        self.publishers.shutdown().await;
    }

    /// Another server over the same store and log.
    pub fn another(&self) -> Server {
        self.server(&self.faults, WatchLimits::default())
    }

    /// Another server over the same store and log, with faults and limits of its own.
    pub fn server(&self, faults: &Faults, limits: WatchLimits) -> Server {
        let vend = Arc::new(heart(&self.store, &self.log, faults, &self.clock, &self.issuers).with_watch_limits(limits));
        let mut publishers = tokio::task::JoinSet::new();
        publishers.spawn(deny_when_asked(vend.clone(), list(DenyBy::SessionTag)));
        publishers.spawn(publish_when_asked(vend.clone(), self.ca.clone()));
        Server { vend, _publishers: publishers }
    }

    /// A reload with another policy.
    pub fn reload_policy(&self, policy: &str) {
        let book = PolicyBook::load("policy.cedar", policy, Arc::new(catalog()), "other").unwrap();
        self.vend.replace_rules(Rules { book, issuers: self.issuers.clone() });
    }

    /// A reload with another catalog.
    pub fn reload(&self, change: impl FnOnce(&mut Catalog)) {
        let mut catalog = catalog();
        change(&mut catalog);
        let book = PolicyBook::load("policy.cedar", POLICY, Arc::new(catalog), "test").unwrap();
        self.vend.replace_rules(Rules { book, issuers: self.issuers.clone() });
    }

    fn publish(&mut self) {
        self.publishers.spawn(publish_when_asked(self.vend.clone(), self.ca.clone()));
        for by in [DenyBy::SessionTag, DenyBy::IssueTime] {
            self.publishers.spawn(deny_when_asked(self.vend.clone(), list(by)));
        }
    }

    pub fn input(&self) -> Input {
        Input::X509 { csr_der: self.csr.clone() }
    }

    pub async fn issue(&self, call: &Call, request_id: Option<&str>) -> Result<Issued> {
        let request_id = request_id.map(|id| RequestId::try_from(id.to_owned()).unwrap());
        self.vend.issue(call, IssueRequest { role: "web".parse().unwrap(), ttl: None, request_id, input: self.input() }).await
    }

    /// A session at the remote system.
    pub async fn session(&self, call: &Call, role: &str, request_id: Option<&str>) -> Result<Issued> {
        let request_id = request_id.map(|id| RequestId::try_from(id.to_owned()).unwrap());
        self.vend.issue(call, IssueRequest { role: role.parse().unwrap(), ttl: None, request_id, input: self.input() }).await
    }

    /// A lease that outlives a CRL.
    pub async fn issue_long(&self, call: &Call) -> Result<Issued> {
        let ttl = Some(SignedDuration::from_hours(4));
        self.vend.issue(call, IssueRequest { role: "web".parse().unwrap(), ttl, request_id: None, input: self.input() }).await
    }

    pub async fn stored(&self, id: LeaseId) -> Option<Lease> {
        self.store.get(&[id]).await.unwrap().pop().unwrap()
    }

    pub async fn leases(&self) -> Vec<Lease> {
        self.store.list(&LeaseFilter::default(), None, 1000).await.unwrap().leases
    }

    pub fn events(&self) -> Vec<Event> {
        let records = read::records(&self.dir.path().join("audit"), 0).unwrap();
        records.map(|record| serde_json::from_str(&record.unwrap().1).unwrap()).collect()
    }

    /// The serials that the CRL names now.
    pub async fn revoked(&self) -> Vec<String> {
        let (_, revoked) = self.store.revoked(&self.ca.clone().into(), self.clock.now()).await.unwrap();
        revoked.into_iter().map(|revoked| revoked.serial).collect()
    }

    /// Runs the passes that close what is open until nothing is.
    pub async fn settle(&self) {
        for _ in 0..20 {
            let waiting = self.vend.close_open().await.unwrap();
            let swept = self.vend.sweep().await.unwrap();
            for list in self.vend.denies().known() {
                self.vend.publish_deny(&list, self.vend.now()).await.unwrap();
            }
            let open = async || self.leases().await.iter().any(|lease| matches!(lease.state, LeaseState::Pending | LeaseState::Revoking));
            if waiting == 0 && swept.is_idle() && !open().await {
                return;
            }
            // What is missing stays listed until a late write is out of the question.
            self.clock.forward(SignedDuration::from_secs(31));
        }
        panic!("the passes do not come to rest");
    }
}

pub fn serials(lease: &Lease) -> Vec<String> {
    let Handle::X509 { serials, .. } = &lease.handle else { panic!("no certificate") };
    serials.iter().map(|live| live.serial.clone()).collect()
}

fn embedded(dir: &Path) -> Arc<dyn LeaseStore> {
    Arc::new(EmbeddedStore::open(&dir.join("leases.db"), SignedDuration::from_hours(1)).unwrap())
}

fn vend(store: &Arc<dyn LeaseStore>, log: &Arc<dyn AuditLog>, faults: &Faults, clock: &Arc<ManualClock>, issuers: &Issuers) -> Arc<Vend> {
    // Streams that do not grow old: time goes on in leaps here.
    let limits = WatchLimits { age: SignedDuration::from_hours(240), ..WatchLimits::default() };
    Arc::new(heart(store, log, faults, clock, issuers).with_watch_limits(limits))
}

fn heart(store: &Arc<dyn LeaseStore>, log: &Arc<dyn AuditLog>, faults: &Faults, clock: &Arc<ManualClock>, issuers: &Issuers) -> Vend {
    let book = PolicyBook::load("policy.cedar", POLICY, Arc::new(catalog()), "test").unwrap();
    Vend::new(
        Arc::new(FaultyStore(store.clone(), faults.clone())),
        Arc::new(FaultyLog(log.clone(), faults.clone())),
        clock.clone(),
        Rules { book, issuers: issuers.clone() },
    )
}

/// What asks to renew a lease.
pub fn renewal(lease: LeaseId, input: Input) -> Renewal {
    Renewal { lease, generation: None, ttl: None, input }
}

async fn deny_when_asked(vend: Arc<Vend>, list: AwsDeny) {
    loop {
        vend.denies().rung(&list).await;
        while vend.publish_deny(&list, vend.now()).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
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

pub fn operator() -> Call {
    let id = "spiffe://dev/operator";
    let peer = PeerCertificate {
        trust_domain: "dev".parse().unwrap(),
        identity: CertificateIdentity::Spiffe,
        id: id.to_owned(),
        subject: Subject::try_from(id.to_owned()).unwrap(),
        serial: "0a".to_owned(),
        fingerprint: "00".repeat(32),
        not_after: "2028-01-01T00:00:00Z".parse().unwrap(),
    };
    call(Identity { tenant: "ops".parse().unwrap(), proof: Proof::Certificate(peer) })
}

/// A job with a token of its own.
pub fn job(token: u8) -> Call {
    let claims = Claims::from([("repository_id".to_owned(), ClaimValue::String("74".to_owned()))]);
    let token = VerifiedToken {
        issuer: "ci".parse().unwrap(),
        sub: "repo:a/b".to_owned(),
        subject: Subject::try_from("oidc:ci:repo:a/b".to_owned()).unwrap(),
        claims,
        token_id: [token; 16],
        token_use: TokenUse::OncePerRole,
        expires_at: "2027-01-15T08:05:00Z".parse().unwrap(),
    };
    call(Identity { tenant: "jobs".parse().unwrap(), proof: Proof::Token { token, peer: None } })
}

fn call(identity: Identity) -> Call {
    let origin = Origin { method: "CredentialService/Issue", peer_address: Some([127, 0, 0, 1].into()), call_id: "test".to_owned() };
    Call { identity: Arc::new(identity), origin }
}

fn issuers(dir: &Path, now: Timestamp) -> Issuers {
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
    let x509 = X509Issuer::new(BTreeMap::from([(authority.name().clone(), authority)]));
    let registry = RegistryIssuer::new([RegistryConfig {
        name: "dev".parse().unwrap(),
        host: "127.0.0.1:5000".to_owned(),
        service: SERVICE.to_owned(),
        issuer: "daypass".to_owned(),
        rotate_every: day,
        ca: Arc::new(TokenCa::load(root.certificate_pem.as_bytes(), bootstrap::file_key(&root).unwrap(), now).unwrap()),
    }]);
    let ring = crate::keys::signing_ring(&dir.join("keys.db"), now);
    let jwt = JwtIssuer::new(JwtConfig { issuer: "https://id.example".to_owned(), ring, claims: vec![] }).unwrap();
    Issuers { registry: Arc::new(registry), jwt: Arc::new(jwt), ..Issuers::only_x509(x509) }
}

fn catalog() -> Catalog {
    let operator = Member::Certificate { trust_domain: "dev".parse().unwrap(), id: "spiffe://dev/operator".to_owned() };
    let claims = BTreeMap::from([("repository_id".to_owned(), ClaimValue::String("74".to_owned()))]);
    let job = Member::Token { issuer: "ci".parse().unwrap(), claims };
    let tenant = |name: &str, member| Tenant {
        name: name.parse().unwrap(),
        kind: TenantKind::Team,
        ends_at: None,
        members: vec![member],
        max_live_leases: 1000,
        max_live_leases_per_caller: 1000,
    };
    let role = Role {
        name: "web".parse().unwrap(),
        owner: RoleOwner::Shared,
        default_ttl: SignedDuration::from_mins(15),
        max_ttl: SignedDuration::from_hours(4),
        max_life: SignedDuration::from_hours(8),
        max_life_per_token: SignedDuration::from_hours(1),
        on_clone: daypass::model::role::OnClone::Revoke,
        spec: RoleSpec::X509(X509Role {
            ca: "main".parse().unwrap(),
            common_name: None,
            uri_sans: vec![Template::parse("spiffe://dev/{tenant}/web").unwrap()],
            dns_sans: vec![],
            ip_sans: vec![],
            ext_key_usage: vec![ExtKeyUsage::ClientAuth],
            key_types: vec![KeyType::P256],
            enrollment: false,
        }),
    };
    let claim = |name: &str| ClaimSpec { name: name.to_owned(), path: vec![name.to_owned()], ty: ClaimType::String, required: true };
    Catalog {
        issuers: BTreeMap::from([("ci".parse().unwrap(), vec![claim("repository_id")])]),
        trust_domains: BTreeMap::from([("dev".parse().unwrap(), CertificateIdentity::Spiffe)]),
        tenants: [tenant("ops", operator), tenant("jobs", job)].into_iter().map(|t| (t.name.clone(), Arc::new(t))).collect(),
        roles: ["deploy", "batch", "fixed"]
            .map(aws_role)
            .into_iter()
            .chain([role, registry_role(), jwt_role()])
            .map(|role| (role.name.clone(), Arc::new(role)))
            .collect(),
    }
}

fn registry_role() -> Role {
    let spec = RegistryRole {
        registry: "dev".parse().unwrap(),
        repositories: vec![Template::parse("demo/*").unwrap()],
        actions: vec![RegistryAction::Pull, RegistryAction::Push],
        token_ttl: SignedDuration::from_mins(5),
    };
    Role { name: "push".parse().unwrap(), spec: RoleSpec::Registry(spec), ..aws_role("push") }
}

fn jwt_role() -> Role {
    let spec = JwtRole {
        audiences: vec!["demo".to_owned(), "other".to_owned()],
        subject: Template::parse("tenant:{tenant}").unwrap(),
        claims: BTreeMap::new(),
    };
    Role { name: "federate".parse().unwrap(), spec: RoleSpec::Jwt(spec), ..aws_role("federate") }
}

fn aws_role(name: &str) -> Role {
    Role {
        name: name.parse().unwrap(),
        owner: RoleOwner::Shared,
        default_ttl: SignedDuration::from_mins(30),
        max_ttl: SignedDuration::from_hours(4),
        max_life: SignedDuration::from_hours(8),
        max_life_per_token: SignedDuration::from_hours(1),
        on_clone: daypass::model::role::OnClone::Revoke,
        spec: RoleSpec::Aws(deploy("arn:aws:iam::123456789012:role/x")),
    }
}
