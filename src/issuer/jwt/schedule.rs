//! When a key is published, signs, is retired and gone: a pure function of the keys' two times and of now, so that several servers over
//! one directory agree without talking to each other.

use crate::model::{SignedDuration, Timestamp};

/// The longest life of any token that is signed here, whatever a role says: nothing but its expiry ends a JWT. It also fixes how long a
/// retired key stays published, so that no later change of the configuration can take a key away from a token that lives.
pub const MAX_TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(24);

/// How far the clocks of servers and relying parties may differ before a retired key goes too early.
pub const RETIRE_MARGIN: SignedDuration = SignedDuration::from_mins(5);

/// The shortest and the longest time between two keys.
pub const ROTATE_EVERY: [SignedDuration; 2] = [SignedDuration::from_hours(1), SignedDuration::from_hours(24 * 366)];

/// The shortest and the longest time for which a key is published before it signs; `rotate_every` is at least twice as long.
pub const PUBLISH_AHEAD: [SignedDuration; 2] = [SignedDuration::from_mins(1), SignedDuration::from_hours(24 * 7)];

/// The two times of a key, in whole seconds; they stand in its file and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Times {
    /// From when on it signs, until the next one does.
    pub signs_from: Timestamp,
    /// Since when it is in the published key set.
    pub published_at: Timestamp,
}

/// Where a key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Published, and not signing yet.
    Prepared,
    /// The one that signs.
    Active,
    /// Published for the tokens that live under it.
    Retired,
    /// No token lives under it: its file can go.
    Gone,
}

/// How keys follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Schedule {
    /// How long one key signs.
    pub rotate_every: SignedDuration,
    /// How long a key is published before it signs.
    pub publish_ahead: SignedDuration,
}

impl Schedule {
    /// The times of the key that must be made now, if one must. `keys` are in order. The first key signs at once: nobody can have fetched
    /// a key set without it. `hurry` asks for a successor before its turn.
    pub fn due(self, keys: &[Times], now: Timestamp, hurry: bool) -> Option<Times> {
        let published_at = floor(now);
        let Some(newest) = keys.last() else { return Some(Times { signs_from: published_at, published_at }) };
        // A second more, because both times are rounded down.
        let signs_from = after(published_at, self.publish_ahead.saturating_add(SignedDuration::from_secs(1)));
        let turn = after(newest.signs_from, self.rotate_every);
        // One successor at a time.
        (newest.signs_from <= now && (hurry || turn <= signs_from)).then_some(Times { signs_from, published_at })
    }
}

/// The place of the key that signs; none when there is no key. Before the first one's time, which only a clock that went back can show,
/// it is the first.
pub(super) fn active(keys: &[Times], now: Timestamp) -> Option<usize> {
    if keys.is_empty() {
        return None;
    }
    Some(keys.iter().rposition(|key| key.signs_from <= now).unwrap_or(0))
}

/// Where the key at `place` stands.
pub(super) fn phase(keys: &[Times], place: usize, now: Timestamp) -> Phase {
    let active = active(keys, now).unwrap_or(0);
    if place >= active {
        return if place == active { Phase::Active } else { Phase::Prepared };
    }
    // It was followed by the next one, and signed nothing from then on.
    let last_dead = after(keys[place + 1].signs_from, MAX_TOKEN_LIFE.saturating_add(RETIRE_MARGIN));
    if last_dead < now { Phase::Gone } else { Phase::Retired }
}

fn floor(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn after(at: Timestamp, span: SignedDuration) -> Timestamp {
    at.checked_add(span).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: i64 = 1_800_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(START + second).unwrap()
    }

    /// What a run of the service did: keys in the order of their making, and which of them are gone by then.
    #[derive(Default)]
    struct World {
        keys: Vec<Times>,
        ever: Vec<Times>,
        /// Of each token: the key, and its expiry.
        tokens: Vec<(Times, Timestamp)>,
    }

    impl World {
        fn pass(&mut self, schedule: Schedule, now: Timestamp, hurry: bool) {
            if let Some(next) = schedule.due(&self.keys, now, hurry) {
                self.keys.push(next);
                self.ever.push(next);
            }
            let gone = |place: usize| phase(&self.keys, place, now) == Phase::Gone;
            let stay: Vec<Times> = (0..self.keys.len()).filter(|place| !gone(*place)).map(|place| self.keys[place]).collect();
            self.keys = stay;
        }
    }

    fn schedules() -> impl Strategy<Value = Schedule> {
        (60_i64..86_400, 2_i64..40).prop_map(|(ahead, times)| Schedule {
            publish_ahead: SignedDuration::from_secs(ahead),
            rotate_every: SignedDuration::from_secs((ahead * times).max(3600)),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Whatever the gaps between passes (a server that was off for weeks among them), and whatever asks for haste.
        #[test]
        fn the_schedule_keeps_its_promises(
            schedule in schedules(),
            steps in prop::collection::vec((1_i64..400_000, 1_i64..=86_400, prop::bool::weighted(0.05)), 1..150),
        ) {
            let mut world = World::default();
            let mut second = 0;
            for (gap, life, hurry) in steps {
                second += gap;
                let now = at(second);
                world.pass(schedule, now, hurry);
                let phases: Vec<Phase> = (0..world.keys.len()).map(|place| phase(&world.keys, place, now)).collect();
                prop_assert_eq!(phases.iter().filter(|phase| **phase == Phase::Active).count(), 1);
                prop_assert!(world.keys.is_sorted());
                let signing = world.keys[active(&world.keys, now).unwrap()];
                // No key signs before it was out for long enough, but the very first.
                if signing != world.ever[0] {
                    prop_assert!(now.duration_since(signing.published_at) >= schedule.publish_ahead);
                }
                prop_assert!(signing.signs_from <= now);
                let life = SignedDuration::from_secs(life);
                prop_assert!(life <= MAX_TOKEN_LIFE);
                world.tokens.push((signing, now + life));
                for (key, expires_at) in &world.tokens {
                    prop_assert!(*expires_at <= now || world.keys.contains(key), "a token outlives its key's publication");
                }
                prop_assert!(world.keys.len() <= 64);
            }
        }

        /// With passes as often as they run, a key signs for as long as it should.
        #[test]
        fn rotation_is_on_time(schedule in schedules()) {
            let mut world = World::default();
            let step = schedule.publish_ahead.as_secs() / 7 + 1;
            let span = schedule.rotate_every.as_secs() * 5;
            for second in (0..span).step_by(usize::try_from(step).unwrap()) {
                world.pass(schedule, at(second), false);
            }
            for pair in world.ever.windows(2) {
                let signed_for = pair[1].signs_from.duration_since(pair[0].signs_from).as_secs();
                prop_assert!((schedule.rotate_every.as_secs()..=schedule.rotate_every.as_secs() + step + 1).contains(&signed_for));
            }
            prop_assert!((4..=6).contains(&world.ever.len()));
        }
    }

    #[test]
    fn a_clock_that_went_back_still_finds_a_key() {
        let keys = [Times { signs_from: at(100), published_at: at(100) }, Times { signs_from: at(5000), published_at: at(1400) }];
        assert_eq!(active(&keys, at(0)), Some(0));
        assert_eq!(phase(&keys, 0, at(0)), Phase::Active);
        assert_eq!(phase(&keys, 1, at(0)), Phase::Prepared);
        assert_eq!(active(&[], at(0)), None);
    }
}
