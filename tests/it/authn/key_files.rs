//! Keys in a file: read again when it changes, kept when the new one is bad.

use std::time::{Duration, Instant};

use daypass::{
    authn::oidc::{Algorithm, FILE_CHECK_INTERVAL, IssuerConfig, KeySource, MAX_BODY, TokenVerifier},
    model::{SignedDuration, Timestamp, error::Code},
};
use serde_json::{Value, json};

use super::{
    jose::{Signer, keys},
    tokens::{AUDIENCE, now, write_keys},
};

const URL: &str = "https://file.example.org";

fn config(path: &std::path::Path) -> IssuerConfig {
    let mut config = IssuerConfig::new("file".parse().unwrap(), URL, vec![AUDIENCE.to_owned()], vec![Algorithm::Rs256]);
    config.keys = KeySource::File(path.to_owned());
    config
}

fn token(signer: &Signer, kid: &str) -> String {
    let start = now().as_second();
    signer.token(&json!({"alg": "RS256", "kid": kid}), &json!({"iss": URL, "aud": AUDIENCE, "sub": "s", "iat": start, "exp": start + 3000}))
}

fn set(kid: &str, signer: &Signer) -> Value {
    json!({"keys": [signer.named(kid, "RS256")]})
}

/// Replaces a file as a careful writer does, so that its time or length differs.
fn replace(path: &std::path::Path, text: &str) {
    let before = std::fs::metadata(path).unwrap();
    std::fs::write(path, text).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(before.modified().unwrap() + Duration::from_secs(1)).unwrap();
}

#[tokio::test]
async fn a_changed_file_is_read_within_a_second_and_a_bad_one_changes_nothing() {
    let file = write_keys(&set("one", &keys().main));
    let verifier = TokenVerifier::new(vec![config(file.path())], now()).unwrap();
    let (one, two) = (token(&keys().main, "one"), token(&keys().second, "two"));
    let at = |checks: i32| now() + FILE_CHECK_INTERVAL * checks;
    verifier.verify(&one, now()).await.unwrap();

    // A key that is not known is looked for in the file at once; then not again within the second.
    replace(file.path(), &set("two", &keys().second).to_string());
    verifier.verify(&two, now()).await.unwrap();
    replace(file.path(), &set("one", &keys().main).to_string());
    assert_eq!(verifier.verify(&one, now()).await.unwrap_err().code(), Code::Unauthenticated);
    verifier.verify(&one, at(1)).await.unwrap();

    // A broken file and no file at all leave the keys as they are.
    replace(file.path(), "{broken");
    assert_eq!(verifier.verify(&two, at(2)).await.unwrap_err().code(), Code::IssuerUnavailable, "who knows what the file would say");
    verifier.verify(&one, at(2)).await.unwrap();
    std::fs::remove_file(file.path()).unwrap();
    assert_eq!(verifier.verify(&two, at(3)).await.unwrap_err().code(), Code::IssuerUnavailable);
    verifier.verify(&one, at(3)).await.unwrap();
    std::fs::write(file.path(), set("two", &keys().second).to_string()).unwrap();
    verifier.verify(&two, at(4)).await.unwrap();
}

#[tokio::test]
async fn a_known_key_never_waits_for_the_file_and_the_change_comes_by_itself() {
    let file = write_keys(&set("one", &keys().main));
    let verifier = TokenVerifier::new(vec![config(file.path())], now()).unwrap();
    let one = token(&keys().main, "one");
    replace(file.path(), &set("two", &keys().second).to_string());
    let start = Instant::now();
    let mut later: Timestamp = now();
    while verifier.verify(&one, later).await.is_ok() {
        assert!(start.elapsed() < Duration::from_secs(5), "the withdrawn key is still taken");
        later += SignedDuration::from_secs(1);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(verifier.key_age(later)[0].1.is_some());
}

#[test]
fn a_file_that_cannot_be_used_is_a_fault_at_load() {
    let fault = |path: &std::path::Path| TokenVerifier::new(vec![config(path)], now()).map(|_| ()).unwrap_err().to_string();
    assert!(fault(std::path::Path::new("/nonexistent/keys.json")).contains("cannot be read"));
    assert!(fault(tempfile::tempdir().unwrap().path()).contains("is no file"));
    for (text, why) in
        [("", "not valid JSON"), ("{}", "no array"), (r#"{"keys":[]}"#, "no key"), (&" ".repeat(MAX_BODY + 1), "longer than")]
    {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        assert!(fault(file.path()).contains(why), "{}", fault(file.path()));
    }
}
