//! From a list of revoked leases to the policy that denies them. Pure.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::plan::LEASE_TAG;
use crate::model::{
    SignedDuration, Timestamp,
    error::{Error, Result},
    lease::LeaseId,
    revocation::{DenyBy, RevokedSerial},
    role::AwsOverflow,
};

/// Marks our statements. What another hand wrote beside them into the policy of that name stays.
pub(super) const SID: &str = "DaypassRevoked";

/// How much later than a revocation a session may have been issued, by AWS' clock, and still be denied by time of issue: the clocks differ, and
/// AWS keeps whole seconds. A session that is issued so soon after a revocation is denied with it.
pub const ISSUE_TIME_SLACK: SignedDuration = SignedDuration::from_secs(5);

/// The statements of a list, and what became of its entries.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stated {
    /// Empty when nothing is to be denied.
    pub statements: Vec<Value>,
    /// Leases that are denied by time of issue because there is no room to name them.
    pub by_time: usize,
    /// Leases for which there is no room at all.
    pub left_out: usize,
}

/// The name of the inline policy.
pub(super) fn policy_name(by: DenyBy) -> &'static str {
    match by {
        DenyBy::SessionTag => "DaypassRevokedSessionTags",
        DenyBy::SessionName => "DaypassRevokedSessionNames",
        // The name that AWS' console gives to the same statement.
        DenyBy::IssueTime => "AWSRevokeOlderSessions",
    }
}

/// What denies a list within `size` characters. The same list gives the same statements, in whatever order it comes.
pub(super) fn state(by: DenyBy, revoked: &[RevokedSerial], overflow: AwsOverflow, size: usize, now: Timestamp) -> Result<Stated> {
    let mut live: Vec<&RevokedSerial> = revoked.iter().filter(|entry| entry.not_after > now).collect();
    live.sort_by(|a, b| (a.revoked_at, &a.serial).cmp(&(b.revoked_at, &b.serial)));
    live.dedup_by(|a, b| a.serial == b.serial);
    let nothing_more = |statements| Stated { statements, by_time: 0, left_out: 0 };
    let Some(newest) = live.last() else { return Ok(nothing_more(Vec::new())) };
    if by == DenyBy::IssueTime {
        return Ok(nothing_more(vec![by_time(newest.revoked_at)]));
    }
    let whole = named(by, &live)?;
    if length(std::slice::from_ref(&whole)) <= size {
        return Ok(nothing_more(vec![whole]));
    }
    match overflow {
        // The oldest stay named: what was denied once stays denied.
        AwsOverflow::Fail => {
            let fit = room(by, &[], size)?.min(live.len());
            let statements = if fit == 0 { Vec::new() } else { vec![named(by, &live[..fit])?] };
            Ok(Stated { statements, by_time: 0, left_out: live.len() - fit })
        }
        // The newest stay named, so that few other sessions are as old as those that are not.
        AwsOverflow::RoleSessions => {
            let fit = room(by, &[by_time(newest.revoked_at)], size)?.min(live.len() - 1);
            let (older, newer) = live.split_at(live.len() - fit);
            let cut = older.last().map_or(newest.revoked_at, |entry| entry.revoked_at);
            let mut statements = vec![by_time(cut)];
            if !newer.is_empty() {
                statements.push(named(by, newer)?);
            }
            Ok(Stated { statements, by_time: older.len(), left_out: 0 })
        }
    }
}

/// How many leases a policy of `size` characters can name; none where leases are denied by time, however many they are.
pub(super) fn capacity(by: DenyBy, size: usize) -> Option<usize> {
    match by {
        DenyBy::SessionTag | DenyBy::SessionName => room(by, &[], size).ok(),
        DenyBy::IssueTime => None,
    }
}

/// A policy of these statements.
pub(super) fn document(statements: &[Value]) -> Value {
    json!({ "Version": "2012-10-17", "Statement": statements })
}

/// Our statements and all others of a policy.
pub(super) fn parted(document: &Value) -> (Vec<Value>, Vec<Value>) {
    let statements = match document.get("Statement") {
        Some(Value::Array(statements)) => statements.clone(),
        Some(one) => vec![one.clone()],
        None => Vec::new(),
    };
    statements.into_iter().partition(|statement| statement.get("Sid").and_then(Value::as_str).is_some_and(|sid| sid.starts_with(SID)))
}

/// Whether two lists of statements mean the same: IAM keeps what it was given, but another hand may have written one text as a list of one,
/// or in another order.
pub(super) fn mean_the_same(one: &[Value], other: &[Value]) -> bool {
    let normal = |statements: &[Value]| statements.iter().map(|statement| normal(statement).to_string()).collect::<BTreeSet<_>>();
    normal(one) == normal(other)
}

