//! `kind = "x509"`

use serde::Deserialize;

use crate::{
    model::{
        catalog::Catalog,
        name::CaName,
        role::{ExtKeyUsage, KeyType, X509Role},
    },
    server::config::{
        file::{At, Reader},
        sections::RoleSection,
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::server::config) struct X509RoleSection {
    pub ca: CaName,
    #[serde(default)]
    pub common_name: Option<String>,
    #[serde(default)]
    pub uri_sans: Vec<String>,
    #[serde(default)]
    pub dns_sans: Vec<String>,
    #[serde(default)]
    pub ip_sans: Vec<std::net::IpAddr>,
    #[serde(default)]
    pub ext_key_usage: Vec<ExtKeyUsage>,
    #[serde(default)]
    pub key_types: Option<Vec<KeyType>>,
}

impl Reader {
    pub(super) fn x509_role(&mut self, role: &At<RoleSection>, section: &X509RoleSection, catalog: &Catalog) -> Option<X509Role> {
        Some(X509Role {
            ca: section.ca.clone(),
            common_name: section.common_name.as_ref().and_then(|source| self.template(role, source, catalog)),
            uri_sans: section.uri_sans.iter().filter_map(|source| self.template(role, source, catalog)).collect(),
            dns_sans: section.dns_sans.iter().filter_map(|source| self.template(role, source, catalog)).collect(),
            ip_sans: section.ip_sans.clone(),
            ext_key_usage: section.ext_key_usage.clone(),
            key_types: section.key_types.clone().unwrap_or_else(|| vec![KeyType::P256, KeyType::P384, KeyType::Ed25519]),
        })
    }
}
