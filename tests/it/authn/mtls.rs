//! Certificates that a trust domain must refuse, and the few that it takes.

use daypass::{
    authn::mtls::{ExpiredCrl, MAX_CERTIFICATE, MAX_CHAIN, MAX_COMMON_NAME, RotatingCa, TrustDomainConfig, TrustStore},
    model::{
        SignedDuration, Timestamp,
        error::{Code, Result},
        identity::{CertificateIdentity, PeerCertificate},
    },
};
use rcgen::{
    BasicConstraints, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, OtherNameValue, SanType,
    SerialNumber,
};
use rustls_pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::certs::{Authority, Client, TRUST_DOMAIN, ca_params, common_name, dns, domain, extension, leaf, moment, named, now, store, uri};

const ID: &str = "spiffe://example.org/vendor/agent";

fn check(store: &TrustStore, client: &Client) -> Result<PeerCertificate> {
    store.verify(&client.chain, now())
}

/// A refusal's code and text, and that it is one.
#[track_caller]
fn refused(store: &TrustStore, client: &Client, why: &str) {
    refused_chain(store, &client.chain, now(), Code::Unauthenticated, why);
}

#[track_caller]
fn refused_chain(store: &TrustStore, chain: &[CertificateDer<'_>], at: Timestamp, code: Code, why: &str) {
    let error = store.verify(chain, at).map(|peer| panic!("accepted as {}", peer.subject)).unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    assert!(error.public().contains(why), "expected {why:?}, got {error}");
}

fn spiffe_leaf() -> rcgen::CertificateParams {
    leaf(vec![uri(ID)])
}

#[test]
fn a_good_certificate_of_each_mapping_is_taken() {
    let ca = Authority::new("CA");
    let client = ca.leaf(&spiffe_leaf());
    let peer = check(&store(&ca, CertificateIdentity::Spiffe), &client).unwrap();
    assert_eq!((peer.id.as_str(), peer.subject.as_str(), peer.trust_domain.as_str()), (ID, ID, TRUST_DOMAIN));
    assert_eq!(peer.serial, "07");
    assert_eq!(peer.not_after.as_second(), moment(1).unix_timestamp());
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &client.chain[0]);
    assert_eq!(peer.fingerprint, hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>());

    let peer = check(&store(&ca, CertificateIdentity::Dns), &ca.leaf(&leaf(vec![dns("agent-1.vendor.example")]))).unwrap();
    assert_eq!((peer.id.as_str(), peer.subject.as_str()), ("agent-1.vendor.example", "dns:example.org/agent-1.vendor.example"));

    let peer = check(&store(&ca, CertificateIdentity::Cn), &ca.leaf(&named("Vendor Agent 1"))).unwrap();
    assert_eq!((peer.id.as_str(), peer.subject.as_str()), ("Vendor Agent 1", "cn:example.org/Vendor Agent 1"));
}

#[test]
fn intermediates_are_followed() {
    let root = Authority::new("root");
    let middle = root.below(ca_params("middle"));
    let low = middle.below(ca_params("low"));
    let store = store(&root, CertificateIdentity::Spiffe);
    let client = low.leaf(&spiffe_leaf());
    assert_eq!(client.chain.len(), 3);
    check(&store, &client).unwrap();
    // In any order, but not with one missing.
    store.verify(&[client.chain[0].clone(), client.chain[2].clone(), client.chain[1].clone()], now()).unwrap();
    refused_chain(&store, &client.chain[..2], now(), Code::Unauthenticated, "not issued by the CA");
    refused_chain(&store, &client.chain[..1], now(), Code::Unauthenticated, "not issued by the CA");
}

