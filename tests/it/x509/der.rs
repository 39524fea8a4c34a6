//! DER by hand, for requests that no library makes.

use rcgen::{KeyPair, PublicKeyData};

use super::tools::sign;

pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..=0x7f => out.push(length as u8),
        0x80..=0xff => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend(content);
    out
}

pub fn seq(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

pub fn set(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x31, &parts.concat())
}

/// An OBJECT IDENTIFIER from its arcs.
pub fn oid(arcs: &[u64]) -> Vec<u8> {
    let mut content = vec![(arcs[0] * 40 + arcs[1]) as u8];
    for arc in &arcs[2..] {
        let mut bytes = vec![(arc & 0x7f) as u8];
        let mut rest = arc >> 7;
        while rest > 0 {
            bytes.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        bytes.reverse();
        content.extend(bytes);
    }
    tlv(6, &content)
}

pub fn null() -> Vec<u8> {
    vec![5, 0]
}

pub fn bits(content: &[u8]) -> Vec<u8> {
    tlv(3, &[&[0], content].concat())
}

/// A positive INTEGER.
pub fn uint(bytes: &[u8]) -> Vec<u8> {
    let pad: &[u8] = if bytes[0] >= 0x80 { &[0] } else { &[] };
    tlv(2, &[pad, bytes].concat())
}

pub const EC: &[u64] = &[1, 2, 840, 10045, 2, 1];
pub const P256: &[u64] = &[1, 2, 840, 10045, 3, 1, 7];
pub const ECDSA_SHA256: &[u64] = &[1, 2, 840, 10045, 4, 3, 2];
pub const RSA: &[u64] = &[1, 2, 840, 113_549, 1, 1, 1];
pub const RSA_SHA256: &[u64] = &[1, 2, 840, 113_549, 1, 1, 11];
pub const ED25519: &[u64] = &[1, 3, 101, 112];

/// The parts of a request, each an encoded element. What is signed is what they make.
#[derive(Clone)]
pub struct Csr {
    pub version: Vec<u8>,
    pub subject: Vec<u8>,
    pub spki: Vec<u8>,
    pub attributes: Vec<u8>,
    pub algorithm: Vec<u8>,
}

impl Csr {
    /// A plain request of a P-256 key.
    pub fn plain(pair: &KeyPair) -> Self {
        Self {
            version: uint(&[0]),
            subject: seq(&[]),
            spki: pair.subject_public_key_info(),
            attributes: tlv(0xa0, &[]),
            algorithm: seq(&[&oid(ECDSA_SHA256)]),
        }
    }

    pub fn info(&self) -> Vec<u8> {
        seq(&[&self.version, &self.subject, &self.spki, &self.attributes])
    }

    pub fn signed(&self, pair: &KeyPair) -> Vec<u8> {
        self.with_signature(&sign(pair, &self.info()))
    }

    pub fn with_signature(&self, signature: &[u8]) -> Vec<u8> {
        self.with_signature_element(&bits(signature))
    }

    pub fn with_signature_element(&self, element: &[u8]) -> Vec<u8> {
        seq(&[&self.info(), &self.algorithm, element])
    }
}

pub fn ec_spki(curve: &[u64], point: &[u8]) -> Vec<u8> {
    seq(&[&seq(&[&oid(EC), &oid(curve)]), &bits(point)])
}

pub fn rsa_spki(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    rsa_spki_of(&seq(&[&uint(modulus), &uint(exponent)]))
}

pub fn rsa_spki_of(key: &[u8]) -> Vec<u8> {
    seq(&[&seq(&[&oid(RSA), &null()]), &bits(key)])
}

/// An attribute of a request.
pub fn attribute(arcs: &[u64], values: &[&[u8]]) -> Vec<u8> {
    seq(&[&oid(arcs), &set(values)])
}

/// An extension.
pub fn extension(arcs: &[u64], critical: bool, value: &[u8]) -> Vec<u8> {
    let flag: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
    seq(&[&oid(arcs), flag, &tlv(4, value)])
}

/// The attributes element with an extension request.
pub fn asking(extensions: &[&[u8]]) -> Vec<u8> {
    tlv(0xa0, &extension_request(extensions))
}

pub fn extension_request(extensions: &[&[u8]]) -> Vec<u8> {
    attribute(&[1, 2, 840, 113_549, 1, 9, 14], &[&seq(extensions)])
}

/// A relative name of one attribute.
pub fn rdn(arcs: &[u64], string_tag: u8, text: &[u8]) -> Vec<u8> {
    set(&[&seq(&[&oid(arcs), &tlv(string_tag, text)])])
}

/// The TBSCertificate of a certificate.
pub fn tbs_of(certificate: &[u8]) -> &[u8] {
    let inner = content(certificate);
    let (header, length) = header(inner);
    &inner[..header + length]
}

/// The elements within an element's content.
pub fn split(content: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = content;
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let (header, length) = header(rest);
        parts.push(rest[..header + length].to_vec());
        rest = &rest[header + length..];
    }
    parts
}

/// An element's content.
pub fn content(element: &[u8]) -> &[u8] {
    &element[header(element).0..]
}

fn header(element: &[u8]) -> (usize, usize) {
    match element[1] {
        0..=0x7f => (2, usize::from(element[1])),
        0x81 => (3, usize::from(element[2])),
        _ => (4, usize::from(element[2]) << 8 | usize::from(element[3])),
    }
}
