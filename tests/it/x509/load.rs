//! Loading a CA: what is sound is taken, and every fault of a chain, a key and a CRL address is named.

use std::sync::Arc;

use daypass::{
    issuer::x509::{Authority, CaConfig, FileKey, Serial},
    model::SignedDuration,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, Issuer, KeyPair, KeyUsagePurpose, SignatureAlgorithm,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{
    der::{rdn, seq, set, tlv},
    tools::must,
    world::*,
};

struct Ca {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

fn date(days: i64) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(now().as_second() + days * 86_400).unwrap()
}

fn params(name: &str, constraints: BasicConstraints) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (date(-1), date(30));
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params
}

impl Ca {
    fn root() -> Self {
        Self::root_with(|_| {})
    }

    fn root_with(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = params("Root", BasicConstraints::Unconstrained);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    fn under(signer: &Self, name: &str, algorithm: &'static SignatureAlgorithm, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = params(name, BasicConstraints::Constrained(0));
        change(&mut params);
        let key = KeyPair::generate_for(algorithm).unwrap();
        let pem = params.signed_by(&key, &Issuer::from_params(&signer.params, &signer.key)).unwrap().pem();
        Self { params, key, pem }
    }

    fn config(&self, chain: &[&Self], root: &Self) -> CaConfig {
        let chain: Vec<&str> = chain.iter().map(|ca| ca.pem.as_str()).collect();
        CaConfig {
            chain_pem: chain.concat().into_bytes(),
            root_pem: root.pem.clone().into_bytes(),
            key: Arc::new(FileKey::from_pem(&self.key.serialize_pem()).unwrap()),
            ..config(&WORLD.root, &WORLD.issuing)
        }
    }
}

const EC: &SignatureAlgorithm = &rcgen::PKCS_ECDSA_P256_SHA256;

fn faults(config: CaConfig) -> Vec<String> {
    Authority::load(config, now()).map(|_| ()).unwrap_err()
}

fn one_fault(config: CaConfig, why: &str) {
    let faults = faults(config);
    assert!(faults.len() == 1 && faults[0].contains(why), "{why:?} alone was expected: {faults:?}");
}

#[test]
fn a_ca_with_a_key_of_any_kind_issues_what_openssl_accepts() {
    let root = Ca::root();
    for algorithm in [EC, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519, &rcgen::PKCS_RSA_SHA256] {
        let issuing = Ca::under(&root, "Issuing", algorithm, |_| {});
        let authority = Authority::load(issuing.config(&[&issuing], &root), now()).unwrap();
        assert_eq!(authority.chain_pem(), issuing.pem);
        let (start, end) = authority.validity(now(), now() + SignedDuration::from_mins(5)).unwrap();
        let plan = daypass::issuer::x509::LeafPlan { not_before: start, not_after: end, ..plan_for(spec(), Serial::random()) };
        let leaf = authority.sign_leaf(&plan, &subject_key(&fresh_csr()).unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for (file, content) in
            [("root.pem", root.pem.as_bytes()), ("issuing.pem", issuing.pem.as_bytes()), ("leaf.der", leaf.der.as_slice())]
        {
            std::fs::write(dir.path().join(file), content).unwrap();
        }
        let at = now().as_second().to_string();
        must(dir.path(), "openssl", &["x509", "-inform", "DER", "-in", "leaf.der", "-out", "leaf.pem"]);
        must(dir.path(), "openssl", &["verify", "-attime", &at, "-CAfile", "root.pem", "-untrusted", "issuing.pem", "leaf.pem"]);
    }
}

#[test]
fn a_chain_of_three_is_taken_and_its_shortest_life_counts() {
    let root = Ca::root();
    let middle = Ca::under(&root, "Middle", EC, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.not_after = date(3);
    });
    let issuing = Ca::under(&middle, "Issuing", EC, |_| {});
    let authority = Authority::load(issuing.config(&[&issuing, &middle], &root), now()).unwrap();
    assert_eq!(authority.chain_der().len(), 2);
    assert_eq!(authority.not_after().as_second(), date(3).unix_timestamp());
    assert_eq!(X509Certificate::from_der(authority.root_der()).unwrap().1.subject().to_string(), "CN=Root");
    let gap = faults(issuing.config(&[&issuing], &root));
    for why in ["is issued by", "another authority key", "does not verify"] {
        assert!(gap.iter().any(|fault| fault.contains(why)), "{why:?} is not among {gap:?}");
    }
    let wrong_order = faults(issuing.config(&[&middle, &issuing], &root));
    assert!(wrong_order.iter().any(|fault| fault.contains("the key is not")), "{wrong_order:?}");
}

#[test]
fn every_fault_of_a_certificate_is_named() {
    let root = Ca::root();
    let issuing = |change: fn(&mut CertificateParams)| {
        let issuing = Ca::under(&root, "Issuing", EC, change);
        issuing.config(&[&issuing], &root)
    };
    one_fault(issuing(|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]), "without cRLSign");
    one_fault(issuing(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]), "without keyCertSign");
    one_fault(issuing(|params| params.key_usages = vec![]), "has no keyUsage");
    one_fault(issuing(|params| params.is_ca = IsCa::ExplicitNoCa), "without CA:TRUE");
    one_fault(issuing(|params| params.not_after = date(0)), "expired at");
    one_fault(issuing(|params| params.not_before = date(1)), "not valid before");
    let leaf_like = faults(issuing(|params| params.is_ca = IsCa::NoCa));
    assert!(leaf_like.iter().any(|fault| fault.contains("no subject key identifier")), "{leaf_like:?}");
    // rcgen keeps one attribute of a type, and no sets of two: such a name cannot be repeated.
    one_fault(
        issuing(|params| params.distinguished_name.push(DnType::OrganizationName, DnValue::TeletexString("x".try_into().unwrap()))),
        "use UTF8String",
    );
}

