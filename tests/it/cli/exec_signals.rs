//! `exec` and signals: what reaches the command, and what happens when either is killed.

use std::{
    fs,
    io::Write,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use super::{
    exec::{SOON, finish},
    kinds::lease_id,
    server::Server,
};
use crate::support::parts::wait_until;

/// Counts each signal in a file, and ends with 9 when there is a file "enough".
///
/// `sh` tells of what a signal ended ("Terminated") on standard error; that is not ours.
const COUNTER: &str = r#"
    for name in HUP INT QUIT TERM USR1 USR2 WINCH; do trap "echo $name >> '$OUT/got'" $name; done
    echo $$ > "$OUT/ready"
    while test ! -e "$OUT/enough"; do sleep 0.05; done
    exit 9"#;

fn kill(signal: &str, target: &str) {
    assert!(Command::new("kill").args([&format!("-{signal}"), "--", target]).status().unwrap().success());
}

fn is_alive(pid: &str) -> bool {
    // A zombie that nobody waits for is dead.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// The signals that the command saw, in this order.
fn got(server: &Server) -> Vec<String> {
    fs::read_to_string(server.pki.path("got")).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// A signal is passed on only after the watcher was told of the command, which runs a moment before that. This one ends nobody who does
/// not look for it.
fn the_watcher_knows_the_command(server: &Server, exec: &Child) {
    kill("WINCH", &exec.id().to_string());
    wait_until(SOON, "WINCH", || got(server).contains(&"WINCH".to_owned()).then_some(()));
}

fn enough(server: &Server, child: Child) {
    fs::write(server.pki.path("enough"), "").unwrap();
    assert_eq!(finish(child).code, 9);
    assert_eq!(server.seen.revoked(), [lease_id("web")]);
    assert_eq!(server.private_dirs(), 0);
}

#[test]
fn each_signal_to_exec_reaches_the_command_once() {
    let server = Server::new();
    let child = server.exec("web", COUNTER).spawn().unwrap();
    server.wait_for("ready");
    let names = ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "WINCH"];
    for (sent, name) in names.iter().enumerate() {
        kill(name, &child.id().to_string());
        wait_until(SOON, name, || (got(&server).len() > sent).then_some(()));
    }
    assert_eq!(got(&server), names);
    enough(&server, child);
}

#[test]
fn a_signal_to_the_whole_group_without_a_terminal_reaches_the_command_once() {
    let server = Server::new();
    let mut command = Command::new("setsid");
    let inner = server.exec("web", COUNTER);
    command.arg("--wait").arg(inner.get_program()).args(inner.get_args()).env_clear();
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let child = command.process_group(0).spawn().unwrap();
    let sh = server.wait_for("ready");
    let exec = parent(sh.trim());
    kill("INT", &format!("-{exec}"));
    wait_until(SOON, "INT", || (!got(&server).is_empty()).then_some(()));
    // The next one comes after whatever the first one might still bring.
    kill("USR1", &exec);
    wait_until(SOON, "USR1", || got(&server).contains(&"USR1".to_owned()).then_some(()));
    assert_eq!(got(&server), ["INT", "USR1"]);
    enough(&server, child);
}

#[test]
fn what_is_typed_at_a_terminal_reaches_the_command_once() {
    let server = Server::new();
    let inner = server.exec("web", COUNTER);
    let quoted: Vec<_> = std::iter::once(inner.get_program()).chain(inner.get_args()).map(|word| quoted(word.to_str().unwrap())).collect();
    let mut command = Command::new("script");
    command.args(["-qefc", &format!("exec {}", quoted.join(" ")), "/dev/null"]).env_clear();
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("SHELL", "/bin/sh");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let sh = server.wait_for("ready");
    let mut keyboard = child.stdin.take().unwrap();
    keyboard.write_all(b"\x03").unwrap();
    wait_until(SOON, "INT", || (!got(&server).is_empty()).then_some(()));
    kill("USR1", &parent(sh.trim()));
    wait_until(SOON, "USR1", || got(&server).contains(&"USR1".to_owned()).then_some(()));
    assert_eq!(got(&server), ["INT", "USR1"], "the terminal's own is not passed on, another's is");
    enough(&server, child);
}

#[test]
fn what_nohup_ignores_stays_ignored() {
    let server = Server::new();
    let inner = server.exec("web", r#"echo $$ > "$OUT/ready"; while test ! -e "$OUT/enough"; do sleep 0.05; done; exit 9"#);
    let mut command = Command::new("nohup");
    command.arg(inner.get_program()).args(inner.get_args()).env_clear().stdin(Stdio::null()).stdout(Stdio::null());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let child = command.stderr(Stdio::null()).spawn().unwrap();
    let sh = server.wait_for("ready");
    kill("HUP", &child.id().to_string());
    kill("HUP", sh.trim());
    enough(&server, child);
}

#[test]
fn a_signal_while_it_issues_ends_it_and_leaves_nothing() {
    let server = Server::new();
    let child = server.exec("web slow", r#"touch "$OUT/started""#).spawn().unwrap();
    wait_until(SOON, "both are asked for", || (server.seen.calls("slow") > 0 && server.seen.calls("web") > 0).then_some(()));
    kill("TERM", &child.id().to_string());
    assert_eq!(finish(child).code, 143);
    assert_eq!(server.seen.revoked(), [lease_id("web")]);
    assert!(!server.pki.path("started").exists() && server.private_dirs() == 0);
}

#[test]
fn when_the_command_is_killed_its_leases_are_revoked() {
    let server = Server::new();
    let child = server.exec("web", COUNTER).spawn().unwrap();
    kill("KILL", server.wait_for("ready").trim());
    assert_eq!(finish(child).code, 137);
    assert_eq!(server.seen.revoked(), [lease_id("web")]);
    assert_eq!(server.private_dirs(), 0);
}

#[test]
fn when_exec_is_killed_its_leases_are_revoked_and_the_command_ends() {
    let server = Server::new();
    // The command's own child outlives a signal to the command alone: it is in its group.
    let script = r#"trap 'echo WINCH > "$OUT/got"' WINCH; sleep 300 & echo "$! $$" > "$OUT/ready"; wait; wait"#;
    let mut child = server.exec("web deploy", script).stderr(Stdio::piped()).spawn().unwrap();
    let told = server.wait_for("ready");
    the_watcher_knows_the_command(&server, &child);
    assert_eq!(server.private_dirs(), 1);
    kill("KILL", &child.id().to_string());
    child.wait().unwrap();
    wait_until(SOON, "both leases are revoked", || (server.seen.revoked().len() == 2).then_some(()));
    for pid in told.split_whitespace() {
        wait_until(SOON, "the command ends", || (!is_alive(pid)).then_some(()));
    }
    wait_until(SOON, "the directory goes", || (server.private_dirs() == 0).then_some(()));
    let mut stderr = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut stderr).unwrap();
    assert_eq!(stderr, "daypass: exec ended before its time; its leases are revoked\n", "and the watcher has ended: nobody holds stderr");
}

#[test]
fn when_its_whole_group_is_killed_the_watcher_still_revokes() {
    let server = Server::new();
    let mut child = server.exec("web", COUNTER).process_group(0).spawn().unwrap();
    let sh = server.wait_for("ready");
    the_watcher_knows_the_command(&server, &child);
    kill("KILL", &format!("-{}", child.id()));
    child.wait().unwrap();
    wait_until(SOON, "the lease is revoked", || (server.seen.revoked() == [lease_id("web")]).then_some(()));
    wait_until(SOON, "the directory goes", || (server.private_dirs() == 0).then_some(()));
    // Whether it was in the group depends on the terminal of the test; it counts TERM and goes on, as it is told to.
    if is_alive(sh.trim()) {
        wait_until(SOON, "TERM", || got(&server).contains(&"TERM".to_owned()).then_some(()));
        fs::write(server.pki.path("enough"), "").unwrap();
        wait_until(SOON, "the command ends", || (!is_alive(sh.trim())).then_some(()));
    }
}

#[test]
fn a_job_that_is_stopped_goes_on() {
    let server = Server::new();
    let script = r#"trap 'echo x > "$OUT/got"' USR1; echo $$ > "$OUT/ready"; while test ! -e "$OUT/got"; do sleep 0.05; done; exit 9"#;
    let child = server.exec("brief-web", script).spawn().unwrap();
    server.wait_for("ready");
    let exec = child.id().to_string();
    kill("STOP", &exec);
    wait_until(SOON, "it is stopped", || fs::read_to_string(format!("/proc/{exec}/stat")).ok()?.contains(") T ").then_some(()));
    kill("USR1", &exec);
    kill("CONT", &exec);
    assert_eq!(finish(child).code, 9);
    assert_eq!(server.seen.revoked(), [lease_id("brief-web")]);
}

#[test]
fn exec_leaves_no_process_behind() {
    let server = Server::new();
    let ran = finish(server.exec("web", r#"ps -o pid=,args= --ppid $PPID"#).stdout(Stdio::piped()).spawn().unwrap());
    let watcher = ran.stdout.lines().find(|line| line.contains("exec-watch")).unwrap_or_else(|| panic!("{ran:?}"));
    let pid = watcher.split_whitespace().next().unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "the watcher has gone before exec");
}

/// The parent of a process.
fn parent(pid: &str) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().to_owned()
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
