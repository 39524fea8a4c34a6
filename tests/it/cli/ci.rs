//! The identity that a job has from where it runs.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    Run, run,
    runner::{RUNNER_TOKEN, Runner, http},
    server::Server,
};
use crate::support::parts::{actions, github};

impl Server {
    /// The client with no identity of its own.
    fn job(&self, line: &str) -> Command {
        let mut command = self.daypass(line);
        command.env_remove("DAYPASS_CERT").env_remove("DAYPASS_KEY");
        command
    }

    fn bearer(&self) -> Option<String> {
        self.seen.authorization.lock().unwrap().take()
    }

    /// A program of a CI system, first on the path.
    fn program(&self, name: &str, script: &str) -> String {
        let dir = self.pki.path("bin");
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join(name);
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        format!("{}:/usr/bin:/bin", dir.display())
    }
}

fn quiet_about_secrets(run: &Run) {
    assert!(!format!("{run:?}").contains("canary"), "{run:?}");
}

#[test]
fn a_github_job_is_found_asked_for_and_told() {
    let (server, runner) = (Server::new(), Runner::good());
    let whoami = run(runner.step(&mut server.job("whoami")));
    assert_eq!((whoami.code, whoami.stderr.as_str()), (0, "daypass: identity: GitHub Actions (audience daypass)\n"));
    quiet_about_secrets(&whoami);
    assert_eq!(server.bearer().as_deref(), Some("Bearer canary.id.1"));
    let other = run(runner.step(&mut server.job("whoami -q --token-audience https://vend.example.org/a?b")));
    assert_eq!((other.code, other.stderr.as_str()), (0, ""));
    let requests = runner.requests();
    assert!(requests[0].starts_with("GET /token?api-version=2.0&audience=daypass HTTP/1.1\r\n"), "{requests:?}");
    assert!(requests[1].contains("&audience=https%3A%2F%2Fvend.example.org%2Fa%3Fb HTTP"), "{requests:?}");
    let bearer = format!("authorization: bearer {}", RUNNER_TOKEN.to_ascii_lowercase());
    assert!(requests.iter().all(|head| head.to_ascii_lowercase().lines().any(|line| line == bearer)), "{requests:?}");
}

#[test]
fn it_asks_as_githubs_own_client_does() {
    let (server, issuer) = (Server::new(), Arc::new(github::Issuer::start()));
    let runner = actions::Runner::start(issuer.clone());
    let claims = |token: &str| -> serde_json::Value {
        let payload = URL_SAFE_NO_PAD.decode(token.trim().split('.').nth(1).unwrap()).unwrap();
        serde_json::from_slice(&payload).unwrap()
    };
    let audience = "https://vend.example.org/a?b&c";
    let theirs = runner.ask_with_actions_core(audience);
    assert!(theirs.ok, "{}", theirs.all());
    let theirs = claims(theirs.text().lines().last().unwrap());
    let mut command = server.job("whoami --token-audience");
    let ours = run(command.arg(audience).envs(runner.environment()));
    assert_eq!(ours.code, 0, "{ours:?}");
    let ours = claims(&server.bearer().unwrap());
    for claim in ["iss", "sub", "aud"] {
        assert!(ours[claim].is_string() && ours[claim] == theirs[claim], "{claim}: {ours} {theirs}");
    }
    for (status, code) in [(500, 6), (403, 3), (400, 3)] {
        runner.set_behaviour(actions::Behaviour::Fails(status));
        assert_eq!(run(&mut command).code, code, "{status}");
    }
    runner.set_behaviour(actions::Behaviour::Slow(Duration::from_millis(300)));
    assert_eq!(run(&mut command).code, 0, "{ours}");
}

#[test]
fn it_is_told_in_json_beside_json_and_not_at_all_when_quiet() {
    let (server, runner) = (Server::new(), Runner::good());
    let json = run(runner.step(&mut server.job("whoami -o json")));
    let note: serde_json::Value = serde_json::from_str(json.stderr.trim()).unwrap();
    assert_eq!(note["note"]["message"], "identity: GitHub Actions (audience daypass)");
    assert_eq!(json.json()["tenant"], "acme");
    let quiet = run(runner.step(&mut server.job("whoami -o json")).env("DAYPASS_QUIET", "1"));
    assert_eq!((quiet.code, quiet.stderr.as_str()), (0, ""));
}

