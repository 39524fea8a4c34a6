//! Makes, on trial, what `serve` would make of the sections, so that `check` finds whatever `serve` would stop at, and says where.

use std::path::Path;

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject};
use tracing_subscriber::EnvFilter;
use x509_parser::{prelude::FromDer, revocation_list::CertificateRevocationList};
use zeroize::Zeroizing;

use super::{
    build::StoreConfig,
    cas::ServerIdentity,
    file::{At, Reader},
    sections::{AuditSection, CaSection, LogSection, ServerSection, StoreSection, TrustDomainSection},
};
use crate::{
    audit::disk::AuditOptions,
    authn::{
        mtls::{TrustDomainConfig, TrustStore},
        oidc::{IssuerConfig, TokenVerifier},
    },
    issuer::x509::{Ca, Cas},
    model::{SignedDuration, error::Error, name::CaName},
    server::tls,
    store::redis::{self, RedisOptions, RedisStore},
};

/// The shortest and the longest `store.retention`.
pub const RETENTION: [SignedDuration; 2] = [SignedDuration::from_mins(1), SignedDuration::from_hours(24 * 365)];
/// The shortest and the longest `store.timeout`.
pub const STORE_TIMEOUT: [SignedDuration; 2] = [SignedDuration::from_millis(10), SignedDuration::from_secs(60)];
/// The least and the most of `audit.segment_bytes`: a segment holds at least one record, and a reader goes through one in seconds.
pub const SEGMENT_BYTES: [u64; 2] = [64 * 1024, 16 * 1024 * 1024 * 1024];

impl Reader {
    /// What a TLS client is shown: a pair of files, or a certificate from a CA of ours.
    pub(super) fn identity(&mut self, At { line, value }: &At<ServerSection>, cas: &Cas) -> Option<ServerIdentity> {
        match (&value.certificate, &value.key, &value.certificate_from) {
            (Some(certificate), Some(key), None) => self.pair(*line, certificate, key),
            (None, None, Some(section)) => self.own_certificate(*line, section, cas).map(ServerIdentity::Own),
            _ => {
                self.fault(*line, "server: say either certificate and key, or certificate_from");
                None
            }
        }
    }

    /// The server's certificate chain and its key, which must be one pair.
    fn pair(&mut self, line: usize, certificate: &Path, key: &Path) -> Option<ServerIdentity> {
        let (chain, secret) = (self.read(line, certificate), self.read(line, key).map(Zeroizing::new));
        let (chain, secret) = (chain?, secret?);
        if let Err(error) = tls::identity(&chain, &secret) {
            let (certificate, key) = (certificate.display(), key.display());
            self.fault(line, format!("server: {certificate} and {key} cannot be used: {}", why(&error)));
        }
        Some(ServerIdentity::Files { certificate: chain, key: secret })
    }

    /// What the log holds.
    pub(super) fn log(&mut self, log: Option<At<LogSection>>) -> LogSection {
        let Some(At { line, value }) = log else { return LogSection::default() };
        if let Err(error) = EnvFilter::try_new(&value.filter) {
            self.fault(line, format!("log.filter: {error}"));
        }
        value
    }

    /// The trust domains, each with the CAs of ours whose CRLs hold for it.
    pub(super) fn trust_domains(&mut self, sections: &[At<TrustDomainSection>], cas: &Cas) -> Vec<(TrustDomainConfig, Vec<CaName>)> {
        let mut domains: Vec<(TrustDomainConfig, Vec<CaName>)> = Vec::new();
        let mut sound = Vec::new();
        for At { line, value } in sections {
            self.own_cas(*line, value, cas, &domains);
            let ca_may_come = value.own_cas.iter().any(|ca| matches!(cas.get(ca), Some(Ca::Rotating(_))));
            let crls = value.crls.iter().filter_map(|path| self.crl(*line, path)).collect();
            let ca_pem = match &value.ca {
                Some(path) => self.read(*line, path).filter(|pem| {
                    let empty = ca_may_come && !holds_certificates(pem);
                    if empty {
                        self.fault(*line, format!("trust domain {}: its CA file holds no certificate", value.name));
                    }
                    !empty
                }),
                None if ca_may_come => Some(Vec::new()),
                None => {
                    self.fault(*line, format!("trust domain {}: say its ca, or name a CA that rotates in own_cas", value.name));
                    None
                }
            };
            let Some(ca_pem) = ca_pem else { continue };
            let config = TrustDomainConfig::new(value.name.clone(), ca_pem, crls, value.crl_required, value.identity);
            let config = TrustDomainConfig { ca_may_come, ..config };
            // Beside those that are sound: what it shares with one of them is its fault.
            sound.push(config.clone());
            match TrustStore::new(sound.clone()) {
                Ok(_) => self.trusted_by_file(*line, value, &config.ca_pem, cas),
                Err(faults) => {
                    faults.into_iter().for_each(|fault| self.fault(*line, fault));
                    sound.pop();
                }
            }
            domains.push((config, value.own_cas.clone()));
        }
        domains
    }

