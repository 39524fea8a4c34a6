use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::*;
use crate::{
    issuer::x509::{TokenCa, bootstrap},
    model::{credential::CredentialKind, identity::Subject, lease::LeaseId, role::RegistryAction},
};

const SERVICE: &str = "registry.example";
const ROTATE: SignedDuration = SignedDuration::from_hours(1);

fn now() -> Timestamp {
    // A fraction of a second, so that rounding shows.
    "2027-01-15T08:00:00.7Z".parse().unwrap()
}

fn seconds(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

struct World {
    issuer: RegistryIssuer,
    ca_pem: String,
    lease: Lease,
    secret: Secret,
}

impl World {
    fn new() -> Self {
        Self::with_ca_life(SignedDuration::from_hours(2400))
    }

    fn with_ca_life(life: SignedDuration) -> Self {
        // It has been there for a while.
        let age = SignedDuration::from_hours(2);
        let made = bootstrap::create_root("Tokens", now() - age, life + age).unwrap();
        let ca = TokenCa::load(made.certificate_pem.as_bytes(), bootstrap::file_key(&made).unwrap(), now()).unwrap();
        let issuer = RegistryIssuer::new([RegistryConfig {
            name: "main".parse().unwrap(),
            host: "127.0.0.1:5000".to_owned(),
            service: SERVICE.to_owned(),
            issuer: "daypass.example".to_owned(),
            rotate_every: ROTATE,
            ca: Arc::new(ca),
        }]);
        let id: LeaseId = "0192f0c1-7b5a-7000-8000-000000000003".parse().unwrap();
        let secret = secret::generate(id);
        let lease = lease(id, vec![LiveSecret { sha256: secret::fingerprint(&secret), not_after: whole_second(now()) + seconds(900) }]);
        Self { issuer, ca_pem: made.certificate_pem, lease, secret }
    }

    fn ask(&self, service: &str, scopes: &[&str], now: Timestamp) -> Result<RegistryToken> {
        let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        let asked = Exchange { secret: &self.secret, service, scopes: &scopes, token_ttl: MAX_TOKEN_TTL };
        self.issuer.exchange(&self.lease, &asked, now)
    }

    fn token(&self, now: Timestamp) -> Token {
        Token::read(&self.ask(SERVICE, &["repository:demo/a:pull,push"], now).unwrap())
    }

    fn refusal(&self, now: Timestamp) -> Error {
        self.ask(SERVICE, &["repository:demo/a:pull"], now).err().expect("it is refused")
    }
}

fn lease(id: LeaseId, secrets: Vec<LiveSecret>) -> Lease {
    let expires_at = secrets.last().unwrap().not_after;
    Lease {
        id,
        version: 1,
        role: "push".parse().unwrap(),
        kind: CredentialKind::Registry,
        tenant: "jobs".parse().unwrap(),
        subject: Subject::try_from("spiffe://dev/job".to_owned()).unwrap(),
        state: LeaseState::Active,
        issued_at: now(),
        expires_at,
        renew_until: expires_at,
        generation: 1,
        reach: Reach::Lease,
        live_until: expires_at,
        revoked_at: None,
        renewed_at: None,
        held_until: None,
        acknowledged: 0,
        claim: None,
        enrolled: false,
        handle: Handle::Registry {
            registry: "main".parse().unwrap(),
            repositories: vec!["demo/*".to_owned()],
            actions: vec![RegistryAction::Pull, RegistryAction::Push],
            secrets,
        },
    }
}

/// A token as a registry reads it, by a library that is not ours.
struct Token {
    claims: Value,
    header: jsonwebtoken::Header,
    leaf: Vec<u8>,
}

impl Token {
    fn read(token: &RegistryToken) -> Self {
        let text = token.token.expose();
        let header = jsonwebtoken::decode_header(text).unwrap();
        let leaf = STANDARD.decode(&header.x5c.as_ref().unwrap()[0]).unwrap();
        let (_, certificate) = X509Certificate::from_der(&leaf).unwrap();
        let mut check = Validation::new(Algorithm::ES256);
        check.validate_exp = false;
        check.set_audience(&[SERVICE]);
        check.set_issuer(&["daypass.example"]);
        let point = certificate.public_key().subject_public_key.data.clone();
        let claims = jsonwebtoken::decode::<Value>(text, &DecodingKey::from_ec_der(&point), &check).unwrap().claims;
        Self { claims, header, leaf: leaf.clone() }
    }

    fn expires_at(&self) -> Timestamp {
        Timestamp::from_second(self.claims["exp"].as_i64().unwrap()).unwrap()
    }

    fn certificate(&self) -> X509Certificate<'_> {
        X509Certificate::from_der(&self.leaf).unwrap().1
    }

    /// When its certificate ends.
    fn not_after(&self) -> Timestamp {
        Timestamp::from_second(self.certificate().validity().not_after.timestamp()).unwrap()
    }
}