#[test]
fn the_same_name_serial_and_key_id_with_another_key_is_nobody() {
    let ca = Authority::new("CA");
    let store = store(&ca, CertificateIdentity::Cn);
    let mut params = named("vendor");
    params.key_identifier_method = KeyIdMethod::PreSpecified(vec![1; 20]);
    check(&store, &ca.leaf(&params)).unwrap();

    // The attacker's CA has the real one's name, serial and key id, and its leaf the real leaf's.
    let mut twin = ca_params("CA");
    twin.serial_number = Some(SerialNumber::from_slice(X509Certificate::from_der(ca.certificate.der()).unwrap().1.raw_serial()));
    twin.key_identifier_method = KeyIdMethod::PreSpecified(ca_params("CA").key_identifier(&ca.key));
    let twin = Authority::root(twin);
    let forged = twin.leaf(&params);
    refused(&store, &forged, "not issued by the CA");
    refused_chain(&store, &[forged.chain[0].clone(), twin.certificate.der().clone()], now(), Code::Unauthenticated, "not issued by the CA");
    refused_chain(&store, &[forged.chain[0].clone(), ca.certificate.der().clone()], now(), Code::Unauthenticated, "not issued by the CA");

    let key = KeyPair::generate().unwrap();
    let alone = params.self_signed(&key).unwrap();
    refused_chain(&store, &[alone.der().clone()], now(), Code::Unauthenticated, "not issued by the CA");
}

#[test]
fn a_sibling_ca_under_the_same_root_does_not_count() {
    let root = Authority::new("root");
    let (ours, sibling) = (root.below(ca_params("ours")), root.below(ca_params("sibling")));
    let store = store(&ours, CertificateIdentity::Spiffe);
    check(&store, &ours.leaf(&spiffe_leaf())).unwrap();
    let client = sibling.leaf(&spiffe_leaf());
    refused(&store, &client, "not issued by the CA");
    let with_root = [client.chain.clone(), vec![root.certificate.der().clone(), ours.certificate.der().clone()]].concat();
    refused_chain(&store, &with_root, now(), Code::Unauthenticated, "not issued by the CA");
}

#[test]
fn an_identity_of_another_trust_domain_is_refused_both_ways() {
    let (a, b) = (Authority::new("A"), Authority::new("B"));
    let store =
        TrustStore::new(vec![domain("a.example", &a, CertificateIdentity::Spiffe), domain("b.example", &b, CertificateIdentity::Spiffe)])
            .unwrap();
    assert_eq!(check(&store, &a.leaf(&leaf(vec![uri("spiffe://a.example/x")]))).unwrap().trust_domain.as_str(), "a.example");
    assert_eq!(check(&store, &b.leaf(&leaf(vec![uri("spiffe://b.example/x")]))).unwrap().trust_domain.as_str(), "b.example");
    refused(&store, &a.leaf(&leaf(vec![uri("spiffe://b.example/x")])), "not of the trust domain a.example");
    refused(&store, &b.leaf(&leaf(vec![uri("spiffe://a.example/x")])), "not of the trust domain b.example");
    // One name under two CAs is two callers.
    let named_store =
        TrustStore::new(vec![domain("a.example", &a, CertificateIdentity::Cn), domain("b.example", &b, CertificateIdentity::Cn)]).unwrap();
    let [one, two] = [&a, &b].map(|ca| check(&named_store, &ca.leaf(&named("x"))).unwrap());
    assert_ne!(one.subject, two.subject);
    assert_ne!(one.trust_domain, two.trust_domain);
}

#[test]
fn a_chain_into_two_trust_domains_is_refused() {
    let root = Authority::new("root");
    let middle = root.below(ca_params("middle"));
    let store =
        TrustStore::new(vec![domain("a.example", &root, CertificateIdentity::Cn), domain("b.example", &middle, CertificateIdentity::Cn)])
            .unwrap();
    refused(&store, &middle.leaf(&named("x")), "more than one trust domain");
    check(&store, &root.leaf(&named("x"))).unwrap();
}

#[test]
fn validity_is_of_the_whole_chain_and_of_the_given_time() {
    let root = Authority::new("root");
    let store = store(&root, CertificateIdentity::Spiffe);
    let client = root.leaf(&spiffe_leaf());
    let day = SignedDuration::from_hours(24);
    check(&store, &client).unwrap();
    refused_chain(&store, &client.chain, now() + day + SignedDuration::from_secs(1), Code::Unauthenticated, "has expired");
    refused_chain(&store, &client.chain, now() - day - SignedDuration::from_secs(1), Code::Unauthenticated, "not valid yet");

    for (from, to, why) in [(-9, -2, "has expired"), (2, 9, "not valid yet")] {
        let mut params = ca_params("middle");
        (params.not_before, params.not_after) = (moment(from), moment(to));
        refused(&store, &root.below(params).leaf(&spiffe_leaf()), why);
    }
    refused_chain(&store, &client.chain, Timestamp::from_second(-1).unwrap(), Code::Unauthenticated, "not valid yet");
}

