//! The keys of the service: published before they sign, kept until the last thing under them is dead, sealed where they lie.
//!
//! A ring is a row of keys of one purpose: an issuing CA, or the keys that sign JWTs. Where a key stands is a pure function of the times
//! on its record and of now, so that several servers over one shelf agree without talking to each other.
//!
//! | file | what it holds |
//! |---|---|
//! | here | the words, and what a purpose must say of its keys ([`KeyMaker`]) |
//! | [`schedule`] | when a key is due, signs, is retired; pure |
//! | [`ring`] | the keys of a ring in memory: which one signs, which are published |
//! | `turn`, `manage`, `news` | what a pass does to a ring, what an administrator does, what goes on record |
//! | `lost`, [`Past`] | what a store has lost, and what a server remembers besides |
//! | `record`, [`shelf`], [`seal`] | a key as it is stored, where, and how it is sealed |
//! | [`private_file`] | files that hold a key, and who may touch them |

mod lost;
mod manage;
mod news;
mod past;
pub mod private_file;
mod record;
pub mod ring;
pub mod schedule;
pub mod seal;
pub mod shelf;
mod turn;
mod view;

use std::sync::Arc;

use async_trait::async_trait;
use zeroize::Zeroizing;

use crate::model::{Timestamp, error::Result};

pub use news::{NEWS_CLAIM, News, Stage};
pub use past::{GONE_KEPT, Past};
pub use ring::{KeyRing, Published, PublishedKeys};
pub use schedule::Schedule;
pub use seal::FileKek;
pub use shelf::{Shelf, Slot, Vault};
pub use turn::TAKEN_OUT_KEPT;
pub use view::{FIRST_KEY_WAIT, MAX_KEYS};

/// Where a key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
    /// What everybody may know of it: a certificate chain in PEM, or nothing. At most 16 KiB.
    pub public: Vec<u8>,
    /// The key, PKCS #8 DER. At most 8 KiB.
    pub secret: Zeroizing<Vec<u8>>,
}

/// Makes and reads the keys of one ring.
pub trait KeyMaker: Send + Sync + 'static {
    /// A key that can sign.
    type Key: Send + Sync + 'static;

    /// A new key with this number, which will sign from `times.signs_from` on. Numbers grow, and none is used twice while the store keeps
    /// what it was given. May take its time: it is called where it may.
    fn make(&self, number: u32, times: Times) -> Result<NewKey>;

    /// A key as [`KeyMaker::make`] gave it; why not, in words that hold no part of it. `public` is bound to the key by the seal; that the
    /// two belong together is for this to check.
    fn load(&self, number: u32, public: &[u8], secret: &[u8], now: Timestamp) -> Result<Self::Key, String>;

    /// When the last thing that `key` signed is dead, if it signed nothing from `superseded_at` on. Clocks that differ are reckoned with
    /// elsewhere ([`schedule::RETIRE_MARGIN`]).
    fn last_dead(&self, key: &Self::Key, superseded_at: Timestamp) -> Timestamp;

    /// The key's algorithm, for `daypassd ca show`: "ES256".
    fn algorithm(&self, key: &Self::Key) -> String;

    /// What others know the key by, for the record: a JWT's `kid`, a certificate's SHA-256.
    fn id(&self, key: &Self::Key) -> String;

    /// Whether the configuration asks for another kind of key by now: its successor then comes before its turn.
    fn outdated(&self, _key: &Self::Key) -> bool {
        false
    }
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

    /// Whether [`KeyWrapper::wrap`] would wrap it the same way now: what was wrapped by an earlier key is wrapped anew.
    fn is_current(&self, wrapped: &[u8]) -> bool;
}

/// A key as it is shown to administrators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyShown {
    /// The ring.
    pub ring: String,
    /// Its number.
    pub number: u32,
    /// Where it stands.
    pub state: KeyState,
    /// Its times.
    pub times: Times,
    /// Until when it is published; none while no successor is known.
    pub until: Option<Timestamp>,
    /// Its algorithm; empty when it cannot be read.
    pub algorithm: String,
    /// Why it cannot be read.
    pub fault: Option<String>,
}

impl KeyShown {
    /// Its name: `jwt-3`.
    pub fn name(&self) -> String {
        key_name(&self.ring, self.number)
    }
}

/// How soon a prepared key may be made to sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Once it was published for [`Schedule::publish_ahead`].
    PublishedLongEnough,
    /// At once, if it is the one with this number: every relying party is known to have that.
    Acknowledged(u32),
    /// At once, whichever it is: somebody takes on that some do not have it.
    AtOnce,
}

