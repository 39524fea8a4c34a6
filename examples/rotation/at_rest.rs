//! What open watches cost while nothing is due.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    END, Plan, Result,
    holder::{Fleet, Holders},
    process::load_average,
    world::{Usage, World},
};

/// The life of a credential: what is opened first is due after a third of it.
const LIFE: Duration = Duration::from_secs(24 * 3600);

/// How long a server may settle before it is looked at.
const SETTLE: Duration = Duration::from_secs(5);

/// Opens so many watches at one server, over so many connections, and measures for `span`; one object, sizes in bytes.
///
/// # Errors
/// When it could not be measured.
pub async fn at_rest(daypassd: &Path, leases: usize, connections: usize, span: Duration) -> Result<Value> {
    let plan = Plan { daypassd: daypassd.to_owned(), servers: 1, leases, connections, life: LIFE, run: span, kill: false };
    let mut world = World::start(daypassd, plan.servers).await?;
    let at_start = usage(&mut world)?;
    let fleet = Fleet::new(&world, &plan).await?;
    tokio::time::sleep(SETTLE).await;
    let connected = usage(&mut world)?;

    // A fifth first: what the server needs once, whatever the number of watches, is there then.
    let (mut holders, fifth, begun) = (Holders::new(), leases / 5, Instant::now());
    fleet.start(&mut holders, 0..fifth);
    fleet.wait_until_all_hold(fifth, &mut world).await?;
    tokio::time::sleep(SETTLE).await;
    let some = usage(&mut world)?;
    fleet.start(&mut holders, fifth..leases);
    fleet.wait_until_all_hold(leases, &mut world).await?;
    let opened = begun.elapsed();
    eprintln!("rotation: {leases} leases are watched after {:.1} s", opened.as_secs_f64());
    tokio::time::sleep(SETTLE).await;

    let (before, redis_before, begun) = (usage(&mut world)?, world.redis_cpu().await?, Instant::now());
    tokio::time::sleep(span).await;
    let (after, redis_after, seconds) = (usage(&mut world)?, world.redis_cpu().await?, begun.elapsed().as_secs_f64());
    let watches = world.metric(0, "daypass_watches").await?;
    fleet.end(holders, END).await?;
    tokio::time::sleep(SETTLE).await;
    let (closed, left) = (usage(&mut world)?, world.metric(0, "daypass_watches").await?);
    let tally = fleet.into_tally();

    let each = |more: &Usage, less: &Usage, count: usize| (more.rss as f64 - less.rss as f64) / count.max(1) as f64;
    Ok(json!({
        "leases": leases, "connections": connections, "load_average": load_average().ok(), "seconds_to_open": opened.as_secs_f64(),
        "cpu_to_open": before.cpu - connected.cpu, "watches": watches, "watches_left": left,
        "rss": {
            "at_start": at_start.rss, "connected": connected.rss, "a_fifth": some.rss, "all": before.rss, "at_the_end": after.rss,
            "closed": closed.rss,
        },
        "bytes_per_watch": {"above_the_connections": each(&before, &connected, leases), "further": each(&before, &some, leases - fifth)},
        "at_rest": {
            "seconds": seconds, "server_cpu_percent": (after.cpu - before.cpu) / seconds * 100.0,
            "redis_cpu_percent": (redis_after - redis_before) / seconds * 100.0,
        },
        "breaches": tally.breaches, "words": tally.words,
    }))
}

fn usage(world: &mut World) -> Result<Usage> {
    world.usage()?.pop().ok_or_else(|| "no server runs".into())
}
