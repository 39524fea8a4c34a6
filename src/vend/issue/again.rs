//! A request that comes again under the same id.

use super::{Granted, Issued, MAX_REPLACEMENTS, NotIssued, conditions::replacement};
use crate::{
    issuer::{Again, Order},
    model::{
        Timestamp,
        error::{Code, Error, Result},
        event::Event,
        lease::{AWS_LEEWAY, Change, Lease, LeaseState, Reach},
        name::RoleName,
    },
    store::Swap,
    vend::{Vend, revoke::Manner},
};

impl Vend {
    /// Answers a repeated request with the lease that it got before and the same credential. When nobody can make that again the lease is
    /// revoked, and there is nothing: the request is to be answered anew.
    pub(super) async fn issue_again(&self, granted: &Granted<'_>, lease: Lease) -> Result<Option<Issued>, NotIssued> {
        let id = lease.id;
        self.answer_again(granted, lease).await.map_err(|error| NotIssued::about(id, error))
    }

    async fn answer_again(&self, granted: &Granted<'_>, lease: Lease) -> Result<Option<Issued>> {
        let Granted { call, grant, request, order, .. } = granted;
        same_request(&lease, &request.role, order.now)?;
        if self.open.holds(lease.id) {
            return Err(being_closed());
        }
        let again = granted.issuer().remint(&Order { lease: lease.id, ..*order }, &lease).await?;
        let Again::Same(credential) = again else {
            replaceable(&lease)?;
            self.count_replacement(granted, &lease).await?;
            self.replace(granted, lease).await?;
            return Ok(None);
        };
        let mut event = Self::done_by(call, grant, &lease, request.request_id.as_ref(), order.now);
        event.detail.push("the same request id: the same lease".to_owned());
        // On record before it is taken over: were that the other way round, a lease could stay that no record knows.
        self.record(vec![event]).await?;
        Ok(Some(Issued { lease: self.take_over(lease).await?, credential, now: order.now }))
    }

    /// Takes a lease over for a retry. The first call may be failing at this moment, here or at another server: it closes the lease only as
    /// it made it, and from now on it is another version.
    async fn take_over(&self, lease: Lease) -> Result<Lease> {
        if lease.version > 1 {
            return Ok(lease);
        }
        let taken = lease.apply(Change::TakeOver).map_err(|illegal| crate::vend::defect(&illegal.to_string()))?;
        if self.store.swap(std::slice::from_ref(&taken)).await?.first() == Some(&Swap::Done) {
            return Ok(taken);
        }
        let now_stored = self.find(lease.id).await?;
        if now_stored.state == LeaseState::Active { Ok(now_stored) } else { Err(being_closed()) }
    }

    /// Each session that is replaced takes up room on a deny list until it would have expired, and counts against no cap meanwhile.
    async fn count_replacement(&self, granted: &Granted<'_>, lease: &Lease) -> Result<()> {
        let Some(request_id) = &granted.request.request_id else { return Ok(()) };
        if lease.revocation().is_empty() {
            return Ok(());
        }
        let until = lease.expires_at.checked_add(AWS_LEEWAY).unwrap_or(Timestamp::MAX);
        for nth in 1..=MAX_REPLACEMENTS {
            if self.store.use_token(&lease.tenant, &replacement(granted.grant.identity(), request_id, nth, until)).await? {
                return Ok(());
            }
        }
        Err(Error::new(
            Code::RequestIdReused,
            format!("this request was answered, and its session replaced {MAX_REPLACEMENTS} times; use a new request id"),
        ))
    }

    /// Revokes the lease of a request's first answer, which is lost, so that another one can take its place.
    async fn replace(&self, granted: &Granted<'_>, lease: Lease) -> Result<()> {
        let Granted { call, request, order, .. } = granted;
        let event = |lease: &Lease| {
            let mut event =
                Event { request_id: request.request_id.as_ref().map(|id| id.as_str().to_owned()), ..Self::done(call, lease, order.now) };
            event
                .detail
                .push("the same request id: nobody can make this lease's credential again; another lease takes its place".to_owned());
            event
        };
        let lease = self.given_back(call, lease, order.now);
        let outcome = self.revoke_batch(vec![lease], event, order.now, Manner::Replaced).await;
        match outcome.into_iter().next() {
            Some((_, Ok(lease))) if !lease.state.is_live() => Ok(()),
            Some((_, Err(error))) => Err(error),
            _ => Err(being_closed()),
        }
    }
}

fn same_request(lease: &Lease, role: &RoleName, now: Timestamp) -> Result<()> {
    if lease.role != *role {
        return Err(Error::new(
            Code::RequestIdReused,
            format!("this request id was used for the role {:?}; use a new request id", lease.role.as_str()),
        ));
    }
    match lease.state {
        LeaseState::Active if lease.expires_at > now => Ok(()),
        LeaseState::Pending => Err(Error::new(Code::Unavailable, "the first request with this id is still in work; try again")),
        _ => Err(being_closed()),
    }
}

/// A session that goes on whatever becomes of its lease keeps its lease: else it would be on record as ended, count against no cap, and no
/// revocation could cut it any more.
fn replaceable(lease: &Lease) -> Result<()> {
    match lease.reach {
        Reach::Crl | Reach::Lease => Ok(()),
        Reach::RoleSessions | Reach::Expiry => Err(Error::new(
            Code::RequestIdReused,
            "this request was answered before, and nobody can make or end that credential alone; use a new request id",
        )),
    }
}

pub(super) fn being_closed() -> Error {
    Error::new(Code::Unavailable, "the lease of this request id is being closed; try again in a moment, or use a new request id")
}
