//! No claim's value changes the meaning of a policy, a tag, a session's name. What is looked at is what goes over the wire.

use std::collections::BTreeMap;

use daypass::{
    issuer::{Issuer, aws::AwsIssuer},
    model::{
        error::Code,
        policy_template::{BadPolicyTemplate, PolicyTemplate},
        role::{AwsRole, RoleSpec},
    },
};
use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::Value;

use super::{
    endpoint::{Does, Endpoint, Form},
    world::{deploy, grant, hasty, issuer, lease, order, session_policy, template},
};

const ARN: &str = "arn:aws:iam::123456789012:role/deploy";

const POLICY: &str = r#"{ "Version": "2012-10-17", "Statement": [
    { "Effect": "Allow", "Action": ["s3:GetObject"], "Resource": "arn:aws:s3:::releases/{claims.project}/*" },
    { "Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::releases",
      "Condition": { "StringLike": { "s3:prefix": ["${aws:PrincipalTag/team}/*", "home/${aws:username}"] } } } ] }"#;

/// Characters that mean something somewhere: in JSON, in an ARN, in a policy's pattern or variable, in a form, in a tag.
const HOSTILE: [&str; 26] = [
    "\"", "'", "\\", "{", "}", "${", "}", "*", "?", "/", ":", "\0", "\n", "\u{7f}", "\u{202e}", "ä", "а", " ", "&", "=", "%22", "%2A", "+",
    ",", "@", "..",
];

fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        2 => prop::sample::select(HOSTILE.to_vec()).prop_map(str::to_owned),
        2 => "[A-Za-z0-9._=+@-]{1,12}",
        1 => Just("${aws:PrincipalTag/x}".to_owned()),
        1 => Just("\",\"Effect\":\"Allow\",\"Action\":\"*\",\"Resource\":\"*\"".to_owned()),
        1 => Just("{claims.team}".to_owned()),
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

fn role() -> AwsRole {
    AwsRole {
        session_policy: session_policy(POLICY),
        tags: BTreeMap::from([("project".to_owned(), template("{claims.project}")), ("by".to_owned(), template("{tenant}"))]),
        session_name: template("{claims.project}-{lease}"),
        source_identity: Some(template("{claims.project}")),
        external_id: Some(template("ext/{claims.project}")),
        ..deploy(ARN)
    }
}

/// What AWS is asked for a caller with this project; none when the claim is refused.
async fn asked(issuer: &AwsIssuer, endpoint: &Endpoint, role: &AwsRole, value: &str) -> Option<(Form, String)> {
    let grant = grant(RoleSpec::Aws(role.clone()), &[("project", value), ("team", "a")]);
    let lease = lease();
    let order = order(&grant, lease);
    let before = endpoint.asked().len();
    if let Err(refused) = issuer.reserve(&order) {
        assert_eq!(refused.code(), Code::ClaimNotUsable, "{value:?}: {refused}");
        let minted = issuer.mint(&order).await.err().expect("what is refused before is refused after");
        assert_eq!((minted.error.code(), minted.maybe_made), (Code::ClaimNotUsable, false));
        assert_eq!(endpoint.asked().len(), before, "nobody is asked");
        return None;
    }
    issuer.mint(&order).await.expect("a session");
    Some((endpoint.last(), lease.to_string()))
}

/// Every string of a document, with its path.
fn leaves(value: &Value, path: &str, found: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| leaves(value, &format!("{path}/{name}"), found)),
        Value::Array(items) => items.iter().enumerate().for_each(|(at, value)| leaves(value, &format!("{path}/{at}"), found)),
        Value::String(text) => drop(found.insert(path.to_owned(), text.clone())),
        other => panic!("{other}"),
    }
}

fn tags(form: &Form) -> BTreeMap<String, String> {
    let at = |number: usize, part: &str| form.get(&format!("Tags.member.{number}.{part}")).cloned();
    (1..=50).filter_map(|number| Some((at(number, "Key")?, at(number, "Value")?))).collect()
}

