//! MiniStack with enforcement on: STS, IAM, S3 and ECR that sign, judge and expire as AWS does.
//!
//! What it enforces, tried by the tests below: signatures and session tokens; policies of users and roles, and the trust policy (both
//! are needed to assume a role), with `sts:ExternalId` and `sts:TagSession`; session policies, inline and by ARN; session tags as
//! `aws:PrincipalTag/…`; `aws:userid`, `aws:TokenIssueTime` and `aws:CurrentTime` in conditions; an inline role policy at once, for
//! sessions issued before it too; expiry, from a second on.
//!
//! What it takes and does not judge, or does otherwise than AWS; no test here can prove anything about it:
//! - the length of a session, `MaxSessionDuration` and the hour of chained roles; the length and letters of session names, external
//!   ids and tags; `PackedPolicySize` is always 0; the size of an inline policy;
//! - source identities and transitive tags are dropped;
//! - policy variables (`${aws:PrincipalTag/team}`) are never replaced, and so match nothing;
//! - `aws:PrincipalArn` is the session's ARN, where AWS has the role's;
//! - `AssumeRoleWithWebIdentity` checks issuer, `aud` and `sub` against the trust policy, but neither signature nor `exp`, and drops
//!   session policies and the tags in the token. [`super::seaweed`] verifies tokens.
//! - ECR's token is the same for all, for 12 hours.
//!
//! `GetCallerIdentity` is never denied, there or here: look at S3 to see a session die.

use std::{collections::BTreeMap, process::Command, time::Duration};

use daypass::clock::{Clock, SystemClock};
use serde_json::{Value, json};

use super::{
    boto::{self, Keys, Refusal},
    server::{Server, http_status},
    tool, wait_until,
};

/// The account that everything is in.
pub const ACCOUNT: &str = "000000000000";

/// A running MiniStack with nothing in it.
#[derive(Debug)]
pub struct MiniStack {
    url: String,
    _server: Server,
}

impl MiniStack {
    /// Starts it; a quarter of a second.
    pub fn start() -> Self {
        let server = Server::start(
            "MiniStack",
            |port, folder| {
                let mut command = Command::new(tool("ministack"));
                command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", folder).env("TMPDIR", folder);
                command.env("AUTH", "true").env("BIND_HOST", "127.0.0.1").env("GATEWAY_PORT", port.to_string());
                // It would open a second port for this, and tidy up containers of its own at a Docker daemon.
                command.env("IOT_MTLS_ENABLED", "0").env("DOCKER_HOST", "unix:///nonexistent");
                command
            },
            |port| http_status(port, "/_ministack/health") == Some(200),
        );
        Self { url: format!("http://127.0.0.1:{}", server.port()), _server: server }
    }

    /// The endpoint of every service (`AWS_ENDPOINT_URL`).
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Calls a method by its name in boto3, signed by `who` or not at all.
    pub fn call(&self, who: Option<&Keys>, service: &str, method: &str, arguments: &Value) -> Result<Value, Refusal> {
        boto::call(&self.url, who, service, method, arguments)
    }

    /// Calls a method as the account's root, whom nothing is refused.
    pub fn admin(&self, service: &str, method: &str, arguments: &Value) -> Value {
        let root = Keys { id: "test".into(), secret: "test".into(), token: None };
        self.call(Some(&root), service, method, arguments).unwrap_or_else(|refusal| panic!("{service} {method}: {refusal:?}"))
    }

    /// Makes a user that may do what the policy allows. Its ARN is [`user_arn`].
    pub fn user(&self, name: &str, permissions: &Value) -> Keys {
        self.admin("iam", "create_user", &json!({"UserName": name}));
        let document = permissions.to_string();
        self.admin("iam", "put_user_policy", &json!({"UserName": name, "PolicyName": "permissions", "PolicyDocument": document}));
        Keys::of(&self.admin("iam", "create_access_key", &json!({"UserName": name}))["AccessKey"])
    }

    /// Makes a role that may do what the policy allows, in an inline policy called `permissions`; gives its ARN.
    pub fn role(&self, name: &str, trust: &Value, permissions: &Value) -> String {
        let arguments = json!({"RoleName": name, "AssumeRolePolicyDocument": trust.to_string()});
        let made = self.admin("iam", "create_role", &arguments);
        self.set_inline_policy(name, "permissions", permissions);
        made["Role"]["Arn"].as_str().expect("a role has an ARN").to_owned()
    }

    /// Puts an inline policy into a role, beside the others or instead of the one of this name.
    pub fn set_inline_policy(&self, role: &str, name: &str, policy: &Value) {
        let arguments = json!({"RoleName": role, "PolicyName": name, "PolicyDocument": policy.to_string()});
        self.admin("iam", "put_role_policy", &arguments);
    }

