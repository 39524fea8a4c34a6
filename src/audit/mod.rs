//! The append-only record: JSON lines on disk, each chained to the one before by its hash, durable before an answer leaves.

use async_trait::async_trait;

use crate::model::{error::Error, event::Event};

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Its sequence number, from 1, without gaps.
    pub seq: u64,
}

/// The record of actions.
#[async_trait]
pub trait AuditLog: Send + Sync {
    /// Appends events in order and answers when all of them are durable, or fails within [`APPEND_TIMEOUT`] with
    /// `Code::AuditUnavailable`. An event whose append failed is not written later.
    async fn append(&self, events: Vec<Event>) -> Result<Receipt, Error>;

    /// Whether the last write succeeded, and how long the oldest waiting event has waited.
    fn health(&self) -> Health;
}

/// How the record is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Why it cannot be written; none when it can.
    pub fault: Option<String>,
    /// Events that wait to become durable.
    pub waiting: usize,
    /// The newest durable sequence number; 0 for an empty log.
    pub durable_seq: u64,
}

/// How long an append may take before it fails.
pub const APPEND_TIMEOUT: std::time::Duration = std::time::Duration::from_millis(800);
