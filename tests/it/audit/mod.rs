//! The audit log on a real disk: appended to, crashed, filled up, tampered with, read.
#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute; these are their helpers")]

mod append;
mod crash;
mod full_disk;
mod measure;
mod read;
mod tamper;

use std::path::Path;

use daypass::{
    audit::{AuditLog, AuditOptions, DiskLog},
    model::{
        Timestamp,
        event::{Actor, Event, Outcome},
    },
};

/// An event like that of a real call, told apart by its call id; one second after the one before.
fn event(number: u64) -> Event {
    let at = Timestamp::from_second(1_800_000_000 + i64::try_from(number).unwrap()).unwrap();
    let mut event = Event::new(at, "CredentialService/Issue", Outcome::Done);
    event.actor = Some(Actor { authority: "prod.example".into(), ..Actor::service("test") });
    event.call_id = Some(number.to_string());
    event.peer_address = Some("127.0.0.1".parse().unwrap());
    event
}

fn open(dir: &Path, segment_bytes: u64) -> DiskLog {
    DiskLog::open(AuditOptions { segment_bytes, ..AuditOptions::new(dir) }).unwrap()
}

/// Appends events `numbers` one by one and closes the log.
async fn fill(dir: &Path, segment_bytes: u64, numbers: std::ops::RangeInclusive<u64>) {
    let log = open(dir, segment_bytes);
    for number in numbers {
        log.append(vec![event(number)]).await.unwrap();
    }
}

/// The segments of a directory, oldest first.
fn segments(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .collect();
    paths.sort();
    paths
}