#[test]
fn a_leaf_must_be_for_clients_and_for_signing() {
    let ca = Authority::new("CA");
    let store = store(&ca, CertificateIdentity::Spiffe);
    let with = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
        let mut params = spiffe_leaf();
        change(&mut params);
        ca.leaf(&params)
    };
    refused(&store, &with(&|params| params.extended_key_usages.clear()), "clientAuth");
    refused(&store, &with(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]), "clientAuth");
    refused(&store, &with(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]), "clientAuth");
    refused(
        &store,
        &with(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning, ExtendedKeyUsagePurpose::OcspSigning]),
        "clientAuth",
    );
    check(
        &store,
        &with(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]),
    )
    .unwrap();
    refused(&store, &with(&|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]), "digitalSignature");
    refused(&store, &with(&|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign)), "CA's");
    refused(&store, &with(&|params| params.key_usages.push(KeyUsagePurpose::CrlSign)), "CA's");
    check(&store, &with(&|params| params.key_usages.clear())).unwrap();
    // An intermediate that is for servers only vouches for no client.
    let mut servers = ca_params("servers");
    servers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    refused(&store, &ca.below(servers).leaf(&spiffe_leaf()), "clientAuth");
}

#[test]
fn a_ca_is_no_client() {
    let ca = Authority::new("CA");
    let store = store(&ca, CertificateIdentity::Spiffe);
    let mut params = spiffe_leaf();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    refused(&store, &ca.leaf(&params), "does not verify");
    params.is_ca = IsCa::ExplicitNoCa;
    check(&store, &ca.leaf(&params)).unwrap();
    // The CA itself, and a leaf over the CA's own key.
    refused_chain(&store, &[ca.certificate.der().clone()], now(), Code::Unauthenticated, "client certificate");
    let own_key = KeyPair::from_pem(&ca.key.serialize_pem()).unwrap();
    refused(&store, &ca.leaf_with_key(&spiffe_leaf(), &own_key), "the CA's own");
    // A root that is also, by its extensions, a client.
    let mut both = ca_params("both");
    both.subject_alt_names = vec![uri(ID)];
    both.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    both.key_usages.push(KeyUsagePurpose::DigitalSignature);
    let both = Authority::root(both);
    refused_chain(
        &self::store(&both, CertificateIdentity::Spiffe),
        &[both.certificate.der().clone()],
        now(),
        Code::Unauthenticated,
        "does not verify",
    );
}

#[test]
fn a_leaf_vouches_for_nobody() {
    let ca = Authority::new("CA");
    let store = store(&ca, CertificateIdentity::Spiffe);
    let params = spiffe_leaf();
    let key = KeyPair::generate().unwrap();
    let middleman = ca.leaf_with_key(&params, &key);
    let forged = spiffe_leaf().signed_by(&KeyPair::generate().unwrap(), &rcgen::Issuer::from_params(&params, &key)).unwrap();
    let chain = [forged.der().clone(), middleman.chain[0].clone()];
    assert!(store.verify(&chain, now()).is_err());
    // Nor a CA past its path length.
    let mut constrained = ca_params("constrained");
    constrained.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let constrained = ca.below(constrained);
    check(&store, &constrained.leaf(&spiffe_leaf())).unwrap();
    assert!(check(&store, &constrained.below(ca_params("below")).leaf(&spiffe_leaf())).is_err());
}

