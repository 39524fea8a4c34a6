//! Renew: a new credential under the caller's own lease.

use super::{Call, Issued, Vend, issue::token_use, record::About};
use crate::{
    issuer::Order,
    model::{
        SignedDuration,
        error::{Code, Error, Result},
        lease::{Change, LeaseId},
        request::Input,
    },
    store::Swap,
};

impl Vend {
    /// Makes a new credential under a lease and moves the lease's expiry.
    ///
    /// The credential before it lives on until its own expiry; a revoke reaches both. When the record cannot be written the new
    /// credential does not leave; the lease may have moved, which harms nobody: it has one more serial that nobody holds.
    pub async fn renew(&self, call: &Call, id: LeaseId, ttl: Option<SignedDuration>, input: Input) -> Result<Issued> {
        let now = self.clock.now();
        let rules = self.rules.load_full();
        let about = || About { lease: Some(id), ..About::default() };

        // 1. Decide, on the lease as it is stored.
        let lease = match self.find(id).await {
            Ok(lease) => lease,
            Err(error) => return Err(self.ended(call, about(), error, now).await),
        };
        let grant = match rules.book.decide_renew(&call.identity, &lease, ttl, call.origin.peer_address, now) {
            Ok(grant) => grant,
            Err(denial) => return Err(self.denied(call, about(), *denial, now).await),
        };

        // 2. Mint, once the token has not served before: it may not carry a lease past what a fresh one would.
        let same = [lease.id.as_bytes().as_slice(), input.bytes()].concat();
        let again = async {
            if let Some(token) = token_use(&call.identity, &lease.role, Some(&same))
                && !self.store.use_token(&lease.tenant, &token).await?
            {
                return Err(Error::new(Code::TokenReplayed, "this token was used before; renew with a fresh one from your CI"));
            }
            let order = Order { grant: &grant, lease: lease.id, input: &input, earlier: Some(&lease.handle), now };
            rules.issuers.of(&grant.role().spec).mint(&order).await.map_err(|failed| failed.error)
        };
        let minted = match again.await {
            Ok(minted) => minted,
            Err(error) => return Err(self.ended(call, about(), error, now).await),
        };

        // 3. Make it durable.
        let change = Change::Renew { expires_at: minted.expires_at, handle: minted.handle };
        let renewed = lease.apply(change).map_err(|illegal| super::defect(&illegal.to_string()))?;
        let swapped = match self.store.swap(std::slice::from_ref(&renewed)).await {
            Ok(swaps) if swaps.first() == Some(&Swap::Done) => Ok(()),
            Ok(_) => Err(Error::new(Code::LeaseState, "the lease changed at the same moment; look at it and try again")),
            Err(error) => Err(error),
        };
        if let Err(error) = swapped {
            return Err(self.ended(call, about(), error, now).await);
        }
        self.record(vec![Self::done_by(call, &grant, &renewed, None, now)]).await?;

        // 4. Answer.
        Ok(Issued { lease: renewed, credential: minted.credential, now })
    }
}
