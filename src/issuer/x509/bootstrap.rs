//! A throwaway world: root, issuing CA, server and client certificates, all P-256. For `daypassd dev` and for tests; a real
//! root is made elsewhere and its key kept away.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CrlDistributionPoint, DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose,
    PublicKeyData, SerialNumber,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};
use zeroize::Zeroizing;

use super::{
    authority::{Authority, BACKDATE, date_time, issuing_params},
    crl::{Crl, CrlContent, CrlFailure},
    csr::SubjectKey,
    key::{FileKey, key_identifier},
    name,
    plan::{LeafPlan, San, Serial},
};
use crate::model::{
    SignedDuration, Timestamp,
    error::{Error, Result},
    role::ExtKeyUsage,
    time::whole_second,
};

/// A certificate and its key.
pub struct Made {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The key, PKCS #8 PEM; wiped when dropped.
    pub key_pem: Zeroizing<String>,
}

/// A leaf, its key, and the chain to present with it.
pub struct MadeLeaf {
    /// The leaf and then the chain without the root, PEM.
    pub chain_pem: String,
    /// The key, PKCS #8 PEM; wiped when dropped.
    pub key_pem: Zeroizing<String>,
}

/// Makes a root that lives from 30 s before `now` for `life`.
pub fn create_root(common_name: &str, now: Timestamp, life: SignedDuration) -> Result<Made> {
    let pair = FileKey::generate().map_err(Error::internal)?;
    let mut params = ca_params(common_name, &pair, BasicConstraints::Unconstrained)?;
    set_validity(&mut params, now, life)?;
    let certificate = params.self_signed(&pair).map_err(Error::internal)?;
    Ok(Made { certificate_pem: certificate.pem(), key_pem: pair.to_pem() })
}

/// Makes an issuing CA under `root`, with a path length of 0. `root_crl_url` is where the root's CRL can be had, if it has
/// one. It does not outlive the root.
pub fn create_issuing(root: &Made, common_name: &str, root_crl_url: Option<&str>, now: Timestamp, life: SignedDuration) -> Result<Made> {
    let root = Signer::read(root)?;
    let pair = FileKey::generate().map_err(Error::internal)?;
    let mut params = ca_params(common_name, &pair, BasicConstraints::Constrained(0))?;
    let left = root.not_after.duration_since(now);
    set_validity(&mut params, now, life.min(left))?;
    params.use_authority_key_identifier_extension = true;
    params.crl_distribution_points = root_crl_url.map(|url| CrlDistributionPoint { uris: vec![url.to_owned()] }).into_iter().collect();
    let issuer = Issuer::from_params(&root.params, &root.key);
    let certificate = params.signed_by(&pair, &issuer).map_err(Error::internal)?;
    Ok(Made { certificate_pem: certificate.pem(), key_pem: pair.to_pem() })
}

/// Makes a server's certificate for these names and addresses.
pub fn create_server_certificate(issuer: &Authority, sans: Vec<San>, now: Timestamp, life: SignedDuration) -> Result<MadeLeaf> {
    create_leaf(issuer, sans, vec![ExtKeyUsage::ServerAuth], now, life)
}

/// Makes a client's certificate for a SPIFFE ID.
pub fn create_client_certificate(issuer: &Authority, spiffe_id: &str, now: Timestamp, life: SignedDuration) -> Result<MadeLeaf> {
    name::check_spiffe_id(spiffe_id).map_err(Error::internal)?;
    create_leaf(issuer, vec![San::Uri(spiffe_id.to_owned())], vec![ExtKeyUsage::ClientAuth], now, life)
}

/// Makes an empty CRL of a root, for relying parties that want one for each CA of a chain. It has no issuing distribution
/// point: OpenSSL with `-crl_check_all`, and nginx, look for a CRL of the root itself too, and the root names none.
pub fn create_empty_root_crl(root: &Made, number: u64, now: Timestamp, life: SignedDuration) -> Result<Crl> {
    let root = Signer::read(root)?;
    let content = CrlContent { number, revoked: &[], this_update: now, life, url: None };
    content.sign(&root.params, &root.key).map_err(|failure| match failure {
        CrlFailure::Content(why) => Error::internal(why),
        CrlFailure::Key(error) => Error::internal(error),
    })
}

/// Loads the key of a CA that was made here.
pub fn file_key(made: &Made) -> Result<Arc<FileKey>> {
    FileKey::from_pem(&made.key_pem).map(Arc::new).map_err(Error::internal)
}

/// A CA that was made here, ready to sign.
struct Signer {
    params: CertificateParams,
    key: FileKey,
    not_after: Timestamp,
}

impl Signer {
    fn read(made: &Made) -> Result<Self> {
        let pem = x509_parser::pem::parse_x509_pem(made.certificate_pem.as_bytes()).map_err(Error::internal)?.1;
        let (_, certificate) = X509Certificate::from_der(&pem.contents).map_err(Error::internal)?;
        Ok(Self {
            params: issuing_params(&certificate).map_err(Error::internal)?,
            key: FileKey::from_pem(&made.key_pem).map_err(Error::internal)?,
            not_after: Timestamp::from_second(certificate.validity().not_after.timestamp()).map_err(Error::internal)?,
        })
    }
}

fn create_leaf(
    issuer: &Authority,
    sans: Vec<San>,
    ext_key_usage: Vec<ExtKeyUsage>,
    now: Timestamp,
    life: SignedDuration,
) -> Result<MadeLeaf> {
    let pair = FileKey::generate().map_err(Error::internal)?;
    let end = now.checked_add(life).map_err(Error::internal)?;
    let (not_before, not_after) = issuer.validity(now, end)?;
    let plan = LeafPlan { common_name: None, sans, ext_key_usage, serial: Serial::random(), not_before, not_after };
    let leaf = issuer.sign_leaf(&plan, &SubjectKey::p256(pair.der_bytes()))?;
    Ok(MadeLeaf { chain_pem: super::chain::pem_certificate(&leaf.der) + issuer.chain_pem(), key_pem: pair.to_pem() })
}

fn ca_params(common_name: &str, pair: &FileKey, constraints: BasicConstraints) -> Result<CertificateParams> {
    name::check_common_name(common_name).map_err(Error::internal)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.serial_number = Some(SerialNumber::from_slice(Serial::random().as_bytes()));
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.key_identifier_method = KeyIdMethod::PreSpecified(key_identifier(pair.der_bytes()));
    Ok(params)
}

fn set_validity(params: &mut CertificateParams, now: Timestamp, life: SignedDuration) -> Result<()> {
    let start = now.checked_sub(BACKDATE).map_err(Error::internal)?;
    let end = now.checked_add(life).map_err(Error::internal)?;
    params.not_before = date_time(whole_second(start)).map_err(Error::internal)?;
    params.not_after = date_time(whole_second(end)).map_err(Error::internal)?;
    Ok(())
}
