//! The agent's own identity inside `daypass agent run`: renewed with another key, told to the server, and taken up after a restart.

use std::{fs, path::Path, time::Duration};

use daypass::{
    agent::identity::{IdentityDir, SETTLE},
    model::Timestamp,
};

use super::run::{Agent, PATIENCE, certificate, daypass, leases, log, wait_rotation, world};
use crate::{
    e2e::world::{Caller, World},
    support::parts::{openssl::openssl_ok, run, wait_until},
};

/// The life of the agent's identity in seconds: when one that was renewed in the first half of it is acknowledged, [`SETTLE`] later, the
/// certificate before still lives.
const LIFE: i64 = 80;

/// Enrols an agent into the sample's state directory whose identity is renewed in the first half of its life: when is drawn with the lease.
fn enroll_early(world: &World) {
    for n in 0..60 {
        let made = world.cli(&world.operator(), ["enroll", "create", "--tenant", "fleet", "--role", "agent", "-o", "json"]).json();
        let (code, dir) = (made["code"].as_str().unwrap(), format!("agent/enrolled-{n}"));
        let enrolled = world.cli(&Caller::nobody(), ["agent", "enroll", "--code", code, "--state-dir", &dir]);
        assert_eq!(enrolled.code, 0, "{enrolled:?}");
        let kept = IdentityDir::open(&world.file(&dir)).unwrap().load().unwrap().kept;
        let life_left: Timestamp = kept.expires_at;
        if life_left.duration_since(kept.renew_before.unwrap()).as_secs() >= LIFE / 2 {
            fs::rename(world.file(&dir), world.file("agent/state")).unwrap();
            return;
        }
    }
    panic!("none is renewed early");
}

/// Certificate and key as they are now, which belong together, kept under a name.
fn copy_of_identity(world: &World, name: &str) -> Caller {
    let dir = world.file("agent/state").join(fs::read_link(world.file("agent/state/identity")).unwrap());
    let [cert, key] = ["pem", "key"].map(|kind| world.file(&format!("{name}.{kind}")));
    for (from, to) in [("cert.pem", &cert), ("key.pem", &key)] {
        fs::copy(dir.join(from), to).unwrap();
    }
    assert_eq!(
        public_key(world, &["x509", "-noout", "-pubkey", "-in"], &cert),
        public_key(world, &["pkey", "-pubout", "-in"], &key),
        "the key is not the certificate's"
    );
    Caller::files(cert, key)
}

fn public_key(world: &World, args: &[&str], file: &Path) -> String {
    let file = file.display().to_string();
    openssl_ok(world.dir(), args.iter().copied().chain([file.as_str()])).text()
}

fn generation(agent: &Agent) -> f64 {
    agent.metric("daypass_agent_identity_generation")
}

#[test]
fn an_identity_renews_itself_in_a_running_agent_and_through_a_restart() {
    let (world, health) = world();
    world.reconfigure(|world| {
        let life = format!("default_ttl = \"{LIFE}s\"");
        world.edit("daypass.toml", "default_ttl = \"24h\"\nmax_ttl = \"24h\"", &format!("{life}\nmax_ttl = \"24h\""));
        // Who shows the old certificate below is told apart, and the holder goes on.
        world.edit("daypass.toml", "on_clone = \"revoke\"", "on_clone = \"alert\"");
    });
    world.edit("agent.toml", "[identity]\ncertificate = \"operator.pem\"\nkey = \"operator.key\"\n", "");
    enroll_early(&world);
    let before = copy_of_identity(&world, "before");
    let mut agent = Agent::start(&world, health);
    agent.wait_told("READY=1");
    assert_eq!(generation(&agent), 1.0);

    let patience = Duration::from_secs(LIFE as u64) + PATIENCE;
    wait_until(patience, "the identity is renewed", || (generation(&agent) == 2.0).then_some(()));
    assert_eq!(world.cli(&before, ["whoami"]).code, 0, "a handshake with the one before may be under way");
    let after = copy_of_identity(&world, "after");
    let public = |name: &str| public_key(&world, &["x509", "-noout", "-pubkey", "-in"], &world.file(name));
    assert_ne!(public("before.pem"), public("after.pem"), "a key is used once");

    let kept = || IdentityDir::open(&world.file("agent/state")).unwrap().load().unwrap().kept;
    wait_until(SETTLE + PATIENCE, "the server is told", || kept().acknowledged.then_some(()));
    wait_until(PATIENCE, "the one before is refused", || (world.cli(&before, ["whoami"]).code == 3).then_some(()));
    let clones = || world.records().into_iter().filter(|record| record["method"] == "clone/found");
    let found = wait_until(PATIENCE, "that it was shown is on record", || clones().next());
    assert_eq!((&found["reason"], &found["outcome"]), (&"GENERATION_SUPERSEDED".into(), &"denied".into()), "not as one that expired");
    assert_eq!(found["lease_id"], kept().lease_id.as_str());
    let found = clones().count();

    // It goes on with the one that it has, killed and started again, too.
    wait_rotation(&world, certificate(&world).as_deref());
    agent.signal("KILL");
    agent.end();
    let agent = Agent::start(&world, health);
    wait_until(PATIENCE, "it serves", || std::net::TcpStream::connect(("127.0.0.1", health)).ok());
    assert!(generation(&agent) >= 2.0, "not an earlier one");
    agent.wait_told("READY=1");
    wait_rotation(&world, certificate(&world).as_deref());
    assert_eq!(agent.get("/readyz").0, 200, "{}", log(&world));
    assert_eq!(clones().count(), found, "its own renewals are no clones");
    assert_eq!(leases(&world, &world.operator()), 1, "of web");
    assert_eq!(world.cli(&after, ["lease", "get", &kept().lease_id]).code, 0);
}

