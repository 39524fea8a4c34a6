//! Revoke: one lease or all that match, by one path.
//!
//! The order is what makes a revocation that was acknowledged impossible to lose: it is in the audit log before the store
//! changes, and a lease that a crash leaves `revoking` is due at once for the sweep, which ends it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::mpsc;

use super::{Call, Vend, open::Why, record::About};
use crate::{
    model::{
        Timestamp,
        error::{Code, Error, Result},
        event::Event,
        lease::{Change, Handle, Lease, LeaseFilter, LeaseId, LeaseState, Reach},
    },
    policy::LeaseAction,
    store::Swap,
};

/// The longest reason that a caller may give, in bytes.
pub const MAX_REASON: usize = 256;

/// Leases that are revoked in one go: one group in the audit log, one step at the store, one CRL.
const BATCH: usize = 1000;

/// How long the first step that finds its reader slow waits for it; after that steps are missed, and the revocation goes on.
pub const TELL_TIMEOUT: Duration = Duration::from_secs(1);

/// One step of a revocation of many.
#[derive(Debug)]
pub enum RevokeStep {
    /// First: how many match and are live, and how many of those the caller may not revoke.
    Matched {
        /// May be revoked.
        count: u64,
        /// May not; left alone.
        denied: u64,
    },
    /// How far it is.
    Progress {
        /// Revoked so far.
        revoked: u64,
        /// Failed so far.
        failed: u64,
    },
    /// A lease that failed.
    Failed {
        /// Which.
        id: LeaseId,
        /// Why.
        error: Error,
    },
    /// Last.
    Summary {
        /// Revoked in all.
        revoked: u64,
        /// Failed in all.
        failed: u64,
        /// The latest time until which one of them may still be accepted.
        live_until: Option<Timestamp>,
    },
}

/// Why leases are revoked, which says how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// A caller asked for it.
    Asked,
    /// A caller asked for it, and something failed.
    Late,
    /// The answer of a request is lost, and another one takes its place.
    Replaced,
    /// The credential reached nobody.
    Unheld,
    /// Two hold it.
    Cloned,
}

impl Manner {
    /// Whether a caller waits for it: a pass has other leases to look after than those of a system that is away.
    pub(super) fn waits(self) -> bool {
        matches!(self, Self::Asked | Self::Replaced)
    }

    /// Whether it must not cut sessions of other leases: nobody asked for that. Else a system that is slow for a minute would end every
    /// session of a role, and so would any caller who shows an old generation of its own lease, without the right to revoke anything.
    fn spares(self) -> bool {
        matches!(self, Self::Unheld | Self::Cloned)
    }
}

/// A lease whose revocation would cut other leases' sessions, as one that runs to its expiry; any other as it is.
fn sparing(mut lease: Lease) -> Lease {
    if lease.state.is_live()
        && lease.state != LeaseState::Revoking
        && lease.reach == Reach::RoleSessions
        && let Handle::Aws { deny, .. } = &mut lease.handle
    {
        *deny = None;
        lease.reach = Reach::Expiry;
    }
    lease
}

impl Vend {
    /// Revokes one lease and answers when the revocation has reached as far as it can. A lease that has ended already is answered as it is.
    pub async fn revoke(&self, call: &Call, id: LeaseId, reason: &str) -> Result<Lease> {
        let now = self.clock.now();
        let about = || About { lease: Some(id), ..About::default() };
        let lease = match self.find(id).await {
            Ok(lease) => lease,
            Err(error) => return Err(self.ended(call, about(), error, now).await),
        };
        let decided = self.rules.load().book.decide_lease(LeaseAction::Revoke, &call.identity, &lease, call.origin.peer_address, now);
        if let Err(denial) = decided {
            return Err(self.denied(call, About { role: Some(&lease.role), ..about() }, *denial, now).await);
        }
        let lease = self.given_back(call, lease, now);
        let outcome = self.revoke_batch(vec![lease], |lease| revoked_by(call, lease, reason, now), now, Manner::Asked).await;
        match outcome.into_iter().next() {
            Some((_, Ok(lease))) => Ok(lease),
            Some((_, Err(error))) => Err(self.ended(call, about(), error, now).await),
            None => Err(super::defect("a batch of one gave no outcome")),
        }
    }

    /// A lease that its own holder gives back, as a job does at its end: where the list that would deny it is crowded its session lives to
    /// its expiry, and the record and the answer say so. The room that is left is for who must end the sessions of others.
    pub(super) fn given_back(&self, call: &Call, mut lease: Lease, now: Timestamp) -> Lease {
        let own = lease.tenant == call.identity.tenant && lease.subject == *call.identity.subject();
        if own
            && lease.state == LeaseState::Active
            && let Handle::Aws { deny, .. } = &mut lease.handle
            && let Some(list) = deny
            && let Some(room) = self.rules.load().issuers.aws.room(list)
            && self.denies.is_crowded(list, room, now)
        {
            *deny = None;
            lease.reach = Reach::Expiry;
        }
        lease
    }

