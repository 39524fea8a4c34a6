//! The sections of the file, as they are written. Nothing here is checked beyond its form; `build` does that.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use serde::Deserialize;

use crate::model::{
    SignedDuration, Timestamp,
    claim::{ClaimType, ClaimValue},
    identity::{CertificateIdentity, TokenUse},
    name::{CaName, IssuerName, RoleName, TenantName, TrustDomain},
    role::OnClone,
    tenant::TenantKind,
};

/// `[server]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServerSection {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    #[serde(default)]
    pub https: Option<SocketAddr>,
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    #[serde(default)]
    pub key: Option<PathBuf>,
    #[serde(default)]
    pub certificate_from: Option<OwnCertificateSection>,
    /// The admin socket.
    #[serde(default)]
    pub admin: Option<PathBuf>,
}

/// `server.certificate_from`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OwnCertificateSection {
    pub ca: CaName,
    pub names: Vec<String>,
    #[serde(default = "default_own_life")]
    pub life: SignedDuration,
}

fn default_own_life() -> SignedDuration {
    SignedDuration::from_hours(24)
}

/// `[log]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LogSection {
    pub format: LogFormat,
    pub filter: String,
}

impl Default for LogSection {
    fn default() -> Self {
        Self { format: LogFormat::Json, filter: "info".to_owned() }
    }
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// `[store]`
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum StoreSection {
    Embedded {
        path: PathBuf,
        #[serde(default = "default_retention")]
        retention: SignedDuration,
    },
    Redis {
        urls: Vec<String>,
        #[serde(default)]
        cluster: bool,
        #[serde(default)]
        username: Option<String>,
        #[serde(default)]
        password_file: Option<PathBuf>,
        #[serde(default)]
        ca: Option<PathBuf>,
        #[serde(default = "default_prefix")]
        prefix: String,
        #[serde(default = "default_store_timeout")]
        timeout: SignedDuration,
        #[serde(default = "default_retention")]
        retention: SignedDuration,
    },
}

fn default_retention() -> SignedDuration {
    crate::store::DEFAULT_RETENTION
}

fn default_prefix() -> String {
    crate::store::redis::DEFAULT_PREFIX.to_owned()
}

fn default_store_timeout() -> SignedDuration {
    SignedDuration::try_from(crate::store::redis::DEFAULT_TIMEOUT).unwrap_or(SignedDuration::MAX)
}

/// `[audit]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditSection {
    pub dir: PathBuf,
    #[serde(default)]
    pub segment_bytes: Option<u64>,
}

/// `[policy]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicySection {
    pub file: PathBuf,
}

/// `[[ca]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CaSection {
    pub name: CaName,
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    #[serde(default)]
    pub key: Option<PathBuf>,
    #[serde(default)]
    pub root: Option<PathBuf>,
    /// In place of the three above.
    #[serde(default)]
    pub rotation: Option<RotationSection>,
    pub crl_url: String,
    #[serde(default = "default_crl_life")]
    pub crl_life: SignedDuration,
    /// A CRL of the root, made where its key is, to be served beside ours as `/crl/root-<name>.crl`.
    #[serde(default)]
    pub root_crl: Option<PathBuf>,
}

fn default_crl_life() -> SignedDuration {
    crate::issuer::x509::DEFAULT_CRL_LIFE
}

/// `[ca.rotation]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RotationSection {
    pub every: SignedDuration,
    #[serde(default = "default_ca_publish_ahead")]
    pub publish_ahead: SignedDuration,
    #[serde(default)]
    pub life: Option<SignedDuration>,
    #[serde(default)]
    pub root: Option<RingRootSection>,
    #[serde(default)]
    pub activate_when_acknowledged: bool,
    #[serde(default = "default_acknowledged_after")]
    pub acknowledged_after: SignedDuration,
}

fn default_acknowledged_after() -> SignedDuration {
    crate::keys::schedule::POLLED_AFTER
}

fn default_ca_publish_ahead() -> SignedDuration {
    super::cas::DEFAULT_PUBLISH_AHEAD
}

/// `root` of `[ca.rotation]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RingRootSection {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// `[[trust_domain]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TrustDomainSection {
    pub name: TrustDomain,
    /// May be absent where `own_cas` names a CA that rotates: its roots are of the trust domain as they are made.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    #[serde(default)]
    pub crls: Vec<PathBuf>,
    /// Issuing CAs of ours: their CRLs hold for this trust domain's clients as soon as they are signed.
    #[serde(default)]
    pub own_cas: Vec<CaName>,
    #[serde(default)]
    pub crl_required: bool,
    pub identity: CertificateIdentity,
}

/// `[[issuer]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IssuerSection {
    pub name: IssuerName,
    #[serde(default)]
    pub preset: Option<String>,
    #[serde(default)]
    pub url: Option<String>,
    pub audiences: Vec<String>,
    #[serde(default)]
    pub algorithms: Option<Vec<String>>,
    #[serde(default)]
    pub keys_file: Option<PathBuf>,
    #[serde(default)]
    pub claims: Vec<ClaimSection>,
    #[serde(default)]
    pub token_use: Option<TokenUse>,
    #[serde(default)]
    pub max_token_age: Option<SignedDuration>,
    #[serde(default)]
    pub leeway: Option<SignedDuration>,
    #[serde(default)]
    pub jwks_max_age: Option<SignedDuration>,
    #[serde(default)]
    pub allow_private_network: bool,
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

/// `[[issuer.claims]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClaimSection {
    pub name: String,
    #[serde(default)]
    pub path: Vec<String>,
    #[serde(rename = "type")]
    pub ty: ClaimType,
    #[serde(default)]
    pub required: bool,
}

/// `[[tenant]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TenantSection {
    pub name: TenantName,
    pub kind: TenantKind,
    #[serde(default)]
    pub ends_at: Option<Timestamp>,
    pub members: Vec<MemberSection>,
    #[serde(default = "default_tenant_cap")]
    pub max_live_leases: u32,
    #[serde(default = "default_caller_cap")]
    pub max_live_leases_per_caller: u32,
}

fn default_tenant_cap() -> u32 {
    100_000
}

fn default_caller_cap() -> u32 {
    1_000
}

/// One of `members` of `[[tenant]]`
#[derive(Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub(super) enum MemberSection {
    Certificate { trust_domain: TrustDomain, id: String },
    Token { issuer: IssuerName, claims: BTreeMap<String, ClaimValue> },
}

/// `[[role]]`, what roles of every kind have; the rest of the table is the kind's own section (see `roles/`).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RoleSection {
    pub name: RoleName,
    #[serde(default)]
    pub tenant: Option<TenantName>,
    #[serde(default)]
    pub shared: bool,
    pub default_ttl: SignedDuration,
    pub max_ttl: SignedDuration,
    #[serde(default)]
    pub max_life: Option<SignedDuration>,
    #[serde(default)]
    pub max_life_per_token: Option<SignedDuration>,
    #[serde(default)]
    pub on_clone: OnClone,
}
