//! The streams of one server: which lease each is for, and when its next credential is due. No task and no timer for each: they stand in
//! order of time, and one loop takes those that are due.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, mpsc};

use super::{
    stream::{WATCH_PENDING, WatchStream, Watched},
    turns::{CallerTurns, LONGEST_TURN, Turn, Turns},
};
use crate::{
    clock,
    model::{
        SignedDuration, Timestamp,
        credential::CredentialKind,
        error::{Code, Error, Result},
        identity::Identity,
        lease::{LeaseId, ServerId},
    },
    policy::WatchTerms,
    vend::Call,
};

/// How many watches a server has, and each caller at it, and how long one lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchLimits {
    /// In all.
    pub total: usize,
    /// Of one caller.
    pub per_caller: usize,
    /// The longest life of one; it ends some time in the last quarter of it.
    pub age: SignedDuration,
}

impl Default for WatchLimits {
    fn default() -> Self {
        Self { total: 100_000, per_caller: 10_000, age: SignedDuration::from_hours(1) }
    }
}

/// How long the loop sleeps at most: the wall clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// Who makes the next credential, which says who waits for whom: a remote system that is slow holds up nothing that is made here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// This process.
    Here,
    /// A remote system.
    Remote,
}

impl Lane {
    pub(super) fn of(kind: CredentialKind) -> Self {
        match kind {
            CredentialKind::Aws | CredentialKind::Ecr => Self::Remote,
            CredentialKind::X509 | CredentialKind::Registry | CredentialKind::Jwt => Self::Here,
        }
    }
}

/// What does not change of a stream.
pub(in crate::vend) struct Stream {
    /// Tells this stream from an earlier one of the same lease.
    nth: u64,
    pub lease: LeaseId,
    pub lane: Lane,
    pub call: Call,
    pub terms: WatchTerms,
    /// Its age: a connection must not outlive what its server is configured with.
    pub ends_at: Timestamp,
}

/// A stream that is due.
pub(in crate::vend) struct Due {
    pub stream: Arc<Stream>,
    /// The newest generation that was sent, or that its holder has said it has.
    pub generation: u32,
    /// How often in a row its rotation could not be done.
    pub failures: u32,
}

/// A stream about to be entered.
pub(super) struct Opening {
    pub lease: LeaseId,
    pub lane: Lane,
    pub call: Call,
    pub terms: WatchTerms,
    pub ends_at: Timestamp,
    /// When it is to be looked at first.
    pub due: Timestamp,
    /// Another server may be making the next credential until then: it is not looked at sooner, whatever hurries.
    pub not_before: Timestamp,
    pub first: Watched,
}

struct Watching {
    stream: Arc<Stream>,
    messages: mpsc::Sender<Box<Watched>>,
    ending: Arc<OnceLock<Error>>,
    caller: Arc<str>,
    generation: u32,
    failures: u32,
    /// As in [`Opening`].
    not_before: Timestamp,
    /// Where it stands in its lane; nowhere while it is being looked at.
    due: Option<Timestamp>,
}

struct Caller {
    /// Streams that it has or is about to have.
    streams: usize,
    /// For leases that it takes up.
    turns: CallerTurns,
}

#[derive(Default)]
struct State {
    watching: HashMap<LeaseId, Box<Watching>>,
    due: [BTreeSet<(Timestamp, LeaseId)>; 2],
    /// Who has streams, or is about to. Who has none is not remembered.
    callers: HashMap<Arc<str>, Caller>,
    /// Places that are held for streams about to be entered.
    reserved: usize,
    /// The leases that were revoked lately at any server, as far as this one has seen it.
    revoked: HashSet<LeaseId>,
    next: u64,
    closed: bool,
}

/// The streams of one server.
pub struct Watches {
    server: ServerId,
    limits: WatchLimits,
    state: Mutex<State>,
    rings: [Notify; 2],
    turns: Turns,
}

