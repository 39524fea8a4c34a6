//! The real `daypass` binary against a server that speaks the contract over real TLS.

mod pki;
mod server;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    process::{Command, Output, Stdio},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use serde_json::Value;
use x509_parser::prelude::{FromDer, X509Certificate};

use self::server::{After, FORBIDDEN, GOOD, LEASES, Server, UNKNOWN};

impl Server {
    /// The client as the good caller.
    fn daypass(&self, line: &str) -> Command {
        let mut command = bare(line);
        command
            .env("DAYPASS_ADDR", format!("127.0.0.1:{}", self.port))
            .env("DAYPASS_CA", self.pki.path("ca.pem"))
            .env("DAYPASS_CERT", self.pki.path("client.pem"))
            .env("DAYPASS_KEY", self.pki.path("client.key"));
        command
    }

    fn run(&self, line: &str) -> Run {
        run(&mut self.daypass(line))
    }
}

/// The client with nothing in its environment.
fn bare(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_daypass"));
    command.env_clear().args(line.split_whitespace()).stdin(Stdio::null());
    command
}

#[derive(Debug)]
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Run {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The one line of an error, in JSON.
    fn error(&self) -> (String, String) {
        let lines: Vec<_> = self.stderr.lines().collect();
        let [line] = lines.as_slice() else { panic!("one line is due: {self:?}") };
        let json: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        let text = |name: &str| json["error"][name].as_str().unwrap().to_owned();
        (text("code"), text("message"))
    }
}

fn run(command: &mut Command) -> Run {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let code = status.code().expect("no signal ends it");
    Run { code, stdout: String::from_utf8(stdout).unwrap(), stderr: String::from_utf8(stderr).unwrap() }
}

#[test]
fn each_kind_of_error_has_its_exit_code_and_its_reason() {
    let server = Server::new();
    let too_long = "x".repeat(64);
    for (role, code, reason) in [
        ("expired", 3, "TOKEN_EXPIRED"),
        ("anonymous", 3, "UNAUTHENTICATED"),
        ("denied", 4, "DENIED"),
        ("nosuch", 5, "ROLE_NOT_FOUND"),
        ("No_Such", 5, "ROLE_NOT_FOUND"),
        (too_long.as_str(), 5, "ROLE_NOT_FOUND"),
        ("down", 6, "STORE_UNAVAILABLE"),
        ("too-long", 1, "INVALID_REQUEST"),
        ("hostile", 1, "INTERNAL"),
        ("wrong-key", 1, "WRONG_KEY"),
    ] {
        let text = server.run(&format!("issue {role}"));
        assert_eq!(text.code, code, "{role}: {text:?}");
        assert!(text.stdout.is_empty() && text.stderr.starts_with("daypass: ") && text.stderr.lines().count() == 1, "{text:?}");
        let json = server.run(&format!("issue {role} -o json"));
        assert_eq!((json.code, json.error().0.as_str()), (code, reason), "{role}: {json:?}");
        assert!(json.stdout.is_empty());
    }
}

#[test]
fn a_servers_text_cannot_drive_the_terminal() {
    let run = Server::new().run("issue hostile");
    assert_eq!(run.stderr, "daypass: a\u{fffd}[2J b\u{fffd}c\n");
}

#[test]
fn whoami_and_explain_tell() {
    let server = Server::new();
    let who = server.run("whoami -o json").json();
    assert_eq!(who["subject"], "spiffe://example.org/operator");
    assert_eq!(who["expires_at"], "2027-01-15T08:15:00Z");
    assert_eq!(who["claims"]["repository_id"], "42");
    assert_eq!(who["roles"], serde_json::json!(["vendor-client", "web"]));
    let text = server.run("whoami");
    assert!(text.code == 0 && text.stdout.contains("vendor-client, web") && text.stderr.is_empty(), "{text:?}");
    let denied = server.run("explain other -o json");
    assert_eq!((denied.code, &denied.json()["allowed"], &denied.json()["reason"]), (0, &false.into(), &"DENIED".into()));
    let text = server.run("explain other");
    assert!(text.stdout.contains("permit web (line 7)") && text.stdout.contains("[ref]"), "{text:?}");
}

