//! A CA's chain as it was configured: reading it, and every fault that it can have.

use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{
    certificate::X509Certificate,
    extensions::ParsedExtension,
    oid_registry::{OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA},
    prelude::FromDer,
    x509::X509Version,
};

use crate::model::{Timestamp, pem};

/// The most certificates of a chain, root not counted.
pub const MAX_CHAIN: usize = 4;

/// The certificates of a chain, DER: issuing certificate, intermediates, root.
pub(super) struct Chain {
    certificates: Vec<Vec<u8>>,
}

impl Chain {
    pub(super) fn read(chain_pem: &[u8], root_pem: &[u8]) -> Result<Self, String> {
        let mut certificates = read_pem(chain_pem, "chain")?;
        if certificates.is_empty() || certificates.len() > MAX_CHAIN {
            return Err(format!("the chain has {} certificates; it must have 1 to {MAX_CHAIN}", certificates.len()));
        }
        let roots = read_pem(root_pem, "root")?;
        let [root] = roots.as_slice() else {
            return Err(format!("the root file has {} certificates; it must have exactly one", roots.len()));
        };
        if certificates.contains(root) {
            return Err("the chain contains the root; list the certificates below it only, and issue from a CA under the root".to_owned());
        }
        certificates.push(root.clone());
        Ok(Self { certificates })
    }

    /// A CA that is its own root: nothing lies between it and the leaves.
    pub(super) fn self_signed(root_pem: &[u8]) -> Result<Self, String> {
        match read_pem(root_pem, "root")?.as_slice() {
            [root] => Ok(Self { certificates: vec![root.clone()] }),
            roots => Err(format!("a CA that is its own root has one certificate, not {}", roots.len())),
        }
    }

    /// The certificates, parsed, the issuing one first and the root last.
    pub(super) fn parse(&self) -> Result<Vec<X509Certificate<'_>>, String> {
        self.certificates
            .iter()
            .enumerate()
            .map(|(position, der)| match X509Certificate::from_der(der) {
                Ok(([], certificate)) => Ok(certificate),
                Ok(_) => Err(format!("certificate {} of the chain has bytes after its end", position + 1)),
                Err(error) => Err(format!("certificate {} of the chain does not parse: {error}", position + 1)),
            })
            .collect()
    }

    pub(super) fn to_pem(&self) -> String {
        let below_root = &self.certificates[..self.certificates.len() - 1];
        below_root.iter().map(|der| pem_certificate(der)).collect()
    }

    /// Everything below the root, and the root.
    pub(super) fn into_der(mut self) -> (Vec<Vec<u8>>, Vec<u8>) {
        let root = self.certificates.pop().unwrap_or_default();
        (self.certificates, root)
    }
}

pub(super) fn read_pem(pem: &[u8], what: &str) -> Result<Vec<Vec<u8>>, String> {
    CertificateDer::pem_slice_iter(pem)
        .map(|der| der.map(|der| der.to_vec()).map_err(|error| format!("the {what} file is no PEM of certificates: {error}")))
        .collect()
}

/// A certificate in PEM (RFC 7468 section 5).
pub(super) fn pem_certificate(der: &[u8]) -> String {
    let mut text = String::new();
    pem::push(&mut text, "CERTIFICATE", der);
    text
}

/// Every fault of a chain, the issuing certificate first and the root last.
pub(super) fn faults(certificates: &[X509Certificate<'_>], now: Timestamp) -> Vec<String> {
    let mut faults = Vec::new();
    for (below, certificate) in certificates.iter().enumerate() {
        let what = format!("certificate {} of the chain ({})", below + 1, certificate.subject());
        faults.extend(ca_faults(certificate, below, now).into_iter().map(|fault| format!("{what} {fault}")));
        if below == 0 && !may_sign_crls(certificate) {
            faults.push(format!("{what} may not sign CRLs (keyUsage without cRLSign)"));
        }
        let signer = certificates.get(below + 1).unwrap_or(certificate);
        faults.extend(link_faults(certificate, signer).into_iter().map(|fault| format!("{what} {fault}")));
    }
    if let Some(issuing) = certificates.first()
        && subject_key_id(issuing).is_none()
    {
        faults.push("the issuing certificate has no subject key identifier (RFC 5280 section 4.2.1.2)".to_owned());
    }
    faults
}

/// Without a keyUsage at all is another fault.
fn may_sign_crls(certificate: &X509Certificate<'_>) -> bool {
    certificate.key_usage().ok().flatten().is_none_or(|usage| usage.value.crl_sign())
}

/// What keeps a certificate from being a CA with `below` other CAs under it (RFC 5280 sections 4.2.1.3 and 4.2.1.9).
pub(super) fn ca_faults(certificate: &X509Certificate<'_>, below: usize, now: Timestamp) -> Vec<String> {
    let mut faults = Vec::new();
    if certificate.version() != X509Version::V3 {
        faults.push("is not of version 3".to_owned());
    }
    match certificate.basic_constraints() {
        Ok(Some(constraints)) if constraints.value.ca => {
            if constraints.value.path_len_constraint.is_some_and(|limit| usize::try_from(limit).unwrap_or(usize::MAX) < below) {
                faults.push(format!("allows fewer CAs under it than the {below} that stand there (pathLenConstraint)"));
            }
        }
        _ => faults.push("is no CA (basicConstraints without CA:TRUE)".to_owned()),
    }
    match certificate.key_usage() {
        Ok(Some(usage)) => {
            if !usage.value.key_cert_sign() {
                faults.push("may not sign certificates (keyUsage without keyCertSign)".to_owned());
            }
        }
        _ => faults.push("has no keyUsage".to_owned()),
    }
    let at = now.as_second();
    if at < certificate.validity().not_before.timestamp() {
        faults.push(format!("is not valid before {}", certificate.validity().not_before));
    }
    if at >= certificate.validity().not_after.timestamp() {
        faults.push(format!("expired at {}", certificate.validity().not_after));
    }
    faults
}

/// What keeps a certificate from being issued by another one.
pub(super) fn link_faults(certificate: &X509Certificate<'_>, signer: &X509Certificate<'_>) -> Vec<String> {
    let mut faults = Vec::new();
    if certificate.issuer().as_raw() != signer.subject().as_raw() {
        faults.push(format!(
            "is issued by {:?}, and the next certificate is {:?}",
            certificate.issuer().to_string(),
            signer.subject().to_string()
        ));
    }
    if let (Some(named), Some(held)) = (authority_key_id(certificate), subject_key_id(signer))
        && named != held
    {
        faults.push("names another authority key than the next certificate has".to_owned());
    }
    let algorithm = &certificate.signature_algorithm.algorithm;
    if *algorithm == OID_PKCS1_SHA1WITHRSA || *algorithm == OID_SHA1_WITH_RSA {
        faults.push("is signed with SHA-1".to_owned());
    } else if certificate.verify_signature(Some(signer.public_key())).is_err() {
        faults.push("has a signature that the next certificate's key does not verify".to_owned());
    }
    faults
}

/// From when until when every certificate is valid.
pub(super) fn validity(certificates: &[X509Certificate<'_>]) -> Option<(Timestamp, Timestamp)> {
    let start = certificates.iter().map(|certificate| certificate.validity().not_before.timestamp()).max()?;
    let end = certificates.iter().map(|certificate| certificate.validity().not_after.timestamp()).min()?;
    Some((Timestamp::from_second(start).ok()?, Timestamp::from_second(end).ok()?))
}

/// The subject key identifier.
pub(super) fn subject_key_id<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    })
}

fn authority_key_id<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0),
        _ => None,
    })
}
