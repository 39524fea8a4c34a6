//! The key pair of a new certificate, and the request that proves its possession.
//!
//! The one place of this wing that uses rcgen: it encodes a PKCS #10 request and signs no certificate.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate, X509CertificationRequest};
use zeroize::{Zeroize, Zeroizing};

use super::error::{Error, Kind, Result};
use crate::model::hex;

/// The largest request that a server takes, in bytes of DER.
pub const MAX_CSR: usize = 16 * 1024;

/// A certificate request, with the public key that the certificate must have.
#[derive(Clone, PartialEq, Eq)]
pub struct Csr {
    der: Vec<u8>,
    public_key: Vec<u8>,
}

/// A private key, PKCS #8 in PEM, wiped when dropped.
pub struct PrivateKey(Zeroizing<String>);

impl PrivateKey {
    /// The PEM text: secret.
    pub fn pem(&self) -> &str {
        &self.0
    }
}

/// Nothing of it.
impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// Makes a P-256 key pair, and a request for it that names nothing: what a certificate says is the server's to decide.
///
/// # Errors
/// When the system gives no randomness.
pub fn make() -> Result<(PrivateKey, Csr)> {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| failed(&error))?;
    request(pair)
}

/// The same for a key pair that was made before: another request for the same key.
///
/// # Errors
/// When it is no private key in PEM that can be used here.
pub fn again(pem: &str) -> Result<(PrivateKey, Csr)> {
    request(KeyPair::from_pem(pem).map_err(|error| failed(&error))?)
}

fn failed(error: &rcgen::Error) -> Error {
    Error::new(Kind::Other, "KEY", format!("a key pair cannot be made or used here: {error}"))
}

fn request(mut pair: KeyPair) -> Result<(PrivateKey, Csr)> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&pair).map_err(|error| failed(&error))?;
    let csr = Csr { der: request.der().to_vec(), public_key: pair.subject_public_key_info() };
    let key = PrivateKey(Zeroizing::new(pair.serialize_pem()));
    pair.zeroize();
    Ok((key, csr))
}

impl Csr {
    /// From a file's bytes: PEM, or DER.
    ///
    /// # Errors
    /// Says what is wrong, as the end of a sentence about the file.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let der = match CertificateSigningRequestDer::from_pem_slice(bytes) {
            Ok(der) => der.to_vec(),
            Err(_) => bytes.to_vec(),
        };
        if der.len() > MAX_CSR {
            return Err(format!("is larger than {MAX_CSR} bytes"));
        }
        let public_key = match X509CertificationRequest::from_der(&der) {
            Ok(([], request)) => request.certification_request_info.subject_pki.raw.to_vec(),
            _ => return Err("holds no certificate request (PKCS #10, PEM or DER)".to_owned()),
        };
        Ok(Self { der, public_key })
    }

    /// The request, DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The serial of a certificate (lower-case hex), once it is sure that it certifies this very key.
    ///
    /// # Errors
    /// When it is no certificate, or another key's.
    pub fn serial_of(&self, leaf_der: &[u8]) -> Result<String> {
        let Ok(([], leaf)) = X509Certificate::from_der(leaf_der) else {
            return Err(Error::bad_answer("holds something that is no X.509 certificate"));
        };
        if leaf.public_key().raw != self.public_key {
            return Err(Error::new(
                Kind::Other,
                "WRONG_KEY",
                "the server's certificate is for another key than this one; nothing was written. \
                 If you gave --request-id, it was used before: take a new one",
            ));
        }
        let serial = hex::encode(leaf.raw_serial());
        // A DER integer has a zero byte in front when its first bit is set; it is no part of the number.
        let shown = if leaf.raw_serial().len() > 1 { serial.strip_prefix("00").unwrap_or(&serial) } else { &serial };
        Ok(shown.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::SerialNumber;

    use super::*;

    fn certificate(pair: &KeyPair, serial: &[u8]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(serial));
        params.self_signed(pair).unwrap().der().to_vec()
    }

    #[test]
    fn a_request_is_small_signed_by_its_key_and_names_nothing() {
        let (key, csr) = make().unwrap();
        let (rest, parsed) = X509CertificationRequest::from_der(csr.der()).unwrap();
        assert!(rest.is_empty());
        parsed.verify_signature().unwrap();
        assert_eq!(parsed.certification_request_info.subject.iter().count(), 0);
        assert!(csr.der().len() < 400);
        let pair = KeyPair::from_pem(key.pem()).unwrap();
        assert_eq!(pair.subject_public_key_info(), csr.public_key);
        assert_eq!(pair.algorithm(), &PKCS_ECDSA_P256_SHA256);
    }

    #[test]
    fn no_key_is_made_twice_or_printed() {
        let (key, csr) = make().unwrap();
        assert_ne!(csr.public_key, make().unwrap().1.public_key);
        assert_eq!(format!("{key:?}"), "PrivateKey(..)");
    }

    #[test]
    fn pem_and_der_are_read_and_nothing_else() {
        let pair = KeyPair::generate().unwrap();
        let request = CertificateParams::default().serialize_request(&pair).unwrap();
        let der = request.der().to_vec();
        assert_eq!(Csr::parse(&der).unwrap().der(), der);
        assert_eq!(Csr::parse(request.pem().unwrap().as_bytes()).unwrap().der(), der);
        let trailing = [der.as_slice(), b"x"].concat();
        for bad in [b"".as_slice(), b"nonsense", &der[..der.len() - 1], &trailing, pair.serialize_pem().as_bytes()] {
            assert!(Csr::parse(bad).is_err());
        }
        assert!(Csr::parse(&vec![0x30; MAX_CSR + 1]).err().unwrap().contains("larger"));
    }

    #[test]
    fn only_a_certificate_for_the_key_is_taken() {
        let pair = KeyPair::generate().unwrap();
        let csr = Csr::parse(CertificateParams::default().serialize_request(&pair).unwrap().der()).unwrap();
        assert_eq!(csr.serial_of(&certificate(&pair, &[0x0a, 0x1b])).unwrap(), "0a1b");
        assert_eq!(csr.serial_of(&certificate(&pair, &[0xff, 0x01])).unwrap(), "ff01");
        let other = certificate(&KeyPair::generate().unwrap(), &[1]);
        assert_eq!(csr.serial_of(&other).unwrap_err().code(), "WRONG_KEY");
        assert_eq!(csr.serial_of(b"x").unwrap_err().code(), "BAD_ANSWER");
    }
}
