//! What is taken from a certificate signing request: its public key, and nothing else.

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rcgen::{PublicKeyData, SignatureAlgorithm};
use rustls_pki_types::alg_id;

use super::der::{CONTEXT_0, Reader, SEQUENCE};
use crate::model::{
    error::{Code, Error, Result},
    hex,
    request::MAX_CSR,
    role::KeyType,
};

/// The shortest RSA modulus, in bits.
pub const MIN_RSA_BITS: usize = 2048;
/// The longest RSA modulus, in bits: a longer one costs every verifier time and gains nothing.
pub const MAX_RSA_BITS: usize = 4096;
/// The smallest RSA public exponent (FIPS 186-5 section 5.4).
pub const MIN_RSA_EXPONENT: u64 = 65_537;

/// The DER of id-ecPublicKey, with which an AlgorithmIdentifier of any EC key begins.
const EC_PUBLIC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

/// A request that was read and not yet verified. Its subject and attributes are stepped over, never interpreted.
pub struct ParsedCsr<'a> {
    info: &'a [u8],
    key: SubjectKey,
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> ParsedCsr<'a> {
    /// Reads a PKCS #10 request (RFC 2986 section 4.2) in DER. Refuses, with `Code::InvalidCsr`, what does not parse and
    /// keys that no role takes.
    pub fn parse(der: &'a [u8]) -> Result<Self> {
        if der.is_empty() {
            return Err(invalid("the CSR is empty; send a PKCS #10 request in DER"));
        }
        if der.len() > MAX_CSR {
            return Err(invalid(format!("the CSR has {} bytes, and at most {MAX_CSR} are taken", der.len())));
        }
        if der.starts_with(b"-----BEGIN") {
            return Err(invalid("the CSR is PEM; send the DER that it encodes"));
        }
        let parts = Parts::read(der).ok_or_else(|| invalid("the CSR is no PKCS #10 request in DER"))?;
        let key = SubjectKey::from_spki(parts.key_algorithm, parts.key)?;
        Ok(Self { info: parts.info, key, algorithm: parts.algorithm, signature: parts.signature })
    }

    /// Checks that the holder of the private key signed it, with SHA-2, and that the role takes keys of this type.
    pub fn verify(self, accepted: &[KeyType]) -> Result<SubjectKey> {
        let kind = self.key.key_type;
        if !accepted.contains(&kind) {
            let names: Vec<&str> = accepted.iter().map(|key_type| key_type_name(*key_type)).collect();
            return Err(invalid(format!("the role takes no {} key; it takes {}", key_type_name(kind), names.join(", "))));
        }
        let algorithm = verification_algorithm(kind, self.algorithm).ok_or_else(|| {
            invalid(format!("the CSR's signature algorithm does not fit its {} key, or is weaker than SHA-256", key_type_name(kind)))
        })?;
        // For EC this also refuses points that are not on the curve.
        UnparsedPublicKey::new(algorithm, &self.key.raw)
            .verify(self.info, self.signature)
            .map_err(|_| invalid("the CSR is not signed by the key that it holds"))?;
        Ok(self.key)
    }
}

struct Parts<'a> {
    info: &'a [u8],
    key_algorithm: &'a [u8],
    key: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Parts<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        let mut input = Reader::new(der);
        let mut request = Reader::new(input.next(SEQUENCE)?.content);
        input.end()?;
        let info = request.next(SEQUENCE)?;
        let algorithm = request.next(SEQUENCE)?.content;
        let signature = request.whole_bits()?;
        request.end()?;

        let mut fields = Reader::new(info.content);
        if fields.unsigned()? != [0] {
            return None;
        }
        let _subject = fields.next(SEQUENCE)?;
        let mut spki = Reader::new(fields.next(SEQUENCE)?.content);
        let _attributes = fields.next(CONTEXT_0)?;
        fields.end()?;

        let key_algorithm = spki.next(SEQUENCE)?.content;
        let key = spki.whole_bits()?;
        spki.end()?;
        Some(Self { info: info.whole, key_algorithm, key, algorithm, signature })
    }
}

/// A public key that a certificate can be made for: of a known type and length, written in the one canonical form.
pub struct SubjectKey {
    key_type: KeyType,
    raw: Vec<u8>,
}

impl SubjectKey {
    /// Its type.
    pub fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// The key of a verified key pair of our own making, for bootstrap.
    pub(super) fn p256(raw: &[u8]) -> Self {
        Self { key_type: KeyType::P256, raw: raw.to_vec() }
    }

    /// A P-256 key from its SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7).
    pub(super) fn p256_from_spki(der: &[u8]) -> Option<Self> {
        Self::from_spki_der(der).filter(|key| key.key_type == KeyType::P256)
    }

