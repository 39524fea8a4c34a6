//! What holders saw, and what of it breaks a promise.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::holder::Held;

/// The first round of rotations is over after this part of a life: the latest that is drawn, and a little more.
pub const FIRST_ROUND: f64 = 0.7;

/// Credentials that may be made and never arrive, before a stream that was lost is taken up: its server dies after it made one, and so
/// may the next.
const MAX_UNDELIVERED: u32 = 2;

/// Breaches that are kept in words.
const KEPT: usize = 20;

/// Where in a stream a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// First in the stream that asked for a new lease.
    New,
    /// First in a stream that took a lease up.
    Held,
    /// Further on.
    Under,
}

impl Start {
    /// Of the next stream.
    pub fn of(held: Option<&Held>) -> Self {
        if held.is_some() { Self::Held } else { Self::New }
    }
}

/// A credential that arrived.
pub struct Arrival {
    /// When.
    pub at: f64,
    /// Where in its stream.
    pub start: Start,
    /// What the holder had.
    pub before: Option<Held>,
    /// What it has now.
    pub now: Held,
}

/// All that they saw.
#[derive(Default)]
pub struct Tally {
    /// Streams that ended with their connection or server, by reason.
    pub lost_streams: BTreeMap<String, u64>,
    /// Credentials that were made and never arrived, for such streams.
    pub undelivered: u64,
    /// When each rotation arrived.
    pub rotations: Vec<f64>,
    /// How long after it was due each came, in seconds.
    pub lags: Vec<f64>,
    /// Every certificate that arrived: its serial, by lease and generation.
    pub arrived: HashMap<(String, u32), String>,
    /// How many promises were broken.
    pub breaches: u64,
    /// The first of them, in words.
    pub words: Vec<String>,
    in_hand: BTreeMap<usize, Held>,
    serials: HashSet<String>,
}

impl Tally {
    /// A credential came.
    pub fn arrived(&mut self, number: usize, arrival: Arrival) {
        let Arrival { at, start, before, now } = arrival;
        if let Err(why) = follows(before.as_ref(), &now, start, at) {
            self.wrong(number, why);
        }
        if let Some(before) = before {
            self.undelivered += u64::from(now.generation.saturating_sub(before.generation + 1));
            self.rotations.push(at);
            self.lags.extend(before.due.map(|due| at - due));
        }
        if !self.serials.insert(now.serial.clone()) {
            self.wrong(number, format!("serial {} came twice", now.serial));
        }
        self.arrived.insert((now.lease_id.clone(), now.generation), now.serial.clone());
        self.in_hand.insert(number, now);
    }

    /// Something else went wrong for a holder.
    pub fn wrong(&mut self, number: usize, why: impl Into<String>) {
        self.breaches += 1;
        if self.words.len() < KEPT {
            self.words.push(format!("holder {number}: {}", why.into()));
        }
    }

    /// The first that went wrong.
    pub fn first_wrong(&self) -> Option<&str> {
        self.words.first().map(String::as_str)
    }

    /// At the end each holder must have what is valid still. `at` is now.
    pub fn judge_the_end(&mut self, holders: usize, at: f64) {
        for number in 0..holders {
            let why = match self.in_hand.get(&number) {
                None => "has nothing at the end".to_owned(),
                Some(held) if held.expires <= at => format!("lapsed: at the end its generation {} is expired", held.generation),
                Some(_) => continue,
            };
            self.wrong(number, why);
        }
    }
}

/// Whether a credential may follow another.
fn follows(before: Option<&Held>, now: &Held, start: Start, at: f64) -> Result<(), String> {
    let Some(before) = before else {
        return if now.generation == 1 { Ok(()) } else { Err(format!("a new lease begins with generation {}", now.generation)) };
    };
    let (had, has) = (before.generation, now.generation);
    let may_have = match start {
        Start::Held => had + 1..=had + 1 + MAX_UNDELIVERED,
        Start::New | Start::Under => had + 1..=had + 1,
    };
    if now.lease_id != before.lease_id {
        return Err(format!("another lease, {}, instead of {}", now.lease_id, before.lease_id));
    }
    if !may_have.contains(&has) {
        return Err(format!("generation {has} after {had}, {start:?}"));
    }
    if before.expires <= at {
        return Err(format!("lapsed: generation {has} came {:.1} s after {had} had expired", at - before.expires));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(generation: u32, expires: f64) -> Held {
        Held { lease_id: "a".into(), generation, serial: format!("{generation:02x}"), expires, due: Some(expires - 5.0) }
    }

    fn judged(before: Option<Held>, now: Held, start: Start, at: f64) -> Tally {
        let mut tally = Tally::default();
        tally.arrived(0, Arrival { at, start, before, now });
        tally
    }

    #[test]
    fn a_promise_that_is_kept_is_no_breach() {
        let mut tally = judged(None, held(1, 10.0), Start::New, 0.0);
        for (before, now, start, at) in [(1, 2, Start::Under, 6.0), (2, 3, Start::Held, 12.0), (3, 5, Start::Held, 18.0)] {
            let (before, now) = (held(before, at + 1.0), held(now, at + 10.0));
            tally.arrived(0, Arrival { at, start, before: Some(before), now });
        }
        tally.judge_the_end(1, 20.0);
        assert_eq!((tally.breaches, tally.undelivered, tally.rotations.len(), tally.lags.len()), (0, 1, 3, 3), "{:?}", tally.words);
        assert_eq!(tally.lags[0], 6.0 - 2.0);
    }

    #[test]
    fn each_promise_that_is_broken_is_a_breach() {
        let broken = [
            judged(None, held(2, 10.0), Start::New, 0.0),
            judged(Some(held(1, 10.0)), held(1, 20.0), Start::Under, 5.0),
            judged(Some(held(1, 10.0)), held(3, 20.0), Start::Under, 5.0),
            judged(Some(held(1, 10.0)), held(1, 20.0), Start::Held, 5.0),
            judged(Some(held(1, 10.0)), held(5, 20.0), Start::Held, 5.0),
            judged(Some(held(1, 10.0)), held(2, 20.0), Start::Under, 10.0),
            judged(Some(Held { lease_id: "b".into(), ..held(1, 10.0) }), held(2, 20.0), Start::Under, 5.0),
        ];
        for (n, tally) in broken.iter().enumerate() {
            assert_eq!(tally.breaches, 1, "case {n}: {:?}", tally.words);
        }
    }

    #[test]
    fn at_the_end_each_has_what_is_valid() {
        let mut tally = judged(None, held(1, 10.0), Start::New, 0.0);
        tally.judge_the_end(1, 9.0);
        assert_eq!(tally.breaches, 0);
        tally.judge_the_end(2, 10.0);
        assert_eq!(tally.breaches, 2, "one has expired, one has nothing: {:?}", tally.words);
    }

    #[test]
    fn a_certificate_comes_once() {
        let mut tally = judged(None, held(1, 10.0), Start::New, 0.0);
        let again = Held { lease_id: "b".into(), ..held(1, 10.0) };
        tally.arrived(1, Arrival { at: 0.0, start: Start::New, before: None, now: again });
        assert_eq!(tally.breaches, 1, "{:?}", tally.words);
    }
}
