//! From sections to a configuration that holds together: references exist, spans fit, templates parse, keys load, policy checks.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};

use super::{
    aws::AwsSection,
    cas::ServerIdentity,
    file::{At, Reader, read_bounded},
    keys::KeysSection,
    limits::Limits,
    oidc::OidcSection,
    registry::{CallersCas, RegistrySection},
    roles::{self, KindSection, RoleDraft},
    sections::{
        AuditSection, CaSection, IssuerSection, LogFormat, LogSection, PolicySection, ServerSection, StoreSection, TenantSection,
        TrustDomainSection,
    },
    watched::Watched,
};
use crate::{
    audit::disk::AuditOptions,
    authn::{mtls::TrustDomainConfig, oidc::IssuerConfig},
    issuer::{
        Issuers, TokenSigner,
        aws::{AwsConfig, AwsIssuer},
        jwt::JwtIssuer,
        registry::RegistryIssuer,
        x509::X509Issuer,
    },
    keys::FileKek,
    model::{
        SignedDuration,
        catalog::Catalog,
        fault::{Fault, nearest},
        hex,
        name::{AwsName, CaName},
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
    pub roles: Vec<RoleDraft>,
    pub aws: Vec<At<AwsSection>>,
    pub registries: Vec<At<RegistrySection>>,
    pub oidc: Option<At<OidcSection>>,
    pub keys: Option<At<KeysSection>>,
}

/// What was configured before the roles that name it.
pub(super) struct Configured {
    pub x509: X509Issuer,
    pub registries: RegistryIssuer,
    /// One that refuses where there is no `[oidc]`, or a faulty one.
    pub jwt: Arc<JwtIssuer>,
    /// Whether there is an `[oidc]`.
    pub signs_jwts: bool,
    /// Ways into AWS.
    pub aws: Vec<AwsConfig>,
}

impl Configured {
    /// The way into AWS of that name.
    pub fn way(&self, name: &AwsName) -> Option<&AwsConfig> {
        self.aws.iter().find(|way| way.name == *name)
    }

    fn into_issuers(self, catalog: &Catalog) -> Issuers {
        let signer: Option<Arc<dyn TokenSigner>> = if self.signs_jwts { Some(self.jwt.clone()) } else { None };
        let aws = AwsIssuer::new(self.aws, roles::aws::of_catalog(catalog), signer.as_ref());
        Issuers { x509: Arc::new(self.x509), aws: Arc::new(aws), registry: Arc::new(self.registries), jwt: self.jwt }
    }
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
    /// Where HTTP listens over TLS. The token endpoint of registries is there, and not at `http`, when it is given.
    pub https: Option<SocketAddr>,
    /// What a TLS client is shown.
    pub identity: ServerIdentity,
    /// Where the admin socket is; none without one.
    pub admin: Option<PathBuf>,
    /// What seals the service's keys; none where it keeps none.
    pub wrapper: Option<Arc<FileKek>>,
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
    /// CRLs of roots, made elsewhere, to be served beside ours: name and DER.
    pub root_crls: Vec<(String, Vec<u8>)>,
    /// What a reload looks at, and what it cannot take up.
    pub watched: Watched,
    /// Advice.
    pub warnings: Vec<Fault>,
}

impl Reader {
    /// Checks a draft as a whole.
    pub(super) fn build(mut self, mut draft: Draft) -> Result<Config, Vec<Fault>> {
        let mut warnings = Vec::new();
        self.missing_sections(&draft.seen);
        let cas = self.cas(&draft.cas, &draft.roles, draft.server.as_ref(), draft.seen.contains("keys"));
        let root_crls = self.root_crls(&draft.cas);
        let watched = self.watched(&draft, &root_crls);
        let trust_domains = self.trust_domains(&draft.trust_domains, &cas);
        let issuers = self.issuers(&draft.issuers, &mut warnings);
        self.own_tokens(draft.oidc.as_ref(), &issuers, &draft.issuers, &mut warnings);
        let wrapper = self.wrapper(draft.keys.as_ref());
        let jwt = Arc::new(self.oidc(draft.oidc.as_ref(), jwt_claims(&draft.roles), draft.seen.contains("keys")));
        let trusted = trust_domains.iter().map(|(domain, _)| (&domain.name, domain.ca_pem.as_slice())).collect();
        let registries = self.registries(&draft.registries, &CallersCas { own: &cas, trusted });
        let signs_jwts = draft.oidc.is_some();
        let aws = self.aws(&draft.aws, signs_jwts);
        let server = draft.server.take();
        let identity = server.as_ref().and_then(|server| self.identity(server, &cas));
        let configured = Configured { x509: X509Issuer::over(cas), registries, jwt, signs_jwts, aws };
        let catalog = Arc::new(self.catalog(&draft, &issuers, &configured, &mut warnings));
        // With holes in the catalog the check of policies would only report what follows from them; their syntax needs none.
        let checked = self.faults.is_empty().then(|| catalog.clone());
        let book = draft.policy.take().and_then(|policy| self.policy(&policy, checked));
        let limits = self.limits(draft.limits.take());
        let log = self.log(draft.log.take());
        let store = draft.store.take().and_then(|store| self.store(store));
        let audit = draft.audit.take().map(|audit| self.audit(&audit));
        let admin = server.as_ref().and_then(|At { line, value }| self.admin(*line, value.admin.as_ref()));
        let (Some(server), Some(identity), Some(store), Some(audit), Some(book), true) =
            (server, identity, store, audit, book, self.faults.is_empty())
        else {
            self.faults.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
            return Err(self.faults);
        };
        warnings.extend_from_slice(book.warnings());
        Ok(Config {
            grpc: server.value.grpc,
            http: server.value.http,
            https: server.value.https,
            identity,
            admin,
            wrapper,
            limits,
            log_format: log.format,
            log_filter: log.filter,
            store,
            audit,
            rules: Rules { book, issuers: configured.into_issuers(&catalog) },
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

    /// The policies, checked against the catalog; only their syntax where there is none.
    fn policy(&mut self, At { line, value }: &At<PolicySection>, catalog: Option<Arc<Catalog>>) -> Option<PolicyBook> {
        let path = self.path(&value.file);
        let text = match read_bounded(&path) {
            Ok(text) => text,
            Err(error) => {
                self.fault(*line, format!("{} cannot be read: {error}", path.display()));
                return None;
            }
        };
        let file = path.display().to_string();
        let loaded = match catalog {
            Some(catalog) => PolicyBook::load(&file, &text, catalog, &policy_version(self.text(), &text)).map(Some),
            None => PolicyBook::parse(&file, &text).map(|()| None),
        };
        loaded.map_err(|faults| self.faults.extend(faults)).ok().flatten()
    }
}

/// Names what decided: the first 12 hex digits of SHA-256 over the configuration and the policy, because roles and tenants decide too.
fn policy_version(config: &str, policy: &str) -> String {
    let both = [config.as_bytes(), policy.as_bytes()].concat();
    hex::encode(&digest(&SHA256, &both).as_ref()[..6])
}

/// The names of the claims that roles add to tokens.
fn jwt_claims(roles: &[RoleDraft]) -> Vec<String> {
    let names = roles.iter().filter_map(|draft| match &draft.kind {
        KindSection::Jwt(section) => Some(section.claims.keys().cloned()),
        _ => None,
    });
    names.flatten().collect::<BTreeSet<_>>().into_iter().collect()
}

/// "; did you mean …?", or nothing.
pub(super) fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map(|near| format!("; did you mean {near}?")).unwrap_or_default()
}
