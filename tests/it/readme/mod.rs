//! What the pages promise: the tour of the README, line by line, as a newcomer pastes it; the tests that the architecture names; the metrics.

mod setup;

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use crate::support::parts::{Process, free_port, run, wait_until};

const README: &str = include_str!("../../../README.md");

const ARCHITECTURE: &str = include_str!("../../../ARCHITECTURE.md");

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

    // What differs from a newcomer's terminal: where the binaries lie, a port that is free here, and that nothing outlives it when a line fails.
    let binaries = Path::new(env!("CARGO_BIN_EXE_daypass")).parent().unwrap().display().to_string();
    let script = tour().replace("$PWD/target/debug", &binaries).replace("127.0.0.1:7480", &format!("127.0.0.1:{http}"));
    assert!(script.contains(&binaries), "the tour no longer sets the PATH as this test expects");
    let script = format!("trap 'kill $(jobs -pr) 2>/dev/null || true' EXIT\n{script}");
    fs::write(dir.path().join("tour.sh"), &script).unwrap();
    let toured = run(Command::new("bash").args(["-eu", "-o", "pipefail", "tour.sh"]).current_dir(dir.path()));
    let agent = fs::read_to_string(dir.path().join(".daypass/agent.log")).unwrap_or_default();
    assert!(toured.ok, "{}\nthe agent's log:\n{agent}", toured.all());

    let said = toured.all();
    for expected in [
        "spiffe://dev.daypass.test/operator",
        "web/tls.crt: OK",
        "exit code 4",
        "enrolled  spiffe://dev.daypass.test/agent/fleet/",
        "workload.sock",
        "URI:spiffe://dev.daypass.test/platform/web",
        "1 lease would be revoked",
        "revoked, as it should be",
        "web: allowed",
        "CredentialService/Issue denied",
        "whole: ",
    ] {
        assert!(said.contains(expected), "{expected:?} is not in what the tour printed:\n{said}");
    }
    // The agent was told to end, and did.
    assert!(agent.contains("ending"), "{agent}");
    assert!(!dir.path().join(".daypass/agent/workload.sock").exists(), "an agent that has ended leaves no socket");
}

#[test]
fn every_test_that_the_architecture_names_is_there() {
    let named: Vec<&str> = ARCHITECTURE.split('`').filter_map(|word| word.strip_prefix("it::")).collect();
    assert!(named.len() > 40, "the names are no longer found in ARCHITECTURE.md: mend this test");
    let missing: Vec<&&str> = named.iter().filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names tests that are not there: {missing:?}");
}

/// A module of this binary, or a function of one.
fn is_there(name: &str) -> bool {
    let source = |module: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(module.replace("::", "/"));
        fs::read_to_string(path.with_extension("rs")).or_else(|_| fs::read_to_string(path.join("mod.rs"))).ok()
    };
    let is_function = |(module, function): (&str, &str)| source(module).is_some_and(|text| text.contains(&format!("fn {function}(")));
    source(name).is_some() || name.rsplit_once("::").is_some_and(is_function)
}

#[test]
fn every_metric_is_documented_and_every_documented_one_is_there() {
    // A name in the source stands in quotes of its own.
    let quoted = |text: &str| text.split('"').filter(|word| is_metric(word)).map(Into::into).collect::<Vec<String>>();
    let named = |text: &str| text.split(|c: char| !is_of_name(c)).filter(|word| is_metric(word)).map(Into::into).collect::<Vec<String>>();
    let source: BTreeSet<String> = texts("src", "rs").iter().flat_map(|text| quoted(text)).collect();
    let documented: BTreeSet<String> = texts("docs", "md").iter().flat_map(|text| named(text)).collect();
    assert!(source.len() > 30, "the metrics are no longer found in src/: mend this test");
    assert_eq!(source.difference(&documented).collect::<Vec<_>>(), [""; 0], "no page of docs/ has them");
    assert_eq!(documented.difference(&source).collect::<Vec<_>>(), [""; 0], "docs/ has them, and nothing measures them");
}

fn is_metric(word: &str) -> bool {
    word.strip_prefix("daypass_").is_some_and(|rest| !rest.is_empty() && rest.chars().all(is_of_name))
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

/// Every file with an extension below a folder of the repository.
fn texts(folder: &str, extension: &str) -> Vec<String> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("it can be read") {
            let path = entry.expect("it can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|of_file| of_file == extension) {
                found.push(fs::read_to_string(&path).expect("it is text"));
            }
        }
    }
    found
}
