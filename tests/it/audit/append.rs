use std::{os::unix::fs::PermissionsExt, process::Command, sync::Arc};

use daypass::{
    audit::{AuditLog, AuditOptions, DiskLog, MAX_RECORD, read, verify::verify},
    model::{error::Code, event::Event},
};

use super::{event, fill, open, segments};

fn call_id(record: &str) -> String {
    serde_json::from_str::<Event>(record).unwrap().call_id.unwrap()
}

#[tokio::test]
async fn a_log_goes_on_after_it_was_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made/on/the/way");
    fill(&path, 1 << 20, 1..=3).await;
    fill(&path, 1 << 20, 4..=5).await;
    let summary = verify(&path).unwrap();
    assert_eq!((summary.records, summary.segments, summary.head_seq, summary.unfinished_bytes), (5, 1, Some(5), 0));
    let ids: Vec<_> = read::records(&path, 0).unwrap().map(|record| call_id(&record.unwrap().1)).collect();
    assert_eq!(ids, ["1", "2", "3", "4", "5"]);
}

#[tokio::test]
async fn segments_rotate_by_size_and_are_for_the_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 2000, 1..=40).await;
    let segments = segments(dir.path());
    assert!(segments.len() > 4, "{segments:?}");
    for path in segments.iter().chain([&dir.path().join("head"), &dir.path().join("lock")]) {
        let meta = std::fs::metadata(path).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{path:?}");
        assert!(meta.len() <= 2000);
        if path.extension().is_some() {
            verify(path).unwrap();
        }
    }
    assert_eq!(verify(dir.path()).unwrap().records, 40);
}

#[tokio::test]
async fn an_auditor_needs_no_tool_but_sha256sum() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 1 << 20, 1..=5).await;
    let shell = |script: &str| {
        let out = Command::new("sh").arg("-c").arg(script).arg("sh").arg(&segments(dir.path())[0]).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    let computed = shell("sed -n 5p \"$1\" | head -c -76 | sha256sum | cut -c1-64");
    assert_eq!(computed, shell("sed -n 5p \"$1\" | grep -o '\"hash\":\"[0-9a-f]*\"}$' | cut -c9-72"));
    assert_eq!(shell("sed -n 4p \"$1\" | grep -o '\"hash\":\"[0-9a-f]*\"}$' | cut -c9-72"), shell("sed -n 5p \"$1\" | cut -c18-81"));
    assert_eq!(computed, verify(dir.path()).unwrap().last_hash);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_appends_are_all_there_in_order_in_far_fewer_groups() {
    const TASKS: u64 = 64;
    const EACH: u64 = 100;
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(open(dir.path(), 64 * 1024));
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let log = log.clone();
            tokio::spawn(async move {
                let mut seqs = Vec::new();
                for at in 0..EACH {
                    // Every tenth append is of two events, which must stay neighbours.
                    let id = task * EACH + at;
                    let mut events = vec![event(id)];
                    if at % 10 == 0 {
                        events.push(event(id + 1_000_000));
                    }
                    seqs.push((id, log.append(events).await.unwrap().seq));
                }
                seqs
            })
        })
        .collect();
    let mut acknowledged = Vec::new();
    for task in tasks {
        let seqs = task.await.unwrap();
        assert!(seqs.is_sorted_by_key(|(_, seq)| *seq), "a caller's appends are out of order");
        acknowledged.extend(seqs);
    }
    let health = log.health();
    assert_eq!((health.fault, health.waiting, health.durable_seq), (None, 0, TASKS * EACH * 11 / 10));
    assert_eq!(*log.subscribe().borrow(), health.durable_seq);
    assert!(log.groups() * 4 < TASKS * EACH, "{} groups", log.groups());
    drop(log);

    let summary = verify(dir.path()).unwrap();
    assert_eq!(summary.records, TASKS * EACH * 11 / 10);
    assert!(summary.segments > 10);
    let records: Vec<_> = read::records(dir.path(), 0).unwrap().map(|record| record.unwrap()).collect();
    assert!(records.iter().map(|(seq, _)| *seq).eq(1..=summary.records));
    for (id, seq) in acknowledged {
        let at = usize::try_from(seq).unwrap() - 1;
        let last = call_id(&records[at].1);
        if last == (id + 1_000_000).to_string() {
            assert_eq!(call_id(&records[at - 1].1), id.to_string());
        } else {
            assert_eq!(last, id.to_string());
        }
    }
}

