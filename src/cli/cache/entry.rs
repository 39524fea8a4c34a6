//! One cached credential.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    client::types::{AwsCredential, Credential, Lease, RegistryCredential},
    model::secret::Secret,
};

/// At least so much of its life is left to whoever gets a cached credential, unless that is half of it or more.
pub const MIN_RESERVE: SignedDuration = SignedDuration::from_secs(60);

/// With less left, a credential is not worth giving even while the server is away.
pub const LAST_MOMENT: SignedDuration = SignedDuration::from_secs(5);

/// The format of the file; another one is not read.
const VERSION: u32 = 1;

/// A kind that is cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// An AWS session.
    Aws,
    /// What `docker login` takes.
    Registry,
}

impl Wanted {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Registry => "registry",
        }
    }
}

/// A credential with its lease and its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    version: u32,
    /// The lease, a UUID.
    pub lease_id: String,
    obtained_at: Timestamp,
    /// When the credential expires.
    pub expires_at: Timestamp,
    /// The credential.
    pub held: Held,
}

/// A credential as the file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Held {
    /// An AWS session.
    Aws(HeldAws),
    /// What `docker login` takes.
    Registry(HeldRegistry),
}

/// An AWS session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldAws {
    /// The access key's id.
    pub access_key_id: String,
    /// The secret access key.
    #[serde(with = "text")]
    pub secret_access_key: Secret,
    /// The session token.
    #[serde(with = "text")]
    pub session_token: Secret,
}

/// What `docker login` takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldRegistry {
    /// The registry: `host[:port]`.
    pub registry: String,
    /// The user name.
    pub username: String,
    /// The password.
    #[serde(with = "text")]
    pub secret: Secret,
}

impl Entry {
    /// From an answer of the server, obtained now; none when it is of another kind.
    pub fn new(lease: Lease, credential: Credential, wanted: Wanted, now: Timestamp) -> Option<Self> {
        let (held, expires_at) = match (credential, wanted) {
            (Credential::Aws(AwsCredential { access_key_id, secret_access_key, session_token, expires_at, region: _ }), Wanted::Aws) => {
                (Held::Aws(HeldAws { access_key_id, secret_access_key, session_token }), expires_at)
            }
            (Credential::Registry(RegistryCredential { registry, username, secret, expires_at }), Wanted::Registry) => {
                (Held::Registry(HeldRegistry { registry, username, secret }), expires_at)
            }
            _ => return None,
        };
        Some(Self { version: VERSION, lease_id: lease.id, obtained_at: now, expires_at, held })
    }

    /// Whether this program can read it.
    pub fn is_known(&self) -> bool {
        self.version == VERSION
    }

    /// Whether it is of a kind.
    pub fn is_of(&self, wanted: Wanted) -> bool {
        matches!((&self.held, wanted), (Held::Aws(_), Wanted::Aws) | (Held::Registry(_), Wanted::Registry))
    }

    /// Whether it may be given again: more than a quarter of its life is left, and more than [`MIN_RESERVE`].
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        let life = self.expires_at.duration_since(self.obtained_at);
        let reserve = (life / 4).max(MIN_RESERVE).min(life / 2);
        // A clock that was set back must not make it older than it is, nor us trust it for longer.
        self.is_alive(now) && self.expires_at.duration_since(now.max(self.obtained_at)) > reserve
    }

    /// Whether it still works.
    pub fn is_alive(&self, now: Timestamp) -> bool {
        self.expires_at.duration_since(now) > LAST_MOMENT
    }
}

/// A secret in the file, which is for its owner only.
mod text {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Secret;

    pub fn serialize<S: Serializer>(secret: &Secret, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(secret.expose())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Secret, D::Error> {
        String::deserialize(from).map(Secret::new)
    }
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;

    pub fn sample(obtained_at: Timestamp, life: SignedDuration) -> Entry {
        Entry {
            version: VERSION,
            lease_id: "0192f0c1-7b5a-7000-8000-000000000001".to_owned(),
            obtained_at,
            expires_at: obtained_at + life,
            held: Held::Aws(HeldAws {
                access_key_id: "ASIAEXAMPLE".to_owned(),
                secret_access_key: Secret::new("canary-key".to_owned()),
                session_token: Secret::new("canary-session".to_owned()),
            }),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn it_reads_back_and_does_not_print() {
        let entry = sample(at(0), SignedDuration::from_secs(900));
        let text = serde_json::to_string(&entry).unwrap();
        assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
        assert!(!format!("{entry:?}").contains("canary"));
    }

    #[test]
    fn the_last_quarter_is_kept_back_and_a_minute_at_least() {
        for (life, last_fresh) in [(3_600, 2_699), (900, 674), (240, 179), (180, 119), (120, 59), (60, 29), (20, 9)] {
            let entry = sample(at(0), SignedDuration::from_secs(life));
            assert!(entry.is_fresh(at(last_fresh)), "{life}");
            assert!(!entry.is_fresh(at(last_fresh + 1)), "{life}");
        }
    }

    proptest! {
        #[test]
        fn what_is_fresh_is_alive_and_once_it_is_not_it_never_is_again(life in 0_i64..90_000, first in -90_000_i64..90_000, later in 0_i64..90_000) {
            let entry = sample(at(0), SignedDuration::from_secs(life));
            let (first, later) = (at(first), at(first + later));
            prop_assert!(!entry.is_fresh(first) || entry.is_alive(first));
            prop_assert!(!entry.is_alive(first) || entry.expires_at > first);
            prop_assert!(entry.is_fresh(first) || !entry.is_fresh(later));
        }
    }
}
