//! Reading: a few connections, and the queries that run on them.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::{Connection, OptionalExtension, named_params, params};
use tokio::{sync::Semaphore, time::timeout};

use super::{TIMEOUT, lease_of, schema};
use crate::{
    model::{
        Timestamp,
        error::Error,
        identity::Subject,
        lease::{Lease, LeaseFilter, LeaseId},
        name::{RoleName, TenantName},
        revocation::{RevocationList, RevokedSerial},
    },
    store::{MAX_BATCH, Page, Stats, ceil_millis, state_number, unavailable},
};

/// How many queries run at once; more wait, within their time limit.
pub const READERS: usize = 4;

/// The most leases that one page looks at; a page is cut short there when few of them match.
pub const MAX_SCANNED: usize = 4 * MAX_BATCH;

/// The connections that read.
pub struct Readers {
    path: PathBuf,
    permits: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Readers {
    /// Connections to this file, opened when they are needed.
    pub fn new(path: PathBuf) -> Self {
        Self { path, permits: Arc::new(Semaphore::new(READERS)), idle: Arc::default() }
    }

    /// Runs a query on a thread that may block.
    pub async fn query<T, F>(&self, query: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    {
        let work = async {
            let permit = self.permits.clone().acquire_owned().await.map_err(unavailable)?;
            let (path, idle) = (self.path.clone(), self.idle.clone());
            let blocking = move || {
                let _permit = permit;
                // The list is valid after any panic: each step on it is one push or pop.
                let take = || idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let connection = take().map_or_else(|| schema::reader(&path), Ok)?;
                let answer = query(&connection)?;
                // A connection on which something failed is not used again.
                idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                Ok(answer)
            };
            tokio::task::spawn_blocking(blocking).await.map_err(unavailable)?
        };
        timeout(TIMEOUT, work).await.map_err(|_| unavailable(format!("not read within {TIMEOUT:?}")))?
    }
}

/// Leases by id.
pub fn get(connection: &Connection, ids: &[LeaseId]) -> Result<Vec<Option<Lease>>, Error> {
    let mut select = connection.prepare_cached("SELECT body FROM lease WHERE id = ?1")?;
    let get_one = |id: &LeaseId| {
        let body: Option<String> = select.query_row([id.as_bytes()], |row| row.get(0)).optional()?;
        body.as_deref().map(lease_of).transpose()
    };
    ids.iter().map(get_one).collect()
}

/// A page in the order of ids.
pub fn list(connection: &Connection, filter: &LeaseFilter, after: Option<LeaseId>, limit: usize) -> Result<Page, Error> {
    // Constraints that the index does not serve blank out the body instead of hiding the row, so that the scan stays bounded.
    let (index, lead) = match filter {
        LeaseFilter { subject: Some(_), .. } => ("INDEXED BY lease_subject", "subject = :subject AND"),
        LeaseFilter { tenant: Some(_), .. } => ("INDEXED BY lease_tenant", "tenant = :tenant AND"),
        LeaseFilter { role: Some(_), .. } => ("INDEXED BY lease_role", "role = :role AND"),
        _ => ("", ""),
    };
    let sql = format!(
        "SELECT id, CASE WHEN (:tenant IS NULL OR tenant = :tenant) AND (:role IS NULL OR role = :role)
                          AND (:subject IS NULL OR subject = :subject) AND (:state IS NULL OR state = :state) THEN body END
         FROM lease {index} WHERE {lead} id > :after AND id < :before ORDER BY id LIMIT :scan"
    );
    let mut select = connection.prepare_cached(&sql)?;
    let before = filter.issued_before.map(|at| LeaseId::floor(Timestamp::from_millisecond(ceil_millis(at)).unwrap_or(Timestamp::MAX)));
    let mut rows = select.query(named_params! {
        ":tenant": filter.tenant.as_ref().map(TenantName::as_str),
        ":role": filter.role.as_ref().map(RoleName::as_str),
        ":subject": filter.subject.as_ref().map(Subject::as_str),
        ":state": filter.state.map(state_number),
        ":after": after.as_ref().map_or(&[][..], |id| id.as_bytes()),
        // Longer than any id, and so above all of them.
        ":before": before.as_ref().map_or(&[0xff; 17][..], |id| id.as_bytes()),
        ":scan": MAX_SCANNED + 1,
    })?;
    let mut page = Page::default();
    let mut last = None;
    let mut scanned = 0;
    while let Some(row) = rows.next()? {
        if page.leases.len() == limit || scanned == MAX_SCANNED {
            page.next = last;
            break;
        }
        scanned += 1;
        last = Some(LeaseId::from_bytes(row.get(0)?));
        if let Some(body) = row.get_ref(1)?.as_str_or_null().map_err(unavailable)? {
            let lease = lease_of(body)?;
            if filter.matches(&lease) {
                page.leases.push(lease);
            }
        }
    }
    Ok(page)
}

/// Leases whose due time has come, the longest-waiting first.
pub fn due(connection: &Connection, now: Timestamp, limit: usize) -> Result<Vec<Lease>, Error> {
    let mut select = connection.prepare_cached("SELECT body FROM lease WHERE due <= ?1 ORDER BY due, id LIMIT ?2")?;
    let mut rows = select.query(params![now.as_millisecond(), limit])?;
    let mut leases = Vec::new();
    while let Some(row) = rows.next()? {
        leases.push(lease_of(row.get_ref(0)?.as_str().map_err(unavailable)?)?);
    }
    Ok(leases)
}

/// The revision of a revocation list.
pub fn revocation_revision(connection: &Connection, list: &RevocationList) -> Result<u64, Error> {
    let mut select = connection.prepare_cached("SELECT revision FROM ca WHERE name = ?1")?;
    Ok(select.query_row([list.to_string()], |row| row.get(0)).optional()?.unwrap_or(0))
}

/// Every list that was ever added to, in order.
pub fn revocation_lists(connection: &Connection) -> Result<Vec<RevocationList>, Error> {
    let mut select = connection.prepare_cached("SELECT name FROM ca WHERE revision > 0")?;
    let names = select.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    let mut lists: Vec<RevocationList> = names.iter().filter_map(|name| name.parse().ok()).collect();
    lists.sort();
    Ok(lists)
}

/// A revocation list with its revision.
pub fn revoked(connection: &Connection, list: &RevocationList, now: Timestamp) -> Result<(u64, Vec<RevokedSerial>), Error> {
    let snapshot = connection.unchecked_transaction()?;
    let revision = revocation_revision(&snapshot, list)?;
    let mut select = snapshot
        .prepare_cached("SELECT serial, revoked_at, not_after FROM revoked WHERE ca = ?1 AND not_after >= ?2 ORDER BY not_after, serial")?;
    let mut rows = select.query(params![list.to_string(), ceil_millis(now)])?;
    let time = |millis| Timestamp::from_millisecond(millis).map_err(unavailable);
    let mut serials = Vec::new();
    while let Some(row) = rows.next()? {
        serials.push(RevokedSerial { serial: row.get(0)?, revoked_at: time(row.get(1)?)?, not_after: time(row.get(2)?)? });
    }
    Ok((revision, serials))
}

/// Counts.
pub fn stats(connection: &Connection) -> Result<Stats, Error> {
    let sql = "SELECT (SELECT coalesce(sum(live), 0) FROM tenant_live), (SELECT min(due) FROM lease)";
    let (live, due): (u64, Option<i64>) = connection.prepare_cached(sql)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Stats { live, oldest_due: due.map(Timestamp::from_millisecond).transpose().map_err(unavailable)? })
}

/// The mark that the file got when it was made.
pub fn mark(connection: &Connection) -> Result<String, Error> {
    Ok(connection.prepare_cached("SELECT value FROM mark LIMIT 1")?.query_row([], |row| row.get(0))?)
}
