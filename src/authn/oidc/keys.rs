//! An issuer's key set (RFC 7517 section 5), reduced to the keys that can verify its tokens.

use std::sync::Arc;

use aws_lc_rs::signature::{self, ParsedPublicKey, RsaPublicKeyComponents};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm as JwtAlgorithm, DecodingKey};

use super::{
    Algorithm,
    json::{Json, Object},
};

/// The most keys in a set.
pub const MAX_KEYS: usize = 100;
/// The shortest RSA modulus, in bits (RFC 7518 section 3.3).
pub const MIN_RSA_BITS: usize = 2048;
/// The longest RSA modulus, in bits: verifying grows with its square.
pub(super) const MAX_RSA_BITS: usize = 8192;

/// A key, ready to verify.
pub(super) struct Key {
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl Key {
    /// Whether `signature` (base64url) over `signed` is this key's. The caller has checked that `alg` is among the key's.
    pub fn verifies(&self, alg: Algorithm, signed: &str, signature: &str) -> bool {
        let alg = match alg {
            Algorithm::Rs256 => JwtAlgorithm::RS256,
            Algorithm::Rs384 => JwtAlgorithm::RS384,
            Algorithm::Rs512 => JwtAlgorithm::RS512,
            Algorithm::Ps256 => JwtAlgorithm::PS256,
            Algorithm::Es256 => JwtAlgorithm::ES256,
            Algorithm::Es384 => JwtAlgorithm::ES384,
            Algorithm::EdDsa => JwtAlgorithm::EdDSA,
        };
        jsonwebtoken::crypto::verify(signature, signed.as_bytes(), &self.key, alg).unwrap_or(false)
    }
}

/// What a set has for a token's header.
pub(super) enum Selection {
    /// The one key.
    Found(Arc<Key>),
    /// No key of that id, or none that fits: a newer set may have it.
    Unknown,
    /// The key is there and is not for this algorithm.
    OtherAlgorithm,
    /// The token names no key and more than one fits.
    Ambiguous,
}

/// The usable keys of a set; at least one.
pub(super) struct KeySet {
    keys: Vec<Arc<Key>>,
}

impl KeySet {
    /// Reads a set. Keys that are for something else are passed over (RFC 7517 section 5 asks for that); a set that has
    /// a `kid` twice, or no usable key, is a fault.
    pub fn parse(body: &[u8], configured: &[Algorithm]) -> Result<Self, String> {
        let text = std::str::from_utf8(body).map_err(|_| "the key set is not UTF-8".to_owned())?;
        let set = Object::parse(text).map_err(|fault| format!("the key set {fault}"))?;
        let Some(Json::Array(entries)) = set.get("keys") else {
            return Err("the key set has no array \"keys\"".to_owned());
        };
        if entries.len() > MAX_KEYS {
            return Err(format!("the key set has {} keys; at most {MAX_KEYS} are taken", entries.len()));
        }
        let mut keys: Vec<Arc<Key>> = Vec::new();
        let mut passed_over = Vec::new();
        for entry in entries {
            let Json::Object(jwk) = entry else { return Err("the key set has an entry that is not an object".to_owned()) };
            match usable(jwk, configured) {
                Ok(key) if key.kid.is_some() && keys.iter().any(|other| other.kid == key.kid) => {
                    return Err("the key set has two keys with the same kid".to_owned());
                }
                Ok(key) => keys.push(Arc::new(key)),
                Err(why) => passed_over.push(why),
            }
        }
        if keys.is_empty() {
            return Err(format!("the key set has no key that can verify {configured:?}; passed over: {passed_over:?}"));
        }
        Ok(Self { keys })
    }

