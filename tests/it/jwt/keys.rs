//! Keys: made in time, shared between servers, kept for as long as anybody needs them, refused when they are bad.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use daypass::{
    issuer::{
        TokenSigner,
        jwt::{JwtConfig, JwtIssuer, KeyRing, KeyRingOptions, MAX_KEYS, MAX_TOKEN_LIFE, RETIRE_MARGIN, SigningAlgorithm},
    },
    model::{SignedDuration, Timestamp, error::Code, secret::Secret},
};
use jsonwebtoken::{DecodingKey, Validation, jwk::JwkSet};
use serde_json::{Map, Value, json};

use super::world::{ISSUER, options, parts};

const START: &str = "2027-01-15T08:00:00Z";

fn start() -> Timestamp {
    START.parse().unwrap()
}

fn seconds(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

/// A server over a directory of keys.
fn server(options: KeyRingOptions, now: Timestamp) -> JwtIssuer {
    let ring = KeyRing::open(options, now).unwrap();
    JwtIssuer::new(JwtConfig { issuer: ISSUER.to_owned(), ring, claims: Vec::new() }).unwrap()
}

fn sign(server: &JwtIssuer, life: SignedDuration, now: Timestamp) -> daypass::model::error::Result<Secret> {
    let claims: Map<String, Value> = Map::from_iter([
        ("sub".to_owned(), json!("s")),
        ("aud".to_owned(), json!("a")),
        ("exp".to_owned(), json!((now + life).as_second())),
    ]);
    server.sign(claims, now)
}

/// Verifies by another library, with a key set from any time; times are the test's own.
fn verifies(token: &str, jwks: &str) -> bool {
    let set: JwkSet = serde_json::from_str(jwks).unwrap();
    let header = jsonwebtoken::decode_header(token).unwrap();
    let Some(jwk) = set.find(header.kid.as_deref().unwrap()) else { return false };
    let mut validation = Validation::new(header.alg);
    validation.set_audience(&["a"]);
    validation.set_issuer(&[ISSUER]);
    validation.validate_exp = false;
    jsonwebtoken::decode::<Value>(token, &DecodingKey::from_jwk(jwk).unwrap(), &validation).is_ok()
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_first_key_signs_at_once_and_is_nobody_elses_to_read() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(options(dir.path()), start());
    assert_eq!(sign(&server, seconds(60), start()).unwrap_err().code(), Code::IssuerUnavailable, "there is no key yet");
    assert!(!dir.path().join("keys").exists(), "reading makes nothing");
    let ring = server.ring().unwrap();
    assert!(ring.rotate(start()).unwrap().created);
    assert!(!ring.rotate(start()).unwrap().created);
    let token = sign(&server, seconds(60), start()).unwrap();
    assert!(verifies(token.expose(), &server.jwks(start()).unwrap().body));
    assert_eq!(files(&dir.path().join("keys")), ["000001.pem"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&dir.path().join("keys")), mode(&dir.path().join("keys/000001.pem"))), (0o700, 0o600));
    // Another ring over the same files is the same ring.
    let other = self::server(options(dir.path()), start());
    assert_eq!(other.jwks(start()), server.jwks(start()));
}

