//! `[[aws]]`: ways into AWS.

use std::path::PathBuf;

use serde::Deserialize;

use super::file::{At, Reader};
use crate::{
    issuer::aws::{AwsConfig, AwsIdentity, DEFAULT_CONCURRENCY, DEFAULT_DENY_SIZE, DEFAULT_PROPAGATION, DEFAULT_SUBJECT, DEFAULT_TIMEOUT},
    model::{SignedDuration, name::AwsName},
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AwsSection {
    pub name: AwsName,
    pub region: String,
    #[serde(default)]
    pub endpoint: Option<String>,
    #[serde(default)]
    pub allow_http: bool,
    #[serde(default = "default_timeout")]
    pub timeout: SignedDuration,
    #[serde(default = "ambient")]
    pub identity: IdentitySection,
    #[serde(default = "default_propagation")]
    pub propagation: SignedDuration,
    #[serde(default = "default_concurrency")]
    pub concurrency: usize,
    #[serde(default = "default_deny_size")]
    pub deny_size: usize,
}

/// `identity = "ambient"`, or `identity.web_identity = { … }`, or `identity.credentials_file = "…"`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum IdentitySection {
    Ambient,
    WebIdentity(WebIdentitySection),
    CredentialsFile(PathBuf),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WebIdentitySection {
    pub role_arn: String,
    pub audience: String,
    #[serde(default = "default_subject")]
    pub subject: String,
}

fn default_timeout() -> SignedDuration {
    SignedDuration::try_from(DEFAULT_TIMEOUT).unwrap_or(SignedDuration::MAX)
}

fn ambient() -> IdentitySection {
    IdentitySection::Ambient
}

fn default_propagation() -> SignedDuration {
    DEFAULT_PROPAGATION
}

fn default_concurrency() -> usize {
    DEFAULT_CONCURRENCY
}

fn default_deny_size() -> usize {
    DEFAULT_DENY_SIZE
}

fn default_subject() -> String {
    DEFAULT_SUBJECT.to_owned()
}

impl Reader {
    /// The ways into AWS; those with a fault are among them, so that the roles that name them are not at fault too.
    pub(super) fn aws(&mut self, sections: &[At<AwsSection>], signs: bool) -> Vec<AwsConfig> {
        let mut ways: Vec<AwsConfig> = Vec::new();
        for At { line, value } in sections {
            let way = self.way(value);
            for fault in way.faults() {
                self.fault(*line, format!("aws {}: {fault}", way.name));
            }
            if matches!(way.identity, AwsIdentity::WebIdentity { .. }) && !signs {
                self.fault(
                    *line,
                    format!("aws {}: an identity by web_identity needs [oidc]: this service must be able to sign JWTs", way.name),
                );
            }
            if ways.iter().any(|other| other.name == way.name) {
                self.fault(*line, format!("there are two aws of the name {}", way.name));
            }
            ways.push(way);
        }
        ways
    }
}

impl Reader {
    fn way(&self, section: &AwsSection) -> AwsConfig {
        let identity = match &section.identity {
            IdentitySection::Ambient => AwsIdentity::Ambient,
            IdentitySection::CredentialsFile(file) => AwsIdentity::CredentialsFile(self.path(file)),
            IdentitySection::WebIdentity(WebIdentitySection { role_arn, audience, subject }) => {
                AwsIdentity::WebIdentity { role_arn: role_arn.clone(), audience: audience.clone(), subject: subject.clone() }
            }
        };
        AwsConfig {
            name: section.name.clone(),
            region: section.region.clone(),
            endpoint: section.endpoint.clone(),
            allow_http: section.allow_http,
            // A negative one is out of bounds as zero is.
            timeout: section.timeout.try_into().unwrap_or_default(),
            identity,
            propagation: section.propagation,
            concurrency: section.concurrency,
            deny_size: section.deny_size,
        }
    }
}