#[test]
fn what_is_no_chain_is_refused() {
    let ca = Authority::new("CA");
    let store = store(&ca, CertificateIdentity::Spiffe);
    let client = ca.leaf(&spiffe_leaf());
    refused_chain(&store, &[], now(), Code::Unauthenticated, "no certificate");
    for bytes in [
        Vec::new(),
        vec![0],
        vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
        client.chain[0][..100].to_vec(),
        [&client.chain[0][..], &[0]].concat(),
    ] {
        refused_chain(&store, &[CertificateDer::from(bytes)], now(), Code::Unauthenticated, "client certificate");
    }
    refused_chain(&store, &vec![client.chain[0].clone(); MAX_CHAIN + 1], now(), Code::Unauthenticated, "more than");
    let mut large = spiffe_leaf();
    large.custom_extensions = vec![extension(&[1, 3, 6, 1, 4, 1, 99999, 1], &[0; MAX_CERTIFICATE], false)];
    refused(&store, &ca.leaf(&large), "longer than");
    let mut critical = spiffe_leaf();
    critical.custom_extensions = vec![extension(&[1, 3, 6, 1, 4, 1, 99999, 1], &[5, 0], true)];
    refused(&store, &ca.leaf(&critical), "does not verify");
    let mut twice = spiffe_leaf();
    twice.custom_extensions = vec![extension(&[2, 5, 29, 17], &[0x30, 0x04, 0x86, 0x02, b'a', b':'], false)];
    refused(&store, &ca.leaf(&twice), "client certificate");
    // A flipped bit anywhere in the signed part or the signature.
    for at in (8..client.chain[0].len()).step_by(37) {
        let mut bytes = client.chain[0].to_vec();
        bytes[at] ^= 1;
        assert!(store.verify(&[CertificateDer::from(bytes)], now()).is_err(), "byte {at}");
    }
}

fn with_crls(ca: &Authority, crls: Vec<Vec<u8>>, required: bool) -> TrustDomainConfig {
    TrustDomainConfig::new(TRUST_DOMAIN.parse().unwrap(), ca.pem().into_bytes(), crls, required, CertificateIdentity::Spiffe)
}

fn trusting(config: TrustDomainConfig) -> TrustStore {
    TrustStore::new(vec![config]).unwrap()
}

fn pem(der: &[u8]) -> Vec<u8> {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN X509 CRL-----\n{}\n-----END X509 CRL-----\n", lines.join("\n")).into_bytes()
}

/// Under a root that stays, and without a CRL that could say so.
#[test]
fn what_is_under_an_authority_of_ours_that_is_gone_is_refused() {
    let root = Authority::new("root");
    let [gone, living, foreign] = ["issuing-1", "issuing-2", "issuing-two"].map(|name| root.below(ca_params(name)));
    let knowing = |name: &str, authorities: &[&Authority]| {
        let authorities = authorities.iter().map(|authority| authority.certificate.der().to_vec()).collect();
        let rotating = vec![RotatingCa { name: name.parse().unwrap(), authorities }];
        trusting(TrustDomainConfig { rotating, ..with_crls(&root, Vec::new(), false) })
    };
    let [old, new, other] = [&gone, &living, &foreign].map(|authority| authority.leaf(&spiffe_leaf()));
    check(&knowing("issuing", &[&gone, &living]), &old).unwrap();
    let store = knowing("issuing", &[&living]);
    refused(&store, &old, "its issuer issuing-1 is no authority of this service, or none any more");
    check(&store, &new).unwrap();
    check(&store, &other).unwrap(); // its name is none of ours
    refused(&knowing("issuing", &[]), &new, "issuing-2 is no authority of this service");
    check(&knowing("other", &[]), &old).unwrap();
    // Nor does the name of a living one help.
    let mut namesake = ca_params("issuing-2");
    namesake.distinguished_name.push(DnType::OrganizationName, "Other");
    refused(&store, &root.below(namesake).leaf(&spiffe_leaf()), "issuing-2 is no authority of this service");
}