#[test]
fn issue_writes_a_key_that_fits_its_certificate() {
    let server = Server::new();
    let dir = server.pki.path("new/tls");
    let run = server.run(&format!("issue web --ttl 15m --out {} -o json", dir.display()));
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{run:?}");
    let json = run.json();
    assert_eq!(json["lease"]["state"], "active");
    assert_eq!(json["lease"]["revocation"]["reach"], "crl");
    let credential = &json["credential"];
    assert_eq!(credential["serial"], "a1b2c3");
    assert_eq!(credential["not_after"], "2027-01-15T08:15:00Z");
    assert_eq!(credential["certificate_file"], dir.join("tls.crt").to_str().unwrap());
    assert_eq!(credential["private_key_file"], dir.join("tls.key").to_str().unwrap());
    assert_eq!(credential["ca_file"], dir.join("ca.crt").to_str().unwrap());
    assert!(credential.get("private_key").is_none());
    assert_eq!(credential["certificate"], fs::read_to_string(dir.join("tls.crt")).unwrap());
    assert_eq!(credential["ca"], fs::read_to_string(dir.join("ca.crt")).unwrap());
    let mode = |name: &str| fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("tls.key")), (0o700, 0o600));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 3);
    assert_fits(credential["certificate"].as_str().unwrap(), &fs::read_to_string(dir.join("tls.key")).unwrap());
}

fn assert_fits(certificate_pem: &str, key_pem: &str) {
    use rcgen::PublicKeyData;
    use rustls_pki_types::{CertificateDer, pem::PemObject};
    let leaf = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).unwrap();
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    let key = rcgen::KeyPair::from_pem(key_pem).unwrap();
    assert_eq!(leaf.public_key().raw, key.subject_public_key_info());
}

#[test]
fn issue_without_a_directory_prints_everything() {
    let server = Server::new();
    let json = server.run("issue web -o json").json();
    let credential = &json["credential"];
    assert_fits(credential["certificate"].as_str().unwrap(), credential["private_key"].as_str().unwrap());
    assert!(credential.get("certificate_file").is_none());
    let text = server.run("issue web");
    let begins: Vec<_> = text.stdout.lines().filter(|line| line.starts_with("-----BEGIN")).collect();
    let certificate = "-----BEGIN CERTIFICATE-----";
    assert_eq!(begins, ["-----BEGIN PRIVATE KEY-----", certificate, certificate, certificate]);
    assert!(text.stderr.contains("lease       0192f0c1") && !text.stderr.contains("BEGIN"), "{text:?}");
    assert_fits(&text.stdout, &text.stdout[..text.stdout.find(certificate).unwrap()]);
}

#[test]
fn issue_with_a_csr_makes_no_key() {
    let server = Server::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    let (pem, der) = (server.pki.path("mine.csr"), server.pki.path("mine.der"));
    fs::write(&pem, csr.pem().unwrap()).unwrap();
    fs::write(&der, csr.der()).unwrap();
    let out = server.pki.path("out");
    let json = server.run(&format!("issue web --csr {} --out {} -o json", pem.display(), out.display())).json();
    assert!(json["credential"].get("private_key_file").is_none());
    assert_fits(json["credential"]["certificate"].as_str().unwrap(), &key.serialize_pem());
    assert!(out.join("tls.crt").exists() && !out.join("tls.key").exists());
    let json = server.run(&format!("issue web --csr {} -o json", der.display())).json();
    assert!(json["credential"].get("private_key").is_none());
    let wrong = server.run(&format!("issue web --csr {}", server.pki.path("ca.pem").display()));
    assert!(wrong.code == 2 && wrong.stderr.contains("no certificate request"), "{wrong:?}");
    let missing = server.run("issue web --csr /nonexistent.csr");
    assert!(missing.code == 2 && missing.stderr.contains("/nonexistent.csr"), "{missing:?}");
}

