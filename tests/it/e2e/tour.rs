//! The first minutes of a newcomer.

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt, process::Command};

use super::world::World;
use crate::support::parts::run;

#[test]
fn dev_writes_what_it_promises_and_keeps_its_keys_to_itself() {
    let world = World::start();
    for name in ["daypass.toml", "policy.cedar", "ca.pem", "operator.pem", "operator.key", "vendor.pem", "vendor.key", "job.jwt", "env.sh"]
    {
        assert!(world.file(name).is_file(), "{name} is missing");
    }
    assert!(world.file("audit").is_dir());
    for name in
        ["operator.key", "vendor.key", "job.jwt", "pki/root.key", "pki/issuing.key", "pki/server.key", "issuer/key.pem", "store/leases.db"]
    {
        let mode = world.file(name).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{name} has mode {mode:o}");
    }
    for name in ["daypass.toml", "policy.cedar"] {
        let text = world.read(name);
        assert!(text.lines().any(|line| line.starts_with('#') || line.starts_with("//")), "{name} has no comments");
    }
    assert_eq!(world.read("job.jwt").trim().split('.').count(), 3, "job.jwt is a JWT");
}

#[test]
fn dev_says_where_it_listens_and_what_to_paste() {
    let world = World::start();
    let greeting = world.greeting();
    assert!(greeting.contains(&format!("127.0.0.1:{}", world.grpc)) && greeting.contains(&format!("http://127.0.0.1:{}", world.http)));
    // What comes after them is for whoever has a registry.
    let first = greeting.split("A registry on").next().unwrap();
    let commands: Vec<&str> = first.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    assert_eq!(commands.len(), 3, "{greeting}");

    // Pasted as they are, in a plain shell that finds `daypass` on its path.
    let bin = std::path::Path::new(env!("CARGO_BIN_EXE_daypass")).parent().unwrap();
    let out = tempfile::tempdir().unwrap();
    let mut shell = Command::new("/bin/sh");
    shell.args(["-eu", "-c", &commands.join("\n")]).current_dir(out.path()).env_clear().env("PATH", bin);
    let ran = run(&mut shell);
    assert!(ran.ok, "{}", ran.all());
    for file in ["web/tls.crt", "web/tls.key", "web/ca.crt", "job/tls.crt"] {
        assert!(out.path().join(file).is_file(), "{file} is missing");
    }
    let subjects: BTreeSet<String> = leases(&world).into_iter().map(|(_, subject)| subject).collect();
    assert_eq!(subjects.len(), 2, "the operator and the job: {subjects:?}");
}

#[test]
fn env_sh_makes_a_plain_shell_the_operator() {
    let world = World::start();
    let env = world.file("env.sh");
    // What was set before must not win over it.
    let script =
        format!("DAYPASS_TOKEN=old; export DAYPASS_TOKEN; . '{}' && exec '{}' whoami", env.display(), env!("CARGO_BIN_EXE_daypass"));
    let ran = run(Command::new("sh").args(["-eu", "-c", &script]).env_clear());
    assert!(ran.ok && ran.text().contains("spiffe://dev.daypass.test/operator"), "{}", ran.all());
}

#[test]
fn a_second_run_finds_everything_as_the_first_left_it() {
    let mut world = World::start();
    let operator = world.operator();
    let lease = world.lease(&operator, "web");
    let kept =
        ["ca.pem", "operator.pem", "operator.key", "vendor.key", "pki/root.key", "pki/issuing.pem", "issuer/jwks.json", "policy.cedar"];
    let before = kept.map(|name| world.read(name));
    // An edit is the user's own: it stays.
    world.append("policy.cedar", "// mine\n");
    world.append("daypass.toml", "# mine too\n");
    let records = world.records();
    assert!(world.stop().success());

    world.start_again();
    let after = kept.map(|name| world.read(name));
    assert_eq!(before[..7], after[..7]);
    assert!(after[7].ends_with("// mine\n") && world.read("daypass.toml").ends_with("# mine too\n"));
    assert_eq!(leases(&world), [(lease.clone(), "spiffe://dev.daypass.test/operator".to_owned())]);
    assert_eq!(world.records()[..records.len()], records, "the audit log goes on where it ended");
    assert_eq!(world.cli(&operator, ["lease", "revoke", &lease]).code, 0, "the old key still opens the door");
    let audit = world.file("audit").display().to_string();
    let verified = world.cli(&operator, ["audit", "verify", &audit, "-o", "json"]).json();
    assert_eq!(verified["records"], world.records().len());
}

#[test]
fn help_and_version_need_no_server() {
    for (program, words) in [
        (env!("CARGO_BIN_EXE_daypass"), "whoami issue explain lease audit completions"),
        (env!("CARGO_BIN_EXE_daypassd"), "dev serve check"),
    ] {
        let help = run(Command::new(program).arg("--help").env_clear());
        assert!(help.ok && words.split(' ').all(|word| help.text().contains(word)), "{}", help.all());
        assert!(run(Command::new(program).arg("--version").env_clear()).ok);
    }
    let script = run(Command::new(env!("CARGO_BIN_EXE_daypass")).args(["completions", "bash"]).env_clear());
    assert!(script.ok && script.text().contains("complete"), "{}", script.all());
}

fn leases(world: &World) -> Vec<(String, String)> {
    let json = world.cli(&world.operator(), ["lease", "list", "-o", "json"]).json();
    let text = |lease: &serde_json::Value, name: &str| lease[name].as_str().unwrap().to_owned();
    json.as_array().unwrap().iter().map(|lease| (text(lease, "id"), text(lease, "subject"))).collect()
}
