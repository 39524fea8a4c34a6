//! `daypassd dev --aws-endpoint`: the role `deploy`, at MiniStack.

use std::{os::unix::fs::PermissionsExt, process::Command, time::Duration};

use jiff::Timestamp;
use serde_json::json;

use super::{
    aws_proxy::Proxy,
    world::{Caller, Given, World},
};
use crate::support::parts::{
    aws_cli::AwsUser,
    boto::Keys,
    free_port,
    ministack::{MiniStack, allow, policy},
    run, tools, wait_until,
};

/// How long it may take until the IAM role is there once the endpoint is.
const SOON: Duration = Duration::from_secs(20);

fn dev(url: &str, env: Vec<(&'static str, String)>) -> World {
    World::with(Given { args: vec!["--aws-endpoint".to_owned(), url.to_owned()], env }, None)
}

fn stack() -> MiniStack {
    let aws = MiniStack::start();
    aws.bucket("demo", &["platform/x", "widget/x"]);
    aws
}

fn deploy(world: &World, caller: &Caller) -> Keys {
    let answer = world.cli(caller, ["issue", "deploy", "-o", "json"]).json();
    let credential = &answer["credential"];
    let text = |name: &str| credential[name].as_str().unwrap_or_else(|| panic!("no {name} in {answer}")).to_owned();
    let ends: Timestamp = text("expires_at").parse().unwrap();
    let issued: Timestamp = answer["lease"]["issued_at"].as_str().unwrap().parse().unwrap();
    let life = ends.duration_since(issued);
    // AWS counts from when it was asked, which is a little after the lease began.
    assert!((890..=930).contains(&life.as_secs()), "{life}");
    assert_eq!((text("region").as_str(), &answer["lease"]["revocation"]["reach"]), ("us-east-1", &json!("lease")), "{answer}");
    Keys { id: text("access_key_id"), secret: text("secret_access_key"), token: Some(text("session_token")) }
}

fn reads(aws: &MiniStack, keys: &Keys, key: &str) -> String {
    aws.read(keys, "demo", key).unwrap_or_else(|refusal| refusal.code)
}

/// `daypassd check` on what dev wrote.
fn check(world: &World) {
    let ran = run(Command::new(env!("CARGO_BIN_EXE_daypassd")).args(["check", "--config"]).arg(world.file("daypass.toml")).env_clear());
    assert!(ran.ok && ran.text().contains("6 roles"), "{}", ran.all());
    assert_eq!(ran.stderr, "", "no advice about what we wrote ourselves");
}

#[test]
fn deploy_works_at_once_and_at_the_next_start() {
    let aws = stack();
    let mut world = dev(aws.url(), vec![]);
    let told = world.greeting();
    assert!(told.contains(&format!("AWS_ENDPOINT_URL='{}' daypass exec deploy -- aws sts get-caller-identity", aws.url())), "{told}");
    let operator = deploy(&world, &world.operator());
    assert_eq!((reads(&aws, &operator, "platform/x"), reads(&aws, &operator, "widget/x")), ("platform/x".into(), "AccessDenied".into()));
    let job = deploy(&world, &world.job());
    assert_eq!((reads(&aws, &job, "platform/x"), reads(&aws, &job, "widget/x")), ("AccessDenied".into(), "widget/x".into()));
    check(&world);
    let credentials = world.file("aws/credentials").metadata().unwrap();
    assert_eq!(credentials.permissions().mode() & 0o777, 0o600);

    let written = (world.read("daypass.toml"), world.read("policy.cedar"));
    for args in [world.given.args.clone(), vec![]] {
        world.stop();
        world.given.args = args;
        world.start_again();
        assert_eq!((world.read("daypass.toml"), world.read("policy.cedar")), written);
        assert_eq!(reads(&aws, &deploy(&world, &world.operator()), "platform/x"), "platform/x");
    }
    let other = stack();
    world.stop();
    world.given.args = vec!["--aws-endpoint".to_owned(), other.url().to_owned()];
    world.start_again();
    assert_eq!(reads(&other, &deploy(&world, &world.operator()), "platform/x"), "platform/x");
    check(&world);
}

#[test]
fn the_commands_that_it_tells_work_with_the_aws_cli() {
    let aws = stack();
    let world = dev(aws.url(), vec![]);
    let user = AwsUser::new(aws.url());
    let shell = |script: &str| {
        let mut command = world.command(&world.operator());
        command.envs(user.command("sh").get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("PATH", format!("{}:/usr/bin:/bin", tools().join("bin").display()));
        command.env("DAYPASS", env!("CARGO_BIN_EXE_daypass"));
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        run(&mut shell)
    };
    let ran = shell(r#"eval "$("$DAYPASS" issue deploy -o env)" && aws s3 cp s3://demo/platform/x - && aws sts get-caller-identity"#);
    assert!(ran.ok && ran.text().starts_with("platform/x") && ran.text().contains("assumed-role/daypass-dev-deploy/"), "{}", ran.all());
    let ran = shell(r#"eval "$("$DAYPASS" issue deploy -o env)" && aws s3 cp s3://demo/widget/x -"#);
    assert!(!ran.ok && ran.all().contains("403"), "{}", ran.all());
    let ran = shell(r#""$DAYPASS" exec deploy -- aws sts get-caller-identity"#);
    assert!(ran.ok && ran.text().contains("assumed-role/daypass-dev-deploy/"), "{}", ran.all());
}

#[test]
fn an_identity_of_the_environment_is_used() {
    let aws = stack();
    let roles = "arn:aws:iam::000000000000:role/*";
    let may = ["iam:CreateRole", "iam:PutRolePolicy", "iam:GetRolePolicy", "iam:DeleteRolePolicy", "sts:AssumeRole", "sts:TagSession"];
    let env = |keys: Keys| vec![("AWS_ACCESS_KEY_ID", keys.id), ("AWS_SECRET_ACCESS_KEY", keys.secret)];
    let maker = env(aws.user("maker", &policy(&[allow(&may, &[roles])])));
    let idle = env(aws.user("idle", &policy(&[allow(&["sts:AssumeRole"], &[roles])])));

    // One that may not make the role: the service runs, and says what is missing.
    let mut world = dev(aws.url(), idle);
    wait_until(SOON, "it says why the role is not there", || {
        world.log().contains("AWS refuses iam:CreateRole: AccessDenied").then_some(())
    });
    assert_eq!(world.cli(&world.operator(), ["issue", "deploy"]).code, 4);
    world.stop();
    world.given.env = maker;
    world.start_again();
    assert_eq!(reads(&aws, &deploy(&world, &world.operator()), "platform/x"), "platform/x");
    assert!(!world.file("aws").exists() && !world.read("daypass.toml").contains("credentials_file"));
    check(&world);
    // And without it again.
    world.stop();
    world.given.env = vec![];
    world.start_again();
    assert_eq!(reads(&aws, &deploy(&world, &world.operator()), "platform/x"), "platform/x");
    assert!(world.file("aws/credentials").exists());
}

#[test]
fn an_endpoint_may_come_up_later_and_in_another_account() {
    // MiniStack takes twelve digits for the key of that account's root.
    let account = "123456789012";
    let port = free_port();
    let env = vec![("AWS_ACCESS_KEY_ID", account.to_owned()), ("AWS_SECRET_ACCESS_KEY", "test".to_owned())];
    let mut world = dev(&format!("http://127.0.0.1:{port}"), env);
    let said = world.cli(&world.operator(), ["issue", "deploy"]);
    assert_eq!(said.code, 6, "{said:?}");
    assert_eq!(world.cli(&world.operator(), ["issue", "web", "-o", "json"]).code, 0);
    check(&world);

    let aws = MiniStack::start();
    let _proxy = Proxy::start_at(port, aws.url());
    wait_until(SOON, "the role is there", || (world.cli(&world.operator(), ["issue", "deploy", "-o", "json"]).code == 0).then_some(()));
    deploy(&world, &world.operator());
    assert!(world.read("daypass.toml").contains(&format!("arn:aws:iam::{account}:role/daypass-dev-deploy")));
    // What is known of the account stays when the endpoint is away at the next start.
    world.stop();
    drop(_proxy);
    world.start_again();
    assert!(world.read("daypass.toml").contains(account));
}

#[test]
fn aws_itself_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_daypassd"));
    command.args(["dev", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--aws-endpoint", "https://sts.eu-central-1.amazonaws.com"]);
    let ran = run(command.arg("--dir").arg(folder.path()).env_clear());
    assert!(!ran.ok && ran.all().contains("--aws-endpoint is for stand-ins"), "{}", ran.all());
}
