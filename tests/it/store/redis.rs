//! What is particular to the store in Redis, and the conformance suite on each way to run it.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use daypass::{
    model::{
        error::Code,
        lease::{Lease, LeaseFilter},
    },
    store::{
        LeaseStore, Put, Swap,
        redis::{RedisOptions, RedisStore},
    },
};
use zeroize::Zeroizing;

use super::{
    conformance::{CHECKS, each_check, pages},
    entries::each_entry_check,
    leases::{RETENTION, expired, lease, new},
    reference,
};
use crate::support::redis::{Cluster, PASSWORD, Redis, USER};

mod conforms {
    use super::*;
    each_check!(standalone());
    each_entry_check!(standalone());
}

fn standalone() -> (Redis, RedisStore) {
    let server = Redis::start();
    let store = RedisStore::new(options(&server)).unwrap();
    (server, store)
}

/// Options with a prefix of their own: stores that share a server do not see each other.
fn options(server: &Redis) -> RedisOptions {
    RedisOptions { prefix: fresh_prefix(), retention: RETENTION, timeout: Duration::from_secs(5), ..RedisOptions::new(server.url()) }
}

fn tls_options(server: &Redis) -> RedisOptions {
    RedisOptions {
        username: Some(USER.into()),
        password: Some(Zeroizing::new(PASSWORD.into())),
        ca_pem: Some(server.ca_pem()),
        ..options(server)
    }
}

fn cluster_options(cluster: &Cluster) -> RedisOptions {
    RedisOptions {
        urls: cluster.urls(),
        cluster: true,
        prefix: fresh_prefix(),
        retention: RETENTION,
        timeout: Duration::from_secs(5),
        ..RedisOptions::new("")
    }
}

