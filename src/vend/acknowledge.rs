//! Acknowledge: a holder says which generation it has, and gives the key of the next one ahead.

use super::{Call, Vend, record::About, renew::Shown};
use crate::model::{
    error::{Code, Error, Result},
    lease::{Change, Handle, Lease, LeaseId},
};

impl Vend {
    /// Notes that the caller has a generation of its lease, and keeps the key of its next certificate. Idempotent. The lease's stream may be
    /// at another server: that one finds the key when the rotation is due.
    ///
    /// # Errors
    /// As for [`Vend::renew`]; `InvalidRequest` for generation 0, `LeaseState` for one that was never made or that is older than what was
    /// acknowledged before: an acknowledgement that arrives late is no clone's, which shows itself by what it asks for.
    pub async fn acknowledge(&self, call: &Call, id: LeaseId, generation: u32, next_csr: Option<&[u8]>) -> Result<Lease> {
        let now = self.clock.now();
        let rules = self.rules.load_full();
        let about = || About { lease: Some(id), ..About::default() };
        let stored = self.find_shown(call, &rules, Shown { lease: id, generation: None }, now).await?;
        if let Err(denial) = rules.book.decide_hold(&call.identity, &stored, now) {
            return Err(self.denied(call, about(), *denial, now).await);
        }
        let acknowledged = async {
            check(&stored, generation)?;
            Self::must_show(call, &stored, generation)?;
            let next_key = self.next_key(&rules, &stored, next_csr)?;
            let change = |lease: &Lease| {
                let known = lease.acknowledged >= generation && (next_key.is_none() || key_of(lease) == next_key.as_ref());
                (!known).then(|| Change::Acknowledge { generation, next_key: next_key.clone() })
            };
            self.change(stored, change).await
        };
        let lease = match acknowledged.await {
            Ok(lease) => lease,
            Err(error) => return Err(self.ended(call, about(), error, now).await),
        };
        self.record(vec![Self::done(call, &lease, now)]).await?;
        // After the record, from which a store that forgets it is told; an acknowledgement that is repeated does it again.
        self.supersede(&lease).await?;
        if let Some(window) = lease.rotation() {
            // It may have waited for its key.
            self.watches.hasten(id, window.start);
        }
        Ok(lease)
    }
}

fn check(lease: &Lease, generation: u32) -> Result<()> {
    if generation == 0 {
        return Err(Error::new(Code::InvalidRequest, "generations count from 1"));
    }
    let refuse = |why: String| Err(Error::new(Code::LeaseState, why));
    if generation > lease.generation {
        return refuse(format!("the lease is at generation {}; there is no generation {generation} of it", lease.generation));
    }
    if generation < lease.acknowledged {
        return refuse(format!("generation {} was acknowledged already", lease.acknowledged));
    }
    if lease.enrolled && generation > lease.acknowledged && generation < lease.generation {
        return refuse(format!("the lease is at generation {}; acknowledge that one", lease.generation));
    }
    Ok(())
}

fn key_of(lease: &Lease) -> Option<&String> {
    match &lease.handle {
        Handle::X509 { next_key, .. } => next_key.as_ref(),
        Handle::Aws { .. } | Handle::Registry { .. } | Handle::Jwt { .. } => None,
    }
}
