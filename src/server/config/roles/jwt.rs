//! `kind = "jwt"`

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{
    issuer::jwt::claims::{role_faults, subject_place},
    model::{
        catalog::Catalog,
        claim::{ClaimSpec, ClaimType},
        role::JwtRole,
        template::{Place, Template},
    },
    server::config::{
        build::Configured,
        file::{At, Reader},
        sections::RoleSection,
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::server::config) struct JwtRoleSection {
    /// Whom a token may be for. A caller names one, unless there is only one.
    pub audiences: Vec<String>,
    /// The `sub`; a SPIFFE ID makes it a JWT-SVID.
    pub subject: String,
    /// More claims, all of them strings.
    #[serde(default)]
    pub claims: BTreeMap<String, String>,
}

impl Reader {
    pub(super) fn jwt_role(
        &mut self,
        role: &At<RoleSection>,
        section: &JwtRoleSection,
        catalog: &Catalog,
        configured: &Configured,
    ) -> Option<JwtRole> {
        let name = &role.value.name;
        if !configured.signs_jwts {
            self.fault(role.line, format!("role {name}: kind jwt needs [oidc], this service as an issuer of JWTs"));
        }
        let subject = self.template_for(role, subject_place(&section.subject), &section.subject, catalog);
        let mut claims = BTreeMap::new();
        for (claim, source) in &section.claims {
            if let Some(template) = self.template_for(role, Place::ClaimText, source, catalog) {
                claims.insert(claim.clone(), template);
            }
        }
        let spec = JwtRole { audiences: section.audiences.clone(), subject: subject?, claims };
        for fault in role_faults(role.value.max_ttl, &spec) {
            self.fault(role.line, format!("role {name}: {fault}"));
        }
        Some(spec)
    }

    /// A template for a place, when it parses, parts its values, and reads only claims that some issuer has and that can stand in a text.
    fn template_for(&mut self, role: &At<RoleSection>, place: Place, source: &str, catalog: &Catalog) -> Option<Template> {
        match Template::parse_for(place, source) {
            Ok(template) => {
                self.claims_exist(role, template.claims(), catalog);
                self.claims_are_text(role, &template, catalog);
                Some(template)
            }
            Err(error) => {
                self.fault(role.line, format!("role {}: {error}", role.value.name));
                None
            }
        }
    }

    fn claims_are_text(&mut self, role: &At<RoleSection>, template: &Template, catalog: &Catalog) {
        let textual = |spec: &&ClaimSpec| matches!(spec.ty, ClaimType::String | ClaimType::Integer);
        for claim in template.claims() {
            let mut specs = catalog.issuers.values().flatten().filter(|spec| spec.name == claim).peekable();
            if specs.peek().is_some() && !specs.any(|spec| textual(&spec)) {
                let name = &role.value.name;
                self.fault(
                    role.line,
                    format!("role {name}: the claim {claim} is a boolean or a list; a template takes strings and integers"),
                );
            }
        }
    }
}
