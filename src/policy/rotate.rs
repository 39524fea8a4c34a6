//! Decisions about leases that are watched: they rotate without being asked for, for as long as what their holder showed vouches for more.

use std::{net::IpAddr, sync::Arc};

use super::{
    Action, Denial, Grant, PolicyBook,
    decide::{MIN_TTL, Refused, after},
    facts::{Ask, Caller, Target},
};
use crate::model::{
    SignedDuration, Timestamp,
    error::{Code, Error, Result},
    identity::{Identity, Proof},
    lease::Lease,
    role::Role,
    time::whole_second,
};

/// On what a lease is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchTerms {
    /// The wanted life of each credential; the role's default when absent. More than the role's maximum is cut to it: the role may have
    /// changed since.
    pub ttl: Option<SignedDuration>,
    /// When its holder showed what proves it.
    pub shown_at: Timestamp,
}

impl PolicyBook {
    /// Whether a lease is a caller's own and lives: what must be so before anything else is said of it.
    ///
    /// # Errors
    /// `LeaseNotFound` unless the lease is the caller's own, `TenantEnded`, `LeaseState` unless it is active and not past its expiry; and
    /// as for [`Self::decide_issue`] when the catalog no longer has the caller.
    pub fn decide_hold(&self, identity: &Identity, lease: &Lease, now: Timestamp) -> Result<(), Box<Denial>> {
        let caller = self.caller(identity)?;
        self.holds(&caller, lease, now)
    }

    /// Whether a caller may watch its lease from `now` on: what [`Self::decide_rotate`] says but for how far the lease can still go.
    ///
    /// # Errors
    /// As for [`Self::decide_hold`]; `RoleNotFound`, `NotRenewable` when the role has another kind since, `Denied`.
    pub fn decide_watch(
        &self,
        identity: &Identity,
        lease: &Lease,
        terms: WatchTerms,
        peer_address: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<(), Box<Denial>> {
        let caller = self.caller(identity)?;
        self.holds(&caller, lease, now)?;
        let role = self.role_held(&caller, lease)?;
        let ask = ask(lease, rotation_ttl(role, terms), peer_address, now);
        self.permit(&caller, &ask).map(drop)
    }

    /// Whether the next credential of a watched lease may be made at `now`. As [`Self::decide_renew`], and the holder of a token gets none
    /// that would live longer than the role's `max_life_per_token` after the token was shown. A client certificate bounds nothing: that it
    /// has expired ends the stream.
    ///
    /// # Errors
    /// As for [`Self::decide_watch`], and `NotRenewable` when the lease cannot go further, `TokenExpired` when it cannot without a fresh
    /// token.
    pub fn decide_rotate(
        &self,
        identity: &Arc<Identity>,
        lease: &Lease,
        terms: WatchTerms,
        peer_address: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<Grant, Box<Denial>> {
        let caller = self.caller(identity)?;
        self.holds(&caller, lease, now)?;
        let role = self.role_held(&caller, lease)?;
        let ttl = rotation_ttl(role, terms);
        let ceiling = self.ceiling(&caller, lease, role, now)?.min(self.vouched_until(&caller, lease, role, terms, now)?);
        let policies = self.permit(&caller, &ask(lease, ttl, peer_address, now))?;
        let expires_at = whole_second(after(now, ttl)).min(ceiling).max(lease.expires_at);
        Ok(self.grant(identity, &caller, role, (expires_at, lease.renew_until), policies))
    }

    /// The latest that a lease may reach by what its holder has shown.
    fn vouched_until(
        &self,
        caller: &Caller<'_>,
        lease: &Lease,
        role: &Role,
        terms: WatchTerms,
        now: Timestamp,
    ) -> Result<Timestamp, Refused> {
        let until = match caller.identity.proof {
            Proof::Certificate(_) | Proof::Enrollment(_) => return Ok(Timestamp::MAX),
            Proof::Token { .. } => whole_second(after(terms.shown_at, role.max_life_per_token)),
        };
        if until > lease.expires_at && lease.gains(until, now) {
            return Ok(until);
        }
        let message = format!(
            "your token carries the lease until {until} at most, {}s after you showed it; the lease ends at {} and goes no further without a \
             fresh one: watch it again with one",
            role.max_life_per_token.as_secs(),
            lease.expires_at
        );
        Err(self.refuse(Error::new(Code::TokenExpired, message)))
    }
}

fn ask(lease: &Lease, ttl: SignedDuration, peer_address: Option<IpAddr>, now: Timestamp) -> Ask<'_> {
    Ask { action: Action::Renew, target: Target::Lease(lease), ttl_seconds: Some(ttl.as_secs()), tenant: None, peer_address, now }
}

fn rotation_ttl(role: &Role, terms: WatchTerms) -> SignedDuration {
    terms.ttl.unwrap_or(role.default_ttl).clamp(MIN_TTL, role.max_ttl)
}
