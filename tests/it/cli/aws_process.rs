//! `aws-credential-process`: what an SDK reads, and how many leases it costs.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use daypass::clock::{Clock, SystemClock};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{
    Run, run,
    server::{GOOD, Server, Trouble},
};

impl Server {
    fn cache(&self) -> PathBuf {
        self.pki.path("cache")
    }

    fn process(&self, line: &str) -> Command {
        let mut command = self.daypass(&format!("aws-credential-process {line}"));
        command.env("DAYPASS_CACHE_DIR", self.cache());
        command
    }

    fn session(&self, line: &str) -> Run {
        run(&mut self.process(line))
    }

    /// The one cached credential.
    fn cached(&self) -> PathBuf {
        let files = fs::read_dir(self.cache()).unwrap().map(|entry| entry.unwrap().path());
        let found: Vec<_> = files.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect();
        let [file] = found.as_slice() else { panic!("one file is due: {found:?}") };
        file.clone()
    }

    /// Makes the cached credential one that was obtained so long ago and lives so much longer, in seconds.
    fn age(&self, obtained: i64, left: i64) {
        let now = SystemClock.now();
        let mut entry: Value = serde_json::from_slice(&fs::read(self.cached()).unwrap()).unwrap();
        entry["obtained_at"] = json!((now - SignedDuration::from_secs(obtained)).to_string());
        entry["expires_at"] = json!((now + SignedDuration::from_secs(left)).to_string());
        fs::write(self.cached(), entry.to_string()).unwrap();
    }
}

fn key(run: &Run) -> String {
    assert_eq!(run.code, 0, "{run:?}");
    run.json()["AccessKeyId"].as_str().unwrap().to_owned()
}

#[test]
fn it_prints_what_the_sdks_read_and_keeps_it_for_the_owner_only() {
    let server = Server::new();
    let run = server.session("aws-900");
    assert_eq!((run.code, run.stderr.as_str(), run.stdout.lines().count()), (0, "", 1), "{run:?}");
    let answer = run.json();
    let expiration: Timestamp = answer["Expiration"].as_str().unwrap().parse().unwrap();
    let left = expiration.duration_since(SystemClock.now()).as_secs();
    assert!((800..=900).contains(&left), "{left}");
    let expected = json!({
        "Version": 1,
        "AccessKeyId": "ASIA1",
        "SecretAccessKey": "canary-key-1",
        "SessionToken": "canary-session-1",
        "Expiration": answer["Expiration"],
    });
    assert_eq!(answer, expected);
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(server.cache()), mode(server.cached())), (0o700, 0o600));
}

#[test]
fn fifty_processes_at_once_make_one_lease() {
    let server = Server::new();
    let children: Vec<_> = (0..50)
        .map(|_| {
            let mut command = server.process("aws-900 --timeout 60s");
            command.stdout(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["AccessKeyId"], "ASIA1");
    }
    assert_eq!(server.seen.calls("aws-900"), 1);
}

#[test]
fn a_session_is_given_again_until_its_last_quarter() {
    let server = Server::new();
    assert_eq!(key(&server.session("aws-900")), "ASIA1");
    // botocore begins to ask with less than 900 s left, and asks every time with less than 600.
    for left in [899, 600, 300, 240] {
        server.age(900 - left, left);
        assert_eq!(key(&server.session("aws-900")), "ASIA1", "{left}");
    }
    server.age(690, 210);
    assert_eq!(key(&server.session("aws-900")), "ASIA2");
    assert_eq!(key(&server.session("aws-900")), "ASIA2");
    assert_eq!(server.seen.calls("aws-900"), 2);
}

#[test]
fn each_caller_role_and_life_has_its_own() {
    let server = Server::new();
    server.session("aws-900");
    server.session("aws-901");
    server.session("aws-900 --ttl 20m");
    assert_eq!((server.seen.calls("aws-900"), server.seen.calls("aws-901")), (2, 1));
    // The token beside the certificate makes another caller of it; a fresh token of the same caller does not.
    for token in ["e30.eyJzdWIiOiJhIiwianRpIjoiMSJ9.x", "e30.eyJzdWIiOiJhIiwianRpIjoiMiJ9.x", "e30.eyJzdWIiOiJiIiwianRpIjoiMSJ9.x"] {
        run(server.process("aws-900").env("DAYPASS_TOKEN", token));
    }
    assert_eq!(server.seen.calls("aws-900"), 4);
    let names: Vec<_> = fs::read_dir(server.cache()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|name| !name.contains("eyJ") && !name.contains("aws")), "{names:?}");
}

