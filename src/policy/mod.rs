//! Who may do what. Pure: `(policy, identity, request, now) -> Grant | Denial`.

mod book;
mod check;
mod decide;
mod enroll;
mod explain;
mod facts;
mod grant;
mod index;
mod lease;
mod lint;
mod rotate;
mod schema;
mod source;
mod syntax;

pub use book::{MAX_NESTING, MAX_OPERATORS, MAX_POLICIES, MAX_POLICY_ID, MAX_POLICY_TEXT, PolicyBook};
pub use decide::MIN_TTL;
pub use explain::{MAX_CONDITION_TEXT, MAX_EXPLAINED_CONDITIONS, MAX_EXPLAINED_POLICIES};
pub use grant::{ConsideredPolicy, Denial, Explanation, FailedCondition, Grant};
pub use lease::{LeaseAction, LeaseDecisions, MAX_REMEMBERED, NO_SUCH_LEASE};
pub use lint::{BLANKET_PERMIT, IMMUTABLE_CLAIMS, MUTABLE_IDENTITY, OPEN_SOURCE, UNREACHABLE_ROLE, WIDE_PATTERN};
pub use rotate::WatchTerms;
pub use schema::{schema, token_type};

/// What a caller may be permitted to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Have a credential of a role.
    Issue,
    /// Renew its own lease.
    Renew,
    /// See a lease.
    Read,
    /// Revoke a lease.
    Revoke,
    /// See why a role would be granted or denied.
    Explain,
    /// See a tenant's records.
    Audit,
    /// Make an enrolment code for a role, for a tenant.
    Enroll,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 7] = [Self::Issue, Self::Renew, Self::Read, Self::Revoke, Self::Explain, Self::Audit, Self::Enroll];

    /// Its name in policies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Issue => "issue",
            Self::Renew => "renew",
            Self::Read => "read",
            Self::Revoke => "revoke",
            Self::Explain => "explain",
            Self::Audit => "audit",
            Self::Enroll => "enroll",
        }
    }
}
