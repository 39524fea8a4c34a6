//! What lies in the store: refused when it was tampered with, sealed anew under another key, given back when it was lost, bounded.

use std::{path::Path, sync::Arc};

use daypass::{
    issuer::jwt::{SigningAlgorithm, maker::DEFAULT_SCHEDULE},
    keys::{Activation, KeyState, MAX_KEYS, Ring, Slot, TAKEN_OUT_KEPT},
    model::error::Code,
    store::EntryStore,
};
use serde_json::{Value, json};

use super::{
    entries,
    server::{Server, seconds, start, store},
    vault,
};

#[tokio::test]
async fn what_was_tampered_with_is_named_and_signs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let entries = store(&dir);
    let server = Server::new(&entries, 1);
    server.turn(start()).await;
    server.ring.prepare(&server.vault, start()).await.unwrap();
    let slots = server.vault.shelf.list().await.unwrap();
    let [first, second] = &slots[..] else { panic!("{slots:?}") };
    let field = |slot: &Slot, name: &str| serde_json::from_slice::<Value>(&slot.body).unwrap()[name].clone();
    let with = |name: &str, value: Value| {
        let mut record: Value = serde_json::from_slice(&first.body).unwrap();
        record[name] = value;
        record.to_string().into_bytes()
    };
    let sealed = field(first, "key")["sealed"].as_str().unwrap().to_owned();
    let flipped = format!("{}{}{}", &sealed[..60], if &sealed[60..61] == "A" { "B" } else { "A" }, &sealed[61..]);
    // Each opens for nobody: the key of another name, a flipped bit, another public part, another time since when it is published.
    for (body, says) in [
        (with("key", field(second, "key")), "put in another key's place"),
        (with("key", json!({ "sealed": flipped })), "it was changed"),
        (with("public", json!("AAAA")), "it was changed"),
        (with("published_at", json!("2026-01-15T08:00:00Z")), "it was changed"),
    ] {
        let now = start() + seconds(1);
        let other = Server::new(&copy_with(&dir, &slots, 0, body).await, 7);
        other.look(now).await;
        let unreadable = other.ring.unreadable();
        assert!(unreadable.len() == 1 && unreadable[0].starts_with("jwt-1: ") && unreadable[0].contains(says), "{unreadable:?}");
        let refused = other.sign(seconds(60), now).unwrap_err();
        assert_eq!(refused.code(), Code::IssuerUnavailable);
        assert!(!refused.public().contains("jwt-1") && !refused.to_string().contains(&sealed[..40]), "{refused}");
        // A set that lacks a key is not to be kept.
        assert_eq!(other.issuer.jwks(now).unwrap().max_age, 0);
        assert!(other.ring.show(now)[0].fault.is_some() && other.ring.show(now)[0].algorithm.is_empty());
        assert_eq!(other.states(now), [(1, KeyState::Active), (2, KeyState::Prepared)]);
        // An administrator gets out of it.
        other.ring.activate(&other.vault, Activation::AtOnce, now).await.unwrap();
        other.ring.retire(&other.vault, 1, now).await.unwrap();
        other.sign(seconds(60), now).unwrap();
    }
    // When it signs may change; what cannot be understood is refused as a whole, and what is in memory goes on.
    for (body, says) in [(with("form", json!(2)), "newer than this server"), (b"{}".to_vec(), "cannot be read")] {
        let slot = Slot { version: first.version + 1, body, ..first.clone() };
        assert!(server.vault.shelf.write(&slot).await.unwrap());
        let refused = server.ring.refresh(&server.vault, start()).await.unwrap_err();
        assert!(refused.code() == Code::IssuerUnavailable && refused.cause().unwrap().contains(says), "{refused}");
        server.sign(seconds(60), start()).unwrap();
        assert!(server.vault.shelf.write(&Slot { version: first.version + 2, ..first.clone() }).await.unwrap());
        assert!(server.vault.shelf.delete("jwt-1", first.version + 2).await.unwrap());
        for version in 1..=first.version {
            server.vault.shelf.write(&Slot { version, ..first.clone() }).await.unwrap();
        }
    }
}

/// A store with the same entries, one of which says something else.
async fn copy_with(dir: &tempfile::TempDir, slots: &[Slot], at: usize, body: Vec<u8>) -> Arc<dyn EntryStore> {
    let name = format!("{}.db", u64::from_be_bytes(daypass::clock::random()));
    let copy = entries(&Path::new(dir.path()).join(name));
    let shelf = vault(&copy, 1, &[1]).shelf;
    for (place, slot) in slots.iter().enumerate() {
        let body = if place == at { body.clone() } else { slot.body.clone() };
        assert!(shelf.write(&Slot { version: 1, body, name: slot.name.clone() }).await.unwrap());
    }
    copy
}