#[tokio::test]
async fn an_event_that_is_too_long_fails_alone() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 1 << 20);
    let mut long = event(2);
    // The only part that `Event::bound` leaves alone; a real lease never has so many.
    let lease = super::read::lease(1, 1);
    let daypass::model::lease::Handle::X509 { ca, serials, tbs, .. } = lease.handle.clone() else { panic!("no certificate") };
    let serials = vec![serials[0].clone(); 2000];
    long.lease =
        Some(daypass::model::lease::Lease { handle: daypass::model::lease::Handle::X509 { ca, serials, tbs, next_key: None }, ..lease });
    let (before, refused, after) =
        tokio::join!(log.append(vec![event(1)]), log.append(vec![event(9), long, event(9)]), log.append(vec![event(3)]));
    assert_eq!((before.unwrap().seq, after.unwrap().seq), (1, 2));
    let error = refused.unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert!(error.cause().unwrap().contains(&MAX_RECORD.to_string()), "{error}");
    assert_eq!(log.health().fault, None);
    drop(log);
    assert_eq!(verify(dir.path()).unwrap().records, 2);
}

#[tokio::test]
async fn a_caller_cannot_keep_its_own_denial_out_of_the_record() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 1 << 20);
    let mut denial = event(1);
    denial.detail = vec!["\u{1}".repeat(100_000); 100];
    denial.request_id = Some("\"".repeat(1_000_000));
    assert_eq!(log.append(vec![denial]).await.unwrap().seq, 1);
    drop(log);
    let (_, record) = read::newest(dir.path(), 1).unwrap().next().unwrap().unwrap();
    let event: Event = serde_json::from_str(&record).unwrap();
    assert_eq!(event.shortened, ["request_id", "detail"]);
    verify(dir.path()).unwrap();
}

#[tokio::test]
async fn nothing_to_append_is_nothing_appended() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 1 << 20);
    assert_eq!(log.append(Vec::new()).await.unwrap().seq, 0);
    log.append(vec![event(1)]).await.unwrap();
    assert_eq!(log.append(Vec::new()).await.unwrap().seq, 1);
}

#[tokio::test]
async fn two_servers_never_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path(), 1 << 20);
    let Err(error) = DiskLog::open(AuditOptions::new(dir.path())) else { panic!("opened twice") };
    assert_eq!(error.code(), Code::AuditUnavailable);
    assert!(error.public().contains("another server appends"), "{error}");
    first.append(vec![event(1)]).await.unwrap();
    drop(first);
    open(dir.path(), 1 << 20).append(vec![event(2)]).await.unwrap();
    assert_eq!(verify(dir.path()).unwrap().records, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_log_verifies_and_reads_without_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(open(dir.path(), 32 * 1024));
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let (log, done) = (log.clone(), done.clone());
            tokio::spawn(async move {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    log.append(vec![event(task); 3]).await.unwrap();
                }
            })
        })
        .collect();
    let path = dir.path().to_owned();
    let watched = tokio::task::spawn_blocking(move || {
        let mut tail = read::records(&path, 0).unwrap();
        let mut seen = 0;
        let started = std::time::Instant::now();
        while seen < 1000 {
            assert!(started.elapsed().as_secs() < 60, "only {seen} records");
            for record in tail.by_ref().take(100) {
                seen += 1;
                assert_eq!(record.unwrap().0, seen);
            }
            let summary = verify(&path).unwrap();
            assert!(summary.head_seq.unwrap() >= seen && summary.last_seq >= seen);
        }
    })
    .await;
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    watched.unwrap();
    assert!(segments(dir.path()).len() > 1);
}
