//! The container credentials endpoint: boto3 as it is, and who is let in.

use std::{fs, os::unix::fs::MetadataExt, process::Stdio, thread};

use daypass::model::SignedDuration;

use super::socket_world::{PATIENCE, World, aws};
use crate::support::parts::{
    aws_cli::{AwsUser, python},
    nginx::curl,
    wait_until,
};

const AWS: &str = "[aws]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"aws.token\"";

fn hour() -> SignedDuration {
    SignedDuration::from_hours(1)
}

/// Status and body of a GET.
fn get(uri: &str, token: &str) -> (u16, serde_json::Value) {
    let ran = curl(&["-H", &format!("Authorization: {token}"), "-w", "\n%{http_code}", uri]);
    let text = ran.text();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[test]
fn boto3_refreshes_by_itself_as_sessions_come() {
    let world = World::new(&["deploy"], AWS);
    // Botocore asks again on every use while less than 10 minutes are left.
    world.put("deploy", Some(aws("deploy", "ASIA0", SignedDuration::from_mins(9))));
    let mut user = AwsUser::new("http://127.0.0.1:1");
    user.set_env("AWS_CONTAINER_CREDENTIALS_FULL_URI", &world.aws_uri("deploy"));
    user.set_env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &world.path("aws.token").display().to_string());
    let program = r#"
import boto3, time
credentials = boto3.Session().get_credentials()
seen = []
while len(seen) < 4:
    frozen = credentials.get_frozen_credentials()
    if not seen or seen[-1] != (frozen.access_key, frozen.secret_key, frozen.token):
        seen.append((frozen.access_key, frozen.secret_key, frozen.token))
        print(frozen.access_key, frozen.secret_key, frozen.token, credentials.method, flush=True)
    time.sleep(0.02)
"#;
    let mut child = user.command(python()).args(["-c", program]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    for (number, line) in lines.enumerate() {
        let key = format!("ASIA{number}");
        assert_eq!(line.unwrap(), format!("{key} secret-of-{key} token-of-{key} container-role"));
        world.put("deploy", Some(aws("deploy", &format!("ASIA{}", number + 1), SignedDuration::from_mins(9))));
    }
    let ended = wait_until(PATIENCE, "the program ends", || child.try_wait().unwrap());
    assert!(ended.success());
}

#[test]
fn the_token_is_private_whole_and_new_with_each_start() {
    let world = World::new(&["deploy"], AWS);
    world.put("deploy", Some(aws("deploy", "ASIA", hour())));
    let path = world.path("aws.token");
    let token = fs::read_to_string(&path).unwrap();
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.mode() & 0o7777, token.len()), (0o600, 64));
    assert!(token.bytes().all(|byte| byte.is_ascii_hexdigit()), "no line end: SDKs send it as it is");
    let uri = world.aws_uri("deploy");
    let (status, body) = get(&uri, &token);
    assert_eq!((status, body["Token"].as_str()), (200, Some("token-of-ASIA")));
    for wrong in ["", "Bearer x", &token[1..], &token.to_uppercase()] {
        assert_eq!(get(&uri, wrong).0, 401, "{wrong}");
    }
    world.stop().unwrap();
    assert!(!path.exists());
    assert!(!curl(&[&uri]).ok, "nobody listens");
    assert_ne!(fs::read_to_string(World::new(&["deploy"], AWS).path("aws.token")).unwrap(), token);
}

#[test]
fn what_there_is_not_and_not_yet_and_no_more() {
    let section = format!("{AWS}\nroles = [\"deploy\", \"late\", \"web\", \"ended\"]");
    let world = World::new(&["deploy", "late", "web", "off", "ended"], &section);
    let token = fs::read_to_string(world.path("aws.token")).unwrap();
    for role in ["deploy", "off"] {
        world.put(role, Some(aws(role, "ASIA", hour())));
    }
    world.put("ended", Some(aws("ended", "ASIA", SignedDuration::from_secs(-1))));
    world.put_pair("web", &world.pair("web", "web"));
    for (role, status, code) in [
        ("late", 503, "NotReady"),
        ("ended", 503, "ExpiredToken"),
        ("web", 404, "NotFound"),
        ("off", 404, "NotFound"),
        ("other", 404, "NotFound"),
        ("deploy/", 404, "NotFound"),
        ("../creds/deploy%00", 404, "NotFound"),
    ] {
        let (found, body) = get(&world.aws_uri(role), &token);
        assert_eq!((found, body["code"].as_str()), (status, Some(code)), "{role}");
    }
    assert_eq!(get(&world.aws_uri("deploy").replace("/creds", ""), &token).0, 404);
    world.put("late", Some(aws("late", "ASIA", hour())));
    assert_eq!(get(&world.aws_uri("late"), &token).0, 200);
}

#[test]
fn a_role_for_some_users_is_for_no_other_with_the_token() {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let lists = format!("[roles.own]\nuids = [{uid}]\n[roles.other]\nuids = [{}]\n[roles.group]\ngids = [{gid}]", uid + 1);
    let world = World::new(&["own", "other", "group"], &format!("{AWS}\n{lists}"));
    let token = fs::read_to_string(world.path("aws.token")).unwrap();
    for role in ["own", "other", "group"] {
        world.put(role, Some(aws(role, "ASIA", hour())));
    }
    let ask = |role: &str| get(&world.aws_uri(role), &token);
    assert_eq!((ask("own").0, ask("other").0), (200, 403));
    assert_eq!(ask("group").0, 403, "a connection of TCP says nothing of groups");
    assert_eq!(ask("other").1["code"], "AccessDenied");
}

#[test]
fn many_ask_at_once() {
    let world = World::new(&["deploy"], AWS);
    world.put("deploy", Some(aws("deploy", "ASIA", hour())));
    let token = fs::read_to_string(world.path("aws.token")).unwrap();
    let uri = world.aws_uri("deploy");
    thread::scope(|scope| {
        let asking: Vec<_> = (0..8).map(|_| scope.spawn(|| (0..5).all(|_| get(&uri, &token).0 == 200))).collect();
        assert!(asking.into_iter().all(|asked| asked.join().unwrap()));
    });
}
