//! The tables, and how a connection to them is opened.

use std::{fs, io, os::unix::fs::OpenOptionsExt, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags};

use crate::{
    clock,
    model::error::{Code, Error},
    store::unavailable,
};

/// The version of the tables that this service reads and writes, in `user_version`.
pub const SCHEMA_VERSION: i64 = 2;

/// Marks the file as ours ("dayp"), in `application_id`.
const APPLICATION_ID: i64 = 0x6461_7970;

/// How long a statement waits for another process that holds the file, a backup for example.
const BUSY_TIMEOUT: Duration = Duration::from_millis(400);

/// After a checkpoint the write-ahead log is cut to this size, in bytes.
const MAX_IDLE_LOG: i64 = 16 << 20;

/// Times are milliseconds since 1970; states are numbers in the order of `LeaseState::ALL`, the first three live. `body`
/// is the lease as JSON; the columns beside it repeat what is looked for. `request_key` is set while the lease is live.
const TABLES: &str = "
CREATE TABLE lease (
    id BLOB PRIMARY KEY,
    version INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    role TEXT NOT NULL,
    subject TEXT NOT NULL,
    state INTEGER NOT NULL,
    due INTEGER NOT NULL,
    request_key BLOB,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX lease_tenant ON lease (tenant, id);
CREATE INDEX lease_role ON lease (role, id);
CREATE INDEX lease_subject ON lease (subject, id);
CREATE INDEX lease_due ON lease (due, id);
CREATE UNIQUE INDEX lease_request ON lease (request_key) WHERE request_key IS NOT NULL;

-- Live leases; a row at zero is deleted.
CREATE TABLE tenant_live (tenant TEXT PRIMARY KEY, live INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE caller_live (
    tenant TEXT, subject TEXT, live INTEGER NOT NULL, PRIMARY KEY (tenant, subject)
) STRICT, WITHOUT ROWID;

CREATE TABLE token_use (key BLOB PRIMARY KEY, until INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX token_use_until ON token_use (until);

CREATE TABLE ca (
    name TEXT PRIMARY KEY, revision INTEGER NOT NULL DEFAULT 0, crl_number INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE TABLE revoked (
    ca TEXT, serial TEXT, revoked_at INTEGER NOT NULL, not_after INTEGER NOT NULL, PRIMARY KEY (ca, serial)
) STRICT, WITHOUT ROWID;
CREATE INDEX revoked_end ON revoked (not_after);

CREATE TABLE mark (value TEXT NOT NULL) STRICT;
";

/// What version 2 added: what servers share besides leases, and how often each collection was changed.
const COLLECTIONS: &str = "
CREATE TABLE entry (
    collection TEXT, key TEXT, version INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (collection, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE collection (name TEXT PRIMARY KEY, revision INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// Creates the file when there is none, readable by its owner only, and the tables in it.
pub fn prepare(path: &Path) -> Result<(), Error> {
    create(path).map_err(|error| unusable(path, &format!("cannot be created: {error}")).because(&error))?;
    let mut connection = writer(path)?;
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let number = |pragma: &str| transaction.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    match (number("application_id")?, number("user_version")?) {
        (APPLICATION_ID, SCHEMA_VERSION) => return Ok(()),
        (APPLICATION_ID, 1) => {
            transaction.execute_batch(COLLECTIONS)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            return Ok(transaction.commit()?);
        }
        (APPLICATION_ID, version) => {
            let text = format!("has schema {version}, and this service knows schema {SCHEMA_VERSION}: run the version that wrote it");
            return Err(unusable(path, &text));
        }
        (0, 0) => {}
        _ => return Err(unusable(path, "is another program's database")),
    }
    let tables: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables != 0 {
        return Err(unusable(path, "is another program's database"));
    }
    transaction.execute_batch(TABLES)?;
    transaction.execute_batch(COLLECTIONS)?;
    transaction.execute("INSERT INTO mark (value) VALUES (lower(hex(?1)))", [clock::random::<16>()])?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    Ok(transaction.commit()?)
}

/// A connection that writes: every commit is on the disk when it returns.
pub fn writer(path: &Path) -> Result<Connection, Error> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(unusable(path, "lies where SQLite cannot keep a write-ahead log"));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", MAX_IDLE_LOG)?;
    Ok(connection)
}

/// A connection that only reads.
pub fn reader(path: &Path) -> Result<Connection, Error> {
    open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn open(path: &Path, access: OpenFlags) -> Result<Connection, Error> {
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn create(path: &Path) -> io::Result<()> {
    let file = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.sync_all()?;
    // Without this a crash may lose the file's name.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder)?.sync_all()
}

fn unusable(path: &Path, why: &str) -> Error {
    Error::new(Code::StoreUnavailable, format!("the lease store {} {why}", path.display()))
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        unavailable(error)
    }
}
