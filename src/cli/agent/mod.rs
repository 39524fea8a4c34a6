//! `agent`: what runs beside jobs and workloads for as long as the machine does.

mod enroll;
mod run;

use std::io::Write;

use clap::Subcommand;

pub use self::{
    enroll::Enroll,
    run::{Configured, run as serve},
};
use super::{args::TextFormat, connection::Connection, exit::Outcome};
use crate::client::settings::Env;

/// `agent`.
#[derive(Debug, Subcommand)]
pub enum Agent {
    /// Trade an enrolment code for this machine's own client certificate
    #[command(after_help = enroll::EXAMPLES)]
    Enroll(Enroll),
    /// Keep the roles of a configuration file fresh on disk and on sockets
    #[command(after_help = run::EXAMPLES)]
    Run(Configured),
    /// Check a configuration file: every fault at once, with its line; the server is not asked
    Check(Configured),
}

impl Agent {
    /// Whether its output, and so its error, is JSON.
    pub fn is_json(&self) -> bool {
        match self {
            Self::Enroll(Enroll { output, .. }) => *output == TextFormat::Json,
            Self::Run(_) | Self::Check(_) => false,
        }
    }
}

/// Runs one of them.
pub async fn run(connection: Connection, command: Agent, env: Env<'_>, out: &mut dyn Write) -> Outcome {
    match command {
        Agent::Enroll(args) => enroll::run(connection, args, env, out).await,
        Agent::Run(args) => serve(&connection, args).await,
        Agent::Check(args) => run::check(&connection, &args, out),
    }
}