    /// The inline policies of a role by their names.
    pub fn inline_policies(&self, role: &str) -> BTreeMap<String, Value> {
        let names = self.admin("iam", "list_role_policies", &json!({"RoleName": role}))["PolicyNames"].take();
        let names: Vec<String> = serde_json::from_value(names).expect("names are strings");
        let document =
            |name: &str| self.admin("iam", "get_role_policy", &json!({"RoleName": role, "PolicyName": name}))["PolicyDocument"].take();
        names.into_iter().map(|name| (name.clone(), document(&name))).collect()
    }

    /// Makes a bucket with these objects, each of which holds its own key.
    pub fn bucket(&self, name: &str, keys: &[&str]) {
        self.admin("s3", "create_bucket", &json!({"Bucket": name}));
        for key in keys {
            self.admin("s3", "put_object", &json!({"Bucket": name, "Key": key, "Body": key}));
        }
    }

    /// Makes an ECR repository.
    pub fn repository(&self, name: &str) {
        self.admin("ecr", "create_repository", &json!({"repositoryName": name}));
    }

    /// Assumes a role; `more` are further arguments, as in boto3.
    pub fn assume(&self, who: &Keys, role_arn: &str, session_name: &str, more: &Value) -> Result<Keys, Refusal> {
        let mut arguments = json!({"RoleArn": role_arn, "RoleSessionName": session_name});
        let more = more.as_object().expect("further arguments are an object").clone();
        arguments.as_object_mut().expect("it is an object").extend(more);
        Ok(Keys::of(&self.call(Some(who), "sts", "assume_role", &arguments)?["Credentials"]))
    }

    /// The ARN of whom the keys stand for (`GetCallerIdentity`).
    pub fn caller(&self, who: &Keys) -> Result<String, Refusal> {
        Ok(self.call(Some(who), "sts", "get_caller_identity", &json!({}))?["Arn"].as_str().expect("a caller has an ARN").to_owned())
    }

    /// What an S3 object holds.
    pub fn read(&self, who: &Keys, bucket: &str, key: &str) -> Result<String, Refusal> {
        boto::read(&self.url, who, bucket, key)
    }

    /// Writes an S3 object.
    pub fn write(&self, who: &Keys, bucket: &str, key: &str, body: &str) -> Result<(), Refusal> {
        boto::write(&self.url, who, bucket, key, body)
    }
}

/// The ARN of a user of this name.
pub fn user_arn(name: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:user/{name}")
}

/// A policy of these statements.
pub fn policy(statements: &[Value]) -> Value {
    json!({"Version": "2012-10-17", "Statement": statements})
}

/// A statement that allows.
pub fn allow(actions: &[&str], resources: &[&str]) -> Value {
    json!({"Effect": "Allow", "Action": actions, "Resource": resources})
}

/// A statement that denies everything under a condition.
pub fn deny_all(condition: &Value) -> Value {
    json!({"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": condition})
}

/// A trust policy for one user, tags and source identities included.
pub fn trust(user: &str) -> Value {
    let actions = ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"];
    policy(&[json!({"Effect": "Allow", "Principal": {"AWS": user_arn(user)}, "Action": actions})])
}

const BUCKET: &str = "releases";

/// A server with a bucket, a user `service` that may assume every role, and a role `deploy` that may do all of S3.
fn world() -> (MiniStack, Keys, String) {
    let aws = MiniStack::start();
    aws.bucket(BUCKET, &["a/x", "b/x"]);
    let service = aws.user("service", &policy(&[allow(&["sts:*"], &["*"])]));
    let role = aws.role("deploy", &trust("service"), &policy(&[allow(&["s3:*"], &["*"])]));
    (aws, service, role)
}

fn code<T>(result: Result<T, Refusal>) -> String {
    result.map_or_else(|refusal| refusal.code, |_| "done".into())
}

#[test]
fn a_session_needs_the_user_and_the_role_to_agree() {
    let (aws, service, role) = world();
    let session = aws.assume(&service, &role, "one", &json!({})).expect("both allow it");
    assert_eq!(aws.read(&session, BUCKET, "a/x").expect("the role may"), "a/x");
    assert_eq!(aws.caller(&session).expect("always"), format!("arn:aws:sts::{ACCOUNT}:assumed-role/deploy/one"));
    assert_eq!(code(aws.read(&service, BUCKET, "a/x")), "AccessDenied", "the user itself may not");
    assert_eq!(code(aws.read(&Keys { secret: "other".into(), ..session.clone() }, BUCKET, "a/x")), "SignatureDoesNotMatch");
    assert_eq!(code(aws.read(&Keys { token: Some("other".into()), ..session }, BUCKET, "a/x")), "InvalidToken");

    let stranger = aws.user("stranger", &policy(&[allow(&["sts:*"], &["*"])]));
    assert_eq!(code(aws.assume(&stranger, &role, "one", &json!({}))), "AccessDenied", "the role does not trust it");
    let idle = aws.user("idle", &policy(&[allow(&["s3:*"], &["*"])]));
    let open = aws.role("open", &trust("idle"), &policy(&[allow(&["s3:*"], &["*"])]));
    assert_eq!(code(aws.assume(&idle, &open, "one", &json!({}))), "AccessDenied", "its own policy does not allow it");
}

