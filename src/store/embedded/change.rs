//! Changes, each within a transaction that the writer holds.

use rusqlite::{Connection, OptionalExtension, named_params, params};

use super::lease_of;
use crate::{
    model::{
        SignedDuration, Timestamp,
        error::Error,
        lease::Lease,
        name::CaName,
        revocation::{RevocationList, RevokedSerial},
    },
    store::{FIRST_ENDED, NewLease, OPEN_GRACE, Put, Swap, TokenUseKey, ceil_millis, state_number, unavailable},
};

/// What is on record under an id.
struct Stored {
    version: u32,
    live: bool,
    body: String,
}

/// Stores a new lease, or says why not.
pub fn put(connection: &Connection, new: &NewLease, retention: SignedDuration) -> Result<Put, Error> {
    let lease = &new.lease;
    if let Some(stored) = stored(connection, lease)? {
        if stored.version > lease.version || stored.body == body(lease)? {
            return Ok(Put::Stored);
        }
        return Err(unavailable(format!("another lease is on record as {}", lease.id)));
    }
    if let Some(key) = &new.request_key
        && let Some(existing) = by_request(connection, key)?
    {
        return Ok(Put::Existing(Box::new(existing)));
    }
    if let Some(token) = &new.token_use
        && replayed(connection, token)?
    {
        return Ok(Put::TokenReplayed);
    }
    if tenant_live(connection, lease)? >= new.tenant_cap.into() {
        return Ok(Put::TenantCap);
    }
    if caller_live(connection, lease)? >= new.caller_cap.into() {
        return Ok(Put::CallerCap);
    }
    insert(connection, lease, new.request_key.as_ref(), retention)?;
    if let Some(token) = &new.token_use {
        remember(connection, token)?;
    }
    Ok(Put::Stored)
}

/// Puts the use of a token on record; `false` when it is a replay.
pub fn use_token(connection: &Connection, token: &TokenUseKey) -> Result<bool, Error> {
    if replayed(connection, token)? {
        return Ok(false);
    }
    remember(connection, token)?;
    Ok(true)
}

fn replayed(connection: &Connection, token: &TokenUseKey) -> Result<bool, Error> {
    let mut used = connection.prepare_cached("SELECT 1 FROM token_use WHERE key = ?1")?;
    let again = |retry: &[u8; 16]| used.exists([retry]);
    let retried = token.retry.as_ref().map(again).transpose()?.unwrap_or(false);
    Ok(!retried && used.exists([token.key])?)
}

