//! A ring's keys in memory, as they were read.

use std::sync::Arc;

use super::{
    Held, KeyMaker, KeyState, Times, parse_key_name,
    record::{Kept, Record},
    schedule::{self, RETIRE_MARGIN, Schedule},
    shelf::Slot,
};
use crate::model::Timestamp;

/// The most keys of a ring, those included that were taken out and whose number is kept: four times what the fastest rotation leaves.
pub const MAX_KEYS: usize = 128;

/// The keys of a ring as they were read.
pub(super) struct View<K> {
    /// In the order in which they sign.
    pub rows: Vec<Row<K>>,
    /// Their times, in the same order.
    pub times: Vec<Times>,
    /// Those that were taken out, in order of number.
    pub out: Vec<Stored>,
    /// Which look this was: of two at once, the later one counts.
    pub look: u64,
    /// The shelf's revision before it was read.
    pub revision: Option<u64>,
    /// When the shelf was read; none before the first time.
    pub read_at: Option<Timestamp>,
}

/// A key that is published.
pub(super) struct Row<K> {
    pub stored: Stored,
    /// The key, or why it cannot be read.
    pub held: Result<Arc<Held<K>>, String>,
}

/// A key as it lies on the shelf.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub number: u32,
    pub slot: Slot,
    pub record: Record,
}

impl<K> View<K> {
    /// Before anything was read.
    pub fn empty() -> Self {
        Self { rows: Vec::new(), times: Vec::new(), out: Vec::new(), look: 0, revision: None, read_at: None }
    }

    /// Puts rows into order. The clock that wrote a key's time may differ from another's; their numbers do not.
    pub fn new(mut rows: Vec<Row<K>>, mut out: Vec<Stored>, look: u64, revision: u64, read_at: Timestamp) -> Self {
        rows.sort_by_key(|row| (row.stored.record.times().signs_from, row.stored.number));
        out.sort_by_key(|stored| stored.number);
        let times = rows.iter().map(|row| row.stored.record.times()).collect();
        Self { rows, times, out, look, revision: Some(revision), read_at: Some(read_at) }
    }

    /// The same, read again at a later time and found unchanged.
    pub fn seen_again(&self, look: u64, read_at: Timestamp) -> Self {
        Self { look, read_at: Some(read_at), ..self.clone() }
    }

    /// Where the key at `place` stands.
    pub fn state(&self, place: usize, now: Timestamp) -> KeyState {
        schedule::state(&self.times, place, now)
    }

    /// The number after all that were ever given.
    pub fn next_number(&self) -> u32 {
        let numbers = self.rows.iter().map(|row| row.stored.number).chain(self.out.iter().map(|stored| stored.number));
        numbers.max().unwrap_or(0).saturating_add(1)
    }

    /// How many numbers the ring keeps.
    pub fn len(&self) -> usize {
        self.rows.len() + self.out.len()
    }

    /// When nothing lives any more under the key at `place`; none while no successor is known, or while the key cannot be read.
    pub fn dead_at<M: KeyMaker<Key = K>>(&self, place: usize, schedule: Schedule, maker: &M) -> Option<Timestamp> {
        let superseded_at = schedule::superseded_at(&self.times, place, schedule.stale_after())?;
        let held = self.rows.get(place)?.held.as_ref().ok()?;
        Some(schedule::after(maker.last_dead(&held.key, superseded_at).max(superseded_at), RETIRE_MARGIN))
    }

    /// Whether nothing lives under the key at `place`.
    pub fn is_dead<M: KeyMaker<Key = K>>(&self, place: usize, schedule: Schedule, maker: &M, now: Timestamp) -> bool {
        self.state(place, now) == KeyState::Retired && self.dead_at(place, schedule, maker).is_some_and(|dead_at| dead_at < now)
    }
}

impl<K> Clone for View<K> {
    fn clone(&self) -> Self {
        let Self { rows, times, out, look, revision, read_at } = self;
        let (rows, times, out) = (rows.clone(), times.clone(), out.clone());
        Self { rows, times, out, look: *look, revision: *revision, read_at: *read_at }
    }
}

impl<K> Clone for Row<K> {
    fn clone(&self) -> Self {
        Self { stored: self.stored.clone(), held: self.held.clone() }
    }
}

impl Stored {
    /// An entry of this ring; none when it is another ring's.
    ///
    /// # Errors
    /// Why its record cannot be read.
    pub fn parse(ring: &str, slot: Slot) -> Option<Result<Self, String>> {
        let number = parse_key_name(&slot.name).filter(|(of, _)| *of == ring)?.1;
        Some(match Record::parse(&slot.body) {
            Ok(record) => Ok(Self { number, slot, record }),
            Err(why) => Err(format!("{}: {why}", slot.name)),
        })
    }

    /// Whether the key was taken out.
    pub fn out_since(&self) -> Option<Timestamp> {
        match self.record.key {
            Kept::Sealed(_) => None,
            Kept::OutSince(at) => Some(at),
        }
    }

    /// The entry after a change of its record.
    pub fn changed(&self, change: impl FnOnce(&mut Record)) -> Self {
        let mut record = self.record.clone();
        change(&mut record);
        let slot = Slot { name: self.slot.name.clone(), version: self.slot.version.saturating_add(1), body: record.body() };
        Self { number: self.number, slot, record }
    }

    /// Whether it holds the same key as another, whatever its times say.
    pub fn same_key(&self, other: &Self) -> bool {
        let published = |stored: &Self| stored.record.times().published_at;
        self.number == other.number
            && self.record.key == other.record.key
            && self.record.public == other.record.public
            && published(self) == published(other)
    }
}
