//! `kind = "registry"`

use serde::Deserialize;

use crate::{
    issuer::registry::{MAX_TOKEN_TTL, role_check::repository_faults},
    model::{
        SignedDuration,
        catalog::Catalog,
        name::RegistryName,
        role::{RegistryAction, RegistryRole},
        template::Template,
    },
    server::config::{
        build::{Configured, hint},
        file::{At, Reader},
        sections::RoleSection,
    },
};

/// The shortest `token_ttl`: clients take less for a minute.
pub const MIN_TOKEN_TTL: SignedDuration = SignedDuration::from_mins(1);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::server::config) struct RegistryRoleSection {
    registry: RegistryName,
    repositories: Vec<String>,
    actions: Vec<RegistryAction>,
    #[serde(default = "default_token_ttl")]
    token_ttl: SignedDuration,
}

fn default_token_ttl() -> SignedDuration {
    MAX_TOKEN_TTL
}

impl Reader {
    pub(super) fn registry_role(
        &mut self,
        role: &At<RoleSection>,
        section: &RegistryRoleSection,
        catalog: &Catalog,
        configured: &Configured,
    ) -> Option<RegistryRole> {
        let (line, name) = (role.line, &role.value.name);
        let RegistryRoleSection { registry, repositories, actions, token_ttl } = section;
        // One whose CA is not whole is no known one, and has a fault of its own.
        if !configured.registries.names().any(|known| known == registry) {
            let hint = hint(registry.as_str(), configured.registries.names().map(RegistryName::as_str));
            self.fault(line, format!("role {name}: there is no registry {registry} that can be used{hint}"));
        }
        let repositories: Vec<Template> = repositories.iter().filter_map(|source| self.template(role, source, catalog)).collect();
        for fault in repository_faults(&repositories) {
            self.fault(line, format!("role {name}: {fault}"));
        }
        for fault in action_faults(actions) {
            self.fault(line, format!("role {name}: {fault}"));
        }
        if !(MIN_TOKEN_TTL..=MAX_TOKEN_TTL).contains(token_ttl) {
            self.fault(line, format!("role {name}: token_ttl must be {MIN_TOKEN_TTL:#} to {MAX_TOKEN_TTL:#}"));
        }
        let actions = RegistryAction::ALL.into_iter().filter(|action| actions.contains(action)).collect();
        Some(RegistryRole { registry: registry.clone(), repositories, actions, token_ttl: *token_ttl })
    }
}

fn action_faults(actions: &[RegistryAction]) -> Vec<&'static str> {
    let mut faults = Vec::new();
    if actions.is_empty() {
        faults.push("actions is empty: say what may be done, of \"pull\", \"push\" and \"delete\"");
    }
    if actions.contains(&RegistryAction::Push) && !actions.contains(&RegistryAction::Pull) {
        faults.push("a registry wants pull from who pushes: say actions = [\"pull\", \"push\"]");
    }
    faults
}
