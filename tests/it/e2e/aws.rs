//! AWS sessions through the real binaries, at MiniStack with enforcement on: scope, tags, revocation.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    aws_proxy::Proxy,
    world::{Caller, Given, World},
};
use crate::support::parts::{
    boto::Keys,
    ministack::{ACCOUNT, MiniStack, allow, policy, trust, user_arn},
    wait_until,
};

/// The bucket of the tests; each object holds its own key.
pub const BUCKET: &str = "releases";

/// How long something may take that happens by itself.
pub const SOON: Duration = Duration::from_secs(60);

/// The inline policy that denies what was revoked.
const DENIED: &str = "DaypassRevokedSessionTags";

/// The external id without which the role of the jobs is not given.
const EXTERNAL_ID: &str = "daypass:widget";

/// A daypassd with its own IAM user, a MiniStack, and a proxy between the two.
pub struct Cloud {
    pub world: World,
    pub proxy: Proxy,
    pub aws: MiniStack,
}

impl Cloud {
    /// Roles: `release` for jobs (its prefix is the job's repository), `build` for anybody (its prefix is the tenant), `sealed`, whose IAM
    /// role trusts somebody else.
    pub fn start() -> Self {
        Self::with_builders(0, None)
    }

    /// With more roles like `build`: `build-0` and so on, each with an IAM role of its own. On a Redis, or the embedded store.
    pub fn with_builders(more: usize, store: Option<String>) -> Self {
        let aws = MiniStack::start();
        aws.bucket(BUCKET, &["74/x", "75/x", "platform/x", "widget/x"]);
        let builders: Vec<String> = (0..more).map(|number| format!("build-{number}")).chain(["build".to_owned()]).collect();
        let service = service(&aws, &builders);
        aws.user("stranger", &policy(&[allow(&["s3:ListAllMyBuckets"], &["*"])]));
        let all = policy(&[allow(&["s3:*"], &["*"])]);
        let mut outside = trust("service");
        outside["Statement"][0]["Condition"] = json!({"StringEquals": {"sts:ExternalId": EXTERNAL_ID}});
        aws.role("release", &outside, &all);
        aws.role("sealed", &trust("stranger"), &all);
        for name in &builders {
            aws.role(name, &trust("service"), &all);
        }

        let proxy = Proxy::start(aws.url());
        let env = vec![("AWS_ACCESS_KEY_ID", service.id), ("AWS_SECRET_ACCESS_KEY", service.secret)];
        let mut world = World::with(Given { env, ..Given::default() }, store);
        world.stop();
        world.append("daypass.toml", &config(&proxy.url(), &builders));
        let caps = "name = \"platform\"\nmax_live_leases = 1000000\nmax_live_leases_per_caller = 1000000";
        world.edit("daypass.toml", "name = \"platform\"", caps);
        world.limit("requests_per_caller_per_second = 100000\nrequest_burst_per_caller = 100000");
        let cedar = world.read("policy.cedar") + POLICY + &operators(&builders);
        world.write("policy.cedar", &cedar);
        world.start_again();
        Self { world, proxy, aws }
    }

    /// The lease's id and its session.
    pub fn session(&self, caller: &Caller, role: &str) -> (String, Keys) {
        session_of(&self.world.cli(caller, ["issue", role, "-o", "json"]).json())
    }

    /// What the object holds, or why it cannot be read.
    pub fn reads(&self, keys: &Keys, key: &str) -> String {
        self.aws.read(keys, BUCKET, key).unwrap_or_else(|refusal| refusal.code)
    }

    /// The leases in a state.
    pub fn leases(&self, state: &str) -> Vec<Value> {
        let listed = self.world.cli(&self.world.operator(), ["lease", "list", "--state", state, "-o", "json"]).json();
        listed.as_array().expect("a list").clone()
    }

    /// The sessions that the IAM role denies: what its policy says.
    pub fn denied(&self, role: &str) -> Option<String> {
        self.aws.inline_policies(role).get(DENIED).map(Value::to_string)
    }
}

/// The lease's id and the session of an answer.
pub fn session_of(answer: &Value) -> (String, Keys) {
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("text is missing in {answer}")).to_owned();
    let credential = &answer["credential"];
    let keys = Keys {
        id: text(&credential["access_key_id"]),
        secret: text(&credential["secret_access_key"]),
        token: Some(text(&credential["session_token"])),
    };
    (text(&answer["lease"]["id"]), keys)
}