    /// The key for a header.
    pub fn select(&self, kid: Option<&str>, alg: Algorithm) -> Selection {
        if let Some(kid) = kid {
            return match self.keys.iter().find(|key| key.kid.as_deref() == Some(kid)) {
                None => Selection::Unknown,
                Some(key) if key.algorithms.contains(&alg) => Selection::Found(key.clone()),
                Some(_) => Selection::OtherAlgorithm,
            };
        }
        let mut fitting = self.keys.iter().filter(|key| key.algorithms.contains(&alg));
        match (fitting.next(), fitting.next()) {
            (None, _) => Selection::Unknown,
            (Some(key), None) => Selection::Found(key.clone()),
            (Some(_), Some(_)) => Selection::Ambiguous,
        }
    }
}

/// A key of a set, if it is one to verify with; else why not.
fn usable(jwk: &Object<'_>, configured: &[Algorithm]) -> Result<Key, &'static str> {
    let text = |name| jwk.string(name).map_err(|_| "a member has the wrong type");
    if !matches!(text("use")?, None | Some("sig")) {
        return Err("not for signatures");
    }
    match jwk.get("key_ops") {
        None => {}
        Some(Json::Array(ops)) if ops.iter().any(|op| *op == Json::String("verify".into())) => {}
        Some(_) => return Err("not for verifying"),
    }
    if jwk.get("d").is_some() || jwk.get("k").is_some() {
        return Err("holds a private or symmetric key, which a published set must not");
    }
    let (fitting, key): (&[Algorithm], DecodingKey) = match (text("kty")?, text("crv")?) {
        (Some("RSA"), _) => (&[Algorithm::Rs256, Algorithm::Rs384, Algorithm::Rs512, Algorithm::Ps256], rsa(jwk)?),
        (Some("EC"), Some("P-256")) => (&[Algorithm::Es256], ec(jwk, 32, &signature::ECDSA_P256_SHA256_FIXED)?),
        (Some("EC"), Some("P-384")) => (&[Algorithm::Es384], ec(jwk, 48, &signature::ECDSA_P384_SHA384_FIXED)?),
        (Some("OKP"), Some("Ed25519")) => (&[Algorithm::EdDsa], ed25519(jwk)?),
        _ => return Err("of a type or curve that is not taken"),
    };
    let own = text("alg")?;
    let algorithms: Vec<_> =
        fitting.iter().copied().filter(|alg| configured.contains(alg) && own.is_none_or(|own| own == alg.as_str())).collect();
    if algorithms.is_empty() {
        return Err("for an algorithm that is not configured or does not fit it");
    }
    let kid = text("kid")?.map(str::to_owned);
    Ok(Key { kid, algorithms, key })
}

fn rsa(jwk: &Object<'_>) -> Result<DecodingKey, &'static str> {
    let (n, e) = (bytes(jwk, "n")?, bytes(jwk, "e")?);
    let first = n.iter().position(|b| *b != 0).unwrap_or(n.len());
    let bits = (n.len() - first) * 8 - n.get(first).map_or(0, |b| b.leading_zeros() as usize);
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
        return Err("an RSA key shorter than 2048 bits or longer than 8192");
    }
    let exponent = e.iter().try_fold(0_u64, |value, byte| value.checked_mul(256)?.checked_add(u64::from(*byte)));
    if !exponent.is_some_and(|e| e >= 3 && e % 2 == 1) {
        return Err("not a valid RSA key: its exponent is even, 1 or too long");
    }
    // Parsed once here, so that a modulus or exponent that cannot be is known before a token comes.
    RsaPublicKeyComponents { n: &n[first..], e: e.as_slice() }
        .to_parsed_public_key(&signature::RSA_PKCS1_2048_8192_SHA256)
        .map_err(|_| "not a valid RSA key")?;
    Ok(DecodingKey::from_rsa_raw_components(&n[first..], &e))
}

fn ec(jwk: &Object<'_>, length: usize, alg: &'static signature::EcdsaVerificationAlgorithm) -> Result<DecodingKey, &'static str> {
    let (x, y) = (bytes(jwk, "x")?, bytes(jwk, "y")?);
    if x.len() != length || y.len() != length {
        return Err("an EC key whose coordinates do not have the curve's length");
    }
    let point = [&[4], x.as_slice(), &y].concat();
    ParsedPublicKey::new(alg, &point).map_err(|_| "an EC key that is no point of its curve")?;
    Ok(DecodingKey::from_ec_der(&point))
}

fn ed25519(jwk: &Object<'_>) -> Result<DecodingKey, &'static str> {
    let x = bytes(jwk, "x")?;
    ParsedPublicKey::new(&signature::ED25519, &x).map_err(|_| "not a valid Ed25519 key")?;
    Ok(DecodingKey::from_ed_der(&x))
}

fn bytes(jwk: &Object<'_>, name: &str) -> Result<Vec<u8>, &'static str> {
    let text = jwk.string(name).ok().flatten().ok_or("a part of the key is missing")?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| "a part of the key is not base64url")
}
