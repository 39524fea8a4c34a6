//! What every command has in common: exit codes, errors, usage, pipes.

use std::{fs, os::unix::fs::PermissionsExt, process::Stdio};

use super::{bare, run, server::Server};

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

#[test]
fn an_open_key_is_warned_of() {
    let server = Server::new();
    fs::set_permissions(server.pki.path("client.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let run = server.run("whoami");
    assert!(run.code == 0 && run.stderr.contains("warning: others can read DAYPASS_KEY") && run.stderr.contains("chmod 600"), "{run:?}");
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let server = Server::new();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = server.daypass("whoami -o json").stdout(full).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("standard output cannot be written"));
}

#[test]
fn beside_json_every_line_of_stderr_is_json() {
    let server = Server::new();
    fs::set_permissions(server.pki.path("client.key"), fs::Permissions::from_mode(0o644)).unwrap();
    for line in ["lease list --limit 2 -o json", "issue denied -o json"] {
        let run = server.run(line);
        assert_eq!(run.stderr.lines().count(), 2, "{run:?}");
        for line in run.stderr.lines() {
            let json: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(json["note"]["message"].is_string() || json["error"]["code"].is_string(), "{json}");
        }
    }
}
