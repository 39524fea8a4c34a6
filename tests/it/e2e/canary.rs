//! Canary secrets: what must never be kept or told is looked for wherever the server writes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;

use super::{
    token,
    world::{Caller, World},
};
use crate::support::redis::{PASSWORD, Redis, USER};

/// Texts that nobody may find again.
#[derive(Default)]
struct Canaries(Vec<(String, Vec<u8>)>);

impl Canaries {
    fn add(&mut self, what: &str, secret: impl AsRef<[u8]>) {
        assert!(secret.as_ref().len() >= 16, "{what} is too short to be looked for");
        self.0.push((what.to_owned(), secret.as_ref().to_vec()));
    }

    /// A signed token: its payload and its signature. The header is the same for every token of an issuer.
    fn token(&mut self, what: &str, token: &str) {
        let mut parts = token.split('.').skip(1);
        self.add(&format!("the payload of {what}"), parts.next().unwrap());
        self.add(&format!("the signature of {what}"), parts.next().unwrap());
    }

    /// A private key, PEM: each line of its body, and its DER.
    fn key(&mut self, path: &Path) {
        let pem = fs::read_to_string(path).unwrap();
        for line in pem.lines().filter(|line| !line.starts_with("-----") && line.len() >= 32) {
            self.add(&format!("{}", path.display()), line);
        }
    }

    fn absent_in(&self, place: &str, content: &[u8]) {
        for (what, secret) in &self.0 {
            let found = content.windows(secret.len()).any(|window| window == secret);
            assert!(!found, "{place} holds {what}");
        }
    }
}

/// Runs every action with canaries in it, and gives the canaries and all that the client said.
fn provoke(world: &World) -> (Canaries, String) {
    let mut canaries = Canaries::default();
    let mut told = String::new();
    for name in ["operator.key", "vendor.key", "pki/root.key", "pki/issuing.key", "pki/server.key"] {
        canaries.key(&world.file(name));
    }
    let mut say = |caller: &Caller, args: &[&str]| {
        let said = world.cli(caller, args);
        told.push_str(&said.stdout);
        told.push_str(&said.stderr);
        said
    };
    let garbage = format!("canary-{}", URL_SAFE_NO_PAD.encode(daypass::clock::random::<24>()));
    let mut tokens =
        vec![("a good token", token::mint(world, json!({})), 0), ("an expired token", token::mint(world, json!({"exp": 1000})), 3)];
    tokens.push(("a token for another audience", token::mint(world, json!({"aud": "x"})), 3));
    tokens.push(("a token of no tenant", token::mint(world, json!({"repository_id": "0"})), 4));
    tokens.push(("a token of nobody", format!("{garbage}.{garbage}.{garbage}"), 3));
    let job = Caller::token(tokens[0].1.clone());
    for (what, token, code) in &tokens {
        for args in [&["issue", "web"][..], &["issue", "web", "-o", "json"], &["whoami"], &["lease", "list"], &["audit", "tail"]] {
            let said = say(&Caller::token(token.clone()), args);
            assert!(*code == 0 || said.code == *code, "{what}: {said:?}");
        }
        canaries.token(what, token);
    }
    canaries.add("a garbage token", &garbage);
    say(&job, &["issue", "web", "--request-id", "again"]);

    // Keys that the client makes: they never leave its machine.
    for (name, caller, role) in [("o", world.operator(), "web"), ("v", world.vendor(), "vendor-client")] {
        let out = world.file(&format!("kept-{name}"));
        let said = say(&caller, &["issue", role, "-o", "json", "--out", &out.display().to_string()]).json();
        canaries.key(&out.join("tls.key"));
        let id = said["lease"]["id"].as_str().unwrap().to_owned();
        say(&caller, &["lease", "renew", &id]);
        say(&world.operator(), &["lease", "revoke", &id]);
    }
    // What `issue` and `renew` print without --out is the client's own key; the server never saw it.
    let told: String = told
        .split("-----BEGIN PRIVATE KEY-----")
        .map(|part| part.split_once("-----END PRIVATE KEY-----").map_or(part, |(_, rest)| rest))
        .collect();
    (canaries, told)
}