fn arn(role: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:role/{role}")
}

/// What the service may do, and no more: assume its roles, and write their policies.
fn service(aws: &MiniStack, builders: &[String]) -> Keys {
    let own: Vec<String> = builders.iter().map(|name| arn(name)).chain([arn("release")]).collect();
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let sealed = arn("sealed");
    let assumed = [own.as_slice(), &[&sealed]].concat();
    let statements = [
        allow(&["sts:AssumeRole", "sts:TagSession"], &assumed),
        allow(&["iam:GetRolePolicy", "iam:PutRolePolicy", "iam:DeleteRolePolicy"], &own),
    ];
    aws.user("service", &policy(&statements))
}

/// Operators may have every builder.
fn operators(builders: &[String]) -> String {
    let role = |name: &String| {
        format!(
            "@id(\"operator-{name}\")\npermit(principal is Certificate in Tenant::\"platform\", action == Action::\"issue\", \
             resource == Role::\"{name}\");\n"
        )
    };
    builders.iter().map(role).collect()
}

fn config(endpoint: &str, builders: &[String]) -> String {
    let role = |name: &str, prefix: &str, more: &str| {
        format!(
            r#"
[[role]]
name = "{name}"
shared = true
kind = "aws"
aws = "main"
role_arn = "{arn}"
session_policy = """
{{ "Version": "2012-10-17", "Statement": [
  {{ "Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": "arn:aws:s3:::{BUCKET}/{prefix}/*" }} ] }}
"""
default_ttl = "15m"
max_ttl = "1h"
max_life = "8h"
{more}
"#,
            arn = arn(name)
        )
    };
    let release = "session_name = \"ci-{claims.run_id}-{lease}\"\nexternal_id = \"daypass:{tenant}\"\n\
                   tags = { repository = \"{claims.repository_id}\", branch = \"{claims.ref}\" }";
    let builders: String = builders.iter().map(|name| role(name, "{tenant}", "tags = { tenant = \"{tenant}\" }")).collect();
    format!(
        "[[aws]]\nname = \"main\"\nregion = \"us-east-1\"\nendpoint = \"{endpoint}\"\npropagation = \"0s\"\ntimeout = \"1s\"\n{}{}{}",
        role("release", "{claims.repository_id}", release),
        builders,
        role("sealed", "{tenant}", "revocation = \"none\""),
    )
}

const POLICY: &str = r#"
@id("job-releases")
permit(principal is Token::github in Tenant::"widget", action == Action::"issue", resource)
when { principal.claims.repository_id == "74" && (resource == Role::"release" || resource == Role::"build") };
@id("operator-sealed")
permit(principal is Certificate in Tenant::"platform", action == Action::"issue", resource == Role::"sealed");
@id("operator-renews-builds")
permit(principal is Certificate in Tenant::"platform", action == Action::"renew", resource in Role::"build")
when { resource.own };
@id("job-own-release")
permit(principal is Token::github in Tenant::"widget", action in [Action::"renew", Action::"read", Action::"revoke"], resource in Role::"release")
when { resource.own };
"#;