/// A code for the agent, and its enrolment by it; gives the identity's lease.
fn enroll(world: &World) -> String {
    let code = world.cli(&world.operator(), ["enroll", "create", "--tenant", "fleet", "--role", "agent"]).stdout;
    let enrolled = world.cli(&Caller::nobody(), ["agent", "enroll", "--code", code.trim(), "--state-dir", "agent/state"]);
    assert_eq!(enrolled.code, 0, "{enrolled:?}");
    IdentityDir::open(&world.file("agent/state")).unwrap().load().unwrap().kept.lease_id
}

/// Its own renewal is half a day away: the roles find out, and the keeper of the identity hears of it.
#[test]
fn a_revoked_identity_is_told_when_a_role_meets_it_and_a_new_enrolment_is_taken_up() {
    let (mut world, health) = world();
    world.edit("agent.toml", "[identity]\ncertificate = \"operator.pem\"\nkey = \"operator.key\"\n", "");
    let first = enroll(&world);
    let agent = Agent::start(&world, health);
    agent.wait_told("READY=1");
    assert_eq!(world.cli(&world.operator(), ["lease", "revoke", &first]).code, 0);
    // Streams that are open are not cut for it.
    world.kill();
    world.start_again();
    let says_so = || Some(agent.get("/readyz")).filter(|(status, body)| *status == 503 && body.contains("identity: "));
    let (_, body) = wait_until(PATIENCE, "it says so", says_so);
    assert!(body.contains("revoked"), "{body}");

    fs::remove_file(world.file("agent/state/identity")).unwrap();
    let second = enroll(&world);
    assert_ne!(first, second);
    wait_until(PATIENCE, "it is ready with the new one", || (agent.get("/readyz").0 == 200).then_some(()));
    wait_rotation(&world, certificate(&world).as_deref());
    assert!(log(&world).contains("was enrolled anew"), "{}", log(&world));
}

/// While an agent with a healthy identity runs, the operator enrols it anew, and says so with SIGHUP.
#[test]
fn an_enrolment_beside_a_running_agent_stays_and_is_taken_up_with_sighup() {
    let (world, health) = world();
    world.edit("agent.toml", "[identity]\ncertificate = \"operator.pem\"\nkey = \"operator.key\"\n", "");
    enroll(&world);
    let mut agent = Agent::start(&world, health);
    agent.wait_told("READY=1");
    fs::remove_file(world.file("agent/state/identity")).unwrap();
    let second = enroll(&world);
    agent.signal("HUP");
    wait_until(PATIENCE, "it is taken up", || log(&world).contains("was enrolled anew").then_some(()));
    wait_rotation(&world, certificate(&world).as_deref());
    assert_eq!(IdentityDir::open(&world.file("agent/state")).unwrap().load().unwrap().kept.lease_id, second);
    assert_eq!(agent.get("/readyz").0, 200);
}

#[test]
fn an_agent_whose_identity_was_revoked_keeps_what_is_valid_and_says_so() {
    let (world, health) = world();
    world.edit("agent.toml", "[identity]\ncertificate = \"operator.pem\"\nkey = \"operator.key\"\n", "");
    world.edit("agent.toml", "ttl = \"24s\"", "ttl = \"10m\"");
    world.reconfigure(|world| {
        world.edit("daypass.toml", "default_ttl = \"24h\"\nmax_ttl = \"24h\"", "default_ttl = \"8s\"\nmax_ttl = \"24h\"");
    });
    let lease = enroll(&world);
    let agent = Agent::start(&world, health);
    agent.wait_told("READY=1");
    let kept = certificate(&world).unwrap();
    assert_eq!(world.cli(&world.operator(), ["lease", "revoke", &lease]).code, 0);
    let (status, body) = wait_until(PATIENCE, "it says so", || Some(agent.get("/readyz")).filter(|(status, _)| *status == 503));
    assert!(body.starts_with("identity: ") && body.lines().count() == 1, "{status} {body}");
    wait_until(PATIENCE, "the log says what to do", || log(&world).contains("enrol it anew").then_some(()));
    assert_eq!((agent.get("/healthz").0, certificate(&world)), (200, Some(kept)), "what is valid stays");
    let second = run(&mut daypass(&world, "check"));
    assert!(second.ok, "nothing is wrong with its configuration: {}", second.all());
}
