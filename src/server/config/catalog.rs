//! `[[tenant]]` and `[[role]]`: who belongs together, and what can be had.

use std::sync::Arc;

use super::{
    build::{Configured, Draft, hint},
    file::{At, Reader},
    roles,
    sections::{MemberSection, TenantSection},
};
use crate::{
    authn::oidc::IssuerConfig,
    issuer::x509::RoleReport,
    model::{
        catalog::Catalog,
        claim::{ClaimSpec, ClaimValue},
        fault::Fault,
        name::{IssuerName, TrustDomain},
        role::RoleSpec,
        tenant::{Member, Tenant, TenantKind},
        time::whole_second,
    },
};

impl Reader {
    pub(super) fn catalog(
        &mut self,
        draft: &Draft,
        issuers: &[IssuerConfig],
        configured: &Configured,
        warnings: &mut Vec<Fault>,
    ) -> Catalog {
        let mut catalog = Catalog {
            issuers: issuers.iter().map(|issuer| (issuer.name.clone(), issuer.claims.clone())).collect(),
            trust_domains: draft.trust_domains.iter().map(|at| (at.value.name.clone(), at.value.identity)).collect(),
            ..Catalog::default()
        };
        for At { line, value } in &draft.tenants {
            let tenant = self.tenant(*line, value, &catalog);
            if catalog.tenants.insert(value.name.clone(), Arc::new(tenant)).is_some() {
                self.fault(*line, format!("there are two tenants of the name {}", value.name));
            }
        }
        let trust_domains = &draft.trust_domains;
        for draft in &draft.roles {
            let At { line, value } = &draft.common;
            let Some(role) = self.role(draft, trust_domains, &catalog, configured) else { continue };
            let report = match &role.spec {
                RoleSpec::X509(_) => configured.x509.check_role(&role, &catalog, self.now),
                RoleSpec::Aws(spec) | RoleSpec::Ecr(spec) => roles::aws::check(spec, &role, &catalog, configured),
                RoleSpec::Registry(_) | RoleSpec::Jwt(_) => RoleReport::default(),
            };
            for fault in report.faults {
                self.fault(*line, format!("role {}: {fault}", role.name));
            }
            for warning in report.warnings {
                warnings.push(Fault { file: self.file.clone(), line: *line, message: format!("role {}: {warning}", role.name) });
            }
            if catalog.roles.insert(role.name.clone(), Arc::new(role)).is_some() {
                self.fault(*line, format!("there are two roles of the name {}", value.name));
            }
        }
        self.audiences_are_apart(&draft.roles, configured);
        catalog
    }

    fn tenant(&mut self, line: usize, section: &TenantSection, catalog: &Catalog) -> Tenant {
        let name = &section.name;
        if section.kind == TenantKind::SubProcessor && section.ends_at.is_none() {
            self.fault(line, format!("tenant {name}: a sub-processor must have ends_at, the end of its contract (RFC 3339)"));
        }
        if section.max_live_leases == 0 || section.max_live_leases_per_caller == 0 {
            self.fault(line, format!("tenant {name}: the caps on live leases must be at least 1"));
        }
        for member in &section.members {
            self.member(line, name.as_str(), member, catalog);
        }
        let members = section.members.iter().map(|member| match member {
            MemberSection::Certificate { trust_domain, id } => Member::Certificate { trust_domain: trust_domain.clone(), id: id.clone() },
            MemberSection::Token { issuer, claims } => Member::Token { issuer: issuer.clone(), claims: claims.clone() },
        });
        Tenant {
            name: name.clone(),
            kind: section.kind,
            ends_at: section.ends_at.map(whole_second),
            members: members.collect(),
            max_live_leases: section.max_live_leases,
            max_live_leases_per_caller: section.max_live_leases_per_caller,
        }
    }

    fn member(&mut self, line: usize, tenant: &str, member: &MemberSection, catalog: &Catalog) {
        match member {
            MemberSection::Certificate { trust_domain, id } => {
                if !catalog.trust_domains.contains_key(trust_domain) {
                    let known: Vec<&str> = catalog.trust_domains.keys().map(TrustDomain::as_str).collect();
                    self.fault(
                        line,
                        format!("tenant {tenant}: there is no trust domain {trust_domain}{}", hint(trust_domain.as_str(), known)),
                    );
                }
                if id.trim_end_matches("/*").contains('*') || id.is_empty() {
                    self.fault(line, format!("tenant {tenant}: the id {id:?} must be exact, or end in /* for one more segment"));
                }
            }
            MemberSection::Token { issuer, claims } => {
                let Some(specs) = catalog.issuers.get(issuer) else {
                    let known: Vec<&str> = catalog.issuers.keys().map(IssuerName::as_str).collect();
                    self.fault(line, format!("tenant {tenant}: there is no issuer {issuer}{}", hint(issuer.as_str(), known)));
                    return;
                };
                if claims.is_empty() {
                    self.fault(
                        line,
                        format!("tenant {tenant}: a member by token needs at least one claim, else every token of {issuer} is in"),
                    );
                }
                for (name, value) in claims {
                    if let Some(fault) = claim_fault(specs, issuer, name, value) {
                        self.fault(line, format!("tenant {tenant}: {fault}"));
                    }
                }
            }
        }
    }
}

fn claim_fault(specs: &[ClaimSpec], issuer: &IssuerName, name: &str, value: &ClaimValue) -> Option<String> {
    match specs.iter().find(|spec| spec.name == *name) {
        None => Some(format!("issuer {issuer} has no claim {name}{}", hint(name, specs.iter().map(|spec| spec.name.as_str())))),
        Some(spec) if spec.ty != value.ty() => {
            Some(format!("the claim {name} of issuer {issuer} is of type {:?}, not {:?}", spec.ty, value.ty()))
        }
        Some(_) => None,
    }
}
