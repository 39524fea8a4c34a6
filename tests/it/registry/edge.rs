//! The token endpoint, by both of its specifications and against none of them.

use std::{fs, path::Path, time::Duration};

use daypass::model::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::world::{Answer, Login, SERVICE, basic, get, login, login_for, post, post_chunked, renew, revoke, send, x509_lease};
use crate::{e2e::world::World, support::parts::wait_until};

const PUSH: &str = "repository:demo/a:push,pull";

fn query(scope: &str) -> String {
    format!("service={SERVICE}&account=a&client_id=docker&scope={scope}")
}

fn form(login: &Login, more: &str) -> String {
    format!("grant_type=refresh_token&refresh_token={}&client_id=test&service={SERVICE}&{more}", login.secret)
}

/// A refusal, without the id of the call, which is the only thing in which two may differ.
fn refused(answer: &Answer) -> (u16, Value, bool) {
    let mut body = answer.json();
    let detail = body["errors"][0]["detail"].as_object_mut().expect("an error has a detail");
    assert_eq!(detail.remove("call_id").and_then(|id| id.as_str().map(str::len)), Some(32), "{answer:?}");
    let challenge =
        answer.head.lines().any(|line| line.eq_ignore_ascii_case("WWW-Authenticate: Basic realm=\"daypass\", charset=\"UTF-8\""));
    (answer.status, body, challenge)
}

#[test]
fn a_get_and_a_post_answer_as_their_specifications_say() {
    let world = World::start();
    let holder = login(&world, "push");
    let begun = Timestamp::from_second(0).unwrap();

    let answer = get(&world, &query(PUSH), &holder.basic());
    assert_eq!(
        (answer.status, answer.keys()),
        (200, ["access_token", "expires_in", "issued_at", "token"].map(str::to_owned).to_vec()),
        "{answer:?}"
    );
    let said = answer.json();
    assert_eq!((&said["token"], &said["expires_in"]), (&said["access_token"], &json!(300)));
    assert!(said["issued_at"].as_str().unwrap().parse::<Timestamp>().unwrap() > begun);
    assert!(answer.head.to_lowercase().contains("cache-control: no-store"));
    let claims = answer.claims();
    assert_eq!((&claims["aud"], &claims["iss"]), (&json!(SERVICE), &json!("daypass.dev.daypass.test")));
    assert_eq!(claims["access"], json!([{ "type": "repository", "name": "demo/a", "actions": ["pull", "push"] }]));

    let answer = get(&world, &format!("{}&offline_token=true&scope=repository:other:pull", query(PUSH)), &holder.basic());
    assert_eq!(answer.json()["refresh_token"], holder.secret.as_str(), "a partial grant is a grant");
    let answer = get(&world, &format!("service={SERVICE}"), &holder.basic());
    assert_eq!((answer.status, &answer.claims()["access"]), (200, &json!([])), "docker login asks for no scope");

    let keys = ["access_token", "expires_in", "issued_at", "scope"].map(str::to_owned).to_vec();
    for answer in [
        post(&world, &form(&holder, "scope=repository:demo/a:pull+repository:demo/b:*+repository:x:pull")),
        post_chunked(&world, &form(&holder, "scope=repository:demo/a:pull%20repository:demo/b:*")),
        post(
            &world,
            &format!(
                "grant_type=password&username={}&password={}&service={SERVICE}&scope=repository:demo/a:pull repository:demo/b:*",
                holder.user, holder.secret
            ),
        ),
    ] {
        assert_eq!((answer.status, answer.keys()), (200, keys.clone()), "{answer:?}");
        assert_eq!(answer.json()["scope"], "repository:demo/a:pull repository:demo/b:pull,push");
    }
    let answer = post(&world, &form(&holder, "access_type=offline"));
    assert_eq!((&answer.json()["refresh_token"], &answer.json()["scope"]), (&json!(holder.secret), &json!("")));
}

