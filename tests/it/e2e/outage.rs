//! What callers see while something that the server needs is away.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use super::world::{Said, World};
use crate::keys::admin::ca;
use crate::support::{
    parts::{run, wait_until},
    redis::Redis,
};

/// Within this a caller learns that Redis is away: the store's own timeout and the client's retries.
const STORE_TIME: Duration = Duration::from_secs(8);

/// Within this a caller learns that the audit log cannot be written.
const AUDIT_TIME: Duration = Duration::from_secs(1);

/// Within this the server is itself again after the cause has gone.
const RECOVERY: Duration = Duration::from_secs(5);

/// Says that this machine may not mount: the test of a full disk is left out.
const NO_MOUNT: &str = "DAYPASS_TEST_NO_MOUNT";

#[track_caller]
fn unavailable(said: &Said, code: &str) {
    assert_eq!((said.code, said.stdout.as_str()), (6, ""), "{said:?}");
    assert_eq!(said.error().0, code);
}

#[test]
fn a_stopped_server() {
    let mut world = World::start();
    world.stop();
    let operator = world.operator();
    let said = world.cli(&operator, ["issue", "web"]);
    assert_eq!(said.code, 6, "{said:?}");
    assert!(said.line().contains("is daypassd running"), "{said:?}");
    unavailable(&world.cli(&operator, ["whoami", "-o", "json"]), "UNAVAILABLE");
    let hung = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = hung.local_addr().unwrap().to_string();
    let began = Instant::now();
    let said = world.cli(&operator, ["whoami", "--addr", &address, "--timeout", "1s"]);
    assert_eq!(said.code, 6, "{said:?}");
    assert!(began.elapsed() < Duration::from_secs(3) && said.line().contains("1s"), "{said:?}");
}

#[test]
fn a_stopped_redis() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
    let world = World::on_redis(&redis.url());
    let operator = world.operator();
    let lease = world.lease(&operator, "web");

    redis.stop();
    let began = Instant::now();
    let said = world.cli(&operator, ["issue", "web", "-o", "json"]);
    assert!(began.elapsed() < STORE_TIME, "it took {:?}", began.elapsed());
    unavailable(&said, "STORE_UNAVAILABLE");
    assert!(world.cli(&operator, ["lease", "list"]).line().contains("store"));
    let readiness = world.wait_ready(false, RECOVERY);
    assert!(readiness.contains("the lease store does not answer"), "{readiness}");
    assert_eq!(world.get("/healthz").unwrap().0, 200, "it lives");

    redis.start_again();
    world.wait_ready(true, RECOVERY);
    world.lease(&operator, "web");
    assert_eq!(world.cli(&operator, ["lease", "revoke", &lease]).code, 0);
    let failed = world.records().into_iter().find(|record| record["reason"] == "STORE_UNAVAILABLE").expect("the failure is on record");
    assert_eq!(failed["outcome"], "failed");
    // What became of the leases whose outcome was unknown: none of them lives.
    wait_until(RECOVERY, "only the lease that was answered is active", || {
        let active = world.cli(&operator, ["lease", "list", "--state", "active", "-o", "json"]).json();
        (active.as_array().unwrap().len() == 1).then_some(())
    });
}

#[test]
fn a_redis_that_hangs() {
    let redis = Redis::start();
    let world = World::on_redis(&redis.url());
    let operator = world.operator();
    redis.signal("STOP");
    let began = Instant::now();
    let said = world.cli(&operator, ["issue", "web", "-o", "json"]);
    let took = began.elapsed();
    redis.signal("CONT");
    unavailable(&said, "STORE_UNAVAILABLE");
    assert!(took < STORE_TIME, "it took {took:?}");
    world.wait_ready(true, RECOVERY);
    world.lease(&operator, "web");
}

#[test]
fn a_full_disk() {
    if std::env::var_os(NO_MOUNT).is_some() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let audit = folder.path().join("audit");
    fs::create_dir(&audit).unwrap();
    let mounted = Tmpfs::mount(&audit);
    let world = World::in_folder(folder, None);
    let operator = world.operator();
    let lease = world.lease(&operator, "web");
    let filler = audit.join("filler");
    fill_up(&filler);

    // What is left of the last page takes a few more records.
    let said = wait_until(Duration::from_secs(20), "the disk is full", || {
        let began = Instant::now();
        let said = world.cli(&operator, ["issue", "web", "--timeout", "900ms", "-o", "json"]);
        assert!(began.elapsed() < AUDIT_TIME, "{said:?}");
        (said.code != 0).then_some(said)
    });
    unavailable(&said, "AUDIT_UNAVAILABLE");
    let said = world.cli(&operator, ["lease", "revoke", &lease, "--timeout", "900ms"]);
    assert_eq!(said.code, 6, "{said:?}");
    assert!(said.line().contains("audit log"), "{said:?}");
    // A refusal that cannot be put on record does not leave either.
    unavailable(&world.cli(&operator, ["issue", "no-such-role", "-o", "json"]), "AUDIT_UNAVAILABLE");
    let readiness = world.wait_ready(false, RECOVERY);
    assert!(readiness.contains("the audit log cannot be written"), "{readiness}");
    // An administrator does nothing that would not be on record.
    let prepared = ca(&world, &["prepare", "jwt"]);
    assert!(prepared.code == 6 && prepared.stderr.contains("AUDIT_UNAVAILABLE"), "{prepared:?}");
    assert_eq!(ca(&world, &["show", "jwt"]).keys().len(), 1);

    fs::remove_file(&filler).unwrap();
    world.wait_ready(true, RECOVERY);
    // The revocation that was asked for may have been carried out since; asking again does no harm.
    assert_eq!(world.cli(&operator, ["lease", "revoke", &lease]).code, 0);
    assert_eq!(world.cli(&operator, ["lease", "get", &lease, "-o", "json"]).json()["state"], "revoked");
    world.lease(&operator, "web");
    let path = audit.display().to_string();
    assert_eq!(world.cli(&operator, ["audit", "verify", &path]).code, 0);
    assert!(world.records().iter().any(|record| record["method"] == "log/restored"));
    // No lease lives that nobody was given.
    wait_until(RECOVERY, "the leases of failed calls are closed", || {
        let issued = world.records().iter().filter(|r| r["method"] == "CredentialService/Issue" && r["outcome"] == "done").count();
        let live = world.cli(&operator, ["lease", "list", "--state", "active", "-o", "json"]).json();
        (live.as_array().unwrap().len() == issued - 1).then_some(())
    });
    drop(world);
    drop(mounted);
}

/// A small file system of its own; unmounted with the value.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path) -> Self {
        let ran = run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "daypass-test"]).arg(at));
        assert!(ran.ok, "mounting a tmpfs needs root: {} (set {NO_MOUNT}=1 where that cannot be had)", ran.all());
        Self(at.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(&self.0));
    }
}

/// Fills what is left of a file system.
fn fill_up(path: &Path) {
    let mut file = File::create(path).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
}
