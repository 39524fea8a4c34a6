//! The linter: reads back what was built, and refuses whatever breaks the profile, before it is signed.

use std::net::IpAddr;

use rcgen::PublicKeyData;
use x509_parser::{
    certificate::TbsCertificate,
    extensions::{DistributionPointName, GeneralName, ParsedExtension, X509Extension},
    oid_registry::{self, Oid},
    prelude::FromDer,
    time::ASN1Time,
    x509::{X509Name, X509Version},
};

use super::{
    authority::{Authority, wants_key_encipherment},
    csr::SubjectKey,
    key::key_identifier,
    name,
    plan::{LeafPlan, San},
};
use crate::model::role::ExtKeyUsage;

/// How many extensions the profile has.
const EXTENSIONS: usize = 7;

/// The extensions of a leaf, each exactly once, in whatever order, and nothing else.
static PROFILE: [Oid<'static>; EXTENSIONS] = [
    oid_registry::OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER,
    oid_registry::OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
    oid_registry::OID_X509_EXT_KEY_USAGE,
    oid_registry::OID_X509_EXT_BASIC_CONSTRAINTS,
    oid_registry::OID_X509_EXT_EXTENDED_KEY_USAGE,
    oid_registry::OID_X509_EXT_CRL_DISTRIBUTION_POINTS,
    oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME,
];

/// 2050-01-01T00:00:00Z: dates from there on are GeneralizedTime, before it UTCTime (RFC 5280 section 4.1.2.5).
const YEAR_2050: i64 = 2_524_608_000;
const DIGITAL_SIGNATURE: u16 = 1;
const KEY_ENCIPHERMENT: u16 = 1 << 2;
/// The DER of one extended key usage of id-kp: tag, length, eight bytes.
const EKU_LENGTH: usize = 10;

/// Checks a TBSCertificate against the profile (RFC 5280 section 4, SPIFFE X.509-SVID section 4), its plan, its key and its
/// issuer. Gives every fault.
pub fn lint(tbs: &[u8], plan: &LeafPlan, key: &SubjectKey, authority: &Authority) -> Result<(), Vec<String>> {
    let mut lint = Lint { plan, key, authority, faults: Vec::new() };
    lint.plan();
    match TbsCertificate::from_der(tbs) {
        Ok(([], certificate)) => lint.certificate(&certificate),
        Ok(_) => lint.fault("there are bytes after the certificate's end"),
        Err(error) => lint.fault(format!("the certificate does not parse: {error}")),
    }
    if lint.faults.is_empty() { Ok(()) } else { Err(lint.faults) }
}

struct Lint<'a> {
    plan: &'a LeafPlan,
    key: &'a SubjectKey,
    authority: &'a Authority,
    faults: Vec<String>,
}

