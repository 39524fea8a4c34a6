//! From sections to a configuration that holds together: references exist, spans fit, templates parse, keys load, policy checks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
};

use aws_lc_rs::digest::{SHA256, digest};
use zeroize::Zeroizing;

use super::{
    file::{At, Reader, read_bounded},
    limits::Limits,
    sections::{
        AuditSection, CaSection, IssuerSection, LogFormat, LogSection, PolicySection, RoleSection, ServerSection, StoreSection,
        TenantSection, TrustDomainSection,
    },
};
use crate::{
    audit::disk::AuditOptions,
    authn::{mtls::TrustDomainConfig, oidc::IssuerConfig},
    issuer::x509::{Authority, CaConfig, FileKey, X509Issuer},
    model::{
        SignedDuration, Timestamp,
        catalog::Catalog,
        fault::{Fault, nearest},
        name::CaName,
    },
    policy::PolicyBook,
    store::redis::RedisOptions,
    vend::Rules,
};

/// The longest life that a role may give, through all renewals.
pub const MAX_LIFE: SignedDuration = SignedDuration::from_hours(24 * 90);

/// The sections as they were read; those that did not parse are absent, and their faults noted.
#[derive(Default)]
pub(super) struct Draft {
    /// The sections that the file has, whether they parsed or not.
    pub seen: BTreeSet<String>,
    pub server: Option<At<ServerSection>>,
    pub limits: Option<At<Limits>>,
    pub log: Option<At<LogSection>>,
    pub store: Option<At<StoreSection>>,
    pub audit: Option<At<AuditSection>>,
    pub policy: Option<At<PolicySection>>,
    pub cas: Vec<At<CaSection>>,
    pub trust_domains: Vec<At<TrustDomainSection>>,
    pub issuers: Vec<At<IssuerSection>>,
    pub tenants: Vec<At<TenantSection>>,
    pub roles: Vec<At<RoleSection>>,
}

/// Where leases live.
pub enum StoreConfig {
    /// In SQLite on this machine.
    Embedded {
        /// The file.
        path: PathBuf,
        /// How long ended leases stay readable.
        retention: SignedDuration,
    },
    /// In Redis.
    Redis(RedisOptions),
}

/// A configuration that holds together.
pub struct Config {
    /// Where gRPC listens.
    pub grpc: SocketAddr,
    /// Where HTTP listens.
    pub http: SocketAddr,
    /// The server's certificate chain, PEM.
    pub certificate: Vec<u8>,
    /// Its key, PEM.
    pub key: Zeroizing<Vec<u8>>,
    /// Limits.
    pub limits: Limits,
    /// How the log is written.
    pub log_format: LogFormat,
    /// What the log holds, in the syntax of `RUST_LOG`.
    pub log_filter: String,
    /// Where leases live.
    pub store: StoreConfig,
    /// Where the record lies.
    pub audit: AuditOptions,
    /// Policies, roles, tenants and the issuers of credentials.
    pub rules: Rules,
    /// Issuers of tokens.
    pub issuers: Vec<IssuerConfig>,
    /// Trust domains of client certificates, each with the CAs of ours whose CRLs hold for it.
    pub trust_domains: Vec<(TrustDomainConfig, Vec<CaName>)>,
    /// CRLs of roots, made elsewhere, to be served beside ours: name and DER or PEM.
    pub root_crls: Vec<(String, Vec<u8>)>,
    /// Every file that a reload looks at.
    pub watched: Vec<PathBuf>,
    /// Advice.
    pub warnings: Vec<Fault>,
}