#[test]
fn what_is_set_is_used_and_nobody_is_asked() {
    let (server, runner) = (Server::new(), Runner::good());
    let by_token = run(runner.step(&mut server.job("whoami")).env("DAYPASS_TOKEN", "mine.own.token"));
    assert_eq!((by_token.code, by_token.stderr.as_str(), server.bearer().as_deref()), (0, "", Some("Bearer mine.own.token")));
    let mut by_certificate = server.daypass("whoami");
    runner.step(&mut by_certificate);
    by_certificate.env("DAYPASS_CERT", server.pki.path("client.pem")).env("DAYPASS_KEY", server.pki.path("client.key"));
    let by_certificate = run(&mut by_certificate);
    assert_eq!((by_certificate.code, by_certificate.stderr.as_str(), server.bearer()), (0, "", None));
    let none = run(runner.step(&mut server.job("issue anonymous --identity none")));
    assert_eq!(none.code, 3, "{none:?}");
    assert!(runner.requests().is_empty());
    // Asked for by name it stands beside a certificate.
    let both = run(runner.step(&mut server.daypass("whoami --identity github")));
    assert_eq!((both.code, server.bearer().as_deref()), (0, Some("Bearer canary.id.1")));
}

#[test]
fn a_failing_endpoint_has_its_exit_code_and_says_what_to_do() {
    let server = Server::new();
    let cases: [(&str, String, i32, &str, usize); 7] = [
        ("403 Forbidden", String::new(), 3, "permissions: id-token: write", 1),
        ("404 Not Found", String::new(), 3, "status 404", 1),
        ("200 OK", "{\"value\":\"\"}".to_owned(), 3, "holds no token", 1),
        ("200 OK", "<html>".to_owned(), 3, "holds no token", 1),
        ("200 OK", format!("{{\"value\":\"{}\"}}", "canary".repeat(20_000)), 3, "longer than", 1),
        ("503 Service Unavailable", String::new(), 6, "try again", 3),
        ("429 Too Many Requests", String::new(), 6, "status 429", 3),
    ];
    for (status, body, code, text, asked) in cases {
        let answer = http(status, &body);
        let runner = Runner::new(move |_| Some(answer.clone()));
        let run = run(runner.step(&mut server.job("issue web -q -o json")));
        let (reason, message) = run.error();
        let expected = if code == 3 { "NO_IDENTITY" } else { "IDENTITY_UNAVAILABLE" };
        assert_eq!((run.code, reason.as_str(), run.stdout.as_str()), (code, expected, ""), "{status}: {run:?}");
        assert!(message.contains(text), "{message}");
        assert_eq!(runner.requests().len(), asked, "{status}");
        quiet_about_secrets(&run);
    }
    assert_eq!(server.seen.calls("web"), 0);
}

#[test]
fn an_endpoint_that_recovers_is_asked_again() {
    let server = Server::new();
    let runner = Runner::new(|number| {
        Some(if number < 3 { http("500 Internal Server Error", "") } else { http("200 OK", "{\"value\":\"canary.id.3\"}") })
    });
    assert_eq!(run(runner.step(&mut server.job("whoami"))).code, 0);
    assert_eq!(server.bearer().as_deref(), Some("Bearer canary.id.3"));
}

