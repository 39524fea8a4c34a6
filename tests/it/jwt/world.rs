//! The heart over a real store and a real log, with roles of kind jwt, at a time of the test's choice.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use daypass::{
    audit::{AuditOptions, DiskLog},
    authn::oidc::{Algorithm, IssuerConfig, KeySource, TokenVerifier},
    clock::Clock,
    issuer::{
        Issuers,
        jwt::{JwtConfig, JwtIssuer, JwtKeyMaker, SigningAlgorithm, maker::DEFAULT_SCHEDULE},
        x509::X509Issuer,
    },
    keys::{Activation, Ring, Vault},
    model::{
        SignedDuration, Timestamp,
        catalog::Catalog,
        claim::{ClaimSpec, ClaimType, ClaimValue, Claims},
        credential::Credential,
        error::Result,
        identity::{CertificateIdentity, Identity, PeerCertificate, Proof, Subject, TokenUse, VerifiedToken},
        lease::{Lease, LeaseFilter, LeaseId},
        request::{Input, IssueRequest, RequestId},
        role::{JwtRole, Role, RoleOwner, RoleSpec},
        template::Template,
        tenant::{Member, Tenant, TenantKind},
    },
    policy::PolicyBook,
    store::{LeaseStore, embedded::EmbeddedStore},
    vend::{Call, Issued, Origin, Rules, Vend},
};
use serde_json::Value;

use crate::keys::{block_on, entries, vault};

pub const ISSUER: &str = "https://id.example.org/ci";

const POLICY: &str = r#"
@id("operator") @reason("a test's operator")
permit(principal is Certificate in Tenant::"ops", action, resource);
@id("job")
permit(principal is Token::ci in Tenant::"jobs", action in [Action::"issue", Action::"renew"], resource)
when { principal.claims.repository_id == "74" };
"#;

pub struct ManualClock(Mutex<Timestamp>);

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

pub struct World {
    pub vend: Arc<Vend>,
    pub dir: tempfile::TempDir,
    store: Arc<dyn LeaseStore>,
    clock: Arc<ManualClock>,
    vault: Vault,
}

impl World {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock(Mutex::new("2027-01-15T08:00:00.250Z".parse().unwrap())));
        let store: Arc<dyn LeaseStore> =
            Arc::new(EmbeddedStore::open(&dir.path().join("leases.db"), SignedDuration::from_hours(1)).unwrap());
        let log = Arc::new(DiskLog::open(AuditOptions::new(dir.path().join("audit"))).unwrap());
        let rules = rules(roles());
        let vault = vault(&entries(&dir.path().join("keys.db")), 1, &[1]);
        block_on(rules.issuers.jwt.ring().unwrap().rotate(&vault, clock.now())).unwrap();
        let vend = Arc::new(Vend::new(store.clone(), log, clock.clone(), rules));
        Self { vend, dir, store, clock, vault }
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Time goes on, and the pass over the keys runs.
    pub fn forward(&self, span: SignedDuration) {
        self.forward_without_pass(span);
        let rules = self.vend.rules();
        let ring = rules.issuers.jwt.ring().unwrap();
        block_on(async { ring.rotate(&self.vault, self.now()).await.unwrap() });
    }

    /// Another key signs from now on.
    pub fn next_key(&self) {
        let rules = self.vend.rules();
        let ring = rules.issuers.jwt.ring().unwrap();
        block_on(async {
            ring.prepare(&self.vault, self.now()).await.unwrap();
            ring.activate(&self.vault, Activation::AtOnce, self.now()).await.unwrap();
        });
    }

    pub fn forward_without_pass(&self, span: SignedDuration) {
        *self.clock.0.lock().unwrap() += span;
    }

    /// Another configuration, as a reload brings it.
    pub fn replace_roles(&self, roles: Vec<Role>) {
        let rules = rules(roles);
        rules.issuers.take_over_rings(&self.vend.rules().issuers);
        self.vend.replace_rules(rules);
    }

    pub async fn issue(&self, call: &Call, role: &str, input: Input, request_id: Option<&str>) -> Result<Issued> {
        let request_id = request_id.map(|id| RequestId::try_from(id.to_owned()).unwrap());
        self.vend.issue(call, IssueRequest { role: role.parse().unwrap(), ttl: None, request_id, input }).await
    }

    pub async fn renew(&self, call: &Call, id: LeaseId, input: Input) -> Result<Issued> {
        self.vend.renew(call, daypass::vend::Renewal { lease: id, generation: None, ttl: None, input }).await
    }

    pub async fn leases(&self) -> Vec<Lease> {
        self.store.list(&LeaseFilter::default(), None, 1000).await.unwrap().leases
    }

    /// Verifies a token as a relying party would that has just fetched the key set.
    pub async fn verify(&self, token: &str, audience: &str) -> Result<VerifiedToken> {
        let path = self.dir.path().join("jwks.json");
        std::fs::write(&path, self.vend.jwks().unwrap().body).unwrap();
        let mut config =
            IssuerConfig::new("us".parse().unwrap(), ISSUER, vec![audience.to_owned()], vec![Algorithm::Es256, Algorithm::Rs256]);
        config.keys = KeySource::File(path);
        config.token_use = TokenUse::Any;
        config.max_token_age = SignedDuration::from_hours(24);
        TokenVerifier::new(vec![config], self.now()).unwrap().verify(token, self.now()).await
    }
}

