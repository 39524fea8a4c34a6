//! Issue a credential that is made in this process.

use super::{Granted, Issued, NotIssued, conditions::conditions};
use crate::{
    issuer::{Minted, Reservation},
    model::{
        credential::Credential,
        lease::{Lease, LeaseState},
    },
    vend::{Vend, open::Why, steps::measured_async},
};

impl Vend {
    /// Vends a credential that is made here: nothing of it is in the world before it is on record.
    pub(super) async fn issue_here(&self, granted: &Granted<'_>) -> Result<Issued, NotIssued> {
        let Granted { call, grant, request, order, .. } = granted;

        // 2. Mint. Nothing of it is known outside this function yet.
        let minted = measured_async("mint", granted.issuer().mint(order)).await.map_err(|failed| failed.error)?;
        let (lease, credential) = new_lease(granted, minted);

        // 3. Make it durable: the lease, then the record.
        let new = conditions(grant, lease, request);
        if let Some(again) = self.place(granted, &new).await? {
            return Ok(again);
        }
        let event = Self::done_by(call, grant, &new.lease, request.request_id.as_ref(), order.now);
        if let Err(error) = self.record(vec![event]).await {
            self.open.add(new.lease.id, Why::not_handed_out(&new.lease));
            return Err(error.into());
        }

        // 4. Answer.
        Ok(Issued { lease: new.lease, credential, now: order.now })
    }
}

fn new_lease(granted: &Granted<'_>, minted: Minted) -> (Lease, Credential) {
    let Minted { credential, handle, expires_at, reach } = minted;
    let mut lease = granted.lease(LeaseState::Active, Reservation { handle, expires_at, reach });
    lease.renew_until = lease.renew_until.max(lease.expires_at);
    (lease, credential)
}
