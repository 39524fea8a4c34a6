//! The keys of the service: published before they sign, kept until the last thing under them is dead, sealed where they lie.
//!
//! A ring is a row of keys of one purpose: an issuing CA, or the keys that sign JWTs. Where a key stands is a pure function of the times
//! on its record and of now, so that several servers over one shelf agree without talking to each other.

use std::sync::Arc;

use async_trait::async_trait;
use zeroize::Zeroizing;

use crate::model::{Timestamp, error::Result};

/// Where a key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// Published, and not signing yet.
    Prepared,
    /// The one that signs.
    Active,
    /// Published for what lives under it.
    Retired,
}

/// The times of a key, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Times {
    /// From when on it signs, until the next one does.
    pub signs_from: Timestamp,
    /// Since when it is published.
    pub published_at: Timestamp,
}

/// A key that was just made.
pub struct NewKey {
    /// What everybody may know of it: a certificate chain in PEM, or nothing.
    pub public: Vec<u8>,
    /// The key, PKCS #8 DER.
    pub secret: Zeroizing<Vec<u8>>,
}

/// Makes and reads the keys of one ring.
pub trait KeyMaker: Send + Sync + 'static {
    /// A key that can sign.
    type Key: Send + Sync + 'static;

    /// A new key with this number, which will sign from `times.signs_from` on.
    fn make(&self, number: u32, times: Times) -> Result<NewKey>;

    /// A key as [`KeyMaker::make`] gave it; why not, in words that hold no part of it.
    fn load(&self, number: u32, public: &[u8], secret: &[u8], now: Timestamp) -> Result<Self::Key, String>;

    /// When the last thing that `key` signed is dead, if it signed nothing from `superseded_at` on.
    fn last_dead(&self, key: &Self::Key, superseded_at: Timestamp) -> Timestamp;

    /// The key's algorithm, for `daypassd ca show`: "ES256".
    fn algorithm(&self, key: &Self::Key) -> String;
}

/// A key of a ring.
pub struct Held<K> {
    /// Its number, from 1.
    pub number: u32,
    /// Its times.
    pub times: Times,
    /// The key.
    pub key: Arc<K>,
}

/// Wraps keys before they are stored: AES-256-GCM under a key from a file, or a KMS.
#[async_trait]
pub trait KeyWrapper: Send + Sync {
    /// Seals a key. `context` names it and is authenticated: one that was put in another's place does not open.
    async fn wrap(&self, context: &str, key: &[u8]) -> Result<Vec<u8>>;

    /// Opens what [`KeyWrapper::wrap`] gave.
    async fn unwrap(&self, context: &str, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>>;
}
