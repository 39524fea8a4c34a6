//! The tour of the README, line by line, as a newcomer pastes it.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use crate::support::parts::{Process, free_port, run, wait_until};

const README: &str = include_str!("../../../README.md");

/// The shell block of the chapter "A tour".
fn tour() -> &'static str {
    let chapter = README.split("## A tour").nth(1).expect("the README has a tour");
    let block = chapter.split("```sh\n").nth(1).expect("the tour has a shell block");
    block.split("```").next().expect("the block ends")
}

#[test]
fn the_tour_works_line_by_line() {
    let dir = tempfile::tempdir().unwrap();
    let (grpc, http) = (free_port(), free_port());
    let mut dev = Command::new(env!("CARGO_BIN_EXE_daypassd"));
    dev.arg("dev").args(["--grpc", &format!("127.0.0.1:{grpc}"), "--http", &format!("127.0.0.1:{http}")]);
    dev.current_dir(dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let _dev = Process::start(&mut dev);
    wait_until(Duration::from_secs(20), "daypassd dev is ready", || {
        let ready = run(Command::new("curl").args(["-fsS", &format!("http://127.0.0.1:{http}/readyz")]));
        ready.ok.then_some(())
    });

    // What differs from a newcomer's terminal: where the binaries lie, and a port that is free here.
    let binaries = Path::new(env!("CARGO_BIN_EXE_daypass")).parent().unwrap().display().to_string();
    let script = tour().replace("$PWD/target/debug", &binaries).replace("127.0.0.1:7480", &format!("127.0.0.1:{http}"));
    assert!(script.contains(&binaries), "the tour no longer sets the PATH as this test expects");
    fs::write(dir.path().join("tour.sh"), &script).unwrap();
    let toured = run(Command::new("bash").args(["-eu", "-o", "pipefail", "tour.sh"]).current_dir(dir.path()));
    assert!(toured.ok, "{}", toured.all());

    let said = toured.all();
    for expected in [
        "spiffe://dev.daypass.test/operator",
        "web/tls.crt: OK",
        "exit code 4",
        "1 lease would be revoked",
        "revoked, as it should be",
        "web: allowed",
        "CredentialService/Issue denied",
        "whole: ",
    ] {
        assert!(said.contains(expected), "{expected:?} is not in what the tour printed:\n{said}");
    }
}