#[test]
fn a_name_that_cannot_be_repeated_is_refused() {
    let root = Ca::root();
    let issuing = Ca::under(&root, "Issuing", EC, |_| {});
    let common_name = |text: &[u8]| rdn(&[2, 5, 4, 3], 12, text);
    let twice = seq(&[&common_name(b"a"), &common_name(b"b")]);
    let pair = seq(&[&set(&[super::der::content(&common_name(b"a")), super::der::content(&rdn(&[2, 5, 4, 10], 12, b"b"))])]);
    for name in [twice, pair] {
        // The issuing certificate once more, with another name, signed by the root.
        let der = X509Certificate::from_der(&pem_body(&issuing.pem)).map(|(_, certificate)| certificate.tbs_certificate.as_ref().to_vec());
        let mut fields = super::der::split(super::der::content(&der.unwrap()));
        fields[5] = name;
        let tbs = tlv(0x30, &fields.concat());
        let algorithm = seq(&[&super::der::oid(super::der::ECDSA_SHA256)]);
        let der = seq(&[&tbs, &algorithm, &super::der::bits(&super::tools::sign(&root.key, &tbs))]);
        let config = CaConfig { chain_pem: pem_of(&der).into_bytes(), ..issuing.config(&[&issuing], &root) };
        one_fault(config, "byte for byte");
    }
}

fn pem_body(pem: &str) -> Vec<u8> {
    x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents
}

fn pem_of(der: &[u8]) -> String {
    use base64::Engine as _;
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", base64::engine::general_purpose::STANDARD.encode(der))
}

