//! Watch: a stream for each lease whose holder stays, over which its credentials come when they are due.
//!
//! | file | what it holds |
//! |---|---|
//! | here | a stream is opened: over a new lease, or over one that its holder has |
//! | [`registry`] | the streams of this server, in order of when they are due |
//! | [`stream`] | what a holder reads |
//! | [`turns`] | how many leases are taken up at once |
//! | [`rotate`] | the pass that makes the next credentials, many at a time |
//! | [`remote`] | the same where a remote system makes them |
//! | [`revoked`] | a revocation at any server ends the stream here |
//!
//! A lease is rotated by the server that has its holder's stream, and by no other: that is its [`Claim`](crate::model::lease::Claim). The
//! lease's version decides when two believe so.

mod registry;
mod remote;
mod revoked;
mod rotate;
mod stream;
mod turns;

use self::{registry::Opening, rotate::first_look};
pub use self::{
    registry::{Lane, WatchLimits, Watches},
    remote::REMOTE_AT_ONCE,
    revoked::{RECENT_KEPT, SeenRevoked},
    rotate::{LONGEST_PAUSE, ROTATE_BATCH},
    stream::{WATCH_PENDING, WatchStream, Watched},
    turns::{LONGEST_TURN, TAKEN_UP_AT_ONCE_PER_CALLER},
};
use super::{Call, Rules, Vend, record::About, renew::Shown};
use crate::{
    clock,
    model::{
        SignedDuration, Timestamp,
        credential::CredentialKind,
        error::{Code, Error, Result},
        lease::{Change, Lease, LeaseId},
        request::{Input, IssueRequest},
    },
    policy::WatchTerms,
};

/// How often a change of a lease is tried over changes that others make at the same moment.
const MAX_CHANGES: usize = 5;

/// What a caller wants to watch.
pub struct WatchRequest {
    /// The lease.
    pub what: WatchWhat,
    /// The CSR for the certificate after the next message's, DER; a lease of another kind takes no notice of it.
    pub next_csr: Option<Vec<u8>>,
}

/// Which lease.
pub enum WatchWhat {
    /// A new one.
    Issue(IssueRequest),
    /// One that the caller has.
    Held(HeldLease),
}

/// A lease that its holder takes up again.
pub struct HeldLease {
    /// The lease.
    pub id: LeaseId,
    /// The newest generation that the caller has.
    pub generation: u32,
    /// The wanted life of each credential; the role's default when absent.
    pub ttl: Option<SignedDuration>,
    /// What the kind of the role needs if the stream begins with a new credential.
    pub input: Input,
}

/// An open stream.
pub struct Opened {
    /// Its messages; the first one is there.
    pub stream: WatchStream,
    /// A new lease that is to be given to [`Vend::abandon`] if the stream reaches nobody: no retry could have its credential.
    pub unheld: Option<Lease>,
}

impl Vend {
    /// Opens a stream over a lease of the caller.
    ///
    /// Its first message is there when this returns, with all that it says durable. Must run to its end once begun, as
    /// [`Vend::issue`] and [`Vend::clone_found`] must.
    ///
    /// # Errors
    /// Those of [`Vend::issue`]; for a lease that the caller has those of [`Vend::renew`], and `LeaseState` for a generation that was
    /// never made; `RateLimited` past [`WatchLimits`]; `Unavailable` when others take up leases for longer than a turn may be waited for.
    pub async fn watch(&self, call: &Call, request: WatchRequest) -> Result<Opened> {
        let WatchRequest { what, next_csr } = request;
        match what {
            WatchWhat::Issue(request) => self.watch_new(call, request, next_csr).await,
            WatchWhat::Held(held) => self.watch_held(call, held, next_csr).await,
        }
    }

    async fn watch_new(&self, call: &Call, request: IssueRequest, next_csr: Option<Vec<u8>>) -> Result<Opened> {
        let reservation = match self.watches.reserve(&call.identity, None) {
            Ok(reservation) => reservation,
            Err(error) => return Err(self.refused(call, error).await),
        };
        let (ttl, repeatable) = (request.ttl, request.request_id.is_some());
        let issued = self.issue(call, request).await?;
        let lost_for_good = !(repeatable && issued.credential.can_be_made_again());

        let keyed = async {
            let Some(next_key) = self.next_key(&self.rules.load(), &issued.lease, next_csr.as_deref())? else {
                return Ok(issued.lease.clone());
            };
            let (by, at) = (self.watches.server(), issued.now);
            self.change(issued.lease.clone(), |_| Some(Change::TakeUp { by, at, next_key: Some(next_key.clone()) })).await
        };
        let lease = match keyed.await {
            Ok(lease) => lease,
            Err(error) => {
                if lost_for_good {
                    // The change may have been written all the same.
                    self.abandon(&Lease { version: issued.lease.version.saturating_add(1), ..issued.lease.clone() });
                }
                let about = About { role: Some(&issued.lease.role), lease: Some(issued.lease.id), request_id: None };
                return Err(self.ended(call, about, error, issued.now).await);
            }
        };
        let terms = WatchTerms { ttl, shown_at: issued.now };
        let unheld = lost_for_good.then(|| lease.clone());
        let first = Watched { lease, credential: Some(issued.credential), now: issued.now };
        let free = issued.now;
        Ok(Opened { stream: self.watches.enter(reservation, self.opening(call, terms, first, free)), unheld })
    }

