//! Keys that sign for a CA, and the guard that stands before each signature.

use std::cell::RefCell;

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use zeroize::{Zeroize, Zeroizing};

use crate::model::hex;

/// A CA's key. Whatever implements rcgen's signing trait is one, so that a KMS or an HSM can take the place of a file.
///
/// `sign` runs on the thread that serves the request: a remote key keeps its own time limit, well under a second.
pub trait CaKey: SigningKey + Send + Sync {}

impl<T: SigningKey + Send + Sync> CaKey for T {}

/// A CA's key from a PKCS #8 file: P-256, P-384, Ed25519, or RSA of 2048 bits and more. It is wiped when dropped.
pub struct FileKey {
    pair: KeyPair,
}

impl FileKey {
    /// Reads the key from PEM. The error names no part of the key.
    pub fn from_pem(pem: &str) -> Result<Self, String> {
        let unknown = || "the key is no PKCS #8 key in PEM (-----BEGIN PRIVATE KEY-----) of a kind that is known here".to_owned();
        let mut der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| unknown())?;
        let pair = KeyPair::try_from(&der);
        der.zeroize();
        Self::of(pair.map_err(|_| unknown())?)
    }

    /// Reads the key from PKCS #8 DER. The error names no part of the key.
    pub fn from_der(der: &[u8]) -> Result<Self, String> {
        let pair = KeyPair::try_from(&PrivatePkcs8KeyDer::from(der));
        Self::of(pair.map_err(|_| "the key is no PKCS #8 key of a kind that is known here".to_owned())?)
    }

    fn of(pair: KeyPair) -> Result<Self, String> {
        let known = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519, &rcgen::PKCS_RSA_SHA256];
        if !known.contains(&pair.algorithm()) {
            return Err("a CA's key is P-256, P-384, Ed25519, or RSA of 2048 bits and more".to_owned());
        }
        Ok(Self { pair })
    }

    /// A new P-256 key.
    pub(super) fn generate() -> Result<Self, rcgen::Error> {
        KeyPair::generate().map(|pair| Self { pair })
    }

    /// The key in PKCS #8 DER, wiped when dropped.
    pub(super) fn to_der(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.pair.serialize_der())
    }

    /// The key in PKCS #8 PEM, wiped when dropped.
    pub(super) fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.pair.serialize_pem())
    }
}

impl PublicKeyData for FileKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.pair.algorithm()
    }
}

impl SigningKey for FileKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.pair.sign(message)
    }
}

impl Drop for FileKey {
    fn drop(&mut self) {
        self.pair.zeroize();
    }
}

/// rcgen takes a key by its own type.
pub(super) struct Borrowed<'a>(pub(super) &'a dyn CaKey);

impl PublicKeyData for Borrowed<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for Borrowed<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

/// A key that signs only what its check lets through, and remembers the hash of what it signed.
pub(super) struct GuardedKey<'a, C> {
    key: &'a dyn CaKey,
    check: C,
    outcome: RefCell<Outcome>,
}

/// What became of the one message that a [`GuardedKey`] was given.
#[derive(Default)]
pub(super) enum Outcome {
    /// It was given none.
    #[default]
    Unused,
    /// The check refused it; it was not signed.
    Refused(Vec<String>),
    /// It was let through; the first 16 bytes of its SHA-256, lower-case hex.
    Passed(String),
}

impl<'a, C: Fn(&[u8]) -> Result<(), Vec<String>>> GuardedKey<'a, C> {
    pub(super) fn new(key: &'a dyn CaKey, check: C) -> Self {
        Self { key, check, outcome: RefCell::default() }
    }

    pub(super) fn take_outcome(&self) -> Outcome {
        self.outcome.take()
    }
}

impl<C> PublicKeyData for GuardedKey<'_, C> {
    fn der_bytes(&self) -> &[u8] {
        self.key.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.key.algorithm()
    }
}

impl<C: Fn(&[u8]) -> Result<(), Vec<String>>> SigningKey for GuardedKey<'_, C> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        if let Err(faults) = (self.check)(message) {
            self.outcome.replace(Outcome::Refused(faults));
            return Err(rcgen::Error::RemoteKeyError);
        }
        self.outcome.replace(Outcome::Passed(short_hash(message)));
        self.key.sign(message)
    }
}

/// The first 16 bytes of SHA-256, lower-case hex: what `Handle::X509` keeps as `tbs`.
fn short_hash(message: &[u8]) -> String {
    hex::encode(&digest(&SHA256, message).as_ref()[..16])
}

/// A key identifier: the first 160 bits of SHA-256 over the subjectPublicKey's bits (RFC 7093 section 2, method 1).
pub(super) fn key_identifier(public_key: &[u8]) -> Vec<u8> {
    digest(&SHA256, public_key).as_ref()[..20].to_vec()
}