#[test]
fn a_revoked_leaf_or_intermediate_is_refused() {
    let root = Authority::new("root");
    let mut params = ca_params("middle");
    params.serial_number = Some(SerialNumber::from_slice(&[9]));
    let middle = root.below(params);
    let (direct, below) = (root.leaf(&spiffe_leaf()), middle.leaf(&spiffe_leaf()));

    let none = trusting(with_crls(&root, vec![root.crl(&[1]), middle.crl(&[1])], true));
    check(&none, &direct).unwrap();
    check(&none, &below).unwrap();
    for form in [root.crl(&[7]), pem(&root.crl(&[7]))] {
        let leaf = trusting(with_crls(&root, vec![form], false));
        refused_chain(&leaf, &direct.chain, now(), Code::CertificateRevoked, "revoked");
        check(&leaf, &below).unwrap(); // serial 7 of another issuer
    }
    let below_revoked = trusting(with_crls(&root, vec![root.crl(&[]), middle.crl(&[7])], true));
    refused_chain(&below_revoked, &below.chain, now(), Code::CertificateRevoked, "revoked");
    check(&below_revoked, &direct).unwrap();
    let intermediate = trusting(with_crls(&root, vec![root.crl(&[9])], false));
    refused_chain(&intermediate, &below.chain, now(), Code::CertificateRevoked, "revoked");
    check(&intermediate, &direct).unwrap();
    // Two in one PEM file.
    let both = trusting(with_crls(&root, vec![[pem(&root.crl(&[])), pem(&middle.crl(&[7]))].concat()], true));
    refused_chain(&both, &below.chain, now(), Code::CertificateRevoked, "revoked");
}

#[test]
fn where_crls_are_required_each_issuer_needs_one() {
    let root = Authority::new("root");
    let middle = root.below(ca_params("middle"));
    let (direct, below) = (root.leaf(&spiffe_leaf()), middle.leaf(&spiffe_leaf()));
    for crls in [vec![root.crl(&[])], vec![middle.crl(&[])]] {
        refused(&trusting(with_crls(&root, crls.clone(), true)), &below, "revocation list is not here");
        check(&trusting(with_crls(&root, crls, false)), &below).unwrap();
    }
    refused(&trusting(with_crls(&root, vec![middle.crl(&[])], true)), &direct, "revocation list is not here");
    let faults = TrustStore::new(vec![with_crls(&root, Vec::new(), true)]).unwrap_err();
    assert!(faults[0].contains("requires CRLs and has none"), "{faults:?}");
}

#[test]
fn an_expired_crl_is_refused_or_tolerated_by_policy() {
    let root = Authority::new("root");
    let client = root.leaf(&spiffe_leaf());
    let expired = |serials: &[u8]| vec![root.crl_at(serials, -9, -1)];
    refused(&trusting(with_crls(&root, expired(&[]), true)), &client, "revocation list has expired");
    check(&trusting(with_crls(&root, expired(&[]), false)), &client).unwrap();
    // Tolerated or not, it still says who is revoked.
    refused_chain(&trusting(with_crls(&root, expired(&[7]), false)), &client.chain, now(), Code::CertificateRevoked, "revoked");
    let mut other = with_crls(&root, expired(&[]), true);
    other.expired_crl = ExpiredCrl::Tolerate;
    check(&trusting(other), &client).unwrap();
    let mut other = with_crls(&root, expired(&[]), false);
    other.expired_crl = ExpiredCrl::Refuse;
    refused(&trusting(other), &client, "revocation list has expired");
}

#[test]
fn of_two_crls_the_newer_counts_in_whatever_order_they_stand() {
    let root = Authority::new("root");
    let client = root.leaf(&spiffe_leaf());
    let (old, new) = (root.crl_at(&[], -5, 10), root.crl_at(&[7], -1, 10));
    for crls in [vec![old.clone(), new.clone()], vec![new, old]] {
        refused_chain(&trusting(with_crls(&root, crls, true)), &client.chain, now(), Code::CertificateRevoked, "revoked");
    }
}

