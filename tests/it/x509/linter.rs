//! The linter: a good certificate passes, and every way of spoiling it or its plan is caught.

use daypass::{
    issuer::x509::{LeafPlan, San, Serial, SubjectKey, lint::lint},
    model::{
        SignedDuration,
        error::Code,
        role::{ExtKeyUsage, X509Role},
    },
};
use rcgen::{KeyPair, PublicKeyData};

use super::{der::*, world::*};

// The places of a TBSCertificate, and of its extensions as they are built.
const VERSION: usize = 0;
const SERIAL: usize = 1;
const ALGORITHM: usize = 2;
const ISSUER: usize = 3;
const VALIDITY: usize = 4;
const SUBJECT: usize = 5;
const KEY: usize = 6;
const EXTENSIONS: usize = 7;
const AKI: usize = 0;
const SAN: usize = 1;
const KEY_USAGE: usize = 2;
const EKU: usize = 3;
const CDP: usize = 4;
const SKI: usize = 5;
const BASIC: usize = 6;

struct Good {
    plan: LeafPlan,
    key: SubjectKey,
    fields: Vec<Vec<u8>>,
    extensions: Vec<Vec<u8>>,
}

impl Good {
    fn new(spec: X509Role) -> Self {
        let plan = plan_for(spec, Serial::random());
        let key = subject_key(&fresh_csr()).unwrap();
        let leaf = WORLD.authority.sign_leaf(&plan, &key).unwrap();
        let fields = split(content(tbs_of(&leaf.der)));
        let extensions = split(content(content(&fields[EXTENSIONS])));
        Self { plan, key, fields, extensions }
    }

    fn tbs(&self, fields: &[Vec<u8>]) -> Vec<u8> {
        tlv(0x30, &fields.concat())
    }

    fn with_field(&self, at: usize, element: Vec<u8>) -> Vec<u8> {
        let mut fields = self.fields.clone();
        fields[at] = element;
        self.tbs(&fields)
    }

    fn with_extensions(&self, extensions: &[Vec<u8>]) -> Vec<u8> {
        self.with_field(EXTENSIONS, tlv(0xa3, &tlv(0x30, &extensions.concat())))
    }

    fn with_extension(&self, at: usize, element: Vec<u8>) -> Vec<u8> {
        let mut extensions = self.extensions.clone();
        extensions[at] = element;
        self.with_extensions(&extensions)
    }

    fn caught(&self, tbs: &[u8], what: &str, why: &str) {
        let faults = lint(tbs, &self.plan, &self.key, &WORLD.authority).expect_err(what);
        assert!(faults.iter().any(|fault| fault.contains(why)), "{what} was caught for another reason: {faults:?}");
    }
}

#[test]
fn a_good_certificate_passes() {
    let named = X509Role { common_name: Some(template("a")), ..spec() };
    for spec in [spec(), named.clone(), X509Role { uri_sans: vec![], ext_key_usage: vec![ExtKeyUsage::ClientAuth], ..named }] {
        let good = Good::new(spec);
        assert_eq!(lint(&good.tbs(&good.fields), &good.plan, &good.key, &WORLD.authority), Ok(()));
    }
}

