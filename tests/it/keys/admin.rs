//! The admin socket, and `daypassd ca` as administrators use it: the real binary against a running service.

use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::{
    e2e::world::World,
    support::parts::{run, wait_until},
};

const SOON: Duration = Duration::from_secs(10);

/// What `daypassd ca` said, and how it ended.
#[derive(Debug)]
pub struct Told {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Told {
    pub fn keys(&self) -> Vec<Value> {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str::<Value>(&self.stdout).unwrap()["keys"].as_array().unwrap().clone()
    }

    /// The code of an error that was asked for as JSON, and its message.
    fn error(&self) -> (String, String) {
        let error: Value = serde_json::from_str(&self.stderr).unwrap_or_else(|_| panic!("{self:?}"));
        let text = |name: &str| error["error"][name].as_str().unwrap().to_owned();
        (text("code"), text("message"))
    }
}

fn told(command: &mut Command) -> Told {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Told { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn command(words: &[&str], config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_daypassd"));
    command.arg("ca").args(words).arg("--config").arg(config);
    command
}

/// `daypassd ca … -o json` at a running world.
pub fn ca(world: &World, words: &[&str]) -> Told {
    told(command(words, &world.file("daypass.toml")).args(["-o", "json"]))
}

/// The name and the state of each key.
pub fn states(keys: &[Value]) -> Vec<(String, String)> {
    let text = |key: &Value, name: &str| key[name].as_str().unwrap().to_owned();
    keys.iter().map(|key| (text(key, "name"), text(key, "state"))).collect()
}

fn state(name: &str, state: &str) -> (String, String) {
    (name.to_owned(), state.to_owned())
}

#[test]
fn an_administrator_rotates_by_hand_and_every_act_is_on_record() {
    let world = World::start();
    let shown = ca(&world, &["show", "jwt"]).keys();
    assert_eq!(states(&shown), [state("jwt-1", "active")]);
    let expected = ["algorithm", "name", "published_at", "published_until", "ring", "rotates", "signs_from", "state"];
    let mut members: Vec<_> = shown[0].as_object().unwrap().keys().collect();
    members.sort();
    assert_eq!(members, expected);
    assert_eq!((&shown[0]["algorithm"], &shown[0]["ring"], &shown[0]["rotates"]), (&"ES256".into(), &"jwt".into(), &true.into()));
    let all = states(&ca(&world, &["show"]).keys());
    assert_eq!(all, [state("issuing", "active"), state("jwt-1", "active")], "a CA that does not rotate is shown beside");

    assert_eq!(states(&ca(&world, &["prepare", "jwt"]).keys()), [state("jwt-2", "prepared")]);
    let published = || String::from_utf8(world.fetch("/jwks.json")).unwrap().matches("\"kid\"").count();
    assert_eq!(published(), 2, "it is published at once");
    let early = ca(&world, &["activate", "jwt"]);
    assert_eq!((early.code, early.error().0.as_str()), (1, "KEY_STATE"));
    assert!(early.error().1.contains("wait, or force it"), "{early:?}");
    assert_eq!(states(&ca(&world, &["activate", "jwt", "--force"]).keys()), [state("jwt-2", "active")]);
    assert_eq!(states(&ca(&world, &["show", "jwt"]).keys()), [state("jwt-1", "retired"), state("jwt-2", "active")]);
    let used = ca(&world, &["retire", "jwt-2"]);
    assert_eq!((used.code, used.error().0.as_str()), (1, "KEY_STATE"));
    assert_eq!(states(&ca(&world, &["retire", "jwt-1"]).keys()), [state("jwt-1", "retired")]);
    assert_eq!((published(), states(&ca(&world, &["show", "jwt"]).keys())), (1, vec![state("jwt-2", "active")]));

    let uid = rustix::process::geteuid().as_raw();
    let by = |record: &Value| record["actor"]["subject"].as_str().unwrap_or_default().to_owned();
    let acts: Vec<_> = world.records().into_iter().filter(|record| by(record) == format!("local:uid={uid}")).collect();
    let said: Vec<_> = acts
        .iter()
        .map(|record| [&record["method"], &record["outcome"], &record["detail"][0]].map(|value| value.as_str().unwrap().to_owned()))
        .collect();
    let expected = [
        ["KeyService/Prepare", "done", "key jwt-2"],
        ["KeyService/Activate", "denied", "jwt"],
        ["KeyService/Activate (forced)", "done", "key jwt-2"],
        ["KeyService/Retire", "denied", "jwt-2"],
        ["KeyService/Retire", "done", "key jwt-1"],
    ];
    assert_eq!(said, expected.map(|row| row.map(str::to_owned)));
    assert!(acts.iter().all(|record| record["actor"]["method"] == "local" && record["call_id"].is_string()));
    assert_eq!(acts[1]["reason"], "KEY_STATE");
    // What came of it is on record too, once and in order.
    let stages = || {
        let of_keys = |record: &Value| record["method"].as_str().unwrap().strip_prefix("keys/").map(str::to_owned);
        let records = world.records();
        let named = |record: &Value| Some((of_keys(record)?, record["detail"][0].as_str()?.to_owned()));
        let mut stages: Vec<_> = records.iter().filter_map(named).collect();
        stages.sort_by(|a, b| a.1.cmp(&b.1));
        stages.into_iter().map(|(stage, key)| format!("{key} {stage}")).collect::<Vec<_>>()
    };
    let expected = ["key jwt-1 made", "key jwt-1 active", "key jwt-1 retired", "key jwt-1 gone", "key jwt-2 made", "key jwt-2 active"];
    wait_until(SOON, "all of it is on record", || (stages() == expected).then_some(()));
    assert_eq!(run(Command::new(env!("CARGO_BIN_EXE_daypass")).args(["audit", "verify"]).arg(world.file("audit"))).code, Some(0));
}

#[test]
fn people_read_a_table_and_scripts_exit_codes() {
    let mut world = World::start();
    let config = world.file("daypass.toml");
    let table = told(&mut command(&["show", "jwt"], &config));
    let rows: Vec<Vec<&str>> = table.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((table.code, rows.len(), rows[0][0], &rows[1][..3]), (0, 2, "KEY", ["jwt-1", "active", "ES256"].as_slice()), "{table:?}");
    let line = |told: &Told| {
        assert!(told.stdout.is_empty() && told.stderr.lines().count() == 1, "{told:?}");
        assert!(told.stderr.starts_with("daypassd: "), "{told:?}");
        told.stderr.clone()
    };
    let unknown = told(&mut command(&["prepare", "jwtt"], &config));
    assert_eq!(unknown.code, 1);
    assert!(line(&unknown).contains("there is no ring jwtt; did you mean jwt?"));
    let unnamed = told(&mut command(&["retire", "jwt"], &config));
    assert!(unnamed.code == 1 || unnamed.code == 2, "{unnamed:?}");
    assert!(line(&unnamed).contains("for example jwt-1"));
    let long = ca(&world, &["prepare", &"x".repeat(200)]);
    assert_eq!(long.error().0, "INVALID_REQUEST");
    // The command itself is wrong.
    for words in [&["rotate"][..], &["prepare"], &["show", "-o", "yaml"], &["activate", "jwt", "--yes"]] {
        assert_eq!(told(&mut command(words, &config)).code, 2, "{words:?}");
    }
    let nowhere = told(&mut command(&["show"], &world.file("none.toml")));
    assert_eq!(nowhere.code, 2);
    assert!(line(&nowhere).contains("none.toml") && line(&nowhere).contains("cannot be read"));
    fs::write(world.file("without.toml"), "[server]\n").unwrap();
    assert!(line(&told(&mut command(&["show"], &world.file("without.toml")))).contains("server.admin is not set"));
    // By the socket's own path, relative to where the command runs.
    let mut near = Command::new(env!("CARGO_BIN_EXE_daypassd"));
    assert_eq!(told(near.current_dir(world.dir()).args(["ca", "show", "--socket", "admin.sock"])).code, 0);
    world.stop();
    assert!(!world.file("admin.sock").exists(), "the socket goes with the service");
    let away = ca(&world, &["show"]);
    assert_eq!((away.code, away.error().0.as_str()), (6, "UNAVAILABLE"));
    assert!(away.error().1.contains("is the service running?"), "{away:?}");
}

#[test]
fn the_socket_is_for_root_and_the_services_own_user() {
    let mut world = World::start();
    let socket = world.file("admin.sock");
    let meta = fs::metadata(&socket).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!((meta.mode() & 0o777, meta.uid()), (0o600, rustix::process::geteuid().as_raw()));
    // A server that was killed leaves its socket, and the next one takes its place.
    world.kill();
    assert!(socket.exists());
    world.start_again();
    assert_eq!(ca(&world, &["show"]).code, 0);
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Another user: kept out by the file's mode; and where somebody loosened that, by who it is.
    const NOBODY: u32 = 65_534;
    let reach = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    let program = reach.path().join("daypassd");
    fs::hard_link(env!("CARGO_BIN_EXE_daypassd"), &program)
        .or_else(|_| fs::copy(env!("CARGO_BIN_EXE_daypassd"), &program).map(drop))
        .unwrap();
    let as_nobody = |word: &str| {
        let mut command = Command::new(&program);
        told(command.uid(NOBODY).gid(NOBODY).args(["ca", word, "jwt", "-o", "json", "--socket"]).arg(&socket))
    };
    fs::set_permissions(world.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let outside = as_nobody("show");
    assert_eq!((outside.code, outside.error().0.as_str()), (4, "DENIED"), "{outside:?}");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    for (word, method) in [("show", "KeyService/Show"), ("prepare", "KeyService/Prepare"), ("activate", "KeyService/Activate")] {
        let refused = as_nobody(word);
        assert_eq!((refused.code, refused.error().0.as_str()), (4, "DENIED"), "{refused:?}");
        let record = world.records().pop().unwrap();
        assert_eq!((&record["method"], &record["outcome"], &record["reason"]), (&method.into(), &"denied".into(), &"DENIED".into()));
        assert_eq!(record["actor"]["subject"], format!("local:uid={NOBODY}"));
    }
    assert_eq!(states(&ca(&world, &["show", "jwt"]).keys()), [state("jwt-1", "active")], "nothing was done");
}