fn remember(connection: &Connection, token: &TokenUseKey) -> Result<(), Error> {
    let mut insert = connection.prepare_cached("INSERT INTO token_use (key, until) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?;
    for key in [Some(token.key), token.retry].into_iter().flatten() {
        insert.execute(params![key, token.until.as_millisecond()])?;
    }
    Ok(())
}

/// Compare-and-set for each lease.
pub fn swap(connection: &Connection, leases: &[Lease], retention: SignedDuration) -> Result<Vec<Swap>, Error> {
    let swap_one = |lease: &Lease| {
        let Some(stored) = stored(connection, lease)? else { return Ok(Swap::Missing) };
        if stored.version.checked_add(1) == Some(lease.version) {
            update(connection, &stored, lease, retention)?;
            return Ok(Swap::Done);
        }
        Ok(if stored.body == body(lease)? { Swap::Done } else { Swap::Conflict })
    };
    leases.iter().map(swap_one).collect()
}

/// Writes what is missing or older; answers how many were.
pub fn restore(connection: &Connection, leases: &[Lease], retention: SignedDuration) -> Result<usize, Error> {
    let mut written = 0;
    for lease in leases {
        match stored(connection, lease)? {
            None => insert(connection, lease, None, retention)?,
            Some(stored) if stored.version < lease.version => update(connection, &stored, lease, retention)?,
            Some(_) => continue,
        }
        written += 1;
    }
    Ok(written)
}

/// Removes ended leases in the version given, and what was to be remembered until before `now`.
pub fn purge(connection: &Connection, leases: &[Lease], now: Timestamp) -> Result<(), Error> {
    let mut delete = connection.prepare_cached("DELETE FROM lease WHERE id = ?1 AND version = ?2 AND state >= ?3")?;
    for lease in leases {
        delete.execute(params![lease.id.as_bytes(), lease.version, FIRST_ENDED])?;
    }
    let now = ceil_millis(now);
    connection.prepare_cached("DELETE FROM token_use WHERE until < ?1")?.execute([now])?;
    connection.prepare_cached("DELETE FROM revoked WHERE not_after < ?1")?.execute([now])?;
    Ok(())
}

/// Adds to a CA's revocation list; counts the revision up when anything was new.
pub fn add_revoked(connection: &Connection, list: &RevocationList, serials: &[RevokedSerial]) -> Result<(), Error> {
    let name = list.to_string();
    let mut insert = connection
        .prepare_cached("INSERT INTO revoked (ca, serial, revoked_at, not_after) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING")?;
    let mut new = 0;
    for RevokedSerial { serial, revoked_at, not_after } in serials {
        new += insert.execute(params![&name, serial, revoked_at.as_millisecond(), not_after.as_millisecond()])?;
    }
    if new > 0 {
        let count = "INSERT INTO ca (name, revision) VALUES (?1, 1) ON CONFLICT (name) DO UPDATE SET revision = revision + 1";
        connection.prepare_cached(count)?.execute([&name])?;
    }
    Ok(())
}

/// The next CRL number.
pub fn next_crl_number(connection: &Connection, ca: &CaName, floor: u64) -> Result<u64, Error> {
    let count = "INSERT INTO ca (name, crl_number) VALUES (?1, max(1, ?2))
                 ON CONFLICT (name) DO UPDATE SET crl_number = max(crl_number + 1, ?2) RETURNING crl_number";
    Ok(connection.prepare_cached(count)?.query_row(params![ca.as_str(), floor], |row| row.get(0))?)
}

fn stored(connection: &Connection, lease: &Lease) -> Result<Option<Stored>, Error> {
    let mut select = connection.prepare_cached("SELECT version, state, body FROM lease WHERE id = ?1")?;
    let stored = select
        .query_row([lease.id.as_bytes()], |row| {
            Ok(Stored { version: row.get(0)?, live: row.get::<_, u8>(1)? < FIRST_ENDED, body: row.get(2)? })
        })
        .optional()?;
    Ok(stored)
}

fn by_request(connection: &Connection, key: &[u8; 16]) -> Result<Option<Lease>, Error> {
    let mut select = connection.prepare_cached("SELECT body FROM lease WHERE request_key = ?1")?;
    let body: Option<String> = select.query_row([key], |row| row.get(0)).optional()?;
    body.as_deref().map(lease_of).transpose()
}

fn tenant_live(connection: &Connection, lease: &Lease) -> Result<u64, Error> {
    let mut select = connection.prepare_cached("SELECT live FROM tenant_live WHERE tenant = ?1")?;
    Ok(select.query_row([lease.tenant.as_str()], |row| row.get(0)).optional()?.unwrap_or(0))
}

fn caller_live(connection: &Connection, lease: &Lease) -> Result<u64, Error> {
    let mut select = connection.prepare_cached("SELECT live FROM caller_live WHERE tenant = ?1 AND subject = ?2")?;
    Ok(select.query_row([lease.tenant.as_str(), lease.subject.as_str()], |row| row.get(0)).optional()?.unwrap_or(0))
}

fn insert(connection: &Connection, lease: &Lease, request_key: Option<&[u8; 16]>, retention: SignedDuration) -> Result<(), Error> {
    let insert = "INSERT INTO lease (id, version, tenant, role, subject, state, due, request_key, body)
                  VALUES (:id, :version, :tenant, :role, :subject, :state, :due, :request_key, :body)";
    connection.prepare_cached(insert)?.execute(named_params! {
        ":id": lease.id.as_bytes(),
        ":version": lease.version,
        ":tenant": lease.tenant.as_str(),
        ":role": lease.role.as_str(),
        ":subject": lease.subject.as_str(),
        ":state": state_number(lease.state),
        ":due": lease.due_at(OPEN_GRACE, retention).as_millisecond(),
        ":request_key": request_key.filter(|_| lease.state.is_live()),
        ":body": body(lease)?,
    })?;
    if lease.state.is_live() { count(connection, lease, 1) } else { Ok(()) }
}

fn update(connection: &Connection, stored: &Stored, lease: &Lease, retention: SignedDuration) -> Result<(), Error> {
    let live = lease.state.is_live();
    let update = "UPDATE lease SET version = :version, state = :state, due = :due, body = :body,
                  request_key = CASE WHEN :live THEN request_key END WHERE id = :id";
    connection.prepare_cached(update)?.execute(named_params! {
        ":id": lease.id.as_bytes(),
        ":version": lease.version,
        ":state": state_number(lease.state),
        ":due": lease.due_at(OPEN_GRACE, retention).as_millisecond(),
        ":live": live,
        ":body": body(lease)?,
    })?;
    match (stored.live, live) {
        (true, false) => count(connection, lease, -1),
        (false, true) => count(connection, lease, 1),
        _ => Ok(()),
    }
}

/// Counts live leases up or down; a count at zero leaves no row.
fn count(connection: &Connection, lease: &Lease, by: i64) -> Result<(), Error> {
    let (tenant, subject) = (lease.tenant.as_str(), lease.subject.as_str());
    let of_tenant = "INSERT INTO tenant_live (tenant, live) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET live = live + ?2";
    connection.prepare_cached(of_tenant)?.execute(params![tenant, by])?;
    let of_caller = "INSERT INTO caller_live (tenant, subject, live) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET live = live + ?3";
    connection.prepare_cached(of_caller)?.execute(params![tenant, subject, by])?;
    if by < 0 {
        connection.prepare_cached("DELETE FROM tenant_live WHERE tenant = ?1 AND live <= 0")?.execute([tenant])?;
        let none = "DELETE FROM caller_live WHERE tenant = ?1 AND subject = ?2 AND live <= 0";
        connection.prepare_cached(none)?.execute([tenant, subject])?;
    }
    Ok(())
}

fn body(lease: &Lease) -> Result<String, Error> {
    serde_json::to_string(lease).map_err(unavailable)
}
