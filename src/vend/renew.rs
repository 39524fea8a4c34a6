//! Renew: a new credential under the caller's own lease.

use super::{
    Call, Issued, Vend,
    issue::{REMOTE_TIMEOUT, token_use, too_slow},
    record::About,
};
use crate::{
    issuer::{Issuer, Minted, NotMinted, Order, Reservation},
    model::{
        SignedDuration, Timestamp,
        error::{Code, Error, Result},
        event::Event,
        lease::{Change, Lease, LeaseId},
        request::Input,
    },
};

impl Vend {
    /// Makes a new credential under a lease and moves the lease's expiry.
    ///
    /// The credential before it lives on until its own expiry; a revoke reaches both. When the record cannot be written the new
    /// credential does not leave; the lease may have moved, which harms nobody: it has one more serial that nobody holds. What a remote
    /// system makes is covered before it is asked: the lease's expiry is already the latest that the new credential can have.
    pub async fn renew(&self, call: &Call, id: LeaseId, ttl: Option<SignedDuration>, input: Input) -> Result<Issued> {
        let now = self.clock.now();
        let rules = self.rules.load_full();
        let about = || About { lease: Some(id), ..About::default() };

        // 1. Decide, on the lease as it is stored.
        let stored = match self.find(id).await {
            Ok(lease) => lease,
            Err(error) => return Err(self.ended(call, about(), error, now).await),
        };
        let grant = match rules.book.decide_renew(&call.identity, &stored, ttl, call.origin.peer_address, now) {
            Ok(grant) => grant,
            Err(denial) => return Err(self.denied(call, about(), *denial, now).await),
        };
        self.refuse_superseded(call, &stored).await?;

        // 2. Mint, once the token has not served before: it may not carry a lease past what a fresh one would.
        let issuer = rules.issuers.of(&grant.role().spec);
        let order = Order {
            grant: &grant,
            lease: id,
            input: &input,
            generation: stored.generation.saturating_add(1),
            earlier: Some(&stored.handle),
            now,
        };
        let again = async {
            let same = [stored.id.as_bytes().as_slice(), input.bytes()].concat();
            if let Some(token) = token_use(&call.identity, &stored.role, Some(&same))
                && !self.store.use_token(&stored.tenant, &token).await?
            {
                return Err(Error::new(Code::TokenReplayed, "this token was used before; renew with a fresh one from your CI"));
            }
            match issuer.reserve(&order)? {
                None => Ok((None, issuer.mint(&order).await.map_err(|failed| failed.error)?)),
                Some(reservation) => {
                    let (extended, minted) = self.remake(call, &stored, issuer, &order, &reservation).await?;
                    Ok((Some(extended), minted))
                }
            }
        };
        let (extended, minted) = match again.await {
            Ok(made) => made,
            Err(error) => return Err(self.ended(call, about(), error, now).await),
        };

        // 3. Make it durable.
        let change = Change::Renew { at: now, expires_at: minted.expires_at.max(stored.expires_at), handle: minted.handle };
        let renewed = extended.as_ref().unwrap_or(&stored).apply(change).map_err(|illegal| super::defect(&illegal.to_string()))?;
        if let Err(error) = self.swap_one(&renewed).await {
            return Err(self.ended(call, about(), error, now).await);
        }
        self.record(vec![Self::done_by(call, &grant, &renewed, None, now)]).await?;

        // 4. Answer.
        Ok(Issued { lease: renewed, credential: minted.credential, now })
    }

    /// Extends a lease, on record, then has a remote system make a new credential under it. Gives the lease as extended.
    async fn remake(
        &self,
        call: &Call,
        stored: &Lease,
        issuer: &dyn Issuer,
        order: &Order<'_>,
        reservation: &Reservation,
    ) -> Result<(Lease, Minted)> {
        let change = Change::Extend { expires_at: reservation.expires_at };
        let extended = stored.apply(change).map_err(|illegal| super::defect(&illegal.to_string()))?;
        self.swap_one(&extended).await?;
        let event = Self::done_by(call, order.grant, &extended, None, order.now);
        let made = match self.record(vec![Event { method: "renew/reserve".into(), ..event }]).await {
            Ok(()) => tokio::time::timeout(REMOTE_TIMEOUT, issuer.mint(order)).await.unwrap_or_else(|_| Err(too_slow())),
            Err(unrecorded) => Err(unrecorded.into()),
        };
        match made {
            Ok(minted) => Ok((extended, minted)),
            Err(NotMinted { error, maybe_made }) => {
                // What may have been made stays covered; a revoke of the lease reaches it.
                if !maybe_made {
                    self.withdraw_extension(&extended, stored.expires_at).await;
                }
                Err(error)
            }
        }
    }

    /// Puts the expiry back. When that cannot be written the lease says more than is true of what its caller holds, and harms nobody.
    async fn withdraw_extension(&self, extended: &Lease, expires_at: Timestamp) {
        let written = match extended.apply(Change::Withdraw { expires_at }) {
            Ok(back) => self.swap_one(&back).await,
            Err(illegal) => Err(super::defect(&illegal.to_string())),
        };
        if let Err(error) = written {
            tracing::warn!(%error, lease = %extended.id, "a renewal failed, and the lease keeps the expiry that it would have had");
        }
    }
}