    async fn watch_held(&self, call: &Call, held: HeldLease, next_csr: Option<Vec<u8>>) -> Result<Opened> {
        let HeldLease { id, generation, ttl, input } = held;
        let rules = self.rules.load_full();
        let about = || About { lease: Some(id), ..About::default() };

        // 1. Wait for a turn: what follows goes to the store several times.
        let turn = async {
            let reservation = self.watches.reserve(&call.identity, Some(id))?;
            Ok((reservation.turn().await?, reservation))
        };
        let (turn, reservation) = match turn.await {
            Ok(turn) => turn,
            Err(error) => return Err(self.ended(call, about(), error, self.clock.now()).await),
        };
        let now = self.clock.now();

        // 2. Decide, on the lease as it is stored and what its holder shows of it.
        let stored = self.find_shown(call, &rules, Shown { lease: id, generation: Some(generation) }, now).await?;
        let terms = WatchTerms { ttl, shown_at: now };
        if let Err(denial) = rules.book.decide_watch(&call.identity, &stored, terms, call.origin.peer_address, now) {
            return Err(self.denied(call, about(), *denial, now).await);
        }
        // What could not go on record is not begun: each credential that never leaves takes up room under the lease.
        self.can_record()?;
        let taken = async {
            let next_key = self.next_key(&rules, &stored, next_csr.as_deref())?;
            // 3. Use the token up: it may not carry the lease past what a fresh one would.
            let same = [b"watch".as_slice(), id.as_bytes(), &generation.to_be_bytes(), input.bytes()].concat();
            self.spend_token(call, &stored, &same).await?;
            // 4. Mark where the stream is: no other server rotates the lease from now on. Who was found to be a clone meanwhile marks nothing.
            let (by, at) = (self.watches.server(), now);
            let take_up = |lease: &Lease| {
                let still = (lease.acknowledged..=lease.generation).contains(&generation);
                still.then(|| Change::TakeUp { by, at, next_key: next_key.clone() })
            };
            self.change(stored, take_up).await
        };
        let taken = match taken.await {
            Ok(taken) => taken,
            Err(error) => return Err(self.ended(call, about(), error, now).await),
        };
        // It may have moved since it was looked at.
        self.must_have(call, &rules, &taken, Some(generation), now).await?;

        // Whoever was making the next one may do so until then: the mark that was written says it of the claim that it replaced.
        let free = taken.claim.map_or(now, |claim| claim.until);

        // 5. What was made and never reached its holder is made up for.
        // A remote system that is slow keeps nobody else waiting.
        let _turn = (Lane::of(taken.kind) == Lane::Here).then_some(turn);
        let first = if generation < taken.generation {
            self.make_up(call, &rules, &taken, terms, &input, now).await?
        } else {
            self.record(vec![Self::done(call, &taken, now)]).await?;
            Watched { lease: taken, credential: None, now }
        };

        Ok(Opened { stream: self.watches.enter(reservation, self.opening(call, terms, first, free)), unheld: None })
    }

    /// A credential in place of one that was made and that its holder never had.
    async fn make_up(
        &self,
        call: &Call,
        rules: &Rules,
        lease: &Lease,
        terms: WatchTerms,
        input: &Input,
        now: Timestamp,
    ) -> Result<Watched> {
        let about = || About { lease: Some(lease.id), ..About::default() };
        let grant = match rules.book.decide_rotate(&call.identity, lease, terms, call.origin.peer_address, now) {
            Ok(grant) => grant,
            Err(denial) => return Err(self.denied(call, about(), *denial, now).await),
        };
        let (lease, credential) = match self.make_next(call, rules, &grant, lease, input, now).await {
            Ok(made) => made,
            Err(error) => return Err(self.ended(call, about(), error, now).await),
        };
        let mut event = Self::done_by(call, &grant, &lease, None, now);
        event.detail.push("the credential before it never reached its holder".to_owned());
        self.record(vec![event]).await?;
        self.supersede(&lease).await?;
        Ok(Watched { lease, credential: Some(credential), now })
    }

    fn opening(&self, call: &Call, terms: WatchTerms, first: Watched, not_before: Timestamp) -> Opening {
        let (lane, due) = (Lane::of(first.lease.kind), first_look(&first.lease));
        let ends_at = first.now.checked_add(self.watches.age()).unwrap_or(Timestamp::MAX);
        Opening { lease: first.lease.id, lane, call: call.clone(), terms, ends_at, due, not_before, first }
    }

    /// The key of a CSR that is given ahead; none for a lease that takes none.
    pub(super) fn next_key(&self, rules: &Rules, lease: &Lease, next_csr: Option<&[u8]>) -> Result<Option<String>> {
        let (CredentialKind::X509, Some(csr)) = (lease.kind, next_csr) else { return Ok(None) };
        let gone = || Error::new(Code::RoleNotFound, format!("the role {:?} is no longer there for you", lease.role.as_str()));
        let role = rules.book.catalog().roles.get(&lease.role).ok_or_else(gone)?;
        rules.issuers.x509.key_ahead(role, csr).map(Some)
    }

    /// Applies a change to a lease over what others did to it meanwhile; none when there is nothing to change.
    pub(super) async fn change(&self, mut lease: Lease, change: impl Fn(&Lease) -> Option<Change>) -> Result<Lease> {
        for _ in 0..MAX_CHANGES {
            let Some(change) = change(&lease) else { return Ok(lease) };
            let next = lease.apply(change).map_err(|illegal| Error::new(Code::LeaseState, illegal.to_string()))?;
            if self.swap_is_done(&next).await? {
                return Ok(next);
            }
            lease = self.find(lease.id).await?;
        }
        Err(Error::new(Code::LeaseState, "the lease keeps changing; look at it and try again"))
    }
}

impl Watches {
    /// How long a stream may live: less than a connection may, and not the same for all, so that they do not come back together.
    fn age(&self) -> SignedDuration {
        let thousandths = 750 + i32::from(u16::from_be_bytes(clock::random()) % 250);
        self.limits().age / 1000 * thousandths
    }
}
