//! Who may what over HTTP: every route × method, the token endpoint × whatever a caller may hold, and what the token endpoint gives ×
//! every other door.

use serde_json::Value;

use super::{
    token,
    world::{Caller, World},
};
use crate::support::parts::nginx::curl;

const SERVICE: &str = "registry.dev.daypass.test";

/// What anybody may read.
const OPEN: [&str; 8] = [
    "/healthz",
    "/readyz",
    "/metrics",
    "/ca.pem",
    "/crl/issuing.crl",
    "/crl/root-issuing.crl",
    "/jwks.json",
    "/.well-known/openid-configuration",
];

/// The status and the body of what curl asks.
fn ask(world: &World, path: &str, args: &[&str]) -> (u16, String) {
    let url = format!("http://127.0.0.1:{}{path}", world.http);
    let ran = curl(&[args, &["--write-out", "\n%{http_code}", &url]].concat());
    let text = ran.text();
    let (body, status) = text.rsplit_once('\n').unwrap_or_else(|| panic!("no answer: {}", ran.all()));
    (status.parse().unwrap(), body.to_owned())
}

fn credential(world: &World, caller: &Caller, role: &str) -> Value {
    world.cli(caller, ["issue", role, "-o", "json"]).json()
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_else(|| panic!("no {path}"))
}

#[test]
fn every_route_takes_its_own_methods_only() {
    let world = World::start();
    for path in OPEN {
        assert_eq!(ask(&world, path, &[]).0, 200, "{path}");
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            assert_eq!(ask(&world, path, &["--request", method]).0, 405, "{method} {path}");
        }
    }
    assert_eq!((ask(&world, "/token", &[]).0, ask(&world, "/token", &["--data", ""]).0), (401, 400));
    for method in ["PUT", "DELETE", "PATCH"] {
        assert_eq!(ask(&world, "/token", &["--request", method]).0, 405, "{method} /token");
    }
    for path in ["/", "/token/", "/TOKEN", "//token", "/token/x", "/v2/", "/crl/", "/keys/000001.pem", "/daypass.toml", "/../daypass.toml"]
    {
        assert_eq!(ask(&world, path, &["--path-as-is"]).0, 404, "{path}");
    }
}

#[test]
fn the_token_endpoint_takes_a_registrys_secret_and_nothing_else() {
    let world = World::start();
    let holder = credential(&world, &world.operator(), "push");
    let (user, secret) = (text(&holder, "/credential/username"), text(&holder, "/credential/secret"));
    let path = format!("/token?service={SERVICE}&scope=repository:demo/a:pull");
    let (status, body) = ask(&world, &path, &["--user", &format!("{user}:{secret}")]);
    assert_eq!(status, 200, "{body}");
    let ours: Value = serde_json::from_str(&body).unwrap();

    let certificate = credential(&world, &world.operator(), "web");
    let jwt = credential(&world, &world.operator(), "federate");
    let jobs = credential(&world, &world.job(), "push");
    let [operators_lease, jobs_lease] = [&jwt, &jobs].map(|answer| text(answer, "/lease/id").to_owned());
    let held = [
        ("a token of the sample job", world.job_token(), user),
        ("a JWT of our own", text(&jwt, "/credential/token").to_owned(), &operators_lease),
        ("a token for a registry", text(&ours, "/token").to_owned(), user),
        ("a certificate's serial number", text(&certificate, "/lease/serial").to_owned(), text(&certificate, "/lease/id")),
        ("a lease's own name", user.to_owned(), user),
        ("another tenant's secret", text(&jobs, "/credential/secret").to_owned(), user),
        ("nothing", String::new(), user),
    ];
    for (what, held, user) in &held {
        let basic = format!("{user}:{held}");
        let refresh = format!("grant_type=refresh_token&refresh_token={held}&service={SERVICE}");
        let password = format!("grant_type=password&username={user}&password={held}&service={SERVICE}");
        let bearer = format!("Authorization: Bearer {held}");
        for args in [["--user", &basic], ["--header", &bearer]] {
            assert_eq!(ask(&world, &path, &args).0, 401, "{what} by {}", args[0]);
        }
        assert_eq!(ask(&world, "/token", &["--data", &password]).0, 401, "{what} as a password");
        // A secret names its lease by itself: alone it is its owner's.
        let expected = if *what == "another tenant's secret" { 200 } else { 401 };
        assert_eq!(ask(&world, "/token", &["--data", &refresh]).0, expected, "{what} as a refresh token");
    }
    let own = ask(&world, "/token", &["--data", &format!("grant_type=refresh_token&refresh_token={}&service={SERVICE}", held[5].1)]);
    let own: Value = serde_json::from_str(&own.1).unwrap();
    assert_eq!(token::claims(text(&own, "/access_token"))["sub"], jobs_lease.as_str());
}

#[test]
fn what_is_vended_opens_no_door_of_the_service_itself() {
    let world = World::start();
    let holder = credential(&world, &world.operator(), "push");
    let (user, secret) = (text(&holder, "/credential/username"), text(&holder, "/credential/secret"));
    let (_, body) = ask(&world, &format!("/token?service={SERVICE}"), &["--user", &format!("{user}:{secret}")]);
    let for_registry: Value = serde_json::from_str(&body).unwrap();
    let jwt = credential(&world, &world.operator(), "federate");
    for (what, token) in [
        ("a secret", secret),
        ("a token for a registry", text(&for_registry, "/token")),
        ("a JWT of our own", text(&jwt, "/credential/token")),
    ] {
        let said = world.cli(&Caller::token(token), ["issue", "push", "-o", "json"]);
        assert_eq!((said.code, said.stdout.as_str()), (3, ""), "{what}");
        // Beside a certificate it is not overlooked either.
        let said = world.cli(&world.operator().beside(token), ["whoami", "-o", "json"]);
        assert_eq!((said.code, said.stdout.as_str()), (3, ""), "{what} beside a certificate");
    }
}
