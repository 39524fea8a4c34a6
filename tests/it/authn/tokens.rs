//! The issuers under test, and what good tokens of theirs look like.

use std::sync::OnceLock;

use daypass::{
    authn::oidc::{Algorithm, IssuerConfig, KeySource, PRESETS, TokenVerifier, preset},
    model::{
        SignedDuration, Timestamp,
        claim::{ClaimType, ClaimValue},
        error::Code,
        identity::TokenUse,
    },
};
use serde_json::{Value, json};

use super::jose::{key_set, keys};

pub const AUDIENCE: &str = "https://daypass.example.org";
pub const CANARY: &str = "canary7f3a91";

pub fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

pub fn at(seconds: i64) -> i64 {
    now().as_second() + seconds
}

pub fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// An issuer of each preset, whose keys lie in a file.
pub struct World {
    pub preset: &'static str,
    pub config: IssuerConfig,
    pub verifier: TokenVerifier,
    _files: [tempfile::NamedTempFile; 2],
}

pub fn write_keys(set: &Value) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), set.to_string()).unwrap();
    file
}

impl World {
    pub fn new(name: &'static str) -> Self {
        let preset = preset(name).unwrap();
        let url = preset.url.map_or_else(|| format!("https://{name}.example.org/org/1"), str::to_owned);
        let file = write_keys(&key_set());
        let mut config = preset.config(name.parse().unwrap(), Some(url), vec![AUDIENCE.to_owned(), "second-audience".to_owned()]).unwrap();
        config.keys = KeySource::File(file.path().to_owned());
        let other_file = write_keys(&json!({"keys": [keys().other_issuer.named("b", "RS256")]}));
        let mut other =
            IssuerConfig::new("issuer-b".parse().unwrap(), "https://b.example.org", vec![AUDIENCE.to_owned()], vec![Algorithm::Rs256]);
        other.keys = KeySource::File(other_file.path().to_owned());
        let verifier = TokenVerifier::new(vec![config.clone(), other], now()).unwrap();
        Self { preset: name, config, verifier, _files: [file, other_file] }
    }

    pub fn header(&self) -> Value {
        json!({"typ": "JWT", "alg": "RS256", "kid": "main"})
    }

    /// A payload with every claim that the preset knows.
    pub fn payload(&self) -> Value {
        let mut payload = json!({
            "iss": self.config.url, "aud": AUDIENCE, "sub": format!("sub:{CANARY}"), "jti": format!("jti-{CANARY}"),
            "iat": at(-30), "nbf": at(-30), "exp": at(300),
        });
        for spec in &self.config.claims {
            set(&mut payload, &spec.path, sample(spec.ty, &spec.name));
        }
        payload
    }

    pub fn good(&self) -> String {
        keys().main.token(&self.header(), &self.payload())
    }

    pub fn verify(&self, token: &str) -> daypass::model::error::Result<daypass::model::identity::VerifiedToken> {
        run(self.verifier.verify(token, now()))
    }

    /// The code of the refusal of a payload signed rightly.
    fn refusal(&self, change: impl FnOnce(&mut Value)) -> Code {
        let mut payload = self.payload();
        change(&mut payload);
        self.verify(&keys().main.token(&self.header(), &payload)).unwrap_err().code()
    }
}

pub fn sample(ty: ClaimType, name: &str) -> Value {
    match ty {
        ClaimType::String => json!(format!("{name}-{CANARY}")),
        ClaimType::Integer => json!(42),
        ClaimType::Boolean => json!(false),
        ClaimType::Strings => json!(["one", "two"]),
    }
}

pub fn set(payload: &mut Value, path: &[String], value: Value) {
    let mut place = payload;
    for name in path {
        place = &mut place[name.as_str()];
    }
    *place = value;
}

pub fn remove(payload: &mut Value, path: &[String]) {
    let (last, parents) = path.split_last().unwrap();
    let mut place = payload;
    for name in parents {
        place = &mut place[name.as_str()];
    }
    place.as_object_mut().unwrap().remove(last);
}

pub fn world(name: &str) -> &'static World {
    static WORLDS: OnceLock<Vec<World>> = OnceLock::new();
    WORLDS.get_or_init(|| PRESETS.map(World::new).into()).iter().find(|world| world.preset == name).unwrap()
}

