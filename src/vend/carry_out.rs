//! Carries revocations to where they take effect, and says until when what was revoked may still be accepted.

use std::collections::BTreeMap;

use futures::future::join_all;

use super::{Vend, record::event_of_pass, revoke::Manner};
use crate::{
    issuer::registry::MAX_TOKEN_TTL,
    model::{
        Timestamp,
        error::Result,
        event::Event,
        lease::{Change, Lease, LeaseId, REGISTRY_LEEWAY, Reach},
        name::CaName,
        revocation::{AwsDeny, RevocationList, RevokedSerial},
    },
};

impl Vend {
    /// Carries revocations out and closes the leases. Idempotent: the sweep does it again after a crash.
    pub(super) async fn carry_out(&self, revoking: Vec<Lease>, manner: Manner) -> Vec<(LeaseId, Result<Lease>)> {
        if revoking.is_empty() {
            return Vec::new();
        }
        // First, and again after a crash: whoever watches one of them at another server must learn of it.
        if let Err(error) = self.tell_revoked(&revoking).await {
            return revoking.into_iter().map(|lease| (lease.id, Err(error.clone()))).collect();
        }
        let mut by_list: BTreeMap<Option<RevocationList>, Vec<Lease>> = BTreeMap::new();
        for lease in revoking {
            by_list.entry(lease.revocation().map(|(list, _)| list)).or_default().push(lease);
        }
        // All at once: a system that is away holds up what it alone would carry out.
        let groups = by_list.into_iter().map(async |(list, leases)| {
            let carried = match &list {
                Some(RevocationList::Crl(ca)) => self.withdraw(ca, &leases).await,
                Some(RevocationList::Aws(deny)) => self.deny(deny, &leases, manner).await,
                Some(RevocationList::Recent) | None => self.finish(&leases, |lease| self.unlisted_live_until(lease)).await,
            };
            match carried {
                Ok(carried) => carried.into_iter().map(|lease| (lease.id, Ok(lease))).collect(),
                Err(error) => leases.into_iter().map(|lease| (lease.id, Err(error.clone()))).collect::<Vec<_>>(),
            }
        });
        join_all(groups).await.into_iter().flatten().collect()
    }

    /// By the CRL of a CA.
    async fn withdraw(&self, ca: &CaName, leases: &[Lease]) -> Result<Vec<Lease>> {
        self.store.add_revoked(&ca.clone().into(), &entries(leases)).await?;
        if self.crls.is_ours(ca) {
            self.crls.publish(ca).await?;
        } else {
            // Its CA was removed: nobody can sign its CRL here. The revocation ends, and `live_until` says that the certificate lives to its
            // end; left open it would be due for ever, and keep the sweep from what else is due.
            tracing::warn!(%ca, leases = leases.len(), "revoked, but the CA is not configured any more: no CRL will say so");
        }
        // Counted from the publication: after an outage that is long after the revocation was acknowledged, and a CRL without it may
        // have gone out just before.
        let published_at = self.clock.now();
        self.finish(leases, |_| self.crl_live_until(ca, published_at)).await
    }

    /// By a policy at an IAM role.
    async fn deny(&self, deny: &AwsDeny, leases: &[Lease], manner: Manner) -> Result<Vec<Lease>> {
        let list = RevocationList::Aws(deny.clone());
        let rules = self.rules.load_full();
        if !rules.issuers.aws.knows(deny) {
            // As with a removed CA.
            tracing::warn!(%list, leases = leases.len(), "revoked, but the way into AWS is not configured any more: nothing denies the sessions");
            return self.finish(leases, Lease::accepted_until).await;
        }
        self.store.add_revoked(&list, &entries(leases)).await?;
        let published_at = if manner.waits() {
            self.denies.publish(deny).await?
        } else {
            let revision = self.store.revocation_revision(&list).await?;
            match self.denies.published_at(deny, revision) {
                Some(at) => at,
                None => return Ok(leases.to_vec()),
            }
        };
        let settled_at = rules.issuers.aws.settled_at(deny, published_at);
        self.finish(leases, |_| settled_at).await
    }

    /// Until when what is on no list may be accepted. A registry takes the token of an exchange from just before its lease was
    /// `revoking`; nothing reaches the others.
    fn unlisted_live_until(&self, lease: &Lease) -> Timestamp {
        match lease.reach {
            Reach::Lease => self.clock.now().checked_add(MAX_TOKEN_TTL + REGISTRY_LEEWAY).unwrap_or(Timestamp::MAX),
            Reach::Crl | Reach::RoleSessions | Reach::Expiry => lease.accepted_until(),
        }
    }

    async fn finish(&self, leases: &[Lease], live_until: impl Fn(&Lease) -> Timestamp) -> Result<Vec<Lease>> {
        let finish = |lease: &Lease| {
            let change = Change::FinishRevoke { live_until: live_until(lease) };
            lease.apply(change).map_err(|illegal| super::defect(&illegal.to_string()))
        };
        let finished = leases.iter().map(finish).collect::<Result<Vec<Lease>>>()?;
        // A conflict here means that another server finished the same revocation first: the outcome is the same.
        self.store.swap(&finished).await?;
        Ok(finished)
    }

    /// Ends revocations that a crash or an outage left open. Where a remote system has not acknowledged its denial yet they stay open, unless
    /// they crowd the sweep: then they end with `live_until` at their expiry, the most that can be true, and the list goes out later.
    pub(super) async fn finish_revocations(&self, revoking: Vec<Lease>, crowded: bool, now: Timestamp) -> Result<usize> {
        let (mut ended, mut open, mut failed) = (Vec::new(), Vec::new(), None);
        for (_, outcome) in self.carry_out(revoking, Manner::Late).await {
            match outcome {
                Ok(lease) if lease.state.is_live() => open.push(lease),
                Ok(lease) => ended.push(lease),
                Err(error) => failed = Some(error),
            }
        }
        if crowded && !open.is_empty() {
            tracing::warn!(leases = open.len(), "AWS has not acknowledged their denial; their revocation ends as far as the record goes");
            ended.extend(self.finish(&open, Lease::accepted_until).await?);
        }
        let event = |lease: &Lease| Event { lease: Some(lease.clone()), ..event_of_pass("sweep/revoke", lease, now) };
        self.record(ended.iter().map(event).collect()).await?;
        // One CA that cannot sign takes nothing from the record of the others.
        failed.map_or(Ok(ended.len()), Err)
    }
}

fn entries(leases: &[Lease]) -> Vec<RevokedSerial> {
    leases.iter().filter_map(Lease::revocation).flat_map(|(_, entries)| entries).collect()
}
