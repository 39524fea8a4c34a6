//! `kind = "registry"`

use serde::Deserialize;

use crate::{
    model::{catalog::Catalog, role::RegistryRole},
    server::config::{
        build::Configured,
        file::{At, Reader},
        sections::RoleSection,
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::server::config) struct RegistrySection {}

impl Reader {
    pub(super) fn registry_role(
        &mut self,
        role: &At<RoleSection>,
        section: &RegistrySection,
        catalog: &Catalog,
        configured: &Configured,
    ) -> Option<RegistryRole> {
        let _not_built_yet = (section, catalog, configured);
        self.fault(role.line, "kind registry is not built yet");
        None
    }
}