#[test]
fn a_good_token_of_each_preset_gives_its_claims() {
    for name in PRESETS {
        let world = world(name);
        let token = world.verify(&world.good()).unwrap();
        assert_eq!(token.subject.as_str(), format!("oidc:{name}:sub:{CANARY}"));
        assert_eq!(token.expires_at.as_second(), at(300));
        assert_eq!(token.token_use, if name == "kubernetes" { TokenUse::Any } else { TokenUse::OncePerRole });
        assert_eq!(token.claims.len(), world.config.claims.len());
        for spec in &world.config.claims {
            let expected = match spec.ty {
                ClaimType::String => ClaimValue::String(format!("{}-{CANARY}", spec.name)),
                ClaimType::Integer => ClaimValue::Integer(42),
                ClaimType::Boolean => ClaimValue::Boolean(false),
                ClaimType::Strings => ClaimValue::Strings(vec!["one".into(), "two".into()]),
            };
            assert_eq!(token.claims[&spec.name], expected, "{name} {}", spec.name);
        }
    }
}

#[test]
fn the_immutable_ids_are_required_and_the_known_types_are_right() {
    let spec = |issuer: &str, claim: &str| preset(issuer).unwrap().claims.into_iter().find(|spec| spec.name == claim).unwrap();
    for (issuer, claim, path) in [
        ("github", "repository_id", vec!["repository_id"]),
        ("github", "repository_owner_id", vec!["repository_owner_id"]),
        ("gitlab", "project_id", vec!["project_id"]),
        ("gitlab", "namespace_id", vec!["namespace_id"]),
        ("kubernetes", "serviceaccount_uid", vec!["kubernetes.io", "serviceaccount", "uid"]),
        ("buildkite", "pipeline_id", vec!["pipeline_id"]),
        ("circleci", "project_id", vec!["oidc.circleci.com/project-id"]),
    ] {
        let spec = spec(issuer, claim);
        assert!(spec.required, "{issuer} {claim}");
        assert_eq!(spec.path, path);
    }
    for (issuer, claim, ty) in [
        ("github", "ref_protected", ClaimType::String),
        ("github", "run_id", ClaimType::String),
        ("gitlab", "ref_protected", ClaimType::String),
        ("gitlab", "environment_protected", ClaimType::String),
        ("gitlab", "project_id", ClaimType::String),
        ("gitlab", "runner_id", ClaimType::Integer),
        ("gitlab", "groups_direct", ClaimType::Strings),
        ("kubernetes", "warnafter", ClaimType::Integer),
        ("buildkite", "build_number", ClaimType::Integer),
        ("circleci", "context_ids", ClaimType::Strings),
        ("circleci", "ssh_rerun", ClaimType::Boolean),
    ] {
        assert_eq!(spec(issuer, claim).ty, ty, "{issuer} {claim}");
    }
    assert!(preset("travis").is_none());
    assert!(preset("kubernetes").unwrap().config("k".parse().unwrap(), None, vec![]).is_err());
}

#[test]
fn optional_claims_may_be_absent_or_null() {
    for name in PRESETS {
        let world = world(name);
        for null in [true, false] {
            let mut payload = world.payload();
            for spec in world.config.claims.iter().filter(|spec| !spec.required) {
                if null {
                    set(&mut payload, &spec.path, Value::Null);
                } else {
                    remove(&mut payload, &spec.path);
                }
            }
            let token = world.verify(&keys().main.token(&world.header(), &payload)).unwrap();
            assert!(token.claims.keys().all(|claim| world.config.claims.iter().any(|spec| spec.name == *claim && spec.required)), "{name}");
        }
    }
    // A whole bound object that is not there: a Kubernetes token that is bound to no pod.
    let mut payload = world("kubernetes").payload();
    payload["kubernetes.io"].as_object_mut().unwrap().remove("pod");
    payload["kubernetes.io"]["node"] = Value::Null;
    let token = world("kubernetes").verify(&keys().main.token(&world("kubernetes").header(), &payload)).unwrap();
    assert!(!token.claims.contains_key("pod_uid") && !token.claims.contains_key("node_uid"));
}

