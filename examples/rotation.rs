//! Holders that watch thousands of leases at several servers, one of which is killed: prints what came of it as JSON, and exits with 1
//! when a lease lapsed, was rotated twice for one generation, or rotations bunched up. `scripts/rotation` runs the long form. With
//! `--at-rest` it tells what watches cost while nothing is due.
//!
//! ```text
//! cargo build --release --bin daypassd
//! cargo run --release --example rotation -- --leases 10000 --servers 2 --life 600 --minutes 30 --kill
//! cargo run --release --example rotation -- --leases 50000 --connections 100 --at-rest 60
//! ```

use std::{error::Error, process::ExitCode, time::Duration};

use clap::Parser;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

#[path = "rotation/mod.rs"]
mod rotation;

use rotation::{Plan, Result, at_rest::at_rest, parts::daypassd, run};

/// Watches leases over their rotations, and judges.
#[derive(Parser)]
#[command(max_term_width = 100)]
struct Args {
    /// Servers over one Redis
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    servers: u8,
    /// Leases, each watched by a holder of its own
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    leases: u32,
    /// HTTP/2 connections, over all servers
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    connections: u16,
    /// The life of a credential, in seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(6..=86_400))]
    life: u32,
    /// How long to go on after the last lease was issued
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_440))]
    minutes: u32,
    /// Kill a server in the middle
    #[arg(long)]
    kill: bool,
    /// Instead: watches at one server whose rotations are far away; so many seconds are measured
    #[arg(long, conflicts_with_all = ["servers", "life", "minutes", "kill"], value_parser = clap::value_parser!(u64).range(1..=3_600))]
    at_rest: Option<u64>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    // The servers end with the world that holds them: when the run ends, fails, panics, or is interrupted.
    match runtime.block_on(async {
        tokio::select! { done = measure(&args) => done, signal = interrupted() => Err(signal) }
    }) {
        Ok((json, true)) => {
            println!("{json:#}");
            ExitCode::SUCCESS
        }
        Ok((json, false)) => {
            println!("{json:#}");
            ExitCode::FAILURE
        }
        Err(error) => failed(&*error),
    }
}

/// What came of it, and whether it is good.
async fn measure(args: &Args) -> Result<(Value, bool)> {
    if let Some(seconds) = args.at_rest {
        let (leases, connections) = (usize::try_from(args.leases)?, args.connections.into());
        return Ok((at_rest(&daypassd()?, leases, connections, Duration::from_secs(seconds)).await?, true));
    }
    let plan = Plan {
        daypassd: daypassd()?,
        servers: args.servers.into(),
        leases: usize::try_from(args.leases)?,
        connections: args.connections.into(),
        life: Duration::from_secs(args.life.into()),
        run: Duration::from_secs(u64::from(args.minutes) * 60),
        kill: args.kill,
    };
    let report = run(&plan).await?;
    Ok((report.json, report.breaches == 0))
}

fn failed(error: &dyn Error) -> ExitCode {
    eprintln!("rotation: {error}");
    ExitCode::FAILURE
}

async fn interrupted() -> Box<dyn Error + Send + Sync> {
    let mut term = match signal(SignalKind::terminate()) {
        Ok(term) => term,
        Err(error) => return error.into(),
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    "interrupted".into()
}