#[test]
fn a_crl_that_its_issuer_did_not_sign_admits_nobody() {
    let (root, twin) = (Authority::new("root"), Authority::new("root"));
    let client = root.leaf(&spiffe_leaf());
    for required in [true, false] {
        refused(&trusting(with_crls(&root, vec![twin.crl(&[])], required)), &client, "cannot be checked for revocation");
    }
    // An intermediate that may not sign CRLs has signed one all the same. (rcgen refuses to; so it is signed with the
    // intermediate's name and key, and another key usage.)
    let mut unable = ca_params("unable");
    unable.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let unable = root.below(unable);
    let signer = rcgen::Issuer::new(ca_params("unable"), KeyPair::from_pem(&unable.key.serialize_pem()).unwrap());
    let params = rcgen::CertificateRevocationListParams {
        this_update: moment(-1),
        next_update: moment(9),
        crl_number: SerialNumber::from_slice(&[1]),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let crl = params.signed_by(&signer).unwrap().der().to_vec();
    let below = unable.leaf(&spiffe_leaf());
    check(&trusting(with_crls(&root, vec![root.crl(&[])], false)), &below).unwrap();
    refused(&trusting(with_crls(&root, vec![root.crl(&[]), crl], true)), &below, "cannot be checked for revocation");
}

#[test]
fn a_spiffe_identity_is_exactly_one_uri_of_the_trust_domain() {
    let ca = Authority::new("CA");
    let store = store(&ca, CertificateIdentity::Spiffe);
    let refuse = |sans: Vec<SanType>, why: &str| refused(&store, &ca.leaf(&leaf(sans)), why);
    // Beside the one URI any other type may stand (X.509-SVID section 2).
    check(&store, &ca.leaf(&leaf(vec![dns("a.example"), uri(ID), SanType::IpAddress("10.0.0.1".parse().unwrap())]))).unwrap();
    refuse(vec![dns("example.org")], "exactly one URI");
    refuse(vec![SanType::Rfc822Name("a@example.org".try_into().unwrap())], "exactly one URI");
    refuse(vec![SanType::IpAddress("10.0.0.1".parse().unwrap())], "exactly one URI");
    refuse(vec![SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], OtherNameValue::Utf8String(ID.into())))], "exactly one URI");
    refuse(vec![uri(ID), uri(ID)], "exactly one URI");
    refuse(vec![uri(ID), uri("spiffe://example.org/other")], "exactly one URI");
    refuse(vec![uri(ID), uri("https://example.org")], "exactly one URI");
    refuse(vec![uri("spiffe://other.example/a")], "not of the trust domain");
    refuse(vec![uri("spiffe://sub.example.org/a")], "not of the trust domain");
    refuse(vec![uri("spiffe://example.org.attacker.example/a")], "not of the trust domain");
    refuse(vec![uri("spiffe://example.org")], "no workload");
    for bad in [
        "https://example.org/a",
        "SPIFFE://example.org/a",
        "spiffe://EXAMPLE.org/a",
        "spiffe://example.org:1/a",
        "spiffe://u@example.org/a",
        "spiffe://example.org/a/",
        "spiffe://example.org//a",
        "spiffe://example.org/../a",
        "spiffe://example.org/a?b",
        "spiffe://example.org/a#b",
        "spiffe://example.org/%61",
        "urn:uuid:1",
    ] {
        refuse(vec![uri(bad)], "no SPIFFE ID");
    }
    refuse(vec![uri(&format!("spiffe://example.org/{}", "a".repeat(2100)))], "longer than 2048");
    refuse(vec![uri(&format!("spiffe://example.org/{}", "a".repeat(600)))], "no subject");
    // No subject alternative name at all, whatever the common name says.
    let mut params = leaf(Vec::new());
    params.distinguished_name = common_name(ID);
    refused(&store, &ca.leaf(&params), "exactly one URI");
}

