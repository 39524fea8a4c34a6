//! STS down, slow, throttled, refusing: the exit code of `daypass issue`, and what becomes of the lease and of the session.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    aws::{Cloud, SOON},
    aws_proxy::Does,
    world::Said,
};
use crate::support::parts::wait_until;

/// How long a session that reached nobody may work: long before its lease, which waits for what may be late, is closed.
const DENIED_WITHIN: Duration = Duration::from_secs(10);

/// Asks for a session that cannot be had, while AWS is so.
fn fails(cloud: &Cloud, does: Does, role: &str) -> Said {
    cloud.proxy.does(does);
    let said = cloud.world.cli(&cloud.world.operator(), ["issue", role, "-o", "json"]);
    assert_eq!(said.stdout, "", "{does:?}");
    assert_eq!(cloud.leases("active"), [json!(null); 0], "{does:?}");
    said
}

/// No lease is left that anybody would have to look after, once AWS is well.
fn is_clean(cloud: &Cloud) {
    cloud.proxy.does(Does::Pass);
    let open = || ["active", "pending", "revoking"].iter().flat_map(|state| cloud.leases(state)).collect::<Vec<_>>();
    let started = Instant::now();
    while !open().is_empty() {
        assert!(started.elapsed() < SOON, "{:#?}", open());
        thread::sleep(Duration::from_millis(50));
    }
}

/// What must be said to nobody.
fn secrets(cloud: &Cloud) -> Vec<String> {
    let made = cloud.proxy.made().into_iter().flat_map(|made| [Some(made.keys.secret), made.keys.token]).flatten();
    made.chain(cloud.world.given.env.iter().filter(|(name, _)| *name == "AWS_SECRET_ACCESS_KEY").map(|(_, value)| value.clone())).collect()
}

fn tells_no_secret(cloud: &Cloud, said: &[Said]) {
    let secrets = secrets(cloud);
    let audit: String = cloud.world.segments().iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let told = said.iter().flat_map(|said| [said.stdout.clone(), said.stderr.clone()]).chain([audit, cloud.world.log()]);
    for text in told {
        assert!(!secrets.iter().any(|secret| text.contains(secret)), "a secret is in {text}");
    }
}

/// Every lease so far.
fn known(cloud: &Cloud) -> BTreeSet<String> {
    let states = ["pending", "active", "revoking", "revoked", "expired"];
    states.iter().flat_map(|state| cloud.leases(state)).map(|lease| lease["id"].as_str().unwrap().to_owned()).collect()
}

fn state(cloud: &Cloud, lease: &str) -> Value {
    cloud.world.cli(&cloud.world.operator(), ["lease", "get", lease, "-o", "json"]).json()["state"].take()
}

#[test]
fn each_fault_has_its_exit_code_and_leaves_no_lease() {
    let cloud = Cloud::start();
    let cases = [
        // AWS' word that nothing was made.
        (Does::Throttle, "build", 6, "ISSUER_UNAVAILABLE", "Throttling", "expired"),
        (Does::Pass, "sealed", 4, "ISSUER_REFUSED", "AWS refuses sts:AssumeRole: AccessDenied", "expired"),
        // Nobody knows whether something was made, so it is denied.
        (Does::Down, "build", 6, "ISSUER_UNAVAILABLE", "AWS cannot be reached (sts:AssumeRole)", "revoked"),
        (Does::Hang, "build", 6, "ISSUER_UNAVAILABLE", "AWS does not answer in time (sts:AssumeRole)", "revoked"),
    ];
    let (mut heard, mut ends) = (Vec::new(), Vec::new());
    for (does, role, exit, code, text, end) in cases {
        let before = known(&cloud);
        let said = fails(&cloud, does, role);
        let (named, message) = said.error();
        assert_eq!((said.code, named.as_str()), (exit, code), "{does:?}: {message}");
        assert!(message.contains(text), "{does:?}: {message}");
        let made: Vec<String> = known(&cloud).difference(&before).cloned().collect();
        // The client may have tried more than once; each try has a lease of its own.
        assert!(!made.is_empty(), "{does:?} leaves nothing on record");
        ends.extend(made.into_iter().map(|lease| (does, lease, end)));
        heard.push(said);
    }
    is_clean(&cloud);
    for (does, lease, end) in ends {
        assert_eq!(state(&cloud, &lease), end, "{does:?}");
    }
    assert!(cloud.proxy.made().is_empty(), "nothing was made");
    assert!(cloud.proxy.asked() >= 4, "and AWS was asked each time");
    // It goes on as if nothing had been.
    let (_, keys) = cloud.session(&cloud.world.operator(), "build");
    assert_eq!(cloud.reads(&keys, "platform/x"), "platform/x");
    tells_no_secret(&cloud, &heard);
}

#[test]
fn a_session_whose_answer_is_lost_is_denied() {
    let cloud = Cloud::start();
    let mut heard = Vec::new();
    for does in [Does::Swallow, Does::Break] {
        let before = cloud.proxy.made().len();
        let said = fails(&cloud, does, "build");
        assert_eq!((said.code, said.error().0.as_str()), (6, "ISSUER_UNAVAILABLE"), "{said:?}");
        let made = cloud.proxy.made().split_off(before);
        assert!(!made.is_empty(), "{does:?}: AWS made one");
        for session in made {
            wait_until(DENIED_WITHIN, "the session is denied", || {
                (cloud.reads(&session.keys, "platform/x") == "AccessDenied").then_some(())
            });
        }
        heard.push(said);
    }
    is_clean(&cloud);
    for session in cloud.proxy.made() {
        assert_eq!(state(&cloud, &session.lease), "revoked");
    }
    tells_no_secret(&cloud, &heard);
}

#[test]
fn a_revocation_while_aws_is_away_is_carried_out_when_it_is_back() {
    let cloud = Cloud::start();
    let operator = cloud.world.operator();
    let (lease, keys) = cloud.session(&operator, "build");
    cloud.proxy.does(Does::Down);
    // It is on record, and it does not claim that AWS knows.
    let said = cloud.world.cli(&operator, ["lease", "revoke", &lease, "-o", "json"]);
    assert_eq!((said.code, state(&cloud, &lease)), (6, json!("revoking")), "{said:?}");
    assert_eq!(cloud.reads(&keys, "platform/x"), "platform/x");
    is_clean(&cloud);
    assert_eq!(cloud.reads(&keys, "platform/x"), "AccessDenied");
    assert_eq!(state(&cloud, &lease), "revoked");
}
