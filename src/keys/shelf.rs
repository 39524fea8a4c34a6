//! Where keys lie: a port over the store that servers share.

use std::sync::Arc;

use async_trait::async_trait;

use super::KeyWrapper;
use crate::model::{error::Result, lease::ServerId};

/// One entry of the shelf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The name of a key: `jwt-3`.
    pub name: String,
    /// Counts its changes, from 1.
    pub version: u64,
    /// The key's record, sealed.
    pub body: Vec<u8>,
}

/// Where servers put keys for each other. Each method is one atomic step and safe to repeat after an unknown outcome; every error has the
/// code `STORE_UNAVAILABLE`.
#[async_trait]
pub trait Shelf: Send + Sync {
    /// Changes whenever an entry does. One cheap read.
    async fn revision(&self) -> Result<u64>;

    /// Every entry.
    async fn list(&self) -> Result<Vec<Slot>>;

    /// Writes an entry over the version before it (version 1 over none). `false` when another version is there.
    async fn write(&self, slot: &Slot) -> Result<bool>;

    /// Deletes an entry in this version; `false` when another version is there.
    async fn delete(&self, name: &str, version: u64) -> Result<bool>;
}

/// Where keys lie, and how they are sealed there.
#[derive(Clone)]
pub struct Vault {
    /// Where they lie.
    pub shelf: Arc<dyn Shelf>,
    /// How they are sealed.
    pub wrapper: Arc<dyn KeyWrapper>,
    /// Who works on them here.
    pub server: ServerId,
    /// Whether other servers may have the same shelf: they may know keys that it lost.
    pub shared: bool,
}
