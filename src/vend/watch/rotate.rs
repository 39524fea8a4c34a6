//! The pass that makes the next credentials of watched leases: those that are due together share each step at the store and in the log.

use std::sync::Arc;

use super::{
    Lane, Watched,
    registry::{Due, Stream, taken_elsewhere},
};
use crate::{
    clock,
    issuer::Minted,
    model::{
        SignedDuration, Timestamp,
        credential::Credential,
        error::{Code, Error, Result},
        event::{Event, Outcome},
        identity::Proof,
        lease::{Change, Claim, Handle, Lease, LeaseId, LeaseState},
        request::Input,
    },
    policy::{Denial, Grant},
    store::{MAX_BATCH, Swap},
    vend::{
        Rules, Vend,
        first::shown_by,
        record::{About, event_of},
        renew::next_order,
    },
};

/// Streams that one turn of the pass takes.
pub const ROTATE_BATCH: usize = 256;
const _: () = assert!(ROTATE_BATCH <= MAX_BATCH);

/// The longest pause before a rotation that failed is tried again; the first one is a second, and each is twice the one before.
pub const LONGEST_PAUSE: SignedDuration = SignedDuration::from_secs(60);

/// The shortest time between two looks at a stream that nothing is wrong with, however short the lives of its credentials.
const SHORTEST_PAUSE: SignedDuration = SignedDuration::from_millis(100);

/// How often a stream is looked at at most that waits for something which may come at any time: a next key or an acknowledgement, which its
/// holder may have given to another server, or a role that lets it go further.
const LOOK_PAUSE: SignedDuration = SignedDuration::from_secs(5);

/// How often a swap whose outcome is unknown is repeated, which is safe.
const SWAP_TRIES: usize = 3;

/// Certificates that are signed before others get their turn on this thread.
const MINTED_IN_A_ROW: usize = 16;

/// A stream whose lease is to be rotated now.
pub(super) struct Ready {
    pub due: Due,
    pub lease: Lease,
    pub grant: Grant,
}

/// A rotation that was made, on its way to the store, to the log, to its holder.
struct Made {
    due: Due,
    grant: Grant,
    lease: Lease,
    credential: Credential,
}

/// A rotation of which nothing came.
pub(super) struct NotMade {
    pub due: Due,
    pub error: Error,
}

/// What becomes of a stream that was looked at.
enum Verdict {
    /// Its lease is rotated.
    Rotate(Grant),
    /// It is looked at again then.
    Later(Timestamp),
    /// Its holder renewed the lease by itself, and is told how it stands.
    Moved,
    /// It ends.
    End(Error),
    /// It ends, on record.
    Denied(Box<Denial>),
}

/// When the stream of a lease is to be looked at first: when its next credential is due, or when the lease ends.
pub(super) fn first_look(lease: &Lease) -> Timestamp {
    lease.rotation().map_or(lease.expires_at, |window| window.start)
}

/// The same after a look at `now`.
fn next_look(lease: &Lease, now: Timestamp) -> Timestamp {
    first_look(lease).max(after(now, SHORTEST_PAUSE))
}

/// When a stream is looked at again that waits for what may come at any time: often enough that it does not come too late.
fn before_long(lease: &Lease, now: Timestamp) -> Timestamp {
    after(now, (lease.expires_at.duration_since(now) / 32).max(LOOK_PAUSE))
}

fn after(now: Timestamp, span: SignedDuration) -> Timestamp {
    now.checked_add(span).unwrap_or(Timestamp::MAX)
}

impl Vend {
    /// Makes the next credentials of the streams that are due and whose credentials are made here, at most [`ROTATE_BATCH`]. Answers how
    /// many it looked at. Safe at any number of servers at once.
    ///
    /// # Errors
    /// Those of the store; what was due is put off. `AuditUnavailable` while the log is away; what is due waits for it.
    pub async fn rotate_due(&self) -> Result<usize> {
        // Each credential that is made and cannot go on record takes up room under its lease, and reaches nobody.
        self.can_record()?;
        let now = self.clock.now();
        let due = self.watches.take_due(Lane::Here, now, ROTATE_BATCH);
        let looked_at = due.len();
        if looked_at == 0 {
            return Ok(0);
        }
        let rules = self.rules.load_full();

        // 1. Decide, on the leases as they are stored.
        let ready = self.look(&rules, due, now).await?;
        // 2. Claim them: from here on another server waits before it makes the same.
        let claimed = self.claim(ready, now).await?;
        // 3. Mint, and store what each lease has now. Nothing of it is known outside this function yet.
        let (made, not_made) = self.mint_all(&rules, claimed, now).await;
        let made = self.write_made(made).await;
        // 4. Put it on record, then hand it over.
        self.hand_over(made, now).await;
        self.not_rotated(not_made, now).await;
        Ok(looked_at)
    }

