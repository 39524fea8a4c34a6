//! A changed configuration: taken up while the server runs, or refused as a whole with every fault named.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::world::{Caller, World};
use crate::support::parts::{Ran, run, wait_until};

/// Within this an edit is in force.
const TAKEN_UP: Duration = Duration::from_secs(3);

const VENDOR_WEB: &str = "@id(\"vendor-web\") permit(principal is Certificate in Tenant::\"acme-scan\", action == Action::\"issue\", resource == Role::\"web\");\n";

#[test]
fn an_edited_policy_is_in_force_within_three_seconds() {
    let world = World::start();
    let vendor = world.vendor();
    assert_eq!(world.cli(&vendor, ["issue", "web"]).code, 4);
    let version = |world: &World| world.reloads().last().map(|record| record["policy_version"].clone());
    let policy = world.read("policy.cedar");

    let begun = Instant::now();
    world.append("policy.cedar", VENDOR_WEB);
    wait_until(TAKEN_UP, "the vendor may have web", || (world.cli(&vendor, ["issue", "web"]).code == 0).then_some(()));
    assert!(begun.elapsed() < TAKEN_UP);
    let first = version(&world);
    assert!(first.is_some());
    world.write("policy.cedar", &policy);
    wait_until(TAKEN_UP, "the vendor may no longer have web", || (world.cli(&vendor, ["issue", "web"]).code == 4).then_some(()));
    assert_ne!(version(&world), first, "another policy has another version");
    assert!(world.reloads().iter().all(|record| record["outcome"] == "done"));
}

#[test]
fn sighup_reloads_what_has_not_changed_on_disk() {
    let world = World::start();
    assert_eq!(world.reloads().len(), 0);
    world.signal("HUP");
    wait_until(TAKEN_UP, "a reload is on record", || (world.reloads().len() == 1).then_some(()));
    let record = &world.reloads()[0];
    assert_eq!((&record["outcome"], &record["actor"]["method"]), (&Value::from("done"), &Value::from("service")));
    assert_eq!(world.cli(&world.operator(), ["whoami"]).code, 0);
}

#[test]
fn a_change_during_a_change_is_not_lost() {
    let world = World::start();
    let vendor = world.vendor();
    let policy = world.read("policy.cedar");
    for round in 0..6 {
        let with = format!("{policy}{VENDOR_WEB}// {round}\n");
        world.write("policy.cedar", &with);
        world.signal("HUP");
        // At any moment of the reload that has just begun.
        std::thread::sleep(Duration::from_millis(round * 3));
        world.write("policy.cedar", &policy);
        wait_until(TAKEN_UP, "the last version is in force", || (world.cli(&vendor, ["issue", "web"]).code == 4).then_some(()));
    }
}

#[test]
fn a_broken_policy_leaves_the_old_one_in_force() {
    let world = World::start();
    let record = world.reload("failed", |world| {
        world.edit("policy.cedar", "principal.claims.repository_id", "principal.claims.repositry_id");
        world.append("policy.cedar", VENDOR_WEB);
    });
    let detail = record["detail"][0].as_str().unwrap();
    assert!(detail.contains("policy.cedar:") && detail.contains("repositry_id"), "{record}");
    assert!(world.is_ready(), "what is in force still serves");
    assert!(world.metrics().contains("daypass_config_in_force 0"));
    assert_eq!(world.cli(&world.operator(), ["issue", "web"]).code, 0);
    assert_eq!(world.cli(&world.job(), ["issue", "web"]).code, 0);
    assert_eq!(world.cli(&world.vendor(), ["issue", "web"]).code, 4, "nothing of the refused file is in force");
    assert!(world.log().contains("the old one stays in force"));

    world.reconfigure(|world| world.edit("policy.cedar", "repositry_id", "repository_id"));
    assert!(world.metrics().contains("daypass_config_in_force 1"));
    assert_eq!(world.cli(&world.vendor(), ["issue", "web"]).code, 0);
}

#[test]
fn a_broken_file_leaves_its_tenants_and_domains_in_force() {
    let world = World::start();
    world.reload("failed", |world| world.edit("daypass.toml", "[[tenant]]\nname = \"platform\"", "[[tenant]]\nname = \"platfrom\""));
    assert_eq!(world.cli(&world.operator(), ["issue", "web"]).code, 0);
    world.reload("failed", |world| world.write("daypass.toml", "this is not TOML"));
    assert_eq!(world.cli(&world.operator(), ["issue", "web"]).code, 0);
    assert!(world.is_ready());
}