#[test]
fn a_token_says_what_registries_read_and_its_certificate_chains_to_the_ca() {
    let world = World::new();
    let answer =
        world.ask(SERVICE, &["repository:demo/a:push,pull", "repository:other:pull", "repository:demo/b:pull,delete"], now()).unwrap();
    let token = Token::read(&answer);
    let begin = now().as_second();
    let mut claims = token.claims.clone();
    assert!(claims.as_object_mut().unwrap().remove("jti").unwrap().as_str().unwrap().len() >= 22);
    let expected = json!({
        "iss": "daypass.example", "sub": world.lease.id.to_string(), "aud": SERVICE,
        "iat": begin, "nbf": begin, "exp": begin + 300,
        "access": [
            { "type": "repository", "name": "demo/a", "actions": ["pull", "push"] },
            { "type": "repository", "name": "demo/b", "actions": ["pull"] },
        ],
    });
    assert_eq!(claims, expected);
    assert_eq!(
        (answer.expires_in, answer.granted),
        (300, vec!["repository:demo/a:pull,push".to_owned(), "repository:demo/b:pull".to_owned()])
    );
    assert_eq!((token.header.alg, token.header.typ.as_deref(), token.header.kid.as_deref()), (Algorithm::ES256, Some("JWT"), None));
    let pem = x509_parser::pem::parse_x509_pem(world.ca_pem.as_bytes()).unwrap().1;
    let ca = pem.parse_x509().unwrap();
    let leaf = token.certificate();
    leaf.verify_signature(Some(ca.public_key())).unwrap();
    assert_eq!(leaf.issuer().as_raw(), ca.subject().as_raw());
    assert!(!leaf.is_ca());
    assert!(leaf.validity().not_before.timestamp() <= begin - 60, "a registry whose clock is slow takes it too");
    assert_ne!(Token::read(&world.ask(SERVICE, &[], now()).unwrap()).claims["jti"], token.claims["jti"]);
}

#[test]
fn without_a_scope_that_the_lease_has_the_token_grants_nothing() {
    let world = World::new();
    for scopes in [&[][..], &["repository:other:pull"], &["registry:catalog:*"], &["nonsense"]] {
        let answer = world.ask(SERVICE, scopes, now()).unwrap();
        assert_eq!(answer.granted, [""; 0]);
        assert_eq!(Token::read(&answer).claims["access"], json!([]));
    }
}

#[test]
fn a_token_lives_no_longer_than_the_least_of_all_bounds() {
    let mut world = World::new();
    let asked = |world: &World, token_ttl: i64, now: Timestamp| {
        let asked = Exchange { secret: &world.secret, service: SERVICE, scopes: &[], token_ttl: seconds(token_ttl) };
        let answer = world.issuer.exchange(&world.lease, &asked, now).unwrap();
        (Token::read(&answer).expires_at(), answer.expires_in)
    };
    let start = whole_second(now());
    assert_eq!(asked(&world, 300, now()), (start + seconds(300), 300));
    assert_eq!(asked(&world, 100, now()), (start + seconds(100), 100));
    assert_eq!(asked(&world, 7200, now()), (start + seconds(300), 300), "five minutes, whatever the role says");
    let end = start + seconds(900);
    assert_eq!(world.lease.expires_at, end);
    assert_eq!(asked(&world, 300, end - seconds(200)), (end, 200), "the lease ends sooner");
    assert_eq!(asked(&world, 300, end - seconds(10)), (end, 60), "with the registry's leeway it is taken for 70 s: what is told is true");
    // An older secret of a renewed lease ends with itself.
    world.lease.expires_at = end + seconds(3600);
    assert_eq!(asked(&world, 300, end - seconds(100)).0, end);
    // The lease of a tenant that ends sooner than it.
    world.lease.expires_at = start + seconds(30);
    assert_eq!(asked(&world, 300, now()).0, start + seconds(30));
}

#[test]
fn every_refusal_says_the_same() {
    let expected = refused("").public().to_owned();
    let check = |what: &str, error: Error| {
        assert_eq!((error.code(), error.public()), (Code::Unauthenticated, expected.as_str()), "{what}");
        error.cause().unwrap().to_owned()
    };
    let mut causes = Vec::new();
    let world = World::new();
    causes.push(check("another service", world.ask("other", &[], now()).err().unwrap()));
    for service in ["", "registry.example ", "Registry.example", "registry.example\0"] {
        check(service, world.ask(service, &[], now()).err().unwrap());
    }
    check("after its end", world.refusal(world.lease.expires_at));

    let wrong = World { secret: secret::generate(world.lease.id), ..World::new() };
    causes.push(check("another secret", wrong.refusal(now())));
    let mut foreign = World::new();
    foreign.lease = lease(
        "0192f0c1-7b5a-7000-8000-000000000013".parse().unwrap(),
        vec![LiveSecret { sha256: "00".repeat(32), not_after: world.lease.expires_at }],
    );
    check("a secret of another lease", foreign.refusal(now()));
    for state in [LeaseState::Pending, LeaseState::Revoking, LeaseState::Revoked, LeaseState::Expired] {
        let mut world = World::new();
        world.lease.state = state;
        causes.push(check(state.as_str(), world.refusal(now())));
    }
    let mut world = World::new();
    world.lease.expires_at = now();
    check("an ended lease with a living secret", world.refusal(now()));
    let mut world = World::new();
    world.issuer = RegistryIssuer::default();
    causes.push(check("a registry that is gone", world.refusal(now())));
    let mut world = World::new();
    world.lease.handle = Handle::Jwt { jti: String::new(), aud: String::new(), claims: String::new() };
    causes.push(check("another kind", world.refusal(now())));
    causes.sort();
    causes.dedup();
    assert_eq!(causes.len(), 5, "the log says which: {causes:?}");
}