    /// Looks at streams that are due: those whose lease is to be rotated come back, the others have been told, put off or ended.
    pub(super) async fn look(&self, rules: &Rules, due: Vec<Due>, now: Timestamp) -> Result<Vec<Ready>> {
        let ids: Vec<LeaseId> = due.iter().map(|due| due.stream.lease).collect();
        let found = match self.store.get(&ids).await {
            Ok(found) => found,
            Err(error) => {
                for due in &due {
                    // A stream ends in its time also without a store: its holder finds a server that has one.
                    match too_old(&due.stream, now) {
                        Some(end) => self.watches.end(&due.stream, end),
                        None => self.put_off(due, now),
                    }
                }
                return Err(error);
            }
        };
        let (mut ready, mut denied) = (Vec::with_capacity(due.len()), Vec::new());
        for (due, lease) in due.into_iter().zip(found) {
            let Some(lease) = lease else {
                self.watches.end(&due.stream, crate::vend::read::not_found());
                continue;
            };
            match self.judge(rules, &due, &lease, now) {
                Verdict::Rotate(grant) if self.watches.has_room(&due.stream) => ready.push(Ready { due, lease, grant }),
                Verdict::Rotate(_) => {}
                Verdict::Later(at) => self.watches.schedule(&due.stream, at, false),
                Verdict::Moved => {
                    let at = next_look(&lease, now);
                    self.watches.deliver(&due.stream, Watched { lease, credential: None, now }, at);
                }
                Verdict::End(error) => self.watches.end(&due.stream, error),
                Verdict::Denied(denial) => denied.push((due.stream, denial)),
            }
        }
        self.end_denied(denied, now).await;
        Ok(ready)
    }

    /// What is to be done with a stream whose time has come. Cheap checks first; policy is asked only when a credential is due.
    fn judge(&self, rules: &Rules, due: &Due, lease: &Lease, now: Timestamp) -> Verdict {
        let stream = &due.stream;
        if let Some(end) = too_old(stream, now) {
            return Verdict::End(end);
        }
        if let Proof::Certificate(peer) = &stream.call.identity.proof
            && peer.not_after <= now
        {
            let why = "your client certificate has expired; get a new one, connect again and watch the lease again";
            return Verdict::End(Error::new(Code::Unauthenticated, why));
        }
        if lease.state != LeaseState::Active || lease.expires_at <= now {
            let state = if lease.state == LeaseState::Active { LeaseState::Expired } else { lease.state };
            return Verdict::End(Error::new(Code::LeaseState, format!("the lease is {}; issue a new one", state.as_str())));
        }
        if lease.claim.is_some_and(|claim| claim.by != self.watches.server()) {
            return Verdict::End(taken_elsewhere());
        }
        if lease.generation < due.generation {
            // The store lost what it had; until it has that back from the log a rotation would make one generation twice.
            return Verdict::Later(after(now, pause(due.failures)));
        }
        if lease.generation > due.generation {
            return Verdict::Moved;
        }
        let Some(window) = lease.rotation() else { return Verdict::Later(lease.expires_at) };
        if now < window.start {
            return Verdict::Later(window.start);
        }
        if shown_by(&stream.call.identity, lease).is_some_and(|shown| !lease.may_be_shown(shown)) {
            let why = "a newer certificate of the lease is in use; watch it over a connection that shows that one";
            return Verdict::End(Error::new(Code::GenerationSuperseded, why));
        }
        // What an enrolled agent does not say that it has is not followed by more: see [`Lease::may_be_shown`].
        let unsaid = lease.enrolled && lease.acknowledged < lease.generation;
        if unsaid || matches!(lease.handle, Handle::X509 { next_key: None, .. }) {
            return Verdict::Later(before_long(lease, now));
        }
        match rules.book.decide_rotate(&stream.call.identity, lease, stream.terms, stream.call.origin.peer_address, now) {
            // The role gives shorter lives since. A credential that ends when the one before it does would only take up room under the lease.
            Ok(grant) if grant.expires_at() <= lease.held_until() => Verdict::Later(before_long(lease, now)),
            Ok(grant) => Verdict::Rotate(grant),
            // It lives to its end, and so does the stream; as time goes on, or after a reload, it may go further.
            Err(denial) if denial.error.code() == Code::NotRenewable => Verdict::Later(before_long(lease, now)),
            Err(denial) => Verdict::Denied(denial),
        }
    }

