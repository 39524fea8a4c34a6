//! SeaweedFS: STS and S3 that verify the JWT of a web identity, which [`super::ministack`] does not.
//!
//! It fetches the keys with the first token, and again for a `kid` that it does not know; it wants a `kid`. RS256 and ES256 both do.
//! `iss` and `aud` (text or list) must match, `sub` must be there, `exp` counts without leeway. Session policies, session names and
//! the bounds of `DurationSeconds` are enforced. Tags in the token are dropped, and no session can be revoked: for these there is
//! [`super::ministack`].

use std::{fs, net::TcpListener, path::Path, process::Command};

use serde_json::{Value, json};

use super::{
    START_TIMEOUT,
    boto::{self, Keys, Refusal},
    server::{Server, http_status},
    tool, wait_until,
};

/// The role to assume; it may do all in all buckets.
pub const ROLE: &str = "arn:aws:iam::000000000000:role/job";

/// Whose tokens let a caller assume [`ROLE`].
#[derive(Debug, Clone, Copy)]
pub struct Provider<'a> {
    /// `iss`.
    pub issuer: &'a str,
    /// `aud`.
    pub audience: &'a str,
    /// `sub`.
    pub subject: &'a str,
    /// Where the keys are. Nothing need answer there before the first token comes.
    pub jwks_url: &'a str,
}

/// A running SeaweedFS.
#[derive(Debug)]
pub struct SeaweedFs {
    url: String,
    _server: Server,
}

impl SeaweedFs {
    /// Starts it, with one bucket that has these objects, each of which holds its own key; a second or two.
    pub fn start(provider: &Provider<'_>, bucket: &str, keys: &[&str]) -> Self {
        let server = Server::start(
            "SeaweedFS",
            |port, folder| {
                write(&folder.join("iam.json"), &identities(provider));
                write(&folder.join("s3.json"), &administrator());
                weed(port, folder)
            },
            |port| http_status(port, "/status") == Some(200),
        );
        let url = format!("http://127.0.0.1:{}", server.port());
        // S3 answers before its volumes do.
        let fill = |method: &str, arguments: &Value| {
            wait_until(START_TIMEOUT, "SeaweedFS stores", || boto::call(&url, Some(&admin()), "s3", method, arguments).ok());
        };
        fill("create_bucket", &json!({"Bucket": bucket}));
        keys.iter().for_each(|key| fill("put_object", &json!({"Bucket": bucket, "Key": key, "Body": key})));
        Self { url, _server: server }
    }

    /// The endpoint of STS and S3 (`AWS_ENDPOINT_URL`).
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Assumes [`ROLE`] by a token; `more` are further arguments, as in boto3.
    pub fn assume(&self, token: &str, session_name: &str, more: &Value) -> Result<Keys, Refusal> {
        let mut arguments = json!({"RoleArn": ROLE, "RoleSessionName": session_name, "WebIdentityToken": token});
        let more = more.as_object().expect("further arguments are an object").clone();
        arguments.as_object_mut().expect("it is an object").extend(more);
        Ok(Keys::of(&boto::call(&self.url, None, "sts", "assume_role_with_web_identity", &arguments)?["Credentials"]))
    }
}

