//! Canary secrets: what must never be kept or told is looked for wherever the server writes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

use super::{
    token,
    world::{Caller, Given, World},
};
use crate::keys::in_the_clear;
use crate::support::{
    parts::{
        ministack::{MiniStack, allow, policy},
        nginx::curl,
    },
    redis::{PASSWORD, Redis, USER},
};

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

/// Runs every action with canaries in it, takes every kind of credential, and gives the canaries and all that the client said.
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
    vend_registry_secrets(world, &mut canaries);
    vend_jwts(world, &mut canaries);
    // What `issue` and `renew` print without --out is the client's own key; the server never saw it.
    let told: String = told
        .split("-----BEGIN PRIVATE KEY-----")
        .map(|part| part.split_once("-----END PRIVATE KEY-----").map_or(part, |(_, rest)| rest))
        .collect();
    (canaries, told)
}

/// What the client was given, and under which lease. This is the secret itself, and no place to look for it.
fn given(world: &World, caller: &Caller, args: &[&str]) -> (Value, String) {
    let mut said = world.cli(caller, [args, &["-o", "json"]].concat()).json();
    let id = said["lease"]["id"].as_str().unwrap().to_owned();
    (said["credential"].take(), id)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name}"))
}

/// Issues and renews secrets for a registry, and shows them, wrong ones and tokens at the token endpoint in every way there is.
fn vend_registry_secrets(world: &World, canaries: &mut Canaries) {
    const SERVICE: &str = "registry.dev.daypass.test";
    const SCOPE: &str = "repository:demo/a:pull,push";
    canaries.key(&world.file("pki/registry.key"));
    let endpoint = format!("http://127.0.0.1:{}/token", world.http);
    let query = format!("{endpoint}?service={SERVICE}&scope={SCOPE}");
    // How it goes on in JSON, if it is given at all: the status comes last.
    let ask = |args: &[&str]| {
        let ran = curl(&[args, &["--write-out", "%{http_code}"]].concat()).text();
        let (body, status) = ran.split_at(ran.len() - 3);
        (serde_json::from_str::<Value>(body).unwrap_or_else(|error| panic!("no JSON ({error}): {ran}")), status.to_owned())
    };
    for caller in [world.operator(), Caller::token(token::mint(world, json!({})))] {
        let (issued, lease) = given(world, &caller, &["issue", "push"]);
        let (renewed, _) = given(world, &world.operator(), &["issue", "push"]);
        let renewed_too = caller.pair.is_some().then(|| given(world, &caller, &["lease", "renew", &lease]).0);
        for credential in [Some(issued), Some(renewed), renewed_too].into_iter().flatten() {
            let (user, secret) = (text(&credential, "username"), text(&credential, "secret"));
            // Before it stands the lease's id, which is no secret.
            let (_, random) = secret.trim_start_matches("dpr_").split_once('_').unwrap();
            canaries.add("a registry's secret", random);
            canaries.add("a registry's login", STANDARD.encode(format!("{user}:{secret}")));
            let login = format!("{user}:{secret}");
            let refresh = format!("grant_type=refresh_token&refresh_token={secret}&service={SERVICE}&scope={SCOPE}");
            let password = format!("grant_type=password&username={user}&password={secret}&service={SERVICE}&scope={SCOPE}");
            // The URL is where a careless client writes it.
            let careless = format!("{query}&password={secret}");
            for args in [
                ["--user", &login, &query],
                ["--data", &refresh, &endpoint],
                ["--data", &password, &endpoint],
                ["--user", &login, &careless],
            ] {
                let (answer, status) = ask(&args);
                assert_eq!(status, "200", "{}", args[0]);
                canaries.token("a token for a registry", text(&answer, "access_token"));
            }
            let guess = format!("dpr_canary_{}", URL_SAFE_NO_PAD.encode(daypass::clock::random::<24>()));
            canaries.add("a guess", &guess);
            canaries.add("a guess as a login", STANDARD.encode(format!("{user}:{guess}")));
            let wrong = format!("grant_type=refresh_token&refresh_token={guess}&service={SERVICE}");
            let garbage = format!("{guess}=%zz&{guess}");
            for (args, status) in [
                (["--user", &format!("{user}:{guess}"), query.as_str()], "401"),
                (["--user", &format!("{guess}:{user}"), &query], "401"),
                (["--data", &wrong, &endpoint], "401"),
                (["--data", &garbage, &endpoint], "400"),
                (["--header", &format!("Authorization: Bearer {guess}"), &query], "401"),
            ] {
                let (answer, got) = ask(&args);
                assert_eq!(got, status, "{args:?}");
                canaries.absent_in("a refusal", answer.to_string().as_bytes());
            }
        }
        assert_eq!(world.cli(&world.operator(), ["lease", "revoke", &lease]).code, 0);
    }
}

