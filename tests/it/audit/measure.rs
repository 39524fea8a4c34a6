//! What an append costs: run with `--release -- --ignored --nocapture audit::measure`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use daypass::audit::AuditLog;

use super::{event, open};

/// CPU time of this process, in clock ticks of 10 ms: fields 14 and 15 of /proc/self/stat.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn lone_and_with_64_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(open(dir.path(), 64 << 20));
    let mut times = Vec::new();
    for number in 0..3000 {
        let started = Instant::now();
        log.append(vec![event(number)]).await.unwrap();
        times.push(started.elapsed());
    }
    times.sort_unstable();
    println!("lone append: p50 {:?}, p99 {:?}", times[1500], times[2970]);

    for callers in [8, 64] {
        let (groups, before, started) = (log.groups(), cpu(), Instant::now());
        let each = 100_000 / callers;
        let tasks: Vec<_> = (0..callers)
            .map(|_| {
                let log = log.clone();
                tokio::spawn(async move {
                    for number in 0..each {
                        log.append(vec![event(number)]).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let events = u32::try_from(callers * each).unwrap();
        let (wall, groups) = (started.elapsed(), log.groups() - groups);
        println!(
            "{callers} in flight: {:.1} µs of CPU an event, {:.0} events/s, {:.1} events a group, {:?} a group",
            (cpu() - before).as_secs_f64() * 1e6 / f64::from(events),
            f64::from(events) / wall.as_secs_f64(),
            f64::from(events) / f64::from(u32::try_from(groups).unwrap()),
            wall / u32::try_from(groups).unwrap()
        );
    }
}
