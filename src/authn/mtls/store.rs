//! The trust domains, and the verification of a chain against each one's own CA.

use std::{ops::Range, sync::Arc, time::Duration};

use rustls::{
    CertificateError, RootCertStore,
    crypto::CryptoProvider,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime, pem::PemObject};
use x509_parser::{certificate::X509Certificate, prelude::FromDer, revocation_list::CertificateRevocationList};

use super::{identity, verdict};
use crate::model::{
    Timestamp,
    error::{Code, Error, Result},
    identity::{CertificateIdentity, PeerCertificate},
    name::{CaName, TrustDomain},
};

/// The most certificates of one chain, the leaf among them.
pub const MAX_CHAIN: usize = 6;
/// The longest certificate, in bytes of DER.
pub const MAX_CERTIFICATE: usize = 16 * 1024;

/// What a CRL past its `nextUpdate` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiredCrl {
    /// Nobody whose issuer's CRL has expired is admitted.
    Refuse,
    /// It still says who is revoked.
    Tolerate,
}

/// One trust domain: who vouches for its members, and how they are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustDomainConfig {
    /// Its name.
    pub name: TrustDomain,
    /// Its CA certificates, PEM; at least one, unless `ca_may_come`. No other trust domain may have one of them.
    pub ca_pem: Vec<u8>,
    /// Whether its CA may not be there yet: one of ours, whose first key is not made. Until it is nobody is admitted.
    pub ca_may_come: bool,
    /// CRLs, each PEM or DER. Of two that cover the same certificates the newer counts.
    pub crls: Vec<Vec<u8>>,
    /// Whether each certificate of a chain must be covered by a CRL.
    pub crl_required: bool,
    /// What an expired CRL means.
    pub expired_crl: ExpiredCrl,
    /// How an identity is read from a leaf.
    pub identity: CertificateIdentity,
    /// CAs of ours that rotate, and whose authorities are known.
    pub rotating: Vec<RotatingCa>,
}

/// A CA whose authorities follow each other, each named after it and a number: `issuing-3`. Under a root that stays, a certificate of one that
/// is gone would verify for ever: here it does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotatingCa {
    /// Its configured name.
    pub name: CaName,
    /// The certificates of its authorities that are in force, DER.
    pub authorities: Vec<Vec<u8>>,
}

impl TrustDomainConfig {
    /// A trust domain; an expired CRL is refused where CRLs are required, and tolerated where they are not.
    pub fn new(name: TrustDomain, ca_pem: Vec<u8>, crls: Vec<Vec<u8>>, crl_required: bool, identity: CertificateIdentity) -> Self {
        let expired_crl = if crl_required { ExpiredCrl::Refuse } else { ExpiredCrl::Tolerate };
        Self { name, ca_pem, ca_may_come: false, crls, crl_required, expired_crl, identity, rotating: Vec::new() }
    }
}

/// The trust domains, ready to verify. Immutable: a reload makes a new one.
#[derive(Debug)]
pub struct TrustStore {
    domains: Vec<Domain>,
}

#[derive(Debug)]
struct Domain {
    name: TrustDomain,
    identity: CertificateIdentity,
    /// None while it has no CA: then it admits nobody.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// The public keys (SubjectPublicKeyInfo) of its CAs.
    ca_keys: Vec<Vec<u8>>,
    /// The names and public keys of its CAs.
    anchors: Vec<(Vec<u8>, Vec<u8>)>,
    /// When its CRLs expire, in seconds since 1970; empty where that means nothing.
    crl_ends: Vec<i64>,
    /// CAs of ours that rotate: each name, and the distinguished names of its authorities in force.
    rotating: Vec<(CaName, Vec<Vec<u8>>)>,
}

