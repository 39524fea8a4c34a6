//! A store that lost its keys, and servers that look at it in any order: what relying parties know goes on to sign, and nothing that lives loses
//! its key while any server has it.

use std::sync::Arc;

use daypass::{
    issuer::{
        jwt::{SigningAlgorithm, maker::DEFAULT_SCHEDULE},
        x509::{CaMaker, DEFAULT_CRL_LIFE},
    },
    keys::{Activation, FIRST_KEY_WAIT, KeyRing, KeyState, Ring, Stage, TAKEN_OUT_KEPT, schedule::POLLED_AFTER},
    model::{SignedDuration, Timestamp, error::Code},
    store::EntryStore,
};
use proptest::prelude::*;
use serde_json::Value;

use super::{
    block_on,
    server::{Server, seconds, start, store},
    shared_vault,
};

/// A server over a store that others share.
fn server(entries: &Arc<dyn EntryStore>, number: u64) -> Server {
    Server::with(SigningAlgorithm::Es256, DEFAULT_SCHEDULE, shared_vault(entries, number))
}

/// A server that made the first key, as soon as it could be sure that there is none; and when.
async fn settled(entries: &Arc<dyn EntryStore>) -> (Server, Timestamp) {
    let old = server(entries, 1);
    for second in [0, 5] {
        assert!(!old.turn(start() + seconds(second)).await.0, "another server may know keys yet");
        assert!(old.sign(seconds(60), start() + seconds(second)).is_err());
    }
    let made_at = start() + FIRST_KEY_WAIT;
    assert!(old.turn(made_at).await.0);
    assert_eq!(old.states(made_at), [(1, KeyState::Active)], "nobody can have fetched a set without the very first key");
    // Published for long enough since, as relying parties see it.
    let now = made_at + SignedDuration::from_hours(2);
    old.turn(now).await;
    (old, now)
}

async fn lose(server: &Server) {
    for slot in server.vault.shelf.list().await.unwrap() {
        assert!(server.vault.shelf.delete(&slot.name, slot.version).await.unwrap());
    }
}

fn kids(server: &Server, now: Timestamp) -> Vec<String> {
    let set: Value = serde_json::from_str(&server.jwks(now)).unwrap();
    let mut kids: Vec<String> = set["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect();
    kids.sort();
    kids
}

/// All of them sign with this key and publish it alone.
fn all_have(servers: &[&Server], kid: &str, now: Timestamp) {
    for server in servers {
        assert_eq!((server.kid(now).as_str(), kids(server, now)), (kid, vec![kid.to_owned()]));
    }
}

#[tokio::test]
async fn who_knows_the_keys_gives_them_back_whoever_looks_first() {
    for order in ["old first", "fresh first", "both at once"] {
        let dir = tempfile::tempdir().unwrap();
        let entries = store(&dir);
        let (old, now) = settled(&entries).await;
        let (kid, fresh) = (old.kid(now), server(&entries, 2));
        lose(&old).await;
        match order {
            "old first" => {
                assert!(!old.turn(now + seconds(1)).await.0);
                assert!(!fresh.turn(now + seconds(2)).await.0);
            }
            "fresh first" => {
                assert!(!fresh.turn(now + seconds(1)).await.0, "it waits for who may know some");
                assert_eq!(fresh.sign(seconds(60), now + seconds(1)).unwrap_err().code(), Code::IssuerUnavailable);
                let asked = fresh.ring.prepare(&fresh.vault, now + seconds(2)).await.unwrap_err();
                assert!(asked.public().contains("another server may know some"), "{asked}");
                assert!(!old.turn(now + seconds(3)).await.0);
            }
            _ => {
                let at = now + seconds(1);
                let (first, second) = tokio::join!(old.turn(at), fresh.turn(at));
                assert!(!first.0 && !second.0);
            }
        }
        let now = now + seconds(6);
        assert!(!fresh.turn(now).await.0 && !old.turn(now).await.0);
        all_have(&[&old, &fresh], &kid, now);
    }
}

#[tokio::test]
async fn over_a_store_that_was_away_the_wait_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let entries = store(&dir);
    let (old, now) = settled(&entries).await;
    let (kid, fresh) = (old.kid(now), server(&entries, 2));
    lose(&old).await;
    fresh.turn(now).await;
    // It has not looked for a while: the store was away for the others, too.
    assert!(!fresh.turn(now + FIRST_KEY_WAIT + seconds(5)).await.0);
    old.turn(now + FIRST_KEY_WAIT + seconds(6)).await;
    fresh.turn(now + FIRST_KEY_WAIT + seconds(10)).await;
    all_have(&[&old, &fresh], &kid, now + FIRST_KEY_WAIT + seconds(10));
}

