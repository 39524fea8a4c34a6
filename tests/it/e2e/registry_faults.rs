//! The token endpoint while things go wrong, and at two servers: what is revoked stays so, and what is good goes on.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use daypass::{
    clock::{Clock, SystemClock},
    model::{SignedDuration, Timestamp},
};
use serde_json::{Value, json};

use super::{token, two_servers::Second, world::World};
use crate::support::{
    parts::{nginx::curl, registry::Registry, wait_until},
    redis::Redis,
};

/// Within this a caller learns that Redis is away, and within this the server is itself again.
const PATIENCE: Duration = Duration::from_secs(8);

/// How long something may take that takes moments.
const SOON: Duration = Duration::from_secs(30);

/// A lease and its login, `user:secret`.
struct Login {
    lease: String,
    login: String,
}

impl Login {
    fn of(issued: &Value) -> Self {
        let text = |path: &str| issued.pointer(path).and_then(Value::as_str).unwrap_or_else(|| panic!("no {path}"));
        Self { lease: text("/lease/id").to_owned(), login: format!("{}:{}", text("/credential/username"), text("/credential/secret")) }
    }

    fn new(world: &World) -> Self {
        Self::of(&world.cli(&world.operator(), ["issue", "push", "-o", "json"]).json())
    }

    /// What a server's endpoint answers: the status and the body.
    fn exchange(&self, http: u16) -> (u16, Value) {
        let url = format!("http://127.0.0.1:{http}/token?service=registry.dev.daypass.test&scope=repository:demo/a:pull,push");
        let ran = curl(&["--user", &self.login, "--write-out", "\n%{http_code}", &url]);
        let text = ran.text();
        let (body, status) = text.rsplit_once('\n').unwrap_or_else(|| panic!("no answer: {}", ran.all()));
        (status.parse().unwrap(), serde_json::from_str(body).unwrap_or_else(|error| panic!("no JSON ({error}): {}", ran.all())))
    }

    /// A token of the endpoint.
    fn token(&self, http: u16) -> String {
        let (status, body) = self.exchange(http);
        assert_eq!(status, 200, "{body}");
        body["token"].as_str().expect("a token").to_owned()
    }

    /// Revokes it; until when its last token is taken.
    fn revoke(&self, world: &World) -> Timestamp {
        let told = world.cli(&world.operator(), ["lease", "revoke", &self.lease, "-o", "json"]).json();
        assert_eq!(told["revoked"], 1, "{told}");
        told["live_until"].as_str().unwrap().parse().unwrap()
    }
}

/// Until when a registry takes a token: a minute past its end.
fn accepted_until(token: &str) -> Timestamp {
    Timestamp::from_second(token::claims(token)["exp"].as_i64().unwrap()).unwrap() + SignedDuration::from_mins(1)
}

#[test]
fn a_store_that_is_away_gives_no_token_and_says_so() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
    let world = World::on_redis(&redis.url());
    let (holder, gone) = (Login::new(&world), Login::new(&world));
    holder.token(world.http);
    gone.revoke(&world);

    redis.stop();
    for login in [&holder, &gone] {
        let began = Instant::now();
        let (status, body) = login.exchange(world.http);
        assert_eq!((status, &body["errors"][0]["code"]), (503, &json!("UNAVAILABLE")), "{body}");
        assert!(began.elapsed() < PATIENCE && body.get("token").is_none(), "{:?} {body}", began.elapsed());
    }
    redis.start_again();
    world.wait_ready(true, PATIENCE);
    holder.token(world.http);
    assert_eq!(gone.exchange(world.http).0, 401, "what was revoked stays so");
    let failed: Vec<Value> =
        world.records().into_iter().filter(|record| record["method"] == "registry/exchange" && record["outcome"] == "failed").collect();
    assert!(!failed.is_empty() && failed.iter().all(|record| record["reason"] == "STORE_UNAVAILABLE"), "{failed:?}");
}

#[test]
fn a_crash_changes_nothing_for_who_holds_a_secret() {
    let mut world = World::start();
    let registry = Registry::from_file(&world.file("registry.yml"));
    let (holder, gone) = (Login::new(&world), Login::new(&world));
    let before = holder.token(world.http);
    gone.revoke(&world);
    world.kill();
    world.start_again();
    assert_eq!(gone.exchange(world.http).0, 401);
    for token in [before, holder.token(world.http)] {
        assert_eq!(registry.status("POST", "/v2/demo/a/blobs/uploads/", &token), 202, "the registry never heard of it");
    }
}

#[test]
fn what_one_server_vends_or_revokes_holds_at_the_other_at_once() {
    let redis = Redis::start();
    let world = World::on_redis(&redis.url());
    let second = Second::start(&world);
    let registry = Registry::from_file(&world.file("registry.yml"));
    let (code, issued) = second.cli(&world, &world.operator(), &["issue", "push", "-o", "json"]);
    assert_eq!(code, Some(0));
    let (here, there) = (Login::new(&world), Login::of(&issued));
    for login in [&here, &there] {
        for http in [world.http, second.http] {
            assert_eq!(registry.status("POST", "/v2/demo/a/blobs/uploads/", &login.token(http)), 202);
        }
        let last = login.token(second.http);
        let live_until = login.revoke(&world);
        assert_eq!([login.exchange(second.http).0, login.exchange(world.http).0], [401, 401], "without a moment's delay");
        assert!(accepted_until(&last) <= live_until, "{live_until} counts what the other server exchanged");
    }
}

#[test]
fn no_exchange_outlives_a_revocation_that_it_races_with() {
    let world = World::start();
    for _ in 0..3 {
        let holder = Login::new(&world);
        let (enough, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (live_until, revoked_at, exchanged) = thread::scope(|scope| {
            let ask = || {
                let mut answers = Vec::new();
                while !enough.load(Ordering::SeqCst) {
                    let begun = SystemClock.now();
                    answers.push((begun, holder.exchange(world.http)));
                    asked.fetch_add(1, Ordering::SeqCst);
                }
                answers
            };
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(ask)).collect();
            let wait_for_more = |more: usize| {
                let seen = asked.load(Ordering::SeqCst);
                wait_until(SOON, "more exchanges", || (asked.load(Ordering::SeqCst) >= seen + more).then_some(()));
            };
            wait_for_more(6);
            let live_until = holder.revoke(&world);
            let revoked_at = SystemClock.now();
            wait_for_more(6);
            enough.store(true, Ordering::SeqCst);
            let exchanged: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
            (live_until, revoked_at, exchanged)
        });
        for (begun, (status, body)) in &exchanged {
            match status {
                200 => {
                    let token = body["token"].as_str().unwrap();
                    assert!(*begun <= revoked_at, "it began at {begun}, after {revoked_at}");
                    assert!(accepted_until(token) <= live_until, "{} {live_until}", accepted_until(token));
                }
                401 => {}
                other => panic!("{other}: {body}"),
            }
        }
        let granted = exchanged.iter().filter(|(_, (status, _))| *status == 200).count();
        assert!(granted >= 6 && exchanged.len() >= granted + 6, "{granted} of {}", exchanged.len());
    }
}
