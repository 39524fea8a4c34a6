//! What the server says, in plain types. Their serde form is the JSON that `daypass -o json` prints: a contract.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::model::secret::Secret;

/// The kind of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CredentialKind {
    /// An X.509 certificate.
    X509,
    /// An AWS session.
    Aws,
    /// What `docker login` at Amazon ECR takes.
    Ecr,
    /// What `docker login` at a registry takes.
    Registry,
    /// A signed JWT.
    Jwt,
}

impl CredentialKind {
    /// Its name in JSON and text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::Aws => "aws",
            Self::Ecr => "ecr",
            Self::Registry => "registry",
            Self::Jwt => "jwt",
        }
    }
}

/// Where a lease stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaseState {
    /// Reserved; no credential has left yet.
    Pending,
    /// Handed out, good until it expires.
    Active,
    /// Its revocation is durable and under way.
    Revoking,
    /// Its revocation has reached as far as it can.
    Revoked,
    /// Its time has passed.
    Expired,
}

impl LeaseState {
    /// Its name in flags, JSON and text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Revoking => "revoking",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }
}

/// How far a revocation reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// Into the CRL: whoever reads it refuses the certificate.
    Crl,
    /// This lease alone, at the system that takes its credential.
    Lease,
    /// Every older session of the same IAM role, other leases' among them.
    RoleSessions,
    /// Nowhere: the credential lives until it expires.
    Expiry,
}

/// What a revocation can do, and until when the credential still works somewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Revocation {
    /// How far it reaches.
    pub reach: Reach,
    /// Until when the credential can still be accepted.
    pub live_until: Timestamp,
}

/// One vended credential, as it is on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lease {
    /// A UUID.
    pub id: String,
    /// The role.
    pub role: String,
    /// The kind of the credential.
    pub kind: CredentialKind,
    /// The holder's tenant.
    pub tenant: String,
    /// The holder.
    pub subject: String,
    /// Where it stands.
    pub state: LeaseState,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// When the newest credential under it expires.
    pub expires_at: Timestamp,
    /// Whether a renewal can still move `expires_at`.
    pub renewable: bool,
    /// What a revocation reaches.
    pub revocation: Revocation,
    /// How many credentials were made under it, from 1.
    pub generation: u32,
    /// No renewal moves `expires_at` past this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renew_until: Option<Timestamp>,
    /// When its revocation was acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
    /// The newest certificate's serial, lower-case hex; empty for other kinds.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// What names the newest credential at the system that takes it; empty where nothing does.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub credential_id: String,
    /// When its next credential is due; none when none can be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation: Option<RotationWindow>,
    /// The newest generation that its holder acknowledged; 0 when it acknowledged none.
    pub acknowledged_generation: u32,
    /// Whether it is the client certificate of an enrolled agent: only this very certificate renews it.
    pub enrolled: bool,
}

/// When the next credential of a lease is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RotationWindow {
    /// From when on.
    pub start: Timestamp,
    /// Until when: who polls asks before.
    pub end: Timestamp,
}

/// What relying parties trust.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustBundle {
    /// Names this content; the same at every server.
    pub version: String,
    /// The roots, each DER, each once.
    pub roots_der: Vec<Vec<u8>>,
    /// The keys that sign JWTs, as a JWKS; empty when there are none.
    pub jwks: String,
    /// The same roots by the configured name of their CA. A CA that rotates has more than one.
    pub cas: BTreeMap<String, Vec<Vec<u8>>>,
}

impl TrustBundle {
    /// The roots of the CAs that one of `own` is a root of, those of their next keys among them. Roots of the service's other CAs are
    /// none: who trusts one CA has not said that it trusts another.
    pub fn roots_beside<'a>(&'a self, own: &'a [Vec<u8>]) -> impl Iterator<Item = &'a Vec<u8>> {
        let same = self.cas.values().filter(|roots| roots.iter().any(|root| own.contains(root)));
        same.flatten().filter(|root| !own.contains(root))
    }

    /// The same with the roots of those CAs alone that one of `own` is a root of.
    #[must_use]
    pub fn of_the_cas_of(&self, own: &[Vec<u8>]) -> Self {
        let cas = self.cas.iter().filter(|(_, roots)| roots.iter().any(|root| own.contains(root)));
        let cas: BTreeMap<_, _> = cas.map(|(ca, roots)| (ca.clone(), roots.clone())).collect();
        let roots_der = self.roots_der.iter().filter(|root| cas.values().any(|roots| roots.contains(root))).cloned().collect();
        Self { version: self.version.clone(), roots_der, cas, jwks: self.jwks.clone() }
    }
}

/// A lease with its new credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The lease.
    pub lease: Lease,
    /// The credential.
    pub credential: Credential,
}

/// A credential. The private key of a certificate is not part of it: it never left this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// An X.509 certificate with its chain.
    X509(X509Credential),
    /// An AWS session.
    Aws(AwsCredential),
    /// What `docker login` takes.
    Registry(RegistryCredential),
    /// A signed JWT.
    Jwt(JwtCredential),
}

/// An AWS session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsCredential {
    /// The access key's id.
    pub access_key_id: String,
    /// The secret access key.
    pub secret_access_key: Secret,
    /// The session token.
    pub session_token: Secret,
    /// When the session ends.
    pub expires_at: Timestamp,
    /// The region to use.
    pub region: String,
}

