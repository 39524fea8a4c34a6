//! Without any key of AWS: daypassd signs a JWT for the role, and SeaweedFS verifies it with the keys that daypassd serves.

use serde_json::{Value, json};

use super::{aws::session_of, world::World};
use crate::support::parts::{
    boto,
    seaweed::{Provider, ROLE, SeaweedFs},
};

const BUCKET: &str = "releases";

/// Roles that differ in the audience and in the subject of their JWT: SeaweedFS knows the first one's.
fn config(endpoint: &str) -> String {
    let role = |name: &str, audience: &str, subject: &str| {
        format!(
            r#"
[[role]]
name = "{name}"
shared = true
kind = "aws"
aws = "main"
mode = "web_identity"
role_arn = "{ROLE}"
audience = "{audience}"
subject = "{subject}"
session_policy = """
{{ "Version": "2012-10-17", "Statement": [
  {{ "Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::{BUCKET}/{{tenant}}/*" }} ] }}
"""
revocation = "none"
default_ttl = "15m"
max_ttl = "1h"
max_life = "8h"
"#
        )
    };
    format!(
        "[[aws]]\nname = \"main\"\nregion = \"us-east-1\"\nendpoint = \"{endpoint}\"\npropagation = \"0s\"\n{}{}{}",
        role("keyless", "storage", "tenant:{tenant}"),
        role("elsewhere", "another", "tenant:{tenant}"),
        role("somebody", "storage", "role:{role}"),
    )
}

fn policy() -> String {
    let role = |name: &str| {
        format!(
            "@id(\"operator-{name}\")\npermit(principal is Certificate in Tenant::\"platform\", action == Action::\"issue\", \
             resource == Role::\"{name}\");\n"
        )
    };
    ["keyless", "elsewhere", "somebody"].map(role).concat()
}

/// A daypassd without any key of AWS, and a SeaweedFS that takes the keys of `trusted` for those of its issuer.
fn start(trusted: Option<&World>) -> (World, SeaweedFs) {
    let mut world = World::start();
    let (issuer, own) = (format!("http://127.0.0.1:{}", world.http), format!("http://127.0.0.1:{}/jwks.json", world.http));
    let discovery: Value = serde_json::from_slice(&world.fetch("/.well-known/openid-configuration")).unwrap();
    assert_eq!((&discovery["issuer"], &discovery["jwks_uri"]), (&json!(issuer), &json!(own)));
    let jwks_url = trusted.map_or(own, |other| format!("http://127.0.0.1:{}/jwks.json", other.http));
    let provider = Provider { issuer: &issuer, audience: "storage", subject: "tenant:platform", jwks_url: &jwks_url };
    let aws = SeaweedFs::start(&provider, BUCKET, &["platform/x", "widget/x"]);
    world.stop();
    world.append("daypass.toml", &config(aws.url()));
    let cedar = world.read("policy.cedar") + "\n" + &policy();
    world.write("policy.cedar", &cedar);
    world.start_again();
    (world, aws)
}

/// The exit code, the message, and that nothing is left.
fn refused(world: &World, role: &str) -> String {
    let said = world.cli(&world.operator(), ["issue", role, "-o", "json"]);
    let (code, message) = said.error();
    assert_eq!((said.code, code.as_str()), (4, "ISSUER_REFUSED"), "{message}");
    for state in ["active", "pending", "revoking"] {
        let left = world.cli(&world.operator(), ["lease", "list", "--role", role, "--state", state, "-o", "json"]).json();
        assert_eq!(left, json!([]), "{role} {state}");
    }
    message
}

#[test]
fn a_session_without_a_key_and_refusals_by_name() {
    let (world, aws) = start(None);
    assert!(world.given.env.is_empty(), "no key of AWS is anywhere");
    let answer = world.cli(&world.operator(), ["issue", "keyless", "-o", "json"]).json();
    let (_, keys) = session_of(&answer);
    assert_eq!(answer["lease"]["revocation"]["reach"], "expiry", "{answer}");
    assert_eq!(boto::read(aws.url(), &keys, BUCKET, "platform/x").unwrap(), "platform/x");
    assert_eq!(boto::read(aws.url(), &keys, BUCKET, "widget/x").unwrap_err().code, "AccessDenied");
    assert_eq!(boto::write(aws.url(), &keys, BUCKET, "platform/y", "new").unwrap_err().code, "AccessDenied");

    // SeaweedFS' own names: AWS says InvalidIdentityToken to the first.
    let audience = refused(&world, "elsewhere");
    assert!(audience.contains("AWS refuses sts:AssumeRoleWithWebIdentity: InvalidParameterValue"), "{audience}");
    let subject = refused(&world, "somebody");
    assert!(subject.contains("AWS refuses sts:AssumeRoleWithWebIdentity: AccessDenied"), "{subject}");
    // Neither the JWT nor anything of it is told.
    assert!(!audience.contains("eyJ") && !subject.contains("eyJ") && !world.log().contains("eyJ"));
}

#[test]
fn a_token_by_a_key_that_is_not_published_is_refused() {
    let other = World::start();
    let (world, _aws) = start(Some(&other));
    let message = refused(&world, "keyless");
    assert!(message.contains("AWS refuses sts:AssumeRoleWithWebIdentity: AccessDenied"), "{message}");
}