    fn own_cas(&mut self, line: usize, section: &TrustDomainSection, cas: &Cas, domains: &[(TrustDomainConfig, Vec<CaName>)]) {
        for ca in &section.own_cas {
            match cas.get(ca) {
                None => {
                    let hint = super::build::hint(ca.as_str(), cas.iter().map(|(name, _)| name.as_str()));
                    self.fault(line, format!("trust domain {}: there is no CA {ca}{hint}", section.name));
                }
                Some(Ca::Rotating(_)) => {
                    if let Some((other, _)) = domains.iter().find(|(_, own)| own.contains(ca)) {
                        let why = "each trust domain needs CAs of its own";
                        self.fault(line, format!("trust domain {}: {} has the CA {ca} too; {why}", section.name, other.name));
                    }
                }
                Some(Ca::Fixed(_)) => {}
            }
        }
    }

    /// A CA of ours that is trusted by the file and not named: what is revoked here would be taken here, until a file of CRLs says otherwise.
    fn trusted_by_file(&mut self, line: usize, section: &TrustDomainSection, ca_pem: &[u8], cas: &Cas) {
        let anchors: Vec<_> = CertificateDer::pem_slice_iter(ca_pem).filter_map(Result::ok).collect();
        let is_anchor = |der: &[u8]| anchors.iter().any(|anchor| anchor.as_ref() == der);
        for (name, ca) in cas.iter() {
            let trusted = match ca {
                Ca::Fixed(authority) => is_anchor(authority.root_der()) || authority.chain_der().iter().any(|der| is_anchor(der)),
                // Without a root its authorities are their own, and not made yet.
                Ca::Rotating(ring) => ring.maker().root.as_ref().is_some_and(|root| is_anchor(root.der())),
            };
            if trusted && !section.crl_required && !section.own_cas.contains(name) {
                let domain = &section.name;
                self.fault(
                    line,
                    format!("trust domain {domain}: its ca vouches for the CA {name} too: name it in own_cas, so that its CRL holds here"),
                );
            }
        }
    }

    fn crl(&mut self, line: usize, path: &Path) -> Option<Vec<u8>> {
        let path = self.path(path);
        std::fs::read(&path).map_err(|error| self.fault(line, format!("{} cannot be read: {error}", path.display()))).ok()
    }

    /// The CRLs of roots, as they are served: in DER (RFC 5280 section 4.2.1.13).
    pub(super) fn root_crls(&mut self, sections: &[At<CaSection>]) -> Vec<(String, Vec<u8>)> {
        let mut crls = Vec::new();
        for At { line, value } in sections {
            let Some(path) = &value.root_crl else { continue };
            let Some(crl) = self.crl(*line, path) else { continue };
            match one_crl(crl) {
                Ok(der) => crls.push((format!("root-{}", value.name), der)),
                Err(fault) => self.fault(*line, format!("ca {}: root_crl: {} {fault}", value.name, path.display())),
            }
        }
        crls
    }

    /// Whether the issuer's tokens could be verified: its key file is read, its TLS made ready. Nobody is asked.
    pub(super) fn try_issuer(&mut self, line: usize, config: &IssuerConfig) {
        if let Err(error) = TokenVerifier::new(vec![config.clone()], self.now) {
            self.fault(line, why(&error));
        }
    }

