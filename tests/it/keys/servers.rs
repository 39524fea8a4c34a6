//! Running services: two that share their keys, relying parties across a rotation, wrapping keys that change, a store that is away.

use std::{collections::BTreeMap, fs, process::Command, time::Duration};

use daypass::keys::FileKek;
use serde_json::Value;

use super::admin::{ca, states};
use crate::{
    e2e::{two_servers::Second, world::World},
    support::{
        parts::{Process, free_port, run, wait_until},
        redis::Redis,
    },
};

/// A look at the keys and some more.
pub const SOON: Duration = Duration::from_secs(15);

fn key_set(port: u16) -> String {
    run(Command::new("curl").args(["-fsS", &format!("http://127.0.0.1:{port}/jwks.json")])).text()
}

pub fn kids(port: u16) -> Vec<String> {
    let set: Value = serde_json::from_str(&key_set(port)).unwrap();
    set["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

/// The `kid` of a token that the world's operator is given.
pub fn signs(world: &World, second: Option<&Second>) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let args = ["issue", "federate", "-o", "json"];
    let said = match second {
        Some(second) => second.cli(world, &world.operator(), &args).1,
        None => world.cli(&world.operator(), args).json(),
    };
    let token = said["credential"]["token"].as_str().unwrap_or_else(|| panic!("no token in {said}"));
    let head = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice::<Value>(&head).unwrap()["kid"].as_str().unwrap().to_owned()
}

#[test]
fn two_servers_share_their_keys_and_tell_of_each_once() {
    let redis = Redis::start();
    let world = World::on_redis(&redis.url());
    let second = Second::start(&world);
    let first = signs(&world, None);
    assert_eq!((kids(world.http), kids(second.http)), (vec![first.clone()], vec![first.clone()]));
    assert_eq!(signs(&world, Some(&second)), first);
    // What an administrator does at one is so at the other at its next look.
    assert_eq!(ca(&world, &["prepare", "jwt"]).code, 0);
    wait_until(SOON, "the other publishes it", || (kids(second.http).len() == 2).then_some(()));
    assert_eq!((kids(second.http), signs(&world, Some(&second))), (kids(world.http), first.clone()));
    assert_eq!(ca(&world, &["activate", "jwt", "--force"]).code, 0);
    let next = signs(&world, None);
    assert_ne!(next, first);
    wait_until(SOON, "the other signs with it", || (signs(&world, Some(&second)) == next).then_some(()));
    assert_eq!(kids(second.http), [first.clone(), next]);
    // Both logs together tell each thing once; a key is never in them.
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    let everything = || {
        let second = fs::read_dir(world.file("audit-second")).unwrap().map(|entry| entry.unwrap().path());
        let files = second.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl")).chain(world.segments());
        files.map(|path| fs::read_to_string(path).unwrap()).collect::<Vec<_>>().concat()
    };
    let stages = || {
        let text = everything();
        let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let of_keys = records.filter(|record| record["method"].as_str().is_some_and(|method| method.starts_with("keys/")));
        of_keys.map(|record| format!("{} {}", record["detail"][0], record["method"])).collect::<Vec<_>>()
    };
    wait_until(SOON, "all of it is on record", || (stages().len() >= 5).then_some(()));
    stages().into_iter().for_each(|stage| *told.entry(stage).or_default() += 1);
    assert!(told.len() == 5 && told.values().all(|times| *times == 1), "{told:?}");
    // The store has them sealed, and nothing else of them.
    let wrapped = fs::read_to_string(world.file("wrap.key")).unwrap();
    let stored = redis.cli(&["HGETALL", "daypass:{shared:keys}:e"]);
    assert!(stored.contains("\"sealed\"") && !stored.contains(wrapped.trim()), "{stored}");
    assert!(!everything().contains(wrapped.trim()) && !world.log().contains(wrapped.trim()));
}

#[test]
fn a_restart_and_another_wrapping_key_keep_the_keys() {
    let mut world = World::start();
    let kid = signs(&world, None);
    world.stop();
    world.start_again();
    assert_eq!(signs(&world, None), kid);
    // A key that is not the one they are sealed under is refused at a reload, and named at a start.
    let old = world.read("wrap.key");
    let write_key = |world: &World, name: &str| {
        fs::write(world.file(name), FileKek::generate().as_bytes()).unwrap();
        run(Command::new("chmod").arg("600").arg(world.file(name)));
    };
    write_key(&world, "next.key");
    let (one, both) = ("wrapping_keys = [\"wrap.key\"]", "wrapping_keys = [\"next.key\", \"wrap.key\"]");
    let only = "wrapping_keys = [\"next.key\"]";
    let refused = world.reload("failed", |world| world.edit("daypass.toml", one, only));
    assert!(refused["detail"][0].as_str().unwrap().contains("none of this server's"), "{refused}");
    assert_eq!(signs(&world, None), kid);
    // The next one first, the old one after it: all keys are sealed anew, and then the old one goes.
    world.reconfigure(|world| world.edit("daypass.toml", only, both));
    wait_until(SOON, "the keys are sealed anew", || world.log().contains("sealed anew").then_some(()));
    world.reconfigure(|world| world.edit("daypass.toml", both, only));
    fs::remove_file(world.file("wrap.key")).unwrap();
    assert_eq!(signs(&world, None), kid);
    world.stop();
    // `daypassd dev` makes a wrap.key again where there is none; nothing names it.
    world.start_again();
    assert_eq!(signs(&world, None), kid);
    assert_ne!(world.read("wrap.key"), old);
    // With a key that opens nothing the service starts, says why, and is not ready.
    world.stop();
    world.edit("daypass.toml", only, one);
    world.start_unready();
    assert!(world.wait_ready(false, SOON).contains("keys that sign cannot be used"));
    wait_until(SOON, "the log says why", || world.log().contains("none of this server's").then_some(()));
    let up = |world: &World, up: u8| {
        wait_until(SOON, "the gauge", || world.metrics().contains(&format!("daypass_keys_up{{ring=\"jwt\"}} {up}")).then_some(()));
    };
    up(&world, 0);
    let shown = ca(&world, &["show", "jwt"]).keys();
    assert_eq!((states(&shown).len(), &shown[0]["algorithm"]), (1, &"".into()));
    world.reconfigure(|world| world.edit("daypass.toml", one, only));
    world.wait_ready(true, SOON);
    assert_eq!(signs(&world, None), kid);
    up(&world, 1);
}

#[test]
fn a_store_that_is_away_or_emptied_takes_no_key_with_it() {
    let mut redis = Redis::start();
    let mut world = World::on_redis(&redis.url());
    let kid = signs(&world, None);
    // Without persistence it comes back empty; the server gives it the keys that it had, under which tokens live.
    redis.stop();
    // A change of the configuration does not wait for the store.
    world.reconfigure(|world| world.append("daypass.toml", "# changed\n"));
    assert_eq!(kids(world.http), [kid.as_str()]);
    let away = ca(&world, &["prepare", "jwt"]);
    assert_eq!(away.code, 6, "{away:?}");
    redis.start_again();
    world.wait_ready(true, Duration::from_secs(30));
    wait_until(SOON, "the keys are back", || redis.cli(&["HLEN", "daypass:{shared:keys}:e"]).contains('1').then_some(()));
    assert_eq!(signs(&world, None), kid);
    wait_until(SOON, "it is told", || world.log().contains("the store has lost a key of the service").then_some(()));
    // A server that starts while the store is away becomes ready when that is back.
    world.stop();
    let dump = redis.cli(&["SAVE"]);
    drop(dump);
    redis.stop();
    world.start_unready();
    assert!(world.wait_ready(false, SOON).contains("keys that sign cannot be used"));
    redis.start_again();
    world.wait_ready(true, Duration::from_secs(30));
    let set = kids(world.http);
    assert_eq!(set.len(), 1);
    assert_eq!(signs(&world, None), set[0]);
}

#[test]
fn a_configuration_with_signers_names_what_seals_them() {
    let world = World::start();
    let config = world.read("daypass.toml");
    let check = |text: &str| {
        fs::write(world.file("other.toml"), text).unwrap();
        let ran = run(Command::new(env!("CARGO_BIN_EXE_daypassd")).args(["check", "--config"]).arg(world.file("other.toml")));
        (ran.ok, ran.all())
    };
    assert!(check(&config).0);
    let section = "[keys]\nwrapping_keys = [\"wrap.key\"]\n";
    for (to, says) in [
        ("", "oidc: its keys are stored, and sealed there: name a file that seals them in [keys] wrapping_keys"),
        ("[keys]\nwrapping_keys = []\n", "keys: wrapping_keys: name 1 to 8 wrapping keys"),
        ("[keys]\nwrapping_keys = [\"none.key\"]\n", "none.key: No such file"),
        ("[keys]\nwrapping_keys = [\"policy.cedar\"]\n", "policy.cedar: everybody on this machine may touch it"),
        ("[keys]\nwrapping_keys = [\"pki/server.key\"]\n", "pki/server.key: it does not hold 32 bytes in base64"),
        ("[keys]\nwrapping_key = \"wrap.key\"\n", "unknown field"),
    ] {
        assert!(config.contains(section));
        let (ok, said) = check(&config.replace(section, to));
        assert!(!ok && said.contains(says), "{to}: {said}");
    }
    let admin = "admin = \"admin.sock\"";
    for (to, says) in [
        ("admin = \"none/admin.sock\"".to_owned(), "server.admin: there is no directory in which"),
        (format!("admin = \"{}.sock\"", "a".repeat(120)), "is longer than 96 bytes"),
    ] {
        assert!(config.contains(admin));
        let (ok, said) = check(&config.replace(admin, &to));
        assert!(!ok && said.contains(says), "{to}: {said}");
    }
    // Where another service has the socket, a second one does not start.
    let ports = [("grpc", free_port()), ("http", free_port())];
    let lines = config.lines().map(|line| match ports.iter().find(|(key, _)| line.starts_with(&format!("{key} ="))) {
        Some((key, port)) => format!("{key} = \"127.0.0.1:{port}\""),
        None if line.starts_with("dir =") => "dir = \"audit-other\"".to_owned(),
        None => line.to_owned(),
    });
    fs::write(world.file("other.toml"), lines.collect::<Vec<_>>().join("\n")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_daypassd"));
    command.args(["serve", "--config"]).arg(world.file("other.toml"));
    command.stderr(fs::File::create(world.file("other.log")).unwrap()).stdout(std::process::Stdio::null());
    let mut other = Process::start(&mut command);
    wait_until(SOON, "it ends", || other.child().try_wait().unwrap());
    assert!(world.read("other.log").contains("another process serves"), "{}", world.read("other.log"));
}
