//! Leases in SQLite, on this machine's disk: indexes and durability are SQLite's. One thread writes ([`writer`]), a few
//! connections read ([`query`]); an acknowledged change is on the disk.

mod change;
mod entries;
mod query;
mod schema;
mod writer;

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;

use self::{query::Readers, writer::Writer};
use super::{LeaseStore, MAX_BATCH, NewLease, Page, Put, Stats, Swap, TokenUseKey, unavailable};
use crate::model::{
    SignedDuration, Timestamp,
    error::Error,
    lease::{Lease, LeaseFilter, LeaseId},
    name::{CaName, TenantName},
    revocation::{RevocationList, RevokedSerial},
};

pub use self::{
    query::{MAX_SCANNED, READERS},
    schema::SCHEMA_VERSION,
    writer::{MAX_GROUP, MAX_WAITING},
};

/// The most that a call may take.
pub const TIMEOUT: Duration = Duration::from_millis(900);

/// Leases in a file.
pub struct EmbeddedStore {
    path: PathBuf,
    retention: SignedDuration,
    writer: Writer,
    readers: Readers,
}

impl EmbeddedStore {
    /// Opens the file, or makes it, readable by its owner only; its folder must exist. Blocks while it does. Ended leases
    /// stay readable for `retention`. Fails when the file is of a newer version or another program's.
    pub fn open(path: &Path, retention: SignedDuration) -> Result<Self, Error> {
        schema::prepare(path)?;
        let path = path.to_owned();
        Ok(Self { retention, writer: Writer::start(path.clone())?, readers: Readers::new(path.clone()), path })
    }
}

#[async_trait]
impl LeaseStore for EmbeddedStore {
    async fn put(&self, new: &NewLease) -> Result<Put, Error> {
        let (new, retention) = (new.clone(), self.retention);
        self.writer.change(move |connection| change::put(connection, &new, retention)).await
    }

    async fn use_token(&self, _tenant: &TenantName, token: &TokenUseKey) -> Result<bool, Error> {
        let token = *token;
        self.writer.change(move |connection| change::use_token(connection, &token)).await
    }

    async fn get(&self, ids: &[LeaseId]) -> Result<Vec<Option<Lease>>, Error> {
        let ids = ids.to_vec();
        self.readers.query(move |connection| query::get(connection, &ids)).await
    }

    async fn list(&self, filter: &LeaseFilter, after: Option<LeaseId>, limit: usize) -> Result<Page, Error> {
        let filter = filter.clone();
        self.readers.query(move |connection| query::list(connection, &filter, after, limit.clamp(1, MAX_BATCH))).await
    }

    async fn swap(&self, leases: &[Lease]) -> Result<Vec<Swap>, Error> {
        let (leases, retention) = (leases.to_vec(), self.retention);
        self.writer.change(move |connection| change::swap(connection, &leases, retention)).await
    }

    async fn restore(&self, leases: &[Lease]) -> Result<usize, Error> {
        let (leases, retention) = (leases.to_vec(), self.retention);
        self.writer.change(move |connection| change::restore(connection, &leases, retention)).await
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<Lease>, Error> {
        self.readers.query(move |connection| query::due(connection, now, limit.clamp(1, MAX_BATCH))).await
    }

    async fn purge(&self, leases: &[Lease], now: Timestamp) -> Result<(), Error> {
        let leases = leases.to_vec();
        self.writer.change(move |connection| change::purge(connection, &leases, now)).await
    }

    async fn add_revoked(&self, list: &RevocationList, serials: &[RevokedSerial]) -> Result<(), Error> {
        let (list, serials) = (list.clone(), serials.to_vec());
        self.writer.change(move |connection| change::add_revoked(connection, &list, &serials)).await
    }

    async fn revocation_revision(&self, list: &RevocationList) -> Result<u64, Error> {
        let list = list.clone();
        self.readers.query(move |connection| query::revocation_revision(connection, &list)).await
    }

    async fn revoked(&self, list: &RevocationList, now: Timestamp) -> Result<(u64, Vec<RevokedSerial>), Error> {
        let list = list.clone();
        self.readers.query(move |connection| query::revoked(connection, &list, now)).await
    }

    async fn revocation_lists(&self) -> Result<Vec<RevocationList>, Error> {
        self.readers.query(query::revocation_lists).await
    }

    async fn next_crl_number(&self, ca: &CaName, floor: u64) -> Result<u64, Error> {
        let ca = ca.clone();
        self.writer.change(move |connection| change::next_crl_number(connection, &ca, floor)).await
    }

    async fn stats(&self) -> Result<Stats, Error> {
        self.readers.query(query::stats).await
    }

    async fn incarnation(&self) -> Result<String, Error> {
        let path = self.path.clone();
        let identify = move |connection: &rusqlite::Connection| {
            // A copy that was put back has another inode.
            let file = std::fs::metadata(path).map_err(unavailable)?;
            Ok(format!("{}-{}-{}", query::mark(connection)?, file.dev(), file.ino()))
        };
        self.readers.query(identify).await
    }
}

fn lease_of(body: &str) -> Result<Lease, Error> {
    serde_json::from_str(body).map_err(|error| unavailable(format!("a lease in the store is not readable: {error}")))
}
