//! Ways into AWS and roles, as a configuration has them.

use daypass::model::role::{AwsMode, AwsOverflow, AwsRevocation, RoleSpec};

use crate::config::{SAMPLE, etc, load};

const WAY: &str = r#"
[[aws]]
name = "main"
region = "eu-central-1"
"#;

const ROLE: &str = r#"
[[role]]
name = "deploy"
shared = true
kind = "aws"
aws = "main"
role_arn = "arn:aws:iam::123456789012:role/deploy"
default_ttl = "15m"
max_ttl = "1h"
"#;

fn faults(more: &str) -> Vec<String> {
    let dir = etc();
    load(dir.path(), &format!("{SAMPLE}{more}")).err().unwrap_or_default()
}

#[test]
fn the_defaults_are_the_careful_ones() {
    let dir = etc();
    let config = load(dir.path(), &format!("{SAMPLE}{WAY}{ROLE}")).unwrap();
    assert!(config.warnings.iter().all(|warning| warning.message.contains("unreachable-role")), "{:?}", config.warnings);
    let role = config.rules.book.catalog().roles[&"deploy".parse().unwrap()].clone();
    let RoleSpec::Aws(spec) = &role.spec else { panic!("another kind") };
    assert_eq!((&spec.mode, spec.revocation, spec.overflow), (&AwsMode::AssumeRole, AwsRevocation::SessionTag, AwsOverflow::Fail));
    assert_eq!(spec.session_name.source(), "daypass-{lease}");
    let lists = config.rules.issuers.aws.lists();
    assert!(lists.len() == 1 && config.rules.issuers.aws.knows(&lists[0]));
}

#[test]
fn the_sample_says_every_key() {
    let part = SAMPLE.split("# ---- AWS ----\n").nth(1).expect("the sample has a part for AWS");
    let (own, with_token) = part.split_once("# keyless:\n").expect("the keyless way comes last");
    // Prose is set off by two blanks.
    let keys = own.lines().filter(|line| !line.starts_with("#  "));
    let own: String = keys.map(|line| line.trim_start_matches("# ").to_owned() + "\n").collect();
    let dir = etc();
    let config = load(dir.path(), &format!("{SAMPLE}{own}")).unwrap();
    let roles = &config.rules.book.catalog().roles;
    assert!(matches!(roles[&"deploy".parse().unwrap()].spec, RoleSpec::Aws(_)));
    assert!(matches!(roles[&"push-ecr".parse().unwrap()].spec, RoleSpec::Ecr(_)));
    for key in ["endpoint", "allow_http", "timeout", "propagation", "concurrency", "deny_size", "identity"] {
        assert!(own.contains(&format!("{key} = ")), "{key}");
    }
    for key in [
        "session_name",
        "session_policy",
        "policy_arns",
        "tags",
        "transitive_tags",
        "source_identity",
        "external_id",
        "revocation",
        "overflow",
        "mode",
    ] {
        assert!(own.contains(&format!("{key} = ")), "{key}");
    }
    for key in ["web_identity", "role_arn", "audience", "subject"] {
        assert!(with_token.contains(key), "{key}");
    }
}

#[test]
fn every_fault_of_a_way_is_told() {
    for (more, says) in [
        ("region = \"x y\"", "region must be"),
        ("timeout = \"25s\"", "timeout must be"),
        ("timeout = \"-1s\"", "timeout must be"),
        ("propagation = \"1h\"", "propagation must be"),
        ("concurrency = 0", "concurrency must be"),
        ("deny_size = 20000", "deny_size must be"),
        ("endpoint = \"http://10.0.0.1\"", "in the clear"),
        ("identity = \"keys\"", "unknown variant `keys`"),
        ("identity.web_identity = { role_arn = \"arn\", audience = \"a\" }", "role_arn must be like"),
        ("identity.web_identity = { role_arn = \"arn:aws:iam::123456789012:role/d\", audience = \"a\" }", "needs [oidc]"),
        ("secret_access_key = \"no\"", "unknown field `secret_access_key`"),
    ] {
        let way = if more.starts_with("region") { WAY.replace("region = \"eu-central-1\"", more) } else { format!("{WAY}{more}\n") };
        let faults = faults(&way);
        assert!(faults.iter().any(|fault| fault.contains(says)), "{more}: {faults:?}");
    }
    let twice = faults(&format!("{WAY}{WAY}"));
    assert!(twice.iter().any(|fault| fault.contains("two aws of the name main")), "{twice:?}");
}

