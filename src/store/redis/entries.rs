//! What servers share besides leases: a hash for each collection, changed by scripts. Its layout stands in `lua/entry_write.lua`.

use async_trait::async_trait;

use super::{RedisStore, scripts};
use crate::{
    clock,
    model::error::Error,
    store::{Collection, Entry, EntryStore, MAX_ENTRIES, check_entry, unavailable},
};

#[async_trait]
impl EntryStore for RedisStore {
    async fn entries_revision(&self, collection: Collection) -> Result<u64, Error> {
        let revision: Option<u64> = self.connector.command(redis::cmd("GET").arg(self.keys.collection_revision(collection))).await?;
        Ok(revision.unwrap_or(0))
    }

    async fn entries(&self, collection: Collection) -> Result<Vec<Entry>, Error> {
        let fields: Vec<(String, Vec<u8>)> = self.connector.command(redis::cmd("HGETALL").arg(self.keys.entries(collection))).await?;
        let mut entries = fields.into_iter().map(|(key, value)| entry(key, &value)).collect::<Result<Vec<_>, _>>()?;
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }

    async fn entry(&self, collection: Collection, key: &str) -> Result<Option<Entry>, Error> {
        let value: Option<Vec<u8>> = self.connector.command(redis::cmd("HGET").arg(self.keys.entries(collection)).arg(key)).await?;
        value.map(|value| entry(key.to_owned(), &value)).transpose()
    }

    async fn write_entry(&self, collection: Collection, entry: &Entry) -> Result<bool, Error> {
        check_entry(entry)?;
        let mut call = scripts::ENTRY_WRITE.on(&self.keys.collection(collection));
        call.arg(&entry.key).arg(entry.version).arg(&entry.body).arg(MAX_ENTRIES).arg(first_revision());
        self.script::<u8>(&scripts::ENTRY_WRITE, call).await.map(|written| written == 1)
    }

    async fn delete_entry(&self, collection: Collection, key: &str, version: u64) -> Result<bool, Error> {
        let mut call = scripts::ENTRY_DELETE.on(&self.keys.collection(collection));
        call.arg(key).arg(version);
        self.script::<u8>(&scripts::ENTRY_DELETE, call).await.map(|gone| gone == 1)
    }
}

/// Where the count of a collection's changes begins: so far from any other that the two do not meet, and small enough for Lua's numbers.
fn first_revision() -> u64 {
    u64::from_be_bytes(clock::random()) >> 16
}

/// An entry from `<version> <body>`.
fn entry(key: String, value: &[u8]) -> Result<Entry, Error> {
    let space = value.iter().position(|byte| *byte == b' ');
    let parsed = space.and_then(|at| Some((std::str::from_utf8(&value[..at]).ok()?.parse().ok()?, value[at + 1..].to_vec())));
    let (version, body) = parsed.ok_or_else(|| unavailable(format!("the entry {key:?} is not readable")))?;
    Ok(Entry { key, version, body })
}
