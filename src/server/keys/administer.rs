//! What an administrator may do to the rings. Each act is on record, done or not.

use std::sync::Arc;

use super::KeyDesk;
use crate::{
    issuer::x509::{Authority, Ca},
    keys::{Activation, KeyShown, Ring, parse_key_name},
    model::{
        error::{Code, Error, Result},
        fault::nearest,
    },
};

/// Somebody on this machine who may administer the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Administrator {
    /// Its user.
    pub uid: u32,
    /// The id of this call.
    pub call_id: String,
}

/// What is done to a ring or a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// The next key of a ring is made; see [`Ring::prepare`].
    Prepare,
    /// The prepared key of a ring signs; see [`Ring::activate`].
    Activate {
        /// Although it was not published for long enough.
        force: bool,
    },
    /// A key is taken out; see [`Ring::retire`].
    Retire,
}

impl Act {
    /// The method, for the record.
    pub fn method(self) -> &'static str {
        match self {
            Self::Prepare => "KeyService/Prepare",
            Self::Activate { force: false } => "KeyService/Activate",
            Self::Activate { force: true } => "KeyService/Activate (forced)",
            Self::Retire => "KeyService/Retire",
        }
    }
}

impl KeyDesk {
    /// The keys of a ring, or of all; by ring, in the order in which they sign.
    ///
    /// # Errors
    /// `KEY_STATE` when there is no such ring.
    pub fn show(&self, ring: Option<&str>) -> Result<Vec<KeyShown>> {
        let rings = match ring {
            Some(name) => vec![self.ring(name)?],
            None => self.rings(),
        };
        let now = self.vend.now();
        Ok(rings.iter().flat_map(|ring| ring.show(now)).collect())
    }

    /// The CAs that do not rotate: the one of this name, or all.
    pub fn fixed_cas(&self, name: Option<&str>) -> Vec<Arc<Authority>> {
        let rules = self.vend.rules();
        let fixed = rules.issuers.x509.cas().iter().filter_map(|(_, ca)| match ca {
            Ca::Fixed(authority) => Some(authority.clone()),
            Ca::Rotating(_) => None,
        });
        fixed.filter(|authority| name.is_none_or(|name| name == authority.name().as_str())).collect()
    }

    /// Does `act` to a ring, or to a key, of this name. What could not go on record is not done; what comes to pass of the key goes on record
    /// once more, by the pass.
    ///
    /// # Errors
    /// `KEY_STATE` when there is no such ring, or the state of its keys does not allow it; `INVALID_REQUEST` when the name is none.
    pub async fn administer(&self, by: &Administrator, name: &str, act: Act) -> Result<KeyShown> {
        self.vend.can_record()?;
        let done = self.act(name, act).await;
        self.tell_changed();
        self.hurry.notify_one();
        match done {
            Ok(key) => self.vend.administered_key(by.uid, &by.call_id, act.method(), &key).await.map(|()| key),
            Err(error) => Err(self.vend.administered(by.uid, &by.call_id, act.method(), (name, error)).await),
        }
    }

    /// Puts a call on record that was refused before it was looked at.
    pub async fn refused(&self, by: &Administrator, method: &'static str, error: Error) -> Error {
        self.vend.administered(by.uid, &by.call_id, method, ("", error)).await
    }

    async fn act(&self, name: &str, act: Act) -> Result<KeyShown> {
        let (vault, now) = (self.vault()?, self.vend.now());
        match act {
            Act::Prepare => self.ring(name)?.prepare(&vault, now).await,
            Act::Activate { force: false } => self.ring(name)?.activate(&vault, Activation::PublishedLongEnough, now).await,
            Act::Activate { force: true } => self.ring(name)?.activate(&vault, Activation::AtOnce, now).await,
            Act::Retire => {
                let (ring, number) = parse_key_name(name).ok_or_else(|| {
                    Error::new(Code::InvalidRequest, "the name of a key is its ring, a hyphen and its number, for example jwt-1")
                })?;
                self.ring(ring)?.retire(&vault, number, now).await
            }
        }
    }

    fn ring(&self, name: &str) -> Result<Arc<dyn Ring>> {
        let rings = self.rings();
        if let Some(ring) = rings.iter().find(|ring| ring.name() == name) {
            return Ok(ring.clone());
        }
        let hint = nearest(name, rings.iter().map(|ring| ring.name())).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        Err(Error::new(Code::KeyState, format!("there is no ring {name}{hint}")))
    }
}
