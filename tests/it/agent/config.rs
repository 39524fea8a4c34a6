//! `agent.toml`: what it means, and every fault at once with its line.

use std::{fs, path::Path, time::Duration};

use daypass::{
    agent::{
        accounts::User,
        config::{Config, IdentityWay, LogFormat, MAX_ROLES, OnChange},
        sockets::config::{Group, Mode},
    },
    model::fault::Fault,
};

fn load(text: &str) -> Result<Config, Vec<Fault>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    fs::write(&path, text).unwrap();
    Config::load(&path)
}

const SMALL: &str = "state_dir = \"s\"\n[server]\naddress = \"h:1\"\n[[role]]\nname = \"web\"\n";

/// The one fault of the small file with `more` after it.
fn fault(more: &str) -> String {
    let faults = load(&format!("{SMALL}{more}")).expect_err(more);
    let [fault] = faults.as_slice() else { panic!("{more}: {faults:?}") };
    fault.message.clone()
}

#[test]
fn everything_that_can_be_said_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    let text = r#"
        state_dir = "state"
        [server]
        address = "https://vend.example"
        ca = "ca.pem"
        timeout = "5s"
        [identity]
        platform = "kubernetes"
        audience = "vend"
        [log]
        format = "json"
        filter = "debug"
        [health]
        listen = "127.0.0.1:0"
        [[role]]
        name = "site"
        role = "web"
        ttl = "10m"
        dir = "/run/site"
        owner = "root"
        group = 33
        mode = "0640"
        files = { certificate = "cert.pem", key = "key.pem", combined = "both.pem" }
        on_change = { command = ["true", "x"], timeout = "1m", env = { A = "b" } }
        [[role]]
        name = "token"
        audience = "sts.amazonaws.com"
        dir = "token"
        on_change = { signal = "SIGHUP", pid_file = "x.pid" }
        [sockets.sds]
        path = "sds.sock"
        roles = ["site"]
    "#;
    fs::write(&path, text).unwrap();
    let config = Config::load(&path).unwrap();
    let here = |name: &str| folder.path().join(name);
    assert_eq!((config.state_dir, config.server.ca), (here("state"), Some(here("ca.pem"))));
    assert_eq!((config.server.address.to_string().as_str(), config.server.timeout), ("vend.example:443", Duration::from_secs(5)));
    assert!(matches!(config.identity, IdentityWay::Platform { audience, .. } if audience == "vend"));
    assert_eq!((config.log.format, config.log.filter.as_str()), (LogFormat::Json, "debug"));
    let [site, token] = config.roles.as_slice() else { panic!() };
    let place = site.place.as_ref().unwrap();
    assert_eq!((site.name.as_str(), site.role.as_str(), place.dir.as_path()), ("site", "web", Path::new("/run/site")));
    assert_eq!((place.owner.as_ref(), place.group.as_ref()), (Some(&User::Name("root".to_owned())), Some(&Group::Id(33))));
    assert_eq!((place.mode, place.names.of("tls.crt"), place.names.of("ca.crt")), (Mode(0o640), "cert.pem", "ca.crt"));
    assert!(matches!(&site.on_change, Some(OnChange::Command { words, timeout, .. }) if words.len() == 2 && timeout.as_secs() == 60));
    assert_eq!((token.role.as_str(), token.audience.as_deref()), ("token", Some("sts.amazonaws.com")));
    assert!(matches!(&token.on_change, Some(OnChange::Signal { pid_file, .. }) if *pid_file == here("x.pid")));
    assert_eq!(config.sockets.sds.unwrap().path, here("sds.sock"));
}

#[test]
fn little_is_enough() {
    let config = load(SMALL).unwrap();
    assert_eq!((config.identity, config.health, config.roles.len()), (IdentityWay::Enrolled, None, 1));
}

