//! How long what was handed out lives: to the second that `live_until` names, by a registry's own clock; and keys that rotate by time.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use daypass::{
    audit::{AuditOptions, DiskLog},
    clock::{Clock, SystemClock},
    issuer::{
        Issuers,
        registry::{Exchange, RegistryConfig, RegistryIssuer},
        x509::{TokenCa, X509Issuer, bootstrap},
    },
    model::{
        SignedDuration, Timestamp,
        catalog::Catalog,
        credential::{Credential, RegistryCredential},
        error::Code,
        identity::{CertificateIdentity, Identity, PeerCertificate, Proof, Subject},
        lease::{Lease, LeaseState},
        request::{Input, IssueRequest},
        role::{RegistryAction, RegistryRole, Role, RoleOwner, RoleSpec},
        template::Template,
        tenant::{Member, Tenant, TenantKind},
    },
    policy::PolicyBook,
    store::{LeaseStore, embedded::EmbeddedStore},
    vend::{Call, Exchanged, Origin, Rules, Vend},
};

use crate::support::parts::{
    registry::{Registry, TokenAuth},
    wait_until,
};

const SERVICE: &str = "registry.test";
const ISSUER: &str = "daypass.test";

/// A clock that is slow. Tokens last minutes and a registry adds one of its own; by a registry whose clock is right, those of a slow issuer
/// end that much sooner, and a test can wait for it.
struct SlowClock(SignedDuration);

impl Clock for SlowClock {
    fn now(&self) -> Timestamp {
        SystemClock.now() - self.0
    }
}

/// A heart with one role, for one registry.
struct Heart {
    vend: Vend,
    store: Arc<dyn LeaseStore>,
    dir: tempfile::TempDir,
}

impl Heart {
    fn new(slow: SignedDuration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(SlowClock(slow));
        let store: Arc<dyn LeaseStore> =
            Arc::new(EmbeddedStore::open(&dir.path().join("leases.db"), SignedDuration::from_hours(1)).unwrap());
        let log = Arc::new(DiskLog::open(AuditOptions::new(dir.path().join("audit"))).unwrap());
        let issuer = issuer(&dir.path().join("ca.pem"), clock.now(), SignedDuration::from_hours(1));
        let policy = "@id(\"all\") @reason(\"a test\") permit(principal, action, resource);";
        let book = PolicyBook::load("policy.cedar", policy, Arc::new(catalog()), "test").unwrap();
        let issuers = Issuers { registry: Arc::new(issuer), ..Issuers::only_x509(X509Issuer::new(BTreeMap::new())) };
        let vend = Vend::new(store.clone(), log, clock, Rules { book, issuers });
        Self { vend, store, dir }
    }

    fn registry(&self) -> Registry {
        Registry::start(&TokenAuth {
            realm: "http://127.0.0.1:1/token",
            service: SERVICE,
            issuer: ISSUER,
            roots: &self.dir.path().join("ca.pem"),
        })
    }

    async fn issue(&self, ttl: SignedDuration) -> (Lease, RegistryCredential) {
        let request = IssueRequest { role: "push".parse().unwrap(), ttl: Some(ttl), request_id: None, input: Input::None };
        let issued = self.vend.issue(&operator(), request).await.unwrap();
        let Credential::Registry(credential) = issued.credential else { panic!("another kind") };
        (issued.lease, credential)
    }

    async fn exchange(&self, credential: &RegistryCredential) -> Result<Exchanged, Code> {
        let scopes = ["repository:demo/a:pull,push".to_owned()];
        let exchanged = self.vend.exchange(&origin(), &credential.username, &credential.secret, SERVICE, &scopes).await;
        exchanged.map_err(|error| error.code())
    }
}

/// Makes a CA, and leaves its certificate for a registry.
fn issuer(bundle: &Path, now: Timestamp, rotate_every: SignedDuration) -> RegistryIssuer {
    let made = bootstrap::create_root("Token CA", now - SignedDuration::from_hours(1), SignedDuration::from_hours(48)).unwrap();
    std::fs::write(bundle, &made.certificate_pem).unwrap();
    let ca = TokenCa::load(made.certificate_pem.as_bytes(), bootstrap::file_key(&made).unwrap(), now).unwrap();
    RegistryIssuer::new([RegistryConfig {
        name: "main".parse().unwrap(),
        host: "127.0.0.1:5000".to_owned(),
        service: SERVICE.to_owned(),
        issuer: ISSUER.to_owned(),
        rotate_every,
        ca: Arc::new(ca),
    }])
}

fn catalog() -> Catalog {
    let tenant = Tenant {
        name: "ops".parse().unwrap(),
        kind: TenantKind::Team,
        ends_at: None,
        members: vec![Member::Certificate { trust_domain: "dev".parse().unwrap(), id: "spiffe://dev/operator".to_owned() }],
        max_live_leases: 1000,
        max_live_leases_per_caller: 1000,
    };
    let role = Role {
        name: "push".parse().unwrap(),
        owner: RoleOwner::Shared,
        default_ttl: SignedDuration::from_mins(15),
        max_ttl: SignedDuration::from_hours(1),
        max_life: SignedDuration::from_hours(8),
        max_life_per_token: SignedDuration::from_hours(1),
        on_clone: daypass::model::role::OnClone::Revoke,
        spec: RoleSpec::Registry(RegistryRole {
            registry: "main".parse().unwrap(),
            repositories: vec![Template::parse("demo/*").unwrap()],
            actions: vec![RegistryAction::Pull, RegistryAction::Push],
            token_ttl: SignedDuration::from_mins(5),
        }),
    };
    Catalog {
        issuers: BTreeMap::new(),
        trust_domains: BTreeMap::from([("dev".parse().unwrap(), CertificateIdentity::Spiffe)]),
        tenants: BTreeMap::from([(tenant.name.clone(), Arc::new(tenant))]),
        roles: BTreeMap::from([(role.name.clone(), Arc::new(role))]),
    }
}