#[test]
fn every_fault_of_a_chain_is_named() {
    let root = Ca::root();
    let issuing = Ca::under(&root, "Issuing", EC, |_| {});
    let good = || issuing.config(&[&issuing], &root);
    assert!(Authority::load(good(), now()).is_ok());
    let namesake = Ca::root();
    let other_root = faults(issuing.config(&[&issuing], &namesake));
    assert!(other_root.iter().any(|fault| fault.contains("does not verify")), "{other_root:?}");
    assert!(other_root.iter().any(|fault| fault.contains("another authority key")), "{other_root:?}");
    one_fault(namesake.config(&[&issuing], &root), "the key is not the issuing certificate's");
    one_fault(issuing.config(&[&issuing, &root], &root), "contains the root");
    one_fault(root.config(&[&root], &root), "contains the root");
    one_fault(issuing.config(&[], &root), "0 certificates");
    one_fault(issuing.config(&[&issuing; 5], &root), "5 certificates");
    one_fault(CaConfig { root_pem: vec![], ..good() }, "exactly one");
    one_fault(CaConfig { root_pem: root.pem.repeat(2).into_bytes(), ..good() }, "exactly one");
    one_fault(CaConfig { chain_pem: b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n".to_vec(), ..good() }, "no PEM");
    one_fault(CaConfig { chain_pem: pem_of(b"nonsense").into_bytes(), ..good() }, "does not parse");
    let narrow = Ca::under(&root, "Narrow", EC, |_| {});
    let below = Ca::under(&narrow, "Below", EC, |_| {});
    one_fault(below.config(&[&below, &narrow], &root), "pathLenConstraint");
    let mut broken = pem_body(&issuing.pem);
    *broken.last_mut().unwrap() ^= 1;
    one_fault(CaConfig { chain_pem: pem_of(&broken).into_bytes(), ..good() }, "does not verify");
}

#[test]
fn an_expired_root_ends_its_chain() {
    let root = Ca::root_with(|params| params.not_after = date(0));
    let issuing = Ca::under(&root, "Issuing", EC, |_| {});
    one_fault(issuing.config(&[&issuing], &root), "expired at");
}

#[test]
fn every_fault_of_the_crl_is_named() {
    let good = || config(&WORLD.root, &WORLD.issuing);
    for (url, why) in [
        ("ftp://a/crl", "not http or https"),
        ("ldap://a/crl", "not http or https"),
        ("http://A.example/crl", "normal form"),
        ("http://u:p@a.example/crl", "password"),
        ("/crl", "no absolute URI"),
        ("", "no absolute URI"),
        ("http://a/b c", "no URI has"),
    ] {
        one_fault(CaConfig { crl_url: url.to_owned(), ..good() }, why);
    }
    for life in [SignedDuration::ZERO, SignedDuration::from_secs(59), SignedDuration::from_secs(-3600), DAY * 8] {
        one_fault(CaConfig { crl_life: life, ..good() }, "CRL's life");
    }
    for life in [SignedDuration::from_mins(1), DAY * 7] {
        assert!(Authority::load(CaConfig { crl_life: life, ..good() }, now()).is_ok());
    }
}

#[test]
fn all_faults_come_at_once() {
    let root = Ca::root();
    let issuing = Ca::under(&root, "Issuing", EC, |params| {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_after = date(0);
    });
    let config = CaConfig { crl_url: "ftp://a/".to_owned(), crl_life: SignedDuration::ZERO, ..root.config(&[&issuing], &root) };
    assert_eq!(faults(config).len(), 6);
}

#[test]
fn a_key_file_that_is_none_is_refused_without_a_word_of_it() {
    let p521 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap().serialize_pem();
    let good = WORLD.issuing.key_pem.as_str();
    let dir = tempfile::tempdir().unwrap();
    let short = must(dir.path(), "openssl", &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"]);
    for bad in [&short, "", "secret", &good[..100], &good.replace("PRIVATE", "PUBLIC"), &p521, &WORLD.issuing.certificate_pem] {
        let error = FileKey::from_pem(bad).map(|_| ()).unwrap_err();
        assert!(bad.lines().filter(|line| line.len() > 8 && !line.starts_with('-')).all(|line| !error.contains(line)), "{error}");
    }
    assert!(FileKey::from_pem(good).is_ok());
}

/// A key that claims to be another.
struct Liar {
    claimed: Vec<u8>,
    real: KeyPair,
}

impl rcgen::PublicKeyData for Liar {
    fn der_bytes(&self) -> &[u8] {
        &self.claimed
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.real.algorithm()
    }
}

impl rcgen::SigningKey for Liar {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.real.sign(message)
    }
}

#[test]
fn a_key_proves_itself_at_load() {
    let claimed = rcgen::PublicKeyData::der_bytes(&KeyPair::from_pem(&WORLD.issuing.key_pem).unwrap()).to_vec();
    let liar = Liar { claimed, real: KeyPair::generate().unwrap() };
    one_fault(CaConfig { key: Arc::new(liar), ..config(&WORLD.root, &WORLD.issuing) }, "does not verify with the issuing certificate");
}
