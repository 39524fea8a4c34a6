//! What a decision yields. A [`Grant`] has private fields and is made in this room only: nothing can be minted without one.

use std::sync::Arc;

use crate::model::{
    Timestamp,
    identity::{Identity, Subject},
    role::Role,
    tenant::Tenant,
};

/// A permission to mint one credential.
#[derive(Debug, Clone)]
pub struct Grant {
    identity: Arc<Identity>,
    holder: Subject,
    tenant: Arc<Tenant>,
    role: Arc<Role>,
    expires_at: Timestamp,
    renew_until: Timestamp,
    policies: Vec<String>,
    policy_version: Arc<str>,
}

impl Grant {
    pub(super) fn new(
        identity: Arc<Identity>,
        tenant: Arc<Tenant>,
        role: Arc<Role>,
        (expires_at, renew_until): (Timestamp, Timestamp),
        policies: Vec<String>,
        policy_version: Arc<str>,
    ) -> Self {
        Self { holder: identity.subject().clone(), identity, tenant, role, expires_at, renew_until, policies, policy_version }
    }

    /// The same for a holder that is not who asks.
    pub(super) fn held_by(self, holder: Subject) -> Self {
        Self { holder, ..self }
    }

    /// Whose the lease will be: the caller's, or who a first identity's certificate will show.
    pub fn holder(&self) -> &Subject {
        &self.holder
    }

    /// The caller.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// The caller's tenant.
    pub fn tenant(&self) -> &Arc<Tenant> {
        &self.tenant
    }

    /// The role.
    pub fn role(&self) -> &Arc<Role> {
        &self.role
    }

    /// When the credential must end, in whole seconds: never after the tenant's end, the role's maximum or `renew_until`.
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// No renewal goes past this, in whole seconds.
    pub fn renew_until(&self) -> Timestamp {
        self.renew_until
    }

    /// The ids of the policies that permitted it.
    pub fn policies(&self) -> &[String] {
        &self.policies
    }

    /// The version of the policy that decided.
    pub fn policy_version(&self) -> &Arc<str> {
        &self.policy_version
    }
}

/// A refusal, with what the record and `explain` show of it.
#[derive(Debug, Clone)]
pub struct Denial {
    /// What the caller is told: a stable code, and whom or what to ask for.
    pub error: crate::model::error::Error,
    /// Why.
    pub explanation: Explanation,
}

/// How a decision came about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Explanation {
    /// Whether it is permitted.
    pub allowed: bool,
    /// The stable reason of a denial; empty when permitted.
    pub reason: &'static str,
    /// The policies that could have applied.
    pub policies: Vec<ConsideredPolicy>,
    /// The version of the policy.
    pub policy_version: String,
}

/// One policy and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsideredPolicy {
    /// Its `@id`, or its position ("policy3").
    pub id: String,
    /// Whether it is a permit; else a forbid.
    pub permits: bool,
    /// Whether it applied as a whole.
    pub satisfied: bool,
    /// Its line, from 1.
    pub line: usize,
    /// Each condition that did not hold.
    pub failed: Vec<FailedCondition>,
}

/// A condition that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedCondition {
    /// The condition as written.
    pub condition: String,
    /// The claims that it reads.
    pub claims: Vec<String>,
    /// Whether one of them was absent.
    pub absent: bool,
}
