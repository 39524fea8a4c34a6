//! What a check says of an issuer's configuration.

use daypass::{
    authn::oidc::{
        Algorithm, IssuerConfig, KeySource, MAX_CLAIMS, MAX_JWKS_AGE, MAX_LEEWAY, MAX_MAX_TOKEN_AGE, PRESETS, TokenVerifier, faults,
        preset, warnings,
    },
    model::{
        SignedDuration,
        claim::{ClaimSpec, ClaimType},
    },
};

use super::tokens::{AUDIENCE, now};

fn sound() -> IssuerConfig {
    preset("github").unwrap().config("github".parse().unwrap(), None, vec![AUDIENCE.to_owned()]).unwrap()
}

fn claim(name: &str, path: &[&str]) -> ClaimSpec {
    ClaimSpec { name: name.to_owned(), path: path.iter().map(|part| (*part).to_owned()).collect(), ty: ClaimType::String, required: true }
}

#[test]
fn a_sound_configuration_has_none() {
    for name in PRESETS {
        let preset = preset(name).unwrap();
        let url = preset.url.is_none().then(|| "https://example.org/org/1".to_owned());
        let config = preset.config(name.parse().unwrap(), url, vec![AUDIENCE.to_owned()]).unwrap();
        assert_eq!(faults(&config), [""; 0], "{name}");
        assert_eq!(warnings(&config), [""; 0], "{name}");
    }
}

#[test]
fn each_fault_is_named() {
    type Change = Box<dyn Fn(&mut IssuerConfig)>;
    let cases: Vec<(&str, Change)> = vec![
        ("must be https", Box::new(|config| config.url = "http://token.actions.githubusercontent.com".into())),
        ("must be https", Box::new(|config| config.url = "http://127.0.0.1:80".into())),
        ("private or loopback", Box::new(|config| config.url = "https://127.0.0.1".into())),
        ("private or loopback", Box::new(|config| config.url = "https://10.1.2.3".into())),
        ("is no URL", Box::new(|config| config.url = "github".into())),
        ("query", Box::new(|config| config.url = "https://example.org?x".into())),
        ("audiences is empty", Box::new(|config| config.audiences.clear())),
        ("compared exactly", Box::new(|config| config.audiences.push(String::new()))),
        ("compared exactly", Box::new(|config| config.audiences.push("https://*.example.org".into()))),
        ("algorithms is empty", Box::new(|config| config.algorithms.clear())),
        ("key file is empty", Box::new(|config| config.keys = KeySource::File("".into()))),
        ("leeway", Box::new(|config| config.leeway = MAX_LEEWAY + SignedDuration::from_nanos(1))),
        ("leeway", Box::new(|config| config.leeway = SignedDuration::from_secs(-1))),
        ("max_token_age", Box::new(|config| config.max_token_age = SignedDuration::ZERO)),
        ("max_token_age", Box::new(|config| config.max_token_age = MAX_MAX_TOKEN_AGE + SignedDuration::from_secs(1))),
        ("jwks_max_age", Box::new(|config| config.jwks_max_age = SignedDuration::ZERO)),
        ("jwks_max_age", Box::new(|config| config.jwks_max_age = MAX_JWKS_AGE + SignedDuration::from_secs(1))),
        ("cannot stand in a policy", Box::new(|config| config.claims.push(claim("a-b", &["a"])))),
        ("cannot stand in a policy", Box::new(|config| config.claims.push(claim("", &["a"])))),
        ("cannot stand in a policy", Box::new(|config| config.claims.push(claim("1a", &["a"])))),
        ("cannot stand in a policy", Box::new(|config| config.claims.push(claim("like", &["a"])))),
        ("configured twice", Box::new(|config| config.claims.push(claim("ref", &["ref"])))),
        ("empty path", Box::new(|config| config.claims.push(claim("x", &[])))),
        ("empty path", Box::new(|config| config.claims.push(claim("x", &["a", ""])))),
        ("at most", Box::new(|config| config.claims.extend((0..MAX_CLAIMS).map(|i| claim(&format!("c{i}"), &["a"]))))),
        ("not PEM", Box::new(|config| config.ca_pem = Some(b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----".to_vec()))),
        ("no certificate", Box::new(|config| config.ca_pem = Some(Vec::new()))),
    ];
    for (why, change) in cases {
        let mut config = sound();
        change(&mut config);
        let found = faults(&config);
        assert!(found.iter().any(|fault| fault.contains(why)), "expected {why:?}, got {found:?}");
        let refused = TokenVerifier::new(vec![config], now()).map(|_| ()).unwrap_err();
        assert!(refused.cause().unwrap().contains("issuer github"), "{refused}");
        assert!(!refused.public().contains("github"), "{refused}");
    }
}

#[test]
fn all_faults_come_at_once_and_names_and_urls_stand_once() {
    let mut config = sound();
    config.url = "x".into();
    config.audiences.clear();
    config.algorithms.clear();
    assert_eq!(faults(&config).len(), 3);
    for change in [
        |config: &mut IssuerConfig| config.name = "other".parse().unwrap(),
        |config: &mut IssuerConfig| config.url = "https://other.example.org".into(),
    ] {
        let mut second = sound();
        change(&mut second);
        let error = TokenVerifier::new(vec![sound(), second], now()).map(|_| ()).unwrap_err();
        assert!(error.cause().unwrap().contains("same name or url"), "{error}");
    }
}

#[test]
fn a_default_audience_is_warned_of() {
    for (url, audience) in [
        ("https://token.actions.githubusercontent.com", "https://github.com/octo-org"),
        ("https://gitlab.com", "https://gitlab.com"),
        ("https://gitlab.com", "https://gitlab.com/"),
        ("https://k8s.example.org", "https://kubernetes.default.svc"),
        ("https://k8s.example.org", "https://kubernetes.default.svc.cluster.local"),
        ("https://k8s.example.org", "kubernetes.default.svc"),
        ("https://agent.buildkite.com", "https://buildkite.com/acme-inc"),
        ("https://oidc.circleci.com/org/1234", "1234"),
    ] {
        let config = IssuerConfig::new("x".parse().unwrap(), url, vec![audience.to_owned()], vec![Algorithm::Rs256]);
        assert_eq!(warnings(&config).len(), 1, "{url} {audience}");
        assert_eq!(faults(&config), [""; 0]);
    }
    for audience in ["https://github.com/octo-org/repo", "daypass", "https://daypass.example.org"] {
        let config = IssuerConfig::new(
            "x".parse().unwrap(),
            "https://token.actions.githubusercontent.com",
            vec![audience.to_owned()],
            vec![Algorithm::Rs256],
        );
        assert_eq!(warnings(&config), [""; 0], "{audience}");
    }
}
