//! Who may do what. Pure: `(policy, identity, request, now) -> Grant | Denial`.

mod grant;

pub use grant::{ConsideredPolicy, Denial, Explanation, FailedCondition, Grant};

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
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 6] = [Self::Issue, Self::Renew, Self::Read, Self::Revoke, Self::Explain, Self::Audit];

    /// Its name in policies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Issue => "issue",
            Self::Renew => "renew",
            Self::Read => "read",
            Self::Revoke => "revoke",
            Self::Explain => "explain",
            Self::Audit => "audit",
        }
    }
}
