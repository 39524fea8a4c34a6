//! Certificates, good and bad: by rcgen, and by openssl where rcgen will not.

use std::{path::Path, process::Command, sync::Arc};

use daypass::model::{Timestamp, identity::CertificateIdentity};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, CustomExtension, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use time::{Duration, OffsetDateTime};
use tokio_rustls::TlsAcceptor;

use daypass::authn::mtls::{TrustDomainConfig, TrustStore};

/// The time at which the certificates of this file are looked at.
pub fn now() -> Timestamp {
    super::tokens::now()
}

pub fn moment(days: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(now().as_second()).unwrap() + Duration::days(days)
}

/// A CA: a root, or one below another.
pub struct Authority {
    params: CertificateParams,
    pub key: KeyPair,
    pub certificate: Certificate,
    /// The CAs between this one and the root, this one first; empty for a root.
    above: Vec<CertificateDer<'static>>,
}

pub fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub fn common_name(name: impl Into<DnValue>) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

impl Authority {
    pub fn new(name: &str) -> Self {
        Self::root(ca_params(name))
    }

    pub fn root(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { params, key, certificate, above: Vec::new() }
    }

    /// A CA below this one.
    pub fn below(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer()).unwrap();
        let above = std::iter::once(certificate.der().clone()).chain(self.above.iter().cloned()).collect();
        Self { params, key, certificate, above }
    }

    pub fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Issues a leaf.
    pub fn leaf(&self, params: &CertificateParams) -> Client {
        self.leaf_with_key(params, &KeyPair::generate().unwrap())
    }

    pub fn leaf_with_key(&self, params: &CertificateParams, key: &KeyPair) -> Client {
        let leaf = params.signed_by(key, &self.issuer()).unwrap();
        let chain = std::iter::once(leaf.der().clone()).chain(self.above.iter().cloned()).collect();
        Client { chain, key: key.serialize_der() }
    }

    /// A CRL of a day ago that is good for ten days.
    pub fn crl(&self, revoked: &[u8]) -> Vec<u8> {
        self.crl_at(revoked, -1, 10)
    }

    /// A CRL over serials of one byte.
    pub fn crl_at(&self, revoked: &[u8], this_update: i64, next_update: i64) -> Vec<u8> {
        let revoked_certs = revoked
            .iter()
            .map(|serial| RevokedCertParams {
                serial_number: SerialNumber::from_slice(&[*serial]),
                revocation_time: moment(this_update),
                reason_code: Some(RevocationReason::KeyCompromise),
                invalidity_date: None,
            })
            .collect();
        let params = CertificateRevocationListParams {
            this_update: moment(this_update),
            next_update: moment(next_update),
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer()).unwrap().der().to_vec()
    }

    /// A leaf made by openssl: a subject, the lines of its extensions, more arguments for signing.
    pub fn openssl_leaf(&self, subject: &str, extensions: &str, more: &[&str]) -> Client {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("ca.pem"), self.pem()).unwrap();
        std::fs::write(path("ca.key"), self.key.serialize_pem()).unwrap();
        std::fs::write(path("ext"), extensions).unwrap();
        let request = [
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-utf8",
            "-subj",
            subject,
            "-keyout",
            "key",
            "-out",
            "csr",
        ];
        openssl(dir.path(), &request);
        let sign = [
            "x509",
            "-req",
            "-in",
            "csr",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-set_serial",
            "77",
            "-days",
            "30",
            "-extfile",
            "ext",
            "-out",
            "crt",
        ];
        openssl(dir.path(), &[sign.as_slice(), more].concat());
        let leaf = CertificateDer::from_pem_file(path("crt")).unwrap();
        let key = PrivateKeyDer::from_pem_file(path("key")).unwrap().secret_der().to_vec();
        Client { chain: std::iter::once(leaf).chain(self.above.iter().cloned()).collect(), key }
    }
}

fn openssl(dir: &Path, arguments: &[&str]) {
    let done = Command::new("openssl").current_dir(dir).args(arguments).output().unwrap();
    assert!(done.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A leaf with the chain that its holder sends.
#[derive(Debug)]
pub struct Client {
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS #8, DER.
    pub key: Vec<u8>,
}

impl Client {
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }
}

/// A leaf's parameters: for clients, valid for a day on both sides of now, serial 7.
pub fn leaf(sans: Vec<SanType>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = moment(-1);
    params.not_after = moment(1);
    params.serial_number = Some(SerialNumber::from_slice(&[7]));
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = sans;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

pub fn named(name: impl Into<DnValue>) -> CertificateParams {
    let mut params = leaf(Vec::new());
    params.distinguished_name = common_name(name);
    params
}

/// An extension of any content.
pub fn extension(oid: &[u64], content: &[u8], critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
    extension.set_criticality(critical);
    extension
}

pub const TRUST_DOMAIN: &str = "example.org";

pub fn domain(name: &str, ca: &Authority, identity: CertificateIdentity) -> TrustDomainConfig {
    TrustDomainConfig::new(name.parse().unwrap(), ca.pem().into_bytes(), Vec::new(), false, identity)
}

/// A store of one trust domain.
pub fn store(ca: &Authority, identity: CertificateIdentity) -> TrustStore {
    TrustStore::new(vec![domain(TRUST_DOMAIN, ca, identity)]).unwrap()
}

/// A TLS server for 127.0.0.1 whose certificate a CA issued.
pub fn acceptor(ca: &Authority) -> TlsAcceptor {
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let server = ca.leaf(&params);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(server.chain.clone(), server.private_key())
        .unwrap();
    Arc::new(config).into()
}
