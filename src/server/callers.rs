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
        let authenticator = authenticator(TokenVerifier::new(issuers.clone(), now)?);
        Ok(Self { current: ArcSwap::from_pointee(authenticator), issuers: Mutex::new(issuers) })
    }

    /// Who would vouch under other issuers; none when they are the same. Those that did not change keep their fetched keys.
    pub(super) fn prepare(&self, issuers: Vec<IssuerConfig>, now: Timestamp) -> Result<Option<Prepared>> {
        if *self.issuers() == issuers {
            return Ok(None);
        }
        let verifier = self.current.load().verifier().renewed(issuers.clone(), now)?;
        Ok(Some(Prepared { authenticator: authenticator(verifier), issuers }))
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

fn authenticator(verifier: TokenVerifier) -> Authenticator {
    Authenticator::new(Arc::new(verifier))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::oidc::{Algorithm, KeySource};

    /// The key of RFC 8037 appendix A.2.
    const KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    #[test]
    fn an_issuer_that_did_not_change_keeps_the_keys_that_it_has() {
        let (dir, now) = (tempfile::tempdir().unwrap(), Timestamp::UNIX_EPOCH);
        let issuer = |name: &str| {
            let file = dir.path().join(name);
            std::fs::write(&file, KEYS).unwrap();
            let url = format!("https://{name}.example");
            let mut config = IssuerConfig::new(name.parse().unwrap(), url, vec!["us".to_owned()], vec![Algorithm::EdDsa]);
            config.keys = KeySource::File(file);
            config
        };
        let (steady, mut edited) = (issuer("steady"), issuer("edited"));
        let callers = Callers::new(vec![steady.clone(), edited.clone()], now).unwrap();
        assert!(callers.prepare(vec![steady.clone(), edited.clone()], now).unwrap().is_none());

        std::fs::remove_file(dir.path().join("steady")).unwrap();
        edited.jti_required = true;
        let later = now + SignedDuration::from_secs(7);
        let prepared = callers.prepare(vec![steady.clone(), edited.clone()], later).unwrap();
        callers.replace(prepared);
        let ages: Vec<_> = callers.key_age(later).into_iter().map(|(name, age)| (name.to_string(), age)).collect();
        let seconds = |seconds| Some(SignedDuration::from_secs(seconds));
        assert_eq!(ages, [("edited".to_owned(), seconds(0)), ("steady".to_owned(), seconds(7))]);

        // One that did change is read anew, and must be there.
        let changed = IssuerConfig { jti_required: true, ..steady };
        assert!(callers.prepare(vec![changed, edited], later).is_err());
    }
}