fn normal(value: &Value) -> Value {
    match value {
        Value::Array(items) if items.len() == 1 => normal(&items[0]),
        Value::Array(items) => {
            let sorted: BTreeSet<String> = items.iter().map(|item| normal(item).to_string()).collect();
            json!(sorted)
        }
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), normal(value))).collect(),
        plain => plain.clone(),
    }
}

/// Denies sessions one by one.
fn named(by: DenyBy, entries: &[&RevokedSerial]) -> Result<Value> {
    let leases = entries.iter().map(|entry| lease_of(&entry.serial)).collect::<Result<BTreeSet<_>>>()?;
    let condition = match by {
        DenyBy::SessionName => {
            // `<id of the role>:<session's name>`; nothing but a lease's own id has its form.
            let names: Vec<String> = leases.iter().map(|lease| format!("*:*{lease}*")).collect();
            json!({ "StringLike": { "aws:userid": names } })
        }
        DenyBy::SessionTag | DenyBy::IssueTime => {
            let tags: Vec<String> = leases.iter().map(ToString::to_string).collect();
            json!({ "StringEquals": { format!("aws:PrincipalTag/{LEASE_TAG}"): tags } })
        }
    };
    Ok(json!({ "Sid": SID, "Effect": "Deny", "Action": "*", "Resource": "*", "Condition": condition }))
}

/// Denies what was issued up to a revocation.
fn by_time(revoked_at: Timestamp) -> Value {
    let whole = revoked_at.as_second().saturating_add(1).saturating_add(ISSUE_TIME_SLACK.as_secs());
    let cut = Timestamp::from_second(whole).unwrap_or(Timestamp::MAX);
    json!({
        "Sid": format!("{SID}ByTime"), "Effect": "Deny", "Action": "*", "Resource": "*",
        "Condition": { "DateLessThan": { "aws:TokenIssueTime": cut.to_string() } },
    })
}

/// How many leases can be named beside other statements. Each takes as much as any other.
fn room(by: DenyBy, beside: &[Value], size: usize) -> Result<usize> {
    let example = |serial: u128| RevokedSerial { serial: format!("{serial:032x}"), revoked_at: Timestamp::MIN, not_after: Timestamp::MAX };
    let (one, two) = (example(0), example(1));
    let with = |entries: &[&RevokedSerial]| named(by, entries).map(|statement| length(&[beside, &[statement]].concat()));
    let (first, second) = (with(&[&one])?, with(&[&one, &two])?);
    let each = second - first;
    Ok((size + each).saturating_sub(first) / each)
}

fn length(statements: &[Value]) -> usize {
    document(statements).to_string().len()
}

