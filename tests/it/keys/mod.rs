//! The keys of the service: rings, sealing, CAs and signers that rotate.

pub mod admin;
mod ca_config;
mod ca_handshakes;
mod ca_leases;
mod ca_server;
mod ca_world;
mod lost;
mod lost_servers;
mod rings;
mod sealed;
mod server;
mod servers;
mod sharing;

use std::{fs, path::Path, sync::Arc, thread};

use daypass::{
    issuer::jwt::{JwtKeyMaker, JwtKeys, SigningAlgorithm, maker::DEFAULT_SCHEDULE},
    keys::{FileKek, KeyMaker, KeyRing, NewKey, Ring, Times, Vault, seal::KEY_BYTES},
    model::{SignedDuration, Timestamp, error::Result, lease::ServerId},
    server::keys::StoreShelf,
    store::{
        EntryStore,
        embedded::EmbeddedStore,
        redis::{RedisOptions, RedisStore},
    },
};
use zeroize::Zeroizing;

/// Runs what is asynchronous from anywhere, on a thread of its own.
pub fn block_on<T: Send>(work: impl Future<Output = T> + Send) -> T {
    let run = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
    thread::scope(|scope| scope.spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// A store in a file.
pub fn entries(path: &Path) -> Arc<dyn EntryStore> {
    Arc::new(EmbeddedStore::open(path, SignedDuration::from_hours(1)).unwrap())
}

/// What server `number` has: a store, and wrapping keys of 32 equal bytes each.
pub fn vault(entries: &Arc<dyn EntryStore>, number: u64, wrapping: &[u8]) -> Vault {
    let keys: Vec<_> = wrapping.iter().map(|byte| Zeroizing::new([*byte; KEY_BYTES])).collect();
    let wrapper = Arc::new(FileKek::new(&keys).unwrap());
    Vault { shelf: Arc::new(StoreShelf(entries.clone())), wrapper, server: ServerId(number), shared: false }
}

/// The same where other servers may have the store, too.
pub fn shared_vault(entries: &Arc<dyn EntryStore>, number: u64) -> Vault {
    Vault { shared: true, ..vault(entries, number, &[1]) }
}

/// A ring that can sign, over a store of its own.
pub fn signing_ring(path: &Path, now: Timestamp) -> Arc<JwtKeys> {
    let ring = Arc::new(JwtKeyMaker::ring(SigningAlgorithm::Es256, DEFAULT_SCHEDULE));
    assert!(block_on(ring.rotate(&vault(&entries(path), 1, &[1]), now)).unwrap());
    ring
}

/// The keys of a ring in the clear, PKCS #8 DER, as whoever has the wrapping key finds them in the store of a configuration.
pub fn in_the_clear(dir: &Path, ring: &str) -> Vec<Vec<u8>> {
    let config = fs::read_to_string(dir.join("daypass.toml")).unwrap();
    let url = config.split("urls = [\"").nth(1).filter(|_| config.contains("\nkind = \"redis\"")).and_then(|rest| rest.split('"').next());
    let entries: Arc<dyn EntryStore> = match url {
        Some(url) => Arc::new(RedisStore::new(RedisOptions::new(url)).unwrap()),
        None => entries(&dir.join("store/leases.db")),
    };
    let wrapper = Arc::new(FileKek::load(&[dir.join("wrap.key")]).unwrap());
    let vault = Vault { shelf: Arc::new(StoreShelf(entries)), wrapper, server: ServerId(0), shared: false };
    let ring = KeyRing::new(ring, DEFAULT_SCHEDULE, Thief);
    block_on(ring.refresh(&vault, "2027-01-15T08:00:00Z".parse().unwrap())).unwrap();
    assert_eq!(ring.unreadable(), Vec::<String>::new());
    ring.held().iter().map(|held| held.key.to_vec()).collect()
}

/// Takes keys as they are.
struct Thief;

impl KeyMaker for Thief {
    type Key = Vec<u8>;

    fn make(&self, _number: u32, _times: Times) -> Result<NewKey> {
        panic!("a thief makes no keys")
    }

    fn load(&self, _number: u32, _public: &[u8], secret: &[u8], _now: Timestamp) -> std::result::Result<Vec<u8>, String> {
        Ok(secret.to_vec())
    }

    fn last_dead(&self, _key: &Vec<u8>, superseded_at: Timestamp) -> Timestamp {
        superseded_at
    }

    fn algorithm(&self, _key: &Vec<u8>) -> String {
        String::new()
    }

    fn id(&self, _key: &Vec<u8>) -> String {
        String::new()
    }
}