fn weed(port: u16, folder: &Path) -> Command {
    let mut command = Command::new(tool("weed"));
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", folder).env("TMPDIR", folder);
    command.args(["mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-dir=data"]);
    command.args(["-s3.config=s3.json", "-s3.iam.config=iam.json", "-s3.localSocket=s3.sock", "-filer.localSocket=filer.sock"]);
    // What it would serve besides, on fixed ports, and tell its makers.
    command.args(["-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]);
    fs::create_dir_all(folder.join("data")).expect("the test's folder can be written");
    // All held at once, so that no two are the same.
    let parts = ["master.port", "master.port.grpc", "filer.port", "filer.port.grpc", "volume.port", "volume.port.grpc", "s3.port.grpc"];
    let parts = parts.into_iter().chain(["admin.port", "admin.port.grpc"]);
    let held = parts.map(|part| (part, TcpListener::bind("127.0.0.1:0").expect("the loopback interface has free ports")));
    for (part, listener) in held.collect::<Vec<_>>() {
        command.arg(format!("-{part}={}", listener.local_addr().expect("a bound listener has an address").port()));
    }
    command.arg(format!("-s3.port={port}"));
    command
}

fn identities(provider: &Provider<'_>) -> Value {
    let statement = json!({
        "Effect": "Allow", "Principal": {"Federated": "daypass"}, "Action": ["sts:AssumeRoleWithWebIdentity"],
        "Condition": {"StringEquals": {"oidc:sub": provider.subject}},
    });
    let everything = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:*"], "Resource": ["*"]}]});
    json!({
        "sts": {
            "tokenDuration": "1h", "maxSessionLength": "12h", "issuer": "seaweedfs",
            "signingKey": "bm90IGEgc2VjcmV0OiBhIHRlc3QncyBvd24ga2V5",
        },
        "providers": [{
            "name": "daypass", "type": "oidc", "enabled": true,
            "config": {"issuer": provider.issuer, "clientId": provider.audience, "jwksUri": provider.jwks_url},
        }],
        "policy": {"defaultEffect": "Deny"},
        "roles": [{
            "roleName": "job", "roleArn": "arn:aws:iam::role/job", "attachedPolicies": ["everything"],
            "trustPolicy": {"Version": "2012-10-17", "Statement": [statement]},
        }],
        "policies": [{"name": "everything", "document": everything}],
    })
}

fn admin() -> Keys {
    Keys { id: "administrator".into(), secret: "a test's own".into(), token: None }
}

fn administrator() -> Value {
    let Keys { id, secret, .. } = admin();
    let actions = ["Admin", "Read", "Write", "List", "Tagging"];
    json!({"identities": [{"name": id, "credentials": [{"accessKey": id, "secretKey": secret}], "actions": actions}]})
}

fn write(path: &Path, content: &Value) {
    fs::write(path, content.to_string()).expect("the test's folder can be written");
}

#[test]
fn a_token_is_verified_and_a_session_policy_holds() {
    use super::github::{Issuer, Token};

    let issuer = Issuer::start();
    let keys = format!("{}/jwks", issuer.url());
    let provider = Provider { issuer: issuer.url(), audience: "aws", subject: "deploy", jwks_url: &keys };
    let aws = SeaweedFs::start(&provider, "releases", &["a/x", "b/x"]);
    assert_eq!(issuer.requests().keys, 0, "the keys are fetched with the first token");
    let mint = |claims: &Value| issuer.mint(&Token { claims: claims.clone(), ..Token::default() });
    let good = json!({"aud": "aws", "sub": "deploy"});

    let narrow = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::releases/a/*"]},
    ]});
    let session = aws.assume(&mint(&good), "lease-1", &json!({"Policy": narrow.to_string()})).expect("a session");
    assert_eq!(boto::read(aws.url(), &session, "releases", "a/x").expect("it may"), "a/x");
    assert_eq!(boto::read(aws.url(), &session, "releases", "b/x").expect_err("it may not").code, "AccessDenied");
    assert!(boto::write(aws.url(), &session, "releases", "a/y", "new").is_err());

    let refused = |token: &str| aws.assume(token, "lease-1", &json!({})).expect_err("it is refused").code;
    let (head, signature) = mint(&good).rsplit_once('.').map(|(head, tail)| (head.to_owned(), tail.to_owned())).expect("a JWT");
    let tampered: String = signature.chars().rev().collect();
    assert_eq!(refused(&format!("{head}.{tampered}")), "InvalidParameterValue");
    assert_eq!(refused(&mint(&json!({"aud": "other", "sub": "deploy"}))), "InvalidParameterValue");
    assert_eq!(refused(&mint(&json!({"aud": "aws", "sub": "other"}))), "AccessDenied");
    assert_eq!(refused(&mint(&json!({"aud": "aws", "sub": "deploy", "exp": 1_000_000_000}))), "ExpiredTokenException");

    // A new key, of the other kind, is found at once.
    issuer.rotate("ES256", "k2", true);
    aws.assume(&mint(&good), "lease-2", &json!({})).expect("a session");
}
