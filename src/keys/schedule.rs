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

/// Once a key is published for so long, whoever polls the trust bundle as it asks to be (`refresh_after`, [`REFRESH_AFTER`]) has it; the minute
/// more is for servers that look at the shelf a little later, and for polls that take their time.
pub const POLLED_AFTER: SignedDuration = SignedDuration::from_mins(6);

/// How soon who polls the trust bundle is told to ask again.
pub const REFRESH_AFTER: SignedDuration = SignedDuration::from_mins(5);

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

    /// The times of the key that follows keys which were lost. Nobody can wait for [`Schedule::publish_ahead`] then, for nothing signs meanwhile;
    /// but who polls shall have it first, and who may yet know the lost keys gets the time to give them back.
    pub fn after_loss(self, now: Timestamp) -> Times {
        let Times { published_at, .. } = self.soonest(now);
        let wait = self.publish_ahead.min(POLLED_AFTER).saturating_add(SignedDuration::from_secs(1));
        Times { signs_from: after(published_at, wait), published_at }
    }

    /// The times of a key that was made while those before it seemed lost, now that they are back: it waits its time as any successor does.
    /// One that has signed for so long that relying parties know it goes on.
    pub fn put_back(self, times: Times, now: Timestamp) -> Times {
        let first = times.signs_from == times.published_at && now < after(times.published_at, POLLED_AFTER);
        if times.signs_from <= now && !first {
            return times;
        }
        Times { signs_from: times.signs_from.max(self.soonest(times.published_at).signs_from), ..times }
    }

    /// The times of a ring's very first key, which signs at once: nobody can have fetched a key set without it.
    pub fn first(self, now: Timestamp) -> Times {
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

/// The place of the key that signs; none when there is no key, or when the only ones follow keys that were lost and wait for their time.
/// Before the time of a key that was to sign at once, which only a clock that went back can show, it is that one.
pub fn active(keys: &[Times], now: Timestamp) -> Option<usize> {
    let began = keys.iter().rposition(|key| key.signs_from <= now);
    began.or_else(|| keys.first().filter(|first| first.signs_from == first.published_at).map(|_| 0))
}

/// Where the key at `place` stands.
pub fn state(keys: &[Times], place: usize, now: Timestamp) -> KeyState {
    match active(keys, now).map(|active| place.cmp(&active)) {
        Some(std::cmp::Ordering::Less) => KeyState::Retired,
        Some(std::cmp::Ordering::Equal) => KeyState::Active,
        Some(std::cmp::Ordering::Greater) | None => KeyState::Prepared,
    }
}

/// From when on the key at `place` signs nothing at any server; none while no successor is known. A server that reads the shelf late learns
/// of a successor that was made to sign at once only then, `stale_after` later at most.
pub fn superseded_at(keys: &[Times], place: usize, stale_after: SignedDuration) -> Option<Timestamp> {
    keys.get(place + 1).map(|next| after(next.signs_from, stale_after))
}

/// The times of a prepared key that is made to sign now. It keeps its place after the one that signs, if one does, whose clock may have been
/// ahead.
pub fn activated(prepared: Times, active: Option<Times>, now: Timestamp) -> Times {
    let after = active.map_or(prepared.published_at, |active| active.signs_from);
    Times { signs_from: whole_second(now).max(after).max(prepared.published_at), ..prepared }
}

/// A time later by a span.
pub fn after(at: Timestamp, span: SignedDuration) -> Timestamp {
    at.checked_add(span).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: i64 = 1_800_000_000;
    const LONGEST_LIFE: SignedDuration = SignedDuration::from_hours(24);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(START + second).unwrap()
    }

    /// A key with its number.
    type Key = (u32, Times);

    /// What one server read last.
    #[derive(Default, Clone)]
    struct Server {
        keys: Vec<Key>,
        read_at: Option<Timestamp>,
    }

    /// What a run of the service did, with keys in the order in which they sign.
    struct World {
        schedule: Schedule,
        keys: Vec<Key>,
        made: u32,
        servers: [Server; 2],
        /// Of each token: the key's number, and its expiry.
        tokens: Vec<(u32, Timestamp)>,
        /// What an administrator made sign before its time, or took out.
        forced: Vec<u32>,
        taken_out: Vec<u32>,
    }

    fn times(keys: &[Key]) -> Vec<Times> {
        keys.iter().map(|(_, times)| *times).collect()
    }

    impl World {
        fn new(schedule: Schedule) -> Self {
            let (keys, servers) = (Vec::new(), Default::default());
            Self { schedule, keys, made: 0, servers, tokens: Vec::new(), forced: Vec::new(), taken_out: Vec::new() }
        }

        fn make(&mut self, times: Times) {
            self.made += 1;
            self.keys.push((self.made, times));
            self.keys.sort_by_key(|(number, times)| (times.signs_from, *number));
        }

        fn dead_at(&self, place: usize) -> Option<Timestamp> {
            let superseded_at = superseded_at(&times(&self.keys), place, self.schedule.stale_after())?;
            Some(after(after(superseded_at, LONGEST_LIFE), RETIRE_MARGIN))
        }

        fn pass(&mut self, server: usize, now: Timestamp, hurry: bool) {
            if let Some(next) = self.schedule.due(&times(&self.keys), now, hurry) {
                self.make(next);
            }
            let dead = |place: usize| {
                state(&times(&self.keys), place, now) == KeyState::Retired && self.dead_at(place).is_some_and(|dead_at| dead_at < now)
            };
            let stay: Vec<Key> = (0..self.keys.len()).filter(|place| !dead(*place)).map(|place| self.keys[place]).collect();
            self.keys = stay;
            self.servers[server] = Server { keys: self.keys.clone(), read_at: Some(now) };
        }

        fn administer(&mut self, act: Act, now: Timestamp) {
            let own = times(&self.keys);
            let Some(signing) = active(&own, now) else { return };
            let prepared = (0..own.len()).find(|place| state(&own, *place, now) == KeyState::Prepared);
            match (act, prepared) {
                (Act::Prepare, None) => self.make(self.schedule.ahead_of_turn(&own, now)),
                (Act::Activate | Act::Force, Some(place)) => {
                    let forced = matches!(act, Act::Force);
                    let out = self.schedule.is_out(own[place], now);
                    if !out && forced {
                        self.forced.push(self.keys[place].0);
                    }
                    if out || forced {
                        self.keys[place].1 = activated(own[place], Some(own[signing]), now);
                        self.keys.sort_by_key(|(number, times)| (times.signs_from, *number));
                        assert_eq!(active(&times(&self.keys), now), Some(place), "it does not sign");
                    }
                }
                (Act::Retire(which), _) => {
                    let place = which.index(own.len());
                    if place != signing {
                        self.taken_out.push(self.keys.remove(place).0);
                    }
                }
                _ => {}
            }
        }

        /// Has a server sign by what it read last, unless that is too long ago.
        fn sign(&mut self, server: usize, life: SignedDuration, now: Timestamp) -> Option<Key> {
            let Server { keys, read_at } = &self.servers[server];
            if read_at.is_none_or(|read_at| now.duration_since(read_at) > self.schedule.stale_after()) {
                return None;
            }
            let key = keys[active(&times(keys), now)?];
            self.tokens.push((key.0, now + life));
            Some(key)
        }
    }

    #[derive(Debug, Clone, Copy)]
    enum Act {
        Nothing,
        Prepare,
        Activate,
        Force,
        Retire(prop::sample::Index),
    }

    fn acts() -> impl Strategy<Value = Act> {
        prop_oneof![
            12 => Just(Act::Nothing),
            2 => Just(Act::Prepare),
            2 => Just(Act::Activate),
            1 => Just(Act::Force),
            1 => any::<prop::sample::Index>().prop_map(Act::Retire),
        ]
    }

    fn schedules() -> impl Strategy<Value = Schedule> {
        (60_i64..86_400, 2_i64..40).prop_map(|(ahead, times)| Schedule {
            publish_ahead: SignedDuration::from_secs(ahead),
            every: SignedDuration::from_secs((ahead * times).max(3600)),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Two servers that look at the shelf at different times, each away for weeks at times, an administrator, and whatever asks for haste.
        #[test]
        fn the_schedule_keeps_its_promises(
            schedule in schedules(),
            steps in prop::collection::vec(
                (prop_oneof![3 => 1_i64..400_000, 2 => 1_i64..600], 0_usize..2, 1_i64..=86_400, acts(), prop::bool::weighted(0.05)),
                1..150,
            ),
        ) {
            let mut world = World::new(schedule);
            let mut second = 0;
            for (gap, server, life, act, hurry) in steps {
                second += gap;
                let now = at(second);
                // The other server has not looked since: it signs by what it knows, or not at all.
                world.sign(1 - server, SignedDuration::from_secs(life), now);
                world.pass(server, now, hurry);
                world.administer(act, now);
                let own = times(&world.keys);
                let signing: Vec<usize> = (0..own.len()).filter(|place| state(&own, *place, now) == KeyState::Active).collect();
                prop_assert_eq!(signing.len(), 1);
                let (number, signing) = world.keys[signing[0]];
                // No key signs before it was out for long enough, but the very first, and those that somebody forced.
                if number != 1 && !world.forced.contains(&number) {
                    prop_assert!(schedule.is_out(signing, now), "{signing:?} at {now}");
                }
                prop_assert!(signing.signs_from <= now);
                world.sign(server, SignedDuration::from_secs(life), now);
                for (key, expires_at) in &world.tokens {
                    let published = world.keys.iter().any(|(number, _)| number == key) || world.taken_out.contains(key);
                    prop_assert!(*expires_at <= now || published, "a token outlives its key's publication");
                }
                prop_assert!(world.keys.len() <= 64);
                // One successor at a time.
                prop_assert!(own.iter().filter(|key| key.signs_from > now).count() <= 1);
            }
        }

        /// A server that has not looked since another key was made to sign goes on with the old one for as long as it may; what it signs last
        /// does not outlive that key's publication.
        #[test]
        fn a_server_that_knows_late_signs_nothing_that_outlives_its_key(schedule in schedules(), second in 1_i64..100_000) {
            let mut world = World::new(schedule);
            world.pass(0, at(0), false);
            world.administer(Act::Prepare, at(second));
            world.pass(1, at(second), false);
            world.administer(Act::Force, at(second));
            let last = at(second) + schedule.stale_after();
            prop_assert_eq!(world.sign(1, LONGEST_LIFE, last).map(|key| key.0), Some(1), "it knows the old key alone");
            prop_assert_eq!(world.sign(1, LONGEST_LIFE, last + SignedDuration::from_secs(1)), None, "it knows too little by then");
            let dies = last + LONGEST_LIFE;
            world.pass(0, dies - SignedDuration::from_secs(1), false);
            prop_assert!(world.keys.iter().any(|(number, _)| *number == 1));
            world.pass(0, dies + RETIRE_MARGIN + SignedDuration::from_secs(1), false);
            prop_assert!(world.keys.iter().all(|(number, _)| *number != 1), "it stays for longer than anybody needs it");
        }

        /// With passes as often as they run, a key signs for as long as it should.
        #[test]
        fn rotation_is_on_time(schedule in schedules()) {
            let mut world = World::new(schedule);
            let mut began: Vec<Key> = Vec::new();
            let step = schedule.publish_ahead.as_secs() / 7 + 1;
            let span = schedule.every.as_secs() * 5;
            for second in (0..span).step_by(usize::try_from(step).unwrap()) {
                world.pass(0, at(second), false);
                began.extend(world.keys.iter().filter(|key| !began.contains(key)).copied().collect::<Vec<_>>());
            }
            for pair in began.windows(2) {
                let signed_for = pair[1].1.signs_from.duration_since(pair[0].1.signs_from).as_secs();
                prop_assert!((schedule.every.as_secs()..=schedule.every.as_secs() + step + 1).contains(&signed_for));
            }
            prop_assert!((4..=6).contains(&began.len()));
        }

        /// A key that is made before its turn waits for it, and nothing else is made meanwhile.
        #[test]
        fn a_key_ahead_of_its_turn_waits(schedule in schedules(), second in 1_i64..100_000) {
            let mut world = World::new(schedule);
            world.pass(0, at(0), false);
            world.administer(Act::Prepare, at(second));
            let [first, next] = world.keys[..] else { panic!("{:?}", world.keys) };
            prop_assert!(next.1.signs_from.duration_since(first.1.signs_from) >= schedule.every);
            prop_assert!(next.1.signs_from.duration_since(next.1.published_at) > schedule.publish_ahead);
            prop_assert_eq!(schedule.due(&times(&world.keys), next.1.signs_from - SignedDuration::from_secs(1), true), None);
        }
    }

    #[test]
    fn a_clock_that_went_back_still_finds_a_key() {
        let keys = [Times { signs_from: at(100), published_at: at(100) }, Times { signs_from: at(5000), published_at: at(1400) }];
        assert_eq!(active(&keys, at(0)), Some(0));
        assert_eq!((state(&keys, 0, at(0)), state(&keys, 1, at(0))), (KeyState::Active, KeyState::Prepared));
        assert_eq!(active(&[], at(0)), None);
        // One that follows lost keys was not to sign yet.
        assert_eq!((active(&keys[1..], at(1500)), state(&keys[1..], 0, at(1500))), (None, KeyState::Prepared));
        assert_eq!(active(&keys[1..], at(5000)), Some(0));
        // Made to sign by a clock that is behind the one by which the other signs.
        let now = activated(keys[1], Some(keys[0]), at(0));
        assert!(now.signs_from >= keys[0].signs_from && now.signs_from >= now.published_at);
    }

    #[test]
    fn a_key_after_a_loss_waits_for_who_polls_and_one_made_meanwhile_for_its_turn() {
        let of = |ahead: SignedDuration| Schedule { every: SignedDuration::from_hours(24), publish_ahead: ahead };
        let day = of(SignedDuration::from_hours(12));
        let lost = day.after_loss(at(0));
        assert_eq!((lost.published_at, lost.signs_from), (at(0), at(361)));
        assert_eq!(of(SignedDuration::from_mins(1)).after_loss(at(0)).signs_from, at(61), "no longer than any successor");
        let ahead = Times { signs_from: at(12 * 3600 + 1), published_at: at(0) };
        let first = day.first(at(0));
        for (times, second, then) in [
            (lost, 10, ahead),
            (lost, 361, lost),
            (first, 10, ahead),
            (first, 359, ahead),
            (first, 360, first),
            (ahead, 10, ahead),
            // Somebody had it sign.
            (Times { signs_from: at(20), published_at: at(0) }, 30, Times { signs_from: at(20), published_at: at(0) }),
        ] {
            assert_eq!(day.put_back(times, at(second)), then, "{times:?} at {second}");
        }
    }

    #[test]
    fn what_a_configuration_may_not_say_is_told() {
        let schedule =
            |every: i64, ahead: i64| Schedule { every: SignedDuration::from_secs(every), publish_ahead: SignedDuration::from_secs(ahead) };
        let faults = |every, ahead| schedule(every, ahead).faults("rotate_every", ROTATE_EVERY).join("; ");
        assert_eq!(faults(7200, 3600), "");
        assert!(faults(7199, 3600).contains("rotate_every is at least twice publish_ahead"));
        assert!(faults(3599, 60).contains("rotate_every is 1h to"));
        assert!(faults(7200, 59).contains("publish_ahead is 1m to 168h"));
    }
}
