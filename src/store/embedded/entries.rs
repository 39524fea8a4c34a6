//! What servers share besides leases: two tables, changed on the thread that writes.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::EmbeddedStore;
use crate::{
    model::error::Error,
    store::{Collection, Entry, EntryStore, MAX_ENTRIES, check_entry},
};

#[async_trait]
impl EntryStore for EmbeddedStore {
    async fn entries_revision(&self, collection: Collection) -> Result<u64, Error> {
        self.readers.query(move |connection| revision(connection, collection)).await
    }

    async fn entries(&self, collection: Collection) -> Result<Vec<Entry>, Error> {
        self.readers.query(move |connection| all(connection, collection)).await
    }

    async fn entry(&self, collection: Collection, key: &str) -> Result<Option<Entry>, Error> {
        let key = key.to_owned();
        self.readers.query(move |connection| one(connection, collection, &key)).await
    }

    async fn write_entry(&self, collection: Collection, entry: &Entry) -> Result<bool, Error> {
        check_entry(entry)?;
        let entry = entry.clone();
        self.writer.change(move |connection| write(connection, collection, &entry)).await
    }

    async fn delete_entry(&self, collection: Collection, key: &str, version: u64) -> Result<bool, Error> {
        let key = key.to_owned();
        self.writer.change(move |connection| delete(connection, collection, &key, version)).await
    }
}

fn revision(connection: &Connection, collection: Collection) -> Result<u64, Error> {
    let mut select = connection.prepare_cached("SELECT revision FROM collection WHERE name = ?1")?;
    Ok(select.query_row([collection.as_str()], |row| row.get(0)).optional()?.unwrap_or(0))
}

fn all(connection: &Connection, collection: Collection) -> Result<Vec<Entry>, Error> {
    let mut select = connection.prepare_cached("SELECT key, version, body FROM entry WHERE collection = ?1 ORDER BY key")?;
    let rows = select.query_map([collection.as_str()], |row| Ok(Entry { key: row.get(0)?, version: row.get(1)?, body: row.get(2)? }))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn one(connection: &Connection, collection: Collection, key: &str) -> Result<Option<Entry>, Error> {
    let mut select = connection.prepare_cached("SELECT version, body FROM entry WHERE collection = ?1 AND key = ?2")?;
    let entry = |row: &rusqlite::Row<'_>| Ok(Entry { key: key.to_owned(), version: row.get(0)?, body: row.get(1)? });
    Ok(select.query_row([collection.as_str(), key], entry).optional()?)
}

fn write(connection: &Connection, collection: Collection, entry: &Entry) -> Result<bool, Error> {
    let there = one(connection, collection, &entry.key)?;
    if there.as_ref() == Some(entry) {
        return Ok(true);
    }
    if there.as_ref().map_or(0, |there| there.version).checked_add(1) != Some(entry.version) {
        return Ok(false);
    }
    let count = "SELECT count(*) FROM entry WHERE collection = ?1";
    if there.is_none() && connection.prepare_cached(count)?.query_row([collection.as_str()], |row| row.get::<_, usize>(0))? >= MAX_ENTRIES {
        return Ok(false);
    }
    let upsert = "INSERT INTO entry (collection, key, version, body) VALUES (?1, ?2, ?3, ?4)
                  ON CONFLICT DO UPDATE SET version = ?3, body = ?4";
    connection.prepare_cached(upsert)?.execute(params![collection.as_str(), entry.key, entry.version, entry.body])?;
    count_up(connection, collection)
}

fn delete(connection: &Connection, collection: Collection, key: &str, version: u64) -> Result<bool, Error> {
    match one(connection, collection, key)? {
        None => Ok(true),
        Some(there) if there.version != version => Ok(false),
        Some(_) => {
            let delete = "DELETE FROM entry WHERE collection = ?1 AND key = ?2";
            connection.prepare_cached(delete)?.execute([collection.as_str(), key])?;
            count_up(connection, collection)
        }
    }
}

fn count_up(connection: &Connection, collection: Collection) -> Result<bool, Error> {
    let count = "INSERT INTO collection (name, revision) VALUES (?1, 1) ON CONFLICT DO UPDATE SET revision = revision + 1";
    connection.prepare_cached(count)?.execute([collection.as_str()])?;
    Ok(true)
}