impl TrustStore {
    /// A store.
    ///
    /// # Errors
    /// Every fault, as a text for the operator: a name twice, no CA, a CA of two trust domains, a CRL that does not parse.
    pub fn new(configs: Vec<TrustDomainConfig>) -> Result<Self, Vec<String>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut domains: Vec<Domain> = Vec::new();
        let mut faults = Vec::new();
        for config in configs {
            let name = config.name.clone();
            match Domain::new(config, &provider) {
                Ok(domain) => {
                    for other in &domains {
                        if other.name == name {
                            faults.push(format!("trust domain {name}: it is configured twice"));
                        } else if domain.anchors.iter().any(|anchor| other.anchors.contains(anchor)) {
                            faults.push(format!(
                                "trust domain {name}: it shares a CA with {}; each trust domain needs a CA of its own",
                                other.name
                            ));
                        }
                    }
                    domains.push(domain);
                }
                Err(fault) => faults.push(format!("trust domain {name}: {fault}")),
            }
        }
        if faults.is_empty() { Ok(Self { domains }) } else { Err(faults) }
    }

    /// Verifies a chain, leaf first: path to the CA of exactly one trust domain, validity, clientAuth, CRLs, and an
    /// identity of that trust domain.
    ///
    /// # Errors
    /// [`Code::CertificateRevoked`] when a CRL names it or an intermediate; else [`Code::Unauthenticated`], with what is
    /// wrong where a trust domain's CA vouches for it.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<PeerCertificate> {
        let (leaf, intermediates) = chain.split_first().ok_or_else(|| refuse("the client sent no certificate"))?;
        if chain.len() > MAX_CHAIN || chain.iter().any(|certificate| certificate.len() > MAX_CERTIFICATE) {
            return Err(refuse(format!(
                "the client certificate's chain has more than {MAX_CHAIN} certificates, or one longer than {MAX_CERTIFICATE} bytes"
            )));
        }
        let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0)));
        let mut admitted = Vec::new();
        let mut refusal: Option<Error> = None;
        for domain in &self.domains {
            match domain.verify(leaf, intermediates, at) {
                Ok(peer) => admitted.push(peer),
                Err(error) => refusal = Some(refusal.take().filter(|other| weight(other) >= weight(&error)).unwrap_or(error)),
            }
        }
        match (admitted.pop(), admitted.is_empty()) {
            (Some(peer), true) => Ok(peer),
            (Some(_), false) => Err(refuse("the client certificate is of more than one trust domain")),
            (None, _) => Err(refusal.unwrap_or_else(unknown_issuer)),
        }
    }

    /// The identity in a chain that leads to the CA of a trust domain, and that [`Self::verify`] refuses because a CRL names it.
    pub(super) fn revoked(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Option<PeerCertificate> {
        let (leaf, intermediates) = chain.split_first()?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_second()).ok()?));
        self.domains.iter().find_map(|domain| domain.revoked(leaf, intermediates, at))
    }

    /// The span around `now` in which [`Self::verify`] finds the same for this chain: the clock passes no bound of a certificate's
    /// validity, and no CRL whose age counts expires.
    pub(super) fn steady(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Range<Timestamp> {
        verdict::steady(chain, self.domains.iter().flat_map(|domain| domain.crl_ends.iter().copied()), now)
    }

    /// The configured trust domains.
    pub fn domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.domains.iter().map(|domain| &domain.name)
    }
}

impl Domain {
    fn new(config: TrustDomainConfig, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        let certificates = CertificateDer::pem_slice_iter(&config.ca_pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|fault| format!("its CA is not PEM: {fault}"))?;
        if certificates.is_empty() && !config.ca_may_come {
            return Err("its CA file holds no certificate".to_owned());
        }
        let mut roots = RootCertStore::empty();
        let mut anchors = Vec::new();
        for certificate in &certificates {
            anchors.push(anchor(certificate)?);
            roots.add(certificate.clone()).map_err(|fault| format!("its CA cannot be trusted: {fault}"))?;
        }
        let (crls, mut crl_ends) = newest_first(&config.crls)?;
        if config.crl_required && crls.is_empty() && !config.ca_may_come {
            return Err("it requires CRLs and has none: nobody could be admitted".to_owned());
        }
        if config.expired_crl == ExpiredCrl::Tolerate {
            crl_ends.clear();
        }
        let ca_keys = anchors.iter().map(|(_, key)| key.clone()).collect();
        let rotating = config.rotating.into_iter().map(in_force).collect::<Result<_, _>>()?;
        let (name, identity) = (config.name, config.identity);
        if certificates.is_empty() {
            return Ok(Self { name, identity, verifier: None, ca_keys, anchors, crl_ends, rotating });
        }
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).with_crls(crls);
        if !config.crl_required {
            builder = builder.allow_unknown_revocation_status();
        }
        if config.expired_crl == ExpiredCrl::Refuse {
            builder = builder.enforce_revocation_expiration();
        }
        let verifier = Some(builder.build().map_err(|fault| format!("its CRLs cannot be used: {fault}"))?);
        Ok(Self { name, identity, verifier, ca_keys, anchors, crl_ends, rotating })
    }

    fn verify(&self, leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], at: UnixTime) -> Result<PeerCertificate> {
        let verifier = self.verifier.as_ref().ok_or_else(unknown_issuer)?;
        verifier.verify_client_cert(leaf, intermediates, at).map_err(|fault| self.explain(&fault))?;
        let fault = |why: String| refuse(format!("the client certificate cannot be used in the trust domain {}: {why}", self.name));
        if public_key(leaf).is_none_or(|key| self.ca_keys.contains(&key)) {
            return Err(fault("its key is the CA's own".to_owned()));
        }
        if let Some(authority) = self.gone_authority(leaf) {
            return Err(fault(format!("its issuer {authority} is no authority of this service, or none any more")));
        }
        identity::read(leaf, &self.name, self.identity).map_err(fault)
    }

    /// The name of the leaf's issuer where that says it is an authority of a CA that rotates, and it is not in force. A path was found, and so
    /// the name is what the issuing certificate says of itself; below an authority stands no other (pathLenConstraint 0).
    fn gone_authority(&self, leaf: &CertificateDer<'_>) -> Option<String> {
        if self.rotating.is_empty() {
            return None;
        }
        let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
        let issuer = leaf.issuer();
        let said = issuer.iter_common_name().next()?.as_str().ok()?;
        let is_of = |ca: &CaName| said.strip_prefix(ca.as_str()).and_then(|rest| rest.strip_prefix('-')).is_some_and(is_number);
        let (_, in_force) = self.rotating.iter().find(|(ca, _)| is_of(ca))?;
        (!in_force.iter().any(|name| name == issuer.as_raw())).then(|| said.to_owned())
    }

    /// A path that ends at the CA was found, and its signatures hold, before its CRLs are asked.
    fn revoked(&self, leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], at: UnixTime) -> Option<PeerCertificate> {
        match self.verifier.as_ref()?.verify_client_cert(leaf, intermediates, at) {
            Err(rustls::Error::InvalidCertificate(CertificateError::Revoked)) => identity::read(leaf, &self.name, self.identity).ok(),
            _ => None,
        }
    }

    /// What the holder learns; that a chain leads to no CA of this trust domain says nothing of the others.
    fn explain(&self, fault: &rustls::Error) -> Error {
        let rustls::Error::InvalidCertificate(fault) = fault else {
            // Revocation lists fail here: a bad signature, an issuer that may not sign them.
            return refuse("the client certificate cannot be checked for revocation")
                .because(format_args!("trust domain {}: {fault}", self.name));
        };
        let text = match fault {
            CertificateError::Revoked => {
                return Error::new(Code::CertificateRevoked, "the client certificate, or its issuer's, is revoked");
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => return unknown_issuer(),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "the client certificate, or its issuer's, has expired",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the client certificate, or its issuer's, is not valid yet"
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "the client certificate's extended key usage does not have clientAuth"
            }
            CertificateError::UnknownRevocationStatus => {
                "the client certificate cannot be checked for revocation: its issuer's revocation list is not here"
            }
            CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => {
                "the client certificate cannot be checked for revocation: its issuer's revocation list has expired"
            }
            _ => "the client certificate does not verify",
        };
        refuse(text).because(format_args!("trust domain {}: {fault:?}", self.name))
    }
}

