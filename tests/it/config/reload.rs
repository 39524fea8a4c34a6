//! A reload of a server that runs: what it takes up, and what it says of the rest.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use daypass::{
    clock::{Clock, SystemClock},
    issuer::x509::{Authority, CaConfig, DEFAULT_CRL_LIFE, FileKey, San, bootstrap},
    model::SignedDuration,
};
use serde_json::Value;

use crate::support::parts::{Process, free_port, run, wait_until};

const SOON: Duration = Duration::from_secs(20);

/// `daypassd dev` in a directory of its own.
struct Dev {
    dir: tempfile::TempDir,
    grpc: u16,
    _process: Process,
}

impl Dev {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (grpc, http) = (free_port(), free_port());
        let mut dev = Command::new(env!("CARGO_BIN_EXE_daypassd"));
        dev.arg("dev").arg("--dir").arg(dir.path());
        dev.args(["--grpc", &format!("127.0.0.1:{grpc}"), "--http", &format!("127.0.0.1:{http}")]);
        dev.stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process::start(&mut dev);
        wait_until(SOON, "daypassd dev is ready", || {
            run(Command::new("curl").args(["-fsS", &format!("http://127.0.0.1:{http}/readyz")])).ok.then_some(())
        });
        Self { dir, grpc, _process: process }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Replaces files, each by a rename, as whoever renews a certificate does.
    fn replace(&self, name: &str, content: &str) {
        let beside = self.file("beside");
        fs::write(&beside, content).unwrap();
        fs::rename(beside, self.file(name)).unwrap();
    }

    /// What a handshake shows.
    fn shown(&self) -> String {
        let client =
            format!("openssl s_client -connect 127.0.0.1:{} -alpn h2 </dev/null 2>/dev/null | openssl x509 -noout -dates", self.grpc);
        run(Command::new("sh").args(["-c", &client])).all()
    }

    /// The detail of each reload on record that is done.
    fn reloads(&self) -> Vec<Vec<Value>> {
        let segments = fs::read_dir(self.file("audit")).unwrap().filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok());
        let text: String = segments.collect();
        let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let done = records.filter(|record| record["method"] == "config/reload" && record["outcome"] == "done");
        done.map(|record| record["detail"].as_array().cloned().unwrap_or_default()).collect()
    }
}

/// A certificate and its key for the server of a throwaway world, valid for so many days.
fn server_pair(dir: &Path, days: i64) -> (String, String) {
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    let now = SystemClock.now();
    let config = CaConfig {
        name: "issuing".parse().unwrap(),
        chain_pem: read("pki/issuing.pem").into_bytes(),
        root_pem: read("ca.pem").into_bytes(),
        key: Arc::new(FileKey::from_pem(&read("pki/issuing.key")).unwrap()),
        crl_url: "http://127.0.0.1/crl/issuing.crl".to_owned(),
        crl_life: DEFAULT_CRL_LIFE,
    };
    let names = vec![San::Dns("localhost".to_owned()), San::Ip([127, 0, 0, 1].into())];
    let made =
        bootstrap::create_server_certificate(&Authority::load(config, now).unwrap(), names, now, SignedDuration::from_hours(24 * days));
    let made = made.unwrap();
    (made.chain_pem, made.key_pem.to_string())
}

#[test]
fn a_renewed_server_certificate_is_shown_without_a_restart() {
    let dev = Dev::start();
    let before = dev.shown();
    assert!(before.contains("notAfter="), "{before}");
    let (chain, key) = server_pair(dev.dir.path(), 90);
    dev.replace("pki/server.key", &key);
    dev.replace("pki/server.pem", &chain);
    wait_until(SOON, "the new certificate is shown", || {
        let now = dev.shown();
        (now.contains("notAfter=") && now != before).then_some(())
    });
}

#[test]
fn a_reload_says_which_sections_need_a_restart() {
    let dev = Dev::start();
    let before = fs::read_to_string(dev.file("daypass.toml")).unwrap();
    let after = before.replacen("filter = \"info\"", "filter = \"debug\"", 1).replacen("dir = \"audit\"", "dir = \"elsewhere\"", 1);
    assert_ne!(before, after);
    dev.replace("daypass.toml", &after);
    wait_until(SOON, "the reload is on record", || (dev.reloads() == [["needs a restart: audit, log"]]).then_some(()));
    dev.replace("daypass.toml", &before);
    wait_until(SOON, "what was taken back needs none", || (dev.reloads().last()? == &Vec::<Value>::new()).then_some(()));
}
