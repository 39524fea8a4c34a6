//! A CA that certifies the keys by which registry tokens are signed. It is no issuing CA: nobody else gets a certificate of it, and it
//! has no CRL, because a registry reads none; its certificates are short instead.

use std::sync::Arc;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, PublicKeyData, SerialNumber, SigningKey,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{
    authority::{date_time, issuing_params, whole_seconds},
    chain,
    csr::SubjectKey,
    key::{CaKey, key_identifier},
    plan::Serial,
};
use crate::{
    issuer::KeyCertifier,
    model::{
        Timestamp,
        error::{Code, Error, Result},
    },
};

/// The subject of every certificate that it makes; registries read no more of it than that it is there.
const SUBJECT: &str = "registry token signer";

/// A CA for keys that sign registry tokens, checked at load.
pub struct TokenCa {
    key: Arc<dyn CaKey>,
    params: CertificateParams,
    /// What a token carries above its key's certificate: every certificate of the file that is not self-signed.
    above: Vec<Vec<u8>>,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl TokenCa {
    /// Loads a CA and checks it at `now`. The file has the issuing certificate first, then those above it, if any; a registry's
    /// `rootcertbundle` is this very file, so that all of it must be what a registry can read: of version 2.8 an Ed25519 key there ends the
    /// process. Gives every fault.
    pub fn load(certificate_pem: &[u8], key: Arc<dyn CaKey>, now: Timestamp) -> Result<Self, Vec<String>> {
        let ders = chain::read_pem(certificate_pem, "certificate").map_err(|fault| vec![fault])?;
        if ders.is_empty() || ders.len() > chain::MAX_CHAIN {
            return Err(vec![format!("the certificate file has {} certificates; it must have 1 to {}", ders.len(), chain::MAX_CHAIN)]);
        }
        let certificates = parse(&ders).map_err(|fault| vec![fault])?;
        let mut faults = faults(&certificates, now);
        let issuing = &certificates[0];
        if key.der_bytes() != &*issuing.public_key().subject_public_key.data {
            faults.push("the key is not the first certificate's".to_owned());
        }
        let params = issuing_params(issuing).map_err(|fault| faults.push(fault)).ok();
        let (Some(params), Some((not_before, not_after)), true) = (params, chain::validity(&certificates), faults.is_empty()) else {
            return Err(faults);
        };
        let sent = |certificate: &X509Certificate<'_>| certificate.subject().as_raw() != certificate.issuer().as_raw();
        let above = certificates.iter().zip(&ders).filter(|(certificate, _)| sent(certificate)).map(|(_, der)| der.clone()).collect();
        let ca = Self { key, params, above, not_before, not_after };
        ca.prove_key(issuing, now).map_err(|fault| vec![fault])?;
        Ok(ca)
    }

    /// Certifies its own key and verifies that with its certificate: so the key works, and the CA's name is repeated byte for byte.
    fn prove_key(&self, issuing: &X509Certificate<'_>, now: Timestamp) -> Result<(), String> {
        let key = super::FileKey::generate().map_err(|error| error.to_string())?;
        let der = self.sign(&SubjectKey::p256(key.der_bytes()), now, self.not_after)?;
        let (_, leaf) = X509Certificate::from_der(&der).map_err(|error| format!("a certificate by the key does not parse: {error}"))?;
        match chain::link_faults(&leaf, issuing).as_slice() {
            [] => Ok(()),
            faults => Err(format!("a certificate that the key signs {}", faults.join("; it "))),
        }
    }

    fn sign(&self, key: &SubjectKey, not_before: Timestamp, not_after: Timestamp) -> Result<Vec<u8>, String> {
        let mut params = CertificateParams::default();
        params.not_before = date_time(whole_seconds(not_before.max(self.not_before)))?;
        params.not_after = date_time(whole_seconds(not_after.min(self.not_after)))?;
        params.serial_number = Some(SerialNumber::from_slice(Serial::random().as_bytes()));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, SUBJECT);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.key_identifier_method = KeyIdMethod::PreSpecified(key_identifier(key.der_bytes()));
        let issuer = Issuer::from_params(&self.params, Borrowed(&*self.key));
        params.signed_by(key, &issuer).map(|certificate| certificate.der().to_vec()).map_err(|error| error.to_string())
    }
}

impl KeyCertifier for TokenCa {
    fn certify(&self, public_key: &[u8], not_before: Timestamp, not_after: Timestamp) -> Result<Vec<Vec<u8>>> {
        let key = SubjectKey::p256_from_spki(public_key).ok_or_else(|| Error::internal("no P-256 key was given to be certified"))?;
        let leaf = self.sign(&key, not_before, not_after).map_err(|error| {
            let public = "no token can be signed for this registry now; try again later, and tell the operators if it stays so";
            Error::new(Code::IssuerUnavailable, public).because(format_args!("the registry's token CA: {error}"))
        })?;
        Ok([leaf].into_iter().chain(self.above.iter().cloned()).collect())
    }

    fn not_after(&self) -> Timestamp {
        self.not_after
    }
}

/// rcgen takes a key by its own type.
struct Borrowed<'a>(&'a dyn CaKey);

impl PublicKeyData for Borrowed<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for Borrowed<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

fn parse(ders: &[Vec<u8>]) -> Result<Vec<X509Certificate<'_>>, String> {
    ders.iter()
        .enumerate()
        .map(|(position, der)| match X509Certificate::from_der(der) {
            Ok(([], certificate)) => Ok(certificate),
            Ok(_) => Err(format!("certificate {} has bytes after its end", position + 1)),
            Err(error) => Err(format!("certificate {} does not parse: {error}", position + 1)),
        })
        .collect()
}

fn faults(certificates: &[X509Certificate<'_>], now: Timestamp) -> Vec<String> {
    let mut faults = Vec::new();
    for (below, certificate) in certificates.iter().enumerate() {
        let what = format!("certificate {} ({})", below + 1, certificate.subject());
        let mut own = chain::ca_faults(certificate, below, now);
        if !registries_know_key_of(certificate) {
            own.push("has a key that registries do not take there; use P-256, P-384 or RSA".to_owned());
        }
        let self_signed = certificate.subject().as_raw() == certificate.issuer().as_raw();
        if let Some(signer) = certificates.get(below + 1).or(self_signed.then_some(certificate)) {
            own.extend(chain::link_faults(certificate, signer));
        }
        faults.extend(own.into_iter().map(|fault| format!("{what} {fault}")));
    }
    if certificates.first().is_some_and(|issuing| chain::subject_key_id(issuing).is_none()) {
        faults.push("the first certificate has no subject key identifier (RFC 5280 section 4.2.1.2)".to_owned());
    }
    faults
}

/// What distribution 2.8 finds a place for.
fn registries_know_key_of(certificate: &X509Certificate<'_>) -> bool {
    use x509_parser::public_key::PublicKey;
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(_)) => true,
        Ok(PublicKey::EC(point)) => matches!(point.key_size(), 256 | 384),
        _ => false,
    }
}