#[test]
fn every_spoilt_field_is_caught() {
    let good = Good::new(spec());
    let field = |at, element: Vec<u8>, what: &str, why: &str| good.caught(&good.with_field(at, element), what, why);
    field(VERSION, tlv(0xa0, &uint(&[1])), "version 2", "version 3");
    field(SERIAL, uint(&[1]), "a serial of its own", "serial is not the planned");
    field(SERIAL, uint(&[0]), "serial zero", "not positive");
    field(SERIAL, tlv(2, &[0xff; 16]), "negative serial", "not positive");
    field(SERIAL, uint(&[0x11; 21]), "serial of 21 bytes", "serial");
    field(ALGORITHM, seq(&[&oid(&[1, 2, 840, 10045, 4, 1])]), "SHA-1", "signature algorithm");
    field(ALGORITHM, seq(&[&oid(RSA_SHA256), &null()]), "RSA", "signature algorithm");
    field(ISSUER, seq(&[&rdn(&[2, 5, 4, 3], 12, b"Other CA")]), "another issuer", "issuer");
    field(ISSUER, seq(&[&rdn(&[2, 5, 4, 3], 19, b"Daypass Test CA")]), "the issuer in another string type", "issuer");
    let utc = |text: &[u8]| tlv(23, text);
    field(VALIDITY, seq(&[&utc(b"260101000000Z"), &utc(b"270115081500Z")]), "an earlier start", "begins");
    field(VALIDITY, seq(&[&utc(b"270115075930Z"), &utc(b"270115081501Z")]), "a later end", "ends");
    field(VALIDITY, seq(&[&utc(b"270115075930Z"), &tlv(24, b"20270115081500Z")]), "GeneralizedTime too early", "form");
    field(SUBJECT, seq(&[&rdn(&[2, 5, 4, 3], 12, b"admin")]), "a subject", "subject");
    let other = KeyPair::generate().unwrap();
    field(KEY, other.subject_public_key_info(), "another key", "key is not the CSR's");
    field(KEY, [&good.fields[KEY][..], &tlv(0x81, &[0, 1])].concat(), "an issuer's unique id", "unique identifier");
    good.caught(&[&good.tbs(&good.fields)[..], &[0]].concat(), "a byte after it", "after the certificate's end");
    good.caught(&good.tbs(&good.fields[..KEY]), "half a certificate", "parse");
    good.caught(&good.tbs(&good.fields[..EXTENSIONS]), "no extensions", "missing");
}

#[test]
fn every_spoilt_extension_is_caught() {
    let good = Good::new(spec());
    let extension_at = |at, element: Vec<u8>, what: &str, why: &str| good.caught(&good.with_extension(at, element), what, why);
    let san = |critical, names: &[&[u8]]| extension(&[2, 5, 29, 17], critical, &seq(names));
    let ours = tlv(0x86, b"spiffe://example.org/acme/4711");
    for (at, oid) in [(AKI, "35"), (SAN, "17"), (KEY_USAGE, "15"), (EKU, "37"), (CDP, "31"), (SKI, "14"), (BASIC, "19")] {
        let mut without = good.extensions.clone();
        without.remove(at);
        good.caught(&good.with_extensions(&without), oid, "missing");
        let mut twice = good.extensions.clone();
        twice.push(twice[at].clone());
        good.caught(&good.with_extensions(&twice), oid, "");
    }
    extension_at(AKI, extension(&[2, 5, 29, 35], false, &seq(&[&tlv(0x80, &[1; 20])])), "another authority key", "authority key");
    extension_at(AKI, extension(&[2, 5, 29, 35], false, &seq(&[])), "an empty authority key", "authority key");
    extension_at(SAN, san(true, &[&ours, &tlv(0x82, b"admin.example.org")]), "a DNS name more", "SANs");
    extension_at(SAN, san(true, &[&tlv(0x86, b"spiffe://example.org/admin")]), "another SPIFFE ID", "SANs");
    extension_at(SAN, san(true, &[&tlv(0x82, b"spiffe://example.org/acme/4711")]), "the ID as a DNS name", "SANs");
    extension_at(SAN, san(true, &[&tlv(0x81, b"root@example.org")]), "an e-mail address", "SANs");
    extension_at(SAN, san(true, &[]), "no name", "SAN");
    extension_at(SAN, san(false, &[&ours]), "a SAN that is not critical under an empty subject", "critical");
    extension_at(KEY_USAGE, extension(&[2, 5, 29, 15], true, &tlv(3, &[1, 6])), "keyCertSign", "key usage");
    extension_at(KEY_USAGE, extension(&[2, 5, 29, 15], true, &tlv(3, &[5, 0xa0])), "keyEncipherment for an EC key", "key usage");
    extension_at(KEY_USAGE, extension(&[2, 5, 29, 15], false, &tlv(3, &[7, 0x80])), "key usage that is not critical", "critical");
    let eku = |arcs: &[&[u64]]| extension(&[2, 5, 29, 37], false, &seq(&[&arcs.iter().flat_map(|arcs| oid(arcs)).collect::<Vec<_>>()]));
    let (server, client): (&[u64], &[u64]) = (&[1, 3, 6, 1, 5, 5, 7, 3, 1], &[1, 3, 6, 1, 5, 5, 7, 3, 2]);
    extension_at(EKU, eku(&[server]), "a usage less", "extended key usage");
    extension_at(EKU, eku(&[server, client, &[1, 3, 6, 1, 5, 5, 7, 3, 3]]), "code signing", "extended key usage");
    extension_at(EKU, eku(&[server, client, &[2, 5, 29, 37, 0]]), "any usage", "extended key usage");
    extension_at(EKU, eku(&[server, client, client]), "a usage twice", "extended key usage");
    let cdp = |url: &[u8]| extension(&[2, 5, 29, 31], false, &seq(&[&seq(&[&tlv(0xa0, &tlv(0xa0, &tlv(0x86, url)))])]));
    extension_at(CDP, cdp(b"http://evil.example/"), "another CRL", "distribution point");
    extension_at(SKI, extension(&[2, 5, 29, 14], false, &tlv(4, &[1; 20])), "another subject key", "subject key identifier");
    extension_at(BASIC, extension(&[2, 5, 29, 19], true, &seq(&[&[1, 1, 0xff]])), "CA:TRUE", "it is a CA");
    extension_at(BASIC, extension(&[2, 5, 29, 19], false, &seq(&[])), "constraints that are not critical", "critical");
    extension_at(BASIC, extension(&[2, 5, 29, 19], true, &[0xff]), "constraints that do not parse", "parse");
    for arcs in [&[1, 3, 6, 1, 5, 5, 7, 1, 1][..], &[2, 5, 29, 32], &[1, 3, 6, 1, 4, 1, 11_129, 2, 4, 3], &[2, 5, 29, 30], &[2, 5, 29, 18]]
    {
        let more = [&good.extensions[..], &[extension(arcs, false, &seq(&[]))]].concat();
        good.caught(&good.with_extensions(&more), "an extension more", "not of the profile");
    }
}