#[test]
fn a_redirect_is_not_followed() {
    let (server, elsewhere) = (Server::new(), Runner::good());
    let port = elsewhere.port;
    let runner = Runner::new(move |_| {
        Some(format!("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{port}/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
    });
    let run = run(runner.step(&mut server.job("whoami -q")));
    assert!(run.code == 3 && run.stderr.contains("redirects"), "{run:?}");
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn an_endpoint_that_is_silent_or_away_is_given_up_in_time() {
    let server = Server::new();
    let silent = Runner::new(|_| None);
    let began = Instant::now();
    let run_silent = run(silent.step(&mut server.job("whoami -q -o json --timeout 700ms")));
    assert_eq!((run_silent.code, run_silent.error().0.as_str()), (6, "DEADLINE_EXCEEDED"), "{run_silent:?}");
    assert!(began.elapsed() < Duration::from_secs(20) && run_silent.error().1.contains("identity"), "{run_silent:?}");
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = server.job("whoami -q");
    let away = run(silent.step(&mut command).env("ACTIONS_ID_TOKEN_REQUEST_URL", format!("http://127.0.0.1:{gone}/?a=b")));
    assert!(away.code == 6 && away.stderr.contains("cannot be reached"), "{away:?}");
    let odd = run(command.env("ACTIONS_ID_TOKEN_REQUEST_URL", "file:///etc/passwd"));
    assert!(odd.code == 3 && odd.stderr.contains("ACTIONS_ID_TOKEN_REQUEST_URL"), "{odd:?}");
    let forbidden = run(server.job("whoami").env("GITHUB_ACTIONS", "true"));
    assert!(forbidden.code == 3 && forbidden.stderr.contains("permissions: id-token: write"), "{forbidden:?}");
}

#[test]
fn a_gitlab_job_gives_its_token_by_a_variable() {
    let server = Server::new();
    let mut command = server.job("whoami");
    command.env("GITLAB_CI", "true");
    let without = run(&mut command);
    assert!(without.code == 3 && without.stderr.contains("id_tokens:"), "{without:?}");
    let with = run(command.env("DAYPASS_ID_TOKEN", "canary.git.lab"));
    assert_eq!((with.code, with.stderr.as_str()), (0, "daypass: identity: GitLab CI (DAYPASS_ID_TOKEN)\n"));
    assert_eq!(server.bearer().as_deref(), Some("Bearer canary.git.lab"));
}

#[test]
fn a_buildkite_job_asks_its_agent() {
    let server = Server::new();
    let path = server.program("buildkite-agent", "echo \"$*\" > \"$0.args\"; echo canary.build.kite");
    let mut command = server.job("whoami --token-audience vend");
    let found = run(command.env("BUILDKITE", "true").env("PATH", path));
    assert_eq!((found.code, found.stderr.as_str()), (0, "daypass: identity: Buildkite (audience vend)\n"));
    assert_eq!(server.bearer().as_deref(), Some("Bearer canary.build.kite"));
    let words = fs::read_to_string(server.pki.path("bin/buildkite-agent.args")).unwrap();
    assert_eq!(words, "oidc request-token --audience vend\n");
    let path = server.program("buildkite-agent", "echo 'oidc is not enabled' >&2; exit 1");
    let refused = run(command.env("PATH", path));
    assert!(refused.code == 3 && refused.stderr.contains("oidc is not enabled"), "{refused:?}");
    let absent = run(command.env("PATH", "/nonexistent"));
    assert!(absent.code == 3 && absent.stderr.contains("not on PATH"), "{absent:?}");
}

#[test]
fn a_circleci_job_asks_for_the_audience_and_does_not_send_the_default_token() {
    let server = Server::new();
    let path = server.program("circleci", "printf '%s|' \"$@\" > \"$0.args\"; echo canary.circle.ci");
    let mut command = server.job("whoami");
    // Its payload: {"aud":"org-id"}.
    let found = run(command.env("CIRCLECI", "true").env("PATH", path).env("CIRCLE_OIDC_TOKEN_V2", "e30.eyJhdWQiOiJvcmctaWQifQ.x"));
    assert_eq!((found.code, found.stderr.as_str()), (0, "daypass: identity: CircleCI (audience daypass)\n"));
    assert_eq!(server.bearer().as_deref(), Some("Bearer canary.circle.ci"));
    let words = fs::read_to_string(server.pki.path("bin/circleci.args")).unwrap();
    assert_eq!(words, "run|oidc|get|--claims|{\"aud\":\"daypass\"}|");
    let given = run(command.env("DAYPASS_AUDIENCE", "org-id"));
    assert!(given.stderr.contains("CIRCLE_OIDC_TOKEN_V2"), "{given:?}");
    assert_eq!(server.bearer().as_deref(), Some("Bearer e30.eyJhdWQiOiJvcmctaWQifQ.x"));
}

#[test]
fn a_pod_gives_its_projected_token_and_never_the_default_one() {
    let server = Server::new();
    let mut command = server.job("whoami");
    command.env("KUBERNETES_SERVICE_HOST", "10.96.0.1");
    let without = run(&mut command);
    assert!(without.code == 3 && without.stderr.contains("serviceAccountToken"), "{without:?}");
    let file = server.pki.path("projected");
    fs::write(&file, "canary.pro.jected").unwrap();
    let with = run(command.env("DAYPASS_KUBERNETES_TOKEN_FILE", &file));
    assert_eq!((with.code, with.stderr), (0, format!("daypass: identity: Kubernetes ({})\n", file.display())));
    assert_eq!(server.bearer().as_deref(), Some("Bearer canary.pro.jected"));
}

#[test]
fn each_lease_is_asked_for_with_a_token_of_its_own() {
    let (server, runner) = (Server::new(), Runner::good());
    for (audience, number) in [("a", 1), ("b", 2)] {
        let mut command = server.job(&format!("aws-credential-process aws-900 --token-audience {audience}"));
        let run = run(runner.step(&mut command).env("DAYPASS_CACHE_DIR", server.pki.path("cache")));
        assert!(run.code == 0 && run.stderr.contains("identity: GitHub Actions"), "{run:?}");
        assert_eq!(server.bearer().unwrap(), format!("Bearer canary.id.{number}"));
    }
    let mut command = server.job("aws-credential-process aws-900 --token-audience a");
    let cached = run(runner.step(&mut command).env("DAYPASS_CACHE_DIR", server.pki.path("cache")));
    assert_eq!((cached.code, cached.stderr.as_str(), runner.requests().len()), (0, "", 2), "what is cached asks nobody");
}
