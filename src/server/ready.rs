//! Whether the service can do its work now, and why not.

use std::sync::{Arc, Mutex, PoisonError};

use tonic_health::{ServingStatus, server::HealthReporter};

use super::{keys::KeyDesk, tls::TlsEdge, trust::Trust};
use crate::vend::Vend;

/// The service as a whole, in gRPC's health protocol.
const WHOLE: &str = "";

/// Readiness: read by `/readyz` and by gRPC health checking, written by the service's loop.
pub(super) struct Readiness {
    vend: Arc<Vend>,
    trust: Arc<Trust>,
    edge: Arc<TlsEdge>,
    keys: Arc<KeyDesk>,
    store_fault: Mutex<Option<String>>,
    draining: std::sync::atomic::AtomicBool,
    reporter: HealthReporter,
}

impl Readiness {
    pub(super) fn new(vend: Arc<Vend>, trust: Arc<Trust>, edge: Arc<TlsEdge>, keys: Arc<KeyDesk>, reporter: HealthReporter) -> Self {
        Self {
            vend,
            trust,
            edge,
            keys,
            store_fault: Mutex::new(Some("the lease store was not asked yet".to_owned())),
            draining: false.into(),
            reporter,
        }
    }

    /// Looks at the store, and tells gRPC's health service.
    pub(super) async fn look(&self) {
        let fault = self.vend.stats().await.err().map(|error| error.to_string());
        *self.store_fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        let status = if self.faults().is_empty() { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.reporter.set_service_status(WHOLE, status).await;
    }

    /// From now on the service takes no new work.
    pub(super) async fn drain(&self) {
        self.draining.store(true, std::sync::atomic::Ordering::Release);
        self.reporter.set_service_status(WHOLE, ServingStatus::NotServing).await;
    }

    /// Why the service is not ready; empty when it is. The texts name no secret: they are served to whoever reaches the HTTP port.
    pub(super) fn faults(&self) -> Vec<&'static str> {
        let mut faults = Vec::new();
        if self.draining.load(std::sync::atomic::Ordering::Acquire) {
            faults.push("shutting down");
        }
        if self.vend.audit_health().fault.is_some() {
            faults.push("the audit log cannot be written");
        }
        if self.store_fault.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            faults.push("the lease store does not answer");
        }
        if !self.trust.knows_revocations() {
            faults.push("our own CRLs are not signed yet, so no client certificate is taken");
        }
        if !self.edge.shows() {
            faults.push("the server has no certificate of its own yet");
        }
        if !self.keys.silent(self.vend.now()).is_empty() {
            faults.push("keys that sign cannot be used");
        }
        faults
    }
}
