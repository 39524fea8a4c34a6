//! An OIDC issuer that mints tokens with GitHub Actions' claims: `tests/tools/github-issuer.mjs` on oauth2-mock-server.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{ChildStdin, ChildStdout, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Process, tool, tools};

/// A running issuer. Its first key is RS256 with the id `k1`.
pub struct Issuer {
    url: String,
    line: Mutex<Line>,
    _process: Process,
}

/// Orders go in and answers come out, one line each.
struct Line {
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What a token says, apart from the claims of a push to `main` of `acme/widget`.
#[derive(Debug, Clone)]
pub struct Token<'a> {
    /// Claims that are added or replaced: a JSON object.
    pub claims: Value,
    /// Claims that are left out.
    pub drop: &'a [&'a str],
    /// Header fields that are added or replaced before it is signed: a JSON object.
    pub header: Value,
    /// The key that signs; none for the newest.
    pub kid: Option<&'a str>,
}

impl Default for Token<'_> {
    fn default() -> Self {
        Self { claims: json!({}), drop: &[], header: json!({}), kid: None }
    }
}

/// How often a verifier came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Requests {
    /// For the discovery document.
    pub discovery: u64,
    /// For the key set.
    pub keys: u64,
}

impl Issuer {
    /// Starts it on a free port of 127.0.0.1.
    pub fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/github-issuer.mjs");
        let mut command = Command::new(tool("node"));
        command.arg(script).arg(tools().join("node")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(&mut command);
        let orders = process.child().stdin.take().expect("its standard input is piped");
        let answers = BufReader::new(process.child().stdout.take().expect("its standard output is piped"));
        let mut line = Line { orders, answers };
        let hello = line.read();
        let url = hello["url"].as_str().expect("it tells its address").to_owned();
        Self { url, line: Mutex::new(line), _process: process }
    }

    /// The issuer's URL, exactly as `iss` has it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A signed token.
    pub fn mint(&self, token: &Token<'_>) -> String {
        let Token { claims, drop, header, kid } = token;
        let answer = self.order(&json!({"op": "mint", "claims": claims, "drop": drop, "header": header, "kid": kid}));
        answer["token"].as_str().expect("it answers with a token").to_owned()
    }

    /// Makes a new key (`RS256`, `ES256`, `EdDSA`, …) that signs from now on, beside the old ones or instead of them; gives the ids
    /// of all.
    pub fn rotate(&self, algorithm: &str, kid: &str, keep_old: bool) -> Vec<String> {
        let answer = self.order(&json!({"op": "rotate", "alg": algorithm, "kid": kid, "keep": keep_old}));
        serde_json::from_value(answer["kids"].clone()).expect("it answers with key ids")
    }

    /// How often verifiers came so far.
    pub fn requests(&self) -> Requests {
        serde_json::from_value(self.order(&json!({"op": "requests"}))).expect("it answers with counts")
    }

    /// Answers every fetch with this HTTP status from now on; none mends it.
    pub fn fail_with(&self, status: Option<u16>) {
        self.order(&json!({"op": "break", "status": status.unwrap_or(0)}));
    }

    fn order(&self, order: &Value) -> Value {
        // A test that panicked while it held the line has failed already.
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(line.orders, "{order}").expect("the issuer runs as long as this value");
        let answer = line.read();
        assert_eq!(answer.get("error"), None, "the issuer refuses {order}");
        answer
    }
}

impl Line {
    fn read(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the issuer's standard output can be read");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("the issuer does not run: see its message above; or run scripts/setup"))
    }
}

#[test]
fn mints_serves_its_keys_and_rotates() {
    let issuer = Issuer::start();
    let get = |path: &str| super::nginx::curl(&[&format!("{}{path}", issuer.url())]);
    let discovery: Value = serde_json::from_slice(&get("/.well-known/openid-configuration").stdout).expect("JSON");
    assert_eq!(discovery["issuer"], issuer.url());
    assert_eq!(discovery["jwks_uri"], format!("{}/jwks", issuer.url()));

    let token =
        issuer.mint(&Token { claims: json!({"aud": "me", "run_id": 7}), drop: &["jti"], header: json!({"typ": "at+jwt"}), kid: None });
    let (header, claims) = (part(&token, 0), part(&token, 1));
    assert_eq!((&header["alg"], &header["kid"], &header["typ"]), (&json!("RS256"), &json!("k1"), &json!("at+jwt")));
    assert_eq!((&claims["iss"], &claims["aud"], &claims["run_id"]), (&json!(issuer.url()), &json!("me"), &json!(7)));
    assert_eq!((claims.get("jti"), &claims["repository_id"]), (None, &json!("74")));

    assert_eq!(issuer.rotate("ES256", "k2", true), ["k1", "k2"]);
    assert_eq!(part(&issuer.mint(&Token::default()), 0)["alg"], "ES256", "the newest key signs");
    assert_eq!(part(&issuer.mint(&Token { kid: Some("k1"), ..Token::default() }), 0)["alg"], "RS256");
    assert_eq!(issuer.rotate("EdDSA", "k3", false), ["k3"]);
    let keys: Value = serde_json::from_slice(&get("/jwks").stdout).expect("JSON");
    assert_eq!(keys["keys"][0]["kid"], "k3");

    assert_eq!(issuer.requests(), Requests { discovery: 1, keys: 1 });
    issuer.fail_with(Some(503));
    assert!(get("/jwks").text().is_empty());
    issuer.fail_with(None);
    assert!(get("/jwks").text().contains("k3"));
}

/// The header (0) or the claims (1) of a token, unverified.
fn part(token: &str, number: usize) -> Value {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let text = token.split('.').nth(number).expect("a JWT has three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).expect("base64url")).expect("JSON")
}
