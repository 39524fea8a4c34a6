//! `[oidc]`: this service as an issuer of JWTs.

use serde::Deserialize;

use super::file::{At, Reader};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OidcSection {
    pub issuer: String,
}

impl Reader {
    pub(super) fn oidc(&mut self, section: Option<&At<OidcSection>>) {
        if let Some(At { line, value }) = section {
            self.fault(*line, format!("oidc {}: not built yet", value.issuer));
        }
    }
}
