//! A load generator: starts a throwaway `daypassd dev` (and a Redis), asks it for certificates over real TLS, and prints what
//! that costs. `docs/performance.md` has the commands and their figures.
//!
//! ```text
//! cargo build --release --bin daypassd
//! cargo run --release --example load -- --store redis --connections 8 --concurrency 64 --seconds 5
//! ```

#[path = "load/caller.rs"]
mod caller;
#[path = "load/dial.rs"]
mod dial;
#[path = "load/drive.rs"]
mod drive;
#[path = "load/parts.rs"]
mod parts;
#[path = "load/process.rs"]
mod process;
#[path = "load/report.rs"]
mod report;
#[path = "load/tokens.rs"]
mod tokens;
#[path = "load/upkeep.rs"]
mod upkeep;
#[path = "load/world.rs"]
mod world;

use std::{error::Error, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use caller::{Caller, Who};
use drive::{Driver, Window};
use report::Report;
use world::World;

/// What goes wrong ends the run with one line.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The most leases of one run, whether counted or timed: a bound on the latencies that are kept.
const MAX_REQUESTS: u64 = 2_000_000;

/// How long requests run before anything is measured.
const WARM_UP: Duration = Duration::from_millis(500);

/// Tokens minted ahead for each second of a run, unless told otherwise; a run ends early when they are used up.
const TOKENS_PER_SECOND: u64 = 6_000;

/// Asks a throwaway Daypass for certificates and prints what it costs.
#[derive(Parser)]
#[command(max_term_width = 100)]
struct Args {
    /// `embedded`, `redis` (starts its own, appendfsync always), or the URL of a Redis (emptied by nobody)
    #[arg(long, default_value = "embedded")]
    store: String,
    /// HTTP/2 connections; at most as many as are in flight
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// Requests in flight, over all connections; 1 gives a lone caller's latency
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    concurrency: u32,
    /// How long to measure
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Come with a CI token, a new one for each request, instead of a client certificate
    #[arg(long)]
    oidc: bool,
    /// Tokens to mint ahead [default: 6,000 for each second, or one for each of --leases]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=MAX_REQUESTS))]
    tokens: Option<u64>,
    /// The role to ask for: one of the sample roles of `daypassd dev`
    #[arg(long, default_value = caller::ROLE)]
    role: String,
    /// Exchange the secret of a lease of role `push` for registry tokens, over plain HTTP, instead of issuing
    #[arg(long, conflicts_with_all = ["oidc", "reconnect", "leases", "role"])]
    exchange: bool,
    /// A new TCP and TLS connection for each request
    #[arg(long)]
    reconnect: bool,
    /// Further roles, each with a policy of its own, beside those of `daypassd dev`
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=9_000))]
    policies: u32,
    /// Issue exactly so many leases, then tell memory and the time of a restart
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=MAX_REQUESTS))]
    leases: Option<u64>,
    /// Then revoke them all by one query, and read the CRL
    #[arg(long, requires = "leases", conflicts_with = "role")]
    revoke: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    // The servers end with the world that holds them: when the run ends, fails, panics, or is interrupted.
    match runtime.block_on(async {
        tokio::select! { done = run(&args) => done, signal = interrupted() => Err(signal) }
    }) {
        Ok(report) => {
            match args.output {
                Output::Text => print!("{report}"),
                Output::Json => println!("{}", report.to_json()),
            }
            ExitCode::SUCCESS
        }
        Err(error) => failed(&*error),
    }
}

fn failed(error: &dyn Error) -> ExitCode {
    eprintln!("load: {error}");
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

async fn run(args: &Args) -> Result<Report> {
    let mut world = World::start(&args.store, args.policies).await?;
    let mut report = Report::new(&world, args)?;
    let memory = world.redis_info().await?.map(|info| info.memory);
    let who = if args.oidc { Who::Job(tokens::mint(world.dir(), token_count(args))?) } else { Who::Operator };
    let caller = Caller::new(&world, who, &args.role)?;
    let window = match args.leases {
        Some(leases) => Window::Count(leases),
        None => Window::Time { warm_up: WARM_UP, measured: Duration::from_secs(args.seconds) },
    };
    let driver =
        Driver { caller, connections: args.connections, concurrency: args.concurrency, reconnect: args.reconnect, exchange: args.exchange };
    report.load = driver.run(&world, window).await?;
    if report.load.done == 0 {
        let why = report.load.first_error.as_deref().unwrap_or("the tokens were used up before it began; give more --tokens");
        return Err(format!("nothing was answered within the measured time: {why}").into());
    }
    report.server_rss = world.server_rss()?;
    if let Some(leases) = args.leases {
        report.upkeep = Some(upkeep::measure(&mut world, memory, leases, args.revoke).await?);
    }
    Ok(report)
}

fn token_count(args: &Args) -> u64 {
    let needed = args.leases.unwrap_or((args.seconds * TOKENS_PER_SECOND).min(MAX_REQUESTS));
    args.tokens.unwrap_or(needed)
}