#[tokio::test]
async fn the_wrapping_key_changes_while_servers_run() {
    let dir = tempfile::tempdir().unwrap();
    let entries = store(&dir);
    let old = Server::new(&entries, 1);
    old.turn(start()).await;
    old.ring.prepare(&old.vault, start()).await.unwrap();
    let jwks = old.jwks(start());
    // Who has another key alone reads nothing, says so, and leaves what is there alone.
    let strange = Server::with(SigningAlgorithm::Es256, DEFAULT_SCHEDULE, vault(&entries, 9, &[9]));
    strange.turn(start()).await;
    assert_eq!(strange.ring.unreadable().len(), 2);
    assert!(strange.ring.unreadable()[0].contains("none of this server's"));
    assert!(strange.sign(seconds(60), start()).is_err());
    assert_eq!(strange.ring.rewrap(&strange.vault, start()).await.unwrap(), 0);
    // A reload that would lose them is refused.
    assert!(old.ring.check(&strange.vault).await.is_err());
    // 1: every server has both, the old one first. 2: the new one first. 3: the old one goes.
    let both = vault(&entries, 1, &[1, 2]);
    old.look(start()).await;
    old.ring.check(&both).await.unwrap();
    assert_eq!(old.ring.rewrap(&both, start()).await.unwrap(), 0);
    let turned = vault(&entries, 1, &[2, 1]);
    assert_eq!(old.ring.rewrap(&turned, start()).await.unwrap(), 2);
    assert_eq!(old.ring.rewrap(&turned, start()).await.unwrap(), 0);
    let new = Server::with(SigningAlgorithm::Es256, DEFAULT_SCHEDULE, vault(&entries, 2, &[2]));
    new.look(start()).await;
    assert_eq!((new.ring.unreadable(), new.jwks(start())), (Vec::new(), jwks));
    assert_eq!(new.kid(start()), old.kid(start()));
}

#[tokio::test]
async fn keys_that_the_store_lost_are_given_back_and_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let entries = store(&dir);
    let (one, two) = (Server::new(&entries, 1), Server::new(&entries, 2));
    one.turn(start()).await;
    one.ring.prepare(&one.vault, start()).await.unwrap();
    two.look(start()).await;
    let (kid, shelf) = (one.kid(start()), one.vault.shelf.clone());
    let lose = async || {
        for slot in shelf.list().await.unwrap() {
            assert!(shelf.delete(&slot.name, slot.version).await.unwrap());
        }
    };
    lose().await;
    let now = start() + seconds(5);
    two.turn(now).await;
    one.turn(now).await;
    assert_eq!((one.kid(now), two.kid(now)), (kid.clone(), kid.clone()));
    assert_eq!(one.states(now), [(1, KeyState::Active), (2, KeyState::Prepared)]);
    // A key that was taken out does not come back from a server that has not seen that.
    one.ring.retire(&one.vault, 2, now).await.unwrap();
    two.turn(now).await;
    one.turn(now + seconds(5)).await;
    assert_eq!(one.states(now), [(1, KeyState::Active)]);
    // A server that was away for long gives back what a store lost that has nothing newer; and nothing else, for it may have been taken out.
    lose().await;
    let late = now + TAKEN_OUT_KEPT;
    assert!(!two.turn(late).await.0);
    assert_eq!(two.kid(late), kid);
    one.turn(late).await;
    one.ring.prepare(&one.vault, late).await.unwrap();
    one.ring.activate(&one.vault, Activation::AtOnce, late).await.unwrap();
    let first = shelf.list().await.unwrap().remove(0);
    assert!(first.name == "jwt-1" && shelf.delete(&first.name, first.version).await.unwrap());
    two.turn(late + TAKEN_OUT_KEPT).await;
    assert!(two.states(late + TAKEN_OUT_KEPT).iter().all(|(number, _)| *number != 1));
}

#[tokio::test]
async fn a_ring_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let entries = store(&dir);
    let server = Server::new(&entries, 1);
    server.turn(start()).await;
    let [first] = &server.vault.shelf.list().await.unwrap()[..] else { panic!("one key") };
    let fill = async |from: usize, to: usize| {
        for number in from..=to {
            let slot = Slot { name: format!("jwt-{number}"), version: 1, body: first.body.clone() };
            assert!(server.vault.shelf.write(&slot).await.unwrap());
        }
    };
    // Of other rings there may be any number.
    for number in 1..=MAX_KEYS + 1 {
        let slot = Slot { name: format!("jwt-2-{number}"), version: 1, body: b"not ours".to_vec() };
        assert!(server.vault.shelf.write(&slot).await.unwrap());
    }
    fill(2, MAX_KEYS).await;
    let refused = server.ring.prepare(&server.vault, start()).await.unwrap_err();
    assert!(refused.cause().unwrap().contains("128 keys, and no more are made"), "{refused}");
    fill(MAX_KEYS + 1, MAX_KEYS + 1).await;
    let refused = server.ring.refresh(&server.vault, start()).await.unwrap_err();
    assert!(refused.cause().unwrap().contains("at most 128"), "{refused}");
}