/// A place for a stream about to be entered; it is free again when this is dropped.
pub(super) struct Reservation {
    watches: Arc<Watches>,
    caller: Arc<str>,
    turns: CallerTurns,
}

impl Reservation {
    /// Waits for a turn to take the lease up.
    ///
    /// # Errors
    /// Those of [`CallerTurns::next`].
    pub(super) async fn turn(&self) -> Result<Turn> {
        self.turns.next().await
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.watches.lock();
        state.reserved = state.reserved.saturating_sub(1);
        state.forget_one_of(&self.caller);
    }
}

impl Watches {
    /// No stream yet, under these limits.
    pub(in crate::vend) fn new(limits: WatchLimits) -> Self {
        let server = ServerId(u64::from_be_bytes(clock::random()));
        Self { server, limits, state: Mutex::default(), rings: [Notify::new(), Notify::new()], turns: Turns::new(LONGEST_TURN) }
    }

    /// The name of this server among those that share its store, drawn at its start.
    pub fn server(&self) -> ServerId {
        self.server
    }

    /// What bounds them.
    pub fn limits(&self) -> WatchLimits {
        self.limits
    }

    /// How many streams there are.
    pub fn len(&self) -> usize {
        self.lock().watching.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How late the stream is that has waited longest for its turn, in seconds; 0 when none is due.
    pub fn lag(&self, now: Timestamp) -> f64 {
        let state = self.lock();
        let oldest = state.due.iter().filter_map(|due| due.first()).map(|(at, _)| *at).min();
        oldest.map_or(0.0, |at| now.duration_since(at).as_secs_f64().max(0.0))
    }

    /// Ends every stream, and takes no more: the server is shutting down. Their holders go to another one.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        for lease in state.watching.keys().copied().collect::<Vec<_>>() {
            state.end(lease, closing());
        }
    }

    /// Resolves when a stream of this lane is due by a clock.
    pub async fn due(&self, lane: Lane, now: impl Fn() -> Timestamp) {
        loop {
            let first = self.lock().due[lane as usize].first().map(|(at, _)| *at);
            let wait = first.map_or(LONGEST_SLEEP, |at| Duration::try_from(at.duration_since(now())).unwrap_or(Duration::ZERO));
            if wait.is_zero() {
                return;
            }
            tokio::select! {
                () = self.rings[lane as usize].notified() => {}
                () = tokio::time::sleep(wait.min(LONGEST_SLEEP)) => {}
            }
        }
    }

    /// Holds a place for one more stream of a caller.
    ///
    /// # Errors
    /// `RateLimited` when there are as many as there may be; `Unavailable` when the server is shutting down.
    pub(super) fn reserve(self: &Arc<Self>, identity: &Identity, taking_over: Option<LeaseId>) -> Result<Reservation> {
        let mut state = self.lock();
        if state.closed {
            return Err(closing());
        }
        // One that takes over an earlier stream takes its place, too.
        let spare = usize::from(taking_over.is_some_and(|lease| state.watching.contains_key(&lease)));
        if state.watching.len() + state.reserved >= self.limits.total + spare {
            let busy = format!("this server has {} watches, as many as it takes; try another one", self.limits.total);
            return Err(Error::new(Code::RateLimited, busy));
        }
        let name: Arc<str> = format!("{}\n{}", identity.tenant, identity.subject()).into();
        let caller = state.callers.get_key_value(&name).map_or(name, |(known, _)| known.clone());
        let known = state.callers.entry(caller.clone()).or_insert_with(|| Caller { streams: 0, turns: self.turns.of_a_caller() });
        if known.streams >= self.limits.per_caller + spare {
            let busy = format!("you have {} watches here, as many as one caller may have", self.limits.per_caller);
            return Err(Error::new(Code::RateLimited, busy));
        }
        known.streams += 1;
        let turns = known.turns.clone();
        state.reserved += 1;
        Ok(Reservation { watches: self.clone(), caller, turns })
    }

    /// Enters a stream with its first message. An earlier one of the same lease ends.
    pub(super) fn enter(self: &Arc<Self>, reservation: Reservation, opening: Opening) -> WatchStream {
        let Opening { lease, lane, call, terms, ends_at, due, not_before, first } = opening;
        let (messages, receiver) = mpsc::channel(WATCH_PENDING);
        let (ending, generation) = (Arc::<OnceLock<Error>>::default(), first.lease.generation);
        let caller = reservation.caller.clone();
        let mut state = self.lock();
        state.end(lease, taken_over());
        state.next += 1;
        let nth = state.next;
        if let Some(known) = state.callers.get_mut(&caller) {
            known.streams += 1;
        }
        // The channel is empty.
        let _sent = messages.try_send(Box::new(first));
        let stream = Arc::new(Stream { nth, lease, lane, call, terms, ends_at });
        let watching = Watching { stream, messages, ending: ending.clone(), caller, generation, failures: 0, not_before, due: None };
        state.watching.insert(lease, Box::new(watching));
        state.put(lease, due.min(ends_at));
        if state.closed {
            state.end(lease, closing());
        } else if state.revoked.contains(&lease) {
            state.end(lease, revoked());
        }
        drop(state);
        // Its own lock is taken: not while ours is held.
        drop(reservation);
        self.rings[lane as usize].notify_one();
        WatchStream::new(receiver, ending, (self.clone(), lease, nth))
    }

    /// A stream's receiver is gone.
    pub(super) fn leave(&self, lease: LeaseId, nth: u64) {
        let mut state = self.lock();
        if state.watching.get(&lease).is_some_and(|watching| watching.stream.nth == nth) {
            state.remove(lease);
        }
    }

    /// Up to `limit` streams of a lane that are due, the longest-waiting first. Each is its taker's until that schedules or ends it.
    pub(in crate::vend) fn take_due(&self, lane: Lane, now: Timestamp, limit: usize) -> Vec<Due> {
        let mut state = self.lock();
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some((at, lease)) = state.due[lane as usize].first().copied()
            && at <= now
        {
            state.due[lane as usize].remove(&(at, lease));
            if let Some(watching) = state.watching.get_mut(&lease) {
                watching.due = None;
                let (stream, generation, failures) = (watching.stream.clone(), watching.generation, watching.failures);
                taken.push(Due { stream, generation, failures });
            }
        }
        taken
    }

    /// Looks at a stream again at a time; one that was put off `failed`.
    pub(in crate::vend) fn schedule(&self, stream: &Stream, at: Timestamp, failed: bool) {
        self.with(stream, |state, lease| {
            if let Some(watching) = state.watching.get_mut(&lease) {
                watching.failures = if failed { watching.failures.saturating_add(1) } else { 0 };
            }
            state.put(lease, at.min(stream.ends_at));
        });
        self.rings[stream.lane as usize].notify_one();
    }

    /// Looks at every stream at a time, or as soon as no other server may be making its next credential.
    pub(in crate::vend) fn schedule_all(&self, at: Timestamp) {
        let mut state = self.lock();
        for lease in state.watching.keys().copied().collect::<Vec<_>>() {
            state.put(lease, at);
        }
        drop(state);
        self.rings.iter().for_each(Notify::notify_one);
    }

    /// Looks at the stream of a lease at a time, or when it would be looked at anyway.
    pub(in crate::vend) fn hasten(&self, lease: LeaseId, at: Timestamp) {
        let mut state = self.lock();
        let Some(watching) = state.watching.get(&lease) else { return };
        let lane = watching.stream.lane;
        // One that is being looked at now is scheduled by who does.
        if watching.due.is_some_and(|due| at < due) {
            state.put(lease, at);
        }
        drop(state);
        self.rings[lane as usize].notify_one();
    }

    /// Whether a stream still stands, and has room for one more message. One whose holder does not read is cut: nobody waits for it.
    pub(in crate::vend) fn has_room(&self, stream: &Stream) -> bool {
        self.with(stream, |state, lease| {
            let room = state.watching.get(&lease).is_some_and(|watching| watching.messages.capacity() > 0);
            if !room {
                state.end(lease, does_not_read());
            }
            room
        })
        .unwrap_or(false)
    }

    /// Sends a message, and looks at the stream again at a time. Answers whether it was sent.
    pub(in crate::vend) fn deliver(&self, stream: &Stream, watched: Watched, due: Timestamp) -> bool {
        let sent = self.with(stream, |state, lease| {
            let Some(watching) = state.watching.get_mut(&lease) else { return false };
            (watching.generation, watching.failures) = (watched.lease.generation, 0);
            if watching.messages.try_send(Box::new(watched)).is_err() {
                state.end(lease, does_not_read());
                return false;
            }
            state.put(lease, due.min(stream.ends_at));
            true
        });
        self.rings[stream.lane as usize].notify_one();
        sent.unwrap_or(false)
    }

    /// Ends a stream.
    pub(in crate::vend) fn end(&self, stream: &Stream, error: Error) {
        self.with(stream, |state, lease| state.end(lease, error));
    }

    /// Ends the streams of leases that were revoked. `lately` are all that were revoked within the last minutes, as the store says.
    pub(in crate::vend) fn end_revoked(&self, lately: HashSet<LeaseId>) {
        let mut state = self.lock();
        for lease in &lately {
            state.end(*lease, revoked());
        }
        state.revoked = lately;
    }

    /// Ends the stream of a lease that was revoked at this server.
    pub(in crate::vend) fn end_lease(&self, lease: LeaseId) {
        self.lock().end(lease, revoked());
    }

    /// Does something with a stream unless another one has taken its place.
    fn with<T>(&self, stream: &Stream, work: impl FnOnce(&mut State, LeaseId) -> T) -> Option<T> {
        let mut state = self.lock();
        let stands = state.watching.get(&stream.lease).is_some_and(|watching| watching.stream.nth == stream.nth);
        stands.then(|| work(&mut state, stream.lease))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change under the lock is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Has a stream looked at at a time, but not before it may be.
    fn put(&mut self, lease: LeaseId, at: Timestamp) {
        let Some(watching) = self.watching.get_mut(&lease) else { return };
        let at = at.max(watching.not_before);
        let due = &mut self.due[watching.stream.lane as usize];
        if let Some(before) = watching.due.replace(at) {
            due.remove(&(before, lease));
        }
        due.insert((at, lease));
    }

    fn end(&mut self, lease: LeaseId, error: Error) {
        if let Some(watching) = self.remove(lease) {
            // What was sent before is still read; then its receiver finds this.
            let _first_reason_stays = watching.ending.set(error);
        }
    }

    fn remove(&mut self, lease: LeaseId) -> Option<Box<Watching>> {
        let watching = self.watching.remove(&lease)?;
        if let Some(at) = watching.due {
            self.due[watching.stream.lane as usize].remove(&(at, lease));
        }
        self.forget_one_of(&watching.caller);
        Some(watching)
    }

    fn forget_one_of(&mut self, caller: &Arc<str>) {
        if let Some(known) = self.callers.get_mut(caller) {
            known.streams -= 1;
            if known.streams == 0 {
                self.callers.remove(caller);
            }
        }
    }
}

fn taken_over() -> Error {
    Error::new(Code::WatchTakenOver, "another stream of yours watches this lease now")
}

/// The end of a stream whose holder's newer stream is at another server.
pub(in crate::vend) fn taken_elsewhere() -> Error {
    Error::new(Code::WatchTakenOver, "another stream of yours watches this lease now, at another server")
}

pub(in crate::vend) fn revoked() -> Error {
    Error::new(Code::LeaseState, "the lease was revoked")
}

pub(super) fn closing() -> Error {
    Error::new(Code::Unavailable, "the server is shutting down; watch the lease again, at another one")
}

fn does_not_read() -> Error {
    Error::new(Code::DeadlineExceeded, "you did not read the credentials that were sent; watch the lease again")
}