#[test]
fn every_plan_that_must_not_be_is_refused_before_it_is_signed() {
    let good = plan_for(spec(), Serial::random());
    let key = subject_key(&fresh_csr()).unwrap();
    let refused = |plan: LeafPlan, why: &str| {
        let error = WORLD.authority.sign_leaf(&plan, &key).map(|_| ()).expect_err(why);
        assert_eq!(error.code(), Code::Internal, "{error}");
        assert!(error.cause().is_some_and(|cause| cause.contains(why)), "{error}");
        assert!(!error.public().contains(why), "the caller is told of a defect: {error}");
    };
    let uri = |text: &str| San::Uri(text.to_owned());
    let sans = |sans: Vec<San>| LeafPlan { sans, ..good.clone() };
    let second = SignedDuration::from_secs(1);
    refused(LeafPlan { not_after: WORLD.authority.not_after() + second, ..good.clone() }, "outlive its issuer");
    refused(LeafPlan { not_before: WORLD.authority.not_before() - second, ..good.clone() }, "before its issuer");
    refused(LeafPlan { not_after: good.not_before, ..good.clone() }, "end before it begins");
    refused(LeafPlan { ext_key_usage: vec![], ..good.clone() }, "no extended key usage");
    refused(LeafPlan { ext_key_usage: vec![ExtKeyUsage::ClientAuth; 2], ..good.clone() }, "extended key usage");
    refused(sans(vec![]), "name nobody");
    refused(sans(vec![uri("spiffe://example.org/")]), "no SPIFFE ID");
    refused(sans(vec![uri("spiffe://example.org/a"), uri("spiffe://example.org/b")]), "beside another URI");
    refused(sans(vec![uri("https://EXAMPLE.org/")]), "normal form");
    refused(sans(vec![San::Dns("a.example".to_owned()); 2]), "a name twice");
    refused(sans(vec![San::Dns("UPPER.example".to_owned())]), "no DNS name");
    refused(sans(vec![San::Dns("a\0b".to_owned())]), "no DNS name");
    refused(sans(vec![San::Dns("*".to_owned())]), "no DNS name");
    refused(LeafPlan { common_name: Some("x".repeat(65)), ..good.clone() }, "no common name");
    refused(LeafPlan { common_name: Some("a\nb".to_owned()), ..good }, "no common name");
}
