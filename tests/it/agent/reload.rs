//! SIGHUP: another configuration takes the place of the one before, in the running agent; one that cannot be run changes nothing.

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, net::UnixStream},
};

use super::run::{Agent, PATIENCE, certificate, leases, log, wait_rotation, world};
use crate::{
    e2e::world::World,
    support::parts::{free_port, wait_until},
};

fn hang_up(agent: &mut Agent) {
    agent.signal("HUP");
    agent.wait_told("RELOADING=1");
    agent.wait_told("READY=1");
}

fn serves(world: &World, socket: &str) -> bool {
    UnixStream::connect(world.file(socket)).is_ok()
}

fn ids(world: &World) -> Vec<String> {
    let said = world.cli(&world.operator(), ["lease", "list", "--role", "web", "--state", "active", "-o", "json"]).json();
    said.as_array().unwrap().iter().map(|lease| lease["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn roles_sockets_and_health_change_in_place_and_the_log_with_the_next_start() {
    let (world, health) = world();
    let mut agent = Agent::start(&world, health);
    agent.wait_told("READY=1");
    let first = wait_rotation(&world, None);
    let before = ids(&world);
    assert!(serves(&world, "agent/workload.sock") && serves(&world, "agent/sds.sock"));

    let (written, moved) = (world.read("agent.toml"), free_port());
    world.edit("agent.toml", &format!("127.0.0.1:{health}"), &format!("127.0.0.1:{moved}"));
    world.edit("agent.toml", "path = \"agent/workload.sock\"", "path = \"agent/other.sock\"\nmode = \"0666\"");
    world.edit("agent.toml", "[sockets.sds]\npath = \"agent/sds.sock\"", "");
    world.append(
        "agent.toml",
        "[log]\nformat = \"json\"\nfilter = \"debug\"\n[[role]]\nname = \"second\"\nrole = \"web\"\ndir = \"second\"\n",
    );
    hang_up(&mut agent);
    agent.health = moved;
    assert_eq!(agent.get("/readyz").0, 200, "ready is said when every role is");
    assert!(std::net::TcpStream::connect(("127.0.0.1", health)).is_err(), "nobody listens there any more");
    assert!(serves(&world, "agent/other.sock"));
    assert_eq!(fs::metadata(world.file("agent/other.sock")).unwrap().permissions().mode() & 0o777, 0o666);
    assert!(!world.file("agent/workload.sock").exists() && !world.file("agent/sds.sock").exists());
    assert!(world.file("second/tls.crt").exists());
    let both = ids(&world);
    assert!(both.len() == 2 && both.contains(&before[0]), "the first goes on, the second is its own: {both:?}");
    let rotated = wait_rotation(&world, Some(&first));
    let said = log(&world);
    assert!(said.contains("another configuration is taken up") && said.contains("[log] is in force after a restart"), "{said}");
    assert!(!said.contains("DEBUG") && !said.contains("\"level\""), "not before: {said}");
    assert!(agent.metric("daypass_agent_generation{role=\"second\"}") >= 1.0);

    // And back: what is no longer kept is left where it is, and nothing is told of it.
    world.write("agent.toml", &written);
    hang_up(&mut agent);
    agent.health = health;
    assert!(serves(&world, "agent/workload.sock") && serves(&world, "agent/sds.sock") && !world.file("agent/other.sock").exists());
    assert!(world.file("second/tls.crt").exists());
    let page = agent.get("/metrics").1;
    assert!(page.contains("role=\"web\"") && !page.contains("role=\"second\""), "{page}");
    wait_rotation(&world, Some(&rotated));
    assert_eq!(leases(&world, &world.operator()), 2, "none for the reloads");

    // The log's change is in force with the next start.
    world.append("agent.toml", "[log]\nformat = \"json\"\nfilter = \"debug\"\n");
    agent.signal("TERM");
    assert!(agent.end().success());
    fs::remove_file(world.file("agent.log")).unwrap();
    let agent = Agent::start(&world, health);
    agent.wait_told("READY=1");
    wait_until(PATIENCE, "it tells more", || log(&world).contains("\"level\":\"DEBUG\"").then_some(()));
    let lines = log(&world);
    assert!(lines.lines().all(|line| line.starts_with('{')), "{lines}");
}

/// systemd must neither take a start for done, nor wait for ever for the end of a reload.
#[test]
fn a_role_that_gets_nothing_holds_up_the_start_and_no_reload() {
    let (world, health) = world();
    let good = world.read("agent.toml");
    let denied = "[[role]]\nname = \"denied\"\nrole = \"vendor-client\"\n";
    world.append("agent.toml", denied);
    let mut agent = Agent::start(&world, health);
    wait_until(PATIENCE, "it is refused", || log(&world).contains("a role is not kept at the moment").then_some(()));
    agent.signal("HUP");
    wait_until(PATIENCE, "it has read the file again", || log(&world).contains("the configuration is the same").then_some(()));
    agent.pass_over();
    // What it said of the reload came before its next sign of life.
    (0..2).for_each(|_| agent.wait_told("WATCHDOG=1"));
    assert_eq!(agent.has_told(&["READY=1", "RELOADING=1"]), [""; 0], "it still starts");

    world.write("agent.toml", &good);
    agent.signal("HUP");
    agent.wait_told("READY=1");
    world.append("agent.toml", denied);
    hang_up(&mut agent);
    assert_eq!(agent.get("/readyz").0, 503, "what is missing is still said");
}

#[test]
fn a_configuration_that_cannot_be_run_changes_nothing() {
    let (world, health) = world();
    let mut agent = Agent::start(&world, health);
    agent.wait_told("READY=1");
    let mut shown = wait_rotation(&world, None);
    let good = world.read("agent.toml");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let kept = "the one before stays in force";
    for (bad, why, outcome) in [
        (good.replace("[server]", "[server"), "agent.toml", kept),
        (format!("{good}\n[[role]]\nname = \"web\"\n"), "web", kept),
        (good.replace("dir = \"agent\"", "dir = \"agent\"\nowner = \"nobody-has-this-name\""), "nobody-has-this-name", kept),
        (good.replace("certificate = \"operator.pem\"", "certificate = \"missing.pem\""), "missing.pem", kept),
        // What shows only when it is tried.
        (good.replace(&format!("127.0.0.1:{health}"), &format!("127.0.0.1:{port}")), "health.listen", "the one before is in force again"),
        (good.replace("agent/sds.sock", "agent/tls.crt"), "no socket", "the one before is in force again"),
    ] {
        assert_ne!(bad, good, "{why}");
        let told = log(&world).len();
        world.write("agent.toml", &bad);
        hang_up(&mut agent);
        let said = log(&world)[told..].to_owned();
        assert!(said.contains(outcome) && said.contains(why), "{why}: {said}");
        assert_eq!((agent.get("/healthz").0, agent.get("/readyz").0), (200, 200), "{why}");
        assert!(serves(&world, "agent/workload.sock") && serves(&world, "agent/sds.sock"), "{why}");
        assert!(certificate(&world).is_some_and(|now| now.starts_with("-----BEGIN CERTIFICATE-----")), "{why}");
    }
    shown = wait_rotation(&world, Some(&shown));
    assert_eq!(leases(&world, &world.operator()), 1, "one lease through all of them");

    // The same once more is no change.
    world.write("agent.toml", &good);
    hang_up(&mut agent);
    wait_until(PATIENCE, "it says so", || log(&world).contains("the configuration is the same").then_some(()));
    wait_rotation(&world, Some(&shown));
}
