//! An issuer that is slow, wrong, hostile, rotating or gone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use daypass::{
    authn::oidc::{Algorithm, FETCH_TIMEOUT, FETCHES_PER_MINUTE, IssuerConfig, MAX_BODY, MAX_KEYS, REFRESH_AFTER, TokenVerifier},
    model::{
        SignedDuration, Timestamp,
        error::{Code, Error},
    },
};
use futures::{FutureExt, future::join_all};
use serde_json::{Value, json};

use super::{
    certs::{self, Authority},
    fake_issuer::{Answer, FakeIssuer},
    jose::keys,
    tokens::{AUDIENCE, now},
};

fn seconds(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

fn config(url: &str) -> IssuerConfig {
    let mut config = IssuerConfig::new("fake".parse().unwrap(), url, vec![AUDIENCE.to_owned()], vec![Algorithm::Rs256]);
    config.allow_private_network = true;
    config.max_token_age = SignedDuration::from_hours(24);
    config
}

fn verifier(issuer: &FakeIssuer) -> Arc<TokenVerifier> {
    Arc::new(TokenVerifier::new(vec![config(&issuer.url)], now()).unwrap())
}

fn main_keys() -> Value {
    json!({"keys": [keys().main.named("main", "RS256")]})
}

fn payload(url: &str) -> Value {
    let start = now().as_second();
    json!({"iss": url, "aud": AUDIENCE, "sub": "s", "iat": start, "exp": start + 20 * 3600})
}

fn token(url: &str) -> String {
    keys().main.token(&json!({"alg": "RS256", "kid": "main"}), &payload(url))
}

fn token_of_unknown_key(url: &str, kid: usize) -> String {
    keys().attacker.token(&json!({"alg": "RS256", "kid": format!("unknown-{kid}")}), &payload(url))
}

/// Waits until `met`, at most 5 s.
async fn eventually(what: &str, mut met: impl FnMut() -> bool) {
    let start = Instant::now();
    while !met() {
        assert!(start.elapsed() < Duration::from_secs(5), "{what} did not come to pass");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn discovery_is_followed_and_its_keys_are_kept() {
    let issuer = FakeIssuer::http(main_keys()).await;
    let verifier = verifier(&issuer);
    assert_eq!(verifier.key_age(now()), [("fake".parse().unwrap(), None)]);
    for _ in 0..50 {
        verifier.verify(&token(&issuer.url), now()).await.unwrap();
    }
    assert_eq!(issuer.asked(), (1, 1));
    assert_eq!(verifier.key_age(now() + seconds(7))[0].1, Some(seconds(7)));
}

#[tokio::test]
async fn prefetch_has_the_keys_ready_and_names_who_failed() {
    let issuer = FakeIssuer::http(main_keys()).await;
    let verifier = verifier(&issuer);
    assert!(verifier.prefetch(now()).await.is_empty());
    issuer.discovery(Answer::Hang);
    verifier.verify(&token(&issuer.url), now()).await.unwrap();
    assert_eq!(issuer.asked(), (1, 1));

    let down = FakeIssuer::http(main_keys()).await;
    down.discovery(Answer::Status(500));
    let failed = self::verifier(&down).prefetch(now()).await;
    assert_eq!(failed.len(), 1);
    assert!(failed[0].1.contains("500"), "{failed:?}");
}

#[tokio::test]
async fn https_is_verified_against_the_configured_ca() {
    let ca = Authority::new("issuer CA");
    let issuer = FakeIssuer::https(main_keys(), certs::acceptor(&ca)).await;
    let verify = async |ca_pem| {
        let mut config = config(&issuer.url);
        config.ca_pem = Some(ca_pem);
        TokenVerifier::new(vec![config], now()).unwrap().verify(&token(&issuer.url), now()).await
    };
    verify(ca.pem().into_bytes()).await.unwrap();
    let error = verify(Authority::new("issuer CA").pem().into_bytes()).await.unwrap_err();
    assert_eq!(error.code(), Code::IssuerUnavailable);
    assert!(error.cause().unwrap().contains("certificate"), "{error}");
}

/// What the verifier says to a good token when discovery and key set answer so.
async fn verdict(discovery: impl FnOnce(&str) -> Answer, jwks: Answer) -> Error {
    let issuer = FakeIssuer::http(main_keys()).await;
    issuer.discovery(discovery(&issuer.url));
    issuer.jwks(jwks);
    let start = Instant::now();
    let error = verifier(&issuer).verify(&token(&issuer.url), now()).await.unwrap_err();
    assert!(start.elapsed() < FETCH_TIMEOUT + Duration::from_secs(2), "it took {:?}", start.elapsed());
    error
}

#[tokio::test]
async fn a_bad_discovery_document_gives_no_keys() {
    fn document(value: &Value) -> Answer {
        Answer::Body(value.to_string().into_bytes())
    }
    let jwks_uri = |url: &str| format!("{url}/keys");
    type Make = Box<dyn Fn(&str) -> Answer>;
    let cases: Vec<(&str, Make, &str)> = vec![
        (
            "another issuer",
            Box::new(move |url| document(&json!({"issuer": "https://other.example.org", "jwks_uri": jwks_uri(url)}))),
            "not for the issuer",
        ),
        (
            "issuer with a slash",
            Box::new(move |url| document(&json!({"issuer": format!("{url}/"), "jwks_uri": jwks_uri(url)}))),
            "not for the issuer",
        ),
        ("issuer missing", Box::new(move |url| document(&json!({"jwks_uri": jwks_uri(url)}))), "not for the issuer"),
        ("issuer a list", Box::new(move |url| document(&json!({"issuer": [url], "jwks_uri": jwks_uri(url)}))), "not for the issuer"),
        (
            "issuer twice",
            Box::new(move |url| Answer::Body(format!(r#"{{"issuer":"{url}","issuer":"{url}","jwks_uri":"{url}/keys"}}"#).into_bytes())),
            "twice",
        ),
        ("no jwks_uri", Box::new(move |url| document(&json!({"issuer": url}))), "no jwks_uri"),
        (
            "jwks_uri over http elsewhere",
            Box::new(move |url| document(&json!({"issuer": url, "jwks_uri": "http://example.org/keys"}))),
            "must be https",
        ),
        ("jwks_uri a file", Box::new(move |url| document(&json!({"issuer": url, "jwks_uri": "file:///etc/passwd"}))), "no host"),
        ("jwks_uri with a user", Box::new(move |url| document(&json!({"issuer": url, "jwks_uri": "https://u:p@127.0.0.1/"}))), "user"),
        ("a redirect", Box::new(move |url| Answer::Redirect(format!("{url}/elsewhere"))), "redirects"),
        ("a redirect to itself", Box::new(move |url| Answer::Redirect(format!("{url}/.well-known/openid-configuration"))), "redirects"),
        ("not JSON", Box::new(|_| Answer::Body(b"<html>".to_vec())), "not valid JSON"),
        ("empty", Box::new(|_| Answer::Body(Vec::new())), "not valid JSON"),
        ("not UTF-8", Box::new(|_| Answer::Body(vec![0xff, 0xfe])), "not UTF-8"),
        ("nested deep", Box::new(|_| Answer::Body("[".repeat(100_000).into_bytes())), "too deep"),
        ("oversized", Box::new(|_| Answer::Body(vec![b' '; MAX_BODY + 1])), "longer than"),
        ("oversized, unannounced", Box::new(|_| Answer::Chunked(vec![b' '; MAX_BODY * 4])), "longer than"),
        ("status 500", Box::new(|_| Answer::Status(500)), "status 500"),
        ("status 404", Box::new(|_| Answer::Status(404)), "status 404"),
        ("status 204", Box::new(|_| Answer::Status(204)), "status 204"),
    ];
    for (name, make, why) in cases {
        let error = verdict(make, Answer::Right).await;
        assert_eq!(error.code(), Code::IssuerUnavailable, "{name}: {error}");
        assert!(error.cause().is_some_and(|cause| cause.contains(why)), "{name}: {error}");
        assert!(!error.public().contains("127.0.0.1"), "{name}: the caller learns of the inside: {error}");
    }
}

#[tokio::test]
async fn a_bad_key_set_gives_no_keys() {
    let body = |value: Value| Answer::Body(value.to_string().into_bytes());
    let main = keys().main.named("main", "RS256");
    let with = |name: &str, value: Value| {
        let mut key = keys().main.named("main", "RS256");
        key[name] = value;
        json!({"keys": [key]})
    };
    let cases = [
        ("empty", body(json!({"keys": []})), "no key that can verify"),
        ("no keys member", body(json!({})), "no array"),
        ("keys an object", body(json!({"keys": {"main": main}})), "no array"),
        ("an entry that is no object", body(json!({"keys": [1]})), "not an object"),
        ("duplicate kid", body(json!({"keys": [main, keys().second.named("main", "RS256")]})), "same kid"),
        ("the same key twice", body(json!({"keys": [main, main]})), "same kid"),
        ("too many", body(json!({"keys": vec![json!({"kty": "x"}); MAX_KEYS + 1]})), "at most"),
        ("for encryption", body(with("use", json!("enc"))), "not for signatures"),
        ("use a number", body(with("use", json!(1))), "wrong type"),
        ("not for verifying", body(with("key_ops", json!(["sign", "wrapKey"]))), "not for verifying"),
        ("of another alg", body(with("alg", json!("RS512"))), "not configured"),
        ("of an alg that does not fit", body(with("alg", json!("ES256"))), "does not fit"),
        ("with its private part", body(with("d", json!("AQAB"))), "private"),
        ("symmetric", body(json!({"keys": [{"kty": "oct", "kid": "main", "k": "c2VjcmV0"}]})), "symmetric"),
        ("under 2048 bits", body(json!({"keys": [keys().weak.named("main", "RS256")]})), "shorter than 2048"),
        (
            "with a padded small modulus",
            body(
                json!({"keys": [{"kty": "RSA", "kid": "main", "e": "AQAB", "n": super::jose::b64([vec![0; 256], vec![1; 100]].concat())}]}),
            ),
            "shorter than 2048",
        ),
        ("with exponent 1", body(with("e", json!("AQ"))), "not a valid RSA key"),
        ("with exponent 2", body(with("e", json!("Ag"))), "not a valid RSA key"),
        ("with a modulus that is not base64url", body(with("n", json!("+/+/"))), "not base64url"),
        ("without a modulus", body(with("n", json!(null))), "missing"),
        (
            "EC off its curve",
            body(
                json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "main", "x": super::jose::b64([1; 32]), "y": super::jose::b64([1; 32])}]}),
            ),
            "no point",
        ),
        (
            "EC with short coordinates",
            body(json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "main", "x": "AQ", "y": "AQ"}]})),
            "length",
        ),
        ("a member twice", Answer::Body(format!(r#"{{"keys":[{main}],"keys":[]}}"#).into_bytes()), "twice"),
        ("a redirect", Answer::Redirect("http://127.0.0.1:1/keys".into()), "redirects"),
        ("oversized", Answer::Chunked(vec![b' '; MAX_BODY + 1]), "longer than"),
        ("status 503", Answer::Status(503), "status 503"),
    ];
    for (name, jwks, why) in cases {
        let error = verdict(|_| Answer::Right, jwks).await;
        assert_eq!(error.code(), Code::IssuerUnavailable, "{name}: {error}");
        assert!(error.cause().is_some_and(|cause| cause.contains(why)), "{name}: {error}");
    }
}

#[tokio::test]
async fn a_hanging_issuer_costs_three_seconds_at_most() {
    let verdicts = [
        verdict(|_| Answer::Hang, Answer::Right).boxed_local(),
        verdict(|_| Answer::Stall, Answer::Right).boxed_local(),
        verdict(|_| Answer::Right, Answer::Hang).boxed_local(),
        verdict(|_| Answer::Right, Answer::Stall).boxed_local(),
    ];
    for error in join_all(verdicts).await {
        assert_eq!(error.code(), Code::IssuerUnavailable, "{error}");
    }
}

#[tokio::test]
async fn rotated_keys_are_found_and_withdrawn_keys_are_dropped() {
    let issuer = FakeIssuer::http(main_keys()).await;
    let verifier = verifier(&issuer);
    verifier.verify(&token(&issuer.url), now()).await.unwrap();
    issuer.keys(json!({"keys": [keys().second.named("new", "RS256")]}));
    let rotated = keys().second.token(&json!({"alg": "RS256", "kid": "new"}), &payload(&issuer.url));
    verifier.verify(&rotated, now()).await.unwrap();
    let withdrawn = verifier.verify(&token(&issuer.url), now()).await.unwrap_err();
    assert_eq!(withdrawn.code(), Code::Unauthenticated, "{withdrawn}");
}

#[tokio::test]
async fn a_flood_of_unknown_keys_is_three_fetches_a_minute_and_evicts_nothing() {
    let issuer = FakeIssuer::http(main_keys()).await;
    let verifier = verifier(&issuer);
    let good = token(&issuer.url);
    let floods: Vec<String> = (0..40).map(|kid| token_of_unknown_key(&issuer.url, kid)).collect();
    for minute in 0..3 {
        for second in [0, 1, 2, 30, 59] {
            let now = now() + seconds(minute * 60 + second);
            let verdicts = join_all(floods.iter().map(|token| verifier.verify(token, now))).await;
            assert!(verdicts.into_iter().all(|verdict| verdict.unwrap_err().code() == Code::Unauthenticated));
            verifier.verify(&good, now).await.unwrap();
        }
        let most = FETCHES_PER_MINUTE * (usize::try_from(minute).unwrap() + 1);
        let (discoveries, key_sets) = issuer.asked();
        assert!(discoveries <= most && key_sets <= most, "minute {minute}: {discoveries} and {key_sets} fetches");
        assert!(key_sets > most - FETCHES_PER_MINUTE, "a flood must not stop fetching for good");
    }
    // A miss that finds the issuer broken evicts nothing either.
    issuer.jwks(Answer::Body(br#"{"keys":[]}"#.to_vec()));
    let later = now() + seconds(300);
    assert_eq!(verifier.verify(&floods[0], later).await.unwrap_err().code(), Code::IssuerUnavailable);
    verifier.verify(&good, later).await.unwrap();
}

/// A reload that changes one issuer, while the server of the other is down.
#[tokio::test]
async fn a_changed_issuer_leaves_the_others_their_keys_and_their_budget() {
    let (steady, edited) = (FakeIssuer::http(main_keys()).await, FakeIssuer::http(main_keys()).await);
    let named = |name: &str, url: &str| IssuerConfig { name: name.parse().unwrap(), ..config(url) };
    let (one, mut two) = (named("steady", &steady.url), named("edited", &edited.url));
    let before = TokenVerifier::new(vec![one.clone(), two.clone()], now()).unwrap();
    assert!(before.prefetch(now()).await.is_empty());
    assert_eq!((steady.asked(), edited.asked()), ((1, 1), (1, 1)));

    steady.discovery(Answer::Status(500));
    two.leeway = seconds(20);
    let after = before.renewed(vec![one.clone(), two.clone()], now()).unwrap();
    after.verify(&token(&steady.url), now()).await.unwrap();
    assert_eq!(steady.asked(), (1, 1), "its keys were there");
    after.verify(&token(&edited.url), now()).await.unwrap();
    assert_eq!(edited.asked(), (2, 2), "what changed is fetched anew");

    // Reload upon reload within the minute: the issuer that is down is asked no more often than without them.
    let mut verifier = after;
    for round in 0..10 {
        let _fails = verifier.verify(&token_of_unknown_key(&steady.url, round), now()).await.unwrap_err();
        two.leeway = seconds(i64::try_from(round).unwrap());
        verifier = verifier.renewed(vec![one.clone(), two.clone()], now()).unwrap();
        verifier.verify(&token(&steady.url), now()).await.unwrap();
    }
    assert_eq!(steady.asked().0, FETCHES_PER_MINUTE);

    // An issuer that is changed, renamed or moved to another URL has none of the old keys.
    let renamed = verifier.renewed(vec![named("other", &steady.url)], now()).unwrap();
    assert_eq!(renamed.verify(&token(&steady.url), now()).await.unwrap_err().code(), Code::IssuerUnavailable);
    // And one that is gone is gone.
    let none = verifier.renewed(vec![two], now()).unwrap();
    assert_eq!(none.verify(&token(&steady.url), now()).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn known_keys_serve_while_a_fetch_hangs() {
    let issuer = FakeIssuer::http(main_keys()).await;
    let verifier = verifier(&issuer);
    verifier.verify(&token(&issuer.url), now()).await.unwrap();
    issuer.discovery(Answer::Hang);
    let unknown = token_of_unknown_key(&issuer.url, 1);
    let (waiting, asking) = (verifier.clone(), now());
    let hung = tokio::spawn(async move { waiting.verify(&unknown, asking).await });
    eventually("the fetch", || issuer.asked().0 == 2).await;
    let start = Instant::now();
    for _ in 0..20 {
        verifier.verify(&token(&issuer.url), now()).await.unwrap();
    }
    assert!(start.elapsed() < Duration::from_secs(1), "known keys waited {:?}", start.elapsed());
    assert!(!hung.is_finished());
    assert_eq!(hung.await.unwrap().unwrap_err().code(), Code::IssuerUnavailable);
}

#[tokio::test]
async fn a_hundred_at_once_make_one_fetch() {
    let issuer = FakeIssuer::http(main_keys()).await;
    let verifier = verifier(&issuer);
    let good = token(&issuer.url);
    let verdicts = join_all((0..100).map(|_| verifier.verify(&good, now()))).await;
    assert!(verdicts.iter().all(Result::is_ok));
    assert_eq!(issuer.asked(), (1, 1));

    // And when it fails, all hundred learn of the one failure.
    let down = FakeIssuer::http(main_keys()).await;
    down.discovery(Answer::Status(500));
    let verifier = self::verifier(&down);
    let good = token(&down.url);
    let verdicts = join_all((0..100).map(|_| verifier.verify(&good, now()))).await;
    assert!(verdicts.iter().all(|verdict| verdict.as_ref().unwrap_err().code() == Code::IssuerUnavailable));
    assert!(down.asked().0 <= FETCHES_PER_MINUTE, "{:?}", down.asked());
}

#[tokio::test]
async fn a_caller_who_goes_away_ends_nobody_elses_wait() {
    let issuer = FakeIssuer::http(main_keys()).await;
    issuer.discovery(Answer::Hang);
    let verifier = verifier(&issuer);
    let good = token(&issuer.url);
    let first = tokio::time::timeout(Duration::from_millis(50), verifier.verify(&good, now())).await;
    assert!(first.is_err(), "the issuer hangs, so the first caller gives up");
    issuer.discovery(Answer::Right);
    assert_eq!(verifier.verify(&good, now()).await.unwrap_err().code(), Code::IssuerUnavailable, "joins the fetch that hangs");
    verifier.verify(&good, now()).await.unwrap();
}

#[tokio::test]
async fn stale_keys_are_refreshed_behind_the_callers() {
    let issuer = FakeIssuer::http(main_keys()).await;
    let verifier = verifier(&issuer);
    verifier.verify(&token(&issuer.url), now()).await.unwrap();
    let stale = now() + REFRESH_AFTER;
    verifier.verify(&token(&issuer.url), stale - seconds(1)).await.unwrap();
    assert_eq!(issuer.asked(), (1, 1));
    verifier.verify(&token(&issuer.url), stale).await.unwrap();
    eventually("the refresh", || verifier.key_age(stale)[0].1 == Some(SignedDuration::ZERO)).await;
    assert_eq!(issuer.asked(), (2, 2));
}

#[tokio::test]
async fn cached_keys_serve_a_dead_issuer_up_to_their_age_and_no_longer() {
    let issuer = FakeIssuer::http(main_keys()).await;
    let mut config = config(&issuer.url);
    config.jwks_max_age = SignedDuration::from_hours(2);
    let verifier = TokenVerifier::new(vec![config], now()).unwrap();
    let good = token(&issuer.url);
    verifier.verify(&good, now()).await.unwrap();
    issuer.discovery(Answer::Status(503));
    let verify = async |after: SignedDuration| verifier.verify(&good, now() + after).await.map_err(|error| error.code());
    for minutes in [1, 6, 60, 119, 120] {
        assert!(verify(SignedDuration::from_mins(minutes)).await.is_ok(), "after {minutes} minutes");
    }
    assert_eq!(verify(seconds(2 * 3600 + 1)).await.unwrap_err(), Code::IssuerUnavailable);
    assert_eq!(verify(SignedDuration::from_hours(3)).await.unwrap_err(), Code::IssuerUnavailable);
    issuer.discovery(Answer::Right);
    assert!(verify(SignedDuration::from_hours(4)).await.is_ok(), "it is taken up again");
}

#[tokio::test]
async fn a_clock_that_jumps_back_does_not_lock_the_issuer_out() {
    let issuer = FakeIssuer::http(main_keys()).await;
    let verifier = verifier(&issuer);
    for kid in 0..5 {
        let _ = verifier.verify(&token_of_unknown_key(&issuer.url, kid), now() + SignedDuration::from_hours(2)).await;
    }
    assert_eq!(issuer.asked(), (FETCHES_PER_MINUTE, FETCHES_PER_MINUTE));
    issuer.keys(json!({"keys": [keys().second.named("new", "RS256")]}));
    let rotated = keys().second.token(&json!({"alg": "RS256", "kid": "new"}), &payload(&issuer.url));
    verifier.verify(&rotated, now()).await.unwrap();
}

#[tokio::test]
async fn a_private_address_is_not_connected_to_unless_configured() {
    let issuer = FakeIssuer::http(main_keys()).await;
    let port = issuer.url.rsplit_once(':').unwrap().1;
    // Written out, the address is a fault of the configuration.
    let mut written = config(&issuer.url);
    written.allow_private_network = false;
    assert!(TokenVerifier::new(vec![written], now()).is_err());
    // As a name it is found out when it resolves; "localhost." is a name that is no special case to the URL check.
    let url = format!("https://localhost.:{port}");
    let mut named = config(&url);
    named.allow_private_network = false;
    let verifier = TokenVerifier::new(vec![named], now()).unwrap();
    let error = verifier.verify(&token(&url), now()).await.unwrap_err();
    assert_eq!(error.code(), Code::IssuerUnavailable, "{error}");
    assert_eq!(issuer.asked(), (0, 0));
}

#[tokio::test]
async fn an_issuer_that_is_not_configured_is_never_fetched() {
    let (configured, stranger) = (FakeIssuer::http(main_keys()).await, FakeIssuer::http(main_keys()).await);
    let verifier = verifier(&configured);
    for _ in 0..5 {
        let error = verifier.verify(&token(&stranger.url), Timestamp::UNIX_EPOCH).await.unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated);
    }
    assert_eq!((configured.asked(), stranger.asked()), ((0, 0), (0, 0)));
}