#[test]
fn a_jobs_session_has_the_scope_the_name_and_the_tags_of_its_claims() {
    let cloud = Cloud::start();
    let (lease, keys) = cloud.session(&cloud.world.job(), "release");
    assert_eq!(cloud.reads(&keys, "74/x"), "74/x");
    for elsewhere in ["75/x", "platform/x", "widget/x"] {
        assert_eq!(cloud.reads(&keys, elsewhere), "AccessDenied", "{elsewhere}");
    }
    assert_eq!(cloud.aws.write(&keys, BUCKET, "74/y", "new"), Ok(()));
    assert_eq!(cloud.aws.write(&keys, BUCKET, "75/y", "new").unwrap_err().code, "AccessDenied");
    let name = cloud.aws.caller(&keys).unwrap();
    assert_eq!(name, format!("arn:aws:sts::{ACCOUNT}:assumed-role/release/ci-30433642-{lease}"));

    // The tags of the claims, as the conditions of AWS' own policies see them.
    let only = |tags: Value| {
        let mut statement = allow(&["s3:*"], &["*"]);
        statement["Condition"] = json!({ "StringEquals": tags });
        cloud.aws.set_inline_policy("release", "permissions", &policy(&[statement]));
        cloud.reads(&keys, "74/x")
    };
    assert_eq!(only(json!({"aws:PrincipalTag/repository": "74", "aws:PrincipalTag/branch": "refs/heads/main"})), "74/x");
    assert_eq!(only(json!({"aws:PrincipalTag/repository": "75"})), "AccessDenied");
    assert_eq!(only(json!({"aws:PrincipalTag/branch": "refs/heads/other"})), "AccessDenied");
    assert_eq!(only(json!({"aws:PrincipalTag/daypass:lease": lease})), "74/x");

    // Nobody else gets it, and the service can do nothing but this.
    let denied = cloud.world.cli(&cloud.world.operator(), ["issue", "release"]);
    assert_eq!(denied.code, 4, "{denied:?}");
    let [(_, id), (_, secret)] = cloud.world.given.env.as_slice() else { panic!("an access key has two parts") };
    let service = Keys { id: id.clone(), secret: secret.clone(), token: None };
    assert_eq!(cloud.aws.caller(&service).unwrap(), user_arn("service"));
    assert_eq!(cloud.reads(&service, "74/x"), "AccessDenied");
}

#[test]
fn a_revoked_lease_is_denied_at_its_next_call_and_another_goes_on() {
    let cloud = Cloud::start();
    let (world, operator) = (&cloud.world, cloud.world.operator());
    let (first, one) = cloud.session(&operator, "build");
    let (second, two) = cloud.session(&operator, "build");
    let (_, other_tenant) = cloud.session(&world.job(), "build");
    assert_eq!((cloud.reads(&one, "platform/x"), cloud.reads(&two, "platform/x")), ("platform/x".into(), "platform/x".into()));

    let said = world.cli(&operator, ["lease", "revoke", &first, "-o", "json"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(cloud.reads(&one, "platform/x"), "AccessDenied", "the very next call");
    assert_eq!(cloud.reads(&two, "platform/x"), "platform/x");
    assert_eq!(cloud.reads(&other_tenant, "widget/x"), "widget/x");
    let (_, later) = cloud.session(&operator, "build");
    assert_eq!(cloud.reads(&later, "platform/x"), "platform/x");

    let lease = world.cli(&operator, ["lease", "get", &first, "-o", "json"]).json();
    let time = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!((&lease["state"], &lease["revocation"]["reach"]), (&json!("revoked"), &json!("lease")), "{lease}");
    assert!(time(&lease["revocation"]["live_until"]) < time(&lease["expires_at"]), "{lease}");
    let policy = cloud.denied("build").expect("something is denied");
    assert!(policy.contains(&first) && !policy.contains(&second), "{policy}");

    // What another hand takes out of the policy comes back by itself.
    cloud.aws.admin("iam", "delete_role_policy", &json!({"RoleName": "build", "PolicyName": DENIED}));
    assert_eq!(cloud.reads(&one, "platform/x"), "platform/x");
    wait_until(SOON, "the denial is back", || (cloud.reads(&one, "platform/x") == "AccessDenied").then_some(()));
    assert_eq!(cloud.reads(&two, "platform/x"), "platform/x");
}

#[test]
fn one_denial_reaches_every_session_of_a_renewed_lease() {
    let cloud = Cloud::start();
    let operator = cloud.world.operator();
    let (lease, first) = cloud.session(&operator, "build");
    let renewed = cloud.world.cli(&operator, ["lease", "renew", &lease, "-o", "json"]);
    let (same, second) = session_of(&renewed.json());
    assert_eq!(same, lease);
    assert_ne!(first.id, second.id);
    assert_eq!((cloud.reads(&first, "platform/x"), cloud.reads(&second, "platform/x")), ("platform/x".into(), "platform/x".into()));
    assert_eq!(cloud.world.cli(&operator, ["lease", "revoke", &lease]).code, 0);
    let denied = || "AccessDenied".to_owned();
    assert_eq!((cloud.reads(&first, "platform/x"), cloud.reads(&second, "platform/x")), (denied(), denied()));
}