impl Reader {
    /// Checks a draft as a whole.
    pub(super) fn build(mut self, mut draft: Draft) -> Result<Config, Vec<Fault>> {
        let mut warnings = Vec::new();
        self.missing_sections(&draft.seen);
        let limits = self.limits(draft.limits.take());
        let log = draft.log.take().map_or_else(LogSection::default, |log| log.value);
        let cas = self.cas(&draft.cas);
        let root_crls = self.root_crls(&draft.cas);
        let trust_domains = self.trust_domains(&draft.trust_domains, &cas);
        let issuers = self.issuers(&draft.issuers, &mut warnings);
        let x509 = X509Issuer::new(cas);
        let catalog = Arc::new(self.catalog(&draft, &issuers, &x509, &mut warnings));
        let store = draft.store.take().and_then(|store| self.store(store));
        let audit = draft.audit.take().map(|audit| self.audit(&audit.value));
        let server = draft.server.take();
        let certificate = server.as_ref().and_then(|at| self.read(at.line, &at.value.certificate));
        let key = server.as_ref().and_then(|at| self.read(at.line, &at.value.key)).map(Zeroizing::new);
        let policy = draft.policy.take();
        let watched = self.watched(&draft, policy.as_ref());
        // Policy is checked against the catalog: with holes in that it would only report what follows from them.
        let book = if self.faults.is_empty() { policy.and_then(|policy| self.policy(&policy, catalog)) } else { None };
        let (Some(server), Some(certificate), Some(key), Some(store), Some(audit), Some(book)) =
            (server, certificate, key, store, audit, book)
        else {
            self.faults.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
            return Err(self.faults);
        };
        if !self.faults.is_empty() {
            return Err(self.faults);
        }
        warnings.extend_from_slice(book.warnings());
        Ok(Config {
            grpc: server.value.grpc,
            http: server.value.http,
            certificate,
            key,
            limits,
            log_format: log.format,
            log_filter: log.filter,
            store,
            audit,
            rules: Rules { book, x509: Arc::new(x509) },
            issuers,
            trust_domains,
            root_crls,
            watched,
            warnings,
        })
    }

    fn missing_sections(&mut self, seen: &BTreeSet<String>) {
        for name in ["server", "store", "audit", "policy"] {
            if !seen.contains(name) {
                self.fault(0, format!("[{name}] is missing"));
            }
        }
    }

    fn limits(&mut self, limits: Option<At<Limits>>) -> Limits {
        let Some(At { line, value }) = limits else { return Limits::default() };
        for fault in value.faults() {
            self.fault(line, fault);
        }
        value
    }

    fn watched(&self, draft: &Draft, policy: Option<&At<PolicySection>>) -> Vec<PathBuf> {
        let crls = draft.trust_domains.iter().flat_map(|at| at.value.crls.iter().chain([&at.value.ca]));
        let policy = policy.map(|at| &at.value.file);
        let files = crls.chain(policy).map(|path| self.path(path));
        files.chain([PathBuf::from(&self.file)]).collect()
    }

    fn cas(&mut self, sections: &[At<CaSection>]) -> BTreeMap<CaName, Arc<Authority>> {
        let mut cas = BTreeMap::new();
        for At { line, value } in sections {
            let (chain, root, key) = (self.read(*line, &value.certificate), self.read(*line, &value.root), self.read(*line, &value.key));
            let (Some(chain_pem), Some(root_pem), Some(key_pem)) = (chain, root, key) else { continue };
            let loaded =
                FileKey::from_pem(&String::from_utf8_lossy(&Zeroizing::new(key_pem))).map_err(|fault| vec![fault]).and_then(|key| {
                    let config = CaConfig {
                        name: value.name.clone(),
                        chain_pem,
                        root_pem,
                        key: Arc::new(key),
                        crl_url: value.crl_url.clone(),
                        crl_life: value.crl_life,
                    };
                    Authority::load(config, self.now)
                });
            match loaded {
                Ok(authority) => {
                    if cas.insert(value.name.clone(), Arc::new(authority)).is_some() {
                        self.fault(*line, format!("there are two CAs of the name {}", value.name));
                    }
                }
                Err(faults) => faults.into_iter().for_each(|fault| self.fault(*line, format!("ca {}: {fault}", value.name))),
            }
        }
        cas
    }

    fn root_crls(&mut self, sections: &[At<CaSection>]) -> Vec<(String, Vec<u8>)> {
        let mut crls = Vec::new();
        for At { line, value } in sections {
            if let Some(path) = &value.root_crl {
                match std::fs::read(self.path(path)) {
                    Ok(crl) => crls.push((format!("root-{}", value.name), crl)),
                    Err(error) => self.fault(*line, format!("{} cannot be read: {error}", path.display())),
                }
            }
        }
        crls
    }

