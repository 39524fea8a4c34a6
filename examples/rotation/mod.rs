//! A fleet of holders that watch their leases at several servers over one Redis, one of which dies in the middle; and a judge of whether
//! every lease kept its promise.

use std::{
    error::Error,
    path::PathBuf,
    time::{Duration, Instant},
};

pub mod at_rest;
#[path = "../load/dial.rs"]
mod dial;
mod holder;
mod lines;
#[allow(dead_code)] // The load generator uses the rest.
#[path = "../load/parts.rs"]
pub mod parts;
#[allow(dead_code)]
#[path = "../load/process.rs"]
mod process;
mod records;
mod report;
mod tally;
mod world;

use holder::{Fleet, Holders};
pub use report::Report;
use world::World;

/// What goes wrong ends the run with one line.
pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// No second may hold more than so many times the mean of rotations.
pub const MAX_BUNCHING: f64 = 3.0;

/// How long holders may take to end once they are told to.
const END: Duration = Duration::from_secs(30);

/// What is run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The service's program.
    pub daypassd: PathBuf,
    /// Servers over one Redis.
    pub servers: usize,
    /// Leases, each watched by a holder of its own.
    pub leases: usize,
    /// HTTP/2 connections, over all servers.
    pub connections: usize,
    /// The life of a credential, whole seconds.
    pub life: Duration,
    /// How long to go on after the last lease was issued.
    pub run: Duration,
    /// Whether a server is killed, without a word, in the middle of it.
    pub kill: bool,
}

/// Runs it, and says what came of it.
///
/// # Errors
/// When it could not be run. A promise that was broken is no error: see [`Report::breaches`].
pub async fn run(plan: &Plan) -> Result<Report> {
    if plan.run.as_secs_f64() <= plan.life.as_secs_f64() {
        return Err("a run must be longer than the life of a credential: how rotations spread shows after the first round".into());
    }
    let mut world = World::start(&plan.daypassd, plan.servers).await?;
    let fleet = Fleet::new(&world, plan).await?;
    let begun = Instant::now();
    let mut holders = Holders::new();
    fleet.start(&mut holders, 0..plan.leases);
    fleet.wait_until_all_hold(plan.leases, &mut world).await?;
    let opened = begun.elapsed();
    eprintln!("rotation: {} leases are watched after {:.1} s", plan.leases, opened.as_secs_f64());

    // After the first round due times are spread as they stay; before, they follow the order of issue.
    let settled = fleet.now() + plan.life.as_secs_f64() * tally::FIRST_ROUND;
    let half = plan.run / 2;
    tokio::time::sleep(half).await;
    if plan.kill {
        eprintln!("rotation: killing server 1 of {}", plan.servers);
        world.kill(0);
    }
    tokio::time::sleep(plan.run - half).await;
    let (servers, until) = (world.usage()?, fleet.now());
    fleet.end(holders, END).await?;

    let mut tally = fleet.into_tally();
    tally.judge_the_end(plan.leases, until);
    world.stop().await?;
    let records = records::read(&world)?;
    Ok(Report::new(plan, opened, &servers, tally, &records, (settled, until)))
}
