//! A disk that is really full.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use daypass::{
    audit::{AuditLog, read, verify::verify},
    model::{error::Code, event::Event},
};

use super::{event, open};

/// Says that this machine may not mount: the test is left out.
const NO_MOUNT: &str = "DAYPASS_TEST_NO_MOUNT";

/// A small file system of its own; unmounted with the value.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path) -> Self {
        let out = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "daypass-test"]).arg(at).output().unwrap();
        assert!(
            out.status.success(),
            "mounting a tmpfs needs root: {} (set {NO_MOUNT}=1 where that cannot be had)",
            String::from_utf8_lossy(&out.stderr)
        );
        Self(at.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Fills what is left of a file system.
fn fill_up(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
}

#[tokio::test]
async fn a_full_disk_refuses_at_once_and_the_log_recovers_by_itself() {
    if std::env::var_os(NO_MOUNT).is_some() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let _mounted = Tmpfs::mount(dir.path());
    let (path, filler) = (dir.path().join("audit"), dir.path().join("filler"));
    let log = open(&path, 1 << 20);
    for round in 0..3 {
        log.append(vec![event(round)]).await.unwrap();
        fill_up(&filler);
        // What is left of the last page takes a few more.
        let started = Instant::now();
        let error = loop {
            let asked = Instant::now();
            let mut long = event(1000);
            long.detail = vec!["x".repeat(500)];
            if let Err(error) = log.append(vec![long]).await {
                assert!(asked.elapsed() < Duration::from_secs(1));
                break error;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "the disk never became full");
        };
        assert_eq!(error.code(), Code::AuditUnavailable);
        assert!(error.cause().unwrap().contains("No space left"), "{error}");
        assert!(log.health().fault.unwrap().contains("No space left"));
        let durable = log.health().durable_seq;
        assert_eq!(verify(&path).unwrap().last_seq, durable, "the failed record was not cut away");

        fs::remove_file(&filler).unwrap();
        let freed = Instant::now();
        while log.health().fault.is_some() {
            assert!(freed.elapsed() < Duration::from_secs(5), "it does not recover by itself");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (_, record) = read::records(&path, durable).unwrap().next().unwrap().unwrap();
        let restored: Event = serde_json::from_str(&record).unwrap();
        assert_eq!(restored.method, "log/restored");
        assert!(restored.detail[0].contains("No space left") && restored.detail[1].starts_with("1 "), "{:?}", restored.detail);
    }
    drop(log);
    let summary = verify(&path).unwrap();
    assert_eq!(summary.unfinished_bytes, 0);
    assert_eq!(read::records(&path, 0).unwrap().filter(|record| record.as_ref().unwrap().1.contains("log/restored")).count(), 3);
}
