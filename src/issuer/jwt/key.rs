//! One key that signs JWTs: made, read, and never shown. aws-lc keeps it outside of Rust's memory and wipes it when it is dropped.

use std::fmt;

use aws_lc_rs::{
    digest::{SHA256, digest},
    encoding::{AsDer, Pkcs8V1Der},
    rand::SystemRandom,
    rsa,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::model::{jws, secret::Secret};

/// The sizes of RSA keys that are taken, in bytes of the modulus: 2048 to 4096 bits.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=512;

/// How tokens are signed (RFC 7518 section 3.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SigningAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    #[default]
    #[serde(rename = "ES256")]
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256, on keys of 2048 bits: for relying parties that know nothing else.
    #[serde(rename = "RS256")]
    Rs256,
}

impl SigningAlgorithm {
    /// Its `alg`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }
}

/// A key.
pub struct SigningKey {
    kid: String,
    pair: Pair,
    /// The protected header of its tokens, base64url.
    header: String,
    jwk: Value,
}

enum Pair {
    Es256(EcdsaKeyPair),
    Rs256(rsa::KeyPair),
}

impl SigningKey {
    /// A new key, PKCS #8 DER.
    pub fn generate(algorithm: SigningAlgorithm) -> Result<Zeroizing<Vec<u8>>, String> {
        let failed = |_| format!("a key for {} cannot be made", algorithm.as_str());
        match algorithm {
            SigningAlgorithm::Es256 => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?;
                Ok(Zeroizing::new(pair.to_pkcs8v1().map_err(failed)?.as_ref().to_vec()))
            }
            SigningAlgorithm::Rs256 => {
                let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).map_err(failed)?;
                let der: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
                Ok(Zeroizing::new(der.as_ref().to_vec()))
            }
        }
    }

    /// Reads a key: P-256, or RSA of 2048 to 4096 bits.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, String> {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der) {
            return Self::es256(pair);
        }
        match rsa::KeyPair::from_pkcs8(der) {
            Ok(pair) if RSA_BYTES.contains(&pair.public_modulus_len()) => Ok(Self::rs256(pair)),
            _ => Err("it is no PKCS #8 key on P-256, or of RSA with 2048 to 4096 bits".to_owned()),
        }
    }

    fn es256(pair: EcdsaKeyPair) -> Result<Self, String> {
        // SEC 1 section 2.3.3, uncompressed: 4, x, y.
        let [4, point @ ..] = pair.public_key().as_ref() else { return Err("its public key is not a point of P-256".to_owned()) };
        let (x, y) = point.split_at_checked(32).ok_or("its public key is not a point of P-256")?;
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let kid = thumbprint(&format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#));
        let jwk = json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": kid, "alg": "ES256", "use": "sig" });
        Ok(Self { header: header(SigningAlgorithm::Es256, &kid), kid, jwk, pair: Pair::Es256(pair) })
    }

    fn rs256(pair: rsa::KeyPair) -> Self {
        let public = pair.public_key();
        let n = URL_SAFE_NO_PAD.encode(public.modulus().big_endian_without_leading_zero());
        let e = URL_SAFE_NO_PAD.encode(public.exponent().big_endian_without_leading_zero());
        let kid = thumbprint(&format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#));
        let jwk = json!({ "kty": "RSA", "n": n, "e": e, "kid": kid, "alg": "RS256", "use": "sig" });
        Self { header: header(SigningAlgorithm::Rs256, &kid), kid, jwk, pair: Pair::Rs256(pair) }
    }

    /// Its JWK thumbprint (RFC 7638).
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// What it signs with.
    pub fn algorithm(&self) -> SigningAlgorithm {
        match self.pair {
            Pair::Es256(_) => SigningAlgorithm::Es256,
            Pair::Rs256(_) => SigningAlgorithm::Rs256,
        }
    }

    /// Its public half (RFC 7517 section 4).
    pub fn jwk(&self) -> &Value {
        &self.jwk
    }

    /// A JWT over a payload (RFC 7515 section 7.1).
    pub fn sign(&self, payload: &str) -> Result<Secret, String> {
        let signed = jws::compact(&self.header, payload, |input| match &self.pair {
            Pair::Es256(pair) => pair.sign(&SystemRandom::new(), input).map(|signature| signature.as_ref().to_vec()),
            Pair::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input, &mut signature).map(|()| signature)
            }
        });
        signed.map_err(|_| format!("the key {} does not sign", self.kid))
    }
}

/// Its public name alone.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({} {})", self.algorithm().as_str(), self.kid)
    }
}

fn header(algorithm: SigningAlgorithm, kid: &str) -> String {
    // A thumbprint holds nothing that JSON would escape.
    URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{}","kid":"{kid}","typ":"JWT"}}"#, algorithm.as_str()))
}

/// RFC 7638 section 3, over the required members in the order of their names.
fn thumbprint(canonical: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, canonical.as_bytes()))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm};

    use super::*;

    fn verified(key: &SigningKey, public: &[u8], algorithm: &'static dyn VerificationAlgorithm) -> Value {
        let token = key.sign(r#"{"sub":"a"}"#).unwrap();
        let (signed, signature) = token.expose().rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        UnparsedPublicKey::new(algorithm, public).verify(signed.as_bytes(), &signature).unwrap();
        let (header, payload) = signed.split_once('.').unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(payload).unwrap(), br#"{"sub":"a"}"#);
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap()
    }

    #[test]
    fn es256_signs_what_its_public_key_verifies() {
        let key = SigningKey::from_pkcs8(&SigningKey::generate(SigningAlgorithm::Es256).unwrap()).unwrap();
        let Pair::Es256(pair) = &key.pair else { panic!("another algorithm") };
        let header = verified(&key, pair.public_key().as_ref(), &ECDSA_P256_SHA256_FIXED);
        assert_eq!(header, json!({ "alg": "ES256", "kid": key.kid(), "typ": "JWT" }));
        assert_eq!(format!("{key:?}"), format!("SigningKey(ES256 {})", key.kid()));
    }

    #[test]
    fn rs256_signs_what_its_public_key_verifies() {
        let key = SigningKey::from_pkcs8(&SigningKey::generate(SigningAlgorithm::Rs256).unwrap()).unwrap();
        let Pair::Rs256(pair) = &key.pair else { panic!("another algorithm") };
        let header = verified(&key, pair.public_key().as_ref(), &RSA_PKCS1_2048_8192_SHA256);
        assert_eq!(header, json!({ "alg": "RS256", "kid": key.kid(), "typ": "JWT" }));
        assert_eq!(key.jwk()["e"], "AQAB");
    }

    /// The example of RFC 7638 section 3.1.
    #[test]
    fn a_thumbprint_is_as_the_standard_has_it() {
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ\
                 _2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08\
                 qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let thumbprint = thumbprint(&format!(r#"{{"e":"AQAB","kty":"RSA","n":"{n}"}}"#));
        assert_eq!(thumbprint, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    #[test]
    fn other_keys_are_refused() {
        let p384 = EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap().to_pkcs8v1().unwrap();
        let ed25519 = aws_lc_rs::signature::Ed25519KeyPair::generate().unwrap().to_pkcs8v1().unwrap();
        for other in [p384.as_ref(), ed25519.as_ref(), b"", b"\x30\x00"] {
            assert!(SigningKey::from_pkcs8(other).is_err());
        }
    }
}
