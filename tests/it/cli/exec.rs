//! `exec`: what the command finds, how it ends, what remains.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::{Run, kinds::lease_id, run, server::Server};
use crate::support::parts::wait_until;

/// How long something may take that takes moments.
pub const SOON: Duration = Duration::from_secs(20);

/// A directory as logind makes it.
pub fn private_dir(path: &Path) {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).unwrap();
}

impl Server {
    /// `exec` with these words before the command, which is a script for sh.
    pub fn exec(&self, words: &str, script: &str) -> Command {
        let mut command = self.daypass(&format!("exec {words} -- sh -c"));
        let runtime = self.runtime_dir();
        private_dir(&runtime);
        command.arg(script).env("PATH", std::env::var_os("PATH").unwrap()).env("XDG_RUNTIME_DIR", runtime).env("OUT", self.pki.dir.path());
        command
    }

    /// Where private directories lie.
    pub fn runtime_dir(&self) -> PathBuf {
        self.pki.path("run")
    }

    /// How many of them there are.
    pub fn private_dirs(&self) -> usize {
        fs::read_dir(self.runtime_dir()).unwrap().count()
    }

    /// A file that the command writes, once it has anything in it.
    pub fn wait_for(&self, name: &str) -> String {
        wait_until(SOON, name, || fs::read_to_string(self.pki.path(name)).ok().filter(|text| text.ends_with('\n')))
    }

    fn sh(&self, words: &str, script: &str) -> Run {
        run(&mut self.exec(words, script))
    }
}

/// What a command did, once it has ended.
pub fn finish(child: Child) -> Run {
    let output = child.wait_with_output().unwrap();
    let code = output.status.code().expect("no signal ends it");
    Run { code, stdout: String::from_utf8(output.stdout).unwrap(), stderr: String::from_utf8(output.stderr).unwrap() }
}

#[test]
fn a_certificate_lies_in_private_files_that_go_with_the_command() {
    let server = Server::new();
    let script = r#"
        ls -ld "$(dirname "$(dirname "$DAYPASS_TLS_CERT")")" | cut -c1-10
        ls -l "$DAYPASS_TLS_KEY" | cut -c1-10
        head -n 1 "$DAYPASS_TLS_CERT" "$DAYPASS_TLS_KEY" "$DAYPASS_TLS_CA" | grep -c BEGIN
        test "$DAYPASS_WEB_TLS_CERT" = "$DAYPASS_TLS_CERT" && echo same
        echo "$DAYPASS_LEASE_ID""#;
    let ran = server.sh("web", script);
    assert_eq!(ran.stdout, format!("drwx------\n-rw-------\n3\nsame\n{}\n", lease_id("web")), "{ran:?}");
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert_eq!(server.seen.revoked(), [lease_id("web")]);
    assert_eq!(server.seen.revoke_reason.lock().unwrap().as_str(), "the command of daypass exec ended");
    assert_eq!(server.private_dirs(), 0);
}

#[test]
fn each_kind_has_its_variables_and_no_secret_is_in_one() {
    let server = Server::new();
    let mut command = server.exec(
        "deploy push federate web --audience federate=demo",
        r#"env; cat "$REGISTRY_AUTH_FILE" "$DAYPASS_JWT_FILE"; test "$DOCKER_CONFIG/config.json" = "$REGISTRY_AUTH_FILE" && echo; echo same; wc -c < "$AWS_CONFIG_FILE""#,
    );
    // What the user has must not win.
    let ran = run(command.env("AWS_ACCESS_KEY_ID", "AKIAUSERS").env("AWS_PROFILE", "users").env("DOCKER_CONFIG", "/users"));
    assert_eq!(ran.code, 0, "{ran:?}");
    let value = |name: &str| ran.stdout.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned);
    assert!(value("AWS_CONTAINER_CREDENTIALS_FULL_URI").unwrap().starts_with("http://127.0.0.1:"));
    assert_eq!(value("AWS_REGION").as_deref(), Some("eu-central-1"));
    assert_eq!(value("DAYPASS_REGISTRY").as_deref(), Some("127.0.0.1:5000"));
    assert_eq!((value("AWS_ACCESS_KEY_ID"), value("AWS_PROFILE")), (None, None));
    assert_eq!(value("DAYPASS_LEASE_ID"), None, "there are four");
    assert_eq!(value("DAYPASS_PUSH_LEASE_ID"), Some(lease_id("push")));
    assert!(ran.stdout.contains("ZGF5cGFzczpzZWNyZXQtY2FuYXJ5LTE=") && ran.stdout.contains("token-canary-1\nsame\n0\n"), "{ran:?}");
    assert!(!ran.stdout.lines().any(|line| line.contains('=') && line.contains("canary") && !line.contains("\"auth\"")), "{ran:?}");
    assert!(server.seen.audience.lock().unwrap().as_deref().is_none_or(|audience| audience == "demo"));
    let mut revoked = server.seen.revoked();
    revoked.sort();
    let mut all = ["web", "deploy", "push", "federate"].map(lease_id);
    all.sort();
    assert_eq!(revoked, all);
}

