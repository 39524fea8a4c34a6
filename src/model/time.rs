//! Times as they are kept: in whole seconds, towards the past.

use super::Timestamp;

/// The last whole second at or before a time.
pub fn whole_second(at: Timestamp) -> Timestamp {
    // jiff truncates towards 1970.
    let second = if at.subsec_nanosecond() < 0 { at.as_second() - 1 } else { at.as_second() };
    Timestamp::from_second(second).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_never_later() {
        for (millis, second) in [(0, 0), (1, 0), (999, 0), (1000, 1), (-1, -1), (-999, -1), (-1000, -1), (-1001, -2)] {
            let at = Timestamp::from_millisecond(millis).unwrap();
            assert_eq!(whole_second(at), Timestamp::from_second(second).unwrap(), "{millis}");
        }
        assert_eq!(whole_second(Timestamp::MIN), Timestamp::MIN);
    }
}
