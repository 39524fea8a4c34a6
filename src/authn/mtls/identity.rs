//! One identity out of a verified leaf: by explicit mapping, exactly one candidate, nothing normalised.

use aws_lc_rs::digest::{SHA256, digest};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use crate::model::{
    Timestamp, hex,
    identity::{CertificateIdentity, PeerCertificate, Subject},
    name::{TrustDomain, host_fault},
    spiffe::SpiffeId,
};

/// The longest common name, in characters (RFC 5280 appendix A.1, `ub-common-name`).
pub const MAX_COMMON_NAME: usize = 64;

/// Reads a leaf; the error says what is wrong with it, for its holder.
pub(super) fn read(leaf_der: &[u8], trust_domain: &TrustDomain, mapping: CertificateIdentity) -> Result<PeerCertificate, String> {
    let (rest, leaf) = X509Certificate::from_der(leaf_der).map_err(|_| "it is not a valid X.509 certificate".to_owned())?;
    if !rest.is_empty() {
        return Err("something follows it".to_owned());
    }
    check_usage(&leaf)?;
    let id = match mapping {
        CertificateIdentity::Spiffe => spiffe(&leaf, trust_domain)?,
        CertificateIdentity::Dns => dns(&leaf)?,
        CertificateIdentity::Cn => common_name(&leaf)?,
    };
    let canonical = match mapping {
        CertificateIdentity::Spiffe => id.clone(),
        CertificateIdentity::Dns => format!("dns:{trust_domain}/{id}"),
        CertificateIdentity::Cn => format!("cn:{trust_domain}/{id}"),
    };
    Ok(PeerCertificate {
        trust_domain: trust_domain.clone(),
        identity: mapping,
        id,
        subject: Subject::try_from(canonical).map_err(|fault| format!("its identity makes no subject: {fault}"))?,
        serial: hex::encode(leaf.raw_serial()),
        fingerprint: hex::encode(digest(&SHA256, leaf_der).as_ref()),
        not_after: Timestamp::from_second(leaf.validity().not_after.timestamp()).map_err(|_| "its notAfter is out of range".to_owned())?,
    })
}

/// What path validation leaves open: it takes an absent extended key usage for any.
fn check_usage(leaf: &X509Certificate<'_>) -> Result<(), String> {
    let twice = |_| "it has an extension twice, or one that does not parse".to_owned();
    if leaf.basic_constraints().map_err(twice)?.is_some_and(|constraints| constraints.value.ca) {
        return Err("it is a CA's".to_owned());
    }
    if !leaf.extended_key_usage().map_err(twice)?.is_some_and(|usage| usage.value.client_auth) {
        return Err("its extended key usage does not have clientAuth".to_owned());
    }
    // RFC 8446 section 4.4.2.2: the key must be allowed to sign. X.509-SVID section 4.3: and not to sign certificates.
    match leaf.key_usage().map_err(twice)? {
        Some(usage) if !usage.value.digital_signature() => Err("its key usage does not have digitalSignature".to_owned()),
        Some(usage) if usage.value.key_cert_sign() || usage.value.crl_sign() => Err("its key usage is a CA's".to_owned()),
        _ => Ok(()),
    }
}

fn spiffe(leaf: &X509Certificate<'_>, trust_domain: &TrustDomain) -> Result<String, String> {
    let uri = only(alternative_names(leaf)?.into_iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    }))
    .ok_or("it does not have exactly one URI in its subject alternative name")?;
    let id: SpiffeId = uri.parse().map_err(|fault| format!("its URI is no SPIFFE ID: {fault}"))?;
    if id.trust_domain != *trust_domain {
        return Err(format!("its SPIFFE ID is not of the trust domain {trust_domain}, whose CA issued it"));
    }
    if id.path.is_empty() {
        return Err("its SPIFFE ID names the trust domain and no workload".to_owned());
    }
    Ok(uri.to_owned())
}

fn dns(leaf: &X509Certificate<'_>) -> Result<String, String> {
    let name = only(alternative_names(leaf)?.into_iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    }))
    .ok_or("it does not have exactly one DNS name in its subject alternative name")?;
    match host_fault(name) {
        Some(fault) => Err(format!("its DNS name is not a host's in lower case, without wildcard and final dot: {fault}")),
        None => Ok(name.to_owned()),
    }
}

fn common_name(leaf: &X509Certificate<'_>) -> Result<String, String> {
    let attribute = only(leaf.subject().iter_common_name()).ok_or("it does not have exactly one common name")?;
    let value = attribute.attr_value();
    // A BMPString or T61String could be read in more than one way.
    if !matches!(value.tag(), x509_parser::asn1_rs::Tag::Utf8String | x509_parser::asn1_rs::Tag::PrintableString) {
        return Err("its common name is neither a UTF8String nor a PrintableString".to_owned());
    }
    let name = std::str::from_utf8(value.data).map_err(|_| "its common name is not UTF-8".to_owned())?;
    // X.520 compares names without regard to spaces at the ends and to how many stand between words: allow one form only.
    let spaced = name.starts_with(' ') || name.ends_with(' ') || name.contains("  ");
    if name.is_empty() || name.len() > MAX_COMMON_NAME || spaced || !name.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        return Err(format!("its common name is not 1 to {MAX_COMMON_NAME} printable ASCII characters with single spaces inside"));
    }
    Ok(name.to_owned())
}

fn alternative_names<'c, 'a>(leaf: &'c X509Certificate<'a>) -> Result<Vec<&'c GeneralName<'a>>, String> {
    let extension = leaf.subject_alternative_name().map_err(|_| "it has more than one subject alternative name extension".to_owned())?;
    let names: Vec<_> = extension.map(|extension| extension.value.general_names.iter().collect()).unwrap_or_default();
    if names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err("its subject alternative name does not parse".to_owned());
    }
    Ok(names)
}

fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    items.next().filter(|_| items.next().is_none())
}
