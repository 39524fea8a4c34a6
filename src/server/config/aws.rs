//! `[[aws]]`: ways into AWS.

use serde::Deserialize;

use super::file::{At, Reader};
use crate::model::name::AwsName;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AwsSection {
    pub name: AwsName,
}

impl Reader {
    pub(super) fn aws(&mut self, sections: &[At<AwsSection>]) {
        for At { line, value } in sections {
            self.fault(*line, format!("aws {}: not built yet", value.name));
        }
    }
}
