//! Read: leases, the caller as we see it, why a role is granted or not.

use std::sync::Arc;

use super::{
    Call, Vend,
    record::{About, event_of},
};
use crate::{
    model::{
        Timestamp,
        error::{Code, Error, Result},
        event::{Event, Outcome},
        identity::Identity,
        lease::{Lease, LeaseFilter, LeaseId},
        name::{RoleName, TenantName},
    },
    policy::{Denial, Explanation, LeaseAction, NO_SUCH_LEASE},
    store::Page,
};

/// How often a page is read on when the caller may see little of it. After that it is answered as it is, perhaps empty, with a token.
const MAX_SCANS: usize = 8;

/// How the server sees a caller.
pub struct WhoAmI {
    /// The caller.
    pub identity: Arc<Identity>,
    /// The roles that policy lets it have now.
    pub roles: Vec<RoleName>,
}

pub(super) fn not_found() -> Error {
    Error::new(Code::LeaseNotFound, NO_SUCH_LEASE)
}

impl Vend {
    /// The time by the clock that decisions use.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) async fn find(&self, id: LeaseId) -> Result<Lease> {
        self.store.get(&[id]).await?.into_iter().next().flatten().ok_or_else(not_found)
    }

    /// One lease, if the caller may see it.
    pub async fn get(&self, call: &Call, id: LeaseId) -> Result<Lease> {
        let now = self.clock.now();
        let about = || About { lease: Some(id), ..About::default() };
        let lease = match self.find(id).await {
            Ok(lease) => lease,
            Err(error) => return Err(self.ended(call, about(), error, now).await),
        };
        let decided = self.rules.load().book.decide_lease(LeaseAction::Read, &call.identity, &lease, call.origin.peer_address, now);
        if let Err(denial) = decided {
            return Err(self.denied(call, about(), *denial, now).await);
        }
        let event = event_of(call, Outcome::Done, now);
        self.record(vec![Event { lease_id: Some(id), tenant: Some(lease.tenant.clone()), role: Some(lease.role.clone()), ..event }])
            .await?;
        Ok(lease)
    }

    /// A page of the leases that match and that the caller may see. It may be shorter than `limit` while more follow.
    pub async fn list(&self, call: &Call, filter: &LeaseFilter, after: Option<LeaseId>, limit: usize) -> Result<Page> {
        let now = self.clock.now();
        let about = || About { role: filter.role.as_ref(), ..About::default() };
        let (mut leases, mut next) = (Vec::new(), after);
        for _ in 0..MAX_SCANS {
            let page = match self.store.list(filter, next, limit).await {
                Ok(page) => page,
                Err(error) => return Err(self.ended(call, about(), error, now).await),
            };
            next = page.next;
            match self.readable(call, page.leases, now) {
                Ok(readable) => leases.extend(readable),
                Err(denial) => return Err(self.denied(call, about(), *denial, now).await),
            }
            if leases.len() >= limit || next.is_none() {
                break;
            }
        }
        let more = next.is_some() || leases.len() > limit;
        leases.truncate(limit);
        if more && leases.len() == limit {
            // A token names a lease that the caller has seen, and not one that it may not see.
            next = leases.last().map(|lease| lease.id);
        }
        let detail = vec![format!("{} leases", leases.len())];
        self.record(vec![Event { role: filter.role.clone(), detail, ..event_of(call, Outcome::Done, now) }]).await?;
        Ok(Page { leases, next })
    }

    fn readable(&self, call: &Call, leases: Vec<Lease>, now: Timestamp) -> Result<Vec<Lease>, Box<Denial>> {
        let rules = self.rules.load();
        let mut decisions = rules.book.lease_decisions(LeaseAction::Read, &call.identity, call.origin.peer_address, now)?;
        Ok(leases.into_iter().filter(|lease| decisions.allows(lease).unwrap_or(false)).collect())
    }

    /// The caller, as leases and the record name it.
    pub async fn who_am_i(&self, call: &Call) -> Result<WhoAmI> {
        let now = self.clock.now();
        let roles = self.rules.load().book.roles_for(&call.identity, call.origin.peer_address, now);
        self.record(vec![event_of(call, Outcome::Done, now)]).await?;
        Ok(WhoAmI { identity: call.identity.clone(), roles })
    }

    /// Why the caller may or may not have a role.
    pub async fn explain(&self, call: &Call, role: &RoleName) -> Result<Explanation> {
        let now = self.clock.now();
        let rules = self.rules.load_full();
        match rules.book.decide_explain(&call.identity, role, call.origin.peer_address, now) {
            Ok(()) => {
                self.record(vec![Event { role: Some(role.clone()), ..event_of(call, Outcome::Done, now) }]).await?;
                Ok(rules.book.explain_issue(&call.identity, role, None, call.origin.peer_address, now))
            }
            Err(denial) => Err(self.denied(call, About { role: Some(role), ..About::default() }, *denial, now).await),
        }
    }

    /// Whether the caller may read records of a tenant; `None` stands for records that concern no tenant, which only who may audit every
    /// tenant reads.
    pub fn may_audit(&self, call: &Call, tenant: Option<&TenantName>) -> bool {
        let rules = self.rules.load();
        let now = self.clock.now();
        let may = |tenant: &TenantName| rules.book.decide_audit(&call.identity, tenant, call.origin.peer_address, now).is_ok();
        match tenant {
            Some(tenant) => may(tenant),
            None => rules.book.catalog().tenants.keys().all(may),
        }
    }

    /// Refuses, on record, who may read the records of no tenant at all; records the reading of who may.
    pub async fn begin_tail(&self, call: &Call) -> Result<()> {
        let now = self.clock.now();
        let rules = self.rules.load_full();
        let decide = |tenant: &TenantName| rules.book.decide_audit(&call.identity, tenant, call.origin.peer_address, now);
        if rules.book.catalog().tenants.keys().any(|tenant| decide(tenant).is_ok()) {
            return self.record(vec![event_of(call, Outcome::Done, now)]).await;
        }
        match decide(&call.identity.tenant) {
            Ok(()) => self.record(vec![event_of(call, Outcome::Done, now)]).await,
            Err(denial) => Err(self.denied(call, About::default(), *denial, now).await),
        }
    }
}