#[test]
fn the_audience_matrix() {
    let world = world("github");
    let verify = |aud: Value| {
        let mut payload = world.payload();
        payload["aud"] = aud;
        world.verify(&keys().main.token(&world.header(), &payload))
    };
    for ours in
        [json!(AUDIENCE), json!([AUDIENCE]), json!("second-audience"), json!([AUDIENCE, "second-audience"]), json!([AUDIENCE, AUDIENCE])]
    {
        assert!(verify(ours.clone()).is_ok(), "{ours}");
    }
    let theirs = [
        json!("other"),
        json!(["other"]),
        json!([AUDIENCE, "other"]),
        json!(["other", AUDIENCE]),
        json!([]),
        json!(""),
        json!([""]),
        json!(format!("{AUDIENCE}/")),
        json!(AUDIENCE.to_uppercase()),
        json!(format!("{AUDIENCE},other")),
        json!(format!(" {AUDIENCE}")),
    ];
    for theirs in theirs {
        let error = verify(theirs.clone()).unwrap_err();
        assert_eq!(error.code(), Code::TokenAudience, "{theirs}");
        assert!(error.public().contains(AUDIENCE), "the text must name the audience to ask for: {error}");
        assert!(!error.public().contains("other\""), "{error}");
    }
    for wrong in
        [json!(null), json!(1), json!(true), json!({}), json!([1]), json!([AUDIENCE, null]), json!([[AUDIENCE]]), json!([AUDIENCE, {}])]
    {
        assert_eq!(verify(wrong.clone()).unwrap_err().code(), Code::Unauthenticated, "{wrong}");
    }
    assert_eq!(world.refusal(|payload| remove(payload, &["aud".into()])), Code::TokenAudience);
    assert_eq!(verify(json!(vec![AUDIENCE; daypass::authn::oidc::MAX_AUDIENCES + 1])).unwrap_err().code(), Code::Unauthenticated);
}

#[test]
fn every_bound_of_time_is_exact() {
    let world = world("github");
    let leeway = world.config.leeway.as_secs();
    let age = world.config.max_token_age.as_secs();
    let verify = |iat: i64, nbf: i64, exp: i64| {
        let mut payload = world.payload();
        (payload["iat"], payload["nbf"], payload["exp"]) = (json!(at(iat)), json!(at(nbf)), json!(at(exp)));
        world.verify(&keys().main.token(&world.header(), &payload)).map_err(|error| error.code()).err()
    };
    assert_eq!(verify(-30, -30, 1), None);
    assert_eq!(verify(-30, -30, 1 - leeway), None);
    assert_eq!(verify(-30, -30, -leeway), Some(Code::TokenExpired));
    assert_eq!(verify(leeway, leeway, 60), None);
    assert_eq!(verify(leeway + 1, 0, 60), Some(Code::Unauthenticated));
    assert_eq!(verify(0, leeway + 1, 60), Some(Code::Unauthenticated));
    assert_eq!(verify(-age - leeway, -30, 60), None);
    assert_eq!(verify(-age - leeway - 1, -30, 60), Some(Code::TokenExpired));
    let life = daypass::authn::oidc::MAX_TOKEN_LIFE.as_secs();
    assert_eq!(verify(0, 0, life), None);
    assert_eq!(verify(0, 0, life + 1), Some(Code::Unauthenticated));
    assert_eq!(verify(5, 5, 5), Some(Code::Unauthenticated));
}