/// What passes and administrators do with a ring, whatever its keys are for. Every method is safe beside other servers. Errors have the
/// code `STORE_UNAVAILABLE` or `ISSUER_UNAVAILABLE` unless they say otherwise.
#[async_trait]
pub trait Ring: Send + Sync {
    /// Its name, in front of the numbers of its keys: a name as [`crate::model::name`] has it.
    fn name(&self) -> &str;

    /// Whether it can sign now.
    ///
    /// # Errors
    /// `ISSUER_UNAVAILABLE`: there is no key, or the one whose turn it is cannot be read, or the shelf was not read for so long that another
    /// server's key may be the one.
    fn can_sign(&self, now: Timestamp) -> Result<()>;

    /// Its keys, in the order in which they sign.
    fn show(&self, now: Timestamp) -> Vec<KeyShown>;

    /// The keys that cannot be read, and why: for the log.
    fn unreadable(&self) -> Vec<String>;

    /// The numbers and states of its keys at the last look.
    fn outline(&self) -> ring::Outline;

    /// Whether `vault` opens every key that can be read now.
    ///
    /// # Errors
    /// `ISSUER_UNAVAILABLE`, with the keys that it does not open.
    async fn check(&self, vault: &Vault) -> Result<()>;

    /// Looks at the shelf: takes up keys of other servers, lets go of those that were taken out, gives back those that the store lost.
    async fn refresh(&self, vault: &Vault, now: Timestamp) -> Result<()>;

    /// Makes the key that is due, if one is. Answers whether this server made one. Not while the clock may be ahead.
    async fn rotate(&self, vault: &Vault, now: Timestamp) -> Result<bool>;

    /// Takes out the keys under which nothing lives. Answers how many. Not while the clock may be ahead.
    async fn prune(&self, vault: &Vault, now: Timestamp) -> Result<usize>;

    /// Seals anew what is sealed by an earlier wrapping key. Answers how many.
    async fn rewrap(&self, vault: &Vault, now: Timestamp) -> Result<usize>;

    /// Makes the next key before its turn, and publishes it; it signs when its turn comes, or when it is made to.
    ///
    /// # Errors
    /// `KEY_STATE` when one is prepared already.
    async fn prepare(&self, vault: &Vault, now: Timestamp) -> Result<KeyShown>;

    /// Has the prepared key sign from now on.
    ///
    /// # Errors
    /// `KEY_STATE` when none is prepared or another one, when it cannot be read, or when it was not published for long enough.
    async fn activate(&self, vault: &Vault, how: Activation, now: Timestamp) -> Result<KeyShown>;

    /// Takes a key out: what lives under it is not verified any more.
    ///
    /// # Errors
    /// `KEY_STATE` when it is the one that signs, or when there is no such key.
    async fn retire(&self, vault: &Vault, number: u32, now: Timestamp) -> Result<KeyShown>;

    /// What has changed and is not on record, claimed for this server so that no other tells it meanwhile.
    async fn claim_news(&self, vault: &Vault, now: Timestamp) -> Result<Vec<News>>;

    /// Notes that `news` is on record.
    async fn told(&self, vault: &Vault, news: &[News], now: Timestamp) -> Result<()>;

    /// What it knows of its keys besides what lies on the shelf, to be kept for the next start.
    fn past(&self) -> Past;

    /// Has it know that too.
    fn recall(&self, past: &Past);

    /// From when on its next key signs, while none does because those before it were lost.
    fn waits_until(&self, now: Timestamp) -> Option<Timestamp>;
}

/// The name of a key: `jwt-3`.
pub fn key_name(ring: &str, number: u32) -> String {
    format!("{ring}-{number}")
}

/// The ring and the number of a key's name.
pub fn parse_key_name(name: &str) -> Option<(&str, u32)> {
    let (ring, digits) = name.rsplit_once('-')?;
    let number: u32 = digits.parse().ok()?;
    // One form only: no sign, no leading zero, no number 0.
    (number > 0 && number.to_string() == digits && !ring.is_empty()).then_some((ring, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_form() {
        for (ring, number) in [("jwt", 1), ("a-1", 2), ("issuing", u32::MAX)] {
            assert_eq!(parse_key_name(&key_name(ring, number)), Some((ring, number)));
        }
        for bad in ["", "jwt", "jwt-", "jwt-0", "jwt-01", "jwt-+1", "-1", "jwt-4294967296", "jwt-1 "] {
            assert_eq!(parse_key_name(bad), None, "{bad:?}");
        }
    }
}
