//! A lease: the record of one vended credential, and the only legal ways in which it changes.

mod handle;
mod id;
mod rotation;
mod serial;
mod stamp;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::{
    handle::{Handle, LiveSecret, LiveSerial},
    id::{BadLeaseId, LeaseId, PARTITIONS, partition_of},
    rotation::{CLAIM_LIFE, Claim, RotationWindow, ServerId},
    serial::{SERIAL_BYTES, Serial},
};
use super::{
    SignedDuration, Timestamp,
    credential::CredentialKind,
    identity::Subject,
    name::{RoleName, TenantName},
    revocation::{RevocationList, RevokedSerial},
    time::whole_second,
};

/// The most certificates that may be alive under one lease at once; a renewal past it is refused.
pub const MAX_LIVE_SERIALS: usize = 8;

/// The same for an agent's own identity ([`Lease::enrolled`]). Of its certificates only two are good at a time, see [`Lease::may_be_shown`]; the
/// others were in answers that never arrived, and a bad hour on the way must not cost the agent its identity.
pub const MAX_LIVE_SERIALS_ENROLLED: usize = 64;

/// How long a registry takes a token past its `exp` (distribution 2.8 and 3.1).
pub const REGISTRY_LEEWAY: SignedDuration = SignedDuration::from_secs(60);

/// How long a denial at AWS stands past the lease's expiry: AWS counts a session's life from its own answer, and by its own clock.
pub const AWS_LEEWAY: SignedDuration = SignedDuration::from_secs(60);

/// How much later than planned a session at AWS may end, because the call took time and clocks differ: one that is bound by the end of its
/// lease or its tenant is planned to end so much before that.
pub const AWS_CALL_MARGIN: SignedDuration = SignedDuration::from_secs(30);

/// The shortest session at AWS (`DurationSeconds` of `AssumeRole` in the STS API reference).
pub const AWS_SHORTEST_SESSION: SignedDuration = SignedDuration::from_mins(15);

/// Where a lease stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaseState {
    /// Reserved before a remote system is asked.
    Pending,
    /// Handed out.
    Active,
    /// A revocation is durable and on its way.
    Revoking,
    /// The revocation has reached as far as it can.
    Revoked,
    /// Its time has passed.
    Expired,
}

impl LeaseState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Active, Self::Revoking, Self::Revoked, Self::Expired];

    /// Its name in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Revoking => "revoking",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }

    /// Whether it counts against the caps.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Pending | Self::Active | Self::Revoking)
    }

    /// Whether a lease in this state may move to `next`.
    pub fn may_become(self, next: Self) -> bool {
        use LeaseState::{Active, Expired, Pending, Revoked, Revoking};
        matches!((self, next), (Pending, Active | Revoking | Expired) | (Active, Revoking | Expired) | (Revoking, Revoked))
    }
}

/// How far a revocation reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// Into the issuing CA's CRL.
    Crl,
    /// This lease alone, at the system that takes the credential.
    Lease,
    /// Every older session of the same IAM role, other leases' among them.
    RoleSessions,
    /// Nowhere; the credential lives until it expires.
    Expiry,
}