#[test]
fn whatever_is_wrong_with_credentials_is_refused_with_one_text() {
    let world = World::start();
    let (holder, other, gone) = (login(&world, "push"), login(&world, "push"), login(&world, "push"));
    let short = login_for(&world, "push", Some(SignedDuration::from_secs(1)));
    revoke(&world, &gone);
    let ask = |headers: &str| refused(&get(&world, &query(PUSH), headers));
    let wrong = ask(&basic(&holder.user, "wrong"));
    assert_eq!((wrong.0, wrong.2), (401, true));
    assert_eq!(
        (&wrong.1["errors"][0]["code"], &wrong.1["errors"][0]["detail"]["reason"]),
        (&json!("UNAUTHORIZED"), &json!("UNAUTHENTICATED"))
    );

    let unknown = "0192f0c1-7b5a-7000-8000-000000000000";
    for (what, headers) in [
        ("another lease's secret", basic(&other.user, &holder.secret)),
        ("an unknown lease", basic(unknown, &holder.secret)),
        ("a lease of another kind", basic(&x509_lease(&world), &holder.secret)),
        ("a revoked lease", gone.basic()),
        ("no name", basic("", &holder.secret)),
        ("the name in another form", basic(&holder.user.replace('-', ""), &holder.secret)),
        ("a name with a path", basic(&format!("../{}", holder.user), &holder.secret)),
        ("a secret with one more", basic(&holder.user, &format!("{}a", holder.secret))),
        ("bad base64", "Authorization: Basic !!!!\r\n".to_owned()),
        ("nothing", "Authorization: Basic\r\n".to_owned()),
        ("a bearer", format!("Authorization: Bearer {}\r\n", holder.secret)),
        ("two headers", format!("{0}{0}", holder.basic())),
    ] {
        assert_eq!(ask(&headers), wrong, "{what}");
    }
    for service in ["", "service=", "service=another", &format!("service={SERVICE}%00"), &format!("service={}", SERVICE.to_uppercase())] {
        assert_eq!(refused(&get(&world, &format!("{service}&scope={PUSH}"), &holder.basic())), wrong, "{service}");
    }
    for form in [
        form(&gone, ""),
        form(&Login { secret: "x".to_owned(), ..holder.clone() }, ""),
        form(&Login { secret: holder.secret.replace("dpr_", "dpr-"), ..holder.clone() }, ""),
    ] {
        assert_eq!(refused(&post(&world, &form)), wrong);
    }
    wait_until(Duration::from_secs(10), "a lease of one second ends", || {
        let answer = get(&world, &query(PUSH), &short.basic());
        (answer.status != 200).then(|| assert_eq!(refused(&answer), wrong))
    });
    assert_eq!(get(&world, &query(PUSH), &holder.basic()).status, 200, "and the right ones go on");
    let anonymous = refused(&get(&world, &query(PUSH), ""));
    assert_eq!((anonymous.0, anonymous.2), (401, true));
}

