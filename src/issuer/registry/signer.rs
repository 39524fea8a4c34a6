//! The keys that sign tokens: made here, certified by the registry's token CA, replaced by time. A registry that trusts the CA takes
//! each new one without a change, because a token carries its key's certificate (RFC 7515 section 4.1.6, `x5c`).

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

use super::MAX_TOKEN_TTL;
use crate::{
    issuer::KeyCertifier,
    model::{
        SignedDuration, Timestamp,
        error::{Code, Error, Result},
        jws,
        lease::REGISTRY_LEEWAY,
        secret::Secret,
    },
};

/// How long a key signs, unless the configuration says otherwise.
pub const DEFAULT_ROTATE_EVERY: SignedDuration = SignedDuration::from_hours(24);

/// The shortest time that a key may sign.
pub const MIN_ROTATE_EVERY: SignedDuration = SignedDuration::from_mins(1);

/// The longest.
pub const MAX_ROTATE_EVERY: SignedDuration = SignedDuration::from_hours(24 * 30);

/// The key of the moment under one token CA.
pub(super) struct Signer {
    ca: Arc<dyn KeyCertifier>,
    rotate_every: SignedDuration,
    current: ArcSwapOption<SigningKey>,
    /// Held while a key is made, so that a hundred exchanges at the same moment make one and not a hundred.
    making: Mutex<()>,
}

/// A key, and what every token under it begins with.
pub(super) struct SigningKey {
    pair: EcdsaKeyPair,
    /// The JOSE header in base64url.
    header: String,
    made_at: Timestamp,
    /// From then on another key signs.
    retires_at: Timestamp,
    /// When its certificate ends. The registry looks at that without a leeway.
    not_after: Timestamp,
}

impl Signer {
    pub(super) fn new(ca: Arc<dyn KeyCertifier>, rotate_every: SignedDuration) -> Self {
        Self { ca, rotate_every, current: ArcSwapOption::empty(), making: Mutex::new(()) }
    }

    /// The key that signs at `now`. It is made when there is none for that time: at first, after its time, and when the clock went back.
    pub(super) fn key(&self, now: Timestamp) -> Result<Arc<SigningKey>> {
        let ready = || self.current.load_full().filter(|key| key.signs_at(now));
        if let Some(key) = ready() {
            return Ok(key);
        }
        let _alone = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = ready() {
            return Ok(key);
        }
        let key = Arc::new(SigningKey::make(&*self.ca, now, self.rotate_every)?);
        tracing::info!(until = %key.retires_at, "a new key signs registry tokens");
        self.current.store(Some(key.clone()));
        Ok(key)
    }
}

impl SigningKey {
    /// Its certificate covers the last token under it and the registry's leeway after that, as far as the CA lives.
    fn make(ca: &dyn KeyCertifier, now: Timestamp, rotate_every: SignedDuration) -> Result<Self> {
        let later = |at: Timestamp, span: SignedDuration| at.checked_add(span).unwrap_or(Timestamp::MAX);
        let retires_at = later(now, rotate_every);
        let not_after = later(retires_at, MAX_TOKEN_TTL + REGISTRY_LEEWAY).min(ca.not_after());
        if not_after <= now {
            return Err(unavailable().because("the registry's token CA has expired"));
        }
        // A registry whose clock is slow takes a token so much before its time, and must take the certificate then.
        let not_before = now.checked_sub(REGISTRY_LEEWAY).unwrap_or(Timestamp::MIN);
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(Error::internal)?;
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(Error::internal)?;
        let chain = ca.certify(public.as_ref(), not_before, not_after)?;
        let x5c: Vec<String> = chain.iter().map(|der| STANDARD.encode(der)).collect();
        // No `kid`: the forms that 2.8 and 3.x of distribution take have nothing in common.
        let header = json!({ "typ": "JWT", "alg": "ES256", "x5c": x5c });
        Ok(Self {
            pair,
            header: URL_SAFE_NO_PAD.encode(header.to_string()),
            made_at: now,
            retires_at: retires_at.min(not_after),
            not_after,
        })
    }

    fn signs_at(&self, now: Timestamp) -> bool {
        self.made_at <= now && now < self.retires_at
    }

    /// When its certificate ends: no token under it lives longer.
    pub(super) fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Signs claims: a JWT in compact form (RFC 7515 section 7.1, RFC 7518 section 3.4).
    pub(super) fn sign(&self, claims: &Value) -> Result<Secret> {
        jws::compact(&self.header, &claims.to_string(), |input| self.pair.sign(&SystemRandom::new(), input)).map_err(Error::internal)
    }
}

fn unavailable() -> Error {
    Error::new(Code::IssuerUnavailable, "no token can be signed for this registry now; tell the operators")
}
