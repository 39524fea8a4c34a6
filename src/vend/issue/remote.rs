//! Issue a credential that a remote system makes.

use std::time::Duration;

use super::{Granted, Issued, NotIssued, conditions::conditions};
use crate::{
    issuer::{Minted, NotMinted, Reservation},
    model::{
        error::{Code, Error},
        event::Event,
        lease::{Change, Handle, Lease, LeaseState},
    },
    store::OPEN_GRACE,
    vend::{Vend, open::Why, steps::measured_async},
};

/// How long a remote system may take to make a credential.
pub const REMOTE_TIMEOUT: Duration = Duration::from_secs(20);

/// The sweep closes no lease whose credential is still being made: the store and the log have their own seconds before the call.
const _: () = assert!(OPEN_GRACE.as_secs().unsigned_abs() >= REMOTE_TIMEOUT.as_secs() + 5);

impl Vend {
    /// Vends a credential that a remote system makes. It is on record before that system is asked; whatever fails or crashes from then on
    /// leaves a lease that a pass closes, and whose credential it has denied.
    pub(super) async fn issue_remote(&self, granted: &Granted<'_>, reservation: Reservation) -> Result<Issued, NotIssued> {
        let Granted { call, grant, request, order, .. } = granted;

        // What is revoked later must find room where it is denied.
        if let Handle::Aws { deny: Some(deny), .. } = &reservation.handle
            && let Some(room) = granted.rules.issuers.aws.room(deny)
        {
            self.denies.admit(deny, room, order.now)?;
        }

        // 2. Reserve: a pending lease, durable with the request's id and the use of the token. The sweep closes what stays pending.
        let new = conditions(grant, granted.lease(LeaseState::Pending, reservation), request);
        if let Some(again) = self.place(granted, &new).await? {
            return Ok(again);
        }
        let pending = new.lease;

        // 3. Put that on record, so that a store that forgets it is told.
        let event = Self::done_by(call, grant, &pending, request.request_id.as_ref(), order.now);
        if let Err(error) = self.record(vec![Event { method: "issue/reserve".into(), ..event }]).await {
            return Err(self.void(&pending, error).await);
        }

        // 4. Mint.
        let minted = match self.mint_remote(granted).await {
            Ok(minted) => minted,
            Err(NotMinted { error, maybe_made: false }) => return Err(self.void(&pending, error).await),
            Err(NotMinted { error, maybe_made: true }) => return Err(self.not_handed_out(&pending, error)),
        };

        // 5. Activate the lease. When a revocation or a sweep took it meanwhile this fails, and its credential is denied already.
        let activated = pending.apply(Change::Activate { expires_at: minted.expires_at, handle: minted.handle });
        let lease = match activated {
            Ok(lease) => lease,
            Err(illegal) => return Err(self.not_handed_out(&pending, crate::vend::defect(&illegal.to_string()))),
        };
        if let Err(error) = self.swap_one(&lease).await {
            return Err(self.not_handed_out(&lease, error));
        }

        // 6. Put it on record.
        let event = Self::done_by(call, grant, &lease, request.request_id.as_ref(), order.now);
        if let Err(error) = self.record(vec![event]).await {
            return Err(self.not_handed_out(&lease, error));
        }

        // 7. Answer.
        Ok(Issued { lease, credential: minted.credential, now: order.now })
    }

    async fn mint_remote(&self, granted: &Granted<'_>) -> Result<Minted, NotMinted> {
        let minting = measured_async("mint", granted.issuer().mint(&granted.order));
        tokio::time::timeout(REMOTE_TIMEOUT, minting).await.unwrap_or_else(|_| Err(too_slow()))
    }

    /// Closes a lease whose credential was never made. When that cannot be written, the sweep revokes what it finds pending.
    async fn void(&self, pending: &Lease, error: Error) -> NotIssued {
        let voided = match pending.apply(Change::Void { at: self.clock.now() }) {
            Ok(voided) => voided,
            Err(illegal) => return NotIssued::about(pending.id, crate::vend::defect(&illegal.to_string())),
        };
        match self.swap_one(&voided).await {
            Ok(()) => NotIssued { error, lease: Some(pending.id), closed: Some(Box::new(voided)) },
            Err(unwritten) => {
                tracing::warn!(%unwritten, lease = %pending.id, "a lease whose credential was never made is left to the sweep");
                NotIssued::about(pending.id, error)
            }
        }
    }

    /// Leaves a lease to be revoked whose credential was made, or may have been, and reached nobody.
    fn not_handed_out(&self, lease: &Lease, error: Error) -> NotIssued {
        self.open.add(lease.id, Why::not_handed_out(lease));
        NotIssued::about(lease.id, error)
    }
}

/// A remote system that did not answer in time may yet do what it was asked.
pub(in crate::vend) fn too_slow() -> NotMinted {
    let error = Error::new(Code::IssuerUnavailable, "the system that makes the credential does not answer in time; try again");
    NotMinted { error, maybe_made: true }
}
