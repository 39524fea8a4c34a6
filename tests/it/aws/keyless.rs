//! Without a key of AWS: a JWT of this service, verified by SeaweedFS.

use std::sync::{Arc, Mutex};

use daypass::{
    issuer::{
        TokenSigner,
        aws::{AwsConfig, AwsIdentity, JWT_LIFE},
    },
    model::{
        Timestamp,
        error::{Code, Result},
        role::{AwsMode, AwsRevocation, AwsRole, RoleSpec},
        secret::Secret,
    },
};
use serde_json::{Map, Value, json};

use super::{
    endpoint::{Does, Endpoint},
    world::{deploy, grant, hasty, issuer, keys, lease, mint, session, session_policy, template},
};
use crate::support::parts::{
    boto,
    github::{Issuer, Token},
    seaweed::{Provider, ROLE, SeaweedFs},
};

/// Signs with the key of an issuer that runs beside the test, and remembers what it signed.
pub struct Signer {
    issuer: Issuer,
    spoil: Mutex<Spoil>,
    signed: Mutex<Vec<Map<String, Value>>>,
}

/// What is wrong with a token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spoil {
    Nothing,
    Signature,
    Payload,
}

impl Signer {
    fn start() -> Self {
        Self { issuer: Issuer::start(), spoil: Mutex::new(Spoil::Nothing), signed: Mutex::default() }
    }
}

impl TokenSigner for Signer {
    fn issuer(&self) -> &str {
        self.issuer.url()
    }

    fn sign(&self, claims: Map<String, Value>, _now: Timestamp) -> Result<Secret> {
        self.signed.lock().unwrap().push(claims.clone());
        let token = self.issuer.mint(&Token { claims: Value::Object(claims), ..Token::default() });
        let parts: Vec<&str> = token.split('.').collect();
        let flip = |text: &str| {
            let middle = text.len() / 2;
            let other = if &text[middle..=middle] == "A" { "B" } else { "A" };
            format!("{}{other}{}", &text[..middle], &text[middle + 1..])
        };
        Ok(Secret::new(match *self.spoil.lock().unwrap() {
            Spoil::Nothing => token,
            Spoil::Signature => [parts[0], parts[1], &flip(parts[2])].join("."),
            Spoil::Payload => [parts[0], &flip(parts[1]), parts[2]].join("."),
        }))
    }
}

/// A signer whose tokens are read and not verified.
pub fn signer(issuer: &str) -> Arc<dyn TokenSigner> {
    Arc::new(Unverified(issuer.to_owned()))
}

struct Unverified(String);

impl TokenSigner for Unverified {
    fn issuer(&self) -> &str {
        &self.0
    }

    fn sign(&self, mut claims: Map<String, Value>, _now: Timestamp) -> Result<Secret> {
        claims.insert("iss".to_owned(), json!(self.0));
        let key = jsonwebtoken::EncodingKey::from_secret(b"a test's own");
        Ok(Secret::new(jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()))
    }
}

fn role(audience: &str) -> AwsRole {
    let document = r#"{ "Version": "2012-10-17", "Statement":
        [{ "Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::releases/{claims.project}/*"] }] }"#;
    AwsRole {
        mode: AwsMode::WebIdentity { audience: audience.to_owned(), subject: template("{tenant}/{role}") },
        session_policy: session_policy(document),
        revocation: AwsRevocation::None,
        ..deploy(ROLE)
    }
}

