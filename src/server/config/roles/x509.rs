//! `kind = "x509"`

use serde::Deserialize;

use crate::{
    model::{
        catalog::Catalog,
        identity::CertificateIdentity,
        name::CaName,
        role::{ExtKeyUsage, KeyType, X509Role},
        template::Template,
    },
    server::config::{
        file::{At, Reader},
        sections::{RoleSection, TrustDomainSection},
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
    #[serde(default)]
    pub enrollment: bool,
}

impl Reader {
    pub(super) fn x509_role(
        &mut self,
        role: &At<RoleSection>,
        section: &X509RoleSection,
        trust_domains: &[At<TrustDomainSection>],
        catalog: &Catalog,
    ) -> Option<X509Role> {
        if section.enrollment {
            self.first_identities_are_taken(role, section, trust_domains);
        }
        let mut template = |source: &String| match section.enrollment {
            true => self.enrollment_template(role, source),
            false => self.template(role, source, catalog),
        };
        Some(X509Role {
            ca: section.ca.clone(),
            common_name: section.common_name.as_ref().and_then(&mut template),
            uri_sans: section.uri_sans.iter().filter_map(&mut template).collect(),
            dns_sans: section.dns_sans.iter().filter_map(&mut template).collect(),
            ip_sans: section.ip_sans.clone(),
            ext_key_usage: section.ext_key_usage.clone(),
            key_types: section.key_types.clone().unwrap_or_else(|| vec![KeyType::P256, KeyType::P384, KeyType::Ed25519]),
            enrollment: section.enrollment,
        })
    }

    /// A template of a role for first identities: whoever redeems a code has a name, and no claims.
    fn enrollment_template(&mut self, role: &At<RoleSection>, source: &str) -> Option<Template> {
        let name = &role.value.name;
        match Template::parse_for_enrollment(source) {
            Ok(template) => {
                if let Some(claim) = template.claims().next() {
                    self.fault(
                        role.line,
                        format!("role {name}: a role with enrollment = true has no claims, and {template} reads {claim}"),
                    );
                    return None;
                }
                Some(template)
            }
            Err(error) => {
                self.fault(role.line, format!("role {name}: {error}"));
                None
            }
        }
    }

    /// That the certificate is taken as its holder's here, and that its revocation is seen at once: it renews itself.
    fn first_identities_are_taken(&mut self, role: &At<RoleSection>, section: &X509RoleSection, trust_domains: &[At<TrustDomainSection>]) {
        let (line, name) = (role.line, &role.value.name);
        if !section.ext_key_usage.contains(&ExtKeyUsage::ClientAuth) {
            self.fault(line, format!("role {name}: a role with enrollment = true needs the ext_key_usage client_auth"));
        }
        // It must be read back from the certificate at each renewal, and tell two agents apart.
        let names = |source: &String| source.matches("{enrollment.name}").count();
        let in_uri: usize = section.uri_sans.iter().map(names).sum();
        let elsewhere: usize = section.common_name.iter().chain(&section.dns_sans).map(names).sum();
        if in_uri > 1 || (elsewhere > 0 && in_uri == 0) {
            self.fault(line, format!("role {name}: {{enrollment.name}} stands in the URI of uri_sans, and there once"));
        }
        let domain = match section.uri_sans.as_slice() {
            [uri] => uri.strip_prefix("spiffe://").and_then(|rest| rest.split('/').next()),
            _ => None,
        };
        let Some(domain) = domain else {
            self.fault(line, format!("role {name}: a role with enrollment = true has one URI in uri_sans, a SPIFFE ID"));
            return;
        };
        let found = trust_domains.iter().find(|at| at.value.name.as_str() == domain).map(|at| &at.value);
        let fault = match found {
            None => format!("there is no [[trust_domain]] {domain:?}, so that the agent's certificate would be taken by nobody"),
            Some(found) if found.identity != CertificateIdentity::Spiffe => {
                format!("the trust domain {domain} must have identity = \"spiffe\", for the agent is known by its SPIFFE ID")
            }
            Some(found) if !found.own_cas.contains(&section.ca) => {
                format!("the trust domain {domain} must name the CA {} in own_cas, so that its CRL holds here at once", section.ca)
            }
            Some(_) => return,
        };
        self.fault(line, format!("role {name}: {fault}"));
    }
}