impl Reach {
    /// Its name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Crl => "crl",
            Self::Lease => "lease",
            Self::RoleSessions => "role_sessions",
            Self::Expiry => "expiry",
        }
    }
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// Counts its changes, from 1: a change is applied only to the version that it was made from.
    pub version: u32,
    /// The role.
    pub role: RoleName,
    /// The kind of its credential.
    pub kind: CredentialKind,
    /// The holder's tenant.
    pub tenant: TenantName,
    /// The holder.
    pub subject: Subject,
    /// Where it stands.
    pub state: LeaseState,
    /// When it was issued.
    #[serde(with = "stamp::millis")]
    pub issued_at: Timestamp,
    /// When its newest credential expires.
    #[serde(with = "stamp::seconds")]
    pub expires_at: Timestamp,
    /// No renewal goes past this.
    #[serde(with = "stamp::seconds")]
    pub renew_until: Timestamp,
    /// How many credentials were made under it, from 1.
    pub generation: u32,
    /// How far a revocation reaches.
    pub reach: Reach,
    /// Until when the credential may still be accepted by who honours `reach`.
    #[serde(with = "stamp::seconds")]
    pub live_until: Timestamp,
    /// When a revocation was acknowledged.
    #[serde(with = "stamp::maybe_millis", default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
    /// How to find the credential again.
    pub handle: Handle,
    /// When its newest credential was made; none for the first one, which `issued_at` dates.
    #[serde(with = "stamp::maybe_millis", default, skip_serializing_if = "Option::is_none")]
    pub renewed_at: Option<Timestamp>,
    /// The newest generation that its holder said it has; 0 when it said nothing. Who shows an older one later is another holder.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub acknowledged: u32,
    /// Which server has its holder's stream, and until when it is making the next credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// When the newest credential that was handed out expires, while the lease is extended for one that a remote system makes and that has
    /// not been handed out: a failure in between must not make the next one late.
    #[serde(with = "stamp::maybe_millis", default, skip_serializing_if = "Option::is_none")]
    pub held_until: Option<Timestamp>,
    /// Whether it was issued for an enrolment code: it is then its holder's own identity, only this very certificate renews it, and an
    /// older one is refused as soon as a newer one was acknowledged.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub enrolled: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A change of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// What was pending was made, and is about to be handed out.
    Activate {
        /// When it expires.
        expires_at: Timestamp,
        /// Where to find it.
        handle: Handle,
    },
    /// What was pending was never made.
    Void {
        /// When that was known.
        at: Timestamp,
    },
    /// A remote system is about to be asked for a new credential, which will not expire later than this.
    Extend {
        /// The time.
        expires_at: Timestamp,
    },
    /// That was never made: its expiry is what it was before the extension.
    Withdraw {
        /// The time.
        expires_at: Timestamp,
    },
    /// A retry of the request that made it took it over.
    TakeOver,
    /// A server begins to rotate it.
    Claim(Claim),
    /// Its holder's stream is at a server from now on; no other one rotates it any more.
    TakeUp {
        /// The server.
        by: ServerId,
        /// When. An earlier claim that has not lapsed stays ([`Claim::lapses_by`]): what that one is making may still come.
        at: Timestamp,
        /// As in [`Handle::X509`].
        next_key: Option<String>,
    },
    /// Its holder has a generation, and perhaps gives the public key of the next one.
    Acknowledge {
        /// The generation.
        generation: u32,
        /// As in [`Handle::X509`].
        next_key: Option<String>,
    },
    /// A new credential under it.
    Renew {
        /// When that was made.
        at: Timestamp,
        /// When that expires.
        expires_at: Timestamp,
        /// Where to find it.
        handle: Handle,
        /// The generation whose certificate its holder showed, where that is known: it has that one, as if it had acknowledged it.
        shown: Option<u32>,
    },
    /// A revocation, acknowledged at this time.
    BeginRevoke {
        /// The time.
        at: Timestamp,
    },
    /// The revocation has reached as far as it can.
    FinishRevoke {
        /// Until when the credential may still be accepted.
        live_until: Timestamp,
    },
    /// Its time has passed.
    Expire,
}

/// A change that the lease's state does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a lease that is {state} cannot {change}", state = .state.as_str())]
pub struct IllegalChange {
    /// Where the lease stands.
    pub state: LeaseState,
    /// The verb.
    pub change: &'static str,
}

