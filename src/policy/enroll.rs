//! Decisions about first identities: who may make a code, and what a code gives.

use std::{net::IpAddr, sync::Arc};

use super::{
    Action, Denial, Grant, PolicyBook,
    decide::{Refused, after},
    facts::{Ask, Target},
};
use crate::model::{
    Timestamp,
    error::{Code, Error},
    identity::{CertificateIdentity, Identity, Subject},
    name::{RoleName, TenantName},
    role::{Role, RoleOwner},
    spiffe::SpiffeId,
    template::Place,
    tenant::Tenant,
    time::whole_second,
};

/// What a code would give.
struct First {
    tenant: Arc<Tenant>,
    role: Arc<Role>,
    /// The SPIFFE ID that the certificate will show.
    holder: Subject,
}

impl PolicyBook {
    /// Whether a caller may make the code that `wanted` stands for, an identity of [`crate::model::identity::Proof::Enrollment`]. Gives
    /// the ids of the policies that permit it.
    ///
    /// # Errors
    /// `TenantEnded` for the caller's own tenant; `Denied`, whether there is such a role or not; then what [`Self::decide_redeem`] would
    /// say, and as for [`Self::decide_issue`] when the catalog no longer has the caller.
    pub fn decide_enroll(
        &self,
        identity: &Identity,
        wanted: &Identity,
        peer_address: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<Vec<String>, Box<Denial>> {
        let role = self.role_asked_for(wanted)?;
        let policies = self.may_enroll(identity, &wanted.tenant, role, peer_address, now)?;
        self.first_identity(wanted, now)?;
        Ok(policies)
    }

    /// Whether a caller may make codes for a role and a tenant, and so see those of others and take them back.
    ///
    /// # Errors
    /// As for [`Self::decide_enroll`], but for what the code itself would give.
    pub fn may_enroll(
        &self,
        identity: &Identity,
        tenant: &TenantName,
        role: &RoleName,
        peer_address: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<Vec<String>, Box<Denial>> {
        let caller = self.caller(identity)?;
        self.in_force(&caller, now)?;
        let configured = self.catalog.roles.get(role).map(AsRef::as_ref);
        let target = Target::Role(role, configured);
        self.permit(&caller, &Ask { action: Action::Enroll, target, ttl_seconds: None, tenant: Some(tenant), peer_address, now })
    }

    /// What a code gives to who redeems it: a certificate of the role for its default life. No policy is asked: who made the code was,
    /// minutes before.
    ///
    /// # Errors
    /// In this order: `InvalidRequest` when there is no such tenant, `TenantEnded`, `RoleNotFound` (also for a role of another tenant),
    /// `InvalidRequest` when the role is not for enrolment, `ClaimNotUsable`, `NoTenant` when the certificate would make its holder no
    /// member of the tenant.
    pub fn decide_redeem(&self, identity: &Arc<Identity>, now: Timestamp) -> Result<Grant, Box<Denial>> {
        let First { tenant, role, holder } = self.first_identity(identity, now)?;
        let end = tenant.ends_at.unwrap_or(Timestamp::MAX);
        let expires_at = whole_second(after(now, role.default_ttl).min(end));
        let renew_until = whole_second(after(now, role.max_life).min(end)).max(expires_at);
        let grant = Grant::new(identity.clone(), tenant, role, (expires_at, renew_until), Vec::new(), self.version.clone());
        Ok(grant.held_by(holder))
    }

    fn role_asked_for<'a>(&self, wanted: &'a Identity) -> Result<&'a RoleName, Refused> {
        let enrolled = wanted.enrolled().ok_or_else(|| self.refuse(Error::internal("an enrolment is asked of another identity")))?;
        Ok(&enrolled.enrollment.role)
    }

    fn first_identity(&self, identity: &Identity, now: Timestamp) -> Result<First, Refused> {
        let name = self.role_asked_for(identity)?;
        let refuse = |code, message: String| self.refuse(Error::new(code, message));
        let tenant = self.catalog.tenants.get(&identity.tenant);
        let tenant = tenant.ok_or_else(|| refuse(Code::InvalidRequest, format!("there is no tenant {:?}", identity.tenant.as_str())))?;
        self.tenant_in_force(tenant, now)?;
        let role = self.catalog.roles.get(name).filter(|role| match &role.owner {
            RoleOwner::Shared => true,
            RoleOwner::Tenant(owner) => *owner == tenant.name,
        });
        let role = role.ok_or_else(|| {
            refuse(Code::RoleNotFound, format!("there is no role {:?} for the tenant {:?}", name.as_str(), tenant.name.as_str()))
        })?;
        let holder = self.holder(role, identity)?;
        Ok(First { tenant: tenant.clone(), role: role.clone(), holder })
    }

    /// Who the certificate will show, when that is somebody: a member of the tenant, and of no other.
    fn holder(&self, role: &Role, identity: &Identity) -> Result<Subject, Refused> {
        let refuse = |code, message: String| self.refuse(Error::new(code, message));
        let template = role.enrollment().and_then(|spec| spec.uri_sans.first()).ok_or_else(|| {
            let message = format!("the role {:?} is not for first identities (kind x509, enrollment = true)", role.name.as_str());
            refuse(Code::InvalidRequest, message)
        })?;
        let id = template.render(Place::UriSegment, identity, &role.name).map_err(|error| self.refuse(error))?;
        let trust_domain = id.parse::<SpiffeId>().ok().map(|id| id.trust_domain);
        let known = |domain: &_| self.catalog.trust_domains.get(domain) == Some(&CertificateIdentity::Spiffe);
        let tenant = trust_domain.filter(known).and_then(|domain| self.catalog.tenant_of_certificate(&domain, &id));
        let subject = tenant.filter(|tenant| **tenant == identity.tenant).and_then(|_| Subject::try_from(id.clone()).ok());
        subject.ok_or_else(|| {
            let tenant = identity.tenant.as_str();
            refuse(
                Code::NoTenant,
                format!("the agent would be {id:?}, which is no member of the tenant {tenant:?} alone; ask the operators to add it"),
            )
        })
    }
}