fn trace(world: &mut World) {
    world.stop();
    world.edit("daypass.toml", "filter = \"info\"", "filter = \"trace\"");
    world.start_again();
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn absent_everywhere(world: &World, canaries: &Canaries, told: &str) {
    canaries.absent_in("what the client was told", told.as_bytes());
    canaries.absent_in("/metrics", &world.fetch("/metrics"));
    canaries.absent_in("/readyz", &world.fetch("/readyz"));
    let log = world.log();
    assert!(log.contains("TRACE"), "the log tells everything");
    canaries.absent_in("the log", log.as_bytes());
    canaries.absent_in("the standard output", world.greeting().as_bytes());
    for path in files(&world.file("audit")).into_iter().chain(files(&world.file("store"))) {
        canaries.absent_in(&path.display().to_string(), &fs::read(&path).unwrap());
    }
}

#[test]
fn no_secret_is_kept_or_told_with_the_embedded_store() {
    let mut world = World::start();
    trace(&mut world);
    let (canaries, told) = provoke(&world);
    absent_everywhere(&world, &canaries, &told);
    // The search itself works: what is no secret is found.
    let log = fs::read(&world.segments()[0]).unwrap();
    assert!(String::from_utf8_lossy(&log).contains("TOKEN_AUDIENCE"));
    world.stop();
    for path in files(&world.file("store")) {
        canaries.absent_in(&path.display().to_string(), &fs::read(&path).unwrap());
    }
}

#[test]
fn no_secret_is_kept_or_told_with_redis() {
    let redis = Redis::start();
    let mut world = World::on_redis(&redis.url());
    trace(&mut world);
    let (canaries, told) = provoke(&world);
    absent_everywhere(&world, &canaries, &told);
    let dump = world.file("dump.rdb");
    redis.cli(&["--rdb", &dump.display().to_string()]);
    let dump = fs::read(dump).unwrap();
    assert!(dump.starts_with(b"REDIS") && dump.len() > 1000);
    canaries.absent_in("the dump of Redis", &dump);
    // A dump may be compressed: each value as Redis gives it, too.
    let keys = redis.cli(&["KEYS", "*"]);
    assert!(keys.lines().count() > 3);
    for key in keys.lines() {
        let read = match redis.cli(&["TYPE", key]).as_str() {
            "string" => redis.cli(&["GET", key]),
            "hash" => redis.cli(&["HGETALL", key]),
            "zset" => redis.cli(&["ZRANGE", key, "0", "-1"]),
            "set" => redis.cli(&["SMEMBERS", key]),
            "list" => redis.cli(&["LRANGE", key, "0", "-1"]),
            other => panic!("{key} is a {other}: say here how it is read"),
        };
        canaries.absent_in(key, read.as_bytes());
        canaries.absent_in("the keys of Redis", key.as_bytes());
    }
}

#[test]
fn the_password_of_redis_is_not_told_when_it_is_right_or_wrong_or_redis_is_gone() {
    let mut redis = Redis::start_tls();
    let mut world = World::start();
    world.stop();
    let mut canaries = Canaries::default();
    canaries.add("the password of Redis", PASSWORD);
    fs::write(world.file("redis.password"), PASSWORD).unwrap();
    fs::write(world.file("redis-ca.pem"), redis.ca_pem()).unwrap();
    let store = format!(
        "kind = \"redis\"\nurls = [\"{}\"]\nusername = \"{USER}\"\npassword_file = \"redis.password\"\nca = \"redis-ca.pem\"\n",
        redis.url()
    );
    let old = world.read("daypass.toml");
    let begin = old.find("[store]").unwrap();
    let end = begin + old[begin..].find("\n[").unwrap();
    world.write("daypass.toml", &format!("{}[store]\n{store}{}", &old[..begin], &old[end..]));
    world.edit("daypass.toml", "filter = \"info\"", "filter = \"trace\"");
    world.start_again();
    world.lease(&world.operator(), "web");
    absent_everywhere(&world, &canaries, "");

    redis.stop();
    let said = world.cli(&world.operator(), ["issue", "web", "-o", "json"]);
    assert_eq!(said.code, 6, "{said:?}");
    absent_everywhere_unready(&world, &canaries, &said.stderr);
    redis.start_again();
    world.wait_ready(true, std::time::Duration::from_secs(10));
    world.lease(&world.operator(), "web");
    absent_everywhere(&world, &canaries, "");
}

/// The same while `/readyz` says no.
fn absent_everywhere_unready(world: &World, canaries: &Canaries, told: &str) {
    canaries.absent_in("what the client was told", told.as_bytes());
    canaries.absent_in("/metrics", &world.fetch("/metrics"));
    canaries.absent_in("/readyz", world.wait_ready(false, std::time::Duration::from_secs(10)).as_bytes());
    canaries.absent_in("the log", world.log().as_bytes());
}