impl Lease {
    /// The lease after a change, one version on; or why not.
    pub fn apply(&self, change: Change) -> Result<Self, IllegalChange> {
        let mut next = Self { version: self.version.saturating_add(1), ..self.clone() };
        match change {
            Change::Activate { expires_at, handle } => {
                next.move_to(LeaseState::Active, "be activated")?;
                next.expires_at = whole_second(expires_at);
                next.renew_until = self.renew_until.max(next.expires_at);
                next.live_until = next.accepted_until();
                next.handle = handle;
            }
            Change::Void { at } => {
                if self.state != LeaseState::Pending {
                    return Err(IllegalChange { state: self.state, change: "be found unmade" });
                }
                next.move_to(LeaseState::Expired, "be found unmade")?;
                next.expires_at = whole_second(at).min(self.expires_at);
                next.live_until = next.expires_at;
            }
            Change::Extend { expires_at } => {
                if self.state != LeaseState::Active {
                    return Err(IllegalChange { state: self.state, change: "be extended" });
                }
                next.held_until = Some(self.held_until());
                next.expires_at = whole_second(expires_at).min(self.renew_until).max(self.expires_at);
                next.live_until = next.accepted_until();
            }
            Change::Withdraw { expires_at } => {
                if self.state != LeaseState::Active {
                    return Err(IllegalChange { state: self.state, change: "lose its extension" });
                }
                next.expires_at = whole_second(expires_at).min(self.expires_at);
                next.live_until = next.accepted_until();
                next.held_until = self.held_until.filter(|until| *until < next.expires_at);
            }
            Change::TakeOver => {
                if self.state != LeaseState::Active {
                    return Err(IllegalChange { state: self.state, change: "be taken over" });
                }
            }
            Change::Claim(claim) => {
                self.must_be_active("be claimed")?;
                next.claim = Some(claim);
            }
            Change::TakeUp { by, at, next_key } => {
                self.must_be_active("be taken up")?;
                let until = self.claim.map_or(at, |claim| claim.lapses_by(at));
                next.claim = Some(Claim { by, until });
                next.give_key(next_key);
            }
            Change::Acknowledge { generation, next_key } => {
                self.must_be_active("be acknowledged")?;
                if self.enrolled && generation > self.acknowledged && generation != self.generation {
                    return Err(IllegalChange { state: self.state, change: "have another generation acknowledged than its newest" });
                }
                next.acknowledged = self.acknowledged.max(generation.min(self.generation));
                next.give_key(next_key);
            }
            Change::Renew { at, expires_at, handle, shown } => {
                if self.state != LeaseState::Active {
                    return Err(IllegalChange { state: self.state, change: "be renewed" });
                }
                if shown.is_some_and(|shown| !self.may_be_shown(shown)) {
                    return Err(IllegalChange { state: self.state, change: "be renewed by who shows that generation" });
                }
                next.acknowledged = self.acknowledged.max(shown.unwrap_or(0));
                next.expires_at = whole_second(expires_at).min(self.renew_until);
                next.live_until = next.accepted_until();
                next.handle = handle;
                next.generation = self.generation.saturating_add(1);
                next.renewed_at = Some(at);
                next.held_until = None;
                // It lapses; the stream stays where it is.
                next.claim = self.claim.map(|claim| Claim { until: claim.until.min(at), ..claim });
            }
            Change::BeginRevoke { at } => {
                next.move_to(LeaseState::Revoking, "be revoked")?;
                next.revoked_at = Some(at);
            }
            Change::FinishRevoke { live_until } => {
                next.move_to(LeaseState::Revoked, "end its revocation")?;
                next.live_until = whole_second(live_until).min(self.accepted_until());
            }
            Change::Expire => next.move_to(LeaseState::Expired, "expire")?,
        }
        Ok(next)
    }

    fn give_key(&mut self, key: Option<String>) {
        if let (Handle::X509 { next_key, .. }, Some(key)) = (&mut self.handle, key) {
            *next_key = Some(key);
        }
    }

    fn must_be_active(&self, change: &'static str) -> Result<(), IllegalChange> {
        if self.state == LeaseState::Active { Ok(()) } else { Err(IllegalChange { state: self.state, change }) }
    }

    fn move_to(&mut self, state: LeaseState, verb: &'static str) -> Result<(), IllegalChange> {
        if !self.state.may_become(state) {
            return Err(IllegalChange { state: self.state, change: verb });
        }
        self.state = state;
        Ok(())
    }

    /// Until when the credential can be accepted if nothing revokes it: its expiry, and at a registry the leeway that registries give
    /// the tokens of the last exchange.
    pub fn accepted_until(&self) -> Timestamp {
        match self.kind {
            CredentialKind::Registry => self.expires_at.checked_add(REGISTRY_LEEWAY).unwrap_or(Timestamp::MAX),
            CredentialKind::X509 | CredentialKind::Aws | CredentialKind::Ecr | CredentialKind::Jwt => self.expires_at,
        }
    }

