//! The certificate of this service itself.

use super::Vend;
use crate::{
    issuer::x509::{OwnCertificate, San},
    model::{
        SignedDuration,
        error::Result,
        event::{Actor, Event, Outcome},
        name::CaName,
    },
};

/// The method and the actor on record.
const OWN: &str = "server/certificate";

impl Vend {
    /// Makes a certificate for this server, and puts its serial on record before anybody sees it.
    pub async fn own_certificate(&self, ca: &CaName, names: &[San], life: SignedDuration) -> Result<OwnCertificate> {
        let now = self.clock.now();
        let made = self.rules.load_full().issuers.x509.own_certificate(ca, names, life, now)?;
        let mut event = Event { actor: Some(Actor::service(OWN)), ..Event::new(now, OWN, Outcome::Done) };
        event.detail.push(format!("serial {} of {}, until {}", made.serial, made.issued_by, made.not_after));
        self.record(vec![event]).await?;
        Ok(made)
    }

    /// The authority that would issue now, by its own name.
    ///
    /// # Errors
    /// `ISSUER_UNAVAILABLE` when the CA's keys cannot be used.
    pub fn issuing_now(&self, ca: &CaName) -> Result<CaName> {
        self.rules.load().issuers.x509.cas().issuing(ca, self.clock.now()).map(|authority| authority.name().clone())
    }
}
