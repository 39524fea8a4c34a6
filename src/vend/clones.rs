//! Clones: an older generation of a lease was shown than its holder had acknowledged, so two hold it.

use super::{Origin, Vend, open::Why, record::event_from, revoke::Manner};
use crate::model::{
    Timestamp,
    error::{Code, Error},
    event::{Actor, Event, Outcome},
    lease::Lease,
    role::OnClone,
};

impl Vend {
    /// Puts a clone on record and does with the lease what its role says; gives the error for who showed the older generation. A lease
    /// whose role is gone is revoked.
    ///
    /// `shown` is the generation that was shown; `actor` is who showed it, as far as that is known (an identity, or what a certificate
    /// says that is refused already). Must run to its end once begun: a caller that leaves must not save the lease from its revocation.
    pub async fn clone_found(&self, origin: &Origin, actor: impl Into<Actor>, lease: &Lease, shown: u32) -> Error {
        let (now, actor) = (self.clock.now(), actor.into());
        let on_clone = self.rules.load().book.catalog().roles.get(&lease.role).map_or(OnClone::Revoke, |role| role.on_clone);
        metrics::counter!("daypass_clones_total", "role" => lease.role.to_string()).increment(1);
        tracing::warn!(lease = %lease.id, shown, acknowledged = lease.acknowledged, ?on_clone, "a clone: an older generation was shown");

        let error = superseded(lease, shown, on_clone);
        let found = event(origin, actor, lease, (shown, on_clone), now);
        let error = self.put_on_record(found, error).await;
        if on_clone == OnClone::Alert {
            return error;
        }
        if error.code() == Code::AuditUnavailable {
            // Nothing can be put on record now; as soon as something can, the lease is revoked.
            self.open.add(lease.id, Why::Revoked);
            return error;
        }
        let revoked = |lease: &Lease| Event {
            lease: Some(lease.clone()),
            detail: vec!["an older generation was shown than its holder had acknowledged: two hold it".to_owned()],
            ..super::record::event_of_pass("clone/revoke", lease, now)
        };
        for (id, outcome) in self.revoke_batch(vec![lease.clone()], revoked, now, Manner::Cloned).await {
            if let Err(failed) = outcome {
                // It is in the store as revoking, or waits in memory: the sweep ends it.
                tracing::warn!(error = %failed, lease = %id, "the revocation of a cloned lease is on its way");
            }
        }
        error
    }
}

fn superseded(lease: &Lease, shown: u32, on_clone: OnClone) -> Error {
    let what = match on_clone {
        OnClone::Alert => "it stays with its other holder",
        OnClone::Revoke => "it is revoked",
    };
    let (acknowledged, newest) = (lease.acknowledged, lease.generation);
    let other = match shown > acknowledged {
        true => format!("who showed generation {acknowledged} asked for generation {newest} since"),
        false => format!("generation {acknowledged} was acknowledged"),
    };
    let why = format!(
        "you showed generation {shown} of this lease, and {other}: somebody else holds it too, and {what}; tell the operators, and issue a \
         new lease"
    );
    Error::new(Code::GenerationSuperseded, why)
}

/// The record of a clone: under the tenant of the lease, which must learn of it, with who showed what, and from where.
fn event(origin: &Origin, actor: Actor, lease: &Lease, (shown, on_clone): (u32, OnClone), now: Timestamp) -> Event {
    Event {
        method: "clone/found".into(),
        actor: Some(actor),
        tenant: Some(lease.tenant.clone()),
        role: Some(lease.role.clone()),
        lease_id: Some(lease.id),
        reason: Some(Code::GenerationSuperseded.as_str().into()),
        detail: vec![
            format!(
                "generation {shown} was shown by {}, and {} acknowledged; the lease is at {}",
                origin.method, lease.acknowledged, lease.generation
            ),
            format!("the role says {}", if on_clone == OnClone::Alert { "alert" } else { "revoke" }),
        ],
        ..event_from(origin, Outcome::Denied, now)
    }
}