#[test]
fn session_policies_and_tags_count() {
    let (aws, service, role) = world();
    let narrow = policy(&[allow(&["s3:GetObject"], &[&format!("arn:aws:s3:::{BUCKET}/a/*")])]).to_string();
    let session = aws.assume(&service, &role, "narrow", &json!({"Policy": narrow})).expect("a session");
    assert_eq!(code(aws.read(&session, BUCKET, "a/x")), "done");
    assert_eq!(code(aws.read(&session, BUCKET, "b/x")), "AccessDenied");
    assert_eq!(code(aws.write(&session, BUCKET, "a/y", "new")), "AccessDenied");

    let mut tagged = allow(&["s3:*"], &["*"]);
    tagged["Condition"] = json!({"StringEquals": {"aws:PrincipalTag/team": "a"}});
    aws.set_inline_policy("deploy", "permissions", &policy(&[tagged]));
    let of_team = |team: &str| aws.assume(&service, &role, "team", &json!({"Tags": [{"Key": "team", "Value": team}]})).expect("a session");
    assert_eq!(code(aws.read(&of_team("a"), BUCKET, "a/x")), "done");
    assert_eq!(code(aws.read(&of_team("b"), BUCKET, "a/x")), "AccessDenied");
}

#[test]
fn a_deny_works_on_sessions_that_are_out() {
    let (aws, service, role) = world();
    let [one, two] = ["one", "two"].map(|name| {
        let tags = json!({"Tags": [{"Key": "lease", "Value": name}]});
        aws.assume(&service, &role, name, &tags).expect("a session")
    });
    let read = |keys: &Keys| code(aws.read(keys, BUCKET, "a/x"));
    let verdicts = |condition: &Value| {
        aws.set_inline_policy("deploy", "revoked", &policy(&[deny_all(condition)]));
        (read(&one), read(&two))
    };
    let only_two = ("AccessDenied".to_owned(), "done".to_owned());
    let neither = ("AccessDenied".to_owned(), "AccessDenied".to_owned());
    assert_eq!(verdicts(&json!({"StringEquals": {"aws:PrincipalTag/lease": ["one", "none"]}})), only_two);
    assert_eq!(verdicts(&json!({"StringLike": {"aws:userid": ["*:one"]}})), only_two);
    let later = (SystemClock.now() + jiff::SignedDuration::from_secs(2)).to_string();
    assert_eq!(verdicts(&json!({"DateLessThan": {"aws:TokenIssueTime": later}})), neither);
    let names: Vec<_> = aws.inline_policies("deploy").into_keys().collect();
    assert_eq!(names, ["permissions", "revoked"]);
    // Sessions that are issued after that time go on.
    wait_until(Duration::from_secs(10), "a session that is young enough", || {
        let young = aws.assume(&service, &role, "young", &json!({})).expect("a session");
        (read(&young) == "done").then_some(())
    });
    assert_eq!(read(&one), "AccessDenied");
}

#[test]
fn a_session_expires() {
    let (aws, service, role) = world();
    let session = aws.assume(&service, &role, "short", &json!({"DurationSeconds": 1})).expect("a session");
    let refusal = wait_until(Duration::from_secs(10), "the session expires", || aws.read(&session, BUCKET, "a/x").err());
    assert_eq!(refusal.code, "ExpiredToken");
}

#[test]
fn ecr_gives_its_password_to_who_may_have_it() {
    let (aws, service, role) = world();
    aws.repository("demo/app");
    let session = aws.assume(&service, &role, "push", &json!({})).expect("a session");
    let ask = || aws.call(Some(&session), "ecr", "get_authorization_token", &json!({}));
    assert_eq!(code(ask()), "AccessDeniedException");
    aws.set_inline_policy("deploy", "permissions", &policy(&[allow(&["ecr:GetAuthorizationToken"], &["*"])]));
    let answer = ask().expect("it may now");
    assert!(answer["authorizationData"][0]["authorizationToken"].is_string(), "{answer}");
}
