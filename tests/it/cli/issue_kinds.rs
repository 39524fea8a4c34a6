//! Credentials of kinds other than X.509, in each form.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use serde_json::json;

use super::{kinds::lease_id, run, server::Server};

/// What a shell has after it evaluated the lines.
fn shell(lines: &str, names: &[&str]) -> Vec<String> {
    let shown: String = names.iter().map(|name| format!("printf '%s\\n' \"${{{name}-unset}}\"\n")).collect();
    let ran = Command::new("sh").arg("-c").arg(format!("{lines}\n{shown}")).env_clear().output().unwrap();
    String::from_utf8(ran.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn json_is_the_contract() {
    let server = Server::new();
    let aws = server.run("issue deploy -o json").json();
    assert_eq!((&aws["lease"]["kind"], &aws["lease"]["id"]), (&json!("aws"), &json!(lease_id("deploy"))));
    let expires = "2027-01-15T08:15:00Z";
    let expected = json!({"access_key_id": "ASIA000000000001", "secret_access_key": "secret-canary-1",
        "session_token": "session-canary-1", "expires_at": expires, "region": "eu-central-1"});
    assert_eq!(aws["credential"], expected);
    let registry = server.run("issue push -o json").json()["credential"].take();
    assert_eq!(registry, json!({"registry": "127.0.0.1:5000", "username": "daypass", "secret": "secret-canary-1", "expires_at": expires}));
    let jwt = server.run("issue federate -o json").json()["credential"].take();
    assert_eq!(jwt, json!({"token": "token-canary-1", "expires_at": expires}));
    assert!(server.seen.revoked().is_empty());
}

#[test]
fn an_audience_is_sent_in_place_of_a_csr() {
    let server = Server::new();
    assert_eq!(server.run("issue federate --audience sts.amazonaws.com").code, 0);
    assert_eq!(server.seen.audience.lock().unwrap().as_deref(), Some("sts.amazonaws.com"));
    assert_eq!(server.run("issue federate").code, 0);
    assert_eq!(server.seen.audience.lock().unwrap().as_deref(), None);
    let wrong = server.run("issue web --audience x -o json");
    assert_eq!((wrong.code, wrong.error().0.as_str()), (1, "INVALID_REQUEST"));
}

#[test]
fn text_is_what_a_person_pastes_and_the_lease_is_beside_it() {
    let server = Server::new();
    let aws = server.run("issue deploy");
    assert!(aws.stdout.contains("[default]\naws_access_key_id = ASIA000000000001\n"), "{aws:?}");
    let push = server.run("issue push");
    assert_eq!(push.stdout, "registry 127.0.0.1:5000\nusername daypass\nsecret   secret-canary-1\n");
    let jwt = server.run("issue federate");
    assert_eq!(jwt.stdout, "token-canary-1\n");
    for run in [aws, push, jwt] {
        assert!(run.code == 0 && run.stderr.contains("lease       0192f0c1") && !run.stderr.contains("canary"), "{run:?}");
    }
}

#[test]
fn a_shell_can_eval_each_kind() {
    let server = Server::new();
    let names = [
        "DAYPASS_LEASE_ID",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_CREDENTIAL_EXPIRATION",
    ];
    let aws = shell(&server.run("issue deploy -o env").stdout, &names);
    let expected = ["ASIA000000000001", "secret-canary-1", "session-canary-1", "eu-central-1", "eu-central-1", "2027-01-15T08:15:00Z"];
    assert_eq!((aws[0].as_str(), &aws[1..]), (lease_id("deploy").as_str(), expected.map(str::to_owned).as_slice()));
    let names = ["DAYPASS_LEASE_ID", "DAYPASS_REGISTRY", "DAYPASS_REGISTRY_USERNAME", "DAYPASS_REGISTRY_SECRET"];
    let push = shell(&server.run("issue push -o env").stdout, &names);
    assert_eq!(push, [lease_id("push").as_str(), "127.0.0.1:5000", "daypass", "secret-canary-1"]);
    let jwt = shell(&server.run("issue federate -o env").stdout, &["DAYPASS_LEASE_ID", "DAYPASS_JWT", "DAYPASS_TOKEN"]);
    assert_eq!(jwt, [lease_id("federate").as_str(), "token-canary-1", "unset"]);
}

#[test]
fn files_are_the_owners_alone_and_are_named_in_place_of_secrets() {
    let server = Server::new();
    let read = |path: &serde_json::Value| {
        let path = path.as_str().unwrap();
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::read_to_string(path).unwrap()
    };
    let issue = |role: &str| {
        let run = server.run(&format!("issue {role} --out {} -o json", server.pki.path(role).display()));
        assert!(!run.stdout.contains("canary"), "{run:?}");
        run.json()["credential"].take()
    };
    let profile = read(&issue("deploy")["credentials_file"]);
    assert!(profile.contains("[default]\n") && profile.contains("aws_session_token = session-canary-1\n"), "{profile}");
    let config: serde_json::Value = serde_json::from_str(&read(&issue("push")["config_file"])).unwrap();
    // "daypass:secret-canary-1"
    assert_eq!(config, json!({"auths": {"127.0.0.1:5000": {"auth": "ZGF5cGFzczpzZWNyZXQtY2FuYXJ5LTE="}}}));
    assert_eq!(read(&issue("federate")["token_file"]), "token-canary-1", "no line end: it is sent as it is");
    for role in ["deploy", "push", "federate"] {
        assert_eq!(fs::read_dir(server.pki.path(role)).unwrap().count(), 1);
    }
}

#[test]
fn with_a_directory_the_shell_is_told_the_files() {
    let server = Server::new();
    let out = server.pki.path("out");
    let lines = |role: &str| server.run(&format!("issue {role} --out {} -o env", out.display())).stdout;
    let path = |name: &str| out.join(name).display().to_string();
    let aws = shell(&lines("deploy"), &["AWS_SHARED_CREDENTIALS_FILE", "AWS_REGION", "AWS_SECRET_ACCESS_KEY"]);
    assert_eq!(aws, [path("credentials"), "eu-central-1".to_owned(), "unset".to_owned()]);
    assert_eq!(shell(&lines("push"), &["DOCKER_CONFIG", "DAYPASS_REGISTRY"]), [out.display().to_string(), "127.0.0.1:5000".to_owned()]);
    assert_eq!(shell(&lines("federate"), &["DAYPASS_JWT_FILE"]), [path("token")]);
}

#[test]
fn what_cannot_be_delivered_is_revoked_and_said() {
    let server = Server::new();
    let broken = server.run("issue broken-deploy -o json");
    let (code, message) = broken.error();
    assert_eq!((broken.code, code.as_str()), (1, "BAD_ANSWER"));
    assert!(message.contains(&format!("its lease {} is revoked", lease_id("broken-deploy"))), "{message}");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = server.daypass("issue federate").stdout(full).stderr(std::process::Stdio::piped()).spawn().unwrap().wait_with_output();
    let stderr = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(stderr.contains("cannot be written") && stderr.contains("is revoked") && !stderr.contains("canary"), "{stderr}");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = server.daypass("issue push -o json").stdout(writer).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "a closed pipe ends quietly");
    assert_eq!(server.seen.revoked(), ["broken-deploy", "federate", "push"].map(lease_id));
}

#[test]
fn a_target_that_is_no_plain_file_costs_no_lease() {
    let server = Server::new();
    let out = server.pki.path("out");
    fs::create_dir_all(out.join("config.json")).unwrap();
    let run = run(server.daypass("issue push --out").arg(&out));
    assert_eq!((run.code, server.seen.calls("push")), (2, 0), "{run:?}");
}

#[test]
fn a_renewal_that_cannot_be_delivered_leaves_the_lease() {
    let server = Server::new();
    let id = lease_id("push");
    assert_eq!(server.run(&format!("lease renew {id} -o json")).json()["credential"]["secret"], "secret-canary-2");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = server.daypass(&format!("lease renew {id}")).stdout(full).stderr(std::process::Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(server.seen.revoked().is_empty());
}