/// Issues and renews JWTs, and looks for the keys that sign them.
fn vend_jwts(world: &World, canaries: &mut Canaries) {
    for (number, caller) in [world.operator(), Caller::token(token::mint(world, json!({})))].iter().enumerate() {
        let (issued, lease) = given(world, caller, &["issue", "federate"]);
        canaries.token("a JWT", text(&issued, "token"));
        if number == 0 {
            canaries.token("a renewed JWT", text(&given(world, caller, &["lease", "renew", &lease]).0, "token"));
        }
        assert_eq!(world.cli(&world.operator(), ["lease", "revoke", &lease]).code, 0);
    }
    let keys = in_the_clear(world.dir(), "jwt");
    assert!(!keys.is_empty(), "JWTs are signed by something");
    for key in &keys {
        canaries.add("a key that signs JWTs", key);
        canaries.add("a key that signs JWTs, in base64", STANDARD.encode(key));
        // RFC 5915 section 3: the private key is an OCTET STRING of 32 bytes.
        let at = key.windows(2).position(|head| head == [0x04, 0x20]).unwrap() + 2;
        canaries.add("the private half of a key that signs JWTs", &key[at..at + 32]);
        canaries.add("the private half of a key that signs JWTs, as a JWK has it", URL_SAFE_NO_PAD.encode(&key[at..at + 32]));
    }
    let wrapping = world.read("wrap.key");
    canaries.add("the wrapping key, in base64", wrapping.trim());
    canaries.add("the wrapping key", STANDARD.decode(wrapping.trim()).unwrap());
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
    for path in ["/readyz", "/jwks.json", "/.well-known/openid-configuration"] {
        canaries.absent_in(path, &world.fetch(path));
    }
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
fn no_key_of_aws_is_kept_or_told() {
    let aws = MiniStack::start();
    let roles = "arn:aws:iam::000000000000:role/*";
    let may = ["iam:CreateRole", "iam:PutRolePolicy", "iam:GetRolePolicy", "iam:DeleteRolePolicy", "sts:AssumeRole", "sts:TagSession"];
    let own = aws.user("vendor", &policy(&[allow(&may, &[roles])]));
    let env = vec![("AWS_ACCESS_KEY_ID", own.id), ("AWS_SECRET_ACCESS_KEY", own.secret.clone())];
    let mut world = World::with(Given { args: vec!["--aws-endpoint".to_owned(), aws.url().to_owned()], env }, None);
    trace(&mut world);
    let mut canaries = Canaries::default();
    canaries.add("the service's own key", own.secret);
    let mut told = String::new();
    for caller in [world.operator(), world.job()] {
        let (issued, lease) = given(&world, &caller, &["issue", "deploy"]);
        let renewed = caller.pair.is_some().then(|| given(&world, &caller, &["lease", "renew", &lease]).0);
        for session in [Some(issued), renewed].into_iter().flatten() {
            for name in ["secret_access_key", "session_token"] {
                canaries.add(name, text(&session, name));
            }
        }
        for args in [["lease", "get", &lease], ["lease", "revoke", &lease], ["audit", "tail", "-o=json"]] {
            told += &world.cli(&world.operator(), args).stdout;
        }
    }
    // It refuses what it has no role for, and the refusal comes back by name.
    world.reconfigure(|world| world.edit("daypass.toml", "role/daypass-dev-deploy", "role/no-such-role"));
    let refused = world.cli(&world.operator(), ["issue", "deploy", "-o", "json"]);
    assert_eq!(refused.code, 4, "{refused:?}");
    told += &refused.stderr;
    absent_everywhere(&world, &canaries, &told);
    // The SDK's own log would tell what it signs and is answered: no filter opens it.
    assert!(world.log().contains("TRACE") && !world.log().contains("aws_smithy_runtime"), "the log is at trace, but for the SDK");
    for policy in aws.inline_policies("daypass-dev-deploy").values() {
        canaries.absent_in("the IAM role", policy.to_string().as_bytes());
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
