//! The token endpoint of a GitHub Actions runner, as a job sees it: a URL with a query and a request token in the environment.

use std::{
    path::Path,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use serde_json::json;

use super::{
    Ran,
    github::{Issuer, Token},
    http::{HttpServer, Request},
    run, tool, tools,
};

const REQUEST_TOKEN: &str = "a-request-token-of-this-job";

/// How the runner answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// With a token.
    Normal,
    /// With an HTTP status.
    Fails(u16),
    /// With a token, after a while.
    Slow(Duration),
}

/// A runner whose job may have ID tokens (`permissions: id-token: write`).
#[derive(Debug)]
pub struct Runner {
    server: HttpServer,
    behaviour: Arc<Mutex<Behaviour>>,
}

impl Runner {
    /// Starts one whose tokens come from this issuer.
    pub fn start(issuer: Arc<Issuer>) -> Self {
        let behaviour = Arc::new(Mutex::new(Behaviour::Normal));
        let current = behaviour.clone();
        let server = HttpServer::start(move |request| {
            let behaviour = *current.lock().unwrap_or_else(PoisonError::into_inner);
            if let Behaviour::Slow(pause) = behaviour {
                thread::sleep(pause);
            }
            match behaviour {
                Behaviour::Fails(status) => (status, json!({"message": "the runner fails"})),
                Behaviour::Normal | Behaviour::Slow(_) => answer(&issuer, request),
            }
        });
        Self { server, behaviour }
    }

    /// Changes how it answers from now on.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap_or_else(PoisonError::into_inner) = behaviour;
    }

    /// What the runner puts into its job's environment.
    pub fn environment(&self) -> [(&'static str, String); 3] {
        // GitHub's own URL has a query already.
        let url = format!("{}/runner/id-token?api-version=2.0", self.server.url());
        [("GITHUB_ACTIONS", "true".into()), ("ACTIONS_ID_TOKEN_REQUEST_URL", url), ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", REQUEST_TOKEN.into())]
    }

    /// Asks with GitHub's own client, `getIDToken` of `@actions/core`; the token is the last line.
    pub fn ask_with_actions_core(&self, audience: &str) -> Ran {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/actions-token.mjs");
        run(Command::new(tool("node")).arg(script).arg(tools().join("node")).arg(audience).env_clear().envs(self.environment()))
    }
}

fn answer(issuer: &Issuer, request: &Request) -> (u16, serde_json::Value) {
    if request.url.path() != "/runner/id-token" || request.query("api-version") != ["2.0"] {
        return (404, json!({"message": "no such path"}));
    }
    if request.header("authorization") != Some(&format!("Bearer {REQUEST_TOKEN}")) {
        return (401, json!({"message": "a wrong request token"}));
    }
    // Without an audience, GitHub's is the owner's URL.
    let audience = request.query("audience").pop().unwrap_or_else(|| "https://github.com/acme".into());
    let token = issuer.mint(&Token { claims: json!({"aud": audience}), ..Token::default() });
    (200, json!({"count": token.len(), "value": token}))
}

#[test]
fn githubs_own_client_gets_a_token() {
    use super::nginx::curl;
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

    let issuer = Arc::new(Issuer::start());
    let runner = Runner::start(issuer.clone());
    let ran = runner.ask_with_actions_core("https://daypass.example/a b&c");
    assert!(ran.ok, "{}", ran.all());
    let text = ran.text();
    let token = text.lines().last().expect("a token");
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).expect("a JWT")).expect("base64url");
    let claims: serde_json::Value = serde_json::from_slice(&claims).expect("JSON");
    assert_eq!((&claims["aud"], &claims["iss"]), (&json!("https://daypass.example/a b&c"), &json!(issuer.url())));

    let [_, (_, url), (_, secret)] = runner.environment();
    let (right, wrong) = (format!("Authorization: Bearer {secret}"), "Authorization: Bearer other");
    let status = |header: &str| curl(&["-H", header, "-o", "/dev/null", "-w", "%{http_code}", &url]).text();
    assert_eq!((status(&right), status(wrong)), ("200".into(), "401".into()));
    runner.set_behaviour(Behaviour::Fails(400));
    assert_eq!(status(&right), "400");
    assert!(!runner.ask_with_actions_core("any").ok);
    runner.set_behaviour(Behaviour::Slow(Duration::from_millis(300)));
    let asked = std::time::Instant::now();
    assert_eq!(status(&right), "200");
    assert!(asked.elapsed() >= Duration::from_millis(300));
}
