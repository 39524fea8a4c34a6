//! Every fault of a role's X.509 part, found at load and not at the first request.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Ca, X509Issuer,
    name::{check_common_name, check_dns, check_uri, is_spiffe},
    plan::claim_in_authority,
    x509_role,
};
use crate::model::{
    Timestamp,
    catalog::Catalog,
    claim::{ClaimType, ClaimValue, Claims},
    enrollment::{Enrolled, Enrollment, EnrollmentId},
    fault::nearest,
    identity::{Identity, Proof, Subject, TokenUse, VerifiedToken},
    name::RoleName,
    role::{ExtKeyUsage, Role, X509Role},
    template::{Place, Template},
};

/// What a check of a role found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoleReport {
    /// What must be mended before the role can be used.
    pub faults: Vec<String>,
    /// What works, and may surprise.
    pub warnings: Vec<String>,
}

impl X509Issuer {
    /// Checks a role against the CAs, and its templates against the claims of the catalog's issuers.
    pub fn check_role(&self, role: &Role, catalog: &Catalog, now: Timestamp) -> RoleReport {
        let mut report = RoleReport::default();
        let spec = match x509_role(role) {
            Ok(spec) => spec,
            Err(error) => return RoleReport { faults: vec![error.to_string()], ..report },
        };
        self.check_ca(role, spec, now, &mut report);
        check_shape(spec, &mut report.faults);
        let templates = || spec.common_name.iter().chain(&spec.uri_sans).chain(&spec.dns_sans);
        for template in templates() {
            check_claims(template, catalog, &mut report.faults);
        }
        check_names(role, spec, &mut report.faults);
        report
    }

    fn check_ca(&self, role: &Role, spec: &X509Role, now: Timestamp, report: &mut RoleReport) {
        let authority = match self.cas.get(&spec.ca) {
            Some(Ca::Fixed(authority)) => authority,
            // That its life covers every role's was checked with the ring.
            Some(Ca::Rotating(_)) => return,
            None => {
                let hint = nearest(spec.ca.as_str(), self.cas.iter().map(|(name, _)| name.as_str()));
                let hint = hint.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
                report.faults.push(format!("there is no CA {}{hint}", spec.ca));
                return;
            }
        };
        if now.checked_add(role.max_ttl).is_ok_and(|end| end > authority.not_after()) {
            report.warnings.push(format!(
                "max_ttl is longer than the CA {} still lives ({}); certificates will end with the CA",
                spec.ca,
                authority.not_after()
            ));
        }
    }
}

fn check_shape(spec: &X509Role, faults: &mut Vec<String>) {
    if spec.key_types.is_empty() {
        faults.push("key_types is empty; name one at least: p256, p384, ed25519, rsa".to_owned());
    }
    if spec.ext_key_usage.is_empty() {
        faults.push("ext_key_usage is empty; name server_auth, client_auth or both".to_owned());
    }
    let has_san = !(spec.uri_sans.is_empty() && spec.dns_sans.is_empty() && spec.ip_sans.is_empty());
    if !has_san && spec.common_name.is_none() {
        faults.push("the certificate would name nobody; set uri_sans, dns_sans, ip_sans or common_name".to_owned());
    }
    if !has_san && spec.ext_key_usage.contains(&ExtKeyUsage::ServerAuth) {
        faults.push("server_auth needs a URI, DNS or IP SAN: clients do not read the common name (RFC 9525 section 2)".to_owned());
    }
    if spec.uri_sans.len() > 1 && spec.uri_sans.iter().any(|template| is_spiffe(template.source())) {
        faults.push("a SPIFFE ID must be the only URI SAN (X.509-SVID section 2)".to_owned());
    }
    if spec.ip_sans.iter().any(|address| address.is_unspecified() || address.is_multicast()) {
        faults.push("ip_sans holds an address that no host has".to_owned());
    }
}

fn check_claims(template: &Template, catalog: &Catalog, faults: &mut Vec<String>) {
    let mut types: BTreeMap<&str, BTreeSet<bool>> = BTreeMap::new();
    for claim in catalog.issuers.values().flatten() {
        types.entry(&claim.name).or_default().insert(matches!(claim.ty, ClaimType::String | ClaimType::Integer));
    }
    for name in template.claims() {
        match types.get(name) {
            Some(usable) if usable.contains(&true) => {}
            Some(_) => faults.push(format!("{template}: the claim {name} is a boolean or a list; a template takes strings and integers")),
            None => {
                let hint = nearest(name, types.keys().copied()).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                faults.push(format!("{template}: no issuer has the claim {name}{hint}"));
            }
        }
    }
}

/// Renders every template for a caller whose every value is the one letter that may stand anywhere: what is no name then
/// is none for anybody.
fn check_names(role: &Role, spec: &X509Role, faults: &mut Vec<String>) {
    let templates: Vec<&Template> = spec.common_name.iter().chain(&spec.uri_sans).chain(&spec.dns_sans).collect();
    let probe = match spec.enrollment {
        true => first(&role.name),
        false => probe(templates.iter().flat_map(|template| template.claims())),
    };
    let Some(probe) = probe else { return };
    let mut check = |template: &Template, place: Place, rule: &dyn Fn(&str) -> Result<(), String>| {
        let outcome = template.render(place, &probe, &role.name).map_err(|error| error.public().to_owned()).and_then(|text| rule(&text));
        faults.extend(outcome.err().map(|why| format!("{template}: {why}")));
    };
    for template in &spec.uri_sans {
        check(template, Place::UriSegment, &|text| match claim_in_authority(template) {
            true => Err("a claim must not choose the host or the trust domain; write it out, or use {tenant}".to_owned()),
            false => check_uri(text),
        });
    }
    for template in &spec.dns_sans {
        check(template, Place::DnsLabel, &|text| check_dns(text, template.source().starts_with("*.")));
    }
    if let Some(template) = &spec.common_name {
        check(template, Place::Text, &check_common_name);
    }
}

/// A caller that exists for the check only; it is granted nothing.
fn probe<'a>(claims: impl Iterator<Item = &'a str>) -> Option<Identity> {
    let claims: Claims = claims.map(|name| (name.to_owned(), ClaimValue::String("a".to_owned()))).collect();
    let token = VerifiedToken {
        issuer: "a".parse().ok()?,
        sub: "a".to_owned(),
        subject: Subject::try_from("oidc:a:a".to_owned()).ok()?,
        claims,
        token_id: [0; 16],
        token_use: TokenUse::Once,
        expires_at: Timestamp::MIN,
    };
    Some(Identity { tenant: "a".parse().ok()?, proof: Proof::Token { token, peer: None } })
}

/// The same for who redeems a code.
fn first(role: &RoleName) -> Option<Identity> {
    let enrollment = Enrollment {
        id: EnrollmentId::new(Timestamp::UNIX_EPOCH, [0; 10]),
        tenant: "a".parse().ok()?,
        role: role.clone(),
        name: "a".parse().ok()?,
        created_by: Subject::try_from("a".to_owned()).ok()?,
        created_at: Timestamp::MIN,
        expires_at: Timestamp::MIN,
        redeemed: None,
    };
    let enrolled = Enrolled::new(enrollment, [0; 16]).ok()?;
    Some(Identity { tenant: "a".parse().ok()?, proof: Proof::Enrollment(Box::new(enrolled)) })
}
