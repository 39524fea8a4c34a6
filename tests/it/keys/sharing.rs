//! Servers that act at the same moment, over SQLite and over Redis: one of them does it, and all agree.

use std::{collections::BTreeMap, sync::Arc};

use daypass::{
    issuer::jwt::{JwtKeyMaker, JwtKeys, SigningAlgorithm, maker::DEFAULT_SCHEDULE},
    keys::{Activation, KeyState, Ring, Stage, Vault},
    model::{SignedDuration, Timestamp, error::Code},
    store::{
        EntryStore,
        redis::{RedisOptions, RedisStore},
    },
};
use futures::future::join_all;

use super::{entries, vault};
use crate::support::redis::Redis;

/// Servers that race.
const SERVERS: u64 = 8;

struct Server {
    ring: Arc<JwtKeys>,
    vault: Vault,
}

/// Each with a connection of its own.
fn servers(open: impl Fn() -> Arc<dyn EntryStore>) -> Vec<Server> {
    let server = |number| Server {
        ring: Arc::new(JwtKeyMaker::ring(SigningAlgorithm::Es256, DEFAULT_SCHEDULE)),
        vault: vault(&open(), number, &[1]),
    };
    (1..=SERVERS).map(server).collect()
}

/// Has every server do something at once, each in a task of its own.
async fn all<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    servers: &[Server],
    act: impl Fn(Arc<JwtKeys>, Vault) -> F,
) -> Vec<T> {
    let tasks = servers.iter().map(|server| tokio::spawn(act(server.ring.clone(), server.vault.clone())));
    join_all(tasks).await.into_iter().map(Result::unwrap).collect()
}

async fn race(open: impl Fn() -> Arc<dyn EntryStore>) {
    let servers = servers(open);
    let mut told: BTreeMap<(String, Stage), usize> = BTreeMap::new();
    let start: Timestamp = "2027-01-15T08:00:00Z".parse().unwrap();
    let every = DEFAULT_SCHEDULE.every;
    for (round, now) in [(1, start), (2, start + every), (3, start + every * 2)] {
        let made = all(&servers, move |ring, vault| async move { ring.rotate(&vault, now).await.unwrap() }).await;
        assert_eq!(made.iter().filter(|made| **made).count(), 1, "round {round}");
        agree(&servers, now).await;
        news(&servers, now, &mut told).await;
    }
    let now = start + every * 2 + SignedDuration::from_secs(10);
    // The one that is prepared is made to sign. Who asked for the very same may be told that it is so; the others to look again.
    let done = all(&servers, move |ring, vault| async move { ring.activate(&vault, Activation::AtOnce, now).await }).await;
    assert!(
        done.iter().any(Result::is_ok) && done.iter().flatten().all(|key| key.number == 3 && key.state == KeyState::Active),
        "{done:?}"
    );
    assert!(done.iter().flat_map(|done| done.as_ref().err()).all(|error| error.code() == Code::KeyState), "{done:?}");
    agree(&servers, now).await;
    let done = all(&servers, move |ring, vault| async move { ring.prepare(&vault, now).await }).await;
    assert_eq!(done.iter().filter(|done| done.is_ok()).count(), 1, "{done:?}");
    agree(&servers, now).await;
    let done = all(&servers, move |ring, vault| async move { ring.retire(&vault, 4, now).await }).await;
    assert!(done.iter().any(Result::is_ok) && done.iter().flatten().all(|key| key.number == 4), "{done:?}");
    assert!(done.iter().flat_map(|done| done.as_ref().err()).all(|error| error.code() == Code::KeyState), "{done:?}");
    agree(&servers, now).await;
    let states: Vec<_> = servers[0].ring.show(now).iter().map(|key| (key.number, key.state)).collect();
    assert_eq!(states, [(1, KeyState::Retired), (2, KeyState::Retired), (3, KeyState::Active)]);
    news(&servers, now, &mut told).await;
    // Made three by their turns and one by hand, which never signed.
    assert!(told.values().all(|times| *times == 1), "{told:?}");
    let of = |name: &str| told.keys().filter(|(of, _)| of == name).map(|(_, stage)| *stage).collect::<Vec<_>>();
    assert_eq!(of("jwt-1"), [Stage::Made, Stage::Active, Stage::Retired]);
    assert_eq!(of("jwt-3"), [Stage::Made, Stage::Active]);
    assert_eq!(of("jwt-4"), [Stage::Made, Stage::Gone]);
}

/// Every server shows the same keys.
async fn agree(servers: &[Server], now: Timestamp) {
    all(servers, move |ring, vault| async move { ring.refresh(&vault, now).await.unwrap() }).await;
    let shown: Vec<_> = servers.iter().map(|server| server.ring.show(now)).collect();
    assert!(shown.iter().all(|one| *one == shown[0]) && shown[0].iter().all(|key| key.fault.is_none()), "{shown:?}");
    assert_eq!(shown[0].iter().filter(|key| key.state == KeyState::Active).count(), 1);
}

/// Every server tells what there is to tell, until there is nothing; counts what each told.
async fn news(servers: &[Server], now: Timestamp, told: &mut BTreeMap<(String, Stage), usize>) {
    loop {
        let news = all(servers, move |ring, vault| async move {
            let news = ring.claim_news(&vault, now).await.unwrap();
            ring.told(&vault, &news, now).await.unwrap();
            news
        });
        let news: Vec<_> = news.await.into_iter().flatten().collect();
        if news.is_empty() {
            return;
        }
        for (name, stage) in news.iter().flat_map(|one| one.stages.iter().map(|stage| (one.name.clone(), *stage))) {
            *told.entry((name, stage)).or_default() += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn over_sqlite_one_of_many_servers_acts() {
    let dir = tempfile::tempdir().unwrap();
    race(|| entries(&dir.path().join("keys.db"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn over_redis_one_of_many_servers_acts() {
    let redis = Redis::start();
    let url = redis.url();
    race(|| Arc::new(RedisStore::new(RedisOptions::new(&url)).unwrap())).await;
}