/// Has a server that knows no key make one over the emptied store. Answers when.
async fn made_meanwhile(fresh: &Server, now: Timestamp) -> Timestamp {
    for second in [0, 5] {
        assert!(!fresh.turn(now + seconds(second)).await.0);
    }
    assert!(fresh.turn(now + FIRST_KEY_WAIT).await.0);
    now + FIRST_KEY_WAIT
}

#[tokio::test]
async fn a_key_that_was_made_meanwhile_steps_behind_and_stays_published() {
    let dir = tempfile::tempdir().unwrap();
    let entries = store(&dir);
    let (old, now) = settled(&entries).await;
    let (kid, fresh) = (old.kid(now), server(&entries, 2));
    lose(&old).await;
    let made_at = made_meanwhile(&fresh, now).await;
    let strange = fresh.kid(made_at);
    assert_ne!(strange, kid);
    let now = made_at + seconds(10);
    old.turn(now).await;
    fresh.turn(now).await;
    let mut both = vec![kid.clone(), strange.clone()];
    both.sort();
    for server in [&old, &fresh] {
        assert_eq!(server.states(now), [(1, KeyState::Active), (2, KeyState::Prepared)]);
        assert_eq!((server.kid(now), kids(server, now)), (kid.clone(), both.clone()), "what either has signed is verified");
    }
    // On record under its new name; and it signs once it was out for as long as any key.
    let again = server(&entries, 3);
    again.look(now).await;
    let signs_from = again.ring.show(now)[1].times.signs_from;
    assert!(signs_from.duration_since(made_at) > DEFAULT_SCHEDULE.publish_ahead);
    assert_eq!(again.kid(now), kid);
    again.look(signs_from).await;
    assert_eq!(again.kid(signs_from), strange);
}

#[tokio::test]
async fn a_key_that_has_signed_until_everybody_knows_it_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let entries = store(&dir);
    let (old, now) = settled(&entries).await;
    let (kid, fresh) = (old.kid(now), server(&entries, 2));
    lose(&old).await;
    let made_at = made_meanwhile(&fresh, now).await;
    let strange = fresh.kid(made_at);
    let now = made_at + POLLED_AFTER + seconds(1);
    old.turn(now).await;
    fresh.turn(now).await;
    for server in [&old, &fresh] {
        assert_eq!(server.states(now), [(1, KeyState::Retired), (2, KeyState::Active)]);
        assert_eq!(server.kid(now), strange);
        assert!(kids(server, now).contains(&kid));
    }
    // A server that was away for longer than a number is kept cannot tell what was lost from what was taken out.
    let dir = tempfile::tempdir().unwrap();
    let entries = store(&dir);
    let (old, now) = settled(&entries).await;
    let fresh = server(&entries, 2);
    lose(&old).await;
    let made_at = made_meanwhile(&fresh, now).await;
    let late = made_at + TAKEN_OUT_KEPT;
    fresh.turn(late).await;
    old.turn(late).await;
    assert_eq!((old.states(late), old.kid(late)), (vec![(1, KeyState::Active)], fresh.kid(late)));
}

#[tokio::test]
async fn other_numbers_come_back_beside_a_key_that_was_made_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let entries = store(&dir);
    let (old, now) = settled(&entries).await;
    old.ring.prepare(&old.vault, now).await.unwrap();
    old.ring.activate(&old.vault, Activation::AtOnce, now + seconds(5)).await.unwrap();
    old.turn(now + seconds(5)).await;
    old.ring.retire(&old.vault, 1, now + seconds(5)).await.unwrap();
    let (kid, now) = (old.kid(now + seconds(5)), now + seconds(5));
    lose(&old).await;
    let fresh = server(&entries, 2);
    let made_at = made_meanwhile(&fresh, now).await;
    let strange = fresh.kid(made_at);
    let now = made_at + seconds(5);
    old.turn(now).await;
    fresh.turn(now).await;
    for server in [&old, &fresh] {
        assert_eq!(server.states(now), [(2, KeyState::Active), (1, KeyState::Prepared)], "numbers do not clash, and times tell the order");
        assert_eq!(server.kid(now), kid);
        assert!(kids(server, now).contains(&strange));
    }
}

