//! First identities after they were issued: an agent's own certificate renews itself alone, and one that a newer one superseded is shown by
//! nobody but a clone.

use super::{Call, Origin, Vend};
use crate::model::{
    error::{Code, Error, Result},
    identity::{Identity, PeerCertificate, Proof},
    lease::{Lease, LeaseState, Serial},
};

impl Vend {
    /// Refuses the acknowledgement of a generation by a caller that shows an older one of its own enrolled lease: what supersedes a
    /// certificate must have been seen to work.
    ///
    /// # Errors
    /// `LeaseState`.
    pub(super) fn must_show(call: &Call, lease: &Lease, generation: u32) -> Result<()> {
        match shown_by(&call.identity, lease) {
            Some(shown) if shown < generation => Err(Error::new(
                Code::LeaseState,
                format!("acknowledge generation {generation} over a connection with its certificate; this one shows generation {shown}"),
            )),
            _ => Ok(()),
        }
    }

    /// Puts the certificates that an acknowledgement superseded on the CRL of their CA, which goes out within a second. Idempotent; does
    /// nothing for a lease that is not an enrolled agent's.
    pub(super) async fn supersede(&self, lease: &Lease) -> Result<()> {
        for (list, serials) in &lease.superseded() {
            self.store.add_revoked(list, serials).await?;
        }
        Ok(())
    }

    /// Looks into a certificate that a CRL names and that was shown, in a handshake that failed for it, by who holds its key: one that was
    /// superseded is a clone's. Answers whether it was.
    pub async fn revoked_was_shown(&self, origin: &Origin, peer: &PeerCertificate) -> Result<bool> {
        let Some(id) = Serial::from_hex(&peer.serial).and_then(|serial| serial.lease()) else { return Ok(false) };
        let Some(lease) = self.store.get(&[id]).await?.pop().flatten() else { return Ok(false) };
        // Who else has a CA that is trusted here can write any serial.
        let identity = Identity { tenant: lease.tenant.clone(), proof: Proof::Certificate(peer.clone()) };
        match shown_by(&identity, &lease) {
            Some(shown) if lease.state == LeaseState::Active && shown < lease.acknowledged => {
                let _told_by_the_handshake = self.clone_found(origin, &identity, &lease, shown).await;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

/// The generation of the caller's own enrolled lease that its certificate is; none for any other lease, whose holder says which it has.
pub(super) fn shown_by(identity: &Identity, lease: &Lease) -> Option<u32> {
    let peer = identity.certificate().filter(|_| lease.enrolled && identity.owns(lease))?;
    lease.generation_of(&peer.serial)
}
