//! `[oidc]`: this service as an issuer of JWTs.

use std::path::PathBuf;

use serde::Deserialize;

use super::file::{At, Reader};
use crate::{
    issuer::jwt::{
        JwtConfig, JwtIssuer, KeyRing, KeyRingOptions, SigningAlgorithm, issuer_fault,
        ring::{DEFAULT_PUBLISH_AHEAD, DEFAULT_ROTATE_EVERY},
    },
    model::SignedDuration,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OidcSection {
    /// The `iss` of tokens, and the base of discovery.
    pub issuer: String,
    /// The directory of the keys, which this service makes and deletes by itself.
    pub keys: PathBuf,
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
    /// The issuer of JWTs; without the section one that refuses. The keys are read and none is made: `check` changes nothing, and a ring
    /// over the same files is the same ring, so that a reload needs nothing of the one before.
    pub(super) fn oidc(&mut self, section: Option<&At<OidcSection>>, claims: Vec<String>) -> Option<JwtIssuer> {
        let Some(At { line, value }) = section else { return Some(JwtIssuer::default()) };
        let before = self.faults.len();
        if let Some(fault) = issuer_fault(&value.issuer) {
            self.fault(*line, format!("oidc: {fault}"));
        }
        let options = KeyRingOptions {
            dir: self.path(&value.keys),
            algorithm: value.algorithm,
            rotate_every: value.rotate_every,
            publish_ahead: value.publish_ahead,
        };
        for fault in options.faults() {
            self.fault(*line, format!("oidc: {fault}"));
        }
        if !options.dir.parent().is_some_and(std::path::Path::is_dir) {
            self.fault(*line, format!("oidc: keys: there is no directory in which {} could be made", options.dir.display()));
        }
        let ring = match KeyRing::open(options, self.now) {
            Ok(ring) => ring,
            Err(fault) => {
                self.fault(*line, format!("oidc: keys: {fault}"));
                return None;
            }
        };
        (self.faults.len() == before).then_some(())?;
        let made = JwtIssuer::new(JwtConfig { issuer: value.issuer.clone(), ring, claims });
        made.map_err(|fault| self.fault(*line, format!("oidc: {fault}"))).ok()
    }
}