/// What `docker login` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryCredential {
    /// The registry: `host[:port]`.
    pub registry: String,
    /// The user name.
    pub username: String,
    /// The password.
    pub secret: Secret,
    /// When it ceases to be taken.
    pub expires_at: Timestamp,
}

/// A signed JWT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtCredential {
    /// The token, in compact form.
    pub token: Secret,
    /// Its `exp`.
    pub expires_at: Timestamp,
}

/// An X.509 certificate with its chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509Credential {
    /// The leaf first, then the intermediates, each DER; never empty.
    pub chain_der: Vec<Vec<u8>>,
    /// The roots to trust, each DER.
    pub root_der: Vec<Vec<u8>>,
    /// When the leaf begins to be valid.
    pub not_before: Timestamp,
    /// When the leaf ceases to be valid.
    pub not_after: Timestamp,
}

/// How the server sees the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WhoAmI {
    /// The caller, as leases and the audit log name it.
    pub subject: String,
    /// The caller's tenant.
    pub tenant: String,
    /// "mtls" or "oidc".
    pub method: String,
    /// The trust domain, or the name of the token's issuer.
    pub authority: String,
    /// When the presented certificate or token expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The verified claims of a token.
    pub claims: BTreeMap<String, serde_json::Value>,
    /// The identity in the certificate beside a token; empty when there is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub peer: String,
    /// The roles that the caller may have now, in order of name.
    pub roles: Vec<String>,
}

/// Why the caller may or may not have a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Whether `issue` would be allowed now.
    pub allowed: bool,
    /// The stable reason of a denial; empty when allowed.
    pub reason: String,
    /// The policies that could have applied.
    pub policies: Vec<ConsideredPolicy>,
    /// The version of the policy in force.
    pub policy_version: String,
}

/// One policy and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConsideredPolicy {
    /// Its id.
    pub id: String,
    /// "permit" or "forbid".
    pub effect: String,
    /// Whether it applied as a whole.
    pub satisfied: bool,
    /// Its line in the policy file, from 1.
    pub line: u32,
    /// The conditions that did not hold.
    pub failed: Vec<FailedCondition>,
}

/// A condition that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailedCondition {
    /// The condition as it is written.
    pub condition: String,
    /// The claims that it reads.
    pub claims: Vec<String>,
    /// Whether one of them was absent.
    pub absent: bool,
}

/// Which leases. Every field that is set must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseFilter {
    /// A role.
    pub role: Option<String>,
    /// A tenant.
    pub tenant: Option<String>,
    /// A subject, exactly.
    pub subject: Option<String>,
    /// A state.
    pub state: Option<LeaseState>,
    /// Only leases issued before this time.
    pub issued_before: Option<Timestamp>,
}

/// A page of leases, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The leases.
    pub leases: Vec<Lease>,
    /// For the next page; none after the last.
    pub next: Option<String>,
}

/// What `issue` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssueOrder {
    /// The role.
    pub role: String,
    /// The wanted life; none means the role's default.
    pub ttl: Option<SignedDuration>,
    /// Makes a repetition of this very order safe.
    pub request_id: String,
    /// What the kind of the role needs.
    pub input: OrderInput,
}

/// What a role's kind needs. A role of another kind than X.509 takes no notice of a CSR, so that it can always be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderInput {
    /// A PKCS #10 request, DER.
    Csr(Vec<u8>),
    /// The audience of a JWT.
    Audience(String),
    /// Nothing: for an AWS session or a registry's secret. A role of kind X.509 refuses it before anything is made.
    Nothing,
}

/// What `lease renew` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewOrder {
    /// The lease.
    pub lease_id: String,
    /// The wanted life from now; none means the role's default.
    pub ttl: Option<SignedDuration>,
    /// What the kind of the role needs.
    pub input: OrderInput,
}

/// One step of a revocation of many leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevokeStep {
    /// First.
    Matched {
        /// Leases that match and that the caller may revoke.
        count: u64,
        /// Leases that match and that the caller may not revoke.
        denied: u64,
    },
    /// Then, after each batch.
    Progress {
        /// Revoked so far.
        revoked: u64,
        /// Failed so far.
        failed: u64,
    },
    /// For each lease that failed.
    Failure(RevokeFailure),
    /// Last.
    Summary {
        /// Revoked in all.
        revoked: u64,
        /// Failed in all.
        failed: u64,
        /// The latest time at which a revoked credential can still be accepted.
        live_until: Option<Timestamp>,
    },
}

/// A lease that could not be revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RevokeFailure {
    /// Its id.
    pub id: String,
    /// The stable reason.
    pub code: String,
    /// A text for people.
    pub message: String,
}

/// One record of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its sequence number, from 1.
    pub seq: u64,
    /// One JSON object on one line, as the log has it.
    pub json: String,
}

/// What `enroll create` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrollmentOrder {
    /// The tenant that the agent will belong to.
    pub tenant: String,
    /// The role whose certificate it gets.
    pub role: String,
    /// The agent's name; the enrolment's id when none.
    pub name: Option<String>,
    /// How long the code can be redeemed; 10 minutes when none.
    pub ttl: Option<SignedDuration>,
}

/// A code that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedEnrollment {
    /// What it is on record.
    pub enrollment: Enrollment,
    /// The code.
    pub code: Secret,
}

/// An enrolment code on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Enrollment {
    /// A UUID.
    pub id: String,
    /// The tenant.
    pub tenant: String,
    /// The role.
    pub role: String,
    /// The agent's name.
    pub name: String,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// Until when it can be redeemed.
    pub expires_at: Timestamp,
}