/// A year with two servers whose passes do not run together, a relying party that fetches from either and caches for as long as it
/// may, and tokens of every life.
#[test]
fn a_cached_key_set_verifies_every_token_for_as_long_as_it_lives() {
    let dir = tempfile::tempdir().unwrap();
    let rules = KeyRingOptions { rotate_every: seconds(3 * 86_400), publish_ahead: seconds(4 * 3600), ..options(dir.path()) };
    let servers = [server(rules.clone(), start()), server(rules, start())];
    for server in &servers {
        server.ring().unwrap().rotate(start()).unwrap();
    }
    let (mut cache, mut until) = (String::new(), Timestamp::MIN);
    let mut living: Vec<(Secret, Timestamp)> = Vec::new();
    let (mut kids, mut made, mut deleted) = (std::collections::BTreeSet::new(), 1, 0);
    for step in 0_i64..3000 {
        let now = start() + seconds(step * 1787);
        let (this, that) = (&servers[usize::try_from(step % 2).unwrap()], &servers[usize::try_from((step / 3) % 2).unwrap()]);
        made += usize::from(this.ring().unwrap().rotate(now).unwrap().created);
        deleted += this.ring().unwrap().prune(now).unwrap().deleted;
        if now >= until {
            let document = that.jwks(now).unwrap();
            (cache, until) = (document.body, now + seconds(document.max_age.into()));
        }
        let life = seconds([60, 900, 3600, 43_200, 86_400][usize::try_from(step % 5).unwrap()]);
        for server in &servers {
            let token = sign(server, life, now).unwrap();
            assert!(verifies(token.expose(), &cache), "step {step}: a key signs that a cache does not have");
            kids.insert(parts(token.expose()).0["kid"].to_string());
            living.push((token, now + life));
        }
        living.retain(|(_, expires_at)| *expires_at > now);
        for (token, _) in living.iter().step_by(7) {
            assert!(verifies(token.expose(), &cache), "step {step}: a token has outlived its key");
        }
    }
    // 62 days in turns of three.
    assert_eq!((made, kids.len()), (21, 21));
    assert!((18..=20).contains(&deleted), "{deleted}");
    assert_eq!(files(&dir.path().join("keys")).len(), made - deleted);
}

#[test]
fn a_retired_key_stays_for_as_long_as_the_longest_token() {
    let dir = tempfile::tempdir().unwrap();
    let rules = options(dir.path());
    let (turn, ahead) = (rules.rotate_every, rules.publish_ahead);
    let server = server(rules, start());
    let ring = server.ring().unwrap();
    ring.rotate(start()).unwrap();
    let due = start() + turn - ahead;
    assert!(!ring.rotate(due - seconds(2)).unwrap().created);
    assert!(ring.rotate(due).unwrap().created);
    let kid = |now| parts(sign(&server, seconds(60), now).unwrap().expose()).0["kid"].clone();
    let published = |now| server.jwks(now).unwrap().body.matches("\"kid\"").count();
    let (first, signs_from) = (kid(due), due + ahead + seconds(1));
    assert_eq!(published(due), 2);
    ring.refresh(signs_from).unwrap();
    assert_eq!(kid(signs_from - seconds(1)), first);
    assert_ne!(kid(signs_from), first);
    let dead = signs_from + MAX_TOKEN_LIFE + RETIRE_MARGIN;
    assert_eq!((ring.prune(dead).unwrap().deleted, published(dead)), (0, 2));
    assert_eq!((ring.prune(dead + seconds(1)).unwrap().deleted, published(dead + seconds(1))), (1, 1));
    assert_eq!(files(&dir.path().join("keys")), ["000002.pem"]);
}

#[test]
fn servers_that_are_due_at_once_make_one_key() {
    let dir = tempfile::tempdir().unwrap();
    let turn = options(dir.path()).rotate_every;
    for (round, now) in [(1, start()), (2, start() + turn)] {
        let servers: Vec<JwtIssuer> = (0..8).map(|_| server(options(dir.path()), now)).collect();
        let made: usize = std::thread::scope(|scope| {
            let turns: Vec<_> = servers.iter().map(|server| scope.spawn(move || server.ring().unwrap().rotate(now).unwrap())).collect();
            turns.into_iter().map(|turn| usize::from(turn.join().unwrap().created)).sum()
        });
        assert_eq!((made, files(&dir.path().join("keys")).len()), (1, round));
        for server in &servers {
            server.ring().unwrap().refresh(now).unwrap();
            assert_eq!(server.jwks(now), servers[0].jwks(now));
        }
    }
}

