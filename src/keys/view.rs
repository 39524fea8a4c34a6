//! A ring's keys in memory, as they were read.

use std::sync::Arc;

use super::{
    Held, KeyMaker, KeyState, Past, Times, parse_key_name,
    record::{Kept, Record},
    schedule::{self, RETIRE_MARGIN, Schedule},
    shelf::Slot,
};
use crate::model::{SignedDuration, Timestamp};

/// The most keys of a ring, those included that were taken out and whose number is kept: four times what the fastest rotation leaves.
pub const MAX_KEYS: usize = 128;

/// For how long a shelf that others may share is seen without any key of a ring before its first one is made: each server that knows keys which
/// the store lost has given them back by then. Two looks of a server.
pub const FIRST_KEY_WAIT: SignedDuration = SignedDuration::from_secs(10);

/// The longest time between two looks for which the shelf is taken to have been without keys in between, too.
const SEEN_THROUGH: SignedDuration = SignedDuration::from_secs(8);

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
    /// Since when each look has found no key at all.
    pub empty_since: Option<Timestamp>,
    /// What is known besides.
    pub past: Past,
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
        let (rows, times, out, past) = (Vec::new(), Vec::new(), Vec::new(), Past::default());
        Self { rows, times, out, look: 0, revision: None, read_at: None, empty_since: None, past }
    }

    /// Puts rows into order, after what was known before. The clock that wrote a key's time may differ from another's; their numbers do not.
    pub fn after(before: &Self, mut rows: Vec<Row<K>>, mut out: Vec<Stored>, look: u64, revision: u64, read_at: Timestamp) -> Self {
        rows.sort_by_key(|row| (row.stored.record.times().signs_from, row.stored.number));
        out.sort_by_key(|stored| stored.number);
        let times = rows.iter().map(|row| row.stored.record.times()).collect();
        let mut past = before.past.clone();
        rows.iter().filter(|row| row.held.is_ok()).for_each(|row| past.note_living(&row.stored));
        let lived = |stored: &&Stored| before.rows.iter().any(|row| row.held.is_ok() && row.stored.is_of(stored));
        out.iter().filter(lived).for_each(|stored| past.note_gone(stored));
        let watched = before.read_at.is_some_and(|before| read_at.duration_since(before) <= SEEN_THROUGH);
        let empty_since = rows.is_empty().then(|| before.empty_since.filter(|_| watched).unwrap_or(read_at));
        Self { rows, times, out, look, revision: Some(revision), read_at: Some(read_at), empty_since, past }
    }

    /// The same, read again at a later time and found unchanged.
    pub fn seen_again(&self, look: u64, read_at: Timestamp) -> Self {
        let watched = self.read_at.is_some_and(|before| read_at.duration_since(before) <= SEEN_THROUGH);
        let empty_since = self.empty_since.map(|since| if watched { since } else { read_at });
        Self { look, read_at: Some(read_at), empty_since, ..self.clone() }
    }

    /// Where the key at `place` stands.
    pub fn state(&self, place: usize, now: Timestamp) -> KeyState {
        schedule::state(&self.times, place, now)
    }

    /// Whether an entry holds a key that was taken out already: whoever can write to the store has put it back, or the store forgot.
    pub fn is_back(&self, stored: &Stored) -> bool {
        stored.out_since().is_none() && (self.past.is_gone(stored) || self.out.iter().any(|out| out.is_of(stored)))
    }

    /// Whether there was no key for so long that no other server knows one.
    pub fn is_settled_empty(&self) -> bool {
        let since = self.empty_since.zip(self.read_at);
        since.is_some_and(|(since, read_at)| read_at.duration_since(since) >= FIRST_KEY_WAIT)
    }

    /// The number after all that were ever given.
    pub fn next_number(&self) -> u32 {
        let numbers = self.rows.iter().map(|row| row.stored.number).chain(self.out.iter().map(|stored| stored.number));
        numbers.max().unwrap_or(0).max(self.past.highest()).saturating_add(1)
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
        let Self { rows, times, out, look, revision, read_at, empty_since, past } = self;
        let (rows, times, out, past) = (rows.clone(), times.clone(), out.clone(), past.clone());
        Self { rows, times, out, look: *look, revision: *revision, read_at: *read_at, empty_since: *empty_since, past }
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

    /// Whether it is an entry of the same key as another, whatever became of it: what is sealed into a key tells it from any other that was
    /// given its number.
    pub fn is_of(&self, other: &Self) -> bool {
        self.number == other.number && self.published_at() == other.published_at()
    }

    /// Since when it is published, which never changes.
    pub fn published_at(&self) -> Timestamp {
        self.record.times().published_at
    }

    /// Whether it holds the same key as another, whatever its times say.
    pub fn same_key(&self, other: &Self) -> bool {
        self.is_of(other) && self.record.key == other.record.key && self.record.public == other.record.public
    }
}
