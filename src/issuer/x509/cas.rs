//! The configured CAs: each one fixed, or a ring of keys each of which is an authority of its own.

use std::{collections::BTreeMap, sync::Arc};

use super::{authority::Authority, maker::CaMaker};
use crate::{
    keys::{KeyRing, KeyState, Published},
    model::{
        Timestamp,
        error::{Code, Error, Result},
        name::CaName,
    },
};

/// An issuing CA as it is configured.
#[derive(Clone)]
pub enum Ca {
    /// One certificate and key, from files.
    Fixed(Arc<Authority>),
    /// Keys that follow each other.
    Rotating(Arc<KeyRing<CaMaker>>),
}

/// An authority that relying parties should know.
#[derive(Clone)]
pub struct Standing {
    /// The configured name.
    pub ca: CaName,
    /// Where it stands.
    pub state: KeyState,
    /// Whether it is one of a ring.
    pub rotates: bool,
    /// The authority.
    pub authority: Arc<Authority>,
}

impl Ca {
    /// The authority that signs at `now`.
    ///
    /// In a ring that is the active key, once a relying party can have its CRL: until then the one before it, which is published for days
    /// yet. Only a key that was forced, or the very first one, can be without.
    ///
    /// # Errors
    /// `ISSUER_UNAVAILABLE` when no key of the ring can sign.
    fn issuing(&self, now: Timestamp) -> Result<Arc<Authority>> {
        let ring = match self {
            Self::Fixed(authority) => return Ok(authority.clone()),
            Self::Rotating(ring) => ring,
        };
        // Also whether the ring was looked at lately: another server's key may be the one.
        let active = ring.active(now)?.key.clone();
        if active.has_crl() {
            return Ok(active);
        }
        let earlier = |published: &Published<Authority>| published.state == KeyState::Retired && published.held.key.has_crl();
        let earlier = ring.published(now).keys.into_iter().rev().find(earlier);
        earlier.map(|published| published.held.key.clone()).ok_or_else(|| {
            Error::new(Code::IssuerUnavailable, "the CA's first CRL is not out yet; try again in a second")
                .because(format_args!("CA {}", active.name()))
        })
    }

    /// The authorities that relying parties should know, oldest first.
    fn published(&self, now: Timestamp) -> Vec<(KeyState, Arc<Authority>)> {
        match self {
            Self::Fixed(authority) => vec![(KeyState::Active, authority.clone())],
            Self::Rotating(ring) => {
                ring.published(now).keys.into_iter().map(|published| (published.state, published.held.key.clone())).collect()
            }
        }
    }
}

/// The CAs, by configured name.
#[derive(Clone, Default)]
pub struct Cas(BTreeMap<CaName, Ca>);

impl Cas {
    /// These CAs.
    pub fn new(cas: BTreeMap<CaName, Ca>) -> Self {
        Self(cas)
    }

    /// Every CA, in order of its configured name.
    pub fn iter(&self) -> impl Iterator<Item = (&CaName, &Ca)> {
        self.0.iter()
    }

    /// One by its configured name.
    pub fn get(&self, ca: &CaName) -> Option<&Ca> {
        self.0.get(ca)
    }

    /// The rings among them.
    pub fn rings(&self) -> impl Iterator<Item = (&CaName, &Arc<KeyRing<CaMaker>>)> {
        self.0.iter().filter_map(|(name, ca)| match ca {
            Ca::Fixed(_) => None,
            Ca::Rotating(ring) => Some((name, ring)),
        })
    }

    /// The authority that signs for a CA at `now`.
    ///
    /// # Errors
    /// `ISSUER_UNAVAILABLE` when its keys cannot be used.
    pub fn issuing(&self, ca: &CaName, now: Timestamp) -> Result<Arc<Authority>> {
        self.0.get(ca).ok_or_else(|| Error::internal(format_args!("there is no CA {ca}, and a role names it")))?.issuing(now)
    }

    /// The authorities that relying parties should know, by configured name, oldest first.
    pub fn published(&self, now: Timestamp) -> Vec<Standing> {
        let of = |(ca, all): (&CaName, &Ca)| {
            let (ca, rotates) = (ca.clone(), matches!(all, Ca::Rotating(_)));
            all.published(now).into_iter().map(move |(state, authority)| Standing { ca: ca.clone(), state, rotates, authority })
        };
        self.0.iter().flat_map(of).collect()
    }

    /// A published authority by its own name.
    pub fn authority(&self, name: &CaName, now: Timestamp) -> Option<Standing> {
        self.published(now).into_iter().find(|standing| standing.authority.name() == name)
    }

    /// The roots of a CA, each once: of a ring also those that are trusted ahead, and those that are trusted yet.
    pub fn roots(&self, ca: &CaName, now: Timestamp) -> Vec<Vec<u8>> {
        let mut roots: Vec<Vec<u8>> = Vec::new();
        for (_, authority) in self.0.get(ca).map(|ca| ca.published(now)).unwrap_or_default() {
            if !roots.iter().any(|root| root == authority.root_der()) {
                roots.push(authority.root_der().to_vec());
            }
        }
        roots
    }
}
