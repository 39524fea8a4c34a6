//! The real `daypass` binary against a server that speaks the contract over real TLS.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod aws_process;
mod ci;
mod ci_scripts;
mod connection;
mod docker_helper;
mod exec;
mod exec_aws;
mod exec_signals;
mod face;
mod issue;
mod issue_kinds;
mod kinds;
mod lease;
mod pki;
mod runner;
mod server;
mod vended;

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use self::server::Server;

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
