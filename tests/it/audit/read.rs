use std::collections::BTreeMap;

use daypass::{
    audit::{AuditLog, read},
    model::{
        Timestamp,
        event::Event,
        lease::{Change, Handle, Lease, LeaseId, LeaseState, LiveSerial, Reach},
    },
};

use super::{event, fill, open, segments};

fn at(number: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + number).unwrap()
}

/// An active lease, told apart by a number.
pub(super) fn lease(number: u8, version: u32) -> Lease {
    let tenant = "acme".parse().unwrap();
    Lease {
        id: LeaseId::new(at(0), [number; 10], &tenant),
        version,
        role: "web".parse().unwrap(),
        kind: daypass::model::credential::CredentialKind::X509,
        tenant,
        subject: String::from("spiffe://prod.example/ci").try_into().unwrap(),
        state: LeaseState::Active,
        issued_at: at(0),
        expires_at: at(900),
        renew_until: at(3600),
        generation: 1,
        reach: Reach::Crl,
        live_until: at(900),
        revoked_at: None,
        renewed_at: None,
        held_until: None,
        acknowledged: 0,
        claim: None,
        enrolled: false,
        handle: Handle::X509 {
            ca: "issuing".parse().unwrap(),
            serials: vec![LiveSerial { serial: "0a".repeat(16), not_after: at(900), ca: None }],
            tbs: "00".repeat(16),
            next_key: None,
        },
    }
}

fn lease_event(number: u64, lease: Lease) -> Event {
    let mut event = event(number);
    event.lease_id = Some(lease.id);
    event.lease = Some(lease);
    event
}

#[tokio::test]
async fn records_start_anywhere_and_go_on_when_more_become_durable() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 3000, 1..=40).await;
    for after in 0..=41 {
        let seqs: Vec<u64> = read::records(dir.path(), after).unwrap().map(|record| record.unwrap().0).collect();
        assert!(seqs.iter().copied().eq(after + 1..=40), "after {after}: {seqs:?}");
    }
    let mut tail = read::newest(dir.path(), 2).unwrap();
    assert_eq!(tail.by_ref().map(|record| record.unwrap().0).collect::<Vec<_>>(), [39, 40]);
    assert!(tail.next().is_none());
    let log = open(dir.path(), 3000);
    let mut durable = log.subscribe();
    for number in 41..=80 {
        log.append(vec![event(number)]).await.unwrap();
        assert_eq!(*durable.borrow_and_update(), number);
        let (seq, record) = tail.next().unwrap().unwrap();
        assert_eq!(seq, number);
        assert!(record.starts_with(&format!("{{\"seq\":{number},")) && record.ends_with('}'), "{record}");
        assert!(tail.next().is_none());
    }
    assert_eq!(read::newest(dir.path(), 1000).unwrap().count(), 80);
    assert_eq!(read::newest(dir.path(), 0).unwrap().count(), 0);
}

#[tokio::test]
async fn a_record_is_found_in_a_long_segment() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 1 << 30);
    for number in 0..40 {
        let mut events: Vec<Event> = (0..100).map(|at| event(number * 100 + at)).collect();
        for event in &mut events {
            event.detail = vec!["x".repeat(900 - usize::try_from(number * 20).unwrap())];
        }
        log.append(events).await.unwrap();
    }
    assert_eq!(segments(dir.path()).len(), 1);
    for after in [0, 1, 99, 1000, 1999, 2000, 3998, 3999] {
        let (seq, record) = read::records(dir.path(), after).unwrap().next().unwrap().unwrap();
        assert_eq!(seq, after + 1);
        assert!(record.contains(&format!("\"call_id\":\"{after}\"")));
    }
}

#[tokio::test]
async fn what_is_gone_is_an_error_and_an_empty_log_is_none() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), 2000));
    assert!(read::records(dir.path(), 0).unwrap().next().is_none());
    assert!(read::replay(dir.path(), at(0)).unwrap().next().is_none());
    assert!(read::leases_since(dir.path(), at(0)).unwrap().next().is_none());
    fill(dir.path(), 2000, 1..=20).await;
    std::fs::remove_file(&segments(dir.path())[1]).unwrap();
    let mut records = read::records(dir.path(), 0).unwrap();
    let failed = records.by_ref().find_map(Result::err).expect("a missing segment was passed over");
    assert!(failed.cause().unwrap().contains("record"), "{failed}");
    assert!(records.next().is_none());
    assert!(read::records(&dir.path().join("nowhere"), 0).unwrap().next().is_none());
}

#[tokio::test]
async fn a_replay_gives_the_events_since_a_time() {
    let dir = tempfile::tempdir().unwrap();
    // A second each: 2,000 events span more than the margin many times, over many segments.
    let log = open(dir.path(), 64 * 1024);
    for chunk in 0..20 {
        log.append((0..100).map(|at| event(chunk * 100 + at)).collect()).await.unwrap();
    }
    for since in [0, 1, 500, 1234, 1999, 2000] {
        let events: Vec<Event> = read::replay(dir.path(), at(since)).unwrap().map(|event| event.unwrap()).collect();
        assert_eq!(events.len(), usize::try_from(2000 - since).unwrap());
        assert!(events.iter().zip(since..).all(|(event, second)| event.time == at(second)));
    }
    // What is older is not even opened.
    std::fs::write(&segments(dir.path())[0], "no record\n").unwrap();
    assert_eq!(read::replay(dir.path(), at(1900)).unwrap().filter_map(Result::ok).count(), 100);
    assert!(read::replay(dir.path(), at(0)).is_err());
}

#[tokio::test]
async fn leases_come_newest_first_and_the_first_one_given_holds() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 4000);
    let mut number = 0;
    let mut newest: BTreeMap<LeaseId, Lease> = BTreeMap::new();
    for round in 0..6 {
        for id in 0..30 {
            // Each lease stops changing in another round; some are revoked at last.
            if round > id % 6 {
                continue;
            }
            let mut next = match newest.get(&lease(id, 1).id) {
                Some(before) => Lease { version: before.version + 1, ..before.clone() },
                None => lease(id, 1),
            };
            if round == id % 6 && id % 2 == 0 {
                next = next.apply(Change::BeginRevoke { at: at(number) }).unwrap();
            }
            newest.insert(next.id, next.clone());
            log.append(vec![lease_event(number.try_into().unwrap(), next), event(number.try_into().unwrap())]).await.unwrap();
            number += 1;
        }
    }
    assert!(segments(dir.path()).len() > 10);
    let mut found: BTreeMap<LeaseId, Lease> = BTreeMap::new();
    for lease in read::leases_since(dir.path(), at(0)).unwrap() {
        let lease = lease.unwrap();
        let first = found.entry(lease.id).or_insert_with(|| lease.clone());
        assert!(first.version >= lease.version);
    }
    assert_eq!(found, newest);
    let late = at(number - 3);
    assert_eq!(read::leases_since(dir.path(), late).unwrap().count(), 3);
}
