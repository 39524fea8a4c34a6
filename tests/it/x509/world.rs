//! A CA, an issuer, roles and callers to test with; made once, for keys are slow to make.

use std::{collections::BTreeMap, sync::Arc, sync::LazyLock};

use daypass::{
    issuer::{
        Minted,
        x509::{
            Ask, Authority, CaConfig, DEFAULT_CRL_LIFE, LeafPlan, ParsedCsr, Serial, SubjectKey, X509Issuer,
            bootstrap::{self, Made},
        },
    },
    model::{
        SignedDuration, Timestamp,
        claim::{ClaimValue, Claims},
        credential::{Credential, X509Credential},
        error::Error,
        identity::{Identity, Proof, Subject, TokenUse, VerifiedToken},
        lease::{Handle, Lease, LeaseId, LeaseState, Reach},
        request::Input,
        role::{ExtKeyUsage, KeyType, Role, RoleOwner, RoleSpec, X509Role},
        template::Template,
    },
};
use rcgen::{CertificateParams, KeyPair};

pub const CRL_URL: &str = "http://127.0.0.1:7480/crl/main.crl";
pub const ROOT_CRL_URL: &str = "http://127.0.0.1:7480/crl/root.crl";
pub const DAY: SignedDuration = SignedDuration::from_hours(24);

/// The time of all these tests: 2027-01-15T08:00:00.25Z.
pub fn now() -> Timestamp {
    Timestamp::from_millisecond(1_800_000_000_250).unwrap()
}

pub struct World {
    pub root: Made,
    pub issuing: Made,
    pub authority: Arc<Authority>,
    pub issuer: X509Issuer,
}

pub static WORLD: LazyLock<World> = LazyLock::new(|| World::new(now(), DAY * 30));

impl World {
    /// A root for a year and a CA for `life`.
    pub fn new(at: Timestamp, life: SignedDuration) -> Self {
        let root = bootstrap::create_root("Daypass Test Root", at, DAY * 365).unwrap();
        let issuing = bootstrap::create_issuing(&root, "Daypass Test CA", Some(ROOT_CRL_URL), at, life).unwrap();
        let authority = Arc::new(load(&root, &issuing, at).unwrap());
        let issuer = X509Issuer::new(BTreeMap::from([(authority.name().clone(), authority.clone())]));
        Self { root, issuing, authority, issuer }
    }

    pub fn issue(&self, role: &Role, identity: &Identity, csr: &[u8], ttl: SignedDuration) -> Result<Minted, Error> {
        let expires_at = Timestamp::from_second((now() + ttl).as_second()).unwrap();
        self.issuer.issue(ask(role, identity, expires_at), &Input::X509 { csr_der: csr.to_vec() }, None, now())
    }
}

/// For a lease of its own, its first certificate.
pub fn ask<'a>(role: &'a Role, identity: &'a Identity, expires_at: Timestamp) -> Ask<'a> {
    let lease = LeaseId::new(now(), daypass::clock::random(), &identity.tenant);
    Ask { role, identity, expires_at, lease, generation: 1 }
}

pub fn config(root: &Made, issuing: &Made) -> CaConfig {
    CaConfig {
        name: "main".parse().unwrap(),
        chain_pem: issuing.certificate_pem.clone().into_bytes(),
        root_pem: root.certificate_pem.clone().into_bytes(),
        key: bootstrap::file_key(issuing).unwrap(),
        crl_url: CRL_URL.to_owned(),
        crl_life: DEFAULT_CRL_LIFE,
    }
}

pub fn load(root: &Made, issuing: &Made, at: Timestamp) -> Result<Authority, Vec<String>> {
    Authority::load(config(root, issuing), at)
}

pub fn template(source: &str) -> Template {
    Template::parse(source).unwrap()
}

/// A role as `daypassd dev` has it: a SPIFFE certificate for servers and clients that takes every key type.
pub fn spec() -> X509Role {
    X509Role {
        ca: "main".parse().unwrap(),
        common_name: None,
        uri_sans: vec![template("spiffe://example.org/{tenant}/{claims.repository_id}")],
        dns_sans: vec![],
        ip_sans: vec![],
        ext_key_usage: vec![ExtKeyUsage::ServerAuth, ExtKeyUsage::ClientAuth],
        key_types: vec![KeyType::P256, KeyType::P384, KeyType::Ed25519, KeyType::Rsa],
        enrollment: false,
    }
}

pub fn role(spec: X509Role) -> Role {
    Role {
        name: "web".parse().unwrap(),
        owner: RoleOwner::Shared,
        default_ttl: SignedDuration::from_mins(15),
        max_ttl: SignedDuration::from_hours(1),
        max_life: SignedDuration::from_hours(8),
        max_life_per_token: SignedDuration::from_hours(1),
        on_clone: daypass::model::role::OnClone::Revoke,
        spec: RoleSpec::X509(spec),
    }
}

pub fn caller(claims: &[(&str, &str)]) -> Identity {
    let claims: Claims = claims.iter().map(|(name, value)| ((*name).to_owned(), ClaimValue::String((*value).to_owned()))).collect();
    let token = VerifiedToken {
        issuer: "github".parse().unwrap(),
        sub: "repo:acme/shop".to_owned(),
        subject: Subject::try_from("oidc:github:repo:acme/shop".to_owned()).unwrap(),
        claims,
        token_id: [7; 16],
        token_use: TokenUse::OncePerRole,
        expires_at: now() + SignedDuration::from_mins(5),
    };
    Identity { tenant: "acme".parse().unwrap(), proof: Proof::Token { token, peer: None } }
}

pub fn job() -> Identity {
    caller(&[("repository_id", "4711"), ("ref", "main")])
}

pub fn csr_for(pair: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(pair).unwrap().der().to_vec()
}

pub fn fresh_csr() -> Vec<u8> {
    csr_for(&KeyPair::generate().unwrap())
}

pub fn subject_key(csr: &[u8]) -> Result<SubjectKey, Error> {
    ParsedCsr::parse(csr)?.verify(&spec().key_types)
}

pub fn plan_for(spec: X509Role, serial: Serial) -> LeafPlan {
    let validity = WORLD.authority.validity(now(), now() + SignedDuration::from_mins(15)).unwrap();
    LeafPlan::render(&role(spec), &job(), serial, validity).unwrap()
}

pub fn x509(credential: Credential) -> X509Credential {
    let Credential::X509(x509) = credential else { panic!("no certificate") };
    x509
}

pub fn lease_of(minted: &Minted) -> Lease {
    let tenant = "acme".parse().unwrap();
    Lease {
        id: LeaseId::new(now(), [3; 10], &tenant),
        version: 1,
        role: "web".parse().unwrap(),
        kind: daypass::model::credential::CredentialKind::X509,
        tenant,
        subject: job().subject().clone(),
        state: LeaseState::Active,
        issued_at: now(),
        expires_at: minted.expires_at,
        renew_until: minted.expires_at + DAY,
        generation: 1,
        reach: Reach::Crl,
        live_until: minted.expires_at,
        revoked_at: None,
        renewed_at: None,
        held_until: None,
        acknowledged: 0,
        claim: None,
        enrolled: false,
        handle: minted.handle.clone(),
    }
}

pub fn serials(handle: &Handle) -> Vec<String> {
    let Handle::X509 { serials, .. } = handle else { panic!("no certificate") };
    serials.iter().map(|serial| serial.serial.clone()).collect()
}