fn check(form: &Form, lease: &str, value: &str) {
    let (mut template, mut sent) = (BTreeMap::new(), BTreeMap::new());
    leaves(&serde_json::from_str(POLICY).unwrap(), "", &mut template);
    leaves(&serde_json::from_str(&form["Policy"]).unwrap(), "", &mut sent);
    let resource = template.get_mut("/Statement/0/Resource").unwrap();
    *resource = format!("arn:aws:s3:::releases/{value}/*");
    assert_eq!(sent, template, "the value stands in one leaf, and nothing else has changed");
    assert!(value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._@=+-".contains(&b)), "{value:?}");
    let expected = [("project", value), ("by", "jobs"), ("daypass:lease", lease)];
    assert_eq!(tags(form), expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    assert_eq!(form["TransitiveTagKeys.member.1"], "daypass:lease");
    assert!(!form.contains_key("TransitiveTagKeys.member.2"));
    assert_eq!(form["RoleSessionName"], format!("{value}-{lease}"));
    assert_eq!(form["SourceIdentity"], value);
    assert_eq!(form["ExternalId"], format!("ext/{value}"));
    assert_eq!(form["RoleArn"], ARN);
    let mut names: Vec<&str> = form.keys().map(String::as_str).filter(|name| !name.starts_with("Tags.member.")).collect();
    names.sort_unstable();
    let all = [
        "Action",
        "DurationSeconds",
        "ExternalId",
        "Policy",
        "RoleArn",
        "RoleSessionName",
        "SourceIdentity",
        "TransitiveTagKeys.member.1",
        "Version",
    ];
    assert_eq!(names, all);
}

#[test]
fn a_value_stands_where_the_template_puts_it_or_nowhere() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let endpoint = Endpoint::start(&[Does::Session(0)]);
    let role = role();
    let issuer = issuer(hasty(&endpoint.url), &role, None);
    let taken = std::cell::Cell::new(0);
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    let strategy = prop_oneof![hostile(), "[A-Za-z0-9._=+@-]{1,30}"];
    TestRunner::new(config)
        .run(&strategy, |value| {
            if let Some((form, lease)) = runtime.block_on(asked(&issuer, &endpoint, &role, &value)) {
                taken.set(taken.get() + 1);
                check(&form, &lease, &value);
            }
            Ok(())
        })
        .unwrap();
    let taken = taken.get();
    assert!((30..270).contains(&taken), "{taken} values were taken: this test looks at one side only");
}

#[tokio::test]
async fn each_hostile_character_is_refused_by_the_policy() {
    let endpoint = Endpoint::start(&[Does::Session(0)]);
    let role = AwsRole { session_policy: session_policy(POLICY), ..deploy(ARN) };
    let issuer = issuer(hasty(&endpoint.url), &role, None);
    for bad in
        ["\"", "\\", "{", "}", "${aws:x}", "$", "*", "?", "/", ":", "\0", "\n", "\u{202e}", "ä", " ", "..", ".", "", "a/b", "a:b", "a*"]
    {
        assert!(asked(&issuer, &endpoint, &role, bad).await.is_none(), "{bad:?}");
    }
    for good in ["a", "my-project_1.0", "A@b=c+d"] {
        assert!(asked(&issuer, &endpoint, &role, good).await.is_some(), "{good}");
    }
}

#[tokio::test]
async fn limits_are_named_before_the_call() {
    let endpoint = Endpoint::start(&[Does::Session(0)]);
    let long = |length: usize| "p".repeat(length);
    let refusal = async |role: AwsRole, length: usize| {
        let issuer = issuer(hasty(&endpoint.url), &role, None);
        let grant = grant(RoleSpec::Aws(role.clone()), &[("project", &long(length)), ("team", "a")]);
        issuer.reserve(&order(&grant, lease())).err().map(|refused| refused.public().to_owned())
    };
    let with_name = AwsRole { session_name: template("{claims.project}"), ..deploy(ARN) };
    let with_tag = AwsRole { tags: BTreeMap::from([("t".to_owned(), template("{claims.project}"))]), ..deploy(ARN) };
    let with_source = AwsRole { source_identity: Some(template("{claims.project}")), ..deploy(ARN) };
    let ids = "{claims.project}{claims.project}";
    let with_external = AwsRole { external_id: Some(template("{claims.project}")), ..deploy(ARN) };
    let resources = ["\"arn:aws:s3:::b/{claims.project}\""; 4].join(",");
    let text = format!(r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":"*","Resource":[{resources}]}}]}}"#);
    let with_policy = AwsRole { session_policy: session_policy(&text), ..deploy(ARN) };
    for (role, fits, too_long, says) in [
        (with_name, 64, 65, "2 to 64"),
        (with_tag, 256, 257, "0 to 256"),
        (with_source, 64, 65, "2 to 64"),
        (with_external, 1000, 1025, "1024"),
        (with_policy, 450, 500, "2048"),
    ] {
        assert_eq!(refusal(role.clone(), fits).await, None, "{says}");
        let refused = refusal(role, too_long).await.unwrap_or_else(|| panic!("{says}: taken"));
        assert!(refused.contains(says), "{refused}");
    }
    let short = AwsRole { session_name: template("{claims.project}"), ..deploy(ARN) };
    assert!(refusal(short, 1).await.is_some_and(|refused| refused.contains("2 to 64")));
    assert_eq!(template(ids).claims().count(), 2);
    assert!(endpoint.asked().is_empty());
}

#[tokio::test]
async fn what_ecr_hands_out_ends_with_its_lease() {
    let arn = "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryReadOnly";
    let by_arn = AwsRole { policy_arns: vec![arn.to_owned()], ..deploy(ARN) };
    let inline = AwsRole { session_policy: session_policy(POLICY), ..deploy(ARN) };
    let all_of_ecr = serde_json::json!({"Effect": "Allow", "Action": "ecr:*", "Resource": "*"});
    for (role, allows) in [(deploy(ARN), 1), (by_arn, 0), (inline, 2)] {
        // STS makes the session, ECR refuses it: what matters is what STS was asked.
        let endpoint = Endpoint::start(&[Does::Session(0), Does::Answer(400, r#"{"__type":"AccessDeniedException"}"#.to_owned())]);
        let issuer = issuer(hasty(&endpoint.url), &role, None);
        let grant = grant(RoleSpec::Ecr(role), &[("project", "a"), ("team", "a")]);
        let order = order(&grant, lease());
        let ends_by = issuer.reserve(&order).unwrap().unwrap().expires_at;
        let failed = issuer.mint(&order).await.err().expect("ECR refuses");
        assert!(failed.maybe_made && failed.error.public().contains("AccessDeniedException"), "{}", failed.error);
        let policy: Value = serde_json::from_str(&endpoint.asked()[0]["Policy"]).unwrap();
        let statements = policy["Statement"].as_array().unwrap();
        let (end, others) = statements.split_last().unwrap();
        let time = (ends_by - daypass::issuer::aws::CALL_MARGIN).to_string();
        let condition = serde_json::json!({"DateGreaterThan": {"aws:CurrentTime": time}});
        assert_eq!(*end, serde_json::json!({"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": condition}));
        assert_eq!(others.len(), allows);
        assert!(allows != 1 || others[0] == all_of_ecr, "{others:?}");
    }
}

#[test]
fn variables_of_aws_pass_and_nothing_else_with_braces_does() {
    let of = |resource: &str| {
        let document =
            serde_json::json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": resource}]});
        PolicyTemplate::parse(&document.to_string())
    };
    for good in ["${aws:username}", "a/${aws:PrincipalTag/team, 'none'}/*", "${*}${?}${$}", "${s3:prefix}/{claims.project}", "{tenant}$"] {
        assert!(of(good).is_ok(), "{good}: {:?}", of(good));
    }
    for bad in [
        "${claims.project}",
        "${tenant}",
        "${aws:x/{claims.project}}",
        "${",
        "${aws:x",
        "${}",
        "$${claims.x}",
        "${{claims.x}}",
        "{claims.project",
        "}",
    ] {
        assert!(of(bad).is_err(), "{bad}");
    }
    for (field, value) in
        [("Effect", "{claims.x}"), ("Action", "s3:{claims.x}"), ("NotResource", "{claims.x}"), ("NotAction", "{tenant}"), ("Sid", "{role}")]
    {
        let document = serde_json::json!({"Statement": [{field: value}]}).to_string();
        assert!(matches!(PolicyTemplate::parse(&document), Err(BadPolicyTemplate::Misplaced(_))), "{field}");
    }
}
