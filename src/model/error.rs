//! The one domain error: a stable code, a text that helps and leaks nothing, and a text for the log.

use std::fmt;

/// What went wrong, as a stable reason. It is the `reason` of `google.rpc.ErrorInfo`, of the audit record and of the
/// metrics; it never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The request breaks a stated bound or form.
    InvalidRequest,
    /// The CSR does not parse, is not signed by its own key, or asks with a key that the role does not take.
    InvalidCsr,
    /// A claim's value cannot stand where the role's template puts it.
    ClaimNotUsable,
    /// No certificate and no token, or one that does not verify.
    Unauthenticated,
    /// The token has expired.
    TokenExpired,
    /// The token is for another audience.
    TokenAudience,
    /// The token was used before.
    TokenReplayed,
    /// The certificate is revoked, or its trust domain was removed.
    CertificateRevoked,
    /// The caller is verified and belongs to no tenant, or to more than one.
    NoTenant,
    /// The tenant's contract has ended.
    TenantEnded,
    /// No policy permits it.
    Denied,
    /// There is no such role.
    RoleNotFound,
    /// There is no such lease, or the caller may not read it.
    LeaseNotFound,
    /// The lease's state does not allow it.
    LeaseState,
    /// The lease cannot be renewed further.
    NotRenewable,
    /// The request id was used for another request.
    RequestIdReused,
    /// An older generation of a lease was shown than its holder had acknowledged: two hold it.
    GenerationSuperseded,
    /// Another stream of the same holder has taken the lease up.
    WatchTakenOver,
    /// The enrolment code is unknown, was redeemed by another, or is past its time.
    EnrollmentCode,
    /// The state of the service's key does not allow it.
    KeyState,
    /// The tenant or the caller has as many live leases as it may have.
    LeaseCap,
    /// The caller asks too often.
    RateLimited,
    /// The lease store does not answer.
    StoreUnavailable,
    /// The audit log cannot be written.
    AuditUnavailable,
    /// The issuer's keys cannot be had, or the remote system that makes the credential does not answer.
    IssuerUnavailable,
    /// The remote system that makes the credential refuses; its own name for that is in the text.
    IssuerRefused,
    /// The server is shutting down, or too busy.
    Unavailable,
    /// It took too long.
    DeadlineExceeded,
    /// A defect, or something that an operator must mend.
    Internal,
    /// There is no such enrolment code to be redeemed, or the caller may not make one like it.
    EnrollmentNotFound,
}

impl Code {
    /// The stable reason.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::InvalidCsr => "INVALID_CSR",
            Self::ClaimNotUsable => "CLAIM_NOT_USABLE",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::TokenExpired => "TOKEN_EXPIRED",
            Self::TokenAudience => "TOKEN_AUDIENCE",
            Self::TokenReplayed => "TOKEN_REPLAYED",
            Self::CertificateRevoked => "CERTIFICATE_REVOKED",
            Self::NoTenant => "NO_TENANT",
            Self::TenantEnded => "TENANT_ENDED",
            Self::Denied => "DENIED",
            Self::RoleNotFound => "ROLE_NOT_FOUND",
            Self::LeaseNotFound => "LEASE_NOT_FOUND",
            Self::LeaseState => "LEASE_STATE",
            Self::NotRenewable => "NOT_RENEWABLE",
            Self::RequestIdReused => "REQUEST_ID_REUSED",
            Self::GenerationSuperseded => "GENERATION_SUPERSEDED",
            Self::WatchTakenOver => "WATCH_TAKEN_OVER",
            Self::EnrollmentCode => "ENROLLMENT_CODE",
            Self::KeyState => "KEY_STATE",
            Self::LeaseCap => "LEASE_CAP",
            Self::RateLimited => "RATE_LIMITED",
            Self::StoreUnavailable => "STORE_UNAVAILABLE",
            Self::AuditUnavailable => "AUDIT_UNAVAILABLE",
            Self::IssuerUnavailable => "ISSUER_UNAVAILABLE",
            Self::IssuerRefused => "ISSUER_REFUSED",
            Self::Unavailable => "UNAVAILABLE",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::Internal => "INTERNAL",
            Self::EnrollmentNotFound => "ENROLLMENT_NOT_FOUND",
        }
    }

    /// Whether it is a refusal (the caller may not) rather than a failure (we could not).
    pub fn is_refusal(self) -> bool {
        !matches!(
            self,
            Self::StoreUnavailable
                | Self::AuditUnavailable
                | Self::IssuerUnavailable
                | Self::Unavailable
                | Self::DeadlineExceeded
                | Self::Internal
        )
    }
}

/// An error.
#[derive(Clone)]
pub struct Error {
    code: Code,
    public: String,
    internal: Option<String>,
}

/// What a fallible step of the house gives.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with the text that the caller sees. It says what to do next, and holds nothing secret.
    pub fn new(code: Code, public: impl Into<String>) -> Self {
        Self { code, public: public.into(), internal: None }
    }

    /// The same with a text for the log only.
    #[must_use]
    pub fn because(mut self, internal: impl fmt::Display) -> Self {
        self.internal = Some(internal.to_string());
        self
    }

    /// A defect: the caller learns nothing of it but that the log does.
    pub fn internal(internal: impl fmt::Display) -> Self {
        Self::new(Code::Internal, "something is wrong at the server; its log says what").because(internal)
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The text for the caller.
    pub fn public(&self) -> &str {
        &self.public
    }

    /// The text for the log.
    pub fn cause(&self) -> Option<&str> {
        self.internal.as_deref()
    }
}

/// For the log: code, public and internal text.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.public)?;
        match &self.internal {
            Some(internal) => write!(f, " ({internal})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}
