//! Figures for docs/performance.md. Run with `cargo test --release --test it store::measure -- --ignored --nocapture --test-threads 1`.

use std::time::{Duration, Instant};

use daypass::{
    clock,
    model::Timestamp,
    store::{
        LeaseStore, NewLease, Put, TokenUseKey,
        embedded::EmbeddedStore,
        redis::{RedisOptions, RedisStore},
    },
};
use futures::{StreamExt, stream};

use super::leases::{RETENTION, START, at, lease_at, new};
use crate::support::redis::Redis;

const LEASES: i64 = 50_000;
const IN_FLIGHT: usize = 64;

/// The most that one live lease may take at Redis, indexes included, in bytes.
const BUDGET: u64 = 700;

#[derive(Clone, Copy)]
enum Caller {
    /// A workload with a certificate, no request id.
    Certificate,
    /// A job with a token that may be used once, and a request id.
    Token,
}

fn put(n: i64, subjects: i64, caller: Caller) -> NewLease {
    let issued = Timestamp::from_millisecond(START * 1000 + n * 7).unwrap();
    let subject = format!("oidc:github:repo:acme-corp/service-{:05}:ref:refs/heads/main", n % subjects);
    let tenant = format!("tenant-{}", (n % subjects) % 20);
    let lease = lease_at(issued, &tenant, ["web", "vendor-client", "batch"][usize::try_from(n % 3).unwrap()], &subject);
    match caller {
        Caller::Certificate => new(&lease),
        Caller::Token => NewLease {
            request_key: Some(clock::random()),
            token_use: Some(TokenUseKey { key: clock::random(), retry: Some(clock::random()), until: at(600) }),
            ..new(&lease)
        },
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn memory_at_redis_for_one_live_lease() {
    for (caller, name) in [(Caller::Certificate, "certificate"), (Caller::Token, "token and request id")] {
        for subjects in [1, 20, 500, 5_000, LEASES] {
            let server = Redis::start();
            let store = RedisStore::new(RedisOptions { retention: RETENTION, ..RedisOptions::new(server.url()) }).unwrap();
            store.incarnation().await.unwrap();
            let before = used_memory(&server);
            fill(&store, (0..LEASES).map(|n| put(n, subjects, caller))).await;
            let bytes = (used_memory(&server) - before) / u64::try_from(LEASES).unwrap();
            println!("{name}, {subjects} subjects: {bytes} B for one live lease");
            assert!(bytes <= BUDGET, "{bytes} B");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn puts_for_each_second() {
    for policy in ["no", "everysec", "always"] {
        let durable = if policy == "no" { ["--appendonly", "no"] } else { ["--appendonly", "yes"] };
        let fsync = if policy == "no" { "no" } else { policy };
        let server = Redis::start_with(&[durable[0], durable[1], "--appendfsync", fsync, "--save", ""]);
        let store = RedisStore::new(RedisOptions { retention: RETENTION, ..RedisOptions::new(server.url()) }).unwrap();
        report(&format!("redis, appendfsync {policy}"), &store).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&folder.path().join("leases.db"), RETENTION).unwrap();
    report("embedded", &store).await;
}

async fn report(name: &str, store: &dyn LeaseStore) {
    let mut waits = Vec::new();
    for n in 0..300 {
        let put = put(n, 500, Caller::Certificate);
        let began = Instant::now();
        store.put(&put).await.unwrap();
        waits.push(began.elapsed());
    }
    waits.sort_unstable();
    let began = Instant::now();
    fill(store, (0..20_000).map(|n| put(n, 500, Caller::Certificate))).await;
    let rate = 20_000.0 / began.elapsed().as_secs_f64();
    println!("{name}: {rate:.0} puts/s with {IN_FLIGHT} in flight; alone p50 {:?}", waits[waits.len() / 2]);
    assert!(waits[waits.len() / 2] < Duration::from_secs(1));
}

async fn fill(store: &dyn LeaseStore, puts: impl Iterator<Item = NewLease>) {
    let stored = stream::iter(puts).map(async |put| store.put(&put).await.unwrap()).buffer_unordered(IN_FLIGHT);
    stored.for_each(async |outcome| assert_eq!(outcome, Put::Stored)).await;
}

fn used_memory(server: &Redis) -> u64 {
    let info = server.cli(&["INFO", "memory"]);
    info.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse().ok()).unwrap()
}
