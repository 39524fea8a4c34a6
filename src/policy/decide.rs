//! The decisions. Each one checks what no policy can change, then asks the policies that can apply.

use std::{net::IpAddr, sync::Arc};

use cedar_policy::PolicySet;

use super::{
    Action, Denial, Explanation, Grant, PolicyBook,
    book::Rule,
    facts::{Ask, Caller, Query, Target},
};
use crate::model::{
    SignedDuration, Timestamp,
    error::{Code, Error, Result},
    fault::nearest,
    identity::Identity,
    name::{RoleName, TenantName},
    role::{Role, RoleOwner},
    tenant::Tenant,
    time::whole_second,
};

/// The shortest life that can be asked for.
pub const MIN_TTL: SignedDuration = SignedDuration::from_secs(1);

/// What Cedar says of one policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its scope and conditions hold.
    Applies,
    /// They do not.
    Not,
    /// It could not be evaluated.
    Fails,
}

/// What the policies say to one question.
#[derive(Debug)]
pub(super) struct Verdict<'a> {
    permits: Vec<&'a Rule>,
    forbids: Vec<&'a Rule>,
}

/// A refusal on its way to a [`Denial`]: policy refusals are explained.
pub(super) type Refused = Box<Denial>;

impl Verdict<'_> {
    pub fn allows(&self) -> bool {
        self.forbids.is_empty() && !self.permits.is_empty()
    }

    pub fn ids(&self) -> Vec<String> {
        self.permits.iter().map(|rule| rule.id.clone()).collect()
    }

    fn words(&self) -> &'static str {
        if self.forbids.is_empty() { "no policy lets you" } else { "a policy forbids you to" }
    }
}

