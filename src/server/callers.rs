//! Who vouches for callers' tokens: the authenticator of the moment, replaced when the configured issuers change.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use crate::{
    authn::{
        Authenticator,
        oidc::{IssuerConfig, TokenVerifier},
    },
    model::{
        SignedDuration, Timestamp,
        error::Result,
        identity::{PeerCertificate, Proof},
        name::IssuerName,
    },
};

/// An authenticator that is ready to be the one of the moment.
pub(super) struct Prepared {
    authenticator: Authenticator,
    issuers: Vec<IssuerConfig>,
}

/// The authenticator of the moment.
pub(super) struct Callers {
    current: ArcSwap<Authenticator>,
    issuers: Mutex<Vec<IssuerConfig>>,
}

impl Callers {
    pub(super) fn new(issuers: Vec<IssuerConfig>, now: Timestamp) -> Result<Self> {
        let authenticator = authenticator(issuers.clone(), now)?;
        Ok(Self { current: ArcSwap::from_pointee(authenticator), issuers: Mutex::new(issuers) })
    }

    /// Who would vouch under other issuers; none when they are the same. Those that did not change keep their fetched keys only when
    /// none changed: a new verifier fetches anew.
    pub(super) fn prepare(&self, issuers: Vec<IssuerConfig>, now: Timestamp) -> Result<Option<Prepared>> {
        if *self.issuers() == issuers {
            return Ok(None);
        }
        Ok(Some(Prepared { authenticator: authenticator(issuers.clone(), now)?, issuers }))
    }

    /// Takes what was prepared.
    pub(super) fn replace(&self, prepared: Option<Prepared>) {
        if let Some(Prepared { authenticator, issuers }) = prepared {
            let mut current = self.issuers();
            self.current.store(Arc::new(authenticator));
            *current = issuers;
        }
    }

    fn issuers(&self) -> MutexGuard<'_, Vec<IssuerConfig>> {
        self.issuers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Authenticator::proof`].
    pub(super) async fn proof(&self, peer: Option<&PeerCertificate>, authorization: Option<&str>, now: Timestamp) -> Result<Proof> {
        self.current.load_full().proof(peer, authorization, now).await
    }

    /// Fetches the keys of every issuer ahead of the first token, and tells the log which could not be had.
    pub(super) async fn prefetch(&self, now: Timestamp) {
        for (issuer, why) in self.current.load_full().verifier().prefetch(now).await {
            tracing::warn!(%issuer, why, "the issuer's keys cannot be had yet");
        }
    }

    /// How old each issuer's keys are.
    pub(super) fn key_age(&self, now: Timestamp) -> Vec<(IssuerName, Option<SignedDuration>)> {
        self.current.load().verifier().key_age(now)
    }
}

fn authenticator(issuers: Vec<IssuerConfig>, now: Timestamp) -> Result<Authenticator> {
    Ok(Authenticator::new(Arc::new(TokenVerifier::new(issuers, now)?)))
}