#[test]
fn without_the_cache_a_new_session_takes_the_place_of_the_old_one() {
    let server = Server::new();
    assert_eq!(key(&server.session("aws-900")), "ASIA1");
    assert_eq!(key(&server.session("aws-900 --no-cache")), "ASIA2");
    assert_eq!(key(&server.session("aws-900")), "ASIA2");
    // Where nothing can be kept, that is no reason to give nothing.
    let unkept = run(server.process("aws-900 --no-cache").env("DAYPASS_CACHE_DIR", "/dev/null/x"));
    assert!(key(&unkept) == "ASIA3" && unkept.stderr.contains("nothing is cached"), "{unkept:?}");
}

#[test]
fn a_cached_session_bridges_an_outage_with_a_warning() {
    let server = Server::new();
    server.session("aws-900");
    server.seen.trouble(Trouble::Down);
    let fresh = server.session("aws-900");
    assert_eq!((key(&fresh).as_str(), fresh.stderr.as_str()), ("ASIA1", ""));
    server.age(800, 100);
    let old = server.session("aws-900");
    assert_eq!(key(&old), "ASIA1");
    assert!(old.stderr.contains("warning: the lease store does not answer; the cached credential is used, which expires at"), "{old:?}");
    server.age(898, 2);
    let over = server.session("aws-900");
    assert_eq!((over.code, over.stdout.as_str()), (6, ""), "{over:?}");
    // Who may have it no more does not get it from the cache once the server is asked.
    server.age(800, 100);
    server.seen.trouble(Trouble::Denies);
    let denied = server.session("aws-900");
    assert_eq!((denied.code, denied.stdout.as_str()), (4, ""), "{denied:?}");
}

#[test]
fn a_cached_file_that_is_not_as_it_should_be_is_replaced_with_a_warning() {
    let server = Server::new();
    server.session("aws-900");
    let file = server.cached();
    type Spoil<'a> = &'a dyn Fn();
    let spoils: [(Spoil, &str); 3] = [
        (&|| fs::write(&file, "{\"version\":1").unwrap(), "damaged"),
        (&|| fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap(), "others can read"),
        (
            &|| {
                fs::remove_file(&file).unwrap();
                std::os::unix::fs::symlink("/dev/zero", &file).unwrap();
            },
            "no plain file",
        ),
    ];
    for (call, (spoil, why)) in (2..).zip(spoils) {
        spoil();
        let run = server.session("aws-900");
        assert!(key(&run) == format!("ASIA{call}") && run.stderr.contains(why), "{run:?}");
        assert_eq!(run.stderr.lines().count(), 1);
        assert_eq!(server.session("aws-900").stderr, "");
    }
    fs::set_permissions(server.cache(), fs::Permissions::from_mode(0o755)).unwrap();
    let open = server.session("aws-900");
    assert!(open.code == 2 && open.stderr.contains("chmod 700") && open.stdout.is_empty(), "{open:?}");
}

#[test]
fn what_goes_wrong_has_its_exit_code_and_nothing_on_stdout() {
    let server = Server::new();
    for (role, code) in [("denied", 4), ("expired", 3), ("nosuch", 5), ("down", 6), ("No_Such", 5), ("slow --timeout 300ms", 6)] {
        let run = server.session(role);
        assert_eq!((run.code, run.stdout.as_str(), run.stderr.lines().count()), (code, "", 1), "{role}: {run:?}");
    }
    let x509 = server.session("web");
    assert!(x509.code == 1 && x509.stdout.is_empty(), "a role of kind x509 refuses it before it makes a lease: {x509:?}");
    let registry = server.session("registry-900");
    assert!(registry.code == 2 && registry.stdout.is_empty() && registry.stderr.contains("kind registry"), "{registry:?}");
    assert_eq!(*server.seen.revoked.lock().unwrap(), [GOOD], "its lease is revoked");
    let homeless = run(&mut server.daypass("aws-credential-process aws-900"));
    assert!(homeless.code == 2 && homeless.stderr.contains("DAYPASS_CACHE_DIR"), "{homeless:?}");
}

#[test]
fn who_dies_while_asking_holds_up_nobody() {
    let server = Server::new();
    server.seen.trouble(Trouble::Hangs);
    let mut first = server.process("aws-900 --timeout 60s").spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while server.seen.calls("aws-900") == 0 {
        assert!(Instant::now() < deadline, "the call does not arrive");
        std::thread::sleep(Duration::from_millis(10));
    }
    // While it lives, another one waits, for as long as its own patience.
    let waits = server.session("aws-900 --timeout 100ms");
    assert!(waits.code == 6 && waits.stderr.contains("another daypass process"), "{waits:?}");
    first.kill().unwrap();
    first.wait().unwrap();
    server.seen.trouble(None);
    assert_eq!(key(&server.session("aws-900")), "ASIA2");
}