#[test]
fn secrets_are_variables_when_that_is_wanted() {
    let server = Server::new();
    let ran = server.sh(
        "deploy push federate --env",
        r#"echo "$AWS_SECRET_ACCESS_KEY $DAYPASS_REGISTRY_SECRET $DAYPASS_JWT ${AWS_CONTAINER_CREDENTIALS_FULL_URI-unset}""#,
    );
    assert_eq!(ran.stdout, "secret-canary-1 secret-canary-1 token-canary-1 unset\n", "{ran:?}");
}

#[test]
fn two_roles_of_a_kind_have_their_own_names_only() {
    let server = Server::new();
    let ran = server.sh("deploy deploy-2", r#"echo "${AWS_CONTAINER_CREDENTIALS_FULL_URI-unset} $DAYPASS_DEPLOY_AWS_REGION"; echo "$DAYPASS_DEPLOY_2_AWS_CONTAINER_CREDENTIALS_FULL_URI""#);
    assert!(ran.stdout.starts_with("unset eu-central-1\nhttp://127.0.0.1:") && ran.stdout.ends_with("/deploy-2\n"), "{ran:?}");
}

#[test]
fn the_exit_code_is_the_commands() {
    let server = Server::new();
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -KILL $$", 137), ("kill -TERM $$", 143)] {
        assert_eq!(server.sh("web", script).code, code, "{script}");
    }
    assert_eq!(server.seen.revoked().len(), 5);
}

#[test]
fn a_command_that_cannot_run_is_126_or_127_and_leaves_no_lease() {
    let server = Server::new();
    let missing = run(server.daypass("exec web no-such-command-here").env("PATH", "/usr/bin:/bin"));
    assert!(missing.code == 127 && missing.stderr.contains("no-such-command-here"), "{missing:?}");
    let plain = server.pki.path("ca.pem");
    let plain = run(server.daypass("exec web").arg(plain));
    assert!(plain.code == 126 && plain.stderr.contains("cannot be run"), "{plain:?}");
    assert_eq!(server.seen.revoked(), [lease_id("web"), lease_id("web")]);
}

#[test]
fn what_cannot_be_issued_keeps_the_command_from_starting() {
    let server = Server::new();
    for (role, code) in [("expired", 3), ("denied", 4), ("nosuch", 5), ("No_Such", 5), ("down", 6)] {
        server.seen.revoked.lock().unwrap().clear();
        let ran = server.sh(&format!("web {role}"), r#"touch "$OUT/started""#);
        assert_eq!(ran.code, code, "{role}: {ran:?}");
        assert!(!server.pki.path("started").exists());
        let expected: &[String] = if role == "No_Such" { &[] } else { &[lease_id("web")] };
        assert_eq!(server.seen.revoked(), expected, "{role}");
    }
    let one = server.sh("denied", "true");
    assert_eq!(one.stderr, "daypass: no policy permits it; ask the owner of the role\n");
    assert_eq!(server.private_dirs(), 0);
}

#[test]
fn a_wrong_command_line_asks_for_nothing() {
    let server = Server::new();
    for words in ["web web", "web push --audience x", "web --audience a --audience b"] {
        assert_eq!(server.sh(words, "true").code, 2, "{words}");
    }
    let many: Vec<_> = (0..17).map(|number| format!("r{number}")).collect();
    assert_eq!(server.sh(&many.join(" "), "true").code, 2);
    assert_eq!((server.seen.calls("web"), server.seen.calls("r0")), (0, 0));
}

#[test]
fn the_streams_are_the_commands_own() {
    let server = Server::new();
    let mut command = server.exec("web", "cat; echo beside >&2");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let bytes: Vec<u8> = (0..=255).cycle().take(200_000).collect();
    let mut stdin = child.stdin.take().unwrap();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.stdout == bytes, "{} bytes came back", output.stdout.len());
    assert_eq!(output.stderr, b"beside\n");
}