    /// Revokes every live lease that matches and that the caller may revoke. It goes on to its end when the receiver is dropped: what an
    /// operator began at night is finished, whatever becomes of the terminal.
    pub async fn revoke_matching(
        self: Arc<Self>,
        call: Call,
        filter: LeaseFilter,
        dry_run: bool,
        reason: String,
        steps: mpsc::Sender<Result<RevokeStep>>,
    ) {
        if let Err(error) = self.try_revoke_matching(&call, &filter, dry_run, &reason, &steps).await {
            let error = self.ended(&call, About { role: filter.role.as_ref(), ..About::default() }, error, self.clock.now()).await;
            let _gone = steps.send(Err(error)).await;
        }
    }

    async fn try_revoke_matching(
        &self,
        call: &Call,
        filter: &LeaseFilter,
        dry_run: bool,
        reason: &str,
        steps: &mpsc::Sender<Result<RevokeStep>>,
    ) -> Result<()> {
        let teller = Teller { steps, listens: true.into() };
        let tell = |step| teller.tell(step);
        let (count, denied) = self.count_revocable(call, filter).await?;
        self.record(vec![self.matching_begun(call, filter, dry_run, (count, denied))]).await?;
        tell(RevokeStep::Matched { count, denied }).await;
        if dry_run {
            tell(RevokeStep::Summary { revoked: 0, failed: 0, live_until: None }).await;
            return Ok(());
        }
        let (mut revoked, mut failed, mut live_until) = (0, 0, None);
        let mut after = None;
        loop {
            let now = self.clock.now();
            let (leases, next) = self.revocable_page(call, filter, after).await?;
            let leases = leases.into_iter().map(|lease| self.given_back(call, lease, now)).collect();
            for (id, outcome) in self.revoke_batch(leases, |lease| revoked_by(call, lease, reason, now), now, Manner::Asked).await {
                match outcome {
                    Ok(lease) => {
                        revoked += 1;
                        live_until = live_until.max(Some(lease.live_until));
                    }
                    Err(error) => {
                        failed += 1;
                        tell(RevokeStep::Failed { id, error }).await;
                    }
                }
            }
            tell(RevokeStep::Progress { revoked, failed }).await;
            match next {
                Some(id) => after = Some(id),
                None => break,
            }
        }
        tell(RevokeStep::Summary { revoked, failed, live_until }).await;
        Ok(())
    }

    async fn count_revocable(&self, call: &Call, filter: &LeaseFilter) -> Result<(u64, u64)> {
        let (mut count, mut denied, mut after) = (0, 0, None);
        loop {
            let page = self.store.list(filter, after, BATCH).await?;
            let (may, may_not) = self.split_revocable(call, page.leases)?;
            count += may.len() as u64;
            denied += may_not;
            match page.next {
                Some(id) => after = Some(id),
                None => return Ok((count, denied)),
            }
        }
    }

    async fn revocable_page(&self, call: &Call, filter: &LeaseFilter, after: Option<LeaseId>) -> Result<(Vec<Lease>, Option<LeaseId>)> {
        let page = self.store.list(filter, after, BATCH).await?;
        Ok((self.split_revocable(call, page.leases)?.0, page.next))
    }

    /// The live leases that the caller may revoke, and how many live ones it may read but not revoke.
    fn split_revocable(&self, call: &Call, leases: Vec<Lease>) -> Result<(Vec<Lease>, u64)> {
        let rules = self.rules.load();
        let now = self.clock.now();
        let decisions =
            |action| rules.book.lease_decisions(action, &call.identity, call.origin.peer_address, now).map_err(|denial| denial.error);
        let (mut revoke, mut read) = (decisions(LeaseAction::Revoke)?, decisions(LeaseAction::Read)?);
        let (mut may, mut denied) = (Vec::with_capacity(leases.len()), 0);
        for lease in leases.into_iter().filter(|lease| lease.state.is_live() && lease.expires_at > now) {
            if revoke.allows(&lease)? {
                may.push(lease);
            } else if read.allows(&lease)? {
                denied += 1;
            }
        }
        Ok((may, denied))
    }

    fn matching_begun(&self, call: &Call, filter: &LeaseFilter, dry_run: bool, (count, denied): (u64, u64)) -> Event {
        let mut event = super::record::event_of(call, crate::model::event::Outcome::Done, self.clock.now());
        event.role = filter.role.clone();
        // Of the caller's own tenant, whatever it asks for: else anybody could write into the record that another tenant reads.
        event.detail.push(format!(
            "{} {count} matching leases, {denied} more may not be revoked by the caller",
            if dry_run { "counted" } else { "revoking" }
        ));
        if let Some(tenant) = &filter.tenant {
            event.detail.push(format!("tenant {tenant}"));
        }
        if let Some(subject) = &filter.subject {
            event.detail.push(format!("subject {subject}"));
        }
        if let Some(before) = filter.issued_before {
            event.detail.push(format!("issued before {before}"));
        }
        event
    }

