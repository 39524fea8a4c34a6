//! A role: what can be had under one name, and within which bounds.

use serde::{Deserialize, Serialize};

use std::collections::BTreeMap;

use super::{
    SignedDuration,
    credential::CredentialKind,
    name::{AwsName, CaName, RegistryName, RoleName, TenantName},
    policy_template::PolicyTemplate,
    template::Template,
};

/// The longest life that a role may give, through all renewals.
pub const MAX_LIFE: SignedDuration = SignedDuration::from_hours(24 * 90);

/// Whose a role is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleOwner {
    /// Callers of this tenant only, whatever the policy says.
    Tenant(TenantName),
    /// Callers of any tenant that the policy permits.
    Shared,
}

/// A role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Its name.
    pub name: RoleName,
    /// Whose it is.
    pub owner: RoleOwner,
    /// The life of a credential when the caller does not say; at most `max_ttl`.
    pub default_ttl: SignedDuration,
    /// The longest life of one credential.
    pub max_ttl: SignedDuration,
    /// The longest life of a lease from its issue on, through all renewals; at least `max_ttl`.
    /// When it equals `max_ttl` the role's leases can only be renewed up to there.
    pub max_life: SignedDuration,
    /// How long a lease may live after its holder last showed a token: at least `max_ttl`. A watched lease of a token's holder rotates up
    /// to there and no further without a fresh one. It says nothing of holders of certificates.
    pub max_life_per_token: SignedDuration,
    /// What becomes of a lease when an older generation of it is shown than was acknowledged.
    pub on_clone: OnClone,
    /// What kind of credential it vends, and what that says.
    pub spec: RoleSpec,
}

impl Role {
    /// What it says as a role for first identities; none of any other role.
    pub fn enrollment(&self) -> Option<&X509Role> {
        match &self.spec {
            RoleSpec::X509(spec) if spec.enrollment => Some(spec),
            _ => None,
        }
    }

    /// The kind of credential that it vends.
    pub fn kind(&self) -> CredentialKind {
        match self.spec {
            RoleSpec::X509(_) => CredentialKind::X509,
            RoleSpec::Aws(_) => CredentialKind::Aws,
            RoleSpec::Ecr(_) => CredentialKind::Ecr,
            RoleSpec::Registry(_) => CredentialKind::Registry,
            RoleSpec::Jwt(_) => CredentialKind::Jwt,
        }
    }
}

/// What becomes of a lease that two hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnClone {
    /// It goes on record, and who showed the older generation is refused.
    Alert,
    /// That, and the lease is revoked: which of the two is the thief is not known.
    #[default]
    Revoke,
}

/// What a role's credential says, by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleSpec {
    /// An X.509 certificate.
    X509(X509Role),
    /// An AWS session.
    Aws(AwsRole),
    /// What `docker login` at Amazon ECR takes, by way of such a session.
    Ecr(AwsRole),
    /// What a container registry's token endpoint here takes.
    Registry(RegistryRole),
    /// A signed JWT.
    Jwt(JwtRole),
}

/// What an AWS session may do and is called. Bounds are those of `AssumeRole` in the STS API reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsRole {
    /// The way into AWS.
    pub aws: AwsName,
    /// The IAM role, `arn:<partition>:iam::<account>:role/<path and name>`.
    pub role_arn: String,
    /// How it is assumed.
    pub mode: AwsMode,
    /// The session's name: 2 to 64 of `[A-Za-z0-9+=,.@_-]`.
    pub session_name: Template,
    /// The inline session policy: a JSON document whose strings may hold placeholders.
    pub session_policy: Option<PolicyTemplate>,
    /// ARNs of managed policies that bound the session too; at most 10.
    pub policy_arns: Vec<String>,
    /// Session tags besides the one that names the lease; 50 with it at most, keys of 128 characters and values of 256.
    pub tags: BTreeMap<String, Template>,
    /// Which of the tags pass on to roles that are assumed from the session.
    pub transitive_tags: Vec<String>,
    /// The source identity: 2 to 64 of the same characters; it stays through chains of roles.
    pub source_identity: Option<Template>,
    /// The external id: 2 to 1224 of `[A-Za-z0-9+=,.@:/_-]`; with `assume_role` only.
    pub external_id: Option<Template>,
    /// How far a revocation reaches.
    pub revocation: AwsRevocation,
    /// What becomes of a revocation that finds the list full.
    pub overflow: AwsOverflow,
}