#[tokio::test]
async fn a_verified_token_gives_a_session_and_no_other_does() {
    let signer = Arc::new(Signer::start());
    let jwks = format!("{}/jwks", signer.issuer());
    let provider = Provider { issuer: signer.issuer(), audience: "aws", subject: "jobs/deploy", jwks_url: &jwks };
    let aws = SeaweedFs::start(&provider, "releases", &["a/x", "b/x"]);
    let way = || AwsConfig { endpoint: Some(aws.url().to_owned()), ..AwsConfig::new("main".parse().unwrap(), "us-east-1") };
    let ask = async |signer: Arc<dyn TokenSigner>, audience: &str| {
        let role = role(audience);
        mint(&issuer(way(), &role, Some(&signer)), &grant(RoleSpec::Aws(role), &[("project", "a")]), lease()).await
    };

    let minted = ask(signer.clone(), "aws").await.unwrap_or_else(|failed| panic!("{}", failed.error));
    let keys = keys(&session(minted));
    assert_eq!(boto::read(aws.url(), &keys, "releases", "a/x").unwrap(), "a/x");
    assert_eq!(boto::read(aws.url(), &keys, "releases", "b/x").unwrap_err().code, "AccessDenied");
    assert_eq!(boto::write(aws.url(), &keys, "releases", "a/y", "new").unwrap_err().code, "AccessDenied");

    let wrong = ask(signer.clone(), "another").await.err().expect("another audience");
    assert_eq!((wrong.error.code(), wrong.maybe_made), (Code::IssuerRefused, false), "{}", wrong.error);
    for spoil in [Spoil::Signature, Spoil::Payload] {
        *signer.spoil.lock().unwrap() = spoil;
        let refused = ask(signer.clone(), "aws").await.err().expect("a tampered token");
        assert_eq!((refused.error.code(), refused.maybe_made), (Code::IssuerRefused, false), "{}", refused.error);
    }
    *signer.spoil.lock().unwrap() = Spoil::Nothing;
    assert!(ask(signer.clone(), "aws").await.is_ok(), "it was the token, and nothing else");

    let signed = signer.signed.lock().unwrap();
    assert_ne!(signed[0]["jti"], signed[1]["jti"]);
    for claims in signed.iter() {
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), JWT_LIFE.as_secs());
    }
}

#[tokio::test]
async fn the_token_carries_tags_and_source_identity() {
    let signer = Arc::new(Signer::start());
    let endpoint = Endpoint::start(&[Does::Session(0)]);
    let role = AwsRole {
        revocation: AwsRevocation::SessionTag,
        tags: [("team".to_owned(), template("{claims.team}")), ("project".to_owned(), template("{claims.project}"))].into(),
        transitive_tags: vec!["team".to_owned()],
        source_identity: Some(template("{claims.team}")),
        ..role("aws")
    };
    let as_signer = signer.clone() as Arc<dyn TokenSigner>;
    let issuer = issuer(hasty(&endpoint.url), &role, Some(&as_signer));
    let id = lease();
    mint(&issuer, &grant(RoleSpec::Aws(role), &[("team", "red"), ("project", "a")]), id).await.expect("a session");
    let claims = signer.signed.lock().unwrap().last().unwrap().clone();
    assert_eq!(
        claims["https://aws.amazon.com/tags"],
        json!({
            "principal_tags": {"team": ["red"], "project": ["a"], "daypass:lease": [id.to_string()]},
            "transitive_tag_keys": ["team", "daypass:lease"],
        })
    );
    assert_eq!(claims["https://aws.amazon.com/source_identity"], "red");
    assert_eq!((&claims["aud"], &claims["sub"]), (&json!("aws"), &json!("jobs/deploy")));
    let form = endpoint.last();
    assert_eq!(form["Action"], "AssumeRoleWithWebIdentity");
    assert!(!form.keys().any(|name| name.starts_with("Tags.") || name == "SourceIdentity" || name == "ExternalId"), "{form:?}");
}

#[tokio::test]
async fn the_service_itself_comes_without_a_key() {
    // First its own role by its own token, then the caller's role with what that gave.
    let signer = Arc::new(Signer::start());
    let endpoint = Endpoint::start(&[Does::Session(0)]);
    let own = "arn:aws:iam::123456789012:role/daypass";
    let identity = AwsIdentity::WebIdentity { role_arn: own.to_owned(), audience: "aws".to_owned(), subject: "daypass".to_owned() };
    let role = deploy("arn:aws:iam::123456789012:role/deploy");
    let as_signer = signer.clone() as Arc<dyn TokenSigner>;
    let issuer = issuer(AwsConfig { identity, ..hasty(&endpoint.url) }, &role, Some(&as_signer));
    let grant = grant(RoleSpec::Aws(role), &[]);
    mint(&issuer, &grant, lease()).await.expect("a session");
    mint(&issuer, &grant, lease()).await.expect("a session");
    let asked: Vec<(String, String)> = endpoint.asked().iter().map(|form| (form["Action"].clone(), form["RoleArn"].clone())).collect();
    let pair = |action: &str, arn: &str| (action.to_owned(), arn.to_owned());
    let assume = pair("AssumeRole", "arn:aws:iam::123456789012:role/deploy");
    assert_eq!(asked, [pair("AssumeRoleWithWebIdentity", own), assume.clone(), assume], "its own session is kept");
    let claims = signer.signed.lock().unwrap();
    assert_eq!((claims.len(), &claims[0]["sub"], &claims[0]["aud"]), (1, &json!("daypass"), &json!("aws")));
}