    /// Revokes leases: on record, in the store, carried out. One outcome for each, in no order; in a manner that waits for nothing it may be
    /// a lease that is still `revoking`.
    pub(super) async fn revoke_batch(
        &self,
        leases: Vec<Lease>,
        event: impl Fn(&Lease) -> Event,
        now: Timestamp,
        manner: Manner,
    ) -> Vec<(LeaseId, Result<Lease>)> {
        let mut outcomes = Vec::with_capacity(leases.len());
        let mut revoking = Vec::with_capacity(leases.len());
        let mut todo = leases;
        // A renewal at the same moment wins the first round; a second reading settles it.
        for round in 0..3 {
            let conflicts = self.begin_revoke(std::mem::take(&mut todo), &event, (now, manner), &mut revoking, &mut outcomes).await;
            if conflicts.is_empty() {
                break;
            }
            if round == 2 {
                let busy = Error::new(Code::LeaseState, "the lease keeps changing; its revocation is on record and on its way");
                self.leave_open(conflicts, &busy, &mut outcomes);
                break;
            }
            match self.store.get(&conflicts).await {
                Ok(found) => todo = found.into_iter().flatten().collect(),
                Err(error) => {
                    self.leave_open(conflicts, &error, &mut outcomes);
                    break;
                }
            }
        }
        outcomes.extend(self.carry_out(revoking, manner).await);
        outcomes
    }

    /// Puts revocations on record and in the store. Fills `revoking` and `outcomes`; gives back those that changed meanwhile.
    async fn begin_revoke(
        &self,
        leases: Vec<Lease>,
        event: &impl Fn(&Lease) -> Event,
        (now, manner): (Timestamp, Manner),
        revoking: &mut Vec<Lease>,
        outcomes: &mut Vec<(LeaseId, Result<Lease>)>,
    ) -> Vec<LeaseId> {
        let mut begun = Vec::with_capacity(leases.len());
        for lease in leases {
            let lease = if manner.spares() { sparing(lease) } else { lease };
            match lease.state {
                LeaseState::Revoking => revoking.push(lease),
                LeaseState::Revoked | LeaseState::Expired => outcomes.push((lease.id, Ok(lease))),
                LeaseState::Pending | LeaseState::Active => match lease.apply(Change::BeginRevoke { at: now }) {
                    Ok(next) => begun.push(next),
                    Err(illegal) => outcomes.push((lease.id, Err(super::defect(&illegal.to_string())))),
                },
            }
        }
        if begun.is_empty() {
            return Vec::new();
        }
        let swapped = match self.record(begun.iter().map(event).collect()).await {
            Ok(()) => self.store.swap(&begun).await,
            Err(unrecorded) => {
                // The record may yet stand (its write was under way), and who asked for it may: it is carried out as soon as the log
                // can be written, which errs on the safe side.
                self.leave_open(begun.iter().map(|lease| lease.id), &unrecorded, outcomes);
                return Vec::new();
            }
        };
        match swapped {
            Ok(swaps) => {
                let mut conflicts = Vec::new();
                for (lease, swap) in begun.into_iter().zip(swaps) {
                    match swap {
                        Swap::Done => revoking.push(lease),
                        Swap::Conflict => conflicts.push(lease.id),
                        Swap::Missing => outcomes.push((lease.id, Err(super::read::not_found()))),
                    }
                }
                conflicts
            }
            Err(error) => {
                // It is on record, so it will be done: the pass that closes what is open takes it up.
                self.leave_open(begun.iter().map(|lease| lease.id), &error, outcomes);
                Vec::new()
            }
        }
    }

    /// What is on record, or may be, will be done: the pass that closes what is open takes it up.
    fn leave_open(&self, ids: impl IntoIterator<Item = LeaseId>, error: &Error, outcomes: &mut Vec<(LeaseId, Result<Lease>)>) {
        for id in ids {
            self.open.add(id, Why::Revoked);
            outcomes.push((id, Err(error.clone())));
        }
    }
}

/// Tells how far a revocation of many is. Who does not read must not hold up what it asked for.
struct Teller<'a> {
    steps: &'a mpsc::Sender<Result<RevokeStep>>,
    listens: AtomicBool,
}

impl Teller<'_> {
    /// Waits for a slow reader once, and from then on for nobody.
    async fn tell(&self, step: RevokeStep) {
        let patience = if self.listens.load(Ordering::Relaxed) { TELL_TIMEOUT } else { Duration::ZERO };
        if self.steps.send_timeout(Ok(step), patience).await.is_err() {
            self.listens.store(false, Ordering::Relaxed);
        }
    }
}

fn revoked_by(call: &Call, lease: &Lease, reason: &str, now: Timestamp) -> Event {
    let mut event = Vend::done(call, lease, now);
    if !reason.is_empty() {
        event.detail.push(reason.to_owned());
    }
    if let (Reach::RoleSessions, Handle::Aws { role_arn, .. }) = (lease.reach, &lease.handle) {
        event.detail.push(format!("every session of {role_arn} that began before is cut, those of other leases too"));
    }
    event
}