    /// A key as a lease keeps it, verified when its holder gave it. Refuses one of a type that the role takes no more.
    pub(super) fn given_ahead(spki_hex: &str, accepted: &[KeyType]) -> Result<Self> {
        let key = hex::decode(spki_hex).and_then(|der| Self::from_spki_der(&der));
        let key = key.ok_or_else(|| Error::internal("a lease keeps a next key that is none"))?;
        if !accepted.contains(&key.key_type) {
            let name = key_type_name(key.key_type);
            return Err(invalid(format!("the role takes no {name} key any more, and you gave one ahead; give another")));
        }
        Ok(key)
    }

    fn from_spki_der(der: &[u8]) -> Option<Self> {
        let mut input = Reader::new(der);
        let mut spki = Reader::new(input.next(SEQUENCE)?.content);
        input.end()?;
        let (algorithm, raw) = (spki.next(SEQUENCE)?.content, spki.whole_bits()?);
        spki.end()?;
        Self::from_spki(algorithm, raw).ok()
    }

    fn from_spki(algorithm: &[u8], raw: &[u8]) -> Result<Self> {
        let is = |known: rustls_pki_types::AlgorithmIdentifier| algorithm == known.as_ref();
        let key_type = if is(alg_id::ECDSA_P256) {
            check_point(raw, 65)?;
            KeyType::P256
        } else if is(alg_id::ECDSA_P384) {
            check_point(raw, 97)?;
            KeyType::P384
        } else if is(alg_id::ED25519) {
            check_ed25519(raw)?;
            KeyType::Ed25519
        } else if is(alg_id::RSA_ENCRYPTION) {
            check_rsa(raw)?;
            KeyType::Rsa
        } else if algorithm.starts_with(EC_PUBLIC_KEY) {
            return Err(invalid("the CSR's EC key is not on P-256 or P-384, given by name (RFC 5480 section 2.1.1)"));
        } else {
            return Err(invalid("the CSR's key is of no type that is taken here; use P-256, P-384, Ed25519 or RSA"));
        };
        Ok(Self { key_type, raw: raw.to_vec() })
    }
}

impl PublicKeyData for SubjectKey {
    fn der_bytes(&self) -> &[u8] {
        &self.raw
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.key_type {
            KeyType::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyType::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            KeyType::Ed25519 => &rcgen::PKCS_ED25519,
            KeyType::Rsa => &rcgen::PKCS_RSA_SHA256,
        }
    }
}

fn invalid(why: impl Into<String>) -> Error {
    Error::new(Code::InvalidCsr, why)
}

fn key_type_name(key_type: KeyType) -> &'static str {
    match key_type {
        KeyType::P256 => "P-256",
        KeyType::P384 => "P-384",
        KeyType::Ed25519 => "Ed25519",
        KeyType::Rsa => "RSA",
    }
}

fn verification_algorithm(kind: KeyType, stated: &[u8]) -> Option<&'static dyn VerificationAlgorithm> {
    use KeyType::{Ed25519, P256, P384, Rsa};
    let table: [(KeyType, rustls_pki_types::AlgorithmIdentifier, &'static dyn VerificationAlgorithm); 10] = [
        (P256, alg_id::ECDSA_SHA256, &signature::ECDSA_P256_SHA256_ASN1),
        (P256, alg_id::ECDSA_SHA384, &signature::ECDSA_P256_SHA384_ASN1),
        (P256, alg_id::ECDSA_SHA512, &signature::ECDSA_P256_SHA512_ASN1),
        (P384, alg_id::ECDSA_SHA256, &signature::ECDSA_P384_SHA256_ASN1),
        (P384, alg_id::ECDSA_SHA384, &signature::ECDSA_P384_SHA384_ASN1),
        (P384, alg_id::ECDSA_SHA512, &signature::ECDSA_P384_SHA512_ASN1),
        (Ed25519, alg_id::ED25519, &signature::ED25519),
        (Rsa, alg_id::RSA_PKCS1_SHA256, &signature::RSA_PKCS1_2048_8192_SHA256),
        (Rsa, alg_id::RSA_PKCS1_SHA384, &signature::RSA_PKCS1_2048_8192_SHA384),
        (Rsa, alg_id::RSA_PKCS1_SHA512, &signature::RSA_PKCS1_2048_8192_SHA512),
    ];
    table.into_iter().find(|(key_type, id, _)| *key_type == kind && id.as_ref() == stated).map(|(.., algorithm)| algorithm)
}

/// Takes an uncompressed point of this length (RFC 5480 section 2.2).
fn check_point(point: &[u8], length: usize) -> Result<()> {
    if point.len() != length || point[0] != 4 {
        return Err(invalid("the CSR's EC point is not in uncompressed form"));
    }
    Ok(())
}