#[test]
fn a_certificate_is_renewed_in_place_past_its_end() {
    let server = Server::new();
    // Each key that is seen fits its certificate at that moment; the third one outlives the first certificate.
    let script = r#"
        last=; seen=0
        while test $seen -lt 4; do
            now=$(cd "$(dirname "$DAYPASS_TLS_CERT")" && pwd -P && cat tls.key)
            if test "$now" != "$last"; then last=$now; seen=$((seen+1)); fi
            sleep 0.05
        done
        test $(ls -A "$(dirname "$(dirname "$DAYPASS_TLS_CERT")")" | wc -l) -le 3 && echo tidy"#;
    let ran = server.sh("brief-web", script);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "tidy\n", ""));
    assert!(server.seen.calls("renew brief-web") >= 3);
    assert_eq!(server.seen.revoked(), [lease_id("brief-web")]);
}

#[test]
fn files_of_other_kinds_are_renewed_in_place() {
    let server = Server::new();
    let script = r#"
        until grep -q canary-3 "$DAYPASS_JWT_FILE"; do sleep 0.05; done
        until grep -q ZGF5cGFzczpzZWNyZXQtY2FuYXJ5LTM= "$REGISTRY_AUTH_FILE"; do sleep 0.05; done
        ls -A "$DOCKER_CONFIG""#;
    let ran = server.sh("brief-federate brief-push", script);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "config.json\n"), "{ran:?}");
}

#[test]
fn the_endpoint_gives_newer_sessions_as_the_old_ones_end() {
    let server = Server::new();
    let script = r#"
        echo "$AWS_CONTAINER_CREDENTIALS_FULL_URI $AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE" > "$OUT/aws"
        while test ! -e "$OUT/enough"; do sleep 0.05; done"#;
    let child = server.exec("brief-deploy", script).spawn().unwrap();
    let told = server.wait_for("aws");
    let (uri, token_file) = told.trim().split_once(' ').unwrap();
    let token = fs::read_to_string(token_file).unwrap();
    let (status, first) = get(uri, &token);
    assert_eq!((status, &first["AccessKeyId"], &first["Token"]), (200, &"ASIA000000000001".into(), &"session-canary-1".into()));
    wait_until(SOON, "a session of the third generation", || {
        let (status, session) = get(uri, &token);
        assert_eq!(status, 200, "there is a session at any time: {session}");
        (session["AccessKeyId"] == "ASIA000000000003").then_some(())
    });
    assert_eq!(get(uri, "wrong").0, 401);
    fs::write(server.pki.path("enough"), "").unwrap();
    assert_eq!(finish(child).code, 0);
    assert!(TcpStream::connect(uri.trim_start_matches("http://").split('/').next().unwrap()).is_err(), "it ends with the command");
}

#[test]
fn a_renewal_that_fails_is_a_warning_and_is_tried_again_or_not() {
    let server = Server::new();
    let script = r#"until grep -q canary-6 "$DAYPASS_JWT_FILE"; do sleep 0.05; done; exit 5"#;
    let flaky = server.sh("brief-flaky", script);
    assert_eq!(flaky.code, 5);
    assert!(flaky.stderr.contains("warning: role brief-flaky") && flaky.stderr.contains("renewed after all"), "{flaky:?}");
    let notes = server.pki.path("notes");
    let mut last = server.exec("brief-final", r#"while test ! -e "$OUT/enough"; do sleep 0.05; done; exit 6"#);
    let last = last.stderr(fs::File::create(&notes).unwrap()).spawn().unwrap();
    let told = server.wait_for("notes");
    assert!(told.contains("it is not renewed any more") && told.lines().count() == 1, "{told}");
    fs::write(server.pki.path("enough"), "").unwrap();
    assert_eq!((finish(last).code, server.seen.calls("renew brief-final")), (6, 1));
}

#[test]
fn a_lease_that_cannot_be_revoked_is_a_warning() {
    let mut server = Server::new();
    let mut command = server.exec("web", r#"echo > "$OUT/ready"; while test ! -e "$OUT/enough"; do sleep 0.05; done; exit 4"#);
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    server.wait_for("ready");
    server.stop();
    fs::write(server.pki.path("enough"), "").unwrap();
    let ran = finish(child);
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.stderr.contains(&lease_id("web")) && ran.stderr.contains("is not revoked"), "{ran:?}");
    assert_eq!(server.private_dirs(), 0);
}

/// A request as an AWS SDK makes it.
fn get(uri: &str, token: &str) -> (u16, serde_json::Value) {
    let (host, path) = uri.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut tcp = TcpStream::connect(host).unwrap();
    write!(tcp, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {token}\r\n\r\n").unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}
