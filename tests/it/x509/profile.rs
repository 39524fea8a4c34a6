//! Whatever is asked: a refusal, or a certificate of the profile that outlives neither its issuer nor its grant.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use daypass::model::{
    SignedDuration, Timestamp,
    error::Code,
    request::Input,
    role::{ExtKeyUsage, KeyType, X509Role},
    template::Template,
};
use proptest::{collection::vec, option, prelude::*, sample::select};
use rcgen::{KeyPair, PublicKeyData};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, x509::X509Version};

use super::world::*;

/// A key pair of each type, with its request.
static KEYS: LazyLock<Vec<(KeyType, KeyPair, Vec<u8>)>> = LazyLock::new(|| {
    [
        (KeyType::P256, &rcgen::PKCS_ECDSA_P256_SHA256),
        (KeyType::P384, &rcgen::PKCS_ECDSA_P384_SHA384),
        (KeyType::Ed25519, &rcgen::PKCS_ED25519),
        (KeyType::Rsa, &rcgen::PKCS_RSA_SHA256),
    ]
    .into_iter()
    .map(|(key_type, algorithm)| {
        let pair = KeyPair::generate_for(algorithm).unwrap();
        let csr = csr_for(&pair);
        (key_type, pair, csr)
    })
    .collect()
});

fn templates(good: &'static [&'static str]) -> impl Strategy<Value = Template> {
    prop_oneof![4 => select(good).prop_map(str::to_owned), 1 => "[ -z]{0,20}"]
        .prop_filter_map("no template", |source| Template::parse(&source).ok())
}

fn specs() -> impl Strategy<Value = X509Role> {
    let uris = templates(&["spiffe://example.org/{tenant}/{claims.x}", "https://example.org/{claims.x}", "spiffe://example.org/{role}"]);
    let hosts = templates(&["{claims.x}.example.org", "*.example.org", "{tenant}.{role}.example.org"]);
    let address = prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits)))
    ];
    (
        option::of(templates(&["{claims.x}", "agent {claims.y}"])),
        vec(uris, 0..3),
        vec(hosts, 0..3),
        vec(address, 0..3),
        vec(select(&[ExtKeyUsage::ServerAuth, ExtKeyUsage::ClientAuth][..]), 0..4),
        vec(select(&[KeyType::P256, KeyType::P384, KeyType::Ed25519, KeyType::Rsa][..]), 0..5),
    )
        .prop_map(|(common_name, uri_sans, dns_sans, ip_sans, ext_key_usage, key_types)| X509Role {
            common_name,
            uri_sans,
            dns_sans,
            ip_sans,
            ext_key_usage,
            key_types,
            ..spec()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_refusal_or_a_certificate_of_the_profile(
        spec in specs(),
        x in prop_oneof!["[a-z0-9]{1,12}", "\\PC{0,12}"],
        y in "[ -~]{0,70}",
        key in 0..4_usize,
        at in 0..40 * 86_400_i64,
        ttl in -100..80 * 86_400_i64,
    ) {
        let (role, identity) = (role(spec.clone()), caller(&[("x", &x), ("y", &y)]));
        let (key_type, pair, csr) = &KEYS[key];
        let at = now() + SignedDuration::from_secs(at);
        let expires_at = Timestamp::from_second((at + SignedDuration::from_secs(ttl)).as_second()).unwrap();
        let ask = ask(&role, &identity, expires_at);
        match WORLD.issuer.issue(ask, &Input::X509 { csr_der: csr.clone() }, None, at) {
            Err(error) => prop_assert!(matches!(error.code(), Code::InvalidCsr | Code::ClaimNotUsable | Code::Internal), "{}", error),
            Ok(minted) => {
                prop_assert!(spec.key_types.contains(key_type));
                prop_assert!(minted.expires_at <= expires_at && minted.expires_at <= WORLD.authority.not_after());
                prop_assert!(minted.expires_at > at);
                let credential = x509(minted.credential);
                check(&credential.chain_der[0], &spec, pair, at, minted.expires_at)?;
            }
        }
    }
}

/// The profile once more, read by other means than the linter's.
fn check(der: &[u8], spec: &X509Role, pair: &KeyPair, at: Timestamp, expires_at: Timestamp) -> Result<(), TestCaseError> {
    let (rest, leaf) = X509Certificate::from_der(der).unwrap();
    let (_, issuing) = X509Certificate::from_der(&WORLD.authority.chain_der()[0]).unwrap();
    prop_assert!(rest.is_empty());
    prop_assert!(leaf.verify_signature(Some(issuing.public_key())).is_ok());
    prop_assert_eq!(leaf.version(), X509Version::V3);
    prop_assert!(leaf.raw_serial().len() == 20 && leaf.raw_serial()[0] < 0x80 && leaf.raw_serial()[0] > 0);
    prop_assert_eq!(leaf.issuer().as_raw(), issuing.subject().as_raw());
    prop_assert_eq!(leaf.public_key().raw, pair.subject_public_key_info());
    let (start, end) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    prop_assert_eq!(end, expires_at.as_second());
    prop_assert!(start >= at.as_second() - 30 && start <= at.as_second());
    prop_assert!(start >= issuing.validity().not_before.timestamp() && end <= issuing.validity().not_after.timestamp());
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    prop_assert!(constraints.critical && !constraints.value.ca);
    let usage = leaf.key_usage().unwrap().unwrap();
    prop_assert!(usage.critical && usage.value.digital_signature() && !usage.value.key_cert_sign() && !usage.value.crl_sign());
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    prop_assert_eq!(purposes.server_auth, spec.ext_key_usage.contains(&ExtKeyUsage::ServerAuth));
    prop_assert_eq!(purposes.client_auth, spec.ext_key_usage.contains(&ExtKeyUsage::ClientAuth));
    prop_assert!(!purposes.any && !purposes.code_signing && !purposes.email_protection && purposes.other.is_empty());
    let sans = leaf.subject_alternative_name().unwrap();
    prop_assert_eq!(leaf.subject().iter().count(), usize::from(spec.common_name.is_some()));
    let (mut uris, mut hosts, mut addresses) = (0, 0, 0);
    for name in sans.iter().flat_map(|san| &san.value.general_names) {
        match name {
            GeneralName::URI(_) => uris += 1,
            GeneralName::DNSName(_) => hosts += 1,
            GeneralName::IPAddress(_) => addresses += 1,
            other => prop_assert!(false, "a name of another kind: {:?}", other),
        }
    }
    prop_assert!(uris <= spec.uri_sans.len() && hosts <= spec.dns_sans.len() && addresses <= spec.ip_sans.len());
    prop_assert_eq!(uris == 0, spec.uri_sans.is_empty());
    prop_assert_eq!(hosts == 0, spec.dns_sans.is_empty());
    prop_assert_eq!(addresses == 0, spec.ip_sans.is_empty());
    prop_assert!(sans.is_none_or(|san| san.critical == spec.common_name.is_none()));
    prop_assert_eq!(leaf.extensions().len(), 6 + usize::from(uris + hosts + addresses > 0));
    Ok(())
}

/// A control: the generator above makes certificates of every kind, and not refusals only.
#[test]
fn a_good_share_of_roles_gets_a_certificate() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let identity = caller(&[("x", "a"), ("y", "b")]);
    let issued = (0..300)
        .filter(|_| {
            let role = role(specs().new_tree(&mut runner).unwrap().current());
            WORLD.issue(&role, &identity, &KEYS[0].2, SignedDuration::from_mins(5)).is_ok()
        })
        .count();
    assert!((30..270).contains(&issued), "{issued} of 300");
}
