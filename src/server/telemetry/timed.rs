//! Ports that measure themselves: decorators, so that no adapter and no step counts anything.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;

use crate::{
    audit::{AuditLog, AuditReader, Health, Receipt},
    model::{
        Timestamp,
        error::Result,
        event::Event,
        lease::{Lease, LeaseFilter, LeaseId},
        name::{CaName, TenantName},
        revocation::{RevocationList, RevokedSerial},
    },
    store::{LeaseStore, NewLease, Page, Put, Stats, Swap, TokenUseKey},
};

async fn timed<T>(step: &'static str, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
    let begun = Instant::now();
    let done = work.await;
    let outcome = if done.is_ok() { "done" } else { "failed" };
    metrics::histogram!("daypass_step_seconds", "step" => step, "outcome" => outcome).record(begun.elapsed());
    done
}

/// A lease store that measures its calls.
pub(in crate::server) struct TimedStore(pub Arc<dyn LeaseStore>);

#[async_trait]
impl LeaseStore for TimedStore {
    async fn put(&self, new: &NewLease) -> Result<Put> {
        timed("store_put", self.0.put(new)).await
    }
    async fn use_token(&self, tenant: &TenantName, token: &TokenUseKey) -> Result<bool> {
        timed("store_use_token", self.0.use_token(tenant, token)).await
    }
    async fn get(&self, ids: &[LeaseId]) -> Result<Vec<Option<Lease>>> {
        timed("store_get", self.0.get(ids)).await
    }
    async fn list(&self, filter: &LeaseFilter, after: Option<LeaseId>, limit: usize) -> Result<Page> {
        timed("store_list", self.0.list(filter, after, limit)).await
    }
    async fn swap(&self, leases: &[Lease]) -> Result<Vec<Swap>> {
        timed("store_swap", self.0.swap(leases)).await
    }
    async fn restore(&self, leases: &[Lease]) -> Result<usize> {
        timed("store_restore", self.0.restore(leases)).await
    }
    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<Lease>> {
        timed("store_due", self.0.due(now, limit)).await
    }
    async fn purge(&self, leases: &[Lease], now: Timestamp) -> Result<()> {
        timed("store_purge", self.0.purge(leases, now)).await
    }
    async fn add_revoked(&self, list: &RevocationList, serials: &[RevokedSerial]) -> Result<()> {
        timed("store_add_revoked", self.0.add_revoked(list, serials)).await
    }
    async fn revocation_revision(&self, list: &RevocationList) -> Result<u64> {
        self.0.revocation_revision(list).await
    }
    async fn revoked(&self, list: &RevocationList, now: Timestamp) -> Result<(u64, Vec<RevokedSerial>)> {
        timed("store_revoked", self.0.revoked(list, now)).await
    }
    async fn revocation_lists(&self) -> Result<Vec<RevocationList>> {
        self.0.revocation_lists().await
    }
    async fn next_crl_number(&self, ca: &CaName, floor: u64) -> Result<u64> {
        self.0.next_crl_number(ca, floor).await
    }
    async fn stats(&self) -> Result<Stats> {
        self.0.stats().await
    }
    async fn incarnation(&self) -> Result<String> {
        self.0.incarnation().await
    }
}

/// An audit log that measures its appends.
pub(in crate::server) struct TimedLog(pub Arc<dyn AuditLog>);

#[async_trait]
impl AuditLog for TimedLog {
    async fn append(&self, events: Vec<Event>) -> Result<Receipt> {
        timed("audit_append", self.0.append(events)).await
    }
    fn health(&self) -> Health {
        self.0.health()
    }
    fn reader(&self) -> AuditReader {
        self.0.reader()
    }
}
