//! Every refusal has its exit code and one line that says what to do next.

use std::path::Path;

use serde_json::json;

use super::{
    token,
    world::{Caller, Said, World},
};

/// Runs a command twice, for people and as JSON, and holds the refusal against what is wanted: the exit code, the stable code,
/// and words that the line must have.
#[track_caller]
fn refused(say: impl Fn(&[&str]) -> Said, args: &[&str], exit: i32, code: &str, words: &[&str]) {
    let said = say(args);
    assert_eq!((said.code, said.stdout.as_str()), (exit, ""), "{said:?}");
    let line = said.line();
    assert!(line.starts_with("daypass: "), "{line}");
    for word in words {
        assert!(line.contains(word), "{line:?} does not say {word:?}");
    }
    let as_json = say(&[args, &["-o", "json"]].concat());
    assert_eq!((as_json.code, as_json.stdout.as_str()), (exit, ""), "{as_json:?}");
    let (stable, message) = as_json.error();
    assert_eq!(stable, code);
    assert!(words.iter().all(|word| message.contains(word)), "{message:?}");
}

#[test]
fn a_role_that_is_unknown_or_not_yours() {
    let world = World::start();
    let as_operator = |args: &[&str]| world.cli(&world.operator(), args);
    refused(as_operator, &["issue", "wbe"], 5, "ROLE_NOT_FOUND", &["\"wbe\"", "did you mean \"web\"?"]);
    let explained = world.cli(&world.operator(), ["explain", "wbe", "-o", "json"]).json();
    assert_eq!((&explained["allowed"], &explained["reason"]), (&json!(false), &json!("ROLE_NOT_FOUND")));
    refused(as_operator, &["issue", "database"], 5, "ROLE_NOT_FOUND", &["\"database\"", "daypass whoami"]);
    // A role of another tenant is no more there than one that does not exist.
    refused(as_operator, &["issue", "vendor-client"], 5, "ROLE_NOT_FOUND", &["\"vendor-client\""]);
    let as_vendor = |args: &[&str]| world.cli(&world.vendor(), args);
    refused(as_vendor, &["issue", "web"], 4, "DENIED", &["web"]);
    let on_a_branch = |args: &[&str]| world.cli(&Caller::token(token::mint(&world, json!({"ref": "refs/heads/feature"}))), args);
    refused(on_a_branch, &["issue", "web"], 4, "DENIED", &["web"]);
    assert_eq!(world.cli(&world.operator(), ["lease", "list", "-o", "json"]).json(), json!([]), "a refusal leaves no lease");
}

#[test]
fn tokens_that_do_not_hold() {
    let world = World::start();
    let with = |changes: serde_json::Value| {
        let world = &world;
        move |args: &[&str]| world.cli(&Caller::token(token::mint(world, changes.clone())), args)
    };
    let now = token::now();
    let expired = json!({"iat": now - 400, "nbf": now - 400, "exp": now - 100});
    refused(with(expired), &["issue", "web"], 3, "TOKEN_EXPIRED", &["expired"]);
    refused(with(json!({"aud": "somebody-else"})), &["issue", "web"], 3, "TOKEN_AUDIENCE", &["\"daypass\""]);
    refused(with(json!({"iss": "https://elsewhere.example"})), &["issue", "web"], 3, "UNAUTHENTICATED", &["iss"]);
    refused(with(json!({"repository_id": 74})), &["issue", "web"], 3, "UNAUTHENTICATED", &["repository_id"]);
    refused(with(json!({"repository_id": "75"})), &["issue", "web"], 4, "NO_TENANT", &["tenant"]);
    refused(|args: &[&str]| world.cli(&Caller::token("no.jwt.atall"), args), &["issue", "web"], 3, "UNAUTHENTICATED", &["token"]);
    assert_eq!(world.cli(&world.operator(), ["lease", "list", "-o", "json"]).json(), json!([]));
}

#[test]
fn a_token_used_twice_and_a_request_id_used_twice() {
    let world = World::start();
    let job = world.job();
    let csr = world.file("one.csr");
    let key = crate::support::parts::openssl::make_key(world.dir(), "one", crate::support::parts::openssl::KeyKind::P256);
    crate::support::parts::openssl::make_csr(world.dir(), "one", &key, "/CN=ignored", &[]);
    let issue = |role: &str, id: &str, csr: &Path| {
        let csr = csr.display().to_string();
        world.cli(&job, ["issue", role, "--request-id", id, "--csr", &csr, "-o", "json"])
    };

    let first = issue("web", "build-7", &csr).json();
    let again = issue("web", "build-7", &csr).json();
    assert_eq!(first["lease"]["id"], again["lease"]["id"], "a retry gives the same lease");
    assert_eq!(first["lease"]["serial"], again["lease"]["serial"]);
    assert_eq!(first["credential"]["not_after"], again["credential"]["not_after"]);
    refused(|args: &[&str]| world.cli(&job, args), &["issue", "web"], 3, "TOKEN_REPLAYED", &["used before", "fresh"]);

    let other = crate::support::parts::openssl::make_key(world.dir(), "two", crate::support::parts::openssl::KeyKind::P256);
    let other = crate::support::parts::openssl::make_csr(world.dir(), "two", &other, "/CN=ignored", &[]);
    let said = issue("web", "build-7", &other);
    assert_eq!((said.code, said.error().0.as_str()), (1, "REQUEST_ID_REUSED"), "another key: {said:?}");
    let leases = world.cli(&world.operator(), ["lease", "list", "-o", "json"]).json();
    assert_eq!(leases.as_array().unwrap().len(), 1, "{leases}");
}

