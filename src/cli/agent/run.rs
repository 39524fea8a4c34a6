//! `agent run` and `agent check`.

use std::{io::Write, path::PathBuf};

use clap::{Args as ClapArgs, ValueHint};

use crate::{
    agent::{config::Config, run as agent},
    cli::{
        connection::Connection,
        exit::{Exit, Outcome},
        output,
    },
    client::error::{Error, Result},
};

pub(super) const EXAMPLES: &str = "\
The file says where the server is and who the agent is; DAYPASS_ADDR and its like are not looked at. Relative paths begin at its folder.
SIGHUP reads it again: a file with a fault changes nothing. SIGTERM ends the agent; what it keeps stays valid where it is.

Examples:
  daypass agent run --config .daypass/agent.toml
  daypass agent check --config /etc/daypass-agent/agent.toml";

/// `agent run`, `agent check`.
#[derive(Debug, ClapArgs)]
pub struct Configured {
    /// The agent's configuration
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: PathBuf,
}

/// Runs the agent until it is told to end.
pub async fn run(connection: &Connection, args: Configured) -> Outcome {
    refuse_flags(connection)?;
    let config = load(&args)?;
    agent::run(config, &args.config).await?;
    Ok(Exit::Done)
}

pub(super) fn check(connection: &Connection, args: &Configured, out: &mut dyn Write) -> Outcome {
    refuse_flags(connection)?;
    let config = load(args)?;
    for warning in agent::trial(&config)? {
        output::note(&format!("warning: {warning}"), false);
    }
    let roles = config.roles.len();
    writeln!(out, "{}: {roles} role{}, server {}", args.config.display(), if roles == 1 { "" } else { "s" }, config.server.address)?;
    Ok(Exit::Done)
}

/// A flag that has no effect must not seem to have one.
fn refuse_flags(connection: &Connection) -> Result<()> {
    match connection.is_given() {
        true => Err(Error::usage("the agent's configuration says where the server is and who the agent is: leave the flags away")),
        false => Ok(()),
    }
}

/// Every fault is told on a line of its own.
fn load(args: &Configured) -> Result<Config> {
    Config::load(&args.config).map_err(|faults| {
        for fault in &faults {
            output::note(&fault.to_string(), false);
        }
        let count = faults.len();
        Error::usage(format!("{} has {count} fault{}", args.config.display(), if count == 1 { "" } else { "s" }))
    })
}
