//! What a leaf certificate will say, before anything is built: rendered from a role over a verified identity.

use std::net::IpAddr;

use super::name;
pub use crate::model::lease::Serial;
use crate::model::{
    Timestamp,
    error::{Code, Error, Result},
    identity::Identity,
    name::{AgentName, RoleName},
    role::{ExtKeyUsage, Role, X509Role},
    template::{Place, Template},
};

impl Serial {
    /// A serial from the system's generator, which names no lease.
    pub fn random() -> Self {
        Self::from_random(crate::clock::random())
    }
}

/// A subject alternative name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum San {
    /// A URI.
    Uri(String),
    /// A DNS name; one that starts with `*.` came from the role's own text.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

/// Everything that a leaf says and that is not the CA's or the key's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafPlan {
    /// The common name; absent means an empty subject and a critical SAN.
    pub common_name: Option<String>,
    /// The SANs, in order.
    pub sans: Vec<San>,
    /// The extended key usages, in order, each once.
    pub ext_key_usage: Vec<ExtKeyUsage>,
    /// The serial.
    pub serial: Serial,
    /// The first second in which it is valid.
    pub not_before: Timestamp,
    /// The last second in which it is valid.
    pub not_after: Timestamp,
}

impl LeafPlan {
    /// Renders a role for a caller. Refuses with `Code::ClaimNotUsable` where a claim makes a name that cannot be.
    pub fn render(role: &Role, identity: &Identity, serial: Serial, (not_before, not_after): (Timestamp, Timestamp)) -> Result<Self> {
        let spec = super::x509_role(role)?;
        let agent = match (role.enrollment().and_then(|spec| spec.uri_sans.first()), identity.certificate()) {
            (Some(uri), Some(peer)) => uri.read_back(&peer.id, &identity.tenant, &role.name).flatten(),
            _ => None,
        };
        let names = Names { identity, role: &role.name, agent };
        let mut plan = Self {
            common_name: spec.common_name.as_ref().map(|template| names.common_name(template)).transpose()?,
            sans: names.sans(spec)?,
            ext_key_usage: spec.ext_key_usage.clone(),
            serial,
            not_before,
            not_after,
        };
        plan.ext_key_usage.sort_unstable();
        plan.ext_key_usage.dedup();
        Ok(plan)
    }
}

struct Names<'a> {
    identity: &'a Identity,
    role: &'a RoleName,
    /// Of an agent that renews its own identity.
    agent: Option<AgentName>,
}

impl Names<'_> {
    fn sans(&self, spec: &X509Role) -> Result<Vec<San>> {
        let mut sans = Vec::with_capacity(spec.uri_sans.len() + spec.dns_sans.len() + spec.ip_sans.len());
        for template in &spec.uri_sans {
            sans.push(San::Uri(self.uri(template)?));
        }
        for template in &spec.dns_sans {
            sans.push(San::Dns(self.dns(template)?));
        }
        sans.extend(spec.ip_sans.iter().copied().map(San::Ip));
        // Two templates may render to one name; the certificate says it once.
        let mut once = Vec::with_capacity(sans.len());
        for san in sans {
            if !once.contains(&san) {
                once.push(san);
            }
        }
        Ok(once)
    }

    fn render(&self, template: &Template, place: Place) -> Result<String> {
        template.render_for_agent(place, self.identity, self.role, self.agent.as_ref())
    }

    fn common_name(&self, template: &Template) -> Result<String> {
        let text = self.render(template, Place::Text)?;
        name::check_common_name(&text).map_err(|why| not_usable(template, why))?;
        Ok(text)
    }

    fn uri(&self, template: &Template) -> Result<String> {
        if claim_in_authority(template) {
            return Err(Error::internal(format_args!("the template {template} lets a claim choose the URI's host")));
        }
        let text = self.render(template, Place::UriSegment)?;
        name::check_uri(&text).map_err(|why| not_usable(template, why))?;
        Ok(text)
    }

    fn dns(&self, template: &Template) -> Result<String> {
        let text = self.render(template, Place::DnsLabel)?;
        name::check_dns(&text, template.source().starts_with("*.")).map_err(|why| not_usable(template, why))?;
        Ok(text)
    }
}

fn not_usable(template: &Template, why: String) -> Error {
    Error::new(Code::ClaimNotUsable, format!("the role's template {:?} makes no valid name of your identity", template.source()))
        .because(why)
}

/// Whether a claim stands before the path of a URI: it would choose the scheme, the host or the trust domain.
pub(super) fn claim_in_authority(template: &Template) -> bool {
    let source = template.source();
    let authority_end = source.find("://").map_or(0, |scheme| scheme + 3);
    let end = source[authority_end..].find('/').map_or(source.len(), |slash| authority_end + slash);
    // Without an authority (`urn:uuid:{claims.id}`) only the scheme counts.
    let end = if authority_end == 0 { source.find(':').unwrap_or(source.len()) } else { end };
    source[..end].contains("{claims.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_may_not_choose_the_host() {
        for (source, expected) in [
            ("spiffe://a/{claims.x}", false),
            ("spiffe://{tenant}.a/{claims.x}", false),
            ("spiffe://{claims.x}/a", true),
            ("spiffe://a.{claims.x}/a", true),
            ("{claims.x}://a/b", true),
            ("https://a{claims.x}", true),
            ("urn:uuid:{claims.x}", false),
            ("{claims.x}", true),
        ] {
            assert_eq!(claim_in_authority(&Template::parse(source).unwrap()), expected, "{source}");
        }
    }
}
