//! `kill -9` at random between reserve and answer: no session is off the record, on either store.
//!
//! What is promised, and looked at for every session that AWS made (the proxy saw each of them leave AWS):
//! - Its lease was in the audit log and in the store before AWS was asked: both know it afterwards, whatever was killed when.
//! - A session whose answer reached its holder works, and its lease is active.
//! - Of every other session nobody knows the keys. Its lease is closed and the session is denied at AWS; or, when the crash fell between
//!   the activation of the lease and the answer, the lease is active and names this very session. That is as with an answer that is lost on
//!   the wire: it is on record, an operator sees and revokes it, and it ends by itself.
//! - No lease stays pending. (That one which is being revoked becomes `revoked`, half a minute after its denial, is shown elsewhere.)

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use daypass::{
    audit::verify::verify,
    client::{
        Client,
        types::{Credential, IssueOrder, LeaseFilter, LeaseState, OrderInput},
    },
    clock,
};
use tokio::task::JoinSet;

use super::{
    aws::{BUCKET, Cloud, SOON},
    wire::{block_on, client},
    world::World,
};
use crate::support::{
    parts::{boto::Keys, wait_until},
    redis::Redis,
};

/// How often the server is killed in all; [`ROUNDS`] says otherwise.
const DEFAULT_ROUNDS: usize = 200;

/// The environment's word for it.
const ROUNDS: &str = "DAYPASS_CRASH_ROUNDS";

/// Clients at once. Each has an IAM role of its own, so that what the crashes leave finds room in the policies.
const CLIENTS: usize = 4;

/// The server lives so long under load, in milliseconds.
const LIFE: std::ops::Range<u64> = 20..140;

/// How long after the last crash a pending lease may rest, and be closed.
const CLOSED_WITHIN: Duration = Duration::from_secs(60);

/// The most sessions that work whose keys are tried.
const TRIED: usize = 100;

#[test]
fn no_session_is_off_the_record() {
    let rounds = std::env::var(ROUNDS).map_or(DEFAULT_ROUNDS, |text| text.parse().expect("a number of rounds"));
    let redis = Redis::start();
    thread::scope(|scope| {
        scope.spawn(|| crash(Cloud::with_builders(CLIENTS, None), rounds.div_ceil(2)));
        scope.spawn(|| crash(Cloud::with_builders(CLIENTS, Some(redis.url())), rounds.div_ceil(2)));
    });
}

fn crash(mut cloud: Cloud, rounds: usize) {
    let mut held = BTreeMap::new();
    for _ in 0..rounds {
        held.append(&mut load_until_killed(&mut cloud.world));
        cloud.world.start_again();
    }
    let leases = wait_until(CLOSED_WITHIN, "no lease is pending", || {
        let leases = leases(&cloud.world);
        (!leases.values().any(|(state, _)| *state == LeaseState::Pending)).then_some(leases)
    });
    verify(&cloud.world.file("audit")).unwrap();
    let on_record: BTreeSet<String> =
        cloud.world.records().iter().filter_map(|record| record["lease"]["id"].as_str().map(str::to_owned)).collect();

    let (mut lost, mut unheld, mut tried) = (0, 0, 0);
    for made in cloud.proxy.made() {
        let id = &made.lease;
        assert!(on_record.contains(id), "{id} is not in the audit log");
        let (state, session) = leases.get(id).unwrap_or_else(|| panic!("{id} is not in the store"));
        let reads = || cloud.aws.read(&made.keys, BUCKET, "platform/x").unwrap_or_else(|refusal| refusal.code);
        match (state, held.get(id)) {
            (LeaseState::Active, Some(keys)) => {
                assert_eq!((keys, session), (&made.keys, &made.keys.id), "{id}");
                tried += 1;
                if tried <= TRIED {
                    assert_eq!(reads(), "platform/x", "{id}");
                }
            }
            (LeaseState::Active, None) => {
                unheld += 1;
                assert_eq!(*session, made.keys.id, "{id} is active, and another session is made for it");
            }
            (LeaseState::Revoking | LeaseState::Revoked, None) => {
                lost += 1;
                wait_until(SOON, "it is denied", || (reads() == "AccessDenied").then_some(()));
            }
            (state, held) => panic!("{id} is {state:?}, and its holder has {held:?}"),
        }
    }
    assert!(cloud.world.stop().success());
    assert!(held.keys().all(|id| cloud.proxy.made().iter().any(|made| made.lease == *id)), "who holds a session has it of AWS");
    eprintln!("{rounds} crashes: {} sessions held, {lost} lost and denied, {unheld} on record and held by nobody", held.len());
    // Else nothing was proved.
    assert!(held.len() >= rounds && lost + unheld > 0, "{} held, {lost} lost, {unheld} on record", held.len());
}

/// Asks for sessions with several clients until the server is killed at a random moment; gives what reached them.
fn load_until_killed(world: &mut World) -> BTreeMap<String, Keys> {
    let held = Arc::new(Mutex::new(BTreeMap::new()));
    let life = LIFE.start + u64::from_be_bytes(clock::random()) % (LIFE.end - LIFE.start);
    block_on(async {
        let mut workers = JoinSet::new();
        for number in 0..CLIENTS {
            workers.spawn(issue(client(world, &world.operator()), format!("build-{number}"), held.clone()));
        }
        // The first answers of a new process take longer than the rest.
        let first = async {
            while held.lock().unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(600), first).await;
        tokio::time::sleep(Duration::from_millis(life)).await;
        world.kill();
        workers.shutdown().await;
    });
    std::mem::take(&mut held.lock().unwrap())
}

async fn issue(mut client: Client, role: String, held: Arc<Mutex<BTreeMap<String, Keys>>>) {
    loop {
        let request_id = format!("{:032x}", u128::from_be_bytes(clock::random()));
        let order = IssueOrder { role: role.clone(), ttl: None, request_id, input: OrderInput::Nothing };
        let Ok(issued) = client.issue(order).await else { return };
        let Credential::Aws(made) = issued.credential else { panic!("no AWS session") };
        let (secret, token) = (made.secret_access_key.expose().to_owned(), made.session_token.expose().to_owned());
        held.lock().unwrap().insert(issued.lease.id, Keys { id: made.access_key_id, secret, token: Some(token) });
    }
}

/// Every lease of the store: its state, and the session that it names.
fn leases(world: &World) -> BTreeMap<String, (LeaseState, String)> {
    block_on(async {
        let mut client = client(world, &world.operator());
        let (mut all, mut next) = (BTreeMap::new(), None::<String>);
        loop {
            let page = client.leases(&LeaseFilter::default(), 1000, next.as_deref()).await.unwrap();
            all.extend(page.leases.into_iter().map(|lease| (lease.id, (lease.state, lease.credential_id))));
            match page.next {
                Some(token) => next = Some(token),
                None => return all,
            }
        }
    })
}
