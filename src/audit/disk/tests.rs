//! Faults of the disk, injected: full, torn, failing, hung.

use std::{
    io,
    path::Path,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{
    AuditOptions, DiskLog,
    files::{Disk, Files, LogFile},
};
use crate::{
    audit::{APPEND_TIMEOUT, AuditLog, read, verify::verify},
    clock::SystemClock,
    model::{
        Timestamp,
        error::Code,
        event::{Event, Outcome},
    },
};

/// What is wrong with the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing.
    None,
    /// Writes to segments store so many bytes and then find the disk full.
    Full(usize),
    /// Syncs fail; the pages are gone, and the next sync would call that a success.
    SyncFails,
    /// Syncs fail, and so does cutting the file.
    SyncAndCutFail,
    /// The head cannot be written; the segment can.
    HeadFails,
    /// No segment can be made.
    NoNewFile,
    /// Writes to segments do not come back until the fault is another one.
    WritesHang,
    /// Syncs do not come back until the fault is another one.
    SyncsHang,
}

/// A disk with a fault, on top of the real one.
#[derive(Clone)]
struct Faulty(Arc<(Mutex<State>, Condvar)>);

struct State {
    fault: Fault,
    /// Whether a call hangs now.
    hanging: bool,
}

struct FaultyFile {
    file: Box<dyn LogFile>,
    is_head: bool,
    faulty: Faulty,
}

impl Faulty {
    fn new() -> Self {
        Self(Arc::new((Mutex::new(State { fault: Fault::None, hanging: false }), Condvar::new())))
    }

    fn set(&self, fault: Fault) {
        self.0.0.lock().unwrap().fault = fault;
        self.0.1.notify_all();
    }

    /// The fault; comes back only when it is not `hang`.
    fn get(&self, hang: Fault) -> Fault {
        let waiting = |state: &mut State| {
            state.hanging = state.fault == hang;
            state.hanging
        };
        self.0.1.wait_while(self.0.0.lock().unwrap(), waiting).unwrap().fault
    }

    fn hangs(&self) -> bool {
        self.0.0.lock().unwrap().hanging
    }

    fn wrap(&self, path: &Path, file: Box<dyn LogFile>) -> Box<dyn LogFile> {
        Box::new(FaultyFile { file, is_head: path.ends_with("head"), faulty: self.clone() })
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

fn enospc() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOSPC)
}

impl Files for Faulty {
    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        if self.get(Fault::WritesHang) == Fault::NoNewFile {
            return Err(enospc());
        }
        Disk.create(path).map(|file| self.wrap(path, file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        Disk.open(path).map(|file| self.wrap(path, file))
    }
}

impl LogFile for FaultyFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self.faulty.get(Fault::WritesHang) {
            Fault::Full(room) if !self.is_head => {
                self.file.write_all_at(&bytes[..room.min(bytes.len())], offset)?;
                Err(enospc())
            }
            Fault::HeadFails if self.is_head => Err(eio()),
            _ => self.file.write_all_at(bytes, offset),
        }
    }

    fn sync(&self) -> io::Result<()> {
        match self.faulty.get(Fault::SyncsHang) {
            Fault::SyncFails | Fault::SyncAndCutFail => Err(eio()),
            _ => self.file.sync(),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        match self.faulty.get(Fault::WritesHang) {
            Fault::SyncAndCutFail => Err(eio()),
            _ => self.file.set_len(len),
        }
    }
}

struct Bench {
    dir: TempDir,
    disk: Faulty,
    log: Arc<DiskLog>,
}

impl Bench {
    fn new() -> Self {
        Self::with(|options| options)
    }

    fn with(change: impl FnOnce(AuditOptions) -> AuditOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = Faulty::new();
        let options = change(AuditOptions::new(dir.path()));
        let log = DiskLog::open_on(options, Arc::new(SystemClock), Box::new(disk.clone())).unwrap();
        Self { dir, disk, log: Arc::new(log) }
    }

