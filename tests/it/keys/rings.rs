//! Rings over a real store: made in time, kept for as long as anybody needs them, administered, told of once.

use std::collections::BTreeSet;

use daypass::{
    issuer::jwt::{MAX_TOKEN_LIFE, SigningAlgorithm, maker::DEFAULT_SCHEDULE},
    keys::{Activation, KeyState, Ring, Schedule, Stage, TAKEN_OUT_KEPT, schedule::RETIRE_MARGIN},
    model::{Timestamp, error::Code, secret::Secret},
};
use jsonwebtoken::{DecodingKey, Validation, jwk::JwkSet};
use serde_json::Value;

use super::{
    server::{Server, seconds, start, store},
    vault,
};
use crate::jwt::world::{ISSUER, parts};

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

#[tokio::test]
async fn the_first_key_signs_at_once_and_lies_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(&store(&dir), 1);
    assert_eq!(server.sign(seconds(60), start()).unwrap_err().code(), Code::IssuerUnavailable, "nothing was read yet");
    server.look(start()).await;
    assert_eq!(server.sign(seconds(60), start()).unwrap_err().code(), Code::IssuerUnavailable, "there is no key yet");
    let changed = server.ring.changed();
    assert_eq!((server.turn(start()).await, server.turn(start()).await), ((true, 0), (false, 0)));
    assert!(changed.has_changed().unwrap());
    let token = server.sign(seconds(60), start()).unwrap();
    assert!(verifies(token.expose(), &server.jwks(start())));
    // Another ring over the same store is the same ring.
    let other = Server::new(&store(&dir), 2);
    other.look(start()).await;
    assert_eq!(other.issuer.jwks(start()), server.issuer.jwks(start()));
    // No file of the store holds the key: a PKCS #8 key on P-256 says so in its head, in DER and in any alignment of base64.
    let oid = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!bytes.windows(oid.len()).any(|part| part == oid) && !text.contains("KoZIzj0DAQ") && !text.contains("qGSM49AwEH"));
    }
}

/// Two months with two servers whose passes do not run together, a relying party that fetches from either and caches for as long as it
/// may, tokens of every life, and an administrator now and then.
#[tokio::test]
async fn a_cached_key_set_verifies_every_token_for_as_long_as_it_lives() {
    let dir = tempfile::tempdir().unwrap();
    let entries = store(&dir);
    let schedule = Schedule { every: seconds(3 * 86_400), publish_ahead: seconds(4 * 3600) };
    let servers = [1, 2].map(|number| Server::with(SigningAlgorithm::Es256, schedule, vault(&entries, number, &[1])));
    for server in &servers {
        server.turn(start()).await;
    }
    let (mut cache, mut until) = (String::new(), Timestamp::MIN);
    let mut living: Vec<(Secret, Timestamp)> = Vec::new();
    let (mut kids, mut made, mut taken_out) = (BTreeSet::new(), 1, 0);
    for step in 0_i64..3000 {
        let now = start() + seconds(step * 1787);
        let (this, that) = (&servers[usize::try_from(step % 2).unwrap()], &servers[usize::try_from((step / 3) % 2).unwrap()]);
        let (created, out) = this.turn(now).await;
        made += usize::from(created);
        taken_out += out;
        match step % 450 {
            200 => made += usize::from(this.ring.prepare(&this.vault, now).await.is_ok()),
            220 => drop(this.ring.activate(&this.vault, Activation::PublishedLongEnough, now).await),
            _ => {}
        }
        if now >= until {
            let document = that.issuer.jwks(now).unwrap();
            (cache, until) = (document.body, now + seconds(document.max_age.into()));
        }
        let life = seconds([60, 900, 3600, 43_200, 86_400][usize::try_from(step % 5).unwrap()]);
        for server in &servers {
            let token = server.sign(life, now).unwrap();
            assert!(verifies(token.expose(), &cache), "step {step}: a key signs that a cache does not have");
            kids.insert(parts(token.expose()).0["kid"].to_string());
            living.push((token, now + life));
        }
        living.retain(|(_, expires_at)| *expires_at > now);
        for (token, _) in living.iter().step_by(7) {
            assert!(verifies(token.expose(), &cache), "step {step}: a token has outlived its key");
        }
    }
    // 62 days in turns of three, and those that were brought forward.
    assert!((21..=27).contains(&made) && kids.len() == made, "{made} {}", kids.len());
    assert!((made - 3..made).contains(&taken_out), "{taken_out} of {made}");
}

