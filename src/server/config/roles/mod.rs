//! `[[role]]`: what roles of every kind have, and one file for what each kind adds.

pub(super) mod aws;
mod jwt;
mod registry;
mod x509;

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    build::{Configured, MAX_LIFE, hint},
    file::{At, Reader},
    sections::{RoleSection, TrustDomainSection},
};
use crate::{
    issuer::aws::AwsIdentity,
    model::{
        SignedDuration,
        catalog::Catalog,
        name::TenantName,
        role::{Role, RoleOwner, RoleSpec},
        template::Template,
    },
};

/// The keys that a role of any kind may have; all others are the kind's.
const COMMON: [&str; 8] = ["name", "tenant", "shared", "default_ttl", "max_ttl", "max_life", "max_life_per_token", "on_clone"];

/// The kinds.
const KINDS: [&str; 5] = ["x509", "aws", "ecr", "registry", "jwt"];

/// A `[[role]]` with its kind's own section.
pub(super) struct RoleDraft {
    pub common: At<RoleSection>,
    pub kind: KindSection,
}

/// What each kind adds.
pub(super) enum KindSection {
    X509(x509::X509RoleSection),
    Aws(aws::AwsRoleSection),
    Ecr(aws::AwsRoleSection),
    Registry(registry::RegistryRoleSection),
    Jwt(jwt::JwtRoleSection),
}

impl Reader {
    /// Reads `[[role]]`, each table in two parts.
    pub(super) fn roles(&mut self, value: Spanned<DeValue<'_>>) -> Vec<RoleDraft> {
        let start = value.span().start;
        let DeValue::Array(entries) = value.into_inner() else {
            self.fault_at(start, "write [[role]], with double brackets: there can be several");
            return Vec::new();
        };
        entries.into_iter().filter_map(|entry| self.role_draft(entry)).collect()
    }

