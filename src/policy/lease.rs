//! Decisions about leases that exist.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use super::{
    Action, Denial, Grant, PolicyBook,
    decide::{Refused, after},
    facts::{Ask, Caller, Target},
};
use crate::model::{
    SignedDuration, Timestamp,
    credential::CredentialKind,
    error::{Code, Error, Result},
    identity::{Identity, Subject},
    lease::{Lease, LeaseState},
    name::{RoleName, TenantName},
    role::Role,
    time::whole_second,
};

/// The most answers that [`LeaseDecisions`] keeps; past it, it asks again.
pub const MAX_REMEMBERED: usize = 4_096;

/// What a caller is told of a lease that is not there, and of one that it may not read: the same, word for word.
pub const NO_SUCH_LEASE: &str = "there is no such lease, or you may not see it; `daypass lease list` shows those that you may";

/// What a caller may do to a lease that need not be its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeaseAction {
    /// See it.
    Read,
    /// Revoke it.
    Revoke,
}

impl From<LeaseAction> for Action {
    fn from(action: LeaseAction) -> Self {
        match action {
            LeaseAction::Read => Self::Read,
            LeaseAction::Revoke => Self::Revoke,
        }
    }
}

impl PolicyBook {
    /// Whether a caller may renew its lease at `now` for `ttl` (the role's default when absent).
    ///
    /// The grant's expiry is never before the lease's present one, and never after its `renew_until`, its tenant's end, or
    /// the role's maximum from now on.
    ///
    /// # Errors
    /// In this order: `LeaseNotFound` unless the lease is the caller's own, `TenantEnded`, `LeaseState` unless it is active
    /// and not past its expiry, `RoleNotFound` when its role is gone, `NotRenewable` when that has another kind since, `InvalidRequest` for
    /// the `ttl`, `NotRenewable`, `Denied`.
    pub fn decide_renew(
        &self,
        identity: &Arc<Identity>,
        lease: &Lease,
        ttl: Option<SignedDuration>,
        peer_address: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<Grant, Box<Denial>> {
        let caller = self.caller(identity)?;
        self.holds(&caller, lease, now)?;
        let role = self.role_held(&caller, lease)?;
        let ttl = self.ttl(role, ttl)?;
        let ceiling = self.ceiling(&caller, lease, role, now)?;
        let ask =
            Ask { action: Action::Renew, target: Target::Lease(lease), ttl_seconds: Some(ttl.as_secs()), tenant: None, peer_address, now };
        let policies = self.permit(&caller, &ask)?;
        let expires_at = whole_second(after(now, ttl)).min(ceiling).max(lease.expires_at);
        Ok(self.grant(identity, &caller, role, (expires_at, lease.renew_until), policies))
    }

    /// Whether a caller may see or revoke a lease, whose tenant and role need not be configured any more.
    ///
    /// # Errors
    /// `LeaseNotFound` when the caller may not even read it; else `Denied`; and as for [`Self::decide_issue`] when the
    /// catalog no longer has the caller.
    pub fn decide_lease(
        &self,
        action: LeaseAction,
        identity: &Identity,
        lease: &Lease,
        peer_address: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<(), Box<Denial>> {
        let caller = self.caller(identity)?;
        let ask = Ask { action: action.into(), target: Target::Lease(lease), ttl_seconds: None, tenant: None, peer_address, now };
        let Err(refused) = self.permit(&caller, &ask) else { return Ok(()) };
        if refused.error.code() != Code::Denied {
            return Err(refused);
        }
        let read = Ask { action: Action::Read, ..ask };
        let may_read = action != LeaseAction::Read && self.allows(&caller, &read).map_err(|error| self.refuse(error))?;
        if may_read {
            return Err(refused);
        }
        let hidden = self.no_lease();
        let explanation = super::Explanation { policies: refused.explanation.policies, ..hidden.explanation };
        Err(Box::new(Denial { error: hidden.error, explanation }))
    }

    /// The same for many leases of one call: leases that no policy can tell apart are decided once.
    ///
    /// # Errors
    /// As for [`Self::decide_lease`] when the catalog no longer has the caller.
    pub fn lease_decisions<'a>(
        &'a self,
        action: LeaseAction,
        identity: &'a Identity,
        peer_address: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<LeaseDecisions<'a>, Box<Denial>> {
        let caller = self.caller(identity)?;
        Ok(LeaseDecisions { book: self, caller, action, peer_address, now, known: HashMap::new() })
    }

    /// That a lease is the caller's own and lives.
    pub(super) fn holds(&self, caller: &Caller<'_>, lease: &Lease, now: Timestamp) -> Result<(), Refused> {
        if !caller.owns(lease) {
            return Err(self.no_lease());
        }
        self.in_force(caller, now)?;
        self.renewable_state(lease, now)
    }

    /// The role of a caller's lease, while it is there for the caller and gives what it gave.
    pub(super) fn role_held(&self, caller: &Caller<'_>, lease: &Lease) -> Result<&Arc<Role>, Refused> {
        let gone = || self.refuse(Error::new(Code::RoleNotFound, format!("the role {:?} is no longer there for you", lease.role.as_str())));
        let role = self.role_of(caller, &lease.role).ok_or_else(gone)?;
        self.same_kind(lease, role)?;
        self.same_identity(lease, role)?;
        Ok(role)
    }

    /// A first identity names its holder: under another name the lease would be nobody's.
    fn same_identity(&self, lease: &Lease, role: &Role) -> Result<(), Refused> {
        let uri = role.enrollment().and_then(|spec| spec.uri_sans.first());
        let same = uri.is_some_and(|uri| uri.read_back(lease.subject.as_str(), &lease.tenant, &role.name).is_some());
        if !lease.enrolled || same {
            return Ok(());
        }
        let message = "the role gives agents other names since, or is not for first identities any more; enrol the agent anew";
        Err(self.refuse(Error::new(Code::NotRenewable, message)))
    }

    fn no_lease(&self) -> Refused {
        self.refuse(Error::new(Code::LeaseNotFound, NO_SUCH_LEASE))
    }

    fn renewable_state(&self, lease: &Lease, now: Timestamp) -> Result<(), Refused> {
        let state = if lease.state == LeaseState::Active && lease.expires_at <= now { LeaseState::Expired } else { lease.state };
        if state == LeaseState::Active {
            return Ok(());
        }
        let message = format!("the lease is {}; only an active one can be renewed: issue a new one", state.as_str());
        Err(self.refuse(Error::new(Code::LeaseState, message)))
    }

    /// A role may have another kind since: what is on record of the lease would not be what the caller holds.
    fn same_kind(&self, lease: &Lease, role: &Role) -> Result<(), Refused> {
        if lease.kind == role.kind() {
            return Ok(());
        }
        let message = "the role gives another kind of credential since this lease was issued; issue a new one";
        Err(self.refuse(Error::new(Code::NotRenewable, message)))
    }

    /// The latest that a renewal may reach, in whole seconds; at least the lease's present expiry.
    pub(super) fn ceiling(&self, caller: &Caller<'_>, lease: &Lease, role: &Role, now: Timestamp) -> Result<Timestamp, Refused> {
        let end = whole_second(caller.tenant.ends_at.unwrap_or(Timestamp::MAX)).min(lease.renew_until);
        let ceiling = whole_second(after(now, role.max_ttl)).min(end);
        if lease.renewable(now) && lease.gains(end, now) && ceiling >= lease.expires_at {
            return Ok(ceiling);
        }
        let message = format!("the lease ends at {} and cannot be renewed further; issue a new one", lease.expires_at);
        Err(self.refuse(Error::new(Code::NotRenewable, message)))
    }
}

/// Decisions about many leases for one caller, action and time.
pub struct LeaseDecisions<'a> {
    book: &'a PolicyBook,
    caller: Caller<'a>,
    action: LeaseAction,
    peer_address: Option<IpAddr>,
    now: Timestamp,
    known: HashMap<(RoleName, TenantName, Subject, CredentialKind, bool), bool>,
}

impl LeaseDecisions<'_> {
    /// Whether the caller may. The same answer as [`PolicyBook::decide_lease`] without its explanation.
    ///
    /// # Errors
    /// `Internal` when the question could not be put.
    pub fn allows(&mut self, lease: &Lease) -> Result<bool> {
        // All that policies can see of a lease.
        let facts = (lease.role.clone(), lease.tenant.clone(), lease.subject.clone(), lease.kind, self.caller.owns(lease));
        if let Some(known) = self.known.get(&facts) {
            return Ok(*known);
        }
        let (peer_address, now) = (self.peer_address, self.now);
        let ask = Ask { action: self.action.into(), target: Target::Lease(lease), ttl_seconds: None, tenant: None, peer_address, now };
        let allows = self.book.allows(&self.caller, &ask)?;
        if self.known.len() < MAX_REMEMBERED {
            self.known.insert(facts, allows);
        }
        Ok(allows)
    }

    /// How many answers it keeps.
    pub fn remembered(&self) -> usize {
        self.known.len()
    }
}