#[tokio::test]
async fn a_retired_key_stays_for_as_long_as_the_longest_token_and_its_number_longer() {
    let dir = tempfile::tempdir().unwrap();
    let entries = store(&dir);
    let server = Server::new(&entries, 1);
    let Schedule { every, publish_ahead } = DEFAULT_SCHEDULE;
    server.turn(start()).await;
    let due = start() + every - publish_ahead;
    assert!(!server.turn(due - seconds(2)).await.0);
    assert!(server.turn(due).await.0);
    let published = |now| server.jwks(now).matches("\"kid\"").count();
    let (first, signs_from) = (server.kid(due), due + publish_ahead + seconds(1));
    assert_eq!(published(due), 2);
    server.look(signs_from).await;
    assert_eq!(server.kid(signs_from - seconds(1)), first);
    assert_ne!(server.kid(signs_from), first);
    // Another server learns of a change half of publish_ahead late at most.
    let dead = signs_from + DEFAULT_SCHEDULE.stale_after() + MAX_TOKEN_LIFE + RETIRE_MARGIN;
    assert_eq!(server.ring.show(dead)[0].until, Some(dead));
    assert_eq!((server.turn(dead).await.1, published(dead)), (0, 2));
    assert_eq!((server.turn(dead + seconds(1)).await.1, published(dead + seconds(1))), (1, 1));
    // Its number is kept, without a key, and then it is forgotten.
    let names = async || server.vault.shelf.list().await.unwrap().into_iter().map(|slot| slot.name).collect::<Vec<_>>();
    server.turn(dead + seconds(2)).await;
    assert_eq!(names().await, ["jwt-1", "jwt-2"]);
    let slot = server.vault.shelf.list().await.unwrap().remove(0);
    assert!(String::from_utf8(slot.body).unwrap().contains("out_since"));
    server.turn(dead + TAKEN_OUT_KEPT + seconds(2)).await;
    assert_eq!(names().await, ["jwt-2"]);
}

#[tokio::test]
async fn another_algorithm_takes_over_after_it_was_published() {
    let dir = tempfile::tempdir().unwrap();
    let entries = store(&dir);
    Server::new(&entries, 1).turn(start()).await;
    let now = start() + seconds(10);
    let server = Server::with(SigningAlgorithm::Rs256, DEFAULT_SCHEDULE, vault(&entries, 2, &[1]));
    assert!(server.turn(now).await.0);
    assert!(!server.turn(now).await.0);
    let alg = |now| {
        let token = server.sign(seconds(60), now).unwrap();
        assert!(verifies(token.expose(), &server.jwks(now)));
        parts(token.expose()).0["alg"].clone()
    };
    assert_eq!(alg(now), "ES256");
    let later = now + DEFAULT_SCHEDULE.publish_ahead + seconds(1);
    server.look(later).await;
    assert_eq!(alg(later), "RS256");
    assert!(server.issuer.discovery().unwrap().body.contains(r#""id_token_signing_alg_values_supported":["ES256","RS256"]"#));
    assert_eq!(server.ring.show(later).iter().map(|key| key.algorithm.as_str()).collect::<Vec<_>>(), ["ES256", "RS256"]);
}

#[tokio::test]
async fn an_administrator_prepares_activates_and_retires() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(&store(&dir), 1);
    let (ring, vault, ahead) = (&server.ring, &server.vault, DEFAULT_SCHEDULE.publish_ahead);
    server.turn(start()).await;
    use KeyState::{Active, Prepared, Retired};
    let refused = |done: daypass::model::error::Result<daypass::keys::KeyShown>, says: &str| {
        let error = done.unwrap_err();
        assert_eq!(error.code(), Code::KeyState);
        assert!(error.public().contains(says), "{error}");
    };
    let force = Activation::AtOnce;
    refused(ring.activate(vault, force, start()).await, "no key of jwt is prepared");
    refused(ring.retire(vault, 1, start()).await, "jwt-1 is the one that signs");
    refused(ring.retire(vault, 9, start()).await, "there is no key jwt-9");
    let now = start() + seconds(1);
    let prepared = ring.prepare(vault, now).await.unwrap();
    assert_eq!((prepared.name().as_str(), prepared.state), ("jwt-2", Prepared));
    assert_eq!(prepared.times.signs_from, start() + DEFAULT_SCHEDULE.every, "it waits for its turn");
    refused(ring.prepare(vault, now).await, "jwt-2 is prepared already");
    refused(ring.activate(vault, Activation::PublishedLongEnough, now + ahead).await, "wait, or force it");
    let first = server.kid(now);
    let out = now + ahead + seconds(1);
    let active = ring.activate(vault, Activation::PublishedLongEnough, out).await.unwrap();
    assert_eq!((active.number, active.state, active.times.signs_from), (2, Active, out));
    assert_ne!(server.kid(out), first);
    assert_eq!(server.states(out), [(1, Retired), (2, Active)]);
    // One that is retired before it signed never does, and its number is never another's.
    ring.prepare(vault, out).await.unwrap();
    ring.retire(vault, 3, out).await.unwrap();
    assert_eq!(server.states(out), [(1, Retired), (2, Active)]);
    server.turn(out + seconds(2)).await;
    let fourth = ring.prepare(vault, out + TAKEN_OUT_KEPT * 2).await.unwrap();
    assert_eq!(fourth.number, 4);
    // Everybody had the third one; of this one nobody has said so.
    refused(
        ring.activate(vault, Activation::Acknowledged(3), out + TAKEN_OUT_KEPT * 2).await,
        "jwt-4 is prepared meanwhile, and not jwt-3",
    );
    let forced = ring.activate(vault, force, out + TAKEN_OUT_KEPT * 2).await.unwrap();
    assert_eq!((forced.number, forced.state), (4, Active));
    // What lives under a key that was taken out is verified no more.
    let now = out + TAKEN_OUT_KEPT * 2 + seconds(1);
    let jwks = server.jwks(now);
    ring.retire(vault, 2, now).await.unwrap();
    assert!(server.jwks(now).len() < jwks.len());
    assert_eq!(server.states(now), [(1, Retired), (4, Active)]);
}

#[tokio::test]
async fn a_key_that_everybody_has_signs_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(&store(&dir), 1);
    server.turn(start()).await;
    let now = start() + seconds(1);
    let prepared = server.ring.prepare(&server.vault, now).await.unwrap();
    let active = server.ring.activate(&server.vault, Activation::Acknowledged(prepared.number), now).await.unwrap();
    assert_eq!((active.number, active.state, active.times.signs_from), (2, KeyState::Active, now));
}

