//! The shelf of keys in the store that servers share.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    keys::{Shelf, Slot},
    model::error::Result,
    store::{Collection, Entry, EntryStore},
};

/// Keys in [`Collection::Keys`].
pub struct StoreShelf(pub Arc<dyn EntryStore>);

#[async_trait]
impl Shelf for StoreShelf {
    async fn revision(&self) -> Result<u64> {
        self.0.entries_revision(Collection::Keys).await
    }

    async fn list(&self) -> Result<Vec<Slot>> {
        let entries = self.0.entries(Collection::Keys).await?;
        Ok(entries.into_iter().map(|Entry { key, version, body }| Slot { name: key, version, body }).collect())
    }

    async fn write(&self, slot: &Slot) -> Result<bool> {
        let Slot { name, version, body } = slot.clone();
        self.0.write_entry(Collection::Keys, &Entry { key: name, version, body }).await
    }

    async fn delete(&self, name: &str, version: u64) -> Result<bool> {
        self.0.delete_entry(Collection::Keys, name, version).await
    }
}