    /// Ends streams whose holders may not have another credential, all on record at once.
    async fn end_denied(&self, denied: Vec<(Arc<Stream>, Box<Denial>)>, now: Timestamp) {
        if denied.is_empty() {
            return;
        }
        count("denied", denied.len());
        let event = |(stream, denial): &(Arc<Stream>, Box<Denial>)| {
            let about = About { lease: Some(stream.lease), ..About::default() };
            Event { method: "watch/rotate".into(), ..Self::denial(&stream.call, about, denial, now) }
        };
        let recorded = self.record(denied.iter().map(event).collect()).await;
        for (stream, denial) in denied {
            // A refusal that is not on record does not leave.
            self.watches.end(&stream, recorded.clone().err().unwrap_or(denial.error));
        }
    }

    /// Claims leases; those that changed meanwhile are looked at again at once.
    pub(super) async fn claim(&self, ready: Vec<Ready>, now: Timestamp) -> Result<Vec<Ready>> {
        let claim = Claim::to_rotate(self.watches.server(), now);
        let mut claimed = Vec::with_capacity(ready.len());
        for Ready { due, lease, grant } in ready {
            match lease.apply(Change::Claim(claim)) {
                Ok(lease) => claimed.push(Ready { due, lease, grant }),
                Err(_ended_meanwhile) => self.watches.schedule(&due.stream, now, false),
            }
        }
        if claimed.is_empty() {
            return Ok(claimed);
        }
        let leases: Vec<Lease> = claimed.iter().map(|ready| ready.lease.clone()).collect();
        let swaps = match self.store.swap(&leases).await {
            Ok(swaps) => swaps,
            Err(error) => {
                // Claimed or not: it is our claim, and keeps us from nothing.
                claimed.iter().for_each(|ready| self.put_off(&ready.due, now));
                return Err(error);
            }
        };
        let mut ours = Vec::with_capacity(claimed.len());
        for (ready, swap) in claimed.into_iter().zip(swaps) {
            if swap == Swap::Done {
                ours.push(ready);
            } else {
                count("conflict", 1);
                self.watches.schedule(&ready.due.stream, after(now, SHORTEST_PAUSE), false);
            }
        }
        Ok(ours)
    }

    async fn mint_all(&self, rules: &Rules, claimed: Vec<Ready>, now: Timestamp) -> (Vec<Made>, Vec<NotMade>) {
        let (mut made, mut not_made) = (Vec::with_capacity(claimed.len()), Vec::new());
        for (nth, Ready { due, lease, grant }) in claimed.into_iter().enumerate() {
            if nth % MINTED_IN_A_ROW == MINTED_IN_A_ROW - 1 {
                tokio::task::yield_now().await;
            }
            let minted = rules.issuers.of(&grant.role().spec).mint(&next_order(&grant, &lease, &Input::None, now)).await;
            let renewed = minted.map_err(|failed| failed.error).and_then(|minted| {
                let Minted { credential, handle, expires_at, .. } = minted;
                let change = Change::Renew { at: now, expires_at: expires_at.max(lease.expires_at), handle, shown: None };
                let lease = lease.apply(change).map_err(|illegal| crate::vend::defect(&illegal.to_string()))?;
                Ok((lease, credential))
            });
            match renewed {
                Ok((lease, credential)) => made.push(Made { due, grant, lease, credential }),
                Err(error) => not_made.push(NotMade { due, error }),
            }
        }
        (made, not_made)
    }

    /// Stores what was made. Of what was not stored for sure nothing leaves.
    async fn write_made(&self, made: Vec<Made>) -> Vec<Made> {
        if made.is_empty() {
            return made;
        }
        let leases: Vec<Lease> = made.iter().map(|made| made.lease.clone()).collect();
        let mut written = self.store.swap(&leases).await;
        for _ in 1..SWAP_TRIES {
            if written.is_ok() {
                break;
            }
            written = self.store.swap(&leases).await;
        }
        match written {
            Ok(swaps) => {
                let mut stored = Vec::with_capacity(made.len());
                for (made, swap) in made.into_iter().zip(swaps) {
                    if swap == Swap::Done {
                        stored.push(made);
                    } else {
                        count("conflict", 1);
                        self.watches.schedule(&made.due.stream, after(self.clock.now(), SHORTEST_PAUSE), false);
                    }
                }
                stored
            }
            Err(error) => {
                // A generation may be stored that its holder will never have: it comes back with the one that it has, and is made up for.
                count("failed", made.len());
                made.iter().for_each(|made| self.watches.end(&made.due.stream, error.clone()));
                Vec::new()
            }
        }
    }

