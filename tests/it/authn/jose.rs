//! Tokens made by hand, because a library would not make the bad ones.

use std::{process::Command, sync::OnceLock};

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize, PublicKeyComponents},
    signature::{
        self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
        RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A key pair that signs by any algorithm that its family knows, whatever a header says.
pub enum Signer {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    /// An RSA key of 1024 bits: only openssl makes and uses one.
    Weak {
        pem: String,
        modulus: Vec<u8>,
    },
}

impl Signer {
    pub fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub fn p256() -> Self {
        Self::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub fn p384() -> Self {
        Self::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap())
    }

    pub fn ed25519() -> Self {
        Self::Ed(Ed25519KeyPair::generate().unwrap())
    }

    pub fn weak() -> Self {
        let pem = Command::new("openssl").args(["genrsa", "1024"]).output().unwrap();
        let pem = String::from_utf8(pem.stdout).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        std::fs::write(&path, &pem).unwrap();
        let modulus = Command::new("openssl").args(["rsa", "-noout", "-modulus", "-in"]).arg(&path).output().unwrap();
        let hex = String::from_utf8(modulus.stdout).unwrap().trim().trim_start_matches("Modulus=").to_owned();
        let modulus = (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
        Self::Weak { pem, modulus }
    }

    /// Signs with the family's algorithm of that name; the family's first for any other name.
    pub fn sign(&self, alg: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let padding: &'static dyn signature::RsaEncoding = match alg {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
            Self::P256(key) | Self::P384(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
            Self::Weak { pem, .. } => {
                let dir = tempfile::tempdir().unwrap();
                let (key, data) = (dir.path().join("k"), dir.path().join("m"));
                std::fs::write(&key, pem).unwrap();
                std::fs::write(&data, message).unwrap();
                Command::new("openssl").args(["dgst", "-sha256", "-sign"]).arg(&key).arg(&data).output().unwrap().stdout
            }
        }
    }

    /// The public key's material as a JWK, without kid, use and alg.
    pub fn jwk(&self) -> Value {
        match self {
            Self::Rsa(key) => {
                let public = PublicKeyComponents::<Vec<u8>>::from(key.public_key());
                json!({"kty": "RSA", "n": b64(public.n), "e": b64(public.e)})
            }
            Self::P256(key) => ec(key, "P-256", 32),
            Self::P384(key) => ec(key, "P-384", 48),
            Self::Ed(key) => json!({"kty": "OKP", "crv": "Ed25519", "x": b64(key.public_key().as_ref())}),
            Self::Weak { modulus, .. } => json!({"kty": "RSA", "n": b64(modulus), "e": "AQAB"}),
        }
    }

    /// The same with a kid and an alg.
    pub fn named(&self, kid: &str, alg: &str) -> Value {
        let mut jwk = self.jwk();
        jwk["kid"] = kid.into();
        jwk["alg"] = alg.into();
        jwk["use"] = "sig".into();
        jwk
    }

    pub fn token(&self, header: &Value, payload: &Value) -> String {
        self.raw(&header.to_string(), &payload.to_string())
    }

    /// A token whose header and payload are any text.
    pub fn raw(&self, header: &str, payload: &str) -> String {
        self.bytes(header.as_bytes(), payload.as_bytes())
    }

    pub fn bytes(&self, header: &[u8], payload: &[u8]) -> String {
        let alg =
            serde_json::from_slice::<Value>(header).ok().and_then(|header| header["alg"].as_str().map(str::to_owned)).unwrap_or_default();
        let signed = format!("{}.{}", b64(header), b64(payload));
        let signature = self.sign(&alg, signed.as_bytes());
        format!("{signed}.{}", b64(signature))
    }
}

fn ec(key: &EcdsaKeyPair, crv: &str, length: usize) -> Value {
    let point = key.public_key().as_ref();
    json!({"kty": "EC", "crv": crv, "x": b64(&point[1..=length]), "y": b64(&point[1 + length..])})
}

/// A token that is "signed" by HMAC with whatever an attacker knows.
pub fn hmac_token(alg: &str, secret: &[u8], header: &Value, payload: &Value) -> String {
    let algorithm = match alg {
        "HS384" => hmac::HMAC_SHA384,
        "HS512" => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    };
    let signed = format!("{}.{}", b64(header.to_string()), b64(payload.to_string()));
    let tag = hmac::sign(&hmac::Key::new(algorithm, secret), signed.as_bytes());
    format!("{signed}.{}", b64(tag.as_ref()))
}

/// The keys of the tests; made once.
pub struct Keys {
    pub main: Signer,
    pub second: Signer,
    pub other_issuer: Signer,
    pub attacker: Signer,
    pub p256: Signer,
    pub p384: Signer,
    pub ed25519: Signer,
    pub weak: Signer,
}

pub fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| Keys {
        main: Signer::rsa(),
        second: Signer::rsa(),
        other_issuer: Signer::rsa(),
        attacker: Signer::rsa(),
        p256: Signer::p256(),
        p384: Signer::p384(),
        ed25519: Signer::ed25519(),
        weak: Signer::weak(),
    })
}

/// The key set of the issuer under test: two RSA keys, one of each other kind, a weak one and one for encryption.
pub fn key_set() -> Value {
    let keys = keys();
    let mut encryption = keys.attacker.named("enc", "RSA-OAEP");
    encryption["use"] = "enc".into();
    json!({"keys": [
        keys.main.named("main", "RS256"),
        keys.second.named("second", "RS256"),
        keys.p256.named("p256", "ES256"),
        keys.p384.named("p384", "ES384"),
        keys.ed25519.named("ed25519", "EdDSA"),
        keys.weak.named("weak", "RS256"),
        encryption,
        {"kty": "oct", "kid": "oct", "k": "c2VjcmV0", "alg": "HS256"},
        {"kty": "EC", "crv": "secp256k1", "kid": "k1", "x": "AA", "y": "AA"},
    ]})
}