#[test]
fn a_request_id_used_for_another_role() {
    let world = World::start();
    world.reconfigure(|world| {
        world.append(
            "daypass.toml",
            "[[role]]\nname = \"web2\"\nshared = true\nkind = \"x509\"\nca = \"issuing\"\ndefault_ttl = \"15m\"\nmax_ttl = \"1h\"\n\
             uri_sans = [\"spiffe://dev.daypass.test/{tenant}/web2\"]\next_key_usage = [\"client_auth\"]\n",
        );
        world.append(
            "policy.cedar",
            "@id(\"operator-web2\") permit(principal is Certificate in Tenant::\"platform\", action == Action::\"issue\", resource == Role::\"web2\");\n",
        );
    });
    let operator = world.operator();
    world.cli(&operator, ["issue", "web", "--request-id", "r1", "-o", "json"]).json();
    let as_operator = |args: &[&str]| world.cli(&operator, args);
    refused(as_operator, &["issue", "web2", "--request-id", "r1"], 1, "REQUEST_ID_REUSED", &["\"web\"", "new request id"]);
    // Another caller's id is another id.
    world.cli(&world.job(), ["issue", "web", "--request-id", "r1", "-o", "json"]).json();
}

#[test]
fn who_does_not_say_who_it_is_or_cannot_prove_it() {
    let world = World::start();
    let nobody = |args: &[&str]| world.cli(&Caller::nobody(), args);
    refused(nobody, &["issue", "web"], 3, "UNAUTHENTICATED", &["DAYPASS_CERT", "DAYPASS_TOKEN_FILE"]);
    refused(nobody, &["whoami"], 3, "UNAUTHENTICATED", &["DAYPASS_CERT"]);
    let stranger =
        crate::support::parts::openssl::Ca::new(world.dir(), "stranger").client("x", &["URI:spiffe://dev.daypass.test/operator"]);
    let stranger = Caller::pair(stranger);
    let said = world.cli(&stranger, ["whoami"]);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.line().contains("certificate"), "{said:?}");
}

#[test]
fn a_lease_that_is_not_there_and_bounds_that_are_broken() {
    let world = World::start();
    let as_operator = |args: &[&str]| world.cli(&world.operator(), args);
    let absent = "0192f0c1-7b5a-7000-8000-000000000000";
    for verb in ["get", "renew", "revoke"] {
        refused(as_operator, &["lease", verb, absent], 5, "LEASE_NOT_FOUND", &["lease"]);
    }
    refused(as_operator, &["issue", "web", "--ttl", "2h"], 1, "INVALID_REQUEST", &["3600s", "2h"]);
    let lease = world.lease(&world.operator(), "web");
    assert_eq!(as_operator(&["lease", "revoke", &lease]).code, 0);
    assert_eq!(as_operator(&["lease", "revoke", &lease]).code, 0, "a second revoke answers as the first did");
    refused(as_operator, &["lease", "renew", &lease], 1, "LEASE_STATE", &["revoked"]);
}

#[test]
fn commands_that_make_no_sense() {
    let world = World::start();
    let as_operator = |args: &[&str]| world.cli(&world.operator(), args);
    for args in [
        &["isue", "web"][..],
        &["issue"],
        &["issue", "web", "--ttl", "soon"],
        &["issue", "web", "--no-such-flag"],
        &["lease", "get", "not-an-id"],
        &["lease", "revoke", "--role", "web"],
    ] {
        let said = as_operator(args);
        assert_eq!((said.code, said.stderr.lines().count()), (2, 1), "{args:?}: {said:?}");
        let said = as_operator(&[args, &["-o", "json"]].concat());
        assert_eq!(said.code, 2, "{args:?}: {said:?}");
        said.error();
    }
    let unreadable = Caller::files(world.file("no.pem"), world.file("no.key"));
    let said = world.cli(&unreadable, ["whoami"]);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.line().contains("no.pem"), "{said:?}");
}

#[test]
fn a_caller_has_no_more_live_leases_than_its_cap() {
    let world = World::start();
    world.reconfigure(|world| world.edit("daypass.toml", "name = \"platform\"", "name = \"platform\"\nmax_live_leases_per_caller = 2"));
    let operator = world.operator();
    let first = world.lease(&operator, "web");
    world.lease(&operator, "web");
    refused(|args: &[&str]| world.cli(&operator, args), &["issue", "web"], 1, "LEASE_CAP", &["2 live leases", "revoke some"]);
    world.lease(&world.job(), "web");
    assert_eq!(world.cli(&operator, ["lease", "revoke", &first]).code, 0);
    world.lease(&operator, "web");
    assert_eq!(world.cli(&operator, ["issue", "web"]).code, 1);
}