/// How an AWS role is assumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AwsMode {
    /// `AssumeRole` with the identity of the way into AWS.
    AssumeRole,
    /// `AssumeRoleWithWebIdentity` with a JWT that this service signs for the caller: no key of AWS is held.
    WebIdentity {
        /// The JWT's `aud`.
        audience: String,
        /// The JWT's `sub`.
        subject: Template,
    },
}

/// How the sessions of an AWS role are revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AwsRevocation {
    /// Not at all: they live until they expire.
    None,
    /// All older sessions of the IAM role at once (`AWSRevokeOlderSessions`).
    RoleSessions,
    /// One lease, by the session tag that names it.
    SessionTag,
    /// One lease, by its session's name, which must hold `{lease}`.
    SessionName,
}

/// What becomes of a revocation of one lease when the policy that denies has no room left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AwsOverflow {
    /// The lease stays in state revoking, and is tried again as others lapse.
    #[default]
    Fail,
    /// The oldest are denied by time of issue: with them every session of the IAM role that is as old, other leases' among them.
    RoleSessions,
}

/// Which repositories of which registry, and what may be done there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryRole {
    /// The registry.
    pub registry: RegistryName,
    /// Repositories: exact, or with `*` for one whole segment; at least one.
    pub repositories: Vec<Template>,
    /// What may be done there; at least one.
    pub actions: Vec<RegistryAction>,
    /// The longest life of one token that an exchange gives: 1 to 5 minutes.
    pub token_ttl: SignedDuration,
}

/// What may be done at a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegistryAction {
    /// Read.
    Pull,
    /// Write; a registry asks for `pull` with it.
    Push,
    /// Delete manifests and layers.
    Delete,
}

impl RegistryAction {
    /// Every action.
    pub const ALL: [Self; 3] = [Self::Pull, Self::Push, Self::Delete];

    /// Its name in a scope.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }
}

/// What a JWT says besides `iss`, `iat`, `nbf`, `exp` and `jti`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtRole {
    /// The audiences that may be asked for; at least one. The first is the default when it is the only one.
    pub audiences: Vec<String>,
    /// Its `sub`; a SPIFFE ID makes it a JWT-SVID.
    pub subject: Template,
    /// More claims, all of type string.
    pub claims: BTreeMap<String, Template>,
}

/// What an X.509 certificate says. Everything comes from here; a CSR gives a public key and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509Role {
    /// The issuing CA.
    pub ca: CaName,
    /// The subject's common name; absent means an empty subject (and a critical SAN, RFC 5280 section 4.2.1.6).
    pub common_name: Option<Template>,
    /// URI SANs.
    pub uri_sans: Vec<Template>,
    /// DNS SANs.
    pub dns_sans: Vec<Template>,
    /// IP SANs, as text of an address.
    pub ip_sans: Vec<std::net::IpAddr>,
    /// Extended key usages; at least one.
    pub ext_key_usage: Vec<ExtKeyUsage>,
    /// The public keys that are taken; at least one.
    pub key_types: Vec<KeyType>,
    /// Whether it is for first identities only: had by redeeming an enrolment code, and renewed by the very certificate; never issued.
    pub enrollment: bool,
}

/// An extended key usage (RFC 5280 section 4.2.1.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExtKeyUsage {
    /// TLS server authentication.
    ServerAuth,
    /// TLS client authentication.
    ClientAuth,
}

/// A type of public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum KeyType {
    /// ECDSA on P-256.
    #[serde(rename = "p256")]
    P256,
    /// ECDSA on P-384.
    #[serde(rename = "p384")]
    P384,
    /// Ed25519.
    #[serde(rename = "ed25519")]
    Ed25519,
    /// RSA of 2048 to 4096 bits.
    #[serde(rename = "rsa")]
    Rsa,
}