    fn trust_domains(
        &mut self,
        sections: &[At<TrustDomainSection>],
        cas: &BTreeMap<CaName, Arc<Authority>>,
    ) -> Vec<(TrustDomainConfig, Vec<CaName>)> {
        let mut domains = Vec::new();
        for At { line, value } in sections {
            for ca in value.own_cas.iter().filter(|ca| !cas.contains_key(*ca)) {
                let known: Vec<&str> = cas.keys().map(CaName::as_str).collect();
                self.fault(*line, format!("trust domain {}: there is no CA {ca}{}", value.name, hint(ca.as_str(), known)));
            }
            if domains.iter().any(|(other, _): &(TrustDomainConfig, _)| other.name == value.name) {
                self.fault(*line, format!("there are two trust domains of the name {}", value.name));
            }
            let crls = value.crls.iter().filter_map(|path| self.crl(*line, path)).collect();
            let Some(ca_pem) = self.read(*line, &value.ca) else { continue };
            let config = TrustDomainConfig::new(value.name.clone(), ca_pem, crls, value.crl_required, value.identity);
            domains.push((config, value.own_cas.clone()));
        }
        domains
    }

    fn crl(&mut self, line: usize, path: &std::path::Path) -> Option<Vec<u8>> {
        let path = self.path(path);
        std::fs::read(&path).map_err(|error| self.fault(line, format!("{} cannot be read: {error}", path.display()))).ok()
    }

    fn store(&mut self, At { line, value }: At<StoreSection>) -> Option<StoreConfig> {
        match value {
            StoreSection::Embedded { path, retention } => Some(StoreConfig::Embedded { path: self.path(&path), retention }),
            StoreSection::Redis { urls, cluster, username, password_file, ca, prefix, timeout, retention } => {
                let password = match password_file {
                    None => None,
                    Some(path) => {
                        let bytes = Zeroizing::new(self.read(line, &path)?);
                        let text = String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned();
                        Some(Zeroizing::new(text))
                    }
                };
                let ca_pem = match ca {
                    None => None,
                    Some(path) => Some(self.read(line, &path)?),
                };
                if urls.iter().any(|url| url::Url::parse(url).is_ok_and(|url| url.password().is_some())) {
                    self.fault(line, "a password in a store URL is refused: put it in a file and name that as password_file");
                }
                let timeout = super::limits::std_duration(timeout);
                Some(StoreConfig::Redis(RedisOptions { urls, cluster, username, password, ca_pem, prefix, timeout, retention }))
            }
        }
    }

    fn audit(&self, section: &AuditSection) -> AuditOptions {
        let mut options = AuditOptions::new(self.path(&section.dir));
        if let Some(bytes) = section.segment_bytes {
            options.segment_bytes = bytes;
        }
        options
    }

    fn policy(&mut self, At { line, value }: &At<PolicySection>, catalog: Arc<Catalog>) -> Option<PolicyBook> {
        let path = self.path(&value.file);
        let text = match read_bounded(&path) {
            Ok(text) => text,
            Err(error) => {
                self.fault(*line, format!("{} cannot be read: {error}", path.display()));
                return None;
            }
        };
        let version = policy_version(self.text(), &text);
        match PolicyBook::load(&path.display().to_string(), &text, catalog, &version) {
            Ok(book) => Some(book),
            Err(faults) => {
                self.faults.extend(faults);
                None
            }
        }
    }
}

/// Names what decided: the first 12 hex digits of SHA-256 over the configuration and the policy, because roles and tenants decide too.
fn policy_version(config: &str, policy: &str) -> String {
    let both = [config.as_bytes(), policy.as_bytes()].concat();
    digest(&SHA256, &both).as_ref()[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// "; did you mean …?", or nothing.
pub(super) fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map(|near| format!("; did you mean {near}?")).unwrap_or_default()
}
