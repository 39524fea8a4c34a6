//! Who is calling: made by `authn` only, after everything in it was verified.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    SignedDuration, Timestamp,
    claim::Claims,
    enrollment::Enrolled,
    lease::Lease,
    name::{IssuerName, TenantName, TrustDomain},
};

/// The longest subject, in bytes.
pub const MAX_SUBJECT: usize = 512;

/// The most that clocks may differ when a token's times are checked, whatever an issuer is configured with.
pub const MAX_LEEWAY: SignedDuration = SignedDuration::from_secs(60);

/// A caller's canonical name: in leases, in the audit log, in caps and rate limits.
///
/// Four forms, told apart by their prefix, so that no two identities collide:
/// `spiffe://<trust domain>/<path>`; `dns:<trust domain>/<name>` or `cn:<trust domain>/<name>`; `oidc:<issuer name>:<sub>`;
/// `enrollment:<id>` for who redeems a code, and for nothing else.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subject(Arc<str>);

/// A subject that is empty, too long, or holds control characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a subject is 1 to {MAX_SUBJECT} bytes without control characters")]
pub struct BadSubject;

impl Subject {
    /// The subject as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Subject {
    type Error = BadSubject;
    fn try_from(text: String) -> Result<Self, BadSubject> {
        if text.is_empty() || text.len() > MAX_SUBJECT || text.chars().any(char::is_control) {
            return Err(BadSubject);
        }
        Ok(Self(text.into()))
    }
}

impl From<Subject> for String {
    fn from(subject: Subject) -> String {
        subject.0.as_ref().to_owned()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// How a certificate's identity is read: by explicit mapping, for each trust domain one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CertificateIdentity {
    /// The one URI SAN, a SPIFFE ID of this trust domain.
    Spiffe,
    /// The one DNS SAN, lower case.
    Dns,
    /// The one common name.
    Cn,
}

/// A client certificate whose chain was verified against the CA of its trust domain, and that no CRL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The trust domain whose CA it chains to.
    pub trust_domain: TrustDomain,
    /// Which part of it is the identity.
    pub identity: CertificateIdentity,
    /// The identity: the whole SPIFFE ID, the DNS name, or the common name.
    pub id: String,
    /// Its canonical subject.
    pub subject: Subject,
    /// Its serial, lower-case hex.
    pub serial: String,
    /// SHA-256 over its DER, lower-case hex.
    pub fingerprint: String,
    /// When it expires.
    pub not_after: Timestamp,
}

/// How often one token may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenUse {
    /// For one lease in all.
    Once,
    /// For one lease of each role.
    OncePerRole,
    /// For any number.
    Any,
}

/// A verified token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedToken {
    /// The configured issuer.
    pub issuer: IssuerName,
    /// Its `sub`.
    pub sub: String,
    /// Its canonical subject.
    pub subject: Subject,
    /// The claims that the issuer's configuration names, type-checked.
    pub claims: Claims,
    /// The first 16 bytes of SHA-256 over issuer and `jti`, or over issuer and the signed part of the token where there is
    /// no `jti`: a second signature over the same claims makes no second token.
    pub token_id: [u8; 16],
    /// How often it may be used.
    pub token_use: TokenUse,
    /// Its `exp`.
    pub expires_at: Timestamp,
}

/// What proved the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// A client certificate.
    Certificate(PeerCertificate),
    /// An OIDC token; a certificate beside it is visible to policy as its peer, and is not the caller.
    Token {
        /// The token.
        token: VerifiedToken,
        /// The certificate of the connection that carried it.
        peer: Option<PeerCertificate>,
    },
    /// An enrolment code: good for one first identity, and for nothing else.
    Enrollment(Box<Enrolled>),
}

/// An authenticated caller that belongs to exactly one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The caller's tenant.
    pub tenant: TenantName,
    /// What proved it.
    pub proof: Proof,
}

impl Identity {
    /// The caller's canonical name.
    pub fn subject(&self) -> &Subject {
        match &self.proof {
            Proof::Certificate(peer) => &peer.subject,
            Proof::Token { token, .. } => &token.subject,
            Proof::Enrollment(enrolled) => &enrolled.subject,
        }
    }

    /// "mtls", "oidc" or "enrollment".
    pub fn method(&self) -> &'static str {
        match self.proof {
            Proof::Certificate(_) => "mtls",
            Proof::Token { .. } => "oidc",
            Proof::Enrollment(_) => "enrollment",
        }
    }

    /// The trust domain of a certificate, the configured name of a token's issuer, or who made a code.
    pub fn authority(&self) -> &str {
        match &self.proof {
            Proof::Certificate(peer) => peer.trust_domain.as_str(),
            Proof::Token { token, .. } => token.issuer.as_str(),
            Proof::Enrollment(enrolled) => enrolled.enrollment.created_by.as_str(),
        }
    }

    /// The verified claims; a certificate and a code have none.
    pub fn claims(&self) -> Option<&Claims> {
        match &self.proof {
            Proof::Certificate(_) | Proof::Enrollment(_) => None,
            Proof::Token { token, .. } => Some(&token.claims),
        }
    }

    /// The certificate beside a token.
    pub fn peer(&self) -> Option<&PeerCertificate> {
        match &self.proof {
            Proof::Certificate(_) | Proof::Enrollment(_) => None,
            Proof::Token { peer, .. } => peer.as_ref(),
        }
    }

    /// The certificate that is the caller.
    pub fn certificate(&self) -> Option<&PeerCertificate> {
        match &self.proof {
            Proof::Certificate(peer) => Some(peer),
            Proof::Token { .. } | Proof::Enrollment(_) => None,
        }
    }

    /// The code that is being redeemed.
    pub fn enrolled(&self) -> Option<&Enrolled> {
        match &self.proof {
            Proof::Enrollment(enrolled) => Some(enrolled),
            Proof::Certificate(_) | Proof::Token { .. } => None,
        }
    }

    /// Whether a lease is this caller's: its subject's, and the very certificate's where it is an enrolled agent's own identity. A sibling
    /// with the same names, issued or enrolled beside it, is another one (CVE-2026-39388 in OpenBao).
    pub fn owns(&self, lease: &Lease) -> bool {
        let same = lease.tenant == self.tenant && lease.subject == *self.subject();
        same && (!lease.enrolled || self.certificate().is_some_and(|peer| lease.generation_of(&peer.serial).is_some()))
    }

    /// When the presented certificate, token or code expires.
    pub fn expires_at(&self) -> Timestamp {
        match &self.proof {
            Proof::Certificate(peer) => peer.not_after,
            Proof::Token { token, .. } => token.expires_at,
            Proof::Enrollment(enrolled) => enrolled.enrollment.expires_at,
        }
    }
}
