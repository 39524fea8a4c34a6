//! Two servers over one Redis: what one does the other knows, and nothing is done twice.

use std::{
    collections::HashMap,
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use super::world::{Caller, World};
use crate::support::{
    parts::{Process, free_port, run, wait_until},
    redis::Redis,
};

/// A second server beside the world's own: the same CA, roles, policy and Redis; its own ports and audit log.
pub struct Second {
    /// Where gRPC listens, on 127.0.0.1.
    pub grpc: u16,
    /// Where HTTP listens.
    pub http: u16,
    _process: Process,
}

impl Second {
    pub fn start(world: &World) -> Self {
        let second = Self::start_unready(world);
        second.wait_for("/readyz", "the second server is ready");
        second
    }

    /// The same without waiting for what it needs.
    pub fn start_unready(world: &World) -> Self {
        let (grpc, http) = (free_port(), free_port());
        let config = world.read("daypass.toml");
        let lines = config.lines().map(|line| match line.split_once('=').map(|(key, _)| key.trim()) {
            Some("grpc") => format!("grpc = \"127.0.0.1:{grpc}\""),
            Some("http") => format!("http = \"127.0.0.1:{http}\""),
            Some("dir") => "dir = \"audit-second\"".to_owned(),
            Some("admin") => "admin = \"second.sock\"".to_owned(),
            _ => line.to_owned(),
        });
        let path = world.file("second.toml");
        fs::write(&path, lines.collect::<Vec<_>>().join("\n")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_daypassd"));
        command.arg("serve").arg("--config").arg(&path).stdout(Stdio::null()).stderr(Stdio::null());
        let second = Self { grpc, http, _process: Process::start(&mut command) };
        second.wait_for("/healthz", "the second server lives");
        second
    }

    fn wait_for(&self, path: &str, what: &str) {
        let url = format!("http://127.0.0.1:{}{path}", self.http);
        wait_until(Duration::from_secs(30), what, || run(Command::new("curl").args(["-fsS", &url])).ok.then_some(()));
    }

    pub fn cli(&self, world: &World, caller: &Caller, args: &[&str]) -> (Option<i32>, Value) {
        let mut command = world.command(caller);
        command.env("DAYPASS_ADDR", format!("127.0.0.1:{}", self.grpc));
        let ran = run(command.args(args));
        (ran.code, serde_json::from_str(&ran.text()).unwrap_or(Value::Null))
    }

    fn crl(&self, world: &World) -> String {
        let (der, pem) = (world.file("second.crl"), world.file("second.crl.pem"));
        let url = format!("http://127.0.0.1:{}/crl/issuing.crl", self.http);
        assert!(run(Command::new("curl").args(["-fsS", &url, "-o"]).arg(&der)).ok);
        let shown = run(Command::new("openssl").args(["crl", "-inform", "der", "-text", "-in"]).arg(&der).arg("-out").arg(&pem));
        assert!(shown.ok, "{}", shown.all());
        fs::read_to_string(pem).unwrap().to_lowercase()
    }
}

#[test]
fn a_revocation_at_one_server_is_in_the_crl_of_the_other_within_a_second() {
    let redis = Redis::start();
    let world = World::on_redis(&redis.url());
    let second = Second::start(&world);
    let (issued, _) = world.issue(&world.operator(), "web", "web");
    let (id, serial) = (issued["lease"]["id"].as_str().unwrap(), issued["lease"]["serial"].as_str().unwrap());
    assert_eq!(second.cli(&world, &world.operator(), &["lease", "get", id, "-o", "json"]).1["state"], "active");

    let revoked = world.cli(&world.operator(), ["lease", "revoke", id]);
    assert_eq!(revoked.code, 0, "{}", revoked.stderr);
    wait_until(Duration::from_secs(1), "the other server's CRL names the serial", || second.crl(&world).contains(serial).then_some(()));
    assert_eq!(second.cli(&world, &world.operator(), &["lease", "get", id, "-o", "json"]).1["state"], "revoked");
}

#[test]
fn a_client_revoked_at_one_server_is_refused_at_the_other() {
    let redis = Redis::start();
    let world = World::on_redis(&redis.url());
    let second = Second::start(&world);
    let (issued, pair) = world.issue(&world.vendor(), "vendor-client", "vendor-client");
    let agent = Caller::pair(pair);
    assert_eq!(second.cli(&world, &agent, &["whoami"]).0, Some(0));
    let revoked = world.cli(&world.operator(), ["lease", "revoke", issued["lease"]["id"].as_str().unwrap()]);
    assert_eq!(revoked.code, 0, "{}", revoked.stderr);
    wait_until(Duration::from_secs(5), "the other server refuses the client", || {
        (second.cli(&world, &agent, &["whoami"]).0 == Some(3)).then_some(())
    });
}

#[test]
fn one_request_at_both_servers_is_one_lease() {
    let redis = Redis::start();
    let world = World::on_redis(&redis.url());
    let second = Second::start(&world);
    let key = world.file("key.pem");
    let csr = world.file("request.csr");
    let made = run(Command::new("openssl")
        .args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&csr));
    assert!(made.ok, "{}", made.all());
    let job = world.job();
    let csr = csr.display().to_string();
    let args = ["issue", "web", "--request-id", "step-7", "--csr", &csr, "-o", "json"];
    let ids = std::thread::scope(|scope| {
        let here = scope.spawn(|| world.cli(&job, args).json()["lease"]["id"].clone());
        let there = scope.spawn(|| second.cli(&world, &job, &args).1["lease"]["id"].clone());
        [here.join().unwrap(), there.join().unwrap()]
    });
    assert!(ids[0].is_string() && ids[0] == ids[1], "{ids:?}");
}

#[test]
fn both_sweep_and_each_expiry_is_on_record_once() {
    let redis = Redis::start();
    let world = World::on_redis(&redis.url());
    let second = Second::start(&world);
    let issue = |n: u32| {
        let id = if n.is_multiple_of(2) {
            world.cli(&world.operator(), ["issue", "web", "--ttl", "2s", "-o", "json"]).json()
        } else {
            second.cli(&world, &world.operator(), &["issue", "web", "--ttl", "2s", "-o", "json"]).1
        };
        id["lease"]["id"].as_str().expect("issued").to_owned()
    };
    let ids: Vec<String> = (0..12).map(issue).collect();
    let expiries = || {
        let mut count: HashMap<String, usize> = HashMap::new();
        for dir in ["audit", "audit-second"] {
            for entry in fs::read_dir(world.file(dir)).unwrap() {
                let text = fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
                for record in text.lines().filter(|line| line.contains("sweep/expire")) {
                    let record: Value = serde_json::from_str(record).unwrap();
                    *count.entry(record["lease_id"].as_str().unwrap().to_owned()).or_default() += 1;
                }
            }
        }
        count
    };
    let count = wait_until(Duration::from_secs(20), "every lease expires", || {
        let count = expiries();
        ids.iter().all(|id| count.contains_key(id)).then_some(count)
    });
    assert!(count.values().all(|times| *times == 1), "{count:?}");
}
