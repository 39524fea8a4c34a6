//! What is taken from a certificate signing request: its public key, and nothing else.

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rcgen::{PublicKeyData, SignatureAlgorithm};
use x509_parser::{
    asn1_rs::{Any, BitString, Class, FromDer, Integer, Oid, Sequence, Tag, oid},
    public_key::RSAPublicKey,
    x509::{AlgorithmIdentifier, SubjectPublicKeyInfo},
};

use crate::model::{
    error::{Code, Error, Result},
    request::MAX_CSR,
    role::KeyType,
};

/// The shortest RSA modulus, in bits.
pub const MIN_RSA_BITS: usize = 2048;
/// The longest RSA modulus, in bits: a longer one costs every verifier time and gains nothing.
pub const MAX_RSA_BITS: usize = 4096;
/// The smallest RSA public exponent (FIPS 186-5 section 5.4).
pub const MIN_RSA_EXPONENT: u64 = 65_537;

const EC_PUBLIC_KEY: Oid<'static> = oid!(1.2.840.10045.2.1);
const P256: Oid<'static> = oid!(1.2.840.10045.3.1.7);
const P384: Oid<'static> = oid!(1.3.132.0.34);
const ED25519: Oid<'static> = oid!(1.3.101.112);
const RSA_ENCRYPTION: Oid<'static> = oid!(1.2.840.113549.1.1.1);
const ECDSA_SHA256: Oid<'static> = oid!(1.2.840.10045.4.3.2);
const ECDSA_SHA384: Oid<'static> = oid!(1.2.840.10045.4.3.3);
const ECDSA_SHA512: Oid<'static> = oid!(1.2.840.10045.4.3.4);
const RSA_SHA256: Oid<'static> = oid!(1.2.840.113549.1.1.11);
const RSA_SHA384: Oid<'static> = oid!(1.2.840.113549.1.1.12);
const RSA_SHA512: Oid<'static> = oid!(1.2.840.113549.1.1.13);

/// A request that was read and not yet verified. Its subject and attributes are stepped over, never interpreted.
pub struct ParsedCsr<'a> {
    info: &'a [u8],
    key: SubjectKey,
    algorithm: AlgorithmIdentifier<'a>,
    signature: BitString<'a>,
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
        let key = SubjectKey::from_spki(&parts.spki)?;
        Ok(Self { info: parts.info, key, algorithm: parts.algorithm, signature: parts.signature })
    }

    /// Checks that the holder of the private key signed it, with SHA-2, and that the role takes keys of this type.
    pub fn verify(self, accepted: &[KeyType]) -> Result<SubjectKey> {
        let kind = self.key.key_type;
        if !accepted.contains(&kind) {
            let names: Vec<&str> = accepted.iter().map(|key_type| key_type_name(*key_type)).collect();
            return Err(invalid(format!("the role takes no {} key; it takes {}", key_type_name(kind), names.join(", "))));
        }
        let algorithm = verification_algorithm(kind, &self.algorithm).ok_or_else(|| {
            invalid(format!("the CSR's signature algorithm does not fit its {} key, or is weaker than SHA-256", key_type_name(kind)))
        })?;
        if self.signature.unused_bits != 0 {
            return Err(invalid("the CSR's signature is no whole number of bytes"));
        }
        // For EC this also refuses points that are not on the curve.
        UnparsedPublicKey::new(algorithm, &self.key.raw)
            .verify(self.info, &self.signature.data)
            .map_err(|_| invalid("the CSR is not signed by the key that it holds"))?;
        Ok(self.key)
    }
}

struct Parts<'a> {
    info: &'a [u8],
    spki: SubjectPublicKeyInfo<'a>,
    algorithm: AlgorithmIdentifier<'a>,
    signature: BitString<'a>,
}

impl<'a> Parts<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        let (after, request) = Sequence::from_der(der).ok()?;
        let content: &'a [u8] = borrowed(request)?;
        let (rest, info_content) = Sequence::from_der(content).ok()?;
        let info = &content[..content.len() - rest.len()];
        let (rest, algorithm) = AlgorithmIdentifier::from_der(rest).ok()?;
        let (rest, signature) = BitString::from_der(rest).ok()?;
        if !after.is_empty() || !rest.is_empty() {
            return None;
        }
        let (rest, version) = Integer::from_der(borrowed(info_content)?).ok()?;
        let (rest, subject) = Any::from_der(rest).ok()?;
        let (rest, spki) = SubjectPublicKeyInfo::from_der(rest).ok()?;
        let (rest, attributes) = Any::from_der(rest).ok()?;
        let attributes_ok = attributes.class() == Class::ContextSpecific && attributes.tag() == Tag(0) && attributes.header.constructed();
        let version_ok = version.as_u32() == Ok(0);
        (version_ok && subject.tag() == Tag::Sequence && attributes_ok && rest.is_empty()).then_some(Self {
            info,
            spki,
            algorithm,
            signature,
        })
    }
}

