//! What stands between the appenders and the writer: the bounded queue, and what each must know of the other.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};

use crate::{
    audit::{APPEND_TIMEOUT, Health, Receipt},
    model::{
        error::{Code, Error},
        event::Event,
    },
};

/// What comes of an append.
pub(super) type Answer = Result<Receipt, Error>;

/// An append that waits.
pub(super) struct Pending {
    /// The events, one or more, bounded.
    pub(super) events: Vec<Event>,
    /// Closed once the appender gave up.
    pub(super) answer: oneshot::Sender<Answer>,
    since: Instant,
}

/// The queue.
pub(super) struct Queue {
    state: Mutex<State>,
    /// Wakes the writer.
    wake: Condvar,
    /// Wakes who waits for the writer's end.
    stop: Condvar,
    max_waiting: usize,
    /// The newest durable sequence number.
    pub(super) durable: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    pending: VecDeque<Pending>,
    /// Events in `pending` and at the writer.
    waiting: usize,
    /// The oldest append at the writer.
    oldest_taken: Option<Instant>,
    /// An append wakes the writer when it makes the queue this long: never for nothing.
    wake_at: usize,
    /// Since when the writer is inside the file system.
    busy_since: Option<Instant>,
    fault: Option<String>,
    groups: u64,
    closed: bool,
    stopped: bool,
}

impl State {
    fn hung(&self, now: Instant) -> Option<Duration> {
        let busy = now.saturating_duration_since(self.busy_since?);
        (busy >= APPEND_TIMEOUT).then_some(busy)
    }
}

/// Why the writer waits no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    /// As many appends wait as it waited for.
    Enough,
    /// The time is over.
    Timeout,
    /// The log is being closed.
    Closed,
}

impl Queue {
    pub(super) fn new(max_waiting: usize, durable: u64) -> Self {
        let state = Mutex::new(State { wake_at: usize::MAX, ..State::default() });
        Self { state, wake: Condvar::new(), stop: Condvar::new(), max_waiting, durable: watch::Sender::new(durable) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock can stop half-way in a state that matters.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // The appenders' side.

    /// Queues an append, or fails at once where waiting would be in vain. None for no events.
    pub(super) fn push(&self, events: Vec<Event>, now: Instant) -> Result<Option<oneshot::Receiver<Answer>>, Error> {
        if events.is_empty() {
            return Ok(None);
        }
        let (answer, receiver) = oneshot::channel();
        let mut state = self.state();
        if state.closed || state.stopped {
            return Err(unavailable("the log is closed"));
        }
        if state.hung(now).is_some() {
            return Err(unavailable("a write hangs"));
        }
        if state.waiting + events.len() > self.max_waiting {
            return Err(unavailable(format_args!("{} events wait already", state.waiting)));
        }
        state.waiting += events.len();
        state.pending.push_back(Pending { events, answer, since: now });
        let wake = state.pending.len() >= state.wake_at;
        drop(state);
        if wake {
            self.wake.notify_one();
        }
        Ok(Some(receiver))
    }

    pub(super) fn health(&self, now: Instant) -> Health {
        let state = self.state();
        let fault = match state.hung(now) {
            _ if state.stopped => Some(String::from("the writer has stopped")),
            Some(busy) => Some(format!("a write has been hanging for {} s", busy.as_secs())),
            None => state.fault.clone(),
        };
        let oldest = state.oldest_taken.or_else(|| state.pending.front().map(|pending| pending.since));
        let lag = oldest.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        Health { fault, waiting: state.waiting, lag, durable_seq: *self.durable.borrow() }
    }

    pub(super) fn groups(&self) -> u64 {
        self.state().groups
    }

    /// Asks the writer to write what waits and to end.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.wake.notify_one();
    }

    /// Whether the writer ends within `limit`.
    pub(super) fn wait_until_stopped(&self, limit: Duration) -> bool {
        let wait = self.stop.wait_timeout_while(self.state(), limit, |state| !state.stopped);
        wait.unwrap_or_else(PoisonError::into_inner).0.stopped
    }

    // The writer's side.

    /// Waits until `count` appends wait, for `limit` at most (none: as long as it takes), or until the log is closed.
    pub(super) fn wait_for(&self, count: usize, limit: Option<Duration>) -> Woken {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut state = self.state();
        state.wake_at = count;
        let woken = loop {
            if state.pending.len() >= count {
                break Woken::Enough;
            }
            if state.closed {
                break Woken::Closed;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            state = match left {
                Some(Duration::ZERO) => break Woken::Timeout,
                Some(left) => self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        };
        state.wake_at = usize::MAX;
        woken
    }

    /// Moves all appends that wait behind those in `taken`.
    pub(super) fn take(&self, taken: &mut VecDeque<Pending>) {
        let mut state = self.state();
        taken.append(&mut state.pending);
        state.oldest_taken = taken.front().map(|pending| pending.since);
    }

    /// The writer enters the file system.
    pub(super) fn begin_write(&self) {
        self.state().busy_since = Some(Instant::now());
    }

    /// The writer has left the file system, with a fault or with a new durable end.
    pub(super) fn end_write(&self, result: Result<u64, String>) {
        let mut state = self.state();
        state.busy_since = None;
        state.groups += u64::from(result.is_ok());
        match result {
            Ok(durable) => {
                state.fault = None;
                drop(state);
                self.durable.send_replace(durable);
            }
            Err(fault) => state.fault = Some(fault),
        }
    }

    /// So many events wait no longer, whatever came of them. Gives how many appends came meanwhile.
    pub(super) fn settle(&self, events: usize) -> usize {
        let mut state = self.state();
        state.waiting = state.waiting.saturating_sub(events);
        state.oldest_taken = None;
        state.pending.len()
    }

    /// The writer ends: nobody waits for it any more.
    pub(super) fn writer_stopped(&self) {
        let mut state = self.state();
        state.stopped = true;
        state.busy_since = None;
        state.waiting = 0;
        // Their appenders learn it as the senders go.
        state.pending.clear();
        drop(state);
        self.stop.notify_all();
    }
}

/// The caller learns that nothing was done, the log why.
pub(super) fn unavailable(internal: impl std::fmt::Display) -> Error {
    Error::new(Code::AuditUnavailable, "the audit log cannot be written, so nothing was issued or changed; try again in a few seconds")
        .because(internal)
}
