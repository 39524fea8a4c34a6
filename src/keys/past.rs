//! What is known of a ring besides what lies on the shelf: a store that lost something, or was given back what was taken out, is caught by it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::view::Stored;
use crate::model::Timestamp;

/// The most keys that were taken out and are remembered; those with the lowest numbers are forgotten first.
pub const GONE_KEPT: usize = 256;

/// What a server has seen of a ring's keys.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// The highest number of any key; 0 when there was none.
    highest: u32,
    /// Keys that were taken out: number, and since when it was published, which tells it from another key of that number.
    gone: BTreeSet<(u32, Timestamp)>,
}

impl Past {
    /// Whether there ever was a key.
    pub fn had_keys(&self) -> bool {
        self.highest > 0
    }

    /// The highest number of any key; 0 when there was none.
    pub fn highest(&self) -> u32 {
        self.highest
    }

    /// Both together.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.highest = self.highest.max(other.highest);
        self.gone.extend(&other.gone);
        while self.gone.len() > GONE_KEPT {
            self.gone.pop_first();
        }
        self
    }

    /// Notes a key that was read: only such a one counts, for anybody who can write to the store can write any number.
    pub(super) fn note_living(&mut self, stored: &Stored) {
        self.highest = self.highest.max(stored.number);
    }

    /// Notes a key that was taken out.
    pub(super) fn note_gone(&mut self, stored: &Stored) {
        self.gone.insert((stored.number, stored.published_at()));
        while self.gone.len() > GONE_KEPT {
            self.gone.pop_first();
        }
    }

    /// Whether the key of an entry was taken out.
    pub(super) fn is_gone(&self, stored: &Stored) -> bool {
        self.gone.contains(&(stored.number, stored.published_at()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn it_grows_together_and_is_bounded() {
        let of = |highest, numbers: std::ops::Range<u32>| Past {
            highest,
            gone: numbers.map(|number| (number, at(i64::from(number)))).collect(),
        };
        let both = of(3, 1..3).and(&of(2, 2..4));
        assert_eq!(both, of(3, 1..4));
        assert_eq!(both.clone().and(&both), both);
        let many = of(1000, 0..200).and(&of(7, 200..400));
        assert_eq!((many.highest(), many.gone.len()), (1000, GONE_KEPT));
        assert!(many.gone.contains(&(399, at(399))) && !many.gone.contains(&(0, at(0))), "the lowest go first");
        assert!(!Past::default().had_keys() && many.had_keys());
    }

    #[test]
    fn it_is_kept_as_json() {
        let past = Past { highest: 3, gone: BTreeSet::from([(1, at(1_800_000_000))]) };
        let text = serde_json::to_string(&past).unwrap();
        assert_eq!(text, r#"{"highest":3,"gone":[[1,"2027-01-15T08:00:00Z"]]}"#);
        assert_eq!(serde_json::from_str::<Past>(&text).unwrap(), past);
    }
}