#[test]
fn every_algorithm_verifies_with_its_own_key_and_no_other() {
    let file = write_keys(&json!({"keys": [
        {"kid": "rsa", "kty": "RSA", "n": keys().main.jwk()["n"], "e": "AQAB"},
        keys().p256.named("p256", "ES256"), keys().p384.named("p384", "ES384"), keys().ed25519.named("ed25519", "EdDSA"),
    ]}));
    let mut config =
        IssuerConfig::new("all".parse().unwrap(), "https://all.example.org", vec![AUDIENCE.to_owned()], Algorithm::ALL.to_vec());
    config.keys = KeySource::File(file.path().to_owned());
    let verifier = TokenVerifier::new(vec![config], now()).unwrap();
    let payload = json!({"iss": "https://all.example.org", "aud": AUDIENCE, "sub": "s", "iat": at(0), "exp": at(60)});
    let kids = [("rsa", &keys().main), ("p256", &keys().p256), ("p384", &keys().p384), ("ed25519", &keys().ed25519)];
    let own = |kid: &str| -> &[&str] {
        match kid {
            "rsa" => &["RS256", "RS384", "RS512", "PS256"],
            "p256" => &["ES256"],
            "p384" => &["ES384"],
            _ => &["EdDSA"],
        }
    };
    for alg in Algorithm::ALL.map(Algorithm::as_str) {
        for (kid, _) in kids {
            for (signer_name, signer) in kids {
                let token = signer.token(&json!({"alg": alg, "kid": kid}), &payload);
                let verdict = run(verifier.verify(&token, now()));
                let fits = own(kid).contains(&alg) && signer_name == kid;
                assert_eq!(verdict.is_ok(), fits, "alg {alg}, kid {kid}, signed with {signer_name}: {verdict:?}");
            }
        }
    }
    // Without a kid: one key fits ES256, so it is taken.
    let token = keys().p256.token(&json!({"alg": "ES256"}), &payload);
    assert!(run(verifier.verify(&token, now())).is_ok());
}

#[test]
fn a_key_that_names_its_algorithm_verifies_no_other() {
    let file = write_keys(&json!({"keys": [keys().main.named("only-512", "RS512")]}));
    let mut config =
        IssuerConfig::new("bound".parse().unwrap(), "https://bound.example.org", vec![AUDIENCE.to_owned()], Algorithm::ALL.to_vec());
    config.keys = KeySource::File(file.path().to_owned());
    let verifier = TokenVerifier::new(vec![config], now()).unwrap();
    let payload = json!({"iss": "https://bound.example.org", "aud": AUDIENCE, "sub": "s", "iat": at(0), "exp": at(60)});
    for (alg, fits) in [("RS512", true), ("RS256", false), ("RS384", false), ("PS256", false)] {
        for header in [json!({"alg": alg, "kid": "only-512"}), json!({"alg": alg})] {
            assert_eq!(run(verifier.verify(&keys().main.token(&header, &payload), now())).is_ok(), fits, "{header}");
        }
    }
}

#[test]
fn a_token_id_is_of_the_issuer_and_the_jti_and_outlives_a_second_signature() {
    let world = world("buildkite");
    let id = |change: &dyn Fn(&mut Value)| {
        let mut payload = world.payload();
        change(&mut payload);
        world.verify(&keys().main.token(&world.header(), &payload)).unwrap().token_id
    };
    let digest = |text: String| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref()[..16].to_vec();
    assert_eq!(id(&|_| ()).to_vec(), digest(format!("buildkite\0jti-{CANARY}")));
    assert_eq!(id(&|_| ()), id(&|payload| payload["sub"] = json!("another")));
    assert_ne!(id(&|_| ()), id(&|payload| payload["jti"] = json!("another")));
    let without = |payload: &mut Value| remove(payload, &["jti".into()]);
    assert_ne!(
        id(&without),
        id(&|payload| {
            without(payload);
            payload["sub"] = json!("another");
        })
    );

    // An ECDSA signature can be made anew by its signer, and turned into its twin by anyone: the same token all the same.
    let file = write_keys(&json!({"keys": [keys().p256.named("p256", "ES256")]}));
    let mut config = IssuerConfig::new("ec".parse().unwrap(), "https://ec.example.org", vec![AUDIENCE.to_owned()], vec![Algorithm::Es256]);
    config.keys = KeySource::File(file.path().to_owned());
    let verifier = TokenVerifier::new(vec![config], now()).unwrap();
    let payload = json!({"iss": "https://ec.example.org", "aud": AUDIENCE, "sub": "s", "iat": at(0), "exp": at(60)});
    let [one, two] = [(); 2].map(|()| keys().p256.token(&json!({"alg": "ES256"}), &payload));
    let twin = twin(&one);
    assert!(one != two && one != twin);
    let [one, two, twin] = [one, two, twin].map(|token| run(verifier.verify(&token, now())).unwrap().token_id);
    assert_eq!([one, one], [two, twin]);
}

