//! `exec` and those who use an AWS session unmodified: boto3 and the aws CLI.

use std::{fs, process::Command};

use super::{kinds::lease_id, run, server::Server};
use crate::support::parts::{
    aws_cli::{AwsUser, python},
    tool,
};

/// A user of AWS with keys of their own, which must not be used.
fn user() -> AwsUser {
    let user = AwsUser::new("http://127.0.0.1:1");
    let own = "[default]\naws_access_key_id = AKIAOWN\naws_secret_access_key = own\n";
    fs::write(user.home().join("credentials"), own).unwrap();
    user
}

/// `exec ROLE -- PROGRAM`, with the environment of the user.
fn exec(server: &Server, user: &AwsUser, role: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = server.daypass(&format!("exec {role} --"));
    command.envs(user.command("x").get_envs().filter_map(|(name, value)| Some((name, value?)))).arg(program);
    command
}

#[test]
fn boto3_refreshes_by_itself_past_an_end() {
    let server = Server::new();
    let program = r#"
import boto3, time
credentials = boto3.Session().get_credentials()
seen = []
while len(seen) < 4:
    frozen = credentials.get_frozen_credentials()
    if (frozen.access_key, frozen.token) not in seen:
        seen.append((frozen.access_key, frozen.token))
    time.sleep(0.05)
print(credentials.method, *(key for key, _ in seen), seen[-1][1])
"#;
    let ran = run(exec(&server, &user(), "brief-deploy", python()).args(["-c", program]));
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    let words: Vec<_> = ran.stdout.split_whitespace().collect();
    assert_eq!((words.len(), words[0]), (6, "container-role"), "{ran:?}");
    assert!(words[1..5].iter().all(|key| key.starts_with("ASIA")) && words[5].starts_with("session-canary-"), "{ran:?}");
    assert_eq!(server.seen.revoked(), [lease_id("brief-deploy")]);
}

#[test]
fn the_aws_cli_takes_the_session_and_not_the_users_own() {
    let server = Server::new();
    let behind = run(exec(&server, &user(), "deploy", tool("aws")).args(["configure", "list"]));
    assert!(behind.code == 0 && behind.stdout.contains("0001") && behind.stdout.contains("container-role"), "{behind:?}");
    assert!(behind.stdout.contains("eu-central-1"), "{behind:?}");
    let plain = run(exec(&server, &user(), "deploy --env", tool("aws")).args(["configure", "list"]));
    assert!(plain.code == 0 && plain.stdout.contains("0001") && plain.stdout.contains("env"), "{plain:?}");
}
