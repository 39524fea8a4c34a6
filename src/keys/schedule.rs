//! When a key is due, signs and is retired: a pure function of the keys' two times and of now, so that several servers over one shelf
//! agree without talking to each other.

use super::{KeyState, Times};
use crate::model::{SignedDuration, Timestamp, time::whole_second};

/// How far the clocks of servers and relying parties may differ before a retired key goes too early.
pub const RETIRE_MARGIN: SignedDuration = SignedDuration::from_mins(5);

/// The shortest and the longest time between two keys that sign JWTs.
pub const ROTATE_EVERY: [SignedDuration; 2] = [SignedDuration::from_hours(1), SignedDuration::from_hours(24 * 366)];

/// The shortest and the longest time for which a key is published before it signs; a key signs for at least twice as long.
pub const PUBLISH_AHEAD: [SignedDuration; 2] = [SignedDuration::from_mins(1), SignedDuration::from_hours(24 * 7)];

/// How keys follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// How long one key signs.
    pub every: SignedDuration,
    /// How long a key is published before it signs.
    pub publish_ahead: SignedDuration,
}

impl Schedule {
    /// What is wrong with it, in the words of a configuration whose key for [`Schedule::every`] is `every`, bounded by `bounds`.
    pub fn faults(self, every: &str, bounds: [SignedDuration; 2]) -> Vec<String> {
        let mut faults = Vec::new();
        for (name, span, [least, most]) in [(every, self.every, bounds), ("publish_ahead", self.publish_ahead, PUBLISH_AHEAD)] {
            if !(least..=most).contains(&span) {
                faults.push(format!("{name} is {least:#} to {most:#}"));
            }
        }
        if self.every < self.publish_ahead.saturating_mul(2) {
            faults.push(format!("{every} is at least twice publish_ahead"));
        }
        faults
    }

    /// The times of the key that must be made now, if one must. `keys` are in order. The first key signs at once: nobody can have fetched
    /// a key set without it. `hurry` asks for a successor before its turn.
    pub fn due(self, keys: &[Times], now: Timestamp, hurry: bool) -> Option<Times> {
        let Some(newest) = keys.last() else { return Some(self.first(now)) };
        let soonest = self.soonest(now);
        // One successor at a time.
        if newest.signs_from > now || !(hurry || self.turn_after(*newest) <= soonest.signs_from) {
            return None;
        }
        Some(soonest)
    }

    /// The times of a successor that is made before its turn: it waits for the turn. `keys` are in order.
    pub fn ahead_of_turn(self, keys: &[Times], now: Timestamp) -> Times {
        let Some(newest) = keys.last() else { return self.first(now) };
        let soonest = self.soonest(now);
        Times { signs_from: soonest.signs_from.max(self.turn_after(*newest)), ..soonest }
    }

    /// For how long a server may sign by what it read last, and a cache believe a key set: half of the time for which a key is published
    /// before it signs, so that both together never miss one.
    pub fn stale_after(self) -> SignedDuration {
        self.publish_ahead / 2
    }

    /// Whether a key was published for long enough by now.
    pub fn is_out(self, times: Times, now: Timestamp) -> bool {
        now.duration_since(times.published_at) > self.publish_ahead
    }

    fn first(self, now: Timestamp) -> Times {
        let published_at = whole_second(now);
        Times { signs_from: published_at, published_at }
    }

    fn soonest(self, now: Timestamp) -> Times {
        let published_at = whole_second(now);
        // A second more, because both times are rounded down.
        Times { signs_from: after(published_at, self.publish_ahead.saturating_add(SignedDuration::from_secs(1))), published_at }
    }

    fn turn_after(self, newest: Times) -> Timestamp {
        after(newest.signs_from, self.every)
    }
}

/// The place of the key that signs; none when there is no key. Before the first one's time, which only a clock that went back can show,
/// it is the first.
pub fn active(keys: &[Times], now: Timestamp) -> Option<usize> {
    if keys.is_empty() {
        return None;
    }
    Some(keys.iter().rposition(|key| key.signs_from <= now).unwrap_or(0))
}

/// Where the key at `place` stands.
pub fn state(keys: &[Times], place: usize, now: Timestamp) -> KeyState {
    match place.cmp(&active(keys, now).unwrap_or(0)) {
        std::cmp::Ordering::Less => KeyState::Retired,
        std::cmp::Ordering::Equal => KeyState::Active,
        std::cmp::Ordering::Greater => KeyState::Prepared,
    }
}

/// From when on the key at `place` signs nothing at any server; none while no successor is known. A server that reads the shelf late learns
/// of a successor that was made to sign at once only then, `stale_after` later at most.
pub fn superseded_at(keys: &[Times], place: usize, stale_after: SignedDuration) -> Option<Timestamp> {
    keys.get(place + 1).map(|next| after(next.signs_from, stale_after))
}

/// The times of a prepared key that is made to sign now. It keeps its place after the one that signs, whose clock may have been ahead.
pub fn activated(prepared: Times, active: Times, now: Timestamp) -> Times {
    Times { signs_from: whole_second(now).max(active.signs_from).max(prepared.published_at), ..prepared }
}

/// A time later by a span.
pub fn after(at: Timestamp, span: SignedDuration) -> Timestamp {
    at.checked_add(span).unwrap_or(Timestamp::MAX)
}
