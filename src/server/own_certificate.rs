//! Keeps the server's own certificate: made at the start, made again at half its life and when another key of its CA signs. Connections that
//! live go on; a handshake is shown the newest.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use super::{
    config::{OwnCertificateConfig, ServerIdentity},
    tls::TlsEdge,
};
use crate::{
    background::ticker,
    model::{Timestamp, error::Result, name::CaName},
    vend::Vend,
};

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What the server shows, and what it should.
pub(super) struct OwnCertificate {
    edge: Arc<TlsEdge>,
    /// None where the certificate comes from files.
    wanted: watch::Sender<Option<OwnCertificateConfig>>,
    shown: Mutex<Option<Shown>>,
}

/// A certificate of ours that the edge shows.
struct Shown {
    config: OwnCertificateConfig,
    issued_by: CaName,
    made_at: Timestamp,
    not_after: Timestamp,
}

impl OwnCertificate {
    pub(super) fn new(edge: Arc<TlsEdge>) -> Self {
        Self { edge, wanted: watch::Sender::new(None), shown: Mutex::default() }
    }

    /// From now on the edge shows this: at once when it comes from files, else when it is made.
    pub(super) fn want(&self, identity: ServerIdentity) -> Result<()> {
        match identity {
            ServerIdentity::Own(config) => drop(self.wanted.send_replace(Some(config))),
            ServerIdentity::Files { certificate, key } => {
                let prepared = self.edge.prepare(&certificate, &key)?;
                self.wanted.send_replace(None);
                self.shown().take();
                self.edge.show(prepared);
            }
        }
        Ok(())
    }

    /// Whether [`OwnCertificate::want`] would fail.
    pub(super) fn check(&self, identity: &ServerIdentity) -> Result<()> {
        match identity {
            ServerIdentity::Own(_) => Ok(()),
            ServerIdentity::Files { certificate, key } => self.edge.prepare(certificate, key).map(drop),
        }
    }

    /// Makes and shows another certificate when one is due. Answers whether it did.
    pub(super) async fn turn(&self, vend: &Vend) -> Result<bool> {
        let wanted = self.wanted.borrow().clone();
        let Some(config) = wanted else { return Ok(false) };
        let issuing = vend.issuing_now(&config.ca)?;
        if self.shown().as_ref().is_some_and(|shown| shown.config == config && shown.issued_by == issuing && !shown.is_due(vend.now())) {
            return Ok(false);
        }
        let made = vend.own_certificate(&config.ca, &config.names, config.life).await?;
        let prepared = self.edge.prepare(made.chain_pem.as_bytes(), made.key_pem.as_bytes())?;
        // A reload may have put files in force meanwhile.
        let mut shown = self.shown();
        if self.wanted.borrow().as_ref() == Some(&config) {
            self.edge.show(prepared);
            tracing::info!(serial = made.serial, issued_by = %made.issued_by, until = %made.not_after, "the server shows a new certificate");
            *shown = Some(Shown { config, issued_by: made.issued_by, made_at: made.made_at, not_after: made.not_after });
        }
        Ok(true)
    }

    fn tell_gauge(&self, now: Timestamp) {
        if let Some(shown) = &*self.shown() {
            metrics::gauge!("daypass_own_certificate_seconds_left").set(shown.not_after.duration_since(now).as_secs_f64());
        }
    }

    fn shown(&self) -> MutexGuard<'_, Option<Shown>> {
        // Each change under the lock is complete in itself.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shown {
    /// At half of its life.
    fn is_due(&self, now: Timestamp) -> bool {
        let half = self.not_after.duration_since(self.made_at) / 2;
        self.made_at.checked_add(half).is_ok_and(|due| due <= now)
    }
}

/// Looks for ever.
pub(super) async fn keep(own: Arc<OwnCertificate>, vend: Arc<Vend>) {
    let mut wanted = own.wanted.subscribe();
    let mut tick = ticker(LOOK_EVERY);
    let mut told = None;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            changed = wanted.changed() => if changed.is_err() { return },
        }
        let fault = own.turn(&vend).await.err().map(|error| error.to_string());
        if let Some(fault) = fault.as_ref().filter(|fault| told.as_ref() != Some(*fault)) {
            tracing::warn!(fault, "the server's own certificate could not be made; the one before it is shown for as long as it lives");
        }
        told = fault;
        own.tell_gauge(vend.now());
    }
}