    /// Puts rotations on record, all at once, and hands them over.
    async fn hand_over(&self, made: Vec<Made>, now: Timestamp) {
        let event = |made: &Made| {
            let done = Self::done_by(&made.due.stream.call, &made.grant, &made.lease, None, now);
            Event { method: "watch/rotate".into(), ..done }
        };
        if let Err(error) = self.record(made.iter().map(event).collect()).await {
            count("failed", made.len());
            made.iter().for_each(|made| self.watches.end(&made.due.stream, error.clone()));
            return;
        }
        for Made { due, lease, credential, .. } in made {
            self.send_rotated(&due, lease, credential, now);
        }
    }

    /// Hands a credential over that is durable in the store and in the log.
    pub(super) fn send_rotated(&self, due: &Due, lease: Lease, credential: Credential, now: Timestamp) {
        let at = next_look(&lease, now);
        let sent = self.watches.deliver(&due.stream, Watched { lease, credential: Some(credential), now }, at);
        count(if sent { "done" } else { "undelivered" }, 1);
    }

    /// Credentials that could not be made, all on record at once: each is tried again, unless it is refused for good.
    pub(super) async fn not_rotated(&self, not_made: Vec<NotMade>, now: Timestamp) {
        if not_made.is_empty() {
            return;
        }
        count("failed", not_made.len());
        let recorded = self.record(not_made.iter().map(|not_made| not_made.event(now)).collect()).await;
        for NotMade { due, error } in not_made {
            let (lease, for_good) = (due.stream.lease, is_for_good(&error, due.stream.lane));
            tracing::warn!(%error, %lease, failures = due.failures, "a watched lease could not be rotated");
            match &recorded {
                _ if !for_good => self.put_off(&due, now),
                // A refusal that is not on record does not leave.
                Err(unrecorded) if error.code().is_refusal() => self.watches.end(&due.stream, unrecorded.clone()),
                _ => self.watches.end(&due.stream, error),
            }
        }
    }

    /// Looks at a stream again after a pause that grows.
    pub(super) fn put_off(&self, due: &Due, now: Timestamp) {
        self.watches.schedule(&due.stream, after(now, pause(due.failures)), true);
    }
}

/// What a stream ends with that is as old as one may be.
fn too_old(stream: &Stream, now: Timestamp) -> Option<Error> {
    (stream.ends_at <= now).then(|| Error::new(Code::Unavailable, "the stream is as old as one may be; watch the lease again"))
}

impl NotMade {
    fn event(&self, now: Timestamp) -> Event {
        let (stream, code) = (&self.due.stream, self.error.code());
        let outcome = if code.is_refusal() { Outcome::Denied } else { Outcome::Failed };
        Event {
            method: "watch/rotate".into(),
            lease_id: Some(stream.lease),
            reason: Some(code.as_str().into()),
            ..event_of(&stream.call, outcome, now)
        }
    }
}

/// Whether the next credential will not be had however often it is tried.
fn is_for_good(error: &Error, lane: Lane) -> bool {
    match error.code() {
        Code::InvalidCsr | Code::InvalidRequest | Code::ClaimNotUsable => true,
        // No other session comes of the lease. Here it may be that many credentials live under it at the moment.
        Code::NotRenewable => lane == Lane::Remote,
        _ => false,
    }
}

/// A second, doubling to [`LONGEST_PAUSE`], and up to a quarter less, so that what failed together does not come back together.
fn pause(failures: u32) -> SignedDuration {
    let whole = SignedDuration::from_secs(1 << failures.min(6)).min(LONGEST_PAUSE);
    whole - whole / 1024 * i32::from(u16::from_be_bytes(clock::random()) % 256)
}

pub(super) fn count(outcome: &'static str, by: usize) {
    metrics::counter!("daypass_rotations_total", "outcome" => outcome).increment(by as u64);
}