#[tokio::test]
async fn a_key_that_follows_lost_ones_has_the_next_number_and_waits() {
    let dir = tempfile::tempdir().unwrap();
    let entries = store(&dir);
    let (old, now) = settled(&entries).await;
    let (kid, past) = (old.kid(now), old.ring.past());
    lose(&old).await;
    // It starts anew: of its keys it remembers the numbers alone.
    let again = server(&entries, 2);
    again.ring.recall(&past);
    let made_at = made_meanwhile(&again, now).await;
    assert_eq!(again.states(made_at), [(2, KeyState::Prepared)]);
    let refused = again.sign(seconds(60), made_at).unwrap_err();
    assert!(refused.cause().unwrap().contains("daypassd ca activate jwt --force"), "{refused}");
    let signs_from = again.ring.waits_until(made_at).unwrap();
    assert!(signs_from.duration_since(made_at) > POLLED_AFTER && signs_from < made_at + DEFAULT_SCHEDULE.publish_ahead);
    let next = kids(&again, made_at);
    assert!(next.len() == 1 && next[0] != kid, "it is published at once");
    // Another server that knows nothing does as this one; an administrator may have it sign now.
    let third = server(&entries, 3);
    assert!(!third.turn(made_at + seconds(5)).await.0);
    assert!(third.sign(seconds(60), made_at + seconds(5)).is_err());
    let refused = third.ring.activate(&third.vault, Activation::PublishedLongEnough, made_at + seconds(5)).await.unwrap_err();
    assert_eq!(refused.code(), Code::KeyState);
    assert_eq!(
        (again.kid(signs_from), again.ring.waits_until(signs_from)),
        (next[0].clone(), None),
        "without anybody it does when it is time"
    );
    third.ring.activate(&third.vault, Activation::AtOnce, made_at + seconds(5)).await.unwrap();
    assert_eq!(third.kid(made_at + seconds(5)), next[0]);

    // Should somebody who knows the lost ones come while it waits, they sign on, and it waits its time.
    let dir = tempfile::tempdir().unwrap();
    let entries = store(&dir);
    let (old, now) = settled(&entries).await;
    let kid = old.kid(now);
    lose(&old).await;
    let again = server(&entries, 2);
    again.ring.recall(&old.ring.past());
    let made_at = made_meanwhile(&again, now).await;
    let now = made_at + seconds(60);
    old.turn(now).await;
    again.turn(now).await;
    for server in [&old, &again] {
        assert_eq!((server.kid(now), server.states(now)), (kid.clone(), vec![(1, KeyState::Active), (2, KeyState::Prepared)]));
        assert_eq!(server.kid(made_at + POLLED_AFTER + seconds(10)), kid);
    }
}

#[tokio::test]
async fn a_key_that_was_taken_out_is_not_put_back_by_who_can_write_to_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let entries = store(&dir);
    let (old, now) = settled(&entries).await;
    let leaked = old.kid(now);
    old.ring.prepare(&old.vault, now).await.unwrap();
    let [stolen, _] = <[_; 2]>::try_from(old.vault.shelf.list().await.unwrap()).unwrap();
    old.ring.activate(&old.vault, Activation::AtOnce, now).await.unwrap();
    old.ring.retire(&old.vault, 1, now).await.unwrap();
    old.turn(now).await;
    let late = server(&entries, 2);
    late.look(now).await;
    let put_back = async || {
        let there = old.vault.shelf.list().await.unwrap().into_iter().find(|slot| slot.name == "jwt-1");
        let version = there.map_or(1, |slot| slot.version + 1);
        let slot = daypass::keys::Slot { version, ..stolen.clone() };
        assert!(old.vault.shelf.write(&slot).await.unwrap());
    };
    // Seen by who saw it taken out, by who has seen the mark alone, and by who remembers it over a restart and the mark.
    let restarted = server(&entries, 3);
    restarted.ring.recall(&old.ring.past());
    for server in [&old, &late, &restarted] {
        put_back().await;
        server.look(now + seconds(5)).await;
        assert!(!kids(server, now + seconds(5)).contains(&leaked));
        let body = old.vault.shelf.list().await.unwrap().remove(0).body;
        assert!(!String::from_utf8(body).unwrap().contains("sealed"), "it is taken out for everybody");
    }
    old.look(now + seconds(5)).await;
    let news = old.ring.claim_news(&old.vault, now + seconds(5)).await.unwrap();
    assert!(news.iter().any(|one| one.name == "jwt-1" && one.stages.ends_with(&[Stage::Gone])), "and on record once more: {news:?}");
}

