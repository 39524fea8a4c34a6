//! Issue: decide, make, put on record, answer. What is made in this process goes [`here`], what a remote system makes goes [`remote`].

mod again;
mod conditions;
mod first;
mod here;
mod remote;

use super::{
    Call, Rules, Vend,
    open::Why,
    record::{About, event_of},
    steps::measured,
};
use crate::{
    clock,
    issuer::{Issuer, Order, Reservation},
    model::{
        Timestamp,
        credential::Credential,
        error::{Code, Error, Result},
        event::{Event, Outcome},
        lease::{Lease, LeaseId, LeaseState},
        request::IssueRequest,
    },
    policy::Grant,
    store::{NewLease, Put, Swap},
};

pub(super) use conditions::token_use;
pub use first::MAX_REPEATED_REDEEMS;
pub use remote::REMOTE_TIMEOUT;
pub(super) use remote::too_slow;

/// How many leases of earlier answers one request may replace; more than one is there only when the same request comes several times at
/// once.
pub const MAX_REPLACED: usize = 3;

/// How often the answers to one request id may be replaced while the first of them would live, where each takes up room on a deny list.
pub const MAX_REPLACEMENTS: u8 = 3;

/// A lease with its credential, on the way to the caller.
pub struct Issued {
    /// The lease, durable in the store and in the audit log.
    pub lease: Lease,
    /// The credential.
    pub credential: Credential,
    /// When it was answered, for what the answer says of renewability.
    pub now: Timestamp,
}

/// A request that policy granted.
struct Granted<'a> {
    call: &'a Call,
    rules: &'a Rules,
    grant: &'a Grant,
    request: &'a IssueRequest,
    order: Order<'a>,
}

impl<'a> Granted<'a> {
    fn issuer(&self) -> &'a dyn Issuer {
        self.rules.issuers.of(&self.grant.role().spec)
    }

    /// The lease as it is stored first, for what was made or is about to be.
    fn lease(&self, state: LeaseState, made: Reservation) -> Lease {
        let Self { grant, order, .. } = self;
        let Reservation { handle, expires_at, reach } = made;
        let identity = grant.identity();
        let mut lease = Lease {
            id: order.lease,
            version: 1,
            role: grant.role().name.clone(),
            kind: grant.role().kind(),
            tenant: identity.tenant.clone(),
            subject: grant.holder().clone(),
            state,
            issued_at: order.now,
            expires_at,
            renew_until: grant.renew_until(),
            generation: 1,
            reach,
            live_until: expires_at,
            revoked_at: None,
            handle,
            renewed_at: None,
            held_until: None,
            acknowledged: 0,
            claim: None,
            enrolled: identity.enrolled().is_some(),
        };
        lease.live_until = lease.accepted_until();
        lease
    }
}

/// Why nothing was handed out.
struct NotIssued {
    error: Error,
    /// The lease that it was about.
    lease: Option<LeaseId>,
    /// That lease as it was closed, when it was at once.
    closed: Option<Box<Lease>>,
}

impl From<Error> for NotIssued {
    fn from(error: Error) -> Self {
        Self { error, lease: None, closed: None }
    }
}

impl NotIssued {
    fn about(lease: LeaseId, error: Error) -> Self {
        Self { error, lease: Some(lease), closed: None }
    }
}

impl Vend {
    /// Vends one credential.
    ///
    /// Nothing leaves unless both the lease and its audit record are durable; when either fails the lease is closed again and
    /// the caller has nothing.
    pub async fn issue(&self, call: &Call, request: IssueRequest) -> Result<Issued> {
        let now = self.clock.now();
        let rules = self.rules.load_full();

        // 1. Decide. Only policy makes a grant.
        let decided =
            measured("decide", || rules.book.decide_issue(&call.identity, &request.role, request.ttl, call.origin.peer_address, now));
        let grant = match decided {
            Ok(grant) => grant,
            Err(denial) => {
                let about = About { role: Some(&request.role), request_id: request.request_id.as_ref(), lease: None };
                return Err(self.denied(call, about, *denial, now).await);
            }
        };

        // 2. to 4. (or 7., at a remote system): make it durable, make it, answer.
        let id = LeaseId::new(now, clock::random(), &grant.identity().tenant);
        let order = Order { grant: &grant, lease: id, input: &request.input, generation: 1, earlier: None, now };
        let granted = Granted { call, rules: &rules, grant: &grant, request: &request, order };
        let issued = match granted.issuer().reserve(&order) {
            Ok(None) => self.issue_here(&granted).await,
            Ok(Some(reservation)) => self.issue_remote(&granted, reservation).await,
            Err(error) => Err(error.into()),
        };
        match issued {
            Ok(issued) => Ok(issued),
            Err(failed) => Err(self.not_issued(&granted, failed).await),
        }
    }

    /// Stores a new lease. Replays, caps and repeated requests are settled inside the one step; a request that was answered before gets its
    /// answer again.
    async fn place(&self, granted: &Granted<'_>, new: &NewLease) -> Result<Option<Issued>, NotIssued> {
        for _ in 0..=MAX_REPLACED {
            match self.store.put(new).await {
                Ok(Put::Stored) => return Ok(None),
                Ok(Put::Existing(earlier)) => {
                    if let Some(again) = self.issue_again(granted, *earlier).await? {
                        return Ok(Some(again));
                    }
                }
                Ok(refused) => return Err(conditions::refusal(&refused, granted.grant).into()),
                Err(error) => {
                    // The outcome is unknown: it may have been stored.
                    self.open.add(new.lease.id, Why::not_handed_out(&new.lease));
                    return Err(NotIssued::about(new.lease.id, error));
                }
            }
        }
        Err(again::being_closed().into())
    }

    /// Puts a failure on record, and gives the error for the caller.
    async fn not_issued(&self, granted: &Granted<'_>, failed: NotIssued) -> Error {
        let NotIssued { error, lease, closed } = failed;
        if error.code() == Code::AuditUnavailable {
            return error;
        }
        let Granted { call, request, order, .. } = granted;
        let outcome = if error.code().is_refusal() { Outcome::Denied } else { Outcome::Failed };
        let event = Event {
            reason: Some(error.code().as_str().into()),
            role: Some(request.role.clone()),
            request_id: request.request_id.as_ref().map(|id| id.as_str().to_owned()),
            lease_id: lease,
            lease: closed.map(|lease| *lease),
            ..event_of(call, outcome, order.now)
        };
        self.put_on_record(event, error).await
    }

    /// Writes one changed lease over the version before it.
    pub(super) async fn swap_one(&self, lease: &Lease) -> Result<()> {
        match self.store.swap(std::slice::from_ref(lease)).await?.first() {
            Some(Swap::Done) => Ok(()),
            _ => Err(Error::new(Code::LeaseState, "the lease changed at the same moment; look at it and try again")),
        }
    }
}