impl PolicyBook {
    /// Whether a caller may have a credential of a role for `ttl` (the role's default when absent) from `now` on.
    ///
    /// # Errors
    /// In this order: `RoleNotFound` (also for a role of another tenant), `TenantEnded`, `InvalidRequest` for a `ttl` under
    /// one second or over the role's maximum, `Denied` (also for a role for first identities). `NoTenant`, `Unauthenticated` or `CertificateRevoked` when the
    /// catalog no longer has the caller's tenant, issuer, claims or trust domain.
    pub fn decide_issue(
        &self,
        identity: &Arc<Identity>,
        role: &RoleName,
        ttl: Option<SignedDuration>,
        peer_address: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<Grant, Box<Denial>> {
        let caller = self.caller(identity)?;
        let role = self.role_of(&caller, role).ok_or_else(|| self.refuse(self.no_role(&caller, role, peer_address, now)))?;
        self.in_force(&caller, now)?;
        self.can_be_issued(role)?;
        let ttl = self.ttl(role, ttl)?;
        let ask = Ask {
            action: Action::Issue,
            target: Target::Role(&role.name, Some(role)),
            ttl_seconds: Some(ttl.as_secs()),
            tenant: None,
            peer_address,
            now,
        };
        let policies = self.permit(&caller, &ask)?;
        let end = caller.tenant.ends_at.unwrap_or(Timestamp::MAX);
        let expires_at = whole_second(after(now, ttl).min(end));
        let renew_until = whole_second(after(now, role.max_life).min(end)).max(expires_at);
        Ok(self.grant(identity, &caller, role, (expires_at, renew_until), policies))
    }

    /// Which of the roles that a caller may see it may issue now, each for its default life, in order of name.
    pub fn roles_for(&self, identity: &Identity, peer_address: Option<IpAddr>, now: Timestamp) -> Vec<RoleName> {
        let Ok(caller) = self.caller(identity) else { return Vec::new() };
        self.catalog.roles.values().filter(|role| self.may_issue(&caller, role, peer_address, now)).map(|role| role.name.clone()).collect()
    }

    /// Whether a caller may see why a role would be granted or denied.
    ///
    /// # Errors
    /// `Denied`, or `RoleNotFound` when the caller cannot have the role at all, and as for [`Self::decide_issue`].
    pub fn decide_explain(
        &self,
        identity: &Identity,
        role: &RoleName,
        peer_address: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<(), Box<Denial>> {
        let caller = self.caller(identity)?;
        let configured = self.catalog.roles.get(role).map(AsRef::as_ref);
        let ask =
            Ask { action: Action::Explain, target: Target::Role(role, configured), ttl_seconds: None, tenant: None, peer_address, now };
        let refused = match self.permit(&caller, &ask) {
            Ok(_) => return Ok(()),
            Err(refused) => refused,
        };
        // A caller that may not look at everything learns no name of another tenant's role.
        if refused.error.code() == Code::Denied && self.role_of(&caller, role).is_none() {
            let error = self.no_role(&caller, role, peer_address, now);
            let explanation = Explanation { reason: error.code().as_str(), ..refused.explanation };
            return Err(Box::new(Denial { error, explanation }));
        }
        Err(refused)
    }

    /// Whether a caller may see a tenant's records. The tenant need not be configured any more.
    ///
    /// # Errors
    /// `Denied`, and as for [`Self::decide_issue`].
    pub fn decide_audit(
        &self,
        identity: &Identity,
        tenant: &TenantName,
        peer_address: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<(), Box<Denial>> {
        let caller = self.caller(identity)?;
        let ask = Ask { action: Action::Audit, target: Target::Tenant(tenant), ttl_seconds: None, tenant: None, peer_address, now };
        self.permit(&caller, &ask).map(|_| ())
    }

    /// How [`Self::decide_issue`] would end for this caller, and why.
    pub fn explain_issue(
        &self,
        identity: &Arc<Identity>,
        role: &RoleName,
        ttl: Option<SignedDuration>,
        peer_address: Option<IpAddr>,
        now: Timestamp,
    ) -> Explanation {
        let grant = match self.decide_issue(identity, role, ttl, peer_address, now) {
            Ok(grant) => grant,
            Err(denial) => return denial.explanation,
        };
        let policies = self.caller(identity).ok().and_then(|caller| {
            let seconds = ttl.unwrap_or(grant.role().default_ttl).as_secs();
            let target = Target::Role(role, Some(grant.role()));
            let ask = Ask { action: Action::Issue, target, ttl_seconds: Some(seconds), tenant: None, peer_address, now };
            let query = self.query(&caller, &ask).ok()?;
            Some(self.considered(&caller, &ask, &query))
        });
        Explanation { allowed: true, reason: "", policies: policies.unwrap_or_default(), policy_version: self.version.to_string() }
    }

    pub(super) fn caller<'a>(&'a self, identity: &'a Identity) -> Result<Caller<'a>, Refused> {
        Caller::new(&self.catalog, &self.vocabulary, identity).map_err(|error| self.refuse(error))
    }

    /// The role, if this caller can have it at all: its tenant's own, or a shared one.
    pub(super) fn role_of(&self, caller: &Caller<'_>, role: &RoleName) -> Option<&Arc<Role>> {
        self.catalog.roles.get(role).filter(|role| match &role.owner {
            RoleOwner::Shared => true,
            RoleOwner::Tenant(owner) => *owner == caller.identity.tenant,
        })
    }

    /// That it is not for first identities: those are had by a code, and who has one needs no sibling of it.
    fn can_be_issued(&self, role: &Role) -> Result<(), Refused> {
        if role.enrollment().is_none() {
            return Ok(());
        }
        let message = format!(
            "the role {:?} is for first identities only: an operator makes a code with `daypass enroll create`, and `daypass agent enroll` \
             redeems it",
            role.name.as_str()
        );
        Err(self.refuse(Error::new(Code::Denied, message)))
    }

    /// That the caller's tenant has not ended.
    pub(super) fn in_force(&self, caller: &Caller<'_>, now: Timestamp) -> Result<(), Refused> {
        self.tenant_in_force(caller.tenant, now)
    }

    /// That a tenant has not ended.
    pub(super) fn tenant_in_force(&self, tenant: &Tenant, now: Timestamp) -> Result<(), Refused> {
        match tenant.ends_at {
            Some(end) if whole_second(end) <= now => {
                let message = format!("the contract of tenant {:?} ended at {end}; ask the operators to extend it", tenant.name.as_str());
                Err(self.refuse(Error::new(Code::TenantEnded, message)))
            }
            _ => Ok(()),
        }
    }

    /// The life that is asked for, within the role's bounds.
    pub(super) fn ttl(&self, role: &Role, ttl: Option<SignedDuration>) -> Result<SignedDuration, Refused> {
        let ttl = ttl.unwrap_or(role.default_ttl);
        if ttl >= MIN_TTL && ttl <= role.max_ttl {
            return Ok(ttl);
        }
        let message = format!("the role {:?} gives 1s to {}s, and {:?} was asked for", role.name.as_str(), role.max_ttl.as_secs(), ttl);
        Err(self.refuse(Error::new(Code::InvalidRequest, message)))
    }

    /// Asks the policies; gives the ids of those that permit.
    pub(super) fn permit(&self, caller: &Caller<'_>, ask: &Ask<'_>) -> Result<Vec<String>, Refused> {
        let query = self.query(caller, ask).map_err(|error| self.refuse(error))?;
        let verdict = self.verdict(caller, ask, &query);
        if verdict.allows() {
            return Ok(verdict.ids());
        }
        let error = Error::new(Code::Denied, denied(caller, ask, &verdict));
        let policies = self.considered(caller, ask, &query);
        let explanation = Explanation { policies, ..self.explanation(&error) };
        Err(Box::new(Denial { error, explanation }))
    }

    /// Whether the policies allow, without an explanation.
    pub(super) fn allows(&self, caller: &Caller<'_>, ask: &Ask<'_>) -> Result<bool> {
        let query = self.query(caller, ask)?;
        Ok(self.verdict(caller, ask, &query).allows())
    }

    /// The question in Cedar's terms.
    fn query(&self, caller: &Caller<'_>, ask: &Ask<'_>) -> Result<Query> {
        let with_context = self.candidates(ask).any(|rule| rule.reads_context);
        Query::new(&self.vocabulary, caller, ask, with_context)
    }

    fn verdict(&self, caller: &Caller<'_>, ask: &Ask<'_>, query: &Query) -> Verdict<'_> {
        let applying = self.candidates(ask).filter(|rule| rule.reach.admits(caller, ask) && self.applies(rule, query));
        let (mut permits, forbids): (Vec<_>, Vec<_>) = applying.partition(|rule| rule.permits);
        permits.sort_by_key(|rule| rule.line);
        Verdict { permits, forbids }
    }

    /// The policies that could apply, whoever calls.
    pub(super) fn candidates(&self, ask: &Ask<'_>) -> impl Iterator<Item = &Rule> {
        let target = ask.target;
        let rules = self.index.of(ask.action, &target).map(|at| &self.rules[at]);
        rules.filter(move |rule| rule.reach.admits_target(&target))
    }

    /// Whether a policy applies. A `forbid` that cannot be evaluated does: Cedar would skip it, and so not forbid.
    pub(super) fn applies(&self, rule: &Rule, query: &Query) -> bool {
        match self.ask(&rule.set, query) {
            Outcome::Applies => true,
            Outcome::Not => false,
            Outcome::Fails => !rule.permits,
        }
    }

    /// Asks one policy.
    pub(super) fn ask(&self, policy: &PolicySet, query: &Query) -> Outcome {
        let response = self.authorizer.is_authorized(&query.request, policy, &query.entities);
        let diagnostics = response.diagnostics();
        if diagnostics.errors().next().is_some() {
            return Outcome::Fails;
        }
        if diagnostics.reason().next().is_some() { Outcome::Applies } else { Outcome::Not }
    }

    pub(super) fn grant(
        &self,
        identity: &Arc<Identity>,
        caller: &Caller<'_>,
        role: &Arc<Role>,
        times: (Timestamp, Timestamp),
        policies: Vec<String>,
    ) -> Grant {
        Grant::new(identity.clone(), caller.tenant.clone(), role.clone(), times, policies, self.version.clone())
    }

    /// A refusal that no policy made.
    pub(super) fn refuse(&self, error: Error) -> Refused {
        let explanation = self.explanation(&error);
        Box::new(Denial { error, explanation })
    }

    fn explanation(&self, error: &Error) -> Explanation {
        Explanation { allowed: false, reason: error.code().as_str(), policies: Vec::new(), policy_version: self.version.to_string() }
    }

    fn may_issue(&self, caller: &Caller<'_>, role: &Role, peer_address: Option<IpAddr>, now: Timestamp) -> bool {
        if self.role_of(caller, &role.name).is_none() || role.enrollment().is_some() || self.in_force(caller, now).is_err() {
            return false;
        }
        let target = Target::Role(&role.name, Some(role));
        let ask = Ask { action: Action::Issue, target, ttl_seconds: Some(role.default_ttl.as_secs()), tenant: None, peer_address, now };
        self.allows(caller, &ask).unwrap_or(false)
    }

    /// "No such role", with a suggestion only among those that this caller may issue: names do not leak.
    pub(super) fn no_role(&self, caller: &Caller<'_>, role: &RoleName, peer_address: Option<IpAddr>, now: Timestamp) -> Error {
        let word = role.as_str();
        let near = self.catalog.roles.values().filter(|known| nearest(word, [known.name.as_str()]).is_some());
        let may: Vec<&str> =
            near.filter(|known| self.may_issue(caller, known, peer_address, now)).map(|known| known.name.as_str()).collect();
        let hint = nearest(word, may)
            .map_or_else(|| "; `daypass whoami` lists those that you may have".to_owned(), |name| format!("; did you mean {name:?}?"));
        Error::new(Code::RoleNotFound, format!("there is no role {word:?} for you{hint}"))
    }
}

fn denied(caller: &Caller<'_>, ask: &Ask<'_>, verdict: &Verdict<'_>) -> String {
    let what = match (ask.action, &ask.target) {
        (Action::Explain, Target::Role(role, _)) => format!("see why the role {:?} is granted or denied", role.as_str()),
        (Action::Enroll, Target::Role(role, _)) => format!("make an enrolment code for the role {:?} and that tenant", role.as_str()),
        (Action::Audit, Target::Tenant(tenant)) => format!("see the records of tenant {:?}", tenant.as_str()),
        (action, Target::Lease(lease)) => format!("{} this lease of the role {:?}", action.as_str(), lease.role.as_str()),
        (action, Target::Role(role, _)) => format!("{} the role {:?}", action.as_str(), role.as_str()),
        (action, Target::Tenant(tenant)) => format!("{} tenant {:?}", action.as_str(), tenant.as_str()),
    };
    let hint = match (ask.action, ask.target.role()) {
        (Action::Issue | Action::Renew, Some(role)) => format!(" (daypass explain {role} shows why, if you may)"),
        _ => String::new(),
    };
    let whom = caller.tenant.name.as_str();
    let ask_for = if verdict.forbids.is_empty() { "for a policy that permits it" } else { "whether that policy is meant for you" };
    format!("{} {what}; ask the operators of tenant {whom:?} {ask_for}{hint}", verdict.words())
}

/// A time later, or the end of time.
pub(super) fn after(time: Timestamp, span: SignedDuration) -> Timestamp {
    time.checked_add(span).unwrap_or(Timestamp::MAX)
}
