//! boto3 and the aws CLI, unmodified, with sessions of a real daypassd at MiniStack: by `exec` and by `credential_process`.
//!
//! A session lives a quarter of an hour at least: that the tools refresh past an expiry is shown with a server of the client's own tests.

use std::{
    fs,
    process::{Command, Stdio},
};

use super::aws::Cloud;
use crate::support::parts::{
    Ran,
    aws_cli::{AwsUser, python},
    run, tools,
};

/// Two clients of one process, each with a call.
const READ_TWICE: &str = "
import boto3
for _ in range(2):
    client = boto3.session.Session().client('s3')
    print(client.get_object(Bucket='releases', Key='platform/x')['Body'].read().decode())
";

/// The client, as the operator, with all that the aws CLI needs beside a credential.
fn command(cloud: &Cloud, user: &AwsUser) -> Command {
    let mut command = cloud.world.command(&cloud.world.operator());
    command.envs(user.command("daypass").get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("PATH", format!("{}:/usr/bin:/bin", tools().join("bin").display()));
    command.env("XDG_RUNTIME_DIR", user.home()).env("XDG_CACHE_HOME", user.home()).stdin(Stdio::null());
    command
}

fn exec(cloud: &Cloud, user: &AwsUser, args: &[&str]) -> Ran {
    run(command(cloud, user).args(["exec", "build", "--"]).args(args))
}

fn no_live_lease(cloud: &Cloud) {
    for state in ["active", "pending", "revoking"] {
        assert!(cloud.leases(state).is_empty(), "{state}: {:?}", cloud.leases(state));
    }
}

#[test]
fn exec_gives_the_aws_cli_and_boto3_a_session_that_ends_with_them() {
    let cloud = Cloud::start();
    let user = AwsUser::new(cloud.aws.url());
    fs::write(user.home().join("new"), "from exec").unwrap();
    let new = user.home().join("new").display().to_string();
    let ran = exec(&cloud, &user, &["aws", "s3", "cp", &new, "s3://releases/platform/new"]);
    assert!(ran.ok, "{}", ran.all());
    let ran = exec(&cloud, &user, &["aws", "s3", "cp", "s3://releases/platform/new", "-"]);
    assert!(ran.ok && ran.text() == "from exec", "{}", ran.all());
    let ran = exec(&cloud, &user, &["aws", "s3", "cp", "s3://releases/widget/x", "-"]);
    assert!(!ran.ok && ran.all().contains("403"), "{}", ran.all());
    let ran = exec(&cloud, &user, &[&python().display().to_string(), "-c", READ_TWICE]);
    assert!(ran.ok && ran.text() == "platform/x\nplatform/x\n", "{}", ran.all());
    // One lease for each command, and each is over.
    assert_eq!(cloud.proxy.made().len(), 4);
    no_live_lease(&cloud);
    for session in cloud.proxy.made() {
        assert_eq!(cloud.reads(&session.keys, "platform/x"), "AccessDenied");
    }
}

#[test]
fn a_profile_takes_sessions_by_credential_process() {
    let cloud = Cloud::start();
    let user = AwsUser::new(cloud.aws.url());
    user.configure(&format!("credential_process = {} aws-credential-process build", env!("CARGO_BIN_EXE_daypass")));
    let tool = |program: &str, args: &[&str]| {
        let mut tool = Command::new(program);
        tool.args(args).env_clear().current_dir(user.home());
        run(tool.envs(command(&cloud, &user).get_envs().filter_map(|(name, value)| Some((name, value?)))))
    };
    let aws = tools().join("bin/aws").display().to_string();
    let ran = tool(&aws, &["s3", "cp", "s3://releases/platform/x", "-"]);
    assert!(ran.ok && ran.text() == "platform/x", "{}", ran.all());
    let ran = tool(&python().display().to_string(), &["-c", READ_TWICE]);
    assert!(ran.ok && ran.text() == "platform/x\nplatform/x\n", "{}", ran.all());
    let ran = tool(&aws, &["s3", "cp", "s3://releases/widget/x", "-"]);
    assert!(!ran.ok && ran.all().contains("403"), "{}", ran.all());
    assert_eq!((cloud.proxy.made().len(), cloud.leases("active").len()), (1, 1), "one lease serves them all");

    // After a revocation the cached session is of no use, and --no-cache brings another.
    let id = cloud.leases("active")[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(cloud.world.cli(&cloud.world.operator(), ["lease", "revoke", &id]).code, 0);
    let ran = tool(&aws, &["s3", "cp", "s3://releases/platform/x", "-"]);
    assert!(!ran.ok && ran.all().contains("403"), "{}", ran.all());
    assert!(run(command(&cloud, &user).args(["aws-credential-process", "build", "--no-cache"])).ok);
    let ran = tool(&aws, &["s3", "cp", "s3://releases/platform/x", "-"]);
    assert!(ran.ok && ran.text() == "platform/x", "{}", ran.all());
}