#[tokio::test]
async fn an_authority_keeps_its_number_against_one_that_was_made_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let entries = store(&dir);
    let ring = || {
        let maker = CaMaker {
            ca: "issuing".parse().unwrap(),
            crl_url: "http://127.0.0.1/crl/{ca}.crl".to_owned(),
            crl_life: DEFAULT_CRL_LIFE,
            life: SignedDuration::from_hours(24 * 32),
            root: None,
            root_crl_url: None,
            acknowledged_after: None,
        };
        KeyRing::new("issuing", DEFAULT_SCHEDULE, maker)
    };
    let (old, fresh) = (ring(), ring());
    let vaults = [shared_vault(&entries, 1), shared_vault(&entries, 2)];
    let make = async |ring: &KeyRing<CaMaker>, vault, from: Timestamp| {
        for second in [0, 5, 10] {
            assert_eq!(ring.rotate(vault, from + seconds(second)).await.unwrap(), second == 10);
        }
        ring.active(from + seconds(10)).unwrap().key.root_der().to_vec()
    };
    let own = make(&old, &vaults[0], start()).await;
    for slot in vaults[0].shelf.list().await.unwrap() {
        vaults[0].shelf.delete(&slot.name, slot.version).await.unwrap();
    }
    let strange = make(&fresh, &vaults[1], start() + seconds(15)).await;
    assert_ne!(own, strange);
    let now = start() + seconds(30);
    for (ring, vault) in [(&old, &vaults[0]), (&fresh, &vaults[1]), (&old, &vaults[0])] {
        ring.refresh(vault, now).await.unwrap();
        let held: Vec<_> = ring.held().iter().map(|held| (held.number, held.key.root_der().to_vec())).collect();
        assert_eq!(held, [(1, own.clone())], "its certificate says its number: the other one can have none");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Two servers that know the keys, and some that do not and come and go, over a store that is emptied again and again: as long as one of the
    /// two looks as often as servers do, no other key is ever made, and who can sign signs with the one that relying parties know.
    #[test]
    fn in_no_order_is_a_key_made_that_nobody_needs(
        steps in prop::collection::vec((0_usize..4, 0_i64..3, prop::bool::weighted(0.15), prop::bool::weighted(0.15)), 1..40),
    ) {
        block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let entries = store(&dir);
            let (old, mut now) = settled(&entries).await;
            let (kid, other) = (old.kid(now), server(&entries, 2));
            other.turn(now).await;
            let (knowing, mut fresh) = ([old, other], [server(&entries, 3), server(&entries, 4)]);
            let mut number = 5;
            let mut looked_at = now;
            for (who, gap, loses, restarts) in steps {
                now += seconds(gap);
                if loses {
                    lose(&knowing[0]).await;
                }
                if restarts {
                    fresh[who % 2] = server(&entries, number);
                    number += 1;
                }
                let due = now.duration_since(looked_at) >= seconds(5);
                let (made, server) = match who {
                    2.. if !due => (fresh[who % 2].turn(now).await.0, &fresh[who % 2]),
                    _ => {
                        looked_at = now;
                        (knowing[who % 2].turn(now).await.0, &knowing[who % 2])
                    }
                };
                assert!(!made, "a key was made");
                for server in knowing.iter().chain([server]) {
                    if let Ok(token) = server.sign(seconds(60), now) {
                        let head = crate::jwt::world::parts(token.expose()).0;
                        assert_eq!(head["kid"].as_str().unwrap(), kid);
                    }
                }
            }
            knowing[0].turn(now).await;
            for server in knowing.iter().chain(&fresh) {
                server.turn(now).await;
                all_have(&[server], &kid, now);
            }
        });
    }
}
