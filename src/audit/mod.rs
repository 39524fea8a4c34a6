//! The append-only record: JSON lines on disk, each chained to the one before by its hash, durable before an answer leaves.
//!
//! # What lies in the directory
//!
//! | file | what |
//! |---|---|
//! | `audit-<seq of its first record, 20 digits>.jsonl` | a segment: records, one a line, mode 0600 |
//! | `head` | the newest durable sequence number (20 digits), a space, that record's hash, a newline; 86 bytes |
//! | `lock` | locked by the one server that appends |
//!
//! A record is one line, `{"seq":N,"prev":"…",` the fields of [`Event`] `,"hash":"…"}`. Its `hash` is SHA-256, in lower-case
//! hex, over every byte of the line that stands before `,"hash"`; its `prev` is the `hash` of record N-1, and 64 zeros for
//! record 1. An auditor needs no tool of ours to check record 5 of a segment:
//!
//! ```text
//! sed -n 5p audit-00000000000000000001.jsonl | head -c -76 | sha256sum   # 76 bytes: ,"hash":"<64 hex>"} and the newline
//! ```
//!
//! [`verify`](verify::verify) does so for all of them. `head` makes a tail that was cut off visible. Neither can show a history
//! that was rewritten from some record on, with every later hash and the head: keep the newest hash elsewhere for that.
//!
//! Events of the log itself are called `log/…`: `log/recovered` (an unfinished record was cut away after a crash),
//! `log/uncertain` (these records stand, but their requests may have been answered with an error) and `log/restored` (the record
//! could not be written for a while, and now can).

pub mod disk;
pub mod read;
mod record;
mod segments;
pub mod verify;

use std::path::PathBuf;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::model::{error::Error, event::Event};

pub use disk::{AuditOptions, DiskLog};
pub use record::MAX_RECORD;

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The sequence number of the last of the appended events, from 1, without gaps; the others stand right before it.
    pub seq: u64,
}

/// The record of actions.
#[async_trait]
pub trait AuditLog: Send + Sync {
    /// Appends events in order, next to each other, and answers when all of them are durable, or fails within [`APPEND_TIMEOUT`]
    /// with `Code::AuditUnavailable`. Events whose append failed are not written later; the one exception is a write that the
    /// system had begun and that succeeds after the append gave up: a `log/uncertain` record then names them.
    ///
    /// Texts are shortened by [`Event::bound`] first. An event that is still longer than [`MAX_RECORD`] fails its own append
    /// with `Code::Internal`, and no other.
    async fn append(&self, events: Vec<Event>) -> Result<Receipt, Error>;

    /// Whether the log can be written.
    fn health(&self) -> Health;

    /// Reads what is durable.
    fn reader(&self) -> AuditReader;
}

/// Reads a log while it is appended to.
#[derive(Clone)]
pub struct AuditReader {
    dir: PathBuf,
    durable: watch::Receiver<u64>,
}

impl AuditReader {
    /// A reader of the log in `dir`, whose newest durable sequence number `durable` tells.
    pub fn new(dir: PathBuf, durable: watch::Receiver<u64>) -> Self {
        Self { dir, durable }
    }

    /// The newest durable sequence number, as it grows.
    pub fn durable(&self) -> watch::Receiver<u64> {
        self.durable.clone()
    }

    /// The records after a sequence number; see [`read::records`]. Reads the disk.
    ///
    /// # Errors
    /// `Code::AuditUnavailable` when the directory cannot be read.
    pub fn after(&self, seq: u64) -> Result<read::Records, Error> {
        read::records(&self.dir, seq)
    }
}

/// How the record is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Why it cannot be written; none when it can.
    pub fault: Option<String>,
    /// Events that wait to become durable.
    pub waiting: usize,
    /// How long the oldest of them has waited.
    pub lag: std::time::Duration,
    /// The newest durable sequence number; 0 for an empty log.
    pub durable_seq: u64,
}

/// How long an append may take before it fails.
pub const APPEND_TIMEOUT: std::time::Duration = std::time::Duration::from_millis(800);