#[test]
fn what_is_no_request_is_refused_within_bounds() {
    let world = World::start();
    let holder = login(&world, "push");
    let many: String = (0..33).map(|n| format!("&scope=repository:demo/a{n}:pull")).collect();
    let post_as = |kind: &str, body: &str| {
        let head = format!(
            "POST /token HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        send(&world, &head, body.as_bytes())
    };
    for (what, answer) in [
        ("many scopes", get(&world, &format!("service={SERVICE}{many}"), &holder.basic())),
        ("a long scope", get(&world, &query(&format!("repository:{}:pull", "a".repeat(600))), &holder.basic())),
        ("two services", get(&world, &format!("{}&service=b", query(PUSH)), &holder.basic())),
        ("no grant type", post(&world, "username=a&password=b")),
        ("another grant type", post(&world, "grant_type=client_credentials&username=a&password=b")),
        ("no password", post(&world, "grant_type=password&username=a")),
        ("JSON", post_as("application/json", "{}")),
        ("a megabyte", post(&world, &form(&holder, &format!("scope={}", "a".repeat(1 << 20))))),
    ] {
        assert_eq!(refused(&answer).0, 400, "{what}");
    }
    let chunked = "POST /token HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = send(&world, chunked, format!("100000\r\n{}\r\n0\r\n\r\n", "a".repeat(1 << 20)).as_bytes());
    assert_eq!(answer.status, 400, "{answer:?}");
    let answer = get(&world, &query(&"a".repeat(20_000)), &holder.basic());
    assert_eq!(answer.status, 431, "{answer:?}");
    let answer = send(&world, "DELETE /token HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"");
    assert_eq!(answer.status, 405);
    for path in ["/token/", "//token", "/token/../token", "/TOKEN", "/token%2f"] {
        let answer = send(&world, &format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{}\r\n", holder.basic()), b"");
        assert_eq!(answer.status, 404, "{path}");
    }
    assert_eq!(get(&world, &query(PUSH), &holder.basic()).status, 200, "none of it hurt");
}

#[test]
fn names_that_are_tricks_grant_nothing() {
    let world = World::start();
    let holder = login(&world, "push");
    for scope in [
        "repository:demo/../secret:pull",
        "repository:demo%2F..%2Fsecret:pull",
        "repository:demo//a:pull",
        "repository:demo/a/b:pull",
        "repository:demo:pull",
        "repository:demo/*:pull",
        "repository:*:*",
        "repository:DEMO/a:pull",
        "repository:demo/a%00:pull",
        "repository:demo/a%0a:pull",
        "repository:127.0.0.1:5000/demo/a:pull",
        "repository:demo/a:pull:x",
        "registry:catalog:*",
        "repository%3Ademo%252Fa%3Apull",
    ] {
        let answer = get(&world, &query(scope), &holder.basic());
        assert_eq!((answer.status, &answer.claims()["access"]), (200, &json!([])), "{scope}");
    }
}

#[test]
fn failures_of_an_address_and_exchanges_of_a_lease_have_a_rate() {
    let mut world = World::start();
    world.stop();
    world.limit("failed_logins_per_address_per_minute = 3\nregistry_exchanges_per_lease_per_minute = 2");
    world.start_again();
    let (holder, other, third) = (login(&world, "push"), login(&world, "push"), login(&world, "push"));
    let ask = |headers: &str| get(&world, &query(PUSH), headers);
    assert_eq!([ask(&holder.basic()).status, ask(&holder.basic()).status], [200, 200]);
    let answer = ask(&holder.basic());
    assert_eq!((refused(&answer).0, &answer.json()["errors"][0]["code"]), (429, &json!("TOOMANYREQUESTS")));
    assert_eq!(ask(&other.basic()).status, 200, "another lease has its own");

    let statuses: Vec<u16> = (0..5).map(|n| ask(&basic(&other.user, &format!("guess {n}"))).status).collect();
    assert_eq!(statuses, [401, 401, 401, 429, 429]);
    assert_eq!(ask(&other.basic()).status, 200, "guesses do not shut out who holds the secret");
    for n in 5..30 {
        assert_eq!(ask(&basic(&third.user, &format!("guess {n}"))).status, 429);
    }
    let answer = ask(&third.basic());
    assert!((answer.status, answer.body.contains("failed authentications")) == (429, true), "it looks up more guesses: {answer:?}");
}

#[test]
fn a_renewal_adds_a_secret_and_the_earlier_one_goes_on() {
    let world = World::start();
    let mut secrets = vec![login(&world, "push")];
    for _ in 1..8 {
        secrets.push(renew(&world, &secrets[0]).unwrap());
    }
    let refusal = renew(&world, &secrets[0]).unwrap_err();
    assert!(refusal.contains("8 secrets live under this lease"), "{refusal}");
    for secret in &secrets {
        assert_eq!(get(&world, &query(PUSH), &secret.basic()).status, 200);
    }
    revoke(&world, &secrets[0]);
    for secret in &secrets {
        assert_eq!(get(&world, &query(PUSH), &secret.basic()).status, 401, "one revocation reaches them all");
    }
}

#[test]
fn each_exchange_is_on_record_and_no_secret_is_kept_anywhere() {
    let mut world = World::start();
    let holder = login(&world, "push");
    let guess = "dpr_guess_canary_5f3a9c";
    let token = get(&world, &format!("{}&offline_token=true", query(PUSH)), &holder.basic()).json()["token"].as_str().unwrap().to_owned();
    assert_eq!(post(&world, &form(&holder, "scope=repository:demo/b:pull")).status, 200);
    assert_eq!(get(&world, &query(PUSH), &basic(&holder.user, guess)).status, 401);
    assert_eq!(get(&world, &query(PUSH), &basic("nobody", guess)).status, 401);
    assert_eq!(post(&world, &format!("grant_type=refresh_token&refresh_token={guess}&service={SERVICE}")).status, 401);
    // The user of a URL is what a careless client writes.
    let _any = get(&world, &format!("{}&password={}", query(PUSH), holder.secret), &holder.basic());

    let records: Vec<Value> = world.records().into_iter().filter(|record| record["method"] == "registry/exchange").collect();
    let outcomes: Vec<_> = records.iter().map(|record| (record["outcome"].as_str().unwrap(), record["lease_id"].as_str())).collect();
    let own = Some(holder.lease.as_str());
    assert_eq!(outcomes, [("done", own), ("done", own), ("denied", own), ("denied", None), ("denied", None), ("done", own)]);
    assert_eq!(records[0]["detail"], json!(["repository:demo/a:pull,push"]));
    assert_eq!(records[1]["detail"], json!(["repository:demo/b:pull"]));
    assert_eq!(records[0]["tenant"], "platform");
    assert!(records[2]["tenant"].is_null(), "who guesses writes nothing into what a tenant reads");

    world.stop();
    let (random, signature) = (&holder.secret[40..], token.rsplit('.').next().unwrap());
    for canary in [random, signature, guess, holder.basic().trim().rsplit(' ').next().unwrap()] {
        assert_eq!(holding(world.dir(), canary), Vec::<String>::new(), "{canary}");
    }
}

/// The files under a folder that hold a text.
fn holding(folder: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holding(&path, text));
        } else if fs::read(&path).unwrap().windows(text.len()).any(|window| window == text.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    found
}
