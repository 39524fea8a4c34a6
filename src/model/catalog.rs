//! Everything that is configured and that decisions look at: issuers, trust domains, tenants, roles.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    claim::ClaimSpec,
    error::{Code, Error, Result},
    identity::{CertificateIdentity, Identity, Proof},
    name::{IssuerName, RoleName, TenantName, TrustDomain},
    role::Role,
    tenant::Tenant,
};

/// The configured things, by name. Immutable: a reload makes a new one.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// Issuers of tokens, each with the claims that policies and templates may use.
    pub issuers: BTreeMap<IssuerName, Vec<ClaimSpec>>,
    /// Trust domains of client certificates.
    pub trust_domains: BTreeMap<TrustDomain, CertificateIdentity>,
    /// Tenants.
    pub tenants: BTreeMap<TenantName, Arc<Tenant>>,
    /// Roles.
    pub roles: BTreeMap<RoleName, Arc<Role>>,
}

impl Catalog {
    /// The tenant to which the holder of a certificate of this identity belongs; none when it is in none, or in more than one.
    pub fn tenant_of_certificate(&self, trust_domain: &TrustDomain, id: &str) -> Option<&TenantName> {
        let claims = |tenant: &&Arc<Tenant>| tenant.members.iter().any(|member| member.is_certificate(trust_domain, id));
        let mut owners = self.tenants.values().filter(claims);
        owners.next().filter(|_| owners.next().is_none()).map(|tenant| &tenant.name)
    }

    /// Puts a proven caller into its tenant: exactly one must claim it.
    pub fn identify(&self, proof: Proof) -> Result<Identity> {
        let mut owners = self.tenants.values().filter(|tenant| {
            tenant.members.iter().any(|member| match &proof {
                Proof::Certificate(peer) => member.matches_certificate(peer),
                Proof::Token { token, .. } => member.matches_token(token),
                Proof::Enrollment(_) => false,
            })
        });
        let (first, second) = (owners.next(), owners.next());
        match (first, second) {
            (Some(tenant), None) => Ok(Identity { tenant: tenant.name.clone(), proof }),
            (None, _) => Err(Error::new(
                Code::NoTenant,
                "you are authenticated, but no tenant has you as a member; ask the operators to add you to one",
            )),
            (Some(a), Some(b)) => Err(Error::new(
                Code::NoTenant,
                "more than one tenant has you as a member; ask the operators to make the membership unambiguous",
            )
            .because(format_args!("tenants {} and {}", a.name, b.name))),
        }
    }
}