#[test]
fn a_shell_can_eval_the_env_form() {
    let server = Server::new();
    let out = server.pki.path("it's here");
    let printed = run(server.daypass("issue web -o env --out").arg(&out));
    let script = format!(
        "{}\nprintf '%s|%s|%s|%s' \"$DAYPASS_LEASE_ID\" \"$DAYPASS_TLS_CERT\" \"$DAYPASS_TLS_KEY\" \"$DAYPASS_TLS_CA\"",
        printed.stdout
    );
    let shell = Command::new("sh").arg("-c").arg(script).output().unwrap();
    let path = |name: &str| out.join(name).to_str().unwrap().to_owned();
    let expected = format!("{GOOD}|{}|{}|{}", path("tls.crt"), path("tls.key"), path("ca.crt"));
    assert_eq!(String::from_utf8(shell.stdout).unwrap(), expected);
    let without = server.run("issue web -o env");
    assert!(without.code == 2 && without.stderr.contains("--out"), "{without:?}");
    assert_eq!(server.seen.calls("web"), 1, "a usage error costs no lease");
}

#[test]
fn what_fails_leaves_the_old_files() {
    let server = Server::new();
    let out = server.pki.path("out");
    assert_eq!(server.run(&format!("issue web --out {}", out.display())).code, 0);
    let before = fs::read(out.join("tls.key")).unwrap();
    for role in ["denied", "wrong-key"] {
        assert_ne!(server.run(&format!("issue {role} --out {}", out.display())).code, 0);
    }
    assert_eq!(fs::read(out.join("tls.key")).unwrap(), before);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 3);
    fs::remove_file(out.join("tls.key")).unwrap();
    std::os::unix::fs::symlink("/dev/null", out.join("tls.key")).unwrap();
    let linked = server.run(&format!("issue web --out {}", out.display()));
    assert!(linked.code == 2 && linked.stderr.contains("symbolic link"), "{linked:?}");
    assert_eq!(server.seen.calls("web"), 1, "what cannot be written is not asked for");
}

#[test]
fn only_unavailable_is_tried_again_with_the_same_request_id() {
    let server = Server::new();
    let flaky = server.run("issue flaky -o json");
    assert_eq!((flaky.code, server.seen.calls("flaky")), (0, 3), "{flaky:?}");
    let ids = std::mem::take(&mut *server.seen.request_ids.lock().unwrap());
    assert!(ids.len() == 3 && ids[0].len() == 36 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!((server.run("issue down").code, server.seen.calls("down")), (6, 3));
    assert_eq!((server.run("issue denied").code, server.seen.calls("denied")), (4, 1));
    server.seen.request_ids.lock().unwrap().clear();
    server.run("issue web --request-id job-7");
    server.run("issue web");
    let ids = server.seen.request_ids.lock().unwrap();
    assert!(ids[0] == "job-7" && ids[1].len() == 36, "{ids:?}");
}

#[test]
fn a_slow_server_is_given_up_in_time() {
    let server = Server::new();
    let began = Instant::now();
    let run = server.run("issue slow --timeout 700ms -o json");
    let (code, message) = run.error();
    assert_eq!((run.code, code.as_str()), (6, "DEADLINE_EXCEEDED"));
    assert!(message.contains("within 700ms") && message.contains("--timeout"), "{message}");
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(server.seen.calls("slow"), 1, "what timed out is not tried again");
    assert!(server.seen.grpc_timeout.lock().unwrap().is_some(), "the server knows when to stop");
}

#[test]
fn a_server_that_does_not_shake_hands_is_given_up_in_time() {
    let server = Server::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = silent.local_addr().unwrap().to_string();
    let run = run(server.daypass("whoami --timeout 500ms -o json").args(["--addr", &addr]));
    assert_eq!((run.code, run.error().0.as_str()), (6, "DEADLINE_EXCEEDED"), "{run:?}");
    assert!(run.error().1.contains(&addr));
}

#[test]
fn nothing_that_listens_is_unavailable() {
    let server = Server::new();
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let run = run(server.daypass("whoami").args(["--addr", &addr]));
    assert_eq!(run.code, 6, "{run:?}");
    assert!(run.stderr.contains(&format!("nothing listens at {addr}")) && run.stderr.contains("DAYPASS_ADDR"), "{run:?}");
}

#[test]
fn a_server_that_hangs_up_is_unavailable_after_three_tries() {
    let server = Server::with("127.0.0.1", 2090, After::HangUp);
    let run = server.run("whoami -o json");
    assert_eq!((run.code, run.error().0.as_str()), (6, "UNAVAILABLE"), "{run:?}");
    assert_eq!(server.seen.connections.load(Ordering::SeqCst), 3);
}

#[test]
fn a_port_that_speaks_something_else_is_told() {
    let server = Server::new();
    let http = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = http.local_addr().unwrap().to_string();
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = http.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        // Until the client has gone.
        let _ = stream.read(&mut [0; 1024]);
    });
    let run = run(server.daypass("whoami").args(["--addr", &addr]));
    assert!(run.code == 1 && run.stderr.contains("does not speak TLS"), "{run:?}");
    answers.join().unwrap();
}

