//! `[oidc]`: this service as an issuer of JWTs.

use std::sync::Arc;

use serde::Deserialize;

use super::{
    file::{At, Reader},
    sections::IssuerSection,
};
use crate::{
    authn::oidc::IssuerConfig,
    issuer::jwt::{
        JwtConfig, JwtIssuer, JwtKeyMaker, SigningAlgorithm,
        maker::{DEFAULT_PUBLISH_AHEAD, DEFAULT_ROTATE_EVERY},
    },
    keys::{Schedule, schedule::ROTATE_EVERY},
    model::{SignedDuration, fault::Fault},
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OidcSection {
    /// The `iss` of tokens, and the base of discovery.
    pub issuer: String,
    #[serde(default)]
    pub algorithm: SigningAlgorithm,
    #[serde(default = "default_rotate_every")]
    pub rotate_every: SignedDuration,
    #[serde(default = "default_publish_ahead")]
    pub publish_ahead: SignedDuration,
}

fn default_rotate_every() -> SignedDuration {
    DEFAULT_ROTATE_EVERY
}

fn default_publish_ahead() -> SignedDuration {
    DEFAULT_PUBLISH_AHEAD
}

impl Reader {
    /// The issuer of JWTs; one that refuses where there is no section, or a faulty one. Its keys are not looked at: they lie in the store.
    /// `sealed` says whether there is a `[keys]` that seals them there.
    pub(super) fn oidc(&mut self, section: Option<&At<OidcSection>>, claims: Vec<String>, sealed: bool) -> JwtIssuer {
        let Some(At { line, value }) = section else { return JwtIssuer::default() };
        let schedule = Schedule { every: value.rotate_every, publish_ahead: value.publish_ahead };
        for fault in schedule.faults("rotate_every", ROTATE_EVERY) {
            self.fault(*line, format!("oidc: {fault}"));
        }
        self.needs_wrapper(*line, "oidc", sealed);
        let ring = Arc::new(JwtKeyMaker::ring(value.algorithm, schedule));
        JwtIssuer::new(JwtConfig { issuer: value.issuer.clone(), ring, claims }).unwrap_or_else(|fault| {
            self.fault(*line, format!("oidc: {fault}"));
            JwtIssuer::default()
        })
    }

    /// Advice where this service takes its own JWTs as logins: it can be meant, and it undoes the bound on what one login gives.
    pub(super) fn own_tokens(
        &self,
        own: Option<&At<OidcSection>>,
        issuers: &[IssuerConfig],
        sections: &[At<IssuerSection>],
        warnings: &mut Vec<Fault>,
    ) {
        let Some(own) = own else { return };
        for issuer in issuers.iter().filter(|issuer| issuer.url == own.value.issuer) {
            let line = sections.iter().find(|section| section.value.name == issuer.name).map_or(0, |section| section.line);
            let message = format!(
                "issuer {}: its url is this service's own [oidc] issuer: whoever gets a JWT for one of its audiences logs in with it and gets \
                 more, so that max_life no longer ends what began with one login, and a revocation does not reach what came of the JWT; \
                 keep those audiences out of every role of kind jwt whose holders should not",
                issuer.name
            );
            warnings.push(Fault { file: self.file.clone(), line, message });
        }
    }
}
