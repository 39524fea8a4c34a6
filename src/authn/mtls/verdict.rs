//! What a verified chain proved, until when that stands, and how it gets from the handshake to the connection.

use std::{cell::RefCell, ops::Range, sync::Arc};

use rustls_pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use crate::model::{Timestamp, identity::PeerCertificate};

tokio::task_local! {
    /// What was found in the handshake that is under way in this task.
    static HEARD: RefCell<Heard>;
}

/// What the verifier of a handshake found.
#[derive(Debug, Clone, Default)]
pub enum Heard {
    /// The client showed no certificate, or an unfit one.
    #[default]
    Nothing,
    /// Who it is.
    Verdict(Verdict),
    /// A certificate that a CRL names. Whether the client holds its key is not known yet: certificates are no secrets.
    Unproven(Box<PeerCertificate>),
    /// A certificate that a CRL names, shown by who holds its key. The handshake failed.
    Revoked(Box<PeerCertificate>),
}

/// Whom a chain was verified to mean, under which trust, and when that can change.
///
/// A verification depends on the chain, the trust store and the clock, and on the clock only by comparing it with a few
/// instants. So the verdict is that of a new verification for as long as neither the store was replaced nor the clock has
/// passed one of them: [`super::ClientVerifier::stands`].
#[derive(Debug, Clone)]
pub struct Verdict {
    peer: Arc<PeerCertificate>,
    trust: u64,
    steady: Range<Timestamp>,
}

impl Verdict {
    pub(super) fn new(peer: PeerCertificate, trust: u64, steady: Range<Timestamp>) -> Self {
        Self { peer: Arc::new(peer), trust, steady }
    }

    /// What no chain proved.
    #[cfg(test)]
    pub(crate) fn forged(peer: PeerCertificate, trust: u64) -> Self {
        Self::new(peer, trust, Timestamp::MIN..Timestamp::MAX)
    }

    /// Whether it was found under this version of the trust.
    pub(crate) fn is_under(&self, trust: u64) -> bool {
        self.trust == trust
    }

    /// Whether a clock that shows `now` is past none of the instants that count.
    pub(super) fn is_steady_at(&self, now: Timestamp) -> bool {
        self.steady.contains(&now)
    }

    /// The client.
    pub fn peer(&self) -> &Arc<PeerCertificate> {
        &self.peer
    }
}

/// Runs a handshake to its end, and gives what its verifier found, so that nobody needs to verify the chain again.
///
/// The verdict is of this handshake and no other: it is kept with the future. Whether it still stands is for
/// [`super::ClientVerifier::stands`] to say.
pub async fn with_verdict<F: Future>(handshake: F) -> (F::Output, Heard) {
    let heard = async {
        let output = handshake.await;
        (output, HEARD.with(RefCell::take))
    };
    HEARD.scope(RefCell::default(), heard).await
}

/// Keeps a verdict for the [`with_verdict`] around this handshake; without one it is nobody's.
pub(super) fn hand_over(verdict: Verdict) {
    let _nobody_asks = HEARD.try_with(|heard| heard.replace(Heard::Verdict(verdict)));
}

/// Keeps who showed a revoked certificate until it has proved to hold its key; answers whether there is a [`with_verdict`] to keep it for.
pub(super) fn doubt(peer: PeerCertificate) -> bool {
    HEARD.try_with(|heard| heard.replace(Heard::Unproven(Box::new(peer)))).is_ok()
}

/// Told when the client has proved to hold its key; answers whether its certificate is one that was doubted, and so must be refused.
pub(super) fn proved() -> bool {
    let prove = |heard: &RefCell<Heard>| {
        let mut heard = heard.borrow_mut();
        let Heard::Unproven(peer) = &*heard else { return false };
        *heard = Heard::Revoked(peer.clone());
        true
    };
    HEARD.try_with(prove).unwrap_or(false)
}

/// The span around `now` in which the clock passes none of the chain's bounds of validity, nor any of `more`. Empty for a chain
/// that does not parse.
pub(super) fn steady(chain: &[CertificateDer<'_>], more: impl Iterator<Item = i64>, now: Timestamp) -> Range<Timestamp> {
    let mut instants: Vec<i64> = more.collect();
    for certificate in chain {
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return now..now };
        let validity = certificate.validity();
        // A certificate is good through the whole second of its notAfter (RFC 5280 section 4.1.2.5).
        instants.extend([validity.not_before.timestamp(), validity.not_after.timestamp().saturating_add(1)]);
    }
    // What lies outside the clock's range is never passed.
    let instants = instants.into_iter().filter_map(|second| Timestamp::from_second(second).ok());
    let (passed, ahead): (Vec<_>, Vec<_>) = instants.partition(|instant| *instant <= now);
    passed.into_iter().max().unwrap_or(Timestamp::MIN)..ahead.into_iter().min().unwrap_or(Timestamp::MAX)
}
