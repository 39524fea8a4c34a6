//! What the audit log records of one action. Never a secret.

use std::{borrow::Cow, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{
    Timestamp,
    claim::Claims,
    identity::Identity,
    lease::{Lease, LeaseId},
    name::{RoleName, TenantName},
};

/// How an action ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    Done,
    /// The caller was not authenticated or may not.
    Denied,
    /// It could not be done.
    Failed,
}

/// Who acted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The canonical subject.
    pub subject: String,
    /// "mtls", "oidc", or "service" for the server's own passes.
    pub method: Cow<'static, str>,
    /// The trust domain or the issuer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub authority: String,
    /// The serial of the caller's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The subject of the certificate beside a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The verified claims that the issuer's configuration names.
    #[serde(default, skip_serializing_if = "Claims::is_empty")]
    pub claims: Claims,
}

impl Actor {
    /// The server itself, in one of its passes.
    pub fn service(pass: &str) -> Self {
        Self {
            subject: format!("service:{pass}"),
            method: "service".into(),
            authority: String::new(),
            serial: None,
            peer: None,
            claims: Claims::new(),
        }
    }
}

impl From<&Identity> for Actor {
    fn from(identity: &Identity) -> Self {
        use super::identity::Proof;
        Self {
            subject: identity.subject().to_string(),
            method: identity.method().into(),
            authority: identity.authority().to_owned(),
            serial: match &identity.proof {
                Proof::Certificate(peer) => Some(peer.serial.clone()),
                Proof::Token { .. } => None,
            },
            peer: identity.peer().map(|peer| peer.subject.to_string()),
            claims: identity.claims().cloned().unwrap_or_default(),
        }
    }
}

/// One action, as it goes into the log. The log adds `seq`, `prev` and `hash`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub time: Timestamp,
    /// What: the gRPC method ("CredentialService/Issue") or the pass ("sweep/expire").
    pub method: Cow<'static, str>,
    /// How it ended.
    pub outcome: Outcome,
    /// The stable reason when it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'static, str>>,
    /// Who; absent when the caller could not be authenticated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor>,
    /// The tenant that it concerns: the lease's, or else the caller's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
    /// The role that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<RoleName>,
    /// The lease that it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_id: Option<LeaseId>,
    /// The lease after the action, from which a store that forgot it can be rebuilt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// Where the call came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_address: Option<IpAddr>,
    /// The id of this call, the same in logs and in the answer's metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    /// The caller's own request id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The version of the policy that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_version: Option<String>,
    /// The ids of the policies that decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// For a denial: each considered policy and the condition that failed. Else what the caller said or what was found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub detail: Vec<String>,
}

impl Event {
    /// An event with nothing but a time, a method and an outcome.
    pub fn new(time: Timestamp, method: impl Into<Cow<'static, str>>, outcome: Outcome) -> Self {
        Self {
            time,
            method: method.into(),
            outcome,
            reason: None,
            actor: None,
            tenant: None,
            role: None,
            lease_id: None,
            lease: None,
            peer_address: None,
            call_id: None,
            request_id: None,
            policy_version: None,
            policies: Vec::new(),
            detail: Vec::new(),
        }
    }
}