pub fn token(issued: &Issued) -> String {
    let Credential::Jwt(jwt) = &issued.credential else { panic!("no JWT") };
    jwt.token.expose().to_owned()
}

/// The header and the claims of a token, without a look at its signature.
pub fn parts(token: &str) -> (Value, Value) {
    let mut parts = token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap());
    let mut next = || serde_json::from_slice(&parts.next().unwrap()).unwrap();
    (next(), next())
}

pub fn audience(audience: &str) -> Input {
    Input::Jwt { audience: audience.to_owned() }
}

fn issuer() -> JwtIssuer {
    let ring = Arc::new(JwtKeyMaker::ring(SigningAlgorithm::Es256, DEFAULT_SCHEDULE));
    JwtIssuer::new(JwtConfig { issuer: ISSUER.to_owned(), ring, claims: vec!["repository".to_owned()] }).unwrap()
}

fn rules(roles: Vec<Role>) -> Rules {
    let issuers = Issuers { jwt: Arc::new(issuer()), ..Issuers::only_x509(X509Issuer::new(BTreeMap::new())) };
    let book = PolicyBook::load("policy.cedar", POLICY, Arc::new(catalog(roles)), "test").unwrap();
    Rules { book, issuers }
}

pub fn role(name: &str, audiences: &[&str], subject: &str, claims: &[(&str, &str)]) -> Role {
    let claims = claims.iter().map(|(name, source)| ((*name).to_owned(), Template::parse(source).unwrap()));
    Role {
        name: name.parse().unwrap(),
        owner: RoleOwner::Shared,
        default_ttl: SignedDuration::from_mins(15),
        max_ttl: SignedDuration::from_hours(24),
        max_life: SignedDuration::from_hours(48),
        max_life_per_token: SignedDuration::from_hours(1),
        on_clone: daypass::model::role::OnClone::Revoke,
        spec: RoleSpec::Jwt(JwtRole {
            audiences: audiences.iter().map(|audience| (*audience).to_owned()).collect(),
            subject: Template::parse(subject).unwrap(),
            claims: claims.collect(),
        }),
    }
}

pub fn roles() -> Vec<Role> {
    vec![
        role("plain", &["demo"], "tenant:{tenant}", &[("lease", "{lease}"), ("role", "{role}")]),
        role("many", &["one", "https://two.example.org"], "tenant:{tenant}", &[]),
        role("svid", &["spiffe://example.org/server"], "spiffe://example.org/{tenant}/{claims.repository}", &[]),
        role("repo", &["demo"], "repo:{claims.repository}", &[("repository", "{claims.repository}")]),
        role("raw", &["demo"], "{claims.repository}", &[]),
    ]
}

fn catalog(roles: Vec<Role>) -> Catalog {
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
    let claim = |name: &str| ClaimSpec { name: name.to_owned(), path: vec![name.to_owned()], ty: ClaimType::String, required: true };
    Catalog {
        issuers: BTreeMap::from([("ci".parse().unwrap(), vec![claim("repository_id"), claim("repository")])]),
        trust_domains: BTreeMap::from([("dev".parse().unwrap(), CertificateIdentity::Spiffe)]),
        tenants: [tenant("ops", operator), tenant("jobs", job)].into_iter().map(|t| (t.name.clone(), Arc::new(t))).collect(),
        roles: roles.into_iter().map(|role| (role.name.clone(), Arc::new(role))).collect(),
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
        not_after: "2029-01-01T00:00:00Z".parse().unwrap(),
    };
    call(Identity { tenant: "ops".parse().unwrap(), proof: Proof::Certificate(peer) })
}

/// A job of a repository.
pub fn job(repository: &str) -> Call {
    let text = |value: &str| ClaimValue::String(value.to_owned());
    let claims = Claims::from([("repository_id".to_owned(), text("74")), ("repository".to_owned(), text(repository))]);
    let token = VerifiedToken {
        issuer: "ci".parse().unwrap(),
        sub: "repo:a/b".to_owned(),
        subject: Subject::try_from("oidc:ci:repo:a/b".to_owned()).unwrap(),
        claims,
        token_id: [7; 16],
        token_use: TokenUse::Any,
        expires_at: "2029-01-01T00:00:00Z".parse().unwrap(),
    };
    call(Identity { tenant: "jobs".parse().unwrap(), proof: Proof::Token { token, peer: None } })
}

fn call(identity: Identity) -> Call {
    let origin = Origin { method: "CredentialService/Issue", peer_address: Some([127, 0, 0, 1].into()), call_id: "test".to_owned() };
    Call { identity: Arc::new(identity), origin }
}
