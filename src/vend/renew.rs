//! Renew: a new credential under the caller's own lease.

use super::{
    Call, Issued, Rules, Vend,
    first::shown_by,
    issue::{REMOTE_TIMEOUT, token_use, too_slow},
    record::About,
};
use crate::{
    issuer::{Issuer, Minted, NotMinted, Order, Reservation},
    model::{
        SignedDuration, Timestamp,
        credential::Credential,
        error::{Code, Error, Result},
        event::Event,
        lease::{Change, Lease, LeaseId},
        request::Input,
    },
    policy::Grant,
    store::Swap,
};

/// How often the renewal of a lease that a remote system has made is written over changes that leave the credential alone.
const MAX_ROUNDS: usize = 3;

/// Asks for a new credential under a lease.
pub struct Renewal {
    /// The lease.
    pub lease: LeaseId,
    /// The newest generation that the caller has, if it says so.
    pub generation: Option<u32>,
    /// The wanted life from now; the role's default when absent.
    pub ttl: Option<SignedDuration>,
    /// What the kind of the role needs. Without a CSR a certificate is for the key that was given ahead, if one was.
    pub input: Input,
}

/// What a caller shows of a lease.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    /// The lease.
    pub lease: LeaseId,
    /// The newest generation that it says it has.
    pub generation: Option<u32>,
}

impl Vend {
    /// Makes a new credential under a lease and moves the lease's expiry.
    ///
    /// The credential before it lives on until its own expiry; a revoke reaches both. When the record cannot be written the new
    /// credential does not leave; the lease may have moved, and has one more serial then that nobody holds. There is room for a few of them
    /// only, so nothing is made while the log is known to be away. What a remote
    /// system makes is covered before it is asked: the lease's expiry is already the latest that the new credential can have. Must run to
    /// its end once begun, as [`Vend::clone_found`] must.
    pub async fn renew(&self, call: &Call, renewal: Renewal) -> Result<Issued> {
        let Renewal { lease: id, generation, ttl, input } = renewal;
        let now = self.clock.now();
        let rules = self.rules.load_full();
        let about = || About { lease: Some(id), ..About::default() };

        // 1. Decide, on the lease as it is stored.
        let stored = self.find_shown(call, &rules, Shown { lease: id, generation }, now).await?;
        let grant = match rules.book.decide_renew(&call.identity, &stored, ttl, call.origin.peer_address, now) {
            Ok(grant) => grant,
            Err(denial) => return Err(self.denied(call, about(), *denial, now).await),
        };

        // 2. Mint, once the token has not served before, and store it.
        self.can_record()?;
        let made = async {
            let same = [stored.id.as_bytes().as_slice(), input.bytes()].concat();
            self.spend_token(call, &stored, &same).await?;
            self.make_next(call, &rules, &grant, &stored, &input, now).await
        };
        let (renewed, credential) = match made.await {
            Ok(made) => made,
            Err(error) => return Err(self.ended(call, about(), error, now).await),
        };

        // 3. Put it on record, and answer.
        self.record(vec![Self::done_by(call, &grant, &renewed, None, now)]).await?;
        self.supersede(&renewed).await?;
        Ok(Issued { lease: renewed, credential, now })
    }

    /// A lease that the caller shows, as [`Vend::must_have`] says.
    pub(super) async fn find_shown(&self, call: &Call, rules: &Rules, shown: Shown, now: Timestamp) -> Result<Lease> {
        let about = About { lease: Some(shown.lease), ..About::default() };
        let lease = match self.find(shown.lease).await {
            Ok(lease) => lease,
            Err(error) => return Err(self.ended(call, about, error, now).await),
        };
        self.must_have(call, rules, &lease, shown.generation, now).await?;
        Ok(lease)
    }

