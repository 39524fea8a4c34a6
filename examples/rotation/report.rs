//! What a run found, for machines: one JSON object, and whether it is good.

use std::{collections::HashMap, time::Duration};

use serde_json::{Value, json};

use super::{MAX_BUNCHING, Plan, process::load_average, records::Records, tally::Tally, world::Usage};

/// Everything that is told.
pub struct Report {
    /// One object, with the first breaches in words; times in seconds, sizes in bytes.
    pub json: Value,
    /// How many promises were broken.
    pub breaches: u64,
}

/// Rotations for each second.
struct Bunching {
    mean: f64,
    busiest: u32,
}

impl Report {
    /// Judges what is left to judge: the record, and how rotations were spread in the seconds of `window`.
    pub fn new(plan: &Plan, opened: Duration, servers: &[Usage], mut tally: Tally, records: &Records, window: (f64, f64)) -> Self {
        judge_records(&mut tally, records);
        let spread = Bunching::of(&tally.rotations, window);
        let ratio = f64::from(spread.busiest) / spread.mean.max(f64::EPSILON);
        if spread.mean == 0.0 {
            broken(&mut tally, "nothing was rotated after the first round".to_owned());
        } else if ratio > MAX_BUNCHING {
            broken(&mut tally, format!("the busiest second holds {} rotations, {ratio:.2} times the mean", spread.busiest));
        }
        tally.lags.sort_by(f64::total_cmp);
        let lag = |percent: usize| tally.lags.get((tally.lags.len() * percent / 100).min(tally.lags.len().saturating_sub(1)));
        let json = json!({
            "leases": plan.leases, "servers": plan.servers, "connections": plan.connections, "life": plan.life.as_secs(),
            "run": plan.run.as_secs(), "killed": plan.kill, "load_average": load_average().ok(),
            "seconds_to_open": opened.as_secs_f64(), "rotations": tally.rotations.len(), "lost_streams": tally.lost_streams,
            "undelivered": tally.undelivered, "certificates_on_record": records.len(),
            "rotations_per_second": {"mean": spread.mean, "busiest": spread.busiest, "ratio": ratio, "over": window.1 - window.0},
            "lag": {"p50": lag(50), "p99": lag(99), "max": tally.lags.last()},
            "at_the_end": servers.iter().map(|usage| json!({"cpu_seconds": usage.cpu, "rss": usage.rss})).collect::<Vec<_>>(),
            "breaches": tally.breaches, "words": tally.words,
        });
        Self { json, breaches: tally.breaches }
    }
}

impl Bunching {
    fn of(times: &[f64], (from, to): (f64, f64)) -> Self {
        let mut seconds: HashMap<u64, u32> = HashMap::new();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Not before `from`, and rounded down on purpose.
        times.iter().filter(|at| **at >= from && **at < to).for_each(|at| *seconds.entry((at - from) as u64).or_default() += 1);
        let all: u32 = seconds.values().sum();
        Self { mean: f64::from(all) / (to - from).max(1.0), busiest: seconds.values().copied().max().unwrap_or(0) }
    }
}

fn judge_records(tally: &mut Tally, records: &Records) {
    for ((lease, generation), serials) in records.iter().filter(|(_, serials)| serials.len() > 1) {
        broken(tally, format!("generation {generation} of {lease} was made {} times", serials.len()));
    }
    let unrecorded = |(key, serial): &(&(String, u32), &String)| records.get(*key).is_none_or(|serials| !serials.contains(*serial));
    let missing: Vec<String> =
        tally.arrived.iter().filter(unrecorded).map(|((lease, generation), _)| format!("{generation} of {lease}")).collect();
    for which in missing {
        broken(tally, format!("generation {which} arrived and is not on record"));
    }
}

fn broken(tally: &mut Tally, why: String) {
    tally.breaches += 1;
    tally.words.push(why);
    tally.words.truncate(100);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_second_shows() {
        let even: Vec<f64> = (0..100).map(|n| 10.0 + f64::from(n) / 10.0).collect();
        let spread = Bunching::of(&even, (10.0, 20.0));
        assert_eq!((spread.mean, spread.busiest), (10.0, 10));
        let bunched = Bunching::of(&[vec![12.5; 50], even].concat(), (10.0, 20.0));
        assert_eq!((bunched.mean, bunched.busiest), (15.0, 60));
        assert_eq!(Bunching::of(&[1.0, 30.0], (10.0, 20.0)).busiest, 0, "outside nothing counts");
    }

    #[test]
    fn what_the_record_does_not_bear_out_is_a_breach() {
        let key = |lease: &str, generation| (lease.to_owned(), generation);
        let mut tally = Tally::default();
        tally.arrived.extend([(key("a", 1), "01".to_owned()), (key("a", 2), "02".to_owned()), (key("b", 1), "03".to_owned())]);
        let good: Records = tally.arrived.iter().map(|(key, serial)| (key.clone(), [serial.clone()].into())).collect();
        judge_records(&mut tally, &good);
        assert_eq!(tally.breaches, 0);

        let mut bad = good;
        bad.remove(&key("a", 1));
        bad.insert(key("a", 2), ["02".to_owned(), "22".to_owned()].into());
        bad.insert(key("b", 1), ["33".to_owned()].into());
        judge_records(&mut tally, &bad);
        assert_eq!(tally.breaches, 3, "{:?}", tally.words);
    }
}