    fn role_draft(&mut self, entry: Spanned<DeValue<'_>>) -> Option<RoleDraft> {
        let span = entry.span();
        let DeValue::Table(table) = entry.into_inner() else {
            self.fault_at(span.start, "a role must be a table");
            return None;
        };
        let (mut common, mut own, mut kind) = (DeTable::new(), DeTable::new(), None);
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "kind" => kind = Some(value),
                name if COMMON.contains(&name) => drop(common.insert(key, value)),
                _ => drop(own.insert(key, value)),
            }
        }
        let common = self.section(Spanned::new(span.clone(), DeValue::Table(common)));
        let own = Spanned::new(span.clone(), DeValue::Table(own));
        let Some(kind) = kind else {
            self.fault_at(span.start, format!("kind is missing; there are {}", KINDS.join(", ")));
            return None;
        };
        let kind = match kind.get_ref().as_str() {
            Some("x509") => KindSection::X509(self.own(own)?),
            Some("aws") => KindSection::Aws(self.own(own)?),
            Some("ecr") => KindSection::Ecr(self.own(own)?),
            Some("registry") => KindSection::Registry(self.own(own)?),
            Some("jwt") => KindSection::Jwt(self.own(own)?),
            other => {
                let other = other.unwrap_or_default();
                let text = format!("there is no kind {other:?}; there are {}{}", KINDS.join(", "), hint(other, KINDS));
                self.fault_at(kind.span().start, text);
                return None;
            }
        };
        Some(RoleDraft { common: common?, kind })
    }

    fn own<T: DeserializeOwned>(&mut self, table: Spanned<DeValue<'_>>) -> Option<T> {
        let before = self.faults.len();
        let value = self.section(table).map(|at| at.value);
        // The kind knows its own keys only; the misspelt one may be of those that all roles have.
        for fault in &mut self.faults[before..] {
            let word = fault.message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
            let hint = word.map(|word| hint(word, COMMON)).unwrap_or_default();
            fault.message.push_str(&hint);
        }
        value
    }

    /// A role, when nothing is wrong with it.
    pub(super) fn role(
        &mut self,
        draft: &RoleDraft,
        trust_domains: &[At<TrustDomainSection>],
        catalog: &Catalog,
        configured: &Configured,
    ) -> Option<Role> {
        let At { line, value: section } = &draft.common;
        let (line, name) = (*line, &section.name);
        let before = self.faults.len();
        let owner = match (&section.tenant, section.shared) {
            (Some(tenant), false) => {
                if !catalog.tenants.contains_key(tenant) {
                    let known: Vec<&str> = catalog.tenants.keys().map(TenantName::as_str).collect();
                    self.fault(line, format!("role {name}: there is no tenant {tenant}{}", hint(tenant.as_str(), known)));
                }
                RoleOwner::Tenant(tenant.clone())
            }
            (None, true) => RoleOwner::Shared,
            _ => {
                self.fault(line, format!("role {name}: say either tenant = \"…\" or shared = true"));
                RoleOwner::Shared
            }
        };
        let max_life = section.max_life.unwrap_or(section.max_ttl);
        let second = SignedDuration::from_secs(1);
        if section.default_ttl < second || section.max_ttl < section.default_ttl || max_life < section.max_ttl || max_life > MAX_LIFE {
            self.fault(line, format!("role {name}: 1s <= default_ttl <= max_ttl <= max_life <= {}h must hold", MAX_LIFE.as_hours()));
        }
        let max_life_per_token = section.max_life_per_token.unwrap_or(section.max_ttl);
        if max_life_per_token < section.max_ttl || max_life_per_token > max_life {
            self.fault(line, format!("role {name}: max_ttl <= max_life_per_token <= max_life must hold"));
        }
        let spec = match &draft.kind {
            KindSection::X509(own) => self.x509_role(&draft.common, own, trust_domains, catalog).map(RoleSpec::X509),
            KindSection::Aws(own) => self.aws_role(&draft.common, own, catalog, configured).map(RoleSpec::Aws),
            KindSection::Ecr(own) => self.aws_role(&draft.common, own, catalog, configured).map(RoleSpec::Ecr),
            KindSection::Registry(own) => self.registry_role(&draft.common, own, catalog, configured).map(RoleSpec::Registry),
            KindSection::Jwt(own) => self.jwt_role(&draft.common, own, catalog, configured).map(RoleSpec::Jwt),
        };
        (self.faults.len() == before).then_some(())?;
        let (default_ttl, max_ttl) = (section.default_ttl, section.max_ttl);
        let on_clone = section.on_clone;
        Some(Role { name: name.clone(), owner, default_ttl, max_ttl, max_life, max_life_per_token, on_clone, spec: spec? })
    }

    /// Notes every role of kind jwt that has an audience by which this service itself, or a role of AWS, shows JWTs to AWS. One key signs them
    /// all, and there the `sub` alone tells them apart: a caller whose own token could say it would be let in, past session policy, tag and
    /// record.
    pub(super) fn audiences_are_apart(&mut self, drafts: &[RoleDraft], configured: &Configured) {
        let ways = configured.aws.iter().filter_map(|way| match &way.identity {
            AwsIdentity::WebIdentity { audience, .. } => Some((audience.as_str(), format!("aws {}", way.name))),
            AwsIdentity::Ambient | AwsIdentity::CredentialsFile(_) | AwsIdentity::Given(_) => None,
        });
        let roles = drafts.iter().filter_map(|draft| match &draft.kind {
            KindSection::Aws(own) | KindSection::Ecr(own) => Some((own.audience.as_deref()?, format!("role {}", draft.common.value.name))),
            KindSection::X509(_) | KindSection::Registry(_) | KindSection::Jwt(_) => None,
        });
        let taken: Vec<(&str, String)> = ways.chain(roles).collect();
        for draft in drafts {
            let KindSection::Jwt(own) = &draft.kind else { continue };
            for audience in &own.audiences {
                let Some((_, by)) = taken.iter().find(|(other, _)| other == audience) else { continue };
                let name = &draft.common.value.name;
                let why =
                    "AWS would take this role's tokens for its, where their sub fits; give the one or the other an audience of its own";
                self.fault(draft.common.line, format!("role {name}: audiences: {audience:?} is how {by} reaches AWS; {why}"));
            }
        }
    }

    /// A template of a role, when it parses and reads only claims that some issuer has.
    pub(super) fn template(&mut self, role: &At<RoleSection>, source: &str, catalog: &Catalog) -> Option<Template> {
        let (line, name) = (role.line, &role.value.name);
        match Template::parse(source) {
            Ok(template) => {
                self.claims_exist(role, template.claims(), catalog);
                Some(template)
            }
            Err(error) => {
                self.fault(line, format!("role {name}: {error}"));
                None
            }
        }
    }

    /// Notes every claim that no issuer has.
    pub(super) fn claims_exist<'a>(&mut self, role: &At<RoleSection>, claims: impl IntoIterator<Item = &'a str>, catalog: &Catalog) {
        let known: BTreeSet<&str> = catalog.issuers.values().flatten().map(|spec| spec.name.as_str()).collect();
        for claim in claims {
            if !known.contains(claim) {
                let name = &role.value.name;
                self.fault(role.line, format!("role {name}: no issuer has the claim {claim}{}", hint(claim, known.iter().copied())));
            }
        }
    }
}
