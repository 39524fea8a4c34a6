//! Parts that are not ours: what relying parties and CI systems really run. `scripts/setup` installs them.
//!
//! Every part binds 127.0.0.1 on a free port, keeps its files in a folder of its own, and ends with the value that
//! holds it. A part that is missing, or that does not start, ends the test with a message that says what to do.

pub mod actions;
pub mod aws_cli;
pub mod boto;
pub mod containers;
pub mod envoy;
pub mod github;
pub mod handshakes;
pub mod http;
pub mod ministack;
pub mod nginx;
pub mod openssl;
pub mod pkilint;
pub mod registry;
mod registry_tests;
pub mod seaweed;
pub mod server;
mod socket_tests;
pub mod spiffe_py;

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long a part may take to start; far more than any needs on a busy machine.
pub const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Where `scripts/setup` puts what comes from PyPI and npm.
pub fn tools() -> PathBuf {
    match std::env::var_os("DAYPASS_TEST_TOOLS") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools"),
    }
}

/// One of the programs in [`tools`].
pub fn tool(name: &str) -> PathBuf {
    let path = tools().join("bin").join(name);
    assert!(path.exists(), "the test tool {} is missing; run scripts/setup", path.display());
    path
}

/// What a program said, and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// Whether it exited with 0.
    pub ok: bool,
    /// Its exit code; none after a signal.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Ran {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output and standard error in one.
    pub fn all(&self) -> String {
        format!("{}{}", self.text(), self.stderr)
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            ok: output.status.success(),
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Ran {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| missing(command, &error)).into()
}

/// A running program; it is killed when the value goes.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts it.
    pub fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| missing(command, &error)))
    }

    /// The child, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn missing(command: &Command, error: &std::io::Error) -> ! {
    panic!("cannot run {}: {error}; run scripts/setup", command.get_program().display())
}

/// A port of 127.0.0.1 that was free a moment ago. Another process may take it first: whoever binds it later tries again
/// with another, as [`nginx::Nginx`] does.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback interface has free ports");
    listener.local_addr().expect("a bound listener has an address").port()
}

/// Asks every 10 ms until there is an answer; ends the test when there is none after `patience`.
pub fn wait_until<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < patience, "waited {patience:?} in vain for this: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn waiting_gives_the_answer() {
    let mut asked = 0;
    let answer = wait_until(START_TIMEOUT, "three questions", || {
        asked += 1;
        (asked == 3).then_some(asked)
    });
    assert_eq!(answer, 3);
}

#[test]
#[should_panic(expected = "in vain for this: a miracle")]
fn waiting_ends() {
    wait_until(Duration::from_millis(30), "a miracle", || None::<()>);
}

#[test]
fn a_process_ends_with_its_value() {
    let mut process = Process::start(Command::new("sleep").arg("600"));
    assert!(!process.has_ended());
    let stat = format!("/proc/{}/stat", process.child().id());
    assert!(Path::new(&stat).exists());
    drop(process);
    assert!(!Path::new(&stat).exists(), "it is killed, and waited for");
}

#[test]
fn a_program_says_how_it_ended() {
    let ran = run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]));
    assert_eq!((ran.ok, ran.code, ran.all().as_str()), (false, Some(3), "out\nerr\n"));
}

#[test]
#[should_panic(expected = "run scripts/setup")]
fn a_missing_program_says_what_to_do() {
    run(&mut Command::new("daypass-no-such-program"));
}
