//! How the keys that sign JWTs are made, and how long a token keeps one published.

use super::key::{SigningAlgorithm, SigningKey};
use crate::{
    keys::{KeyMaker, KeyRing, NewKey, Schedule, Times, schedule},
    model::{
        SignedDuration, Timestamp,
        error::{Error, Result},
    },
};

/// The name of the ring. A CA cannot have it.
pub const RING: &str = "jwt";

/// The longest life of any token that is signed here, whatever a role says: nothing but its expiry ends a JWT. It also fixes how long a
/// retired key stays published, so that no later change of the configuration can take a key away from a token that lives.
pub const MAX_TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(24);

/// How long one key signs, unless configured otherwise.
pub const DEFAULT_ROTATE_EVERY: SignedDuration = SignedDuration::from_hours(24 * 30);

/// How long a key is published before it signs, unless configured otherwise. A cache may keep the key set for half of it.
pub const DEFAULT_PUBLISH_AHEAD: SignedDuration = SignedDuration::from_hours(1);

/// The schedule, unless configured otherwise.
pub const DEFAULT_SCHEDULE: Schedule = Schedule { every: DEFAULT_ROTATE_EVERY, publish_ahead: DEFAULT_PUBLISH_AHEAD };

/// The keys that sign JWTs.
pub type JwtKeys = KeyRing<JwtKeyMaker>;

/// Makes keys that sign JWTs.
#[derive(Debug, Clone, Copy, Default)]
pub struct JwtKeyMaker {
    /// What new keys sign with.
    pub algorithm: SigningAlgorithm,
}

impl JwtKeyMaker {
    /// A ring of keys that sign with `algorithm` from their next turn on.
    pub fn ring(algorithm: SigningAlgorithm, schedule: Schedule) -> JwtKeys {
        KeyRing::new(RING, schedule, Self { algorithm })
    }
}

impl KeyMaker for JwtKeyMaker {
    type Key = SigningKey;

    fn make(&self, _number: u32, _times: Times) -> Result<NewKey> {
        let secret = SigningKey::generate(self.algorithm).map_err(Error::internal)?;
        // What is published of it follows from the key.
        Ok(NewKey { public: Vec::new(), secret })
    }

    fn load(&self, _number: u32, _public: &[u8], secret: &[u8], _now: Timestamp) -> std::result::Result<SigningKey, String> {
        SigningKey::from_pkcs8(secret)
    }

    fn last_dead(&self, _key: &SigningKey, superseded_at: Timestamp) -> Timestamp {
        schedule::after(superseded_at, MAX_TOKEN_LIFE)
    }

    fn algorithm(&self, key: &SigningKey) -> String {
        key.algorithm().as_str().to_owned()
    }

    fn id(&self, key: &SigningKey) -> String {
        key.kid().to_owned()
    }

    fn outdated(&self, key: &SigningKey) -> bool {
        key.algorithm() != self.algorithm
    }
}
