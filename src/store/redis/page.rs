//! One page out of what every partition has to offer.

use redis::Value;

use super::{keys, unexpected};
use crate::{
    model::{error::Error, lease::LeaseId},
    store::unavailable,
};

/// The first `limit` ids of all sources in order, and the id after which the next page starts. A source that gave as much
/// as it was asked for may hold more, so that nothing is known above its last id.
pub fn merge(answers: impl Iterator<Item = (u8, Vec<Value>)>, limit: usize) -> Result<(Vec<LeaseId>, Option<LeaseId>), Error> {
    let mut ids = Vec::new();
    let mut known_to: Option<LeaseId> = None;
    for (partition, answer) in answers {
        let mut values = answer.into_iter();
        let Some(Value::Int(count)) = values.next() else { return Err(unexpected(&[])) };
        for source in values {
            let Value::BulkString(source) = source else { return Err(unexpected(&[source])) };
            let (source, []) = source.as_chunks() else { return Err(unavailable("an id is not 14 bytes")) };
            let source = source.iter().map(|id| keys::unpack(*id, partition));
            if i64::try_from(source.len()).is_ok_and(|length| length >= count) {
                known_to = known_to.into_iter().chain(source.clone().next_back()).min();
            }
            ids.extend(source);
        }
    }
    ids.sort_unstable();
    let known = known_to.map_or(ids.len(), |last| ids.partition_point(|id| *id <= last));
    let taken = known.min(limit);
    let more = taken < ids.len() || known_to.is_some();
    ids.truncate(taken);
    let next = if more { ids.last().copied() } else { None };
    Ok((ids, next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    fn id(millis: i64) -> LeaseId {
        LeaseId::new(Timestamp::from_millisecond(millis).unwrap(), [0; 10], &"acme".parse().unwrap())
    }

    /// An answer of the partition of these ids: at most `count` of each source.
    fn answer(count: i64, sources: &[&[i64]]) -> (u8, Vec<Value>) {
        let packed = |millis: &i64| keys::pack(id(*millis)).unwrap();
        let source = |source: &&[i64]| Value::BulkString(source.iter().flat_map(packed).collect());
        (id(0).partition(), [Value::Int(count)].into_iter().chain(sources.iter().map(source)).collect())
    }

    fn page(answers: Vec<(u8, Vec<Value>)>, limit: usize) -> (Vec<LeaseId>, Option<LeaseId>) {
        merge(answers.into_iter(), limit).unwrap()
    }

    #[test]
    fn a_page_ends_where_a_source_may_hold_more() {
        let answers = vec![answer(2, &[&[1, 5], &[2, 9]]), answer(10, &[&[3, 4, 7]])];
        assert_eq!(page(answers, 10), (vec![id(1), id(2), id(3), id(4), id(5)], Some(id(5))));
    }

    #[test]
    fn a_page_is_cut_at_its_limit_and_the_last_one_says_so() {
        let answers = || vec![answer(10, &[&[1, 3]]), answer(10, &[&[2], &[]])];
        assert_eq!(page(answers(), 2), (vec![id(1), id(2)], Some(id(2))));
        assert_eq!(page(answers(), 3), (vec![id(1), id(2), id(3)], None));
        assert_eq!(page(vec![answer(10, &[])], 3), (vec![], None));
    }

    #[test]
    fn an_answer_of_another_form_is_an_error() {
        for wrong in [vec![], vec![Value::Okay], vec![Value::Int(1), Value::BulkString(vec![0; 13])]] {
            assert!(merge([(0, wrong)].into_iter(), 1).is_err());
        }
    }
}
