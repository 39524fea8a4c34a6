//! Carries revocations to where they take effect, and says until when what was revoked may still be accepted.

use std::collections::BTreeMap;

use futures::future::{join_all, try_join_all};

use super::{Vend, record::event_of_pass, revoke::Manner};
use crate::{
    issuer::registry::MAX_TOKEN_TTL,
    model::{
        Timestamp,
        error::Result,
        event::Event,
        lease::{Change, Lease, LeaseId, REGISTRY_LEEWAY, Reach},
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
        let mut by_lists: BTreeMap<Vec<RevocationList>, Vec<Lease>> = BTreeMap::new();
        for lease in revoking {
            by_lists.entry(lease.revocation().into_keys().collect()).or_default().push(lease);
        }
        // All at once: a system that is away holds up what it alone would carry out.
        let groups = by_lists.into_iter().map(async |(lists, leases)| {
            let carried = match lists.as_slice() {
                [] => self.finish(&leases, |lease| self.unlisted_live_until(lease)).await,
                [RevocationList::Aws(deny)] => self.deny(deny, &leases, manner).await,
                crls => self.withdraw(crls, &leases).await,
            };
            match carried {
                Ok(carried) => carried.into_iter().map(|lease| (lease.id, Ok(lease))).collect(),
                Err(error) => leases.into_iter().map(|lease| (lease.id, Err(error.clone()))).collect::<Vec<_>>(),
            }
        });
        join_all(groups).await.into_iter().flatten().collect()
    }

    /// By CRLs: of each CA under which a certificate of these leases lives.
    async fn withdraw(&self, crls: &[RevocationList], leases: &[Lease]) -> Result<Vec<Lease>> {
        let mut entries = entries(leases);
        let cas = || {
            crls.iter().filter_map(|list| match list {
                RevocationList::Crl(ca) => Some(ca),
                RevocationList::Aws(_) | RevocationList::Recent => None,
            })
        };
        for list in crls {
            self.store.add_revoked(list, &entries.remove(list).unwrap_or_default()).await?;
        }
        try_join_all(cas().map(async |ca| {
            if self.crls.is_ours(ca) {
                return self.crls.publish(ca).await;
            }
            // Its CA was removed: nobody can sign its CRL here. The revocation ends, and `live_until` says that the certificate lives to its
            // end; left open it would be due for ever, and keep the sweep from what else is due.
            tracing::warn!(%ca, leases = leases.len(), "revoked, but the CA is not here any more: no CRL will say so");
            Ok(())
        }))
        .await?;
        // Counted from the publication: after an outage that is long after the revocation was acknowledged, and a CRL without it may
        // have gone out just before.
        let published_at = self.clock.now();
        let live_until = cas().map(|ca| self.crl_live_until(ca, published_at)).max().unwrap_or(published_at);
        self.finish(leases, |_| live_until).await
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
        self.store.add_revoked(&list, &entries(leases).remove(&list).unwrap_or_default()).await?;
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

fn entries(leases: &[Lease]) -> BTreeMap<RevocationList, Vec<RevokedSerial>> {
    let mut lists: BTreeMap<RevocationList, Vec<RevokedSerial>> = BTreeMap::new();
    for (list, entries) in leases.iter().flat_map(Lease::revocation) {
        lists.entry(list).or_default().extend(entries);
    }
    lists
}