#[test]
fn another_algorithm_takes_over_after_it_was_published() {
    let dir = tempfile::tempdir().unwrap();
    server(options(dir.path()), start()).ring().unwrap().rotate(start()).unwrap();
    let now = start() + seconds(10);
    let server = server(KeyRingOptions { algorithm: SigningAlgorithm::Rs256, ..options(dir.path()) }, now);
    assert!(server.ring().unwrap().rotate(now).unwrap().created);
    assert!(!server.ring().unwrap().rotate(now).unwrap().created);
    let alg = |now| {
        server.ring().unwrap().refresh(now).unwrap();
        let token = sign(&server, seconds(60), now).unwrap();
        assert!(verifies(token.expose(), &server.jwks(now).unwrap().body));
        parts(token.expose()).0["alg"].clone()
    };
    assert_eq!(alg(now), "ES256");
    assert_eq!(alg(now + options(dir.path()).publish_ahead + seconds(1)), "RS256");
    assert!(server.discovery().unwrap().body.contains(r#""id_token_signing_alg_values_supported":["ES256","RS256"]"#));
}

#[test]
fn bad_files_are_named_and_what_serves_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    let server = server(options(dir.path()), start());
    let ring = server.ring().unwrap();
    ring.rotate(start()).unwrap();
    let good = fs::read_to_string(keys.join("000001.pem")).unwrap();
    let line = |from: &str| good.lines().find(|line| line.starts_with(from)).unwrap().to_owned();
    let write = |name: &str, text: &str, mode: u32| {
        fs::write(keys.join(name), text).unwrap();
        fs::set_permissions(keys.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    for (text, mode, says) in [
        (good.clone(), 0o644, "everybody on this machine may touch it"),
        (good.clone(), 0o660, "its group may write it"),
        (good.clone(), 0o600, "another file holds the same key"),
        (String::new(), 0o600, "published-at"),
        (good.replace("published-at", "made-at"), 0o600, "published-at"),
        (good.replace(&line("signs-from"), "signs-from: soon"), 0o600, "published-at and signs-from"),
        (good.replace(&line("signs-from"), "signs-from: 2026-01-01T00:00:00Z"), 0o600, "before its published-at"),
        (good.replace(&line("signs-from"), "signs-from: 2028-01-01T00:00:00Z"), 0o600, "more than two weeks"),
        (good.replace("PRIVATE KEY", "EC PRIVATE KEY"), 0o600, "no PKCS #8 key in PEM"),
        (good[..good.len() - 60].to_owned(), 0o600, "no PKCS #8 key"),
        (format!("{good}{}", "x".repeat(20_000)), 0o600, "larger than 16384 bytes"),
    ] {
        write("000002.pem", &text, mode);
        let fault = KeyRing::open(options(dir.path()), start()).err().expect(says);
        assert!(fault.contains("000002.pem") && fault.contains(says), "{fault}");
        let refused = ring.rotate(start()).unwrap_err();
        assert_eq!(refused.code(), Code::IssuerUnavailable);
        assert!(!refused.public().contains("pem"), "{refused}");
        assert!(!refused.to_string().contains(good.lines().nth(4).unwrap()), "an error quotes a key");
        sign(&server, seconds(60), start()).unwrap();
        fs::remove_file(keys.join("000002.pem")).unwrap();
    }
    // Other names are nobody's business.
    for name in ["000002.pem.bak", "2.pem", "0000003.pem", "+00004.pem", "README", ".000007.pem.0123.tmp"] {
        write(name, "x", 0o644);
    }
    ring.rotate(start()).unwrap();
    for at in 2..=MAX_KEYS + 1 {
        write(&format!("{at:06}.pem"), "x", 0o600);
    }
    assert!(KeyRing::open(options(dir.path()), start()).err().unwrap().contains("at most 128"));
}

#[test]
fn what_a_crash_left_is_tidied_away_and_a_deleted_key_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    fs::create_dir(&keys).unwrap();
    for name in [".000001.pem.0123456789abcdef.tmp", ".000002.pem.0123456789abcdef.tmp"] {
        fs::write(keys.join(name), "half a key").unwrap();
    }
    let server = server(options(dir.path()), start());
    server.ring().unwrap().rotate(start()).unwrap();
    // A number that is not taken yet may be somebody's at this moment.
    assert_eq!(files(&keys), [".000002.pem.0123456789abcdef.tmp", "000001.pem"]);
    let before = sign(&server, seconds(60), start()).unwrap();
    // An operator throws a key away that was seen: nothing of it is left, and another signs.
    fs::remove_file(keys.join("000001.pem")).unwrap();
    assert!(server.ring().unwrap().rotate(start()).unwrap().created);
    let jwks = server.jwks(start()).unwrap().body;
    assert!(!verifies(before.expose(), &jwks));
    assert!(verifies(sign(&server, seconds(60), start()).unwrap().expose(), &jwks));
}