/// Refuses points of small order: for such a key anyone can make signatures that verify.
fn check_ed25519(raw: &[u8]) -> Result<()> {
    let point: [u8; 32] = raw.try_into().map_err(|_| invalid("an Ed25519 key has 32 bytes"))?;
    let mut unsigned = point;
    unsigned[31] &= 0x7f;
    let mut near_p = [0xff; 32];
    near_p[31] = 0x7f;
    let small = [0xec, 0xed, 0xee].iter().any(|low| {
        near_p[0] = *low;
        unsigned == near_p
    });
    if small || (unsigned[0] <= 1 && unsigned[1..].iter().all(|byte| *byte == 0)) || ED25519_ORDER_8.contains(&unsigned) {
        return Err(invalid("the CSR's Ed25519 key is a point of small order"));
    }
    Ok(())
}

/// The y coordinates of the points of order 8.
const ED25519_ORDER_8: [[u8; 32]; 2] = [
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6,
        0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39,
        0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

fn check_rsa(raw: &[u8]) -> Result<()> {
    let (modulus, exponent) = read_rsa(raw).ok_or_else(|| invalid("the CSR's RSA key is not in DER (RFC 8017 appendix A.1.1)"))?;
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&(modulus.len() * 8)) || modulus[0] < 0x80 {
        return Err(invalid(format!("the CSR's RSA key must have {MIN_RSA_BITS} to {MAX_RSA_BITS} bits, in whole bytes")));
    }
    // Four bytes at most: a longer one gains nothing and slows every verifier.
    let exponent = (exponent.len() <= 4).then(|| exponent.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)));
    if !exponent.is_some_and(|number| number >= MIN_RSA_EXPONENT && !number.is_multiple_of(2)) {
        return Err(invalid(format!("the CSR's RSA exponent must be odd, {MIN_RSA_EXPONENT} at least and below 2^32")));
    }
    if is_weak_modulus(modulus) {
        return Err(invalid("the CSR's RSA modulus is weak: it has a small factor, or the mark of CVE-2017-15361"));
    }
    Ok(())
}

/// Modulus and exponent.
fn read_rsa(raw: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut input = Reader::new(raw);
    let mut key = Reader::new(input.next(SEQUENCE)?.content);
    let numbers = (key.unsigned()?, key.unsigned()?);
    key.end()?;
    input.end()?;
    Some(numbers)
}

/// Primes under 170: divisors that no modulus may have, and the moduli of the ROCA fingerprint.
const SMALL_PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137,
    139, 149, 151, 157, 163, 167,
];

/// Whether a modulus has a small factor, or leaves a power of 65537 modulo every small prime: the mark of keys made by
/// the library of CVE-2017-15361 ("ROCA"). A sound key bears the mark by chance once in 2^27 keys.
fn is_weak_modulus(modulus: &[u8]) -> bool {
    if modulus.last().is_none_or(|byte| byte % 2 == 0) {
        return true;
    }
    let mut marked = true;
    for prime in SMALL_PRIMES {
        let residue = modulus.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % prime);
        if residue == 0 {
            return true;
        }
        marked = marked && is_power_of_65537(residue, prime);
    }
    marked
}

fn is_power_of_65537(residue: u32, prime: u32) -> bool {
    let generator = 65_537 % prime;
    let mut power = 1;
    for _ in 0..prime {
        if power == residue {
            return true;
        }
        power = power * generator % prime;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_of_roca_is_found() {
        // A modulus that is 1 modulo every small prime: 1 is a power of anything.
        let mut product: u128 = 1;
        let mut bytes = vec![1_u8];
        for prime in SMALL_PRIMES {
            product *= u128::from(prime);
            if product > u128::from(u64::MAX) {
                bytes = multiply(&bytes, product);
                product = 1;
            }
        }
        bytes = multiply(&bytes, product * 2);
        *bytes.last_mut().unwrap() += 1;
        assert!(is_weak_modulus(&bytes));
    }

    fn multiply(number: &[u8], by: u128) -> Vec<u8> {
        let mut carry: u128 = 0;
        let mut out = Vec::new();
        for digit in number.iter().rev() {
            carry += u128::from(*digit) * by;
            out.push((carry & 0xff) as u8);
            carry >>= 8;
        }
        while carry > 0 {
            out.push((carry & 0xff) as u8);
            carry >>= 8;
        }
        out.reverse();
        out
    }

    #[test]
    fn small_factors_are_found() {
        assert!(is_weak_modulus(&[0xff; 256]), "divisible by 3");
        assert!(is_weak_modulus(&[0x80; 256]), "even");
        assert!(!is_weak_modulus(&[0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), "the prime 2^61 - 1");
    }

    #[test]
    fn points_of_small_order_are_refused() {
        for low in [0_u8, 1] {
            let mut point = [0; 32];
            point[0] = low;
            assert!(check_ed25519(&point).is_err());
            point[31] = 0x80;
            assert!(check_ed25519(&point).is_err());
        }
        for point in ED25519_ORDER_8 {
            assert!(check_ed25519(&point).is_err());
        }
        assert!(check_ed25519(&[7; 32]).is_ok());
        assert!(check_ed25519(&[7; 31]).is_err());
    }
}