    async fn append(&self, id: &str) -> Result<u64, crate::model::error::Error> {
        self.log.append(vec![event(id)]).await.map(|receipt| receipt.seq)
    }

    async fn until(&self, what: &str, limit: Duration, holds: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !holds(self) {
            assert!(started.elapsed() < limit, "{what}: {:?}", self.log.health());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until_healthy(&self) {
        self.until("it does not recover", Duration::from_secs(5), |bench| bench.log.health().fault.is_none()).await;
    }

    /// Closes and verifies the log; gives each record as its call id, or as its method and detail when it is the log's own.
    fn close(self) -> Vec<String> {
        drop(self.log);
        let summary = verify(self.dir.path()).unwrap();
        assert_eq!((summary.unfinished_bytes, summary.head_seq), (0, Some(summary.last_seq)));
        let reopened = DiskLog::open(AuditOptions::new(self.dir.path())).unwrap();
        assert_eq!(reopened.health().durable_seq, summary.last_seq, "something was left to recover");
        records(self.dir.path())
    }
}

fn event(id: &str) -> Event {
    let mut event = Event::new(Timestamp::from_second(1_800_000_000).unwrap(), "CredentialService/Issue", Outcome::Done);
    event.call_id = Some(id.to_owned());
    event
}

fn records(dir: &Path) -> Vec<String> {
    read::records(dir, 0)
        .unwrap()
        .map(|record| {
            let event: Event = serde_json::from_str(&record.unwrap().1).unwrap();
            event.call_id.unwrap_or_else(|| format!("{} {}", event.method, event.detail.join("; ")))
        })
        .collect()
}

#[tokio::test]
async fn a_failed_write_leaves_nothing_and_the_log_recovers_by_itself() {
    for fault in [Fault::Full(0), Fault::Full(1), Fault::Full(200), Fault::Full(usize::MAX), Fault::SyncFails, Fault::HeadFails] {
        let bench = Bench::new();
        bench.append("before").await.unwrap();
        bench.disk.set(fault);
        for id in ["lost 1", "lost 2"] {
            let asked = Instant::now();
            let error = bench.append(id).await.unwrap_err();
            assert_eq!(error.code(), Code::AuditUnavailable);
            assert!(asked.elapsed() < APPEND_TIMEOUT && error.cause().is_some(), "{error}");
        }
        let health = bench.log.health();
        assert!(health.fault.is_some() && health.waiting == 0 && health.durable_seq == 1, "{health:?}");
        // Cut away at once; only where the head cannot be put back the records stay until it can.
        let summary = verify(bench.dir.path()).unwrap();
        let uncut = u64::from(fault == Fault::HeadFails);
        assert_eq!((summary.last_seq, summary.unfinished_bytes), (1 + uncut, 0), "{fault:?}");
        bench.disk.set(Fault::None);
        // Nobody appends: the probe finds it out.
        bench.until_healthy().await;
        assert_eq!(bench.append("after").await.unwrap(), 3);
        let records = bench.close();
        assert_eq!((&*records[0], &*records[2], records.len()), ("before", "after", 3), "{fault:?}: {records:?}");
        assert!(records[1].starts_with("log/restored ") && records[1].ends_with("; 2 appends failed"), "{records:?}");
    }
}

#[tokio::test]
async fn an_append_is_tried_at_once_and_needs_no_probe() {
    let bench = Bench::new();
    bench.disk.set(Fault::SyncFails);
    bench.append("lost").await.unwrap_err();
    bench.disk.set(Fault::None);
    assert_eq!(bench.append("kept").await.unwrap(), 2);
    assert_eq!(bench.log.health().fault, None);
    let records = bench.close();
    assert!(records[0].starts_with("log/restored") && records[1] == "kept", "{records:?}");
}

#[tokio::test]
async fn what_cannot_even_be_cut_is_cut_before_the_next_record() {
    let bench = Bench::new();
    bench.append("before").await.unwrap();
    bench.disk.set(Fault::SyncAndCutFail);
    bench.append(&"lost, and longer than what follows".repeat(20)).await.unwrap_err();
    bench.append("lost").await.unwrap_err();
    bench.disk.set(Fault::None);
    bench.append("after").await.unwrap();
    let records = bench.close();
    assert_eq!((&*records[0], &*records[2], records.len()), ("before", "after", 3), "{records:?}");
}

#[tokio::test]
async fn what_could_not_be_cut_is_called_uncertain_after_a_crash() {
    let bench = Bench::new();
    bench.append("before").await.unwrap();
    bench.disk.set(Fault::SyncAndCutFail);
    bench.append("answered with an error").await.unwrap_err();
    // The disk stays as it is until the process ends.
    let Bench { dir, log, .. } = bench;
    drop(log);
    drop(DiskLog::open(AuditOptions::new(dir.path())).unwrap());
    verify(dir.path()).unwrap();
    let records = records(dir.path());
    assert_eq!(records[..2], ["before", "answered with an error"]);
    assert!(records[2].starts_with("log/uncertain") && records[2].ends_with("; seq 2-2") && records.len() == 3, "{records:?}");
}

#[tokio::test]
async fn a_segment_that_cannot_be_made_is_a_fault_like_any_other() {
    let bench = Bench::with(|options| AuditOptions { segment_bytes: 1, ..options });
    bench.append("1").await.unwrap();
    bench.disk.set(Fault::NoNewFile);
    bench.append("lost").await.unwrap_err();
    bench.disk.set(Fault::None);
    bench.until_healthy().await;
    bench.append("2").await.unwrap();
    assert_eq!(bench.close().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_fails_and_recovers_as_a_whole() {
    let bench = Arc::new(Bench::new());
    bench.disk.set(Fault::SyncFails);
    let append = |id: usize| {
        let bench = bench.clone();
        tokio::spawn(async move { bench.append(&id.to_string()).await })
    };
    for append in (0..100).map(append).collect::<Vec<_>>() {
        append.await.unwrap().unwrap_err();
    }
    bench.disk.set(Fault::None);
    for append in (0..100).map(append).collect::<Vec<_>>() {
        append.await.unwrap().unwrap();
    }
    let records = Arc::into_inner(bench).unwrap().close();
    assert!(records[0].ends_with("100 appends failed"), "{}", records[0]);
    assert_eq!(records.len(), 101);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_disk_fails_appends_in_time_and_then_at_once_and_recovers() {
    for fault in [Fault::WritesHang, Fault::SyncsHang] {
        let bench = Arc::new(Bench::new());
        bench.append("before").await.unwrap();
        bench.disk.set(fault);
        let asked = Instant::now();
        let handed = {
            let bench = bench.clone();
            tokio::spawn(async move { bench.append("handed to the disk").await })
        };
        bench.until("the write never began", Duration::from_secs(1), |bench| bench.disk.hangs()).await;
        let queued = bench.append("queued, never written").await.unwrap_err();
        assert_eq!(queued.code(), Code::AuditUnavailable);
        let handed = handed.await.unwrap().unwrap_err();
        assert_eq!(handed.code(), Code::AuditUnavailable);
        let took = asked.elapsed();
        assert!(took >= APPEND_TIMEOUT && took < Duration::from_secs(1), "{took:?}");

        let health = bench.log.health();
        assert!(health.fault.as_ref().is_some_and(|fault| fault.contains("hanging")), "{health:?}");
        assert!(bench.log.health().lag >= APPEND_TIMEOUT);
        let asked = Instant::now();
        let refused = bench.append("refused").await.unwrap_err();
        assert!(asked.elapsed() < Duration::from_millis(50) && refused.cause().unwrap().contains("hangs"), "{refused}");

        bench.disk.set(Fault::None);
        bench.until_healthy().await;
        bench.append("after").await.unwrap();
        assert_eq!((bench.log.health().waiting, bench.log.health().lag), (0, Duration::ZERO));
        let records = Arc::into_inner(bench).unwrap().close();
        // What the disk had may stand, with a record that says so; what it had not may never.
        assert_eq!(records[..2], ["before", "handed to the disk"]);
        assert!(records[2].starts_with("log/uncertain") && records[2].ends_with("; seq 2-2"), "{records:?}");
        assert_eq!((&*records[3], records.len()), ("after", 4));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hang_that_ends_in_an_error_leaves_nothing() {
    let bench = Bench::new();
    bench.append("before").await.unwrap();
    bench.disk.set(Fault::SyncsHang);
    bench.append("lost").await.unwrap_err();
    bench.disk.set(Fault::SyncFails);
    bench
        .until("the fault is not seen", Duration::from_secs(1), |bench| {
            bench.log.health().fault.is_some_and(|fault| fault.contains("error"))
        })
        .await;
    bench.disk.set(Fault::None);
    bench.until_healthy().await;
    let records = bench.close();
    assert!(records.len() == 2 && records[1].starts_with("log/restored"), "{records:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_that_is_dropped_while_it_waits_is_not_written() {
    let bench = Arc::new(Bench::new());
    bench.disk.set(Fault::SyncsHang);
    let append = |id: &'static str| {
        let bench = bench.clone();
        tokio::spawn(async move { bench.append(id).await })
    };
    let first = append("first");
    bench.until("the sync never began", Duration::from_secs(1), |bench| bench.disk.hangs()).await;
    let dropped = append("dropped");
    bench.until("it is not queued", Duration::from_secs(1), |bench| bench.log.health().waiting == 2).await;
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    bench.disk.set(Fault::None);
    assert_eq!(first.await.unwrap().unwrap(), 1);
    assert_eq!(bench.append("last").await.unwrap(), 2);
    assert_eq!(Arc::into_inner(bench).unwrap().close(), ["first", "last"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_events_wait_than_may() {
    let bench = Arc::new(Bench::with(|options| AuditOptions { max_waiting: 5, ..options }));
    bench.disk.set(Fault::SyncsHang);
    let waiting: Vec<_> = (0..5)
        .map(|id| {
            let bench = bench.clone();
            tokio::spawn(async move { bench.append(&id.to_string()).await })
        })
        .collect();
    bench.until("they do not wait", Duration::from_secs(1), |bench| bench.log.health().waiting == 5).await;
    let refused = bench.append("one too many").await.unwrap_err();
    assert!(refused.cause().unwrap().contains("5 events wait"), "{refused}");
    bench.disk.set(Fault::None);
    for append in waiting {
        append.await.unwrap().unwrap();
    }
    let all = vec![event("x"); 6];
    assert_eq!(bench.log.append(all).await.unwrap_err().code(), Code::AuditUnavailable);
    assert_eq!(Arc::into_inner(bench).unwrap().close().len(), 5);
}

#[tokio::test]
async fn closing_writes_what_waits_and_a_hung_disk_does_not_hold_it_up() {
    let bench = Bench::new();
    let pending: Vec<_> = (0..50).map(|id| bench.log.queue.push(vec![event(&id.to_string())], Instant::now()).unwrap().unwrap()).collect();
    let (dir, log) = (bench.dir, bench.log);
    drop(log);
    for answer in pending {
        answer.await.unwrap().unwrap();
    }
    assert_eq!(records(dir.path()).len(), 50);

    let bench = Bench::new();
    bench.disk.set(Fault::SyncsHang);
    bench.append("handed").await.unwrap_err();
    let started = Instant::now();
    drop(bench.log);
    assert!(started.elapsed() < 2 * APPEND_TIMEOUT);
    // The hung writer still has the directory: nobody else writes there meanwhile.
    assert!(DiskLog::open(AuditOptions::new(bench.dir.path())).is_err());
    bench.disk.set(Fault::None);
}