#[test]
fn a_dns_identity_is_exactly_one_name_in_its_one_form() {
    let ca = Authority::new("CA");
    let store = store(&ca, CertificateIdentity::Dns);
    let refuse = |sans: Vec<SanType>, why: &str| refused(&store, &ca.leaf(&leaf(sans)), why);
    check(&store, &ca.leaf(&leaf(vec![uri(ID), dns("a.example")]))).unwrap();
    refuse(vec![uri(ID)], "exactly one DNS");
    refuse(vec![dns("a.example"), dns("b.example")], "exactly one DNS");
    refuse(vec![dns("a.example"), dns("a.example")], "exactly one DNS");
    let label = "a".repeat(64);
    let long = ["a"; 127].join(".") + ".bb";
    for bad in [
        "*.example.org",
        "*",
        "A.example",
        "a.Example",
        "a.example.",
        ".a.example",
        "a..example",
        "-a.example",
        "a-.example",
        "a_b.example",
        "a b.example",
        "a.example/x",
        "10.0.0.1",
        "a.1",
        "",
        "::1",
        "a:443",
        &label,
        &long,
    ] {
        // path validation itself refuses some of them
        refuse(vec![dns(bad)], "client certificate");
    }
    let mut params = leaf(Vec::new());
    params.distinguished_name = common_name("a.example");
    refused(&store, &ca.leaf(&params), "exactly one DNS");
}

#[test]
fn a_common_name_is_exactly_one_in_printable_ascii() {
    let ca = Authority::new("CA");
    let store = store(&ca, CertificateIdentity::Cn);
    let longest = "a".repeat(MAX_COMMON_NAME);
    for good in ["a", "A", "a b", "vendor/1", "a@example.org", &longest] {
        assert_eq!(check(&store, &ca.leaf(&named(good))).unwrap().id, good);
    }
    let longer = "a".repeat(MAX_COMMON_NAME + 1);
    for bad in ["", " a", "a ", "a  b", "ä", "a\u{0}b", "a\nb", "a\u{200b}b", "\u{430}", &longer] {
        refused(&store, &ca.leaf(&named(bad)), "common name");
    }
    for value in [
        DnValue::BmpString("vendor".try_into().unwrap()),
        DnValue::TeletexString("vendor".try_into().unwrap()),
        DnValue::UniversalString("vendor".try_into().unwrap()),
        DnValue::Ia5String("vendor".try_into().unwrap()),
    ] {
        refused(&store, &ca.leaf(&named(value)), "neither a UTF8String nor a PrintableString");
    }
    assert_eq!(check(&store, &ca.leaf(&named(DnValue::PrintableString("vendor".try_into().unwrap())))).unwrap().id, "vendor");
    let mut without = leaf(vec![dns("a.example")]);
    without.distinguished_name.push(DnType::OrganizationName, "vendor");
    refused(&store, &ca.leaf(&without), "exactly one common name");
}

const CLIENT: &str = "extendedKeyUsage=clientAuth\nkeyUsage=digitalSignature\n";

/// Looks at a certificate of openssl's a minute after it was made.
fn check_fresh(store: &TrustStore, client: &Client) -> Result<PeerCertificate> {
    let (_, parsed) = X509Certificate::from_der(&client.chain[0]).unwrap();
    store.verify(&client.chain, Timestamp::from_second(parsed.validity().not_before.timestamp() + 60).unwrap())
}