/// The bytes of a sequence that borrows from its input; `from_der` makes no other.
fn borrowed(sequence: Sequence<'_>) -> Option<&[u8]> {
    match sequence.content {
        std::borrow::Cow::Borrowed(bytes) => Some(bytes),
        std::borrow::Cow::Owned(_) => None,
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

    fn from_spki(spki: &SubjectPublicKeyInfo<'_>) -> Result<Self> {
        if spki.subject_public_key.unused_bits != 0 {
            return Err(invalid("the CSR's key is no whole number of bytes"));
        }
        let raw: &[u8] = &spki.subject_public_key.data;
        let algorithm = &spki.algorithm.algorithm;
        let parameters = spki.algorithm.parameters.as_ref();
        let key_type = if *algorithm == EC_PUBLIC_KEY {
            ec_key_type(parameters, raw)?
        } else if *algorithm == ED25519 && parameters.is_none() {
            check_ed25519(raw)?;
            KeyType::Ed25519
        } else if *algorithm == RSA_ENCRYPTION && parameters.is_some_and(is_null) {
            check_rsa(raw)?;
            KeyType::Rsa
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

fn is_null(any: &Any<'_>) -> bool {
    any.tag() == Tag::Null && any.data.is_empty()
}

fn key_type_name(key_type: KeyType) -> &'static str {
    match key_type {
        KeyType::P256 => "P-256",
        KeyType::P384 => "P-384",
        KeyType::Ed25519 => "Ed25519",
        KeyType::Rsa => "RSA",
    }
}

fn verification_algorithm(kind: KeyType, stated: &AlgorithmIdentifier<'_>) -> Option<&'static dyn VerificationAlgorithm> {
    let parameters = stated.parameters.as_ref();
    let parameters_ok = match kind {
        KeyType::Rsa => parameters.is_none_or(is_null),
        KeyType::P256 | KeyType::P384 | KeyType::Ed25519 => parameters.is_none(),
    };
    if !parameters_ok {
        return None;
    }
    let table: [(KeyType, Oid<'static>, &'static dyn VerificationAlgorithm); 10] = [
        (KeyType::P256, ECDSA_SHA256, &signature::ECDSA_P256_SHA256_ASN1),
        (KeyType::P256, ECDSA_SHA384, &signature::ECDSA_P256_SHA384_ASN1),
        (KeyType::P256, ECDSA_SHA512, &signature::ECDSA_P256_SHA512_ASN1),
        (KeyType::P384, ECDSA_SHA256, &signature::ECDSA_P384_SHA256_ASN1),
        (KeyType::P384, ECDSA_SHA384, &signature::ECDSA_P384_SHA384_ASN1),
        (KeyType::P384, ECDSA_SHA512, &signature::ECDSA_P384_SHA512_ASN1),
        (KeyType::Ed25519, ED25519, &signature::ED25519),
        (KeyType::Rsa, RSA_SHA256, &signature::RSA_PKCS1_2048_8192_SHA256),
        (KeyType::Rsa, RSA_SHA384, &signature::RSA_PKCS1_2048_8192_SHA384),
        (KeyType::Rsa, RSA_SHA512, &signature::RSA_PKCS1_2048_8192_SHA512),
    ];
    table.into_iter().find(|(key_type, oid, _)| *key_type == kind && *oid == stated.algorithm).map(|(.., algorithm)| algorithm)
}

/// The named curve of an EC key whose point is uncompressed (RFC 5480 sections 2.1.1 and 2.2).
fn ec_key_type(parameters: Option<&Any<'_>>, point: &[u8]) -> Result<KeyType> {
    let curve = parameters
        .and_then(|any| any.as_oid().ok())
        .ok_or_else(|| invalid("the CSR's EC key names no curve; explicit parameters are not taken (RFC 5480 section 2.1.1)"))?;
    let (key_type, length) = if curve == P256 {
        (KeyType::P256, 65)
    } else if curve == P384 {
        (KeyType::P384, 97)
    } else {
        return Err(invalid("the CSR's EC key is on no curve that is taken here; use P-256 or P-384"));
    };
    if point.len() != length || point[0] != 4 {
        return Err(invalid("the CSR's EC point is not in uncompressed form"));
    }
    Ok(key_type)
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
    let (_, key) = RSAPublicKey::from_der(raw).map_err(|_| invalid("the CSR's RSA key does not parse"))?;
    // The content of a positive INTEGER: a leading zero stands there when, and only when, the next bit is set.
    let modulus = key.modulus.strip_prefix(&[0]).unwrap_or_default();
    let bits = modulus.len() * 8;
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) || modulus[0] < 0x80 {
        return Err(invalid(format!("the CSR's RSA key must have {MIN_RSA_BITS} to {MAX_RSA_BITS} bits, in whole bytes")));
    }
    let exponent = key.try_exponent().unwrap_or(0);
    if u64::from(exponent) < MIN_RSA_EXPONENT || exponent % 2 == 0 {
        return Err(invalid(format!("the CSR's RSA exponent must be odd, {MIN_RSA_EXPONENT} at least and below 2^32")));
    }
    if canonical_rsa(key.modulus, key.exponent) != raw {
        return Err(invalid("the CSR's RSA key is not in DER"));
    }
    if is_weak_modulus(modulus) {
        return Err(invalid("the CSR's RSA modulus is weak: it has a small factor, or the mark of CVE-2017-15361"));
    }
    Ok(())
}

fn canonical_rsa(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let significant = exponent.iter().position(|byte| *byte != 0).map_or(&exponent[..0], |at| &exponent[at..]);
    let pad: &[u8] = if significant.first().is_some_and(|byte| *byte >= 0x80) { &[0] } else { &[] };
    let integers = [tlv(0x02, modulus), tlv(0x02, &[pad, significant].concat())].concat();
    tlv(0x30, &integers)
}

/// One DER element of at most 64 KiB.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
    let [high, low] = length.to_be_bytes();
    let mut out = match length {
        0..0x80 => vec![tag, low],
        0x80..0x100 => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    out.extend_from_slice(content);
    out
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
        *bytes.last_mut().unwrap() += 5;
        assert!(is_weak_modulus(&bytes) || !bytes.last().unwrap().is_multiple_of(2));
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
        assert!(!is_weak_modulus(&[1, 0, 0, 0, 0, 0, 0, 43]));
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