/// Entries are lease ids as 32 hex digits; tags and names hold them as UUIDs are written.
fn lease_of(serial: &str) -> Result<LeaseId> {
    let number = u128::from_str_radix(serial, 16).ok().filter(|_| serial.len() == 32);
    let number = number.ok_or_else(|| Error::internal(format!("{serial:?} on a list of AWS is no lease's id")))?;
    Ok(LeaseId::from_bytes(number.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::role::AwsOverflow::{Fail, RoleSessions};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + second * 1000 + 250).unwrap()
    }

    fn entry(number: u32) -> RevokedSerial {
        RevokedSerial { serial: format!("{number:032x}"), revoked_at: at(i64::from(number)), not_after: at(100_000) }
    }

    fn list(count: u32) -> Vec<RevokedSerial> {
        (1..=count).map(entry).collect()
    }

    fn uuid(number: u32) -> String {
        LeaseId::from_bytes(u128::from(number).to_be_bytes()).to_string()
    }

    #[test]
    fn each_way_has_its_condition() {
        let condition = |by, revoked: &[RevokedSerial]| state(by, revoked, Fail, 8000, at(0)).unwrap().statements[0]["Condition"].clone();
        assert_eq!(
            condition(DenyBy::SessionTag, &[entry(2), entry(1)]),
            json!({ "StringEquals": { "aws:PrincipalTag/daypass:lease": [uuid(1), uuid(2)] } })
        );
        assert_eq!(
            condition(DenyBy::SessionName, &[entry(1)]),
            json!({ "StringLike": { "aws:userid": ["*:*00000000-0000-0000-0000-000000000001*"] } })
        );
        // The next whole second, and the slack.
        assert_eq!(
            condition(DenyBy::IssueTime, &[entry(1), entry(9), entry(3)]),
            json!({ "DateLessThan": { "aws:TokenIssueTime": "2027-01-15T08:00:15Z" } })
        );
    }

    #[test]
    fn an_empty_list_and_a_lapsed_one_deny_nothing() {
        for by in DenyBy::ALL {
            assert!(state(by, &[], Fail, 8000, at(0)).unwrap().statements.is_empty());
            assert!(state(by, &list(3), RoleSessions, 8000, at(100_000)).unwrap().statements.is_empty());
        }
    }

    #[test]
    fn the_order_of_a_list_does_not_matter() {
        let (mut one, mut other) = (list(50), list(50));
        one.reverse();
        other.rotate_left(7);
        for overflow in [Fail, RoleSessions] {
            for size in [600, 8000] {
                let of = |revoked: &[RevokedSerial]| state(DenyBy::SessionTag, revoked, overflow, size, at(0)).unwrap();
                assert_eq!(of(&one), of(&other));
            }
        }
    }

    #[test]
    fn a_full_list_stays_within_its_size_to_the_character() {
        for by in [DenyBy::SessionTag, DenyBy::SessionName] {
            for size in [512, 777, 2000, 8000, 10_240] {
                for (overflow, beside) in [(Fail, false), (RoleSessions, true)] {
                    let stated = state(by, &list(400), overflow, size, at(0)).unwrap();
                    let length = length(&stated.statements);
                    let each = if by == DenyBy::SessionTag { 39 } else { 43 };
                    assert!(length <= size && length + each > size, "{by:?} {overflow:?}: {length} of {size}");
                    assert_eq!(stated.by_time > 0, beside);
                    assert_eq!(stated.left_out > 0, !beside);
                }
            }
        }
    }

    #[test]
    fn a_full_list_keeps_the_oldest_named_or_denies_them_by_time() {
        let text = |overflow| {
            let stated = state(DenyBy::SessionTag, &list(400), overflow, 2000, at(0)).unwrap();
            (document(&stated.statements).to_string(), stated)
        };
        let (kept, stated) = text(Fail);
        assert!(kept.contains(&uuid(1)) && !kept.contains(&uuid(400)));
        assert_eq!(stated.left_out + kept.matches("00000000-0000-").count(), 400);
        let (cut, stated) = text(RoleSessions);
        assert!(cut.contains(&uuid(400)) && !cut.contains(&uuid(1)));
        let last_cut = u32::try_from(stated.by_time).unwrap();
        assert!(cut.contains(&uuid(last_cut + 1)) && !cut.contains(&uuid(last_cut)), "each lease is denied in one way");
        let time = Timestamp::from_second(at(i64::from(last_cut)).as_second() + 6).unwrap();
        assert!(cut.contains(&time.to_string()), "{cut}");
    }

    #[test]
    fn the_capacity_is_what_fits_and_no_more() {
        for (by, size) in [(DenyBy::SessionTag, 512), (DenyBy::SessionTag, 8000), (DenyBy::SessionName, 8000)] {
            let capacity = u32::try_from(capacity(by, size).unwrap()).unwrap();
            let left_out = |count| state(by, &list(count), Fail, size, at(0)).unwrap().left_out;
            assert_eq!((left_out(capacity), left_out(capacity + 1)), (0, 1), "{by:?}, {size}");
        }
        assert_eq!(capacity(DenyBy::IssueTime, 512), None);
    }

    #[test]
    fn what_is_no_lease_is_a_defect() {
        for serial in ["", "1", "zz", &"g".repeat(32), &"0".repeat(33)] {
            let bad = RevokedSerial { serial: serial.to_owned(), ..entry(1) };
            assert!(state(DenyBy::SessionTag, &[bad], Fail, 8000, at(0)).is_err(), "{serial}");
        }
    }

    #[test]
    fn meaning_is_compared_and_foreign_statements_are_told_apart() {
        let ours = state(DenyBy::SessionTag, &list(2), Fail, 8000, at(0)).unwrap().statements;
        let mut other = ours.clone();
        other[0]["Action"] = json!(["*"]);
        other[0]["Condition"]["StringEquals"]["aws:PrincipalTag/daypass:lease"] = json!([uuid(2), uuid(1)]);
        assert!(mean_the_same(&ours, &other));
        other[0]["Condition"]["StringEquals"]["aws:PrincipalTag/daypass:lease"] = json!([uuid(1)]);
        assert!(!mean_the_same(&ours, &other) && !mean_the_same(&ours, &[]));
        let foreign = json!({ "Effect": "Deny", "Action": "*", "Resource": "*" });
        let mixed = document(&[ours.clone(), vec![foreign.clone()]].concat());
        assert_eq!(parted(&mixed), (ours, vec![foreign.clone()]));
        assert_eq!(parted(&json!({ "Statement": foreign })), (vec![], vec![foreign]));
    }
}
