//! `kind = "jwt"`

use serde::Deserialize;

use crate::{
    model::{catalog::Catalog, role::JwtRole},
    server::config::{
        build::Configured,
        file::{At, Reader},
        sections::RoleSection,
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::server::config) struct JwtSection {}

impl Reader {
    pub(super) fn jwt_role(
        &mut self,
        role: &At<RoleSection>,
        section: &JwtSection,
        catalog: &Catalog,
        configured: &Configured,
    ) -> Option<JwtRole> {
        let _not_built_yet = (section, catalog, configured);
        self.fault(role.line, "kind jwt is not built yet");
        None
    }
}
