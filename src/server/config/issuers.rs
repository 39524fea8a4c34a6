//! `[[issuer]]`: whose tokens are taken.

use super::{
    build::hint,
    file::{At, Reader},
    sections::IssuerSection,
};
use crate::{
    authn::oidc::{self, Algorithm, IssuerConfig, KeySource, PRESETS},
    model::{claim::ClaimSpec, fault::Fault},
};

impl Reader {
    pub(super) fn issuers(&mut self, sections: &[At<IssuerSection>], warnings: &mut Vec<Fault>) -> Vec<IssuerConfig> {
        let mut issuers: Vec<IssuerConfig> = Vec::new();
        for At { line, value } in sections {
            if issuers.iter().any(|other| other.name == value.name) {
                self.fault(*line, format!("there are two issuers of the name {}", value.name));
            }
            let Some(config) = self.issuer(*line, value) else { continue };
            if let Some(other) = issuers.iter().find(|other| other.url == config.url && other.name != config.name) {
                self.fault(*line, format!("issuer {}: the issuer {} has the same url", value.name, other.name));
            }
            let faults = oidc::faults(&config);
            if faults.is_empty() {
                self.try_issuer(*line, &config);
            }
            for fault in faults {
                self.fault(*line, format!("issuer {}: {fault}", value.name));
            }
            for warning in oidc::warnings(&config) {
                warnings.push(Fault { file: self.file.clone(), line: *line, message: format!("issuer {}: {warning}", value.name) });
            }
            issuers.push(config);
        }
        issuers
    }

    fn issuer(&mut self, line: usize, section: &IssuerSection) -> Option<IssuerConfig> {
        let mut config = self.preset(line, section)?;
        let claims = section.claims.iter().map(|claim| ClaimSpec {
            name: claim.name.clone(),
            path: if claim.path.is_empty() { vec![claim.name.clone()] } else { claim.path.clone() },
            ty: claim.ty,
            required: claim.required,
        });
        for claim in claims {
            config.claims.retain(|other| other.name != claim.name);
            config.claims.push(claim);
        }
        if let Some(algorithms) = &section.algorithms {
            config.algorithms = algorithms.iter().filter_map(|name| Algorithm::of(name)).collect();
            for name in algorithms.iter().filter(|name| Algorithm::of(name).is_none()) {
                let known = Algorithm::ALL.map(Algorithm::as_str);
                self.fault(
                    line,
                    format!("issuer {}: there is no algorithm {name}{}; there are {}", section.name, hint(name, known), known.join(", ")),
                );
            }
        }
        if let Some(path) = &section.keys_file {
            config.keys = KeySource::File(self.path(path));
        }
        config.token_use = section.token_use.unwrap_or(config.token_use);
        config.max_token_age = section.max_token_age.unwrap_or(config.max_token_age);
        config.leeway = section.leeway.unwrap_or(config.leeway);
        config.jwks_max_age = section.jwks_max_age.unwrap_or(config.jwks_max_age);
        config.allow_private_network = section.allow_private_network;
        if let Some(path) = &section.ca {
            config.ca_pem = self.read(line, path);
        }
        Some(config)
    }

    /// What the section's preset says, or nothing but the defaults where it names none.
    fn preset(&mut self, line: usize, section: &IssuerSection) -> Option<IssuerConfig> {
        let (name, url, audiences) = (section.name.clone(), section.url.clone(), section.audiences.clone());
        let config = match (section.preset.as_deref().map(|preset| (preset, oidc::preset(preset))), url) {
            (Some((preset, None)), _) => {
                Err(format!("there is no preset {preset}{}; there are {}", hint(preset, PRESETS), PRESETS.join(", ")))
            }
            (Some((_, Some(preset))), url) => preset.config(name, url, audiences),
            (None, Some(url)) => Ok(IssuerConfig::new(name, url, audiences, vec![Algorithm::Rs256, Algorithm::Es256])),
            (None, None) => Err("say its url, or a preset that knows it".to_owned()),
        };
        config.map_err(|fault| self.fault(line, format!("issuer {}: {fault}", section.name))).ok()
    }
}
