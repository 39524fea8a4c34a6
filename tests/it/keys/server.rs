//! A server as far as its signing keys go: a ring, what opens it, and an issuer that signs with it.

use std::sync::Arc;

use daypass::{
    issuer::{
        TokenSigner,
        jwt::{JwtConfig, JwtIssuer, JwtKeyMaker, JwtKeys, SigningAlgorithm, maker::DEFAULT_SCHEDULE},
    },
    keys::{KeyState, Ring, Schedule, Vault},
    model::{SignedDuration, Timestamp, secret::Secret},
    store::EntryStore,
};
use serde_json::{Map, Value, json};

use super::{entries, vault};
use crate::jwt::world::{ISSUER, parts};

const START: &str = "2027-01-15T08:00:00Z";

pub fn start() -> Timestamp {
    START.parse().unwrap()
}

pub fn seconds(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

pub fn store(dir: &tempfile::TempDir) -> Arc<dyn EntryStore> {
    entries(&dir.path().join("keys.db"))
}

/// A server over a store.
pub struct Server {
    pub issuer: JwtIssuer,
    pub ring: Arc<JwtKeys>,
    pub vault: Vault,
}

impl Server {
    pub fn new(entries: &Arc<dyn EntryStore>, number: u64) -> Self {
        Self::with(SigningAlgorithm::Es256, DEFAULT_SCHEDULE, vault(entries, number, &[1]))
    }

    pub fn with(algorithm: SigningAlgorithm, schedule: Schedule, vault: Vault) -> Self {
        let ring = Arc::new(JwtKeyMaker::ring(algorithm, schedule));
        let issuer = JwtIssuer::new(JwtConfig { issuer: ISSUER.to_owned(), ring: ring.clone(), claims: Vec::new() }).unwrap();
        Self { issuer, ring, vault }
    }

    /// What its pass does. Answers whether it made a key, and how many it took out.
    pub async fn turn(&self, now: Timestamp) -> (bool, usize) {
        let made = self.ring.rotate(&self.vault, now).await.unwrap();
        let news = self.ring.claim_news(&self.vault, now).await.unwrap();
        self.ring.told(&self.vault, &news, now).await.unwrap();
        (made, self.ring.prune(&self.vault, now).await.unwrap())
    }

    pub async fn look(&self, now: Timestamp) {
        self.ring.refresh(&self.vault, now).await.unwrap();
    }

    pub fn sign(&self, life: SignedDuration, now: Timestamp) -> daypass::model::error::Result<Secret> {
        let claims: Map<String, Value> = Map::from_iter([
            ("sub".to_owned(), json!("s")),
            ("aud".to_owned(), json!("a")),
            ("exp".to_owned(), json!((now + life).as_second())),
        ]);
        self.issuer.sign(claims, now)
    }

    pub fn kid(&self, now: Timestamp) -> String {
        parts(self.sign(seconds(60), now).unwrap().expose()).0["kid"].as_str().unwrap().to_owned()
    }

    pub fn jwks(&self, now: Timestamp) -> String {
        self.issuer.jwks(now).unwrap().body
    }

    pub fn states(&self, now: Timestamp) -> Vec<(u32, KeyState)> {
        self.ring.show(now).iter().map(|key| (key.number, key.state)).collect()
    }
}
