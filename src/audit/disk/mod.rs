//! The record on this machine's disk: one writer thread, and group commit.
//!
//! Appends wait in a bounded queue. The writer takes all that wait, writes them at once and syncs once; meanwhile the next ones
//! gather. See `group` for when it waits for more.

mod files;
mod group;
mod queue;
mod recover;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

use std::{path::PathBuf, sync::Arc, thread::JoinHandle, time::Instant};

use async_trait::async_trait;
use tokio::sync::watch;

use self::{
    files::{Disk, Files},
    queue::Queue,
    writer::Writer,
};
use super::{APPEND_TIMEOUT, AuditLog, AuditReader, Health, Receipt};
use crate::{
    clock::{Clock, SystemClock},
    model::{error::Error, event::Event},
};

/// How long a segment grows, in bytes, unless configured otherwise.
pub const DEFAULT_SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// How many events may wait to become durable, unless configured otherwise.
pub const DEFAULT_MAX_WAITING: usize = 8192;

/// How a log is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditOptions {
    /// Where its files lie; made, for its owner only, where it is not there.
    pub dir: PathBuf,
    /// A segment that holds records gets no more once it would grow past this, in bytes. [`DEFAULT_SEGMENT_BYTES`].
    pub segment_bytes: u64,
    /// The most events that wait to become durable; an append that would exceed it fails at once. [`DEFAULT_MAX_WAITING`].
    pub max_waiting: usize,
}

impl AuditOptions {
    /// The defaults, in a directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), segment_bytes: DEFAULT_SEGMENT_BYTES, max_waiting: DEFAULT_MAX_WAITING }
    }
}

/// An audit log on disk. Dropping it writes what waits and ends the writer; a hung disk is waited for no longer than
/// [`APPEND_TIMEOUT`].
pub struct DiskLog {
    dir: PathBuf,
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl DiskLog {
    /// Opens the log in a directory, for this process alone, and continues it.
    ///
    /// An unfinished record behind the head, as a crash leaves it, is cut away; that is recorded itself (`log/recovered`), as are whole
    /// records behind the head (`log/uncertain`). The newest segment is checked in full.
    ///
    /// # Errors
    /// `Code::AuditUnavailable` when another process has the log open, when the disk fails, and when the newest segment or the head
    /// is broken in any other way: the text names file, line and what is wrong.
    pub fn open(options: AuditOptions) -> Result<Self, Error> {
        Self::open_with_clock(options, Arc::new(SystemClock))
    }

    /// The same, with the clock that dates the log's own events.
    ///
    /// # Errors
    /// As [`DiskLog::open`].
    pub fn open_with_clock(options: AuditOptions, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        Self::open_on(options, clock, Box::new(Disk))
    }

    fn open_on(options: AuditOptions, clock: Arc<dyn Clock>, files: Box<dyn Files>) -> Result<Self, Error> {
        let AuditOptions { dir, segment_bytes, max_waiting } = options;
        let opened = recover::open(dir.clone(), segment_bytes, files)?;
        let queue = Arc::new(Queue::new(max_waiting, opened.tail.link.seq));
        let mut writer = Writer::new(opened, queue.clone(), clock);
        writer.record_what_was_found()?;
        let thread = std::thread::Builder::new()
            .name(String::from("audit"))
            .spawn(move || writer.run())
            .map_err(|error| Error::internal(format_args!("the audit writer cannot be started: {error}")))?;
        Ok(Self { dir, queue, thread: Some(thread) })
    }

    /// The newest durable sequence number, for who follows the log; read it with [`super::read`].
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.queue.durable.subscribe()
    }

    /// How many groups were committed since the log was opened: with the sequence numbers, how well commits are shared.
    pub fn groups(&self) -> u64 {
        self.queue.groups()
    }
}

#[async_trait]
impl AuditLog for DiskLog {
    async fn append(&self, mut events: Vec<Event>) -> Result<Receipt, Error> {
        for event in &mut events {
            event.bound();
        }
        let Some(mut answer) = self.queue.push(events, Instant::now())? else {
            return Ok(Receipt { seq: *self.queue.durable.borrow() });
        };
        if let Ok(answered) = tokio::time::timeout(APPEND_TIMEOUT, &mut answer).await {
            return answered.unwrap_or_else(|_| Err(queue::unavailable("the writer has stopped")));
        }
        // From here on the writer learns that we gave up; an answer that came before stands.
        answer.close();
        answer.try_recv().unwrap_or_else(|_| Err(queue::unavailable("the append timed out")))
    }

    fn health(&self) -> Health {
        self.queue.health(Instant::now())
    }

    fn reader(&self) -> AuditReader {
        AuditReader::new(self.dir.clone(), self.subscribe())
    }
}

impl Drop for DiskLog {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take()
            && self.queue.wait_until_stopped(APPEND_TIMEOUT)
        {
            // It ended; a panic of it was logged, and is no reason for another one here.
            let _ = thread.join();
        }
    }
}
