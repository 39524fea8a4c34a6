//! What the holder of a lease reads: the messages of its stream, then why it ended.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use futures::Stream;
use tokio::sync::mpsc;

use super::registry::Watches;
use crate::model::{
    Timestamp,
    credential::Credential,
    error::{Code, Error, Result},
    lease::{Lease, LeaseId},
};

/// Messages that wait for a holder who does not read; a rotation that would be one more ends the stream instead.
pub const WATCH_PENDING: usize = 2;

/// A message: how the lease stands, and its newest credential unless the holder has it.
pub struct Watched {
    /// The lease, durable in the store and in the audit log.
    pub lease: Lease,
    /// The credential.
    pub credential: Option<Credential>,
    /// When that was.
    pub now: Timestamp,
}

/// The messages of one watch, then the error that ends it. It leaves the server's streams when it is dropped.
pub struct WatchStream {
    /// None once its end was told.
    messages: Option<mpsc::Receiver<Box<Watched>>>,
    ending: Arc<OnceLock<Error>>,
    place: (Arc<Watches>, LeaseId, u64),
}

impl WatchStream {
    pub(super) fn new(messages: mpsc::Receiver<Box<Watched>>, ending: Arc<OnceLock<Error>>, place: (Arc<Watches>, LeaseId, u64)) -> Self {
        Self { messages: Some(messages), ending, place }
    }
}

impl Stream for WatchStream {
    type Item = Result<Watched>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(messages) = &mut self.messages else { return Poll::Ready(None) };
        if let Some(watched) = ready!(messages.poll_recv(cx)) {
            return Poll::Ready(Some(Ok(*watched)));
        }
        self.messages = None;
        let unsaid = || Error::new(Code::Unavailable, "the stream ended; watch the lease again");
        Poll::Ready(Some(Err(self.ending.get().cloned().unwrap_or_else(unsaid))))
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        let (watches, lease, nth) = &self.place;
        watches.leave(*lease, *nth);
    }
}