    /// Where leases live.
    pub(super) fn store(&mut self, At { line, value }: At<StoreSection>) -> Option<StoreConfig> {
        let StoreSection::Redis { urls, cluster, username, password_file, ca, prefix, timeout, retention } = value else {
            let StoreSection::Embedded { path, retention } = value else { return None };
            self.span(line, "store.retention", retention, RETENTION);
            return Some(StoreConfig::Embedded { path: self.path(&path), retention });
        };
        self.span(line, "store.retention", retention, RETENTION);
        self.span(line, "store.timeout", timeout, STORE_TIMEOUT);
        let password = password_file.and_then(|path| self.read(line, &path)).map(|bytes| {
            let bytes = Zeroizing::new(bytes);
            Zeroizing::new(String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned())
        });
        let ca_pem = ca.and_then(|path| {
            let pem = self.read(line, &path)?;
            if !holds_certificates(&pem) {
                self.fault(line, format!("store.ca: {} holds no certificates in PEM", path.display()));
            }
            Some(pem)
        });
        if urls.iter().any(|url| url::Url::parse(url).is_ok_and(|url| url.password().is_some())) {
            self.fault(line, "a password in a store URL is refused: put it in a file and name that as password_file");
        }
        // What is out of bounds was told; the trial below need not tell it again.
        let timeout = timeout.clamp(STORE_TIMEOUT[0], STORE_TIMEOUT[1]).unsigned_abs();
        let options = || RedisOptions {
            urls: urls.clone(),
            cluster,
            username: username.clone(),
            password: password.clone(),
            ca_pem: ca_pem.clone(),
            prefix: prefix.clone(),
            timeout,
            retention,
        };
        // By turns, so that neither hides the other.
        let reach = RedisOptions { prefix: redis::DEFAULT_PREFIX.into(), ..options() };
        let names = RedisOptions { prefix: prefix.clone(), ..RedisOptions::new("redis://127.0.0.1") };
        for trial in [reach, names] {
            if let Err(error) = RedisStore::new(trial) {
                self.fault(line, format!("store: {}", why(&error)));
            }
        }
        Some(StoreConfig::Redis(options()))
    }

    fn span(&mut self, line: usize, key: &str, span: SignedDuration, [least, most]: [SignedDuration; 2]) {
        if span < least || span > most {
            self.fault(line, format!("{key} must be {least:#} to {most:#}"));
        }
    }

    /// Where the record lies.
    pub(super) fn audit(&mut self, At { line, value }: &At<AuditSection>) -> AuditOptions {
        let mut options = AuditOptions::new(self.path(&value.dir));
        if let Some(bytes) = value.segment_bytes {
            let [least, most] = SEGMENT_BYTES;
            if !(least..=most).contains(&bytes) {
                self.fault(*line, format!("audit.segment_bytes must be {least} to {most}"));
            }
            options.segment_bytes = bytes;
        }
        options
    }
}

/// What an operator can use of an error.
fn why(error: &Error) -> String {
    error.cause().unwrap_or(error.public()).to_owned()
}

fn holds_certificates(pem: &[u8]) -> bool {
    let mut count = 0;
    CertificateDer::pem_slice_iter(pem).inspect(|_| count += 1).all(|one| one.is_ok()) && count > 0
}

/// The one CRL of a file, PEM or DER, in DER.
fn one_crl(content: Vec<u8>) -> Result<Vec<u8>, String> {
    let der = if content.trim_ascii_start().starts_with(b"-----BEGIN") {
        let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&content).collect();
        match <[_; 1]>::try_from(found.map_err(|fault| format!("is not PEM: {fault}"))?) {
            Ok([der]) => der.to_vec(),
            Err(other) => return Err(format!("holds {} CRLs; it must hold one", other.len())),
        }
    } else {
        content
    };
    match CertificateRevocationList::from_der(&der) {
        Ok(([], _)) => Ok(der),
        Ok(_) => Err("holds more than a CRL".to_owned()),
        Err(fault) => Err(format!("is no CRL: {fault}")),
    }
}