#[test]
fn a_server_that_is_not_trusted_is_told_and_not_tried_again() {
    let (server, other) = (Server::new(), Server::new());
    let run = run(server.daypass("whoami -o json").env("DAYPASS_CA", other.pki.path("ca.pem")));
    let (code, message) = run.error();
    assert_eq!((run.code, code.as_str()), (1, "SERVER_NOT_TRUSTED"), "{run:?}");
    assert!(message.contains("DAYPASS_CA"), "{message}");
    assert_eq!(server.seen.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn a_servers_wrong_name_and_old_certificate_are_told() {
    let named = Server::with("vend.example.org", 2090, After::Serve).run("whoami");
    assert!(named.code == 1 && named.stderr.contains("not for the name 127.0.0.1"), "{named:?}");
    let old = Server::with("127.0.0.1", 2021, After::Serve).run("whoami");
    assert!(old.code == 1 && old.stderr.contains("expired at 2021-12-31") && old.stderr.contains("clock"), "{old:?}");
}

#[test]
fn without_a_ca_the_systems_are_trusted() {
    let server = Server::new();
    let mut command = server.daypass("whoami");
    let trusted = run(command.env_remove("DAYPASS_CA").env("SSL_CERT_FILE", server.pki.path("ca.pem")));
    assert_eq!(trusted.code, 0, "{trusted:?}");
    let other = Server::new();
    let refused = run(command.env("SSL_CERT_FILE", other.pki.path("ca.pem")));
    assert!(refused.code == 1 && refused.stderr.contains("this system"), "{refused:?}");
}

#[test]
fn a_revoked_client_is_not_authenticated() {
    let server = Server::new();
    // The alert races with the client's first bytes: it must be seen every time.
    for _ in 0..10 {
        let mut command = server.daypass("whoami -o json");
        let run = run(command.env("DAYPASS_CERT", server.pki.path("revoked.pem")).env("DAYPASS_KEY", server.pki.path("revoked.key")));
        assert_eq!((run.code, run.error().0.as_str()), (3, "CERTIFICATE_REVOKED"), "{run:?}");
    }
    assert_eq!(server.seen.calls("whoami"), 0);
    assert_eq!(server.seen.connections.load(Ordering::SeqCst), 10, "a refusal is not tried again");
}

#[test]
fn who_says_nothing_is_told_how_to() {
    let server = Server::new();
    let mut command = server.daypass("issue anonymous");
    let run = run(command.env_remove("DAYPASS_CERT").env_remove("DAYPASS_KEY"));
    assert!(run.code == 3 && run.stderr.contains("who are you?; set DAYPASS_CERT"), "{run:?}");
}

#[test]
fn a_token_is_sent_and_never_shown() {
    let server = Server::new();
    let file = server.pki.path("job.jwt");
    fs::write(&file, "canary.in.file\n").unwrap();
    let by_file = run(server.daypass("whoami").env("DAYPASS_TOKEN_FILE", &file));
    assert_eq!((by_file.code, server.seen.authorization.lock().unwrap().as_deref()), (0, Some("Bearer canary.in.file")));
    for line in ["issue expired", "issue hostile", "issue down -o json", "whoami --addr 127.0.0.1:1"] {
        let run = run(server.daypass(line).env("DAYPASS_TOKEN", "canary.in.env").env("RUST_LOG", "trace"));
        assert_ne!(run.code, 0);
        assert!(!format!("{run:?}").contains("canary"), "{run:?}");
    }
    assert_eq!(server.seen.authorization.lock().unwrap().as_deref(), Some("Bearer canary.in.env"));
}

#[test]
fn an_open_key_is_warned_of() {
    let server = Server::new();
    fs::set_permissions(server.pki.path("client.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let run = server.run("whoami");
    assert!(run.code == 0 && run.stderr.contains("warning: others can read DAYPASS_KEY") && run.stderr.contains("chmod 600"), "{run:?}");
}

#[test]
fn settings_that_are_missing_or_wrong_are_usage() {
    let run_bare = run(&mut bare("whoami -o json"));
    assert_eq!((run_bare.code, run_bare.error().0.as_str()), (2, "USAGE"));
    assert!(run_bare.error().1.contains("DAYPASS_ADDR"));
    let server = Server::new();
    let gone = run(server.daypass("whoami").env("DAYPASS_CERT", "/nonexistent/c.pem"));
    assert!(gone.code == 2 && gone.stderr.contains("DAYPASS_CERT (/nonexistent/c.pem)"), "{gone:?}");
    let swapped = run(server.daypass("whoami").env("DAYPASS_KEY", server.pki.path("revoked.key")));
    assert!(swapped.code == 2 && swapped.stderr.contains("cannot be used with its key"), "{swapped:?}");
}

#[test]
fn a_wrong_command_line_is_one_line() {
    for line in ["issue", "issue web --nope", "lease get nonsense", "lease revoke", "nonsense", "issue web --token x"] {
        let text = run(&mut bare(line));
        assert!(text.code == 2 && text.stderr.starts_with("daypass: ") && text.stderr.lines().count() == 1, "{line}: {text:?}");
        let json = run(&mut bare(&format!("{line} -o json")));
        assert_eq!((json.code, json.error().0.as_str()), (2, "USAGE"), "{line}");
    }
    let nothing = run(&mut bare(""));
    assert!(nothing.code == 2 && nothing.stderr.contains("Usage: daypass"), "{nothing:?}");
    let help = run(&mut bare("--help"));
    assert!(help.code == 0 && help.stdout.contains("Examples:") && help.stdout.contains("Exit codes:"), "{help:?}");
    let version = run(&mut bare("--version"));
    assert!(version.code == 0 && version.stdout.starts_with("daypass "), "{version:?}");
    let script = run(&mut bare("completions bash"));
    assert!(script.code == 0 && script.stdout.contains("_daypass"), "{script:?}");
}

#[test]
fn list_follows_pages_up_to_its_limit() {
    let server = Server::new();
    let all = server.run("lease list -o json");
    let ids: Vec<_> = all.json().as_array().unwrap().iter().map(|lease| lease["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!((ids.len(), all.stderr.as_str()), (LEASES as usize, ""));
    assert!(ids.is_sorted());
    assert_eq!(*server.seen.page_sizes.lock().unwrap(), [100, 90, 80]);
    let some = server.run("lease list --limit 12");
    assert_eq!((some.code, some.stdout.lines().count()), (0, 13), "a head and twelve");
    assert!(some.stderr.contains("more than these 12") && some.stderr.contains("--limit"), "{some:?}");
    let exact = server.run("lease list --limit 25 -o json");
    assert_eq!((exact.json().as_array().unwrap().len(), exact.stderr.as_str()), (25, ""));
}

#[test]
fn get_and_renew_one_lease() {
    let server = Server::new();
    let got = server.run(&format!("lease get {GOOD} -o json")).json();
    assert_eq!((&got["id"], &got["kind"], &got["issued_at"]), (&GOOD.into(), &"x509".into(), &"2027-01-15T08:00:01Z".into()));
    let gone = server.run(&format!("lease get {UNKNOWN} -o json"));
    assert_eq!((gone.code, gone.error().0.as_str()), (5, "LEASE_NOT_FOUND"));
    let out = server.pki.path("renewed");
    let renewed = server.run(&format!("lease renew {GOOD} --ttl 5m --out {} -o json", out.display())).json();
    assert_eq!(renewed["lease"]["generation"], 2);
    assert_fits(renewed["credential"]["certificate"].as_str().unwrap(), &fs::read_to_string(out.join("tls.key")).unwrap());
}

#[test]
fn revoke_by_id_goes_on_after_a_failure() {
    let server = Server::new();
    let one = server.run(&format!("lease revoke {GOOD} --reason lost -o json"));
    let expected = serde_json::json!({"matched": 1, "denied": 0, "revoked": 1, "failed": [], "live_until": "2027-01-15T08:15:00Z"});
    assert_eq!((one.code, one.json()), (0, expected));
    assert_eq!(*server.seen.revoke_reason.lock().unwrap(), "lost");
    assert_eq!(server.run(&format!("lease revoke {UNKNOWN}")).code, 5);
    assert_eq!(server.run(&format!("lease revoke {FORBIDDEN}")).code, 4);
    let many = server.run(&format!("lease revoke {UNKNOWN} {FORBIDDEN} {GOOD} -o json"));
    let json = many.json();
    assert_eq!((many.code, &json["revoked"], json["failed"].as_array().unwrap().len()), (1, &1.into(), 2));
    assert_eq!((&json["failed"][1]["id"], &json["failed"][1]["code"]), (&FORBIDDEN.into(), &"DENIED".into()));
    let text = server.run(&format!("lease revoke {UNKNOWN} {GOOD}"));
    assert!(text.code == 1 && text.stdout.contains("revoked: by CRL") && text.stderr.contains("LEASE_NOT_FOUND"), "{text:?}");
}

#[test]
fn revoke_by_filter_counts_first_and_wants_a_yes() {
    let server = Server::new();
    let unsure = server.run("lease revoke --role web");
    assert!(unsure.code == 2 && unsure.stderr.contains("3 leases would be revoked") && unsure.stderr.contains("--yes"), "{unsure:?}");
    let counted = server.run("lease revoke --role web --dry-run -o json");
    let expected = serde_json::json!({"matched": 3, "denied": 1, "revoked": 0, "failed": [], "dry_run": true});
    assert_eq!((counted.code, counted.json()), (0, expected));
    let done = server.run("lease revoke --role web --issued-before 2h --yes -o json");
    let json = done.json();
    assert_eq!((done.code, &json["matched"], &json["revoked"]), (1, &3.into(), &2.into()), "one failed");
    assert_eq!((&json["failed"][0]["id"], &json["failed"][0]["code"]), (&FORBIDDEN.into(), &"STORE_UNAVAILABLE".into()));
    let text = server.run("lease revoke --tenant acme --yes");
    assert_eq!(text.code, 0, "{text:?}");
    assert!(text.stderr.contains("3 leases match") && text.stderr.contains("1 lease more match"), "{text:?}");
    assert!(text.stderr.contains("1 revoked, 0 failed") && text.stdout.starts_with("3 leases revoked, 0 failed"), "{text:?}");
    let failed = server.run("lease revoke --role web --yes");
    assert!(failed.code == 1 && failed.stderr.contains("the store\u{fffd}[0m did not answer"), "{failed:?}");
    assert_eq!(server.run("lease revoke --tenant foreign --yes").code, 4);
    let cut = server.run("lease revoke --role cut --yes -o json");
    assert!(cut.code == 6 && cut.error().1.contains("after 1 of 3 leases"), "{cut:?}");
}

#[test]
fn tail_prints_records_as_they_are() {
    let server = Server::new();
    let json = server.run("audit tail --last 2 -o json");
    assert_eq!(json.stdout, format!("{}\n{}\n", server::record(4), server::record(5)));
    let text = server.run("audit tail --after-seq 4");
    assert_eq!(text.stdout, "5 2026-01-31T12:00:00Z CredentialService/Issue done role=web\n");
    assert_eq!(server.run("audit tail").stdout.lines().count(), 5);
    let asked: Vec<_> = server.seen.tails.lock().unwrap().iter().map(|tail| (tail.last, tail.after_seq)).collect();
    assert_eq!(asked, [(2, 0), (0, 4), (100, 0)]);
}

#[test]
fn a_followed_tail_goes_on_where_its_stream_ended() {
    let server = Server::new();
    let mut child = server.daypass("audit tail --last 2 --follow -o json").stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().take(4);
    let lines: Vec<_> = lines.map(Result::unwrap).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(lines, [4, 5, 6, 7].map(server::record));
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let server = Server::new();
    for line in ["lease list -o json", "audit tail", "whoami", "issue web", "audit tail --follow"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = server.daypass(line).stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{line}: {stderr}");
        assert!(!stderr.contains("daypass:") && !stderr.contains("panic"), "{line}: {stderr}");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = bare("completions bash").stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), b"".as_slice()));
}