impl Lint<'_> {
    fn fault(&mut self, fault: impl Into<String>) {
        self.faults.push(fault.into());
    }

    fn require(&mut self, holds: bool, fault: &str) {
        if !holds {
            self.faults.push(fault.to_owned());
        }
    }

    /// The plan itself must be one that may be certified.
    fn plan(&mut self) {
        let plan = self.plan;
        self.require(plan.not_before < plan.not_after, "it would end before it begins");
        self.require(plan.not_before >= self.authority.not_before(), "it would begin before its issuer");
        self.require(plan.not_after <= self.authority.not_after(), "it would outlive its issuer");
        self.require(!plan.ext_key_usage.is_empty(), "it would have no extended key usage");
        let ascending = plan.ext_key_usage.is_sorted_by(|a, b| a < b);
        self.require(ascending, "it would have an extended key usage twice, or out of order");
        let distinct = plan.sans.iter().enumerate().all(|(at, san)| !plan.sans[..at].contains(san));
        self.require(distinct, "it would say a name twice");
        self.require(!plan.sans.is_empty() || plan.common_name.is_some(), "it would name nobody");
        if let Some(common_name) = &plan.common_name {
            self.faults.extend(name::check_common_name(common_name).err());
        }
        for san in &plan.sans {
            match san {
                San::Uri(uri) => self.faults.extend(name::check_uri(uri).err()),
                // Whether a wildcard is the role's own was decided when the plan was rendered.
                San::Dns(host) => self.faults.extend(name::check_dns(host, true).err()),
                San::Ip(_) => {}
            }
        }
        let uris = plan.sans.iter().filter(|san| matches!(san, San::Uri(_))).count();
        let is_svid = plan.sans.iter().any(|san| matches!(san, San::Uri(uri) if name::is_spiffe(uri)));
        self.require(!is_svid || uris == 1, "a SPIFFE ID stands beside another URI (X.509-SVID section 2)");
    }

    fn certificate(&mut self, certificate: &TbsCertificate<'_>) {
        let plan = self.plan;
        self.require(certificate.version() == X509Version::V3, "it is not of version 3");
        self.require(certificate.raw_serial() == plan.serial.as_bytes(), "its serial is not the planned one");
        self.require(certificate.raw_serial().first().is_some_and(|first| (1..0x80).contains(first)), "its serial is not positive");
        self.signature_algorithm(certificate);
        self.require(certificate.issuer().as_raw() == self.authority.subject_raw, "its issuer is not the CA's name");
        let validity = certificate.validity();
        self.require(validity.not_before.timestamp() == plan.not_before.as_second(), "it begins at another time than planned");
        self.require(validity.not_after.timestamp() == plan.not_after.as_second(), "it ends at another time than planned");
        let in_due_form = |time: &ASN1Time| time.is_utctime() == (time.timestamp() < YEAR_2050);
        self.require(in_due_form(&validity.not_before) && in_due_form(&validity.not_after), "its dates are in the wrong form");
        self.subject(certificate.subject());
        self.require(certificate.public_key().raw == self.key.subject_public_key_info(), "its key is not the CSR's");
        self.require(certificate.issuer_uid.is_none() && certificate.subject_uid.is_none(), "it has a unique identifier");
        self.extensions(certificate.extensions());
    }

    fn signature_algorithm(&mut self, certificate: &TbsCertificate<'_>) {
        let algorithm = self.authority.key.algorithm();
        let same = certificate
            .signature
            .algorithm
            .iter()
            .is_some_and(|arcs| rcgen::SignatureAlgorithm::from_oid(&arcs.collect::<Vec<_>>()).is_ok_and(|stated| stated == algorithm));
        self.require(same, "its signature algorithm is not the CA key's");
    }

    fn subject(&mut self, subject: &X509Name<'_>) {
        let attributes: Vec<_> = subject.iter_attributes().collect();
        let as_planned = match (&self.plan.common_name, attributes.as_slice()) {
            (None, []) => true,
            (Some(planned), [only]) => {
                *only.attr_type() == oid_registry::OID_X509_COMMON_NAME && only.attr_value().data == planned.as_bytes()
            }
            _ => false,
        };
        self.require(as_planned, "its subject is not the planned one");
    }

    fn extensions(&mut self, extensions: &[X509Extension<'_>]) {
        let mut seen = [false; EXTENSIONS];
        for extension in extensions {
            match PROFILE.iter().position(|oid| *oid == extension.oid) {
                Some(at) if !seen[at] => {
                    seen[at] = true;
                    self.extension(extension);
                }
                Some(_) => self.fault(format!("it has the extension {} twice", extension.oid)),
                None => self.fault(format!("it has the extension {}, which is not of the profile", extension.oid)),
            }
        }
        for (at, oid) in PROFILE.iter().enumerate() {
            let needed = *oid != oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME || !self.plan.sans.is_empty();
            if seen[at] != needed {
                self.fault(format!("the extension {oid} {}", if needed { "is missing" } else { "has no place here" }));
            }
        }
    }

    fn extension(&mut self, extension: &X509Extension<'_>) {
        let critical = match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                let same = id.key_identifier.as_ref().is_some_and(|id| id.0 == self.authority.key_id);
                let only = id.authority_cert_issuer.is_none() && id.authority_cert_serial.is_none();
                self.require(same && only, "its authority key identifier is not the CA's subject key identifier");
                false
            }
            ParsedExtension::SubjectKeyIdentifier(id) => {
                self.require(id.0 == key_identifier(self.key.der_bytes()), "its subject key identifier is not its key's");
                false
            }
            ParsedExtension::KeyUsage(usage) => {
                let encipherment = if wants_key_encipherment(self.plan, self.key) { KEY_ENCIPHERMENT } else { 0 };
                self.require(usage.flags == DIGITAL_SIGNATURE | encipherment, "its key usage is not the profile's");
                true
            }
            ParsedExtension::BasicConstraints(constraints) => {
                self.require(!constraints.ca && constraints.path_len_constraint.is_none(), "it says that it is a CA");
                true
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                let planned = |wanted| self.plan.ext_key_usage.contains(&wanted);
                let as_planned =
                    usage.server_auth == planned(ExtKeyUsage::ServerAuth) && usage.client_auth == planned(ExtKeyUsage::ClientAuth);
                // With the planned ones present, the length leaves no room for any other.
                let only = extension.value.len() == 2 + EKU_LENGTH * self.plan.ext_key_usage.len();
                self.require(as_planned && only, "its extended key usage is not the planned one");
                false
            }
            ParsedExtension::CRLDistributionPoints(points) => {
                let ours = match points.points.as_slice() {
                    [point] if point.reasons.is_none() && point.crl_issuer.is_none() => match &point.distribution_point {
                        Some(DistributionPointName::FullName(names)) => *names == [GeneralName::URI(&self.authority.crl_url)],
                        _ => false,
                    },
                    _ => false,
                };
                self.require(ours, "its CRL distribution point is not the CA's");
                false
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                let same = names.general_names.len() == self.plan.sans.len()
                    && names.general_names.iter().zip(&self.plan.sans).all(|(name, planned)| is_san(name, planned));
                self.require(same, "its SANs are not the planned ones");
                self.plan.common_name.is_none()
            }
            other => {
                self.fault(format!("the extension {} does not parse: {other:?}", extension.oid));
                return;
            }
        };
        if extension.critical != critical {
            self.fault(format!("the extension {} must {}be critical", extension.oid, if critical { "" } else { "not " }));
        }
    }
}

fn is_san(name: &GeneralName<'_>, planned: &San) -> bool {
    match (name, planned) {
        (GeneralName::URI(text), San::Uri(uri)) => text == uri,
        (GeneralName::DNSName(text), San::Dns(host)) => text == host,
        (GeneralName::IPAddress(octets), San::Ip(IpAddr::V4(address))) => *octets == address.octets(),
        (GeneralName::IPAddress(octets), San::Ip(IpAddr::V6(address))) => *octets == address.octets(),
        _ => false,
    }
}