#[test]
fn certificates_of_openssl_are_read_alike() {
    let ca = Authority::new("CA");
    let [spiffe, dns, cn] =
        [CertificateIdentity::Spiffe, CertificateIdentity::Dns, CertificateIdentity::Cn].map(|mapping| store(&ca, mapping));
    let good = ca.openssl_leaf("/O=Vendor/CN=agent", &format!("{CLIENT}subjectAltName=URI:{ID},DNS:agent.example"), &[]);
    let peer = check_fresh(&spiffe, &good).unwrap();
    assert_eq!((peer.id.as_str(), peer.serial.as_str()), (ID, "4d"));
    assert_eq!(check_fresh(&dns, &good).unwrap().id, "agent.example");
    assert_eq!(check_fresh(&cn, &good).unwrap().id, "agent");

    let refuse = |store: &TrustStore, subject: &str, extensions: &str, more: &[&str], why: &str| {
        let error =
            check_fresh(store, &ca.openssl_leaf(subject, extensions, more)).map(|peer| panic!("accepted as {}", peer.subject)).unwrap_err();
        assert!(error.public().contains(why), "expected {why:?}, got {error}");
    };
    refuse(&cn, "/CN=agent/CN=operator", CLIENT, &[], "exactly one common name");
    refuse(&cn, "/CN=agent/O=x/CN=agent", CLIENT, &[], "exactly one common name");
    refuse(&cn, "/CN=agent+CN=operator", CLIENT, &[], "exactly one common name");
    refuse(&cn, "/O=agent", CLIENT, &[], "exactly one common name");
    refuse(&cn, "/CN=agent", "keyUsage=digitalSignature", &[], "clientAuth");
    refuse(&cn, "/CN=agent", &format!("{CLIENT}basicConstraints=critical,CA:TRUE"), &[], "does not verify");
    refuse(&cn, "/CN=agent", CLIENT, &["-sha1"], "does not verify");
    refuse(&cn, "/CN=agent", &format!("{CLIENT}1.2.3.4=critical,DER:0500"), &[], "does not verify");
    for san in
        ["dirName:dir", "RID:1.2.3.4", "email:a@example.org", "IP:10.0.0.1", "otherName:1.2.3.4;UTF8:spiffe://example.org/vendor/agent"]
    {
        let section = format!("{CLIENT}subjectAltName={san}\n[dir]\nCN={ID}\n");
        refuse(&spiffe, "/CN=agent", &section, &[], "exactly one URI");
        refuse(&dns, "/CN=agent", &section, &[], "exactly one DNS");
    }
    refuse(&spiffe, "/CN=agent", &format!("{CLIENT}subjectAltName=URI:{ID},URI:{ID}/x"), &[], "exactly one URI");
    refuse(&spiffe, "/CN=agent", &format!("{CLIENT}subjectAltName=DER:30028600"), &[], "SPIFFE");
    refuse(&spiffe, "/CN=agent", &format!("{CLIENT}subjectAltName=DER:3000"), &[], "client certificate");
    refuse(&spiffe, "/CN=agent", &format!("{CLIENT}subjectAltName=DER:300486023aff"), &[], "client certificate");
}

#[test]
fn faults_of_a_store_come_all_at_once() {
    let (a, b) = (Authority::new("A"), Authority::new("B"));
    let sound = domain("a.example", &a, CertificateIdentity::Cn);
    let with = |name: &str, change: &dyn Fn(&mut TrustDomainConfig)| {
        let mut config = domain(name, &b, CertificateIdentity::Cn);
        change(&mut config);
        config
    };
    let leaf_pem = {
        let client = b.leaf(&spiffe_leaf());
        let text = String::from_utf8(pem(&client.chain[0])).unwrap().replace("X509 CRL", "CERTIFICATE");
        text.into_bytes()
    };
    let faults = TrustStore::new(vec![
        sound.clone(),
        sound,
        with("b.example", &|config| config.ca_pem = a.pem().into_bytes()),
        with("c.example", &|config| config.ca_pem.clear()),
        with("d.example", &|config| config.ca_pem = b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n".to_vec()),
        with("e.example", &|config| config.ca_pem = leaf_pem.clone()),
        with("f.example", &|config| config.crls = vec![b"x".to_vec()]),
        with("g.example", &|config| config.crls = vec![b"-----BEGIN X509 CRL-----\n!\n-----END X509 CRL-----\n".to_vec()]),
        with("h.example", &|config| config.crls = vec![[b.crl(&[]), vec![0]].concat()]),
        with("i.example", &|config| config.crl_required = true),
    ])
    .unwrap_err();
    for (name, why) in [
        ("a.example", "configured twice"),
        ("b.example", "shares a CA with a.example"),
        ("c.example", "no certificate"),
        ("d.example", "not PEM"),
        ("e.example", "not a CA's"),
        ("f.example", "CRL does not parse"),
        ("g.example", "CRL is not PEM"),
        ("h.example", "something follows a CRL"),
        ("i.example", "requires CRLs"),
    ] {
        assert!(faults.iter().any(|fault| fault.contains(name) && fault.contains(why)), "{name}: {why}: {faults:#?}");
    }
    // No trust domain at all is sound: callers then come with tokens only.
    let none = TrustStore::new(Vec::new()).unwrap();
    refused(&none, &a.leaf(&named("x")), "not issued by the CA");
}