fn fresh_prefix() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("daypass:test-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

#[test]
fn random_operations_agree_with_the_reference() {
    let server = Redis::start();
    reference::agrees(48, || Box::new(RedisStore::new(options(&server)).unwrap()));
    // What a case leaves once everything was purged: marks of time that nothing was told to forget, and CRLs.
    let left = server.cli(&["KEYS", "*"]);
    for key in left.lines() {
        let expected = [":use", "{crl"].iter().any(|kind| key.contains(kind));
        assert!(expected, "{key} was left behind");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_over_tls_as_an_acl_user() {
    let server = Redis::start_tls();
    for (name, check) in CHECKS {
        println!("{name}");
        check(&RedisStore::new(tls_options(&server)).unwrap()).await;
    }
    let wrong_user = RedisOptions { password: Some(Zeroizing::new("wrong".into())), ..tls_options(&server) };
    let other_ca = RedisOptions { ca_pem: Some(Redis::start_tls().ca_pem()), ..tls_options(&server) };
    for mut wrong in [wrong_user, other_ca] {
        wrong.timeout = Duration::from_millis(500);
        let error = RedisStore::new(wrong).unwrap().stats().await.unwrap_err();
        assert_eq!(error.code(), Code::StoreUnavailable);
        assert!(!format!("{error}").contains(PASSWORD));
    }
}

#[test]
fn conforms_on_a_cluster() {
    let mut cluster = Cluster::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for (name, check) in CHECKS {
        println!("{name}");
        runtime.block_on(async { check(&RedisStore::new(cluster_options(&cluster)).unwrap()).await });
    }
    reference::agrees(8, || Box::new(RedisStore::new(cluster_options(&cluster)).unwrap()));
    runtime.block_on(outlives_a_primary(&mut cluster));
}

/// Within one call's time limit the cluster elects another primary, and the call is answered by it.
async fn outlives_a_primary(cluster: &mut Cluster) {
    let options = RedisOptions { timeout: Duration::from_secs(30), ..cluster_options(cluster) };
    let store = RedisStore::new(options).unwrap();
    let every_partition = || (0..64).map(|n| lease(&format!("tenant-{n}"), "web", "spiffe://x/a")).collect::<Vec<Lease>>();
    let put_all = async |leases: Vec<Lease>| {
        let puts = leases.into_iter().map(async |lease| store.put(&new(&lease)).await);
        for outcome in futures::future::join_all(puts).await {
            assert_eq!(outcome.unwrap(), Put::Stored);
        }
    };
    put_all(every_partition()).await;
    let incarnation = store.incarnation().await.unwrap();
    cluster.kill_a_primary();
    put_all(every_partition()).await;
    assert_ne!(store.incarnation().await.unwrap(), incarnation);
}

#[tokio::test]
async fn it_starts_while_redis_is_away_and_works_when_it_comes() {
    let mut server = Redis::start();
    server.stop();
    let store = RedisStore::new(RedisOptions { timeout: Duration::from_millis(400), ..options(&server) }).unwrap();
    assert_unavailable_within(&store, Duration::from_millis(900)).await;
    server.start_again();
    let first = lease("acme", "web", "spiffe://acme/a");
    assert_eq!(store.put(&new(&first)).await.unwrap(), Put::Stored);

    server.stop();
    assert_unavailable_within(&store, Duration::from_millis(900)).await;
    server.start_again();
    // It came back empty: the scripts are unknown to it too, and what the audit log holds can be written again.
    assert_eq!(store.get(&[first.id]).await.unwrap(), [None]);
    assert_eq!(store.restore(std::slice::from_ref(&first)).await.unwrap(), 1);
    assert_eq!(store.swap(&[expired(&first)]).await.unwrap(), [Swap::Done]);
}

#[tokio::test]
async fn a_redis_that_hangs_is_given_up_in_time_and_left_for_a_new_connection() {
    let server = Redis::start();
    let store = RedisStore::new(RedisOptions { timeout: Duration::from_millis(400), ..options(&server) }).unwrap();
    store.stats().await.unwrap();
    server.signal("STOP");
    assert_unavailable_within(&store, Duration::from_millis(900)).await;
    server.signal("CONT");
    store.stats().await.unwrap();
}

#[tokio::test]
async fn many_callers_of_a_stopped_redis_all_fail_in_time_and_do_not_hammer_it() {
    let mut server = Redis::start();
    let store = RedisStore::new(RedisOptions { timeout: Duration::from_millis(500), ..options(&server) }).unwrap();
    server.stop();
    let began = Instant::now();
    let outcomes = futures::future::join_all((0..200).map(|_| store.stats())).await;
    assert!(outcomes.iter().all(|outcome| outcome.as_ref().is_err_and(|error| error.code() == Code::StoreUnavailable)));
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_primary_that_becomes_a_replica_is_left_for_the_new_one() {
    let (first, second) = (Redis::start(), Redis::start());
    second.cli(&["REPLICAOF", "127.0.0.1", &first.port.to_string()]);
    let urls = vec![first.url(), second.url()];
    let store = RedisStore::new(RedisOptions { urls, ..options(&first) }).unwrap();
    let mut kept = vec![lease("acme", "web", "spiffe://acme/a")];
    assert_eq!(store.put(&new(&kept[0])).await.unwrap(), Put::Stored);
    let incarnation = store.incarnation().await.unwrap();
    let began = Instant::now();
    while second.cli(&["DBSIZE"]) != first.cli(&["DBSIZE"]) || second.cli(&["DBSIZE"]) == "0" {
        assert!(began.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // A failover: the old primary lives on, and refuses to write.
    second.cli(&["REPLICAOF", "NO", "ONE"]);
    first.cli(&["REPLICAOF", "127.0.0.1", &second.port.to_string()]);
    kept.push(lease("acme", "web", "spiffe://acme/a"));
    assert_eq!(store.put(&new(&kept[1])).await.unwrap(), Put::Stored);
    assert_eq!(pages(&store, &LeaseFilter::default(), 10).await, kept);
    assert_ne!(store.incarnation().await.unwrap(), incarnation);
}

#[tokio::test]
async fn a_flushed_or_restarted_server_is_another_incarnation_and_restore_rebuilds_it() {
    let (mut server, store) = standalone();
    let leases: Vec<Lease> = (0..20).map(|n| lease(&format!("tenant-{n}"), "web", "spiffe://x/a")).collect();
    for lease in &leases {
        assert_eq!(store.put(&new(lease)).await.unwrap(), Put::Stored);
    }
    let incarnation = store.incarnation().await.unwrap();
    server.cli(&["FLUSHALL"]);
    let flushed = store.incarnation().await.unwrap();
    assert_ne!(flushed, incarnation);
    assert_eq!(pages(&store, &LeaseFilter::default(), 10).await, []);
    assert_eq!(store.restore(&leases).await.unwrap(), 20);
    assert_eq!(pages(&store, &LeaseFilter::default(), 10).await, leases);
    assert_eq!(store.stats().await.unwrap().live, 20);
    server.stop();
    server.start_again();
    assert_ne!(store.incarnation().await.unwrap(), flushed);
}

#[tokio::test]
async fn nothing_has_a_ttl_and_nothing_is_scanned() {
    let (server, store) = standalone();
    let first = lease("acme", "web", "spiffe://acme/a");
    store.put(&daypass::store::NewLease { request_key: Some([1; 16]), ..new(&first) }).await.unwrap();
    pages(&store, &LeaseFilter::default(), 10).await;
    store.due(first.expires_at, 10).await.unwrap();
    store.purge(&[], first.expires_at).await.unwrap();
    store.incarnation().await.unwrap();
    let used = server.cli(&["INFO", "commandstats"]);
    for command in ["scan", "keys", "sscan", "hscan", "zscan", "expire", "pexpire", "hgetall"] {
        assert!(!used.contains(&format!("cmdstat_{command}:")), "{command} was used");
    }
    for key in server.cli(&["KEYS", "*"]).lines() {
        assert_eq!(server.cli(&["TTL", key]), "-1");
    }
}

#[tokio::test]
async fn a_put_is_one_round_trip() {
    let (server, store) = standalone();
    store.put(&new(&lease("acme", "web", "spiffe://acme/a"))).await.unwrap();
    let before = commands(&server);
    for _ in 0..50 {
        store.put(&new(&lease("acme", "web", "spiffe://acme/a"))).await.unwrap();
    }
    assert_eq!(commands(&server) - before, 50);
}

#[test]
fn wrong_options_are_refused_in_words_that_show_no_password() {
    for (options, says) in [
        (RedisOptions { urls: vec![], ..RedisOptions::new("") }, "at least one"),
        (RedisOptions::new("http://user:hunter2@127.0.0.1"), "URL 1"),
        (RedisOptions::new("redis://user:hunter2@[::"), "URL 1"),
        (RedisOptions { prefix: "a{b}".into(), ..RedisOptions::new("redis://127.0.0.1") }, "prefix"),
        (RedisOptions { timeout: Duration::ZERO, ..RedisOptions::new("redis://127.0.0.1") }, "time limit"),
    ] {
        let error = RedisStore::new(options).err().unwrap();
        let text = format!("{error}");
        assert!(text.contains(says) && !text.contains("hunter2"), "{text}");
    }
}

async fn assert_unavailable_within(store: &RedisStore, limit: Duration) {
    let began = Instant::now();
    let error = store.put(&new(&lease("acme", "web", "spiffe://acme/a"))).await.unwrap_err();
    assert_eq!(error.code(), Code::StoreUnavailable);
    assert!(began.elapsed() < limit, "{:?}", began.elapsed());
}

/// How many scripts clients have called.
fn commands(server: &Redis) -> u64 {
    let stats = server.cli(&["INFO", "commandstats"]);
    let calls = |line: &str| line.split(['=', ',']).nth(1).and_then(|calls| calls.parse::<u64>().ok());
    stats.lines().filter(|line| line.starts_with("cmdstat_eval")).filter_map(calls).sum()
}