    /// What a caller says of its lease's generation must be so: who has an older one than was acknowledged is a clone, and so is who shows a
    /// certificate that was never given to who has asked for another one since.
    pub(super) async fn must_have(&self, call: &Call, rules: &Rules, lease: &Lease, said: Option<u32>, now: Timestamp) -> Result<()> {
        let about = || About { lease: Some(lease.id), ..About::default() };
        // The certificate of an enrolled lease shows its generation, whatever its holder says.
        let by_certificate = shown_by(&call.identity, lease);
        let Some(generation) = said.into_iter().chain(by_certificate).min() else { return Ok(()) };
        // Nobody but its holder learns of its generations, or brings its end about.
        if let Err(denial) = rules.book.decide_hold(&call.identity, lease, now) {
            return Err(self.denied(call, about(), *denial, now).await);
        }
        let forked = by_certificate.filter(|shown| !lease.may_be_shown(*shown));
        if let Some(generation) = forked.or(Some(generation).filter(|generation| *generation < lease.acknowledged)) {
            return Err(self.clone_found(&call.origin, &*call.identity, lease, generation).await);
        }
        if let Some(generation) = said.filter(|said| *said > lease.generation) {
            let why = format!("the lease is at generation {}; there is no generation {generation} of it", lease.generation);
            return Err(self.ended(call, about(), Error::new(Code::LeaseState, why), now).await);
        }
        Ok(())
    }

    /// Uses the caller's token up for a renewal: it may not carry a lease past what a fresh one would. `same` tells the same request.
    pub(super) async fn spend_token(&self, call: &Call, lease: &Lease, same: &[u8]) -> Result<()> {
        match token_use(&call.identity, &lease.role, Some(same)) {
            Some(token) if !self.store.use_token(&lease.tenant, &token).await? => {
                Err(Error::new(Code::TokenReplayed, "this token was used before; renew with a fresh one from your CI"))
            }
            _ => Ok(()),
        }
    }

    /// Makes the next credential of a lease, and stores the lease with it. It is not on record yet, so it must not leave.
    pub(super) async fn make_next(
        &self,
        call: &Call,
        rules: &Rules,
        grant: &Grant,
        stored: &Lease,
        input: &Input,
        now: Timestamp,
    ) -> Result<(Lease, Credential)> {
        let issuer = rules.issuers.of(&grant.role().spec);
        let order = next_order(grant, stored, input, now);
        let (stored, minted) = match issuer.reserve(&order)? {
            None => (stored.clone(), issuer.mint(&order).await.map_err(|failed| failed.error)?),
            Some(reservation) => self.remake(call, stored, issuer, &order, &reservation).await?,
        };
        let Minted { credential, handle, expires_at, .. } = minted;
        let shown = shown_by(&call.identity, &stored);
        let change = Change::Renew { at: now, expires_at: expires_at.max(stored.expires_at), handle, shown };
        Ok((self.write_renewed(stored, &change, shown).await?, credential))
    }

    /// Writes a renewal. What changed meanwhile and leaves state, credential and stream as they were (an acknowledgement) is no reason to
    /// throw away what was made, unless the generation that was shown is superseded by it.
    async fn write_renewed(&self, mut stored: Lease, change: &Change, shown: Option<u32>) -> Result<Lease> {
        for _ in 0..MAX_ROUNDS {
            if shown.is_some_and(|shown| !stored.may_be_shown(shown)) {
                break;
            }
            let renewed = stored.apply(change.clone()).map_err(|illegal| super::defect(&illegal.to_string()))?;
            if self.swap_is_done(&renewed).await? {
                return Ok(renewed);
            }
            let found = self.find(stored.id).await?;
            let as_it_was = |lease: &Lease| (lease.state, lease.generation, lease.claim, lease.handle.clone());
            if as_it_was(&found) != as_it_was(&stored) {
                break;
            }
            stored = found;
        }
        Err(Error::new(Code::LeaseState, "the lease changed at the same moment; look at it and try again"))
    }

    pub(super) async fn swap_is_done(&self, lease: &Lease) -> Result<bool> {
        match self.store.swap(std::slice::from_ref(lease)).await?.first() {
            Some(Swap::Done) => Ok(true),
            Some(Swap::Missing) => Err(super::read::not_found()),
            Some(Swap::Conflict) | None => Ok(false),
        }
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

/// The order of the next credential of a lease.
pub(super) fn next_order<'a>(grant: &'a Grant, stored: &'a Lease, input: &'a Input, now: Timestamp) -> Order<'a> {
    let generation = stored.generation.saturating_add(1);
    Order { grant, lease: stored.id, input, generation, earlier: Some(&stored.handle), now }
}