    /// Where its revocation is published, and what stands there: a list for each CA under which a certificate of it lives. Empty where
    /// the store alone is asked, or nothing can be done.
    pub fn revocation(&self) -> BTreeMap<RevocationList, Vec<RevokedSerial>> {
        let revoked_at = self.revoked_at.unwrap_or(self.issued_at);
        let mut lists = BTreeMap::new();
        match &self.handle {
            Handle::X509 { ca, serials, .. } => {
                for LiveSerial { serial, not_after, ca: issued_by } in serials {
                    let list = RevocationList::Crl(issued_by.as_ref().unwrap_or(ca).clone());
                    let entry = RevokedSerial { serial: serial.clone(), revoked_at, not_after: *not_after };
                    lists.entry(list).or_insert_with(Vec::new).push(entry);
                }
            }
            Handle::Aws { deny: Some(deny), .. } => {
                let not_after = self.expires_at.checked_add(AWS_LEEWAY).unwrap_or(Timestamp::MAX);
                let entry = RevokedSerial { serial: self.id.to_hex(), revoked_at, not_after };
                lists.insert(RevocationList::Aws(deny.clone()), vec![entry]);
            }
            Handle::Aws { deny: None, .. } | Handle::Registry { .. } | Handle::Jwt { .. } => {}
        }
        lists
    }

    /// When the newest credential that was handed out expires.
    pub fn held_until(&self) -> Timestamp {
        self.held_until.unwrap_or(self.expires_at)
    }

    /// Whether a renewal at `now` could still give a credential that lives longer than the newest one.
    pub fn renewable(&self, now: Timestamp) -> bool {
        self.state == LeaseState::Active && self.expires_at > now && self.gains(self.renew_until, now)
    }

    /// Whether a credential that is made at `now` and lives until `end` at the latest could live longer than the newest one. A session at
    /// AWS has a shortest life, and ends a margin before `end`.
    pub fn gains(&self, end: Timestamp, now: Timestamp) -> bool {
        match self.kind {
            CredentialKind::Aws | CredentialKind::Ecr => {
                let latest = end.checked_sub(AWS_CALL_MARGIN).unwrap_or(Timestamp::MIN);
                latest > self.held_until() && latest.duration_since(whole_second(now)) >= AWS_SHORTEST_SESSION
            }
            CredentialKind::X509 | CredentialKind::Registry | CredentialKind::Jwt => end > self.held_until(),
        }
    }

    /// When the sweep must look at it next: when it is live its expiry (a revocation or a reservation that a crash left
    /// open is due `grace` after it began); when it has ended, the end of its retention.
    pub fn due_at(&self, grace: SignedDuration, retention: SignedDuration) -> Timestamp {
        let after = |at: Timestamp, span: SignedDuration| at.checked_add(span).unwrap_or(Timestamp::MAX);
        match self.state {
            LeaseState::Active => self.expires_at,
            LeaseState::Pending => after(self.issued_at, grace),
            LeaseState::Revoking => after(self.revoked_at.unwrap_or(self.issued_at), grace),
            LeaseState::Revoked | LeaseState::Expired => after(self.expires_at, retention),
        }
    }
}

/// Which leases; every field that is set must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseFilter {
    /// A role.
    pub role: Option<RoleName>,
    /// A tenant.
    pub tenant: Option<TenantName>,
    /// A subject.
    pub subject: Option<Subject>,
    /// A state.
    pub state: Option<LeaseState>,
    /// Only leases issued before this time.
    pub issued_before: Option<Timestamp>,
}

impl LeaseFilter {
    /// Whether a lease matches.
    pub fn matches(&self, lease: &Lease) -> bool {
        self.role.as_ref().is_none_or(|role| *role == lease.role)
            && self.tenant.as_ref().is_none_or(|tenant| *tenant == lease.tenant)
            && self.subject.as_ref().is_none_or(|subject| *subject == lease.subject)
            && self.state.is_none_or(|state| state == lease.state)
            && self.issued_before.is_none_or(|before| lease.issued_at < before)
    }
}

#[cfg(test)]
mod tests;
