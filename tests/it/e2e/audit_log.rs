//! The record: who got what and why, denials too; any change to it is found.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::{
    token,
    world::{Caller, World},
};

/// The one new record of a method since so many.
fn new_record(world: &World, before: usize, method: &str) -> Value {
    let records = world.records();
    let new: Vec<&Value> = records[before..].iter().filter(|record| record["method"] == method).collect();
    assert_eq!(new.len(), 1, "{method}: {:?}", &records[before..]);
    new[0].clone()
}

/// What every record of a caller says.
#[track_caller]
fn said_by(record: &Value, subject: &str, tenant: &str, outcome: &str) {
    assert!(record["time"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{record}");
    assert_eq!(
        (&record["actor"]["subject"], &record["tenant"], &record["outcome"]),
        (&json!(subject), &json!(tenant), &json!(outcome)),
        "{record}"
    );
    assert_eq!((&record["peer_address"], record["call_id"].as_str().map(str::len)), (&json!("127.0.0.1"), Some(32)), "{record}");
}

const OPERATOR: &str = "spiffe://dev.daypass.test/operator";
const JOB: &str = "oidc:github:repo:acme/widget:ref:refs/heads/main";

#[test]
fn every_action_leaves_its_record() {
    let world = World::start();
    let operator = world.operator();
    let count = || world.records().len();

    let before = count();
    let job = Caller::token(token::mint(&world, json!({"run_id": "4711"})));
    let issued = world.cli(&job, ["issue", "web", "--request-id", "build-1", "-o", "json"]).json();
    let id = issued["lease"]["id"].as_str().unwrap();
    let record = new_record(&world, before, "CredentialService/Issue");
    said_by(&record, JOB, "widget", "done");
    assert_eq!((&record["role"], &record["lease_id"], &record["request_id"]), (&json!("web"), &json!(id), &json!("build-1")));
    assert_eq!((&record["policies"], record["policy_version"].as_str().unwrap().len()), (&json!(["widget-main-web"]), 12));
    assert_eq!((&record["actor"]["method"], &record["actor"]["authority"]), (&json!("oidc"), &json!("github")));
    let claims = &record["actor"]["claims"];
    assert_eq!((&claims["repository_id"], &claims["ref"], &claims["run_id"]), (&json!("74"), &json!("refs/heads/main"), &json!("4711")));
    assert_eq!(record["lease"]["handle"]["x509"]["serials"][0]["s"], issued["lease"]["serial"]);

    let before = count();
    assert_eq!(world.cli(&operator, ["lease", "revoke", id, "--reason", "the key was lost"]).code, 0);
    let record = new_record(&world, before, "LeaseService/Revoke");
    said_by(&record, OPERATOR, "widget", "done");
    assert_eq!((&record["lease_id"], &record["detail"][0]), (&json!(id), &json!("the key was lost")));
    assert_eq!(record["lease"]["state"], "revoking", "on record before it is carried out");

    let own = world.lease(&operator, "web");
    let before = count();
    world.cli(&operator, ["lease", "renew", &own, "-o", "json"]).json();
    let record = new_record(&world, before, "LeaseService/Renew");
    said_by(&record, OPERATOR, "platform", "done");
    assert_eq!((&record["lease"]["generation"], &record["policies"]), (&json!(2), &json!(["operator-renew"])));

    let before = count();
    world.cli(&operator, ["lease", "revoke", "--role", "web", "--yes", "-o", "json"]).json();
    let records = &world.records()[before..];
    assert!(
        records.iter().any(|record| record["detail"][0].as_str().is_some_and(|text| text.starts_with("revoking 1 matching"))),
        "{records:?}"
    );
    assert!(records.iter().any(|record| record["lease_id"] == json!(own)), "{records:?}");

    let before = count();
    world.cli(&operator, ["whoami"]);
    said_by(&new_record(&world, before, "CredentialService/WhoAmI"), OPERATOR, "platform", "done");
    let before = count();
    world.cli(&operator, ["audit", "tail", "--last", "1"]);
    said_by(&new_record(&world, before, "AuditService/Tail"), OPERATOR, "platform", "done");
}

#[test]
fn every_refusal_leaves_its_record_with_the_reason() {
    let world = World::start();
    let vendor = "spiffe://dev.daypass.test/vendor/acme-scan";
    let operators_lease = world.lease(&world.operator(), "web");
    for (caller, args, method, reason) in [
        (world.vendor(), vec!["issue", "web"], "CredentialService/Issue", "DENIED"),
        (world.vendor(), vec!["issue", "nothing"], "CredentialService/Issue", "ROLE_NOT_FOUND"),
        (world.vendor(), vec!["lease", "get", &operators_lease], "LeaseService/Get", "LEASE_NOT_FOUND"),
        (world.vendor(), vec!["lease", "revoke", &operators_lease], "LeaseService/Revoke", "LEASE_NOT_FOUND"),
        (world.vendor(), vec!["explain", "web"], "CredentialService/Explain", "DENIED"),
        (world.vendor(), vec!["audit", "tail"], "AuditService/Tail", "DENIED"),
    ] {
        let before = world.records().len();
        assert_ne!(world.cli(&caller, &args).code, 0, "{args:?}");
        let record = new_record(&world, before, method);
        said_by(&record, vendor, "acme-scan", "denied");
        assert_eq!(record["reason"], reason, "{record}");
    }

    // Which policies were considered, and which condition failed.
    let before = world.records().len();
    let branch = Caller::token(token::mint(&world, json!({"ref": "refs/heads/feature"})));
    assert_eq!(world.cli(&branch, ["issue", "web"]).code, 4);
    let record = new_record(&world, before, "CredentialService/Issue");
    let detail = record["detail"].to_string();
    assert!(detail.contains("widget-main-web") && detail.contains("ref"), "{record}");
    assert_eq!(record["actor"]["claims"]["ref"], "refs/heads/feature");

    // Who could not say who it is.
    let now = token::now();
    for (changes, reason) in
        [(json!({"exp": now - 60, "iat": now - 90, "nbf": now - 90}), "TOKEN_EXPIRED"), (json!({"aud": "other"}), "TOKEN_AUDIENCE")]
    {
        let before = world.records().len();
        assert_eq!(world.cli(&Caller::token(token::mint(&world, changes)), ["issue", "web"]).code, 3);
        let record = new_record(&world, before, "CredentialService/Issue");
        assert_eq!(
            (&record["outcome"], &record["reason"], &record["peer_address"]),
            (&json!("denied"), &json!(reason), &json!("127.0.0.1"))
        );
        assert_eq!(record.get("actor"), None);
    }
    let job = world.job();
    assert_eq!(world.cli(&job, ["issue", "web"]).code, 0);
    let before = world.records().len();
    assert_eq!(world.cli(&job, ["issue", "web"]).code, 3);
    assert_eq!(new_record(&world, before, "CredentialService/Issue")["reason"], "TOKEN_REPLAYED");
}

#[test]
fn a_lease_that_expires_is_on_record_too() {
    let world = World::start();
    let said = world.cli(&world.operator(), ["issue", "web", "--ttl", "1s", "-o", "json"]).json();
    let id = said["lease"]["id"].as_str().unwrap();
    crate::support::parts::wait_until(std::time::Duration::from_secs(10), "the lease is expired", || {
        (world.cli(&world.operator(), ["lease", "get", id, "-o", "json"]).json()["state"] == "expired").then_some(())
    });
    let record = world.records().into_iter().find(|record| record["lease_id"] == id && record["actor"]["method"] == "service");
    assert_eq!(record.expect("its expiry is on record")["outcome"], "done");
}

#[test]
fn verify_passes_while_the_server_writes() {
    let world = World::start();
    let audit = world.file("audit").display().to_string();
    for _ in 0..5 {
        world.lease(&world.operator(), "web");
        let said = world.cli(&Caller::nobody(), ["audit", "verify", &audit, "-o", "json"]);
        assert_eq!(said.json()["records"], world.records().len());
    }
}

#[test]
fn verify_finds_any_change_and_names_the_record() {
    let mut world = World::start();
    for _ in 0..6 {
        world.lease(&world.operator(), "web");
    }
    world.stop();
    let [path] = world.segments().try_into().expect("one file");
    let whole = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let without = |drop: usize| lines.iter().enumerate().filter(|(at, _)| *at != drop).map(|(_, line)| *line).collect::<String>();
    let mut swapped = lines.clone();
    swapped.swap(2, 3);
    let mut twice = lines.clone();
    twice.insert(3, lines[2]);
    let verify = |path: &Path| {
        let said = world.cli(&Caller::nobody(), ["audit", "verify", &path.display().to_string()]);
        (said.code, said.stderr)
    };
    assert_eq!(verify(&world.file("audit")).0, 0);
    // Before the leases come the records of the service's own keys.
    let first_lease = 1 + lines.iter().position(|line| line.contains("\"role\":\"web\"")).expect("a lease");
    let (first_lease, last) = (first_lease.to_string(), lines.len().to_string());
    for (what, text, named) in [
        ("a byte flipped", whole.replacen("\"role\":\"web\"", "\"role\":\"wec\"", 1), first_lease.as_str()),
        ("a line deleted", without(2), "3"),
        ("the first line deleted", without(0), "1"),
        ("two lines in another order", swapped.concat(), "3"),
        ("a line twice", twice.concat(), "4"),
        ("the last line deleted", without(lines.len() - 1), last.as_str()),
        ("everything deleted", String::new(), "1"),
        ("the last line cut", whole[..whole.len() - 20].to_owned(), last.as_str()),
    ] {
        fs::write(&path, &text).unwrap();
        let (code, stderr) = verify(&world.file("audit"));
        assert_eq!((code, stderr.lines().count()), (1, 1), "{what}: {stderr:?}");
        assert!(stderr.contains(&format!(": record {named}: ")), "{what}: {stderr:?} does not name record {named}");
    }
    fs::write(&path, whole).unwrap();
    assert_eq!(verify(&world.file("audit")).0, 0);
}

#[test]
fn an_auditor_reads_the_records_of_its_own_tenant_only() {
    let world = World::start();
    world.lease(&world.operator(), "web");
    world.lease(&world.vendor(), "vendor-client");
    world.lease(&world.job(), "web");
    let tail = |caller: &Caller| world.cli(caller, ["audit", "tail", "--after-seq", "0", "-o", "json"]);
    let parse = |text: &str| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();

    let all = parse(&tail(&world.operator()).stdout);
    let on_disk = world.records();
    assert_eq!(all, on_disk[..all.len()], "each record is exactly as it lies in the log");
    let said = tail(&world.vendor());
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.stdout.is_empty());

    world.reconfigure(|world| {
        world.append(
            "policy.cedar",
            "@id(\"vendor-audit\") permit(principal is Certificate in Tenant::\"acme-scan\", action == Action::\"audit\", resource == Tenant::\"acme-scan\");\n",
        );
    });
    let own = parse(&tail(&world.vendor()).stdout);
    assert!(own.len() >= 2 && own.iter().all(|record| record["tenant"] == "acme-scan"), "{own:?}");
    assert!(own.iter().any(|record| record["method"] == "CredentialService/Issue" && record["outcome"] == "done"));
}