#[test]
fn a_new_tenant_and_the_end_of_one_are_taken_up() {
    let world = World::start();
    assert_eq!(world.cli(&world.vendor(), ["issue", "vendor-client"]).code, 0);
    world.reconfigure(|world| world.edit("daypass.toml", "2036-01-01T00:00:00Z", "2020-01-01T00:00:00Z"));
    let said = world.cli(&world.vendor(), ["issue", "vendor-client", "-o", "json"]);
    assert_eq!((said.code, said.error().0.as_str()), (4, "TENANT_ENDED"), "{said:?}");
    world.reconfigure(|world| world.edit("daypass.toml", "repository_id = \"74\"", "repository_id = \"75\""));
    let said = world.cli(&world.job(), ["issue", "web", "-o", "json"]);
    assert_eq!((said.code, said.error().0.as_str()), (4, "NO_TENANT"), "{said:?}");
    let moved = Caller::token(super::token::mint(&world, serde_json::json!({"repository_id": "75"})));
    assert_eq!(world.cli(&moved, ["whoami"]).code, 0);
}

/// `daypassd check` on the world's configuration.
fn check(world: &World) -> Ran {
    run(Command::new(env!("CARGO_BIN_EXE_daypassd")).args(["check", "--config"]).arg(world.file("daypass.toml")).env_clear())
}

/// The line, from 1, on which a text stands in a file.
fn line_of(world: &World, file: &str, text: &str) -> usize {
    world.read(file).lines().position(|line| line.contains(text)).unwrap_or_else(|| panic!("no {text:?} in {file}")) + 1
}

/// The line on which the section of a text begins: names that TOML itself takes are told by their section.
fn section_of(world: &World, file: &str, text: &str) -> usize {
    let until = line_of(world, file, text);
    world.read(file).lines().take(until).collect::<Vec<_>>().iter().rposition(|line| line.starts_with('[')).map_or(0, |at| at + 1)
}

#[test]
fn check_passes_what_dev_wrote() {
    let world = World::start();
    let ran = check(&world);
    assert!(ran.ok && ran.text().contains("5 roles, 4 tenants, policy version "), "{}", ran.all());
}

#[test]
fn check_names_every_misspelt_word_with_its_line_and_what_was_meant() {
    for (file, right, wrong, meant) in [
        ("policy.cedar", "principal.claims.repository_id == \"74\"", "principal.claims.repositry_id == \"74\"", "repository_id"),
        ("policy.cedar", "resource == Role::\"vendor-client\"", "resource == Role::\"vendor-cleint\"", "vendor-client"),
        ("policy.cedar", "Tenant::\"widget\"", "Tenant::\"wigdet\"", "widget"),
        ("policy.cedar", "Action::\"issue\"", "Action::\"isue\"", "issue"),
        ("daypass.toml", "max_live_leases = 1000", "max_life_leases = 1000", "max_live_leases"),
        ("daypass.toml", "default_ttl = \"15m\"", "defualt_ttl = \"15m\"", "default_ttl"),
        ("daypass.toml", "issuer = \"github\"", "issuer = \"githbu\"", "github"),
        ("daypass.toml", "claims = { repository_id", "claims = { repositry_id", "repository_id"),
        ("daypass.toml", "tenant = \"acme-scan\"", "tenant = \"acme-scna\"", "acme-scan"),
        ("daypass.toml", "ca = \"issuing\"", "ca = \"isuing\"", "issuing"),
    ] {
        let world = World::start();
        world.edit(file, right, wrong);
        let ran = check(&world);
        assert!(!ran.ok, "{wrong}: {}", ran.all());
        let word = wrong.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-').find(|word| !right.contains(word)).unwrap();
        let lines = [line_of(&world, file, word), section_of(&world, file, word)].map(|line| format!("{file}:{line}:"));
        let told = ran.stderr.lines().find(|line| lines.iter().any(|at| line.contains(at)) && line.contains(word));
        let told = told.unwrap_or_else(|| panic!("no fault of {word:?} at {lines:?}: {}", ran.all()));
        assert!(told.replace(word, "").contains(meant), "{told:?} does not suggest {meant:?}");
    }
}

#[test]
fn check_tells_all_faults_at_once() {
    let world = World::start();
    world.edit("daypass.toml", "crl_life = \"1h\"", "crl_lfe = \"1h\"");
    world.edit("daypass.toml", "max_live_leases = 1000", "max_life_leases = 1000");
    let ran = check(&world);
    for word in ["crl_lfe", "max_life_leases"] {
        let at = format!("daypass.toml:{}", line_of(&world, "daypass.toml", word));
        assert!(!ran.ok && ran.stderr.lines().any(|line| line.contains(&at) && line.contains(word)), "{at}: {}", ran.all());
    }

    let world = World::start();
    world.edit("policy.cedar", "principal.claims.repository_id", "principal.claims.repositry_id");
    world.edit("policy.cedar", "Role::\"vendor-client\"", "Role::\"vendor-cleint\"");
    let ran = check(&world);
    for word in ["repositry_id", "vendor-cleint"] {
        assert!(!ran.ok && ran.stderr.lines().any(|line| line.contains("policy.cedar:") && line.contains(word)), "{word}: {}", ran.all());
    }
}