/// The distinguished names of the authorities in force.
fn in_force(ca: RotatingCa) -> Result<(CaName, Vec<Vec<u8>>), String> {
    let subject = |der: &Vec<u8>| X509Certificate::from_der(der).map(|(_, certificate)| certificate.subject().as_raw().to_vec());
    let names = ca.authorities.iter().map(subject).collect::<Result<_, _>>();
    names.map(|names| (ca.name, names)).map_err(|_| "a certificate of an authority of ours does not parse".to_owned())
}

/// Whether this is how the number of an authority is written.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn refuse(text: impl Into<String>) -> Error {
    Error::new(Code::Unauthenticated, text)
}

const UNKNOWN_ISSUER: &str = "the client certificate is not issued by the CA of a trust domain of this service";

fn unknown_issuer() -> Error {
    refuse(UNKNOWN_ISSUER)
}

/// Which of several trust domains' refusals tells the most.
fn weight(error: &Error) -> u8 {
    match error.code() {
        Code::CertificateRevoked => 2,
        _ if error.public() == UNKNOWN_ISSUER => 0,
        _ => 1,
    }
}

/// A CA's name and public key. What vouches for others must be allowed to.
fn anchor(certificate: &CertificateDer<'_>) -> Result<(Vec<u8>, Vec<u8>), String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|fault| format!("its CA does not parse: {fault}"))?;
    if !parsed.is_ca() {
        return Err("its CA file holds a certificate that is not a CA's (basicConstraints CA:TRUE)".to_owned());
    }
    Ok((parsed.subject().as_raw().to_vec(), parsed.public_key().raw.to_vec()))
}

fn public_key(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.public_key().raw.to_vec())
}

/// The CRLs, newest first: path validation takes the first that covers a certificate. And when each expires, in seconds since 1970.
fn newest_first(crls: &[Vec<u8>]) -> Result<(Vec<CertificateRevocationListDer<'static>>, Vec<i64>), String> {
    let (mut dated, mut ends) = (Vec::new(), Vec::new());
    for crl in crls {
        for der in to_der(crl)? {
            let (rest, parsed) = CertificateRevocationList::from_der(&der).map_err(|fault| format!("a CRL does not parse: {fault}"))?;
            if !rest.is_empty() {
                return Err("something follows a CRL".to_owned());
            }
            let at = parsed.last_update().timestamp();
            ends.extend(parsed.next_update().map(|end| end.timestamp()));
            dated.push((std::cmp::Reverse(at), der));
        }
    }
    dated.sort_by_key(|(at, _)| *at);
    Ok((dated.into_iter().map(|(_, der)| der).collect(), ends))
}

fn to_der(crl: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    if !crl.trim_ascii_start().starts_with(b"-----BEGIN") {
        return Ok(vec![CertificateRevocationListDer::from(crl.to_vec())]);
    }
    let ders = CertificateRevocationListDer::pem_slice_iter(crl)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|fault| format!("a CRL is not PEM: {fault}"))?;
    if ders.is_empty() {
        return Err("a CRL file holds no CRL".to_owned());
    }
    Ok(ders)
}