#[tokio::test]
async fn what_came_to_pass_is_told_once_over_all_servers() {
    let dir = tempfile::tempdir().unwrap();
    let entries = store(&dir);
    let (one, two) = (Server::new(&entries, 1), Server::new(&entries, 2));
    one.ring.rotate(&one.vault, start()).await.unwrap();
    two.look(start()).await;
    let told = one.ring.claim_news(&one.vault, start()).await.unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].name.as_str(), told[0].stages.as_slice()), ("jwt-1", [Stage::Made, Stage::Active].as_slice()));
    assert_eq!(told[0].known_by, Some(("ES256".to_owned(), one.kid(start()))));
    assert_eq!(told[0].made_by, "0000000000000001");
    // The other server waits: until it is told, or until the one that would has been silent for too long.
    two.look(start()).await;
    assert_eq!(two.ring.claim_news(&two.vault, start()).await.unwrap(), []);
    let lapsed = start() + daypass::keys::NEWS_CLAIM;
    let again = two.ring.claim_news(&two.vault, lapsed).await.unwrap();
    assert_eq!(again[0].stages, told[0].stages, "the first one crashed");
    two.ring.told(&two.vault, &again, lapsed).await.unwrap();
    for server in [&one, &two] {
        server.look(lapsed).await;
        assert_eq!(server.ring.claim_news(&server.vault, lapsed).await.unwrap(), []);
    }
    // Somebody changes the key between claim and note: it is noted all the same.
    one.ring.prepare(&one.vault, lapsed).await.unwrap();
    let news = one.ring.claim_news(&one.vault, lapsed).await.unwrap();
    assert_eq!((news[0].name.as_str(), news[0].stages.as_slice()), ("jwt-2", [Stage::Made].as_slice()));
    two.ring.activate(&two.vault, Activation::AtOnce, lapsed).await.unwrap();
    one.ring.told(&one.vault, &news, lapsed).await.unwrap();
    let mut news = one.ring.claim_news(&one.vault, lapsed).await.unwrap();
    news.sort_by(|a, b| a.name.cmp(&b.name));
    let stages: Vec<_> = news.iter().map(|one| (one.name.as_str(), one.stages.as_slice())).collect();
    assert_eq!(stages, [("jwt-1", [Stage::Retired].as_slice()), ("jwt-2", [Stage::Active].as_slice())]);
}