/// The other valid form of an ES256 signature: (r, n - s), n being the order of P-256.
fn twin(token: &str) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let order: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84,
        0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut borrow = false;
    for i in (0..32).rev() {
        let (difference, under) = order[i].overflowing_sub(signature[32 + i]);
        let (difference, under_again) = difference.overflowing_sub(u8::from(borrow));
        signature[32 + i] = difference;
        borrow = under || under_again;
    }
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn every_bound_of_length_is_exact() {
    use daypass::authn::oidc::{MAX_JTI, MAX_SUB, MAX_TOKEN};
    let world = world("buildkite");
    let accepted = |change: &dyn Fn(&mut Value)| {
        let mut payload = world.payload();
        change(&mut payload);
        world.verify(&keys().main.token(&world.header(), &payload)).is_ok()
    };
    for (claim, longest) in [("sub", MAX_SUB), ("jti", MAX_JTI)] {
        assert!(accepted(&|payload| payload[claim] = json!("x".repeat(longest))));
        assert!(!accepted(&|payload| payload[claim] = json!("x".repeat(longest + 1))));
    }
    let lengths = |padding: usize| {
        let mut payload = world.payload();
        payload["padding"] = json!("x".repeat(padding));
        let token = keys().main.token(&world.header(), &payload);
        (token.len(), world.verify(&token).is_ok())
    };
    let mut seen = [false; 2];
    let fitting = (MAX_TOKEN - lengths(0).0) / 4 * 3;
    for padding in fitting - 6..fitting + 6 {
        let (length, taken) = lengths(padding);
        assert_eq!(taken, length <= MAX_TOKEN, "{length} bytes");
        seen[usize::from(taken)] |= length.abs_diff(MAX_TOKEN) <= 2;
    }
    assert_eq!(seen, [true; 2], "both sides of the bound were looked at");
}

#[test]
fn a_key_of_another_issuer_is_not_taken() {
    let world = world("gitlab");
    let mut payload = world.payload();
    let header = json!({"alg": "RS256", "kid": "b"});
    assert_eq!(world.verify(&keys().other_issuer.token(&header, &payload)).unwrap_err().code(), Code::Unauthenticated);
    payload["iss"] = json!("https://b.example.org");
    assert_eq!(world.verify(&keys().main.token(&world.header(), &payload)).unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(world.verify(&keys().other_issuer.token(&header, &payload)).unwrap().issuer.as_str(), "issuer-b");
}

#[test]
fn authenticator_takes_the_token_before_the_certificate_and_never_falls_back() {
    use daypass::{
        authn::Authenticator,
        model::identity::{CertificateIdentity, PeerCertificate, Proof, Subject},
    };
    let world = World::new("github");
    let good = world.good();
    let authenticator = Authenticator::new(std::sync::Arc::new(world.verifier));
    let peer = PeerCertificate {
        trust_domain: "example.org".parse().unwrap(),
        identity: CertificateIdentity::Dns,
        id: "a".into(),
        subject: Subject::try_from("dns:example.org/a".to_owned()).unwrap(),
        serial: "01".into(),
        fingerprint: "00".into(),
        not_after: now() + SignedDuration::from_hours(1),
    };
    let proof = |peer, header: Option<&str>| run(authenticator.proof(peer, header, now()));
    assert_eq!(proof(Some(&peer), None).unwrap(), Proof::Certificate(peer.clone()));
    let Proof::Token { peer: beside, .. } = proof(Some(&peer), Some(&format!("bEARER {good}"))).unwrap() else { panic!() };
    assert_eq!(beside.as_ref(), Some(&peer));
    let Proof::Token { peer: None, .. } = proof(None, Some(&format!("Bearer {good}"))).unwrap() else { panic!() };
    for bad in ["Bearer x", "Bearer ", "", "Basic dTpw", &good, &format!("Bearer {good}x"), &format!("Bearer {good}, Bearer {good}")] {
        assert_eq!(proof(Some(&peer), Some(bad)).unwrap_err().code(), Code::Unauthenticated, "{bad}");
    }
    let nothing = proof(None, None).unwrap_err();
    assert_eq!(nothing.code(), Code::Unauthenticated);
    assert!(nothing.public().contains("Bearer") && nothing.public().contains("certificate"));
}