#[test]
fn every_fault_is_told_at_once_with_its_line() {
    let text = "state_dir = 7\n[server]\naddress = \"http://h:1\"\n[identity]\nkey = \"k\"\n[log]\nformat = \"xml\"\n[health]\n\
                listen = \"0.0.0.0:1\"\n[[role]]\nname = \"Web\"\ndir = \"d\"\nmode = \"0644\"\n[[role]]\nname = \"b\"\ndir = \"d\"\n\
                on_change = { command = [] }\n[sockets.sds]\npath = \"s\"\nroles = [\"nobody\"]\n[rolle]\nx = 1\n";
    let faults = load(text).unwrap_err();
    let told: Vec<_> = faults.iter().map(|fault| (fault.line, fault.message.as_str())).collect();
    for (line, part) in [
        (1, "invalid type"),
        (2, "daypass speaks TLS only"),
        (4, "identity.key is set without"),
        (7, "xml"),
        (8, "loopback"),
        (10, "a name is 1 to 63"),
        (10, "mode: 0644"),
        (14, "another role has this dir"),
        (14, "name a program"),
        (18, "\"nobody\""),
        (21, "did you mean role?"),
    ] {
        assert!(told.iter().any(|(at, message)| *at == line && message.contains(part)), "{line} {part}: {told:#?}");
    }
    assert!(told.is_sorted_by_key(|(line, _)| *line), "{told:#?}");
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for (more, why) in [
        ("name = \"again\"", "duplicate key"),
        ("dir = \"x\"\nowner = \"no such user\"", "no user"),
        ("dir = \"x\"\ngroup = \"no such group\"", "no group"),
        ("owner = 0", "name their dir"),
        ("dir = \"s\"", "state_dir"),
        ("dir = \"/\"", "names no directory"),
        ("dir = \"x\"\nmode = \"0606\"", "none of 0400"),
        ("dir = \"x\"\nfiles = { key = \"a/b\" }", "no name of a file"),
        ("dir = \"x\"\nfiles = { key = \"..data\" }", "two dots"),
        ("dir = \"x\"\nfiles = { key = \"ca.crt\" }", "one name"),
        ("ttl = \"0s\"", "at least 1s"),
        ("audience = \"a b\"", "audience"),
        ("role = \"No\"", "role:"),
        ("dir = \"x\"\non_change = { signal = \"KILL\", pid_file = \"p\" }", "none of HUP"),
        ("dir = \"x\"\non_change = { signal = \"HUP\" }", "signal and pid_file"),
        ("on_change = { command = [\"x\"] }", "tells of files"),
        ("dir = \"x\"\non_change = { command = [\"x\"], timeout = \"11m\" }", "at most 600s"),
        ("dir = \"x\"\non_change = { signal = \"HUP\", pid_file = \"p\", timeout = \"1s\" }", "for a command"),
        ("dir = \"x\"\non_change = { command = [\"x\"], env = { \"A=B\" = \"c\" } }", "cannot be a variable"),
        ("[[role]]\nname = \"web\"", "two roles"),
        ("[identity]\nplatform = \"auto\"", "write github"),
        ("[identity]\ntoken_file = \"t\"\ncertificate = \"c\"\nkey = \"k\"", "give one of"),
        ("[identity]\naudience = \"a\"", "platform's token"),
        ("[log]\nfilter = \"a=b=c\"", "log.filter"),
        ("[sockets]\nx = 1", "unknown field"),
    ] {
        let told = fault(more);
        assert!(told.contains(why), "{more}: {told}");
    }
    for (server, why) in [("timeout = \"30s\"", "server.timeout"), ("timeout = \"0s\"", "server.timeout"), ("adress = 1", "unknown field")]
    {
        let faults = load(&SMALL.replace("[[role]]", &format!("{server}\n[[role]]"))).unwrap_err();
        assert!(faults.iter().any(|fault| fault.message.contains(why)), "{server}: {faults:?}");
    }
    let many: String = (0..=MAX_ROLES).map(|n| format!("[[role]]\nname = \"r{n}\"\n")).collect();
    assert!(load(&format!("state_dir = \"s\"\n[server]\naddress = \"h:1\"\n{many}")).unwrap_err()[0].message.contains("at most 256"));
    let none = load("").unwrap_err();
    assert_eq!(none.len(), 3, "{none:?}");
    assert!(load("a = [").unwrap_err()[0].line == 1);
    assert!(Config::load(Path::new("/nonexistent/agent.toml")).unwrap_err()[0].message.contains("no such file"));
}