fn operator() -> Call {
    let id = "spiffe://dev/operator";
    let peer = PeerCertificate {
        trust_domain: "dev".parse().unwrap(),
        identity: CertificateIdentity::Spiffe,
        id: id.to_owned(),
        subject: Subject::try_from(id.to_owned()).unwrap(),
        serial: "0a".to_owned(),
        fingerprint: "00".repeat(32),
        not_after: "2100-01-01T00:00:00Z".parse().unwrap(),
    };
    let identity = Identity { tenant: "ops".parse().unwrap(), proof: Proof::Certificate(peer) };
    Call { identity: Arc::new(identity), origin: origin() }
}

fn origin() -> Origin {
    Origin { method: "CredentialService/Issue", peer_address: Some([127, 0, 0, 1].into()), call_id: "test".to_owned() }
}

fn starts_upload(registry: &Registry, token: &str) -> bool {
    match registry.status("POST", "/v2/demo/a/blobs/uploads/", token) {
        202 => true,
        401 => false,
        other => panic!("the registry answers {other}"),
    }
}

/// Watches a token die; gives the last time at which the registry took it, and the first at which it did not.
fn death(registry: &Registry, token: &str) -> (Timestamp, Timestamp) {
    let mut last = SystemClock.now();
    assert!(starts_upload(registry, token), "it lives at first");
    wait_until(Duration::from_secs(60), "the token dies", || {
        let before = SystemClock.now();
        if starts_upload(registry, token) {
            last = before;
            return None;
        }
        Some((last, SystemClock.now()))
    })
}

/// Tokens live 5 minutes and 60 seconds more: by a clock that is slow by less, a few seconds are left.
const SLOW: SignedDuration = SignedDuration::from_secs(352);

#[tokio::test(flavor = "multi_thread")]
async fn the_last_token_of_a_revoked_lease_dies_when_live_until_says() {
    let heart = Heart::new(SLOW);
    let registry = heart.registry();
    let (lease, credential) = heart.issue(SignedDuration::from_mins(30)).await;
    let (_, other) = heart.issue(SignedDuration::from_mins(30)).await;
    let token = heart.exchange(&credential).await.unwrap().token;
    assert!(starts_upload(&registry, token.token.expose()));
    let revoked = heart.vend.revoke(&operator(), lease.id, "a test").await.unwrap();
    assert_eq!(revoked.state, LeaseState::Revoked);
    assert_eq!(heart.exchange(&credential).await.err(), Some(Code::Unauthenticated), "the next exchange is refused at once");
    assert!(heart.exchange(&other).await.is_ok(), "and another lease goes on");

    // `live_until` is a time of the slow clock's day, and registries look at their own.
    let (last, first) = tokio::task::block_in_place(|| death(&registry, token.token.expose()));
    let second = SignedDuration::from_secs(1);
    assert!(last <= revoked.live_until + second, "it was taken at {last}, after {}", revoked.live_until);
    assert!(first >= revoked.live_until - second * 3, "it was refused at {first}, long before {}", revoked.live_until);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_token_of_a_lease_that_ends_dies_with_it_and_the_leeway() {
    let heart = Heart::new(SignedDuration::from_secs(57));
    let registry = heart.registry();
    let (lease, credential) = heart.issue(SignedDuration::from_secs(3)).await;
    let answer = heart.exchange(&credential).await.unwrap();
    assert_eq!(answer.token.expires_in, 60);
    let stored = heart.store.get(&[lease.id]).await.unwrap().pop().unwrap().unwrap();
    let (last, first) = tokio::task::block_in_place(|| death(&registry, answer.token.token.expose()));
    let second = SignedDuration::from_secs(1);
    assert_eq!(stored.accepted_until(), stored.expires_at + SignedDuration::from_secs(60));
    assert!(last <= stored.live_until + second && stored.live_until == stored.accepted_until(), "{last} {}", stored.live_until);
    assert!(first >= stored.live_until - second, "{first} {}", stored.live_until);
    assert_eq!(heart.exchange(&credential).await.err(), Some(Code::Unauthenticated));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_rotate_by_time_are_taken_by_a_registry_that_never_hears_of_them() {
    let heart = Heart::new(SignedDuration::ZERO);
    let (lease, credential) = heart.issue(SignedDuration::from_mins(30)).await;
    // Another issuer for the same leases, whose keys sign for a fifth of a second.
    let bundle = heart.dir.path().join("ca.pem");
    let issuer = issuer(&bundle, SystemClock.now(), SignedDuration::from_millis(200));
    let registry = heart.registry();
    let scopes = ["repository:demo/a:pull,push".to_owned()];
    let mut tokens = Vec::new();
    let mut keys = BTreeSet::new();
    tokio::task::block_in_place(|| {
        wait_until(Duration::from_secs(30), "five keys have signed", || {
            let asked = Exchange { secret: &credential.secret, service: SERVICE, scopes: &scopes, token_ttl: SignedDuration::from_mins(5) };
            let token = issuer.exchange(&lease, &asked, SystemClock.now()).unwrap().token.expose().to_owned();
            assert!(starts_upload(&registry, &token), "a push under the key of the moment");
            keys.insert(token.split('.').next().unwrap().to_owned());
            tokens.push(token);
            (keys.len() >= 5).then_some(())
        });
    });
    assert!(tokens.iter().all(|token| starts_upload(&registry, token)), "and those of keys that are gone are good for their time");
}
