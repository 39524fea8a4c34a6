//! `[[registry]]`: container registries that trust our token endpoint.

use serde::Deserialize;

use super::file::{At, Reader};
use crate::model::name::RegistryName;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RegistryServiceSection {
    pub name: RegistryName,
}

impl Reader {
    pub(super) fn registries(&mut self, sections: &[At<RegistryServiceSection>]) {
        for At { line, value } in sections {
            self.fault(*line, format!("registry {}: not built yet", value.name));
        }
    }
}