#[test]
fn every_fault_of_a_role_is_told() {
    let tags = (0..50).map(|number| format!("t{number} = \"v\"")).collect::<Vec<_>>().join(", ");
    let arns = |count: usize| (0..count).map(|n| format!("\"arn:aws:iam::123456789012:policy/p{n}\"")).collect::<Vec<_>>().join(", ");
    let long_policy = format!(
        r#"session_policy = '{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":"*","Resource":"{}"}}]}}'"#,
        "r".repeat(2048)
    );
    let policy = |statement: &str| format!(r#"session_policy = '{{"Version":"2012-10-17","Statement":[{statement}]}}'"#);
    for (more, says) in [
        ("aws = \"mian\"".to_owned(), "there is no aws mian; did you mean main?"),
        ("role_arn = \"deploy\"".to_owned(), "role_arn must be like"),
        ("role_arn = \"arn:aws:iam::123456789012:role/{claims.ref}\"".to_owned(), "role_arn must be like"),
        ("default_ttl = \"14m\"".to_owned(), "15 minutes to 12 hours"),
        ("max_ttl = \"13h\"".to_owned(), "15 minutes to 12 hours"),
        ("mode = \"web_identity\"".to_owned(), "needs an audience"),
        ("mode = \"web_identity\"\naudience = \"a\"".to_owned(), "needs [oidc]"),
        ("mode = \"web_identity\"\naudience = \"a\"\nexternal_id = \"abc\"".to_owned(), "external_id has no place"),
        ("audience = \"a\"".to_owned(), "belong to mode"),
        ("subject = \"a\"".to_owned(), "belong to mode"),
        ("mode = \"root\"".to_owned(), "unknown variant `root`"),
        ("session_name = \"{lease}/{role}\"".to_owned(), "the session name has a character"),
        (format!("session_name = \"{}-{{lease}}\"", "n".repeat(30)), "the session name has 67 characters"),
        ("session_name = \"n\"".to_owned(), "the session name has 1 characters"),
        ("session_name = \"{tennant}\"".to_owned(), "{tennant} is no placeholder"),
        ("session_name = \"{claims.ref}{lease}\"".to_owned(), "no mark between them"),
        ("session_name = \"{claims.nothing}\"".to_owned(), "no issuer has the claim nothing"),
        ("source_identity = \"a b\"".to_owned(), "the source identity has a character"),
        ("source_identity = \"aws:x\"".to_owned(), "must not begin with aws:"),
        ("external_id = \"x\"".to_owned(), "the external id has 1 characters"),
        (format!("tags = {{ {tags} }}"), "there are 51 tags, with daypass:lease"),
        ("tags = { \"aws:x\" = \"v\" }".to_owned(), "must not begin with aws:"),
        ("tags = { \"daypass:lease\" = \"v\" }".to_owned(), "this service's own"),
        ("tags = { Team = \"v\", team = \"w\" }".to_owned(), "case of their keys"),
        ("tags = { team = \"a*\" }".to_owned(), "the value of the tag team has a character"),
        (format!("tags = {{ team = \"{}\" }}", "v".repeat(257)), "has 257 characters; AWS takes 0 to 256"),
        (format!("tags = {{ {} = \"v\" }}", "k".repeat(129)), "AWS takes 1 to 128"),
        ("transitive_tags = [\"team\"]".to_owned(), "not among the tags"),
        ("tags = { team = \"a\" }\ntransitive_tags = [\"team\", \"team\"]".to_owned(), "twice"),
        (format!("policy_arns = [{}]", arns(11)), "there are 11 policy_arns"),
        ("policy_arns = [\"arn:aws:iam::aws:policy/a\", \"arn:aws:iam::aws:policy/a\"]".to_owned(), "one policy twice"),
        ("policy_arns = [\"ReadOnlyAccess\"]".to_owned(), "a policy ARN must be like"),
        ("session_policy = 'nothing'".to_owned(), "it is not a policy document"),
        ("session_policy = '{\"Version\":\"2012-10-17\"}'".to_owned(), "there is no Statement"),
        ("session_policy = '{\"Statement\":[]}'".to_owned(), "Version must be"),
        (policy(""), "there is no statement in it"),
        (policy(r#"{"Effect":"allow","Action":"*","Resource":"*"}"#), "Effect must be"),
        (policy(r#"{"Effect":"Allow","Resource":"*"}"#), "either Action or NotAction"),
        (policy(r#"{"Effect":"Allow","Action":"*"}"#), "either Resource or NotResource"),
        (policy(r#"{"Effect":"Allow","Action":"*","Resource":"*","Principal":"*"}"#), "has no Principal"),
        (policy(r#"{"Effect":"Allow","Action":"s3:{claims.ref}","Resource":"*"}"#), "Resource and Condition only"),
        (policy(r#"{"Effect":"Allow","Action":"*","Resource":"{claims.nothing}"}"#), "no issuer has the claim nothing"),
        (policy(r#"{"Effect":"Allow","Action":"*","Resource":"${claims.ref}"}"#), "no policy variable of AWS"),
        (long_policy, "AWS takes 2048 at most"),
        ("revocation = \"session_name\"\nsession_name = \"ci\"".to_owned(), "needs {lease} in the session_name"),
        ("revocation = \"role_sessions\"\noverflow = \"role_sessions\"".to_owned(), "overflow has no meaning"),
        ("overflow = \"forget\"".to_owned(), "unknown variant `forget`"),
        ("ca = \"issuing\"".to_owned(), "unknown field `ca`"),
    ] {
        let key = more.split(" = ").next().unwrap_or_default();
        let role: String = ROLE.lines().filter(|line| !line.starts_with(&format!("{key} = "))).map(|line| format!("{line}\n")).collect();
        let faults = faults(&format!("{WAY}{role}{more}\n"));
        assert!(faults.iter().any(|fault| fault.contains(says)), "{more}: {faults:#?}");
        assert!(faults.iter().all(|fault| fault.contains("daypass.toml:")), "{faults:?}");
    }
    assert_eq!(faults(&format!("{WAY}{ROLE}policy_arns = [{}]\n", arns(10))), [""; 0]);
}

#[test]
fn two_roles_at_one_iam_role_must_agree() {
    let second = |more: &str| ROLE.replace("\"deploy\"", "\"other\"") + more;
    let two_ways = format!("{WAY}{}{ROLE}{}", WAY.replace("main", "backup"), second("").replace("aws = \"main\"", "aws = \"backup\""));
    let faults_of_two = faults(&two_ways);
    assert!(faults_of_two.iter().any(|fault| fault.contains("overwrite each other's policy")), "{faults_of_two:?}");
    let faults_of_two = faults(&format!("{WAY}{ROLE}{}", second("overflow = \"role_sessions\"\n")));
    assert!(faults_of_two.iter().any(|fault| fault.contains("another overflow")), "{faults_of_two:?}");
    assert_eq!(faults(&format!("{WAY}{ROLE}{}", second("revocation = \"role_sessions\"\n"))), [""; 0], "another policy");
}

#[test]
fn a_session_that_nothing_reaches_is_warned_of() {
    let dir = etc();
    let config = load(dir.path(), &format!("{SAMPLE}{WAY}{ROLE}revocation = \"none\"\n")).unwrap();
    assert!(config.warnings.iter().any(|warning| warning.message.contains("lives until it expires")), "{:?}", config.warnings);
    assert!(config.rules.issuers.aws.lists().is_empty());
}

#[test]
fn a_pattern_directly_after_a_value_is_advised_against() {
    let dir = etc();
    let advice = |resource: &str| {
        let policy = format!(
            r#"{{"Version": "2012-10-17", "Statement": [{{"Effect": "Allow", "Action": "s3:GetObject", "Resource": ["{resource}"]}}]}}"#
        );
        let config = load(dir.path(), &format!("{SAMPLE}{WAY}{ROLE}session_policy = '{policy}'\n")).unwrap();
        config.warnings.iter().filter(|warning| warning.message.contains("directly after a placeholder")).count()
    };
    for open in ["arn:aws:s3:::b/{claims.repository_id}*", "arn:aws:s3:::b/{tenant}?/x", "arn:aws:s3:::b/x-{tenant}/{role}*"] {
        assert_eq!(advice(open), 1, "{open}");
    }
    for closed in ["arn:aws:s3:::b/{claims.repository_id}/*", "arn:aws:s3:::*/{tenant}", "arn:aws:s3:::b/{tenant}/${aws:username}*"] {
        assert_eq!(advice(closed), 0, "{closed}");
    }
}
