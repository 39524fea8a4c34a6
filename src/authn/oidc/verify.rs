//! The walk of a token: cut, header, issuer, key, signature, claims.

use std::{collections::HashMap, sync::Arc};

use aws_lc_rs::digest::{Context, SHA256};

use super::{
    IssuerConfig,
    cache::KeyCache,
    claims,
    claims::refuse,
    faults,
    jose::{Compact, Header},
    json::Object,
};
use crate::model::{
    SignedDuration, Timestamp,
    error::{Error, Result},
    identity::{Subject, VerifiedToken},
    name::IssuerName,
};

/// Verifies tokens of the configured issuers and keeps those issuers' keys.
pub struct TokenVerifier {
    by_url: HashMap<String, Issuer>,
}

struct Issuer {
    config: IssuerConfig,
    keys: Arc<KeyCache>,
}

impl TokenVerifier {
    /// A verifier. Key files are read now; keys by discovery are fetched with the first token, or by [`Self::prefetch`].
    ///
    /// # Errors
    /// [`crate::model::error::Code::Internal`] whose cause names every fault: a configuration that [`faults`] objects to, a name or URL that
    /// stands twice, a key file that cannot be used, a system without CA certificates.
    pub fn new(issuers: Vec<IssuerConfig>, now: Timestamp) -> Result<Self> {
        Self::with_keys_of(|config| KeyCache::new(config, now).map(Arc::new), issuers)
    }

    /// A verifier of other issuers. Those whose configuration is the same keep their keys, a fetch that is under way, and what is
    /// left of their [`super::FETCHES_PER_MINUTE`]: a change of one issuer must not need the others' servers to be up.
    ///
    /// # Errors
    /// As [`Self::new`]; `self` is not touched.
    pub fn renewed(&self, issuers: Vec<IssuerConfig>, now: Timestamp) -> Result<Self> {
        let keys = |config: &IssuerConfig| match self.by_url.get(&config.url).filter(|issuer| issuer.config == *config) {
            Some(issuer) => Ok(issuer.keys.clone()),
            None => KeyCache::new(config, now).map(Arc::new),
        };
        Self::with_keys_of(keys, issuers)
    }

    fn with_keys_of(keys: impl Fn(&IssuerConfig) -> Result<Arc<KeyCache>, String>, issuers: Vec<IssuerConfig>) -> Result<Self> {
        let mut by_url: HashMap<String, Issuer> = HashMap::new();
        let mut found = Vec::new();
        for config in issuers {
            let own = faults(&config);
            let sound = own.is_empty();
            found.extend(own.into_iter().map(|fault| format!("issuer {}: {fault}", config.name)));
            if let Some(other) = by_url.values().find(|other| other.config.name == config.name || other.config.url == config.url) {
                found.push(format!("issuer {}: the issuer {} has the same name or url", config.name, other.config.name));
            } else if sound {
                match keys(&config) {
                    Ok(keys) => drop(by_url.insert(config.url.clone(), Issuer { keys, config })),
                    Err(fault) => found.push(format!("issuer {}: {fault}", config.name)),
                }
            }
        }
        if !found.is_empty() {
            return Err(Error::internal(found.join("; ")));
        }
        Ok(Self { by_url })
    }

    /// Verifies a token.
    ///
    /// # Errors
    /// - [`crate::model::error::Code::TokenExpired`]: `exp` has passed, or `iat` is older than the issuer's `max_token_age`;
    /// - [`crate::model::error::Code::TokenAudience`]: it is for another audience; the text names ours;
    /// - [`crate::model::error::Code::IssuerUnavailable`]: the issuer's keys cannot be had;
    /// - [`crate::model::error::Code::Unauthenticated`]: anything else; the text says what to mend and quotes nothing of the token.
    pub async fn verify(&self, token: &str, now: Timestamp) -> Result<VerifiedToken> {
        let token = Compact::parse(token)?;
        let header = Header::parse(&token.header)?;
        let payload = Object::parse(&token.payload).map_err(|fault| refuse(format!("the token's payload {fault}")))?;
        // The issuer is only looked up here, never believed: its key must verify what it claims.
        let issuer = self.issuer(&payload)?;
        if !issuer.config.algorithms.contains(&header.alg) {
            return Err(refuse(format!("the token's alg is {}, which is not configured for its issuer", header.alg.as_str())));
        }
        let key = issuer.keys.key(header.kid.as_deref(), header.alg, now).await?;
        if !key.verifies(header.alg, token.signed, token.signature) {
            return Err(refuse("the token's signature does not verify with its issuer's key"));
        }
        issuer.accept(&payload, token.signed, now)
    }

    fn issuer(&self, payload: &Object<'_>) -> Result<&Issuer> {
        let iss = payload.string("iss").ok().flatten().ok_or_else(|| refuse("the token has no iss that is a string"))?;
        self.by_url
            .get(iss)
            .ok_or_else(|| refuse("the token's iss is not an issuer that this service is configured for; it is compared exactly"))
    }

    /// Fetches the keys of every issuer that has none yet, at once; gives what failed. For the start and for readiness.
    pub async fn prefetch(&self, now: Timestamp) -> Vec<(IssuerName, String)> {
        let fetches = self.by_url.values().map(|issuer| async move {
            let fault = issuer.keys.prefetch(now).await.err()?;
            Some((issuer.config.name.clone(), fault))
        });
        futures::future::join_all(fetches).await.into_iter().flatten().collect()
    }

    /// How old each issuer's keys are, by name; none where it has none. For metrics.
    pub fn key_age(&self, now: Timestamp) -> Vec<(IssuerName, Option<SignedDuration>)> {
        let mut ages: Vec<_> = self.by_url.values().map(|issuer| (issuer.config.name.clone(), issuer.keys.age(now))).collect();
        ages.sort();
        ages
    }
}

impl Issuer {
    /// Checks what a token of this issuer says, once its signature held.
    fn accept(&self, payload: &Object<'_>, signed: &str, now: Timestamp) -> Result<VerifiedToken> {
        claims::audience(payload, &self.config)?;
        let expires_at = claims::times(payload, &self.config, now)?;
        let sub = claims::subject(payload)?;
        let jti = claims::token_id(payload, &self.config)?;
        let claims = claims::configured(payload, &self.config.claims)?;
        let name = &self.config.name;
        // An issuer's name holds no colon, so no two pairs of issuer and sub give one subject.
        let subject = Subject::try_from(format!("oidc:{name}:{sub}"))
            .map_err(|fault| refuse(format!("the token's sub makes no subject: {fault}")))?;
        Ok(VerifiedToken {
            issuer: name.clone(),
            sub,
            subject,
            claims,
            token_id: token_id(name, jti.as_deref(), signed),
            token_use: self.config.token_use,
            expires_at,
        })
    }
}

/// The first 16 bytes of SHA-256 over issuer, NUL and `jti`; or, where there is none, over issuer, two NULs and what the
/// token's signature covers. The signature itself is left out: an ECDSA signature (r, s) has a second form (r, n − s), which
/// would make one token two. No `jti` holds a control character, so the two cases cannot meet.
fn token_id(issuer: &IssuerName, jti: Option<&str>, signed: &str) -> [u8; 16] {
    let mut hash = Context::new(&SHA256);
    hash.update(issuer.as_str().as_bytes());
    match jti {
        Some(jti) => {
            hash.update(&[0]);
            hash.update(jti.as_bytes());
        }
        None => {
            hash.update(&[0, 0]);
            hash.update(signed.as_bytes());
        }
    }
    let mut id = [0; 16];
    id.copy_from_slice(&hash.finish().as_ref()[..16]);
    id
}
