//! `kind = "aws"` and `kind = "ecr"`

use serde::Deserialize;

use crate::{
    model::{catalog::Catalog, role::AwsRole},
    server::config::{
        build::Configured,
        file::{At, Reader},
        sections::RoleSection,
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::server::config) struct AwsSection {}

impl Reader {
    pub(super) fn aws_role(
        &mut self,
        role: &At<RoleSection>,
        section: &AwsSection,
        catalog: &Catalog,
        configured: &Configured,
    ) -> Option<AwsRole> {
        let _not_built_yet = (section, catalog, configured);
        self.fault(role.line, "kind aws is not built yet");
        None
    }
}