#[test]
fn who_holds_no_secret_does_not_learn_that_scopes_are_too_many() {
    let mut world = World::new();
    let many = vec!["repository:demo/a:pull"; scope::MAX_SCOPES + 1];
    let long = format!("repository:{}:pull", "a".repeat(scope::MAX_SCOPE));
    assert_eq!(world.ask(SERVICE, &many, now()).err().unwrap().code(), Code::InvalidRequest);
    assert_eq!(world.ask(SERVICE, &[&long], now()).err().unwrap().code(), Code::InvalidRequest);
    assert!(world.ask(SERVICE, &many[1..], now()).is_ok());
    world.secret = secret::generate(world.lease.id);
    assert_eq!(world.ask(SERVICE, &many, now()).err().unwrap().code(), Code::Unauthenticated);
}

#[test]
fn keys_rotate_and_each_certificate_outlives_the_last_token_under_it() {
    let mut world = World::new();
    world.lease.expires_at = now() + SignedDuration::from_hours(100);
    if let Handle::Registry { secrets, .. } = &mut world.lease.handle {
        secrets[0].not_after = world.lease.expires_at;
    }
    let last = now() + ROTATE - SignedDuration::from_millis(1);
    let (first, late, next) = (world.token(now()), world.token(last), world.token(now() + ROTATE));
    assert_eq!(first.leaf, late.leaf, "one key for its time");
    assert_ne!(first.leaf, next.leaf, "and then another");
    assert!(late.not_after() >= late.expires_at() + REGISTRY_LEEWAY, "a registry takes the certificate as long as the token");
    assert!(late.not_after() <= last + MAX_TOKEN_TTL + REGISTRY_LEEWAY + seconds(1), "and hardly longer");
    let back = world.token(now() - seconds(3600));
    assert!(
        back.certificate().validity().not_before.timestamp() <= now().as_second() - 3600,
        "a clock that went back gets a key of its time"
    );
}

#[test]
fn many_exchanges_at_the_moment_of_a_rotation_make_one_key() {
    let world = World::new();
    let leaves: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..16).map(|_| scope.spawn(|| world.token(now()).leaf)).collect();
        running.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(leaves.iter().all(|leaf| *leaf == leaves[0]));
}

#[test]
fn no_token_outlives_the_ca_and_without_one_there_is_none() {
    let world = World::with_ca_life(seconds(100));
    let token = world.token(now());
    assert!(token.expires_at() <= now() + seconds(100) && token.expires_at() > now() + seconds(90));
    assert!(token.not_after() <= now() + seconds(100));
    let error = world.refusal(now() + seconds(101));
    assert_eq!(error.code(), Code::IssuerUnavailable);
    assert!(!error.public().contains("CA"), "{error}");
}

#[test]
fn a_template_is_checked_before_anybody_asks() {
    let faults = |sources: &[&str]| {
        let templates: Vec<_> = sources.iter().map(|source| crate::model::template::Template::parse(source).unwrap()).collect();
        role_check::repository_faults(&templates)
    };
    for good in
        ["demo/a", "demo/*", "*", "{tenant}/*", "ci/{claims.repository_id}/{role}-x", "a{tenant}b", "x/{claims.a/b}", "{role}-{tenant}"]
    {
        assert_eq!(faults(&[good]), [""; 0], "{good}");
    }
    for bad in ["", "Demo", "demo/", "/demo", "demo//a", "demo/a*", "demo/**", "demo/{claims.a}*", "a b", "a:b", "demo/{tenant}-", "../a"] {
        assert_eq!(faults(&[bad]).len(), 1, "{bad}");
    }
    assert!(faults(&["{claims.a}{claims.b}"])[0].contains("no mark between them"));
    assert!(faults(&["demo/{lease}"])[0].contains("{lease}"));
    assert!(faults(&[])[0].contains("missing"));
    let many = vec!["a"; role_check::MAX_REPOSITORIES + 1];
    assert_eq!((faults(&many[1..]).len(), faults(&many).len()), (0, 1));
}
