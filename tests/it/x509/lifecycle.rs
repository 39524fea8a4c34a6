//! Dates, renewal, retries and CRLs.

use std::{collections::BTreeMap, sync::Arc};

use daypass::{
    issuer::x509::{Authority, CaConfig, DEFAULT_CRL_LIFE, Serial, X509Issuer},
    model::{
        SignedDuration, Timestamp,
        error::{Code, Error},
        identity::Identity,
        lease::{Handle, Lease, LeaseState, LiveSerial, MAX_LIVE_SERIALS, Reach},
        name::CaName,
        request::Input,
        revocation::RevokedSerial,
        role::{Role, X509Role},
    },
};
use rcgen::KeyPair;
use x509_parser::{certificate::X509Certificate, prelude::FromDer, revocation_list::CertificateRevocationList};

use super::{der::tbs_of, world::*};

const QUARTER: SignedDuration = SignedDuration::from_mins(15);

fn again(role: &Role, identity: &Identity, csr: &[u8], lease: &Lease, later: SignedDuration) -> Result<Vec<u8>, Error> {
    let at = now() + later;
    let expires_at = Timestamp::from_second((at + QUARTER).as_second()).unwrap();
    let input = Input::X509 { csr_der: csr.to_vec() };
    WORLD.issuer.reissue(ask(role, identity, expires_at), &input, lease, at).map(|credential| x509(credential).chain_der.remove(0))
}

#[test]
fn dates_are_as_the_lease_says() {
    let minted = WORLD.issue(&role(spec()), &job(), &fresh_csr(), QUARTER).unwrap();
    assert_eq!(minted.expires_at, Timestamp::from_second(1_800_000_900).unwrap());
    assert_eq!(minted.reach, Reach::Crl);
    let credential = x509(minted.credential);
    assert_eq!(credential.not_after, minted.expires_at);
    assert_eq!(credential.not_before, Timestamp::from_second(1_799_999_970).unwrap());
    let (_, leaf) = X509Certificate::from_der(&credential.chain_der[0]).unwrap();
    assert_eq!(leaf.validity().not_before.timestamp(), credential.not_before.as_second());
    assert_eq!(leaf.validity().not_after.timestamp(), credential.not_after.as_second());
    assert_eq!(credential.chain_der[1..], WORLD.authority.chain_der()[..]);
    assert_eq!(credential.root_der, [WORLD.authority.root_der().to_vec()]);
    let Handle::X509 { ca, serials, .. } = minted.handle else { panic!("no certificate") };
    assert_eq!(ca, *WORLD.authority.name());
    assert_eq!(
        serials,
        [LiveSerial { serial: leaf.raw_serial().iter().map(|b| format!("{b:02x}")).collect(), not_after: minted.expires_at, ca: None }]
    );
}

#[test]
fn the_issuer_cuts_a_life_and_says_so() {
    let short = World::new(now(), SignedDuration::from_mins(10));
    let minted = short.issue(&role(spec()), &job(), &fresh_csr(), QUARTER).unwrap();
    assert_eq!(minted.expires_at, short.authority.not_after());
    assert!(minted.expires_at < now() + QUARTER);
    assert_eq!(x509(minted.credential).not_after, minted.expires_at);
    let late = short.authority.not_after();
    let input = Input::X509 { csr_der: fresh_csr() };
    let (role, identity) = (role(spec()), job());
    let error = short.issuer.issue(ask(&role, &identity, late + QUARTER), &input, None, late).map(drop).unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert!(error.cause().unwrap().contains("nothing can be issued"), "{error}");
}

#[test]
fn a_leaf_begins_no_earlier_than_its_issuer() {
    let young = World::new(now() + SignedDuration::from_secs(20), DAY);
    let (start, _) = young.authority.validity(now() + SignedDuration::from_secs(1), now() + QUARTER).unwrap();
    assert_eq!(start, young.authority.not_before());
}

#[test]
fn two_certificates_never_have_one_serial() {
    let (role, csr) = (role(spec()), fresh_csr());
    let mut seen: Vec<String> = (0..200).map(|_| serials(&WORLD.issue(&role, &job(), &csr, QUARTER).unwrap().handle).remove(0)).collect();
    assert!(seen.iter().all(|serial| serial.len() == 40));
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 200);
}

fn handle(ca: &str, ends: &[i64]) -> Handle {
    let serial = |(position, end): (usize, &i64)| LiveSerial {
        serial: format!("{:032x}", position + 1),
        not_after: Timestamp::from_second(now().as_second() + end).unwrap(),
        ca: None,
    };
    Handle::X509 { ca: ca.parse().unwrap(), serials: ends.iter().enumerate().map(serial).collect(), tbs: String::new(), next_key: None }
}

fn renew(earlier: &Handle) -> Result<Handle, Error> {
    let (role, identity) = (role(spec()), job());
    let input = Input::X509 { csr_der: fresh_csr() };
    let ask = ask(&role, &identity, now() + QUARTER);
    WORLD.issuer.issue(ask, &input, Some(earlier), now()).map(|minted| minted.handle)
}

#[test]
fn a_renewal_keeps_the_serials_that_live() {
    // A certificate is valid through the whole second in which it ends.
    let renewed = serials(&renew(&handle("main", &[-60, -1, 0, 30, 60])).unwrap());
    assert_eq!(renewed[..3], [3, 4, 5].map(|n| format!("{n:032x}")));
    assert_eq!(renewed.len(), 4);
    assert!(Serial::from_hex(&renewed[3]).is_some());
}

#[test]
fn a_renewal_stops_at_the_most_serials() {
    assert_eq!(serials(&renew(&handle("main", &[60; MAX_LIVE_SERIALS - 1])).unwrap()).len(), MAX_LIVE_SERIALS);
    let error = renew(&handle("main", &[60; MAX_LIVE_SERIALS])).unwrap_err();
    assert_eq!(error.code(), Code::NotRenewable);
    assert!(error.public().contains("8 certificates live"), "{error}");
    assert!(renew(&handle("main", &[-60; MAX_LIVE_SERIALS])).is_ok());
}

#[test]
fn a_renewal_under_another_ca_keeps_the_serials_with_their_own() {
    let renewed = renew(&handle("other", &[-60, 30, 60])).unwrap();
    let Handle::X509 { ca, serials: live, .. } = &renewed else { panic!("no certificate") };
    assert_eq!(ca.as_str(), "main");
    let cas: Vec<Option<&str>> = live.iter().map(|live| live.ca.as_ref().map(CaName::as_str)).collect();
    assert_eq!(cas, [Some("other"), Some("other"), None]);
    // Back again: what another CA issued is then this one's.
    let back: Vec<LiveSerial> =
        live.iter().map(|one| LiveSerial { ca: one.ca.is_none().then(|| "main".parse().unwrap()), ..one.clone() }).collect();
    let back = Handle::X509 { ca: "other".parse().unwrap(), serials: back, tbs: String::new(), next_key: None };
    let Handle::X509 { serials: live, .. } = renew(&back).unwrap() else { panic!("no certificate") };
    let cas: Vec<Option<&str>> = live.iter().map(|live| live.ca.as_ref().map(CaName::as_str)).collect();
    assert_eq!(cas, [Some("other"), Some("other"), None, None]);
}

#[test]
fn a_retry_gets_the_same_certificate() {
    let (role, csr) = (role(spec()), fresh_csr());
    let minted = WORLD.issue(&role, &job(), &csr, QUARTER).unwrap();
    let lease = lease_of(&minted);
    // The store keeps milliseconds.
    let lease = Lease { issued_at: Timestamp::from_millisecond(lease.issued_at.as_millisecond()).unwrap(), ..lease };
    let first = x509(minted.credential).chain_der.remove(0);
    for later in [0, 1, 600, 899] {
        let second = again(&role, &job(), &csr, &lease, SignedDuration::from_secs(later)).unwrap();
        assert_eq!(tbs_of(&first), tbs_of(&second), "after {later} s");
    }
}

#[test]
fn a_retry_that_is_another_request_is_refused() {
    let pair = KeyPair::generate().unwrap();
    let (plain, csr) = (role(spec()), csr_for(&pair));
    let lease = lease_of(&WORLD.issue(&plain, &job(), &csr, QUARTER).unwrap());
    let refused = |role: &Role, identity: &Identity, csr: &[u8], lease: &Lease| {
        let error = again(role, identity, csr, lease, SignedDuration::from_secs(1)).map(drop).unwrap_err();
        assert!(error.public().contains("new request id"), "{error}");
        error.code()
    };
    assert_eq!(refused(&plain, &job(), &fresh_csr(), &lease), Code::RequestIdReused, "another key");
    let named = role(X509Role { common_name: Some(template("a")), ..spec() });
    assert_eq!(refused(&named, &job(), &csr, &lease), Code::RequestIdReused, "another role");
    assert_eq!(refused(&plain, &caller(&[("repository_id", "4712")]), &csr, &lease), Code::RequestIdReused, "another caller");
    let renewed = Lease { generation: 2, ..lease.clone() };
    assert_eq!(refused(&plain, &job(), &csr, &renewed), Code::RequestIdReused, "renewed since");
    let other_ca = Lease { handle: handle("other", &[60]), ..lease.clone() };
    assert_eq!(refused(&plain, &job(), &csr, &other_ca), Code::RequestIdReused, "another CA");
    for state in [LeaseState::Revoking, LeaseState::Revoked, LeaseState::Expired] {
        assert_eq!(refused(&plain, &job(), &csr, &Lease { state, ..lease.clone() }), Code::LeaseState);
    }
    assert_eq!(refused(&plain, &job(), &csr, &Lease { expires_at: now(), ..lease.clone() }), Code::LeaseState);
    let (identity, input) = (job(), Input::X509 { csr_der: csr });
    let shorter = ask(&plain, &identity, now() + SignedDuration::from_mins(5));
    assert_eq!(WORLD.issuer.reissue(shorter, &input, &lease, now()).map(drop).unwrap_err().code(), Code::RequestIdReused);
}

#[test]
fn a_role_of_an_unknown_ca_is_a_defect() {
    let role = role(X509Role { ca: "gone".parse().unwrap(), ..spec() });
    assert_eq!(WORLD.issue(&role, &job(), &fresh_csr(), QUARTER).map(drop).unwrap_err().code(), Code::Internal);
}

/// A key that a remote system holds, and that stops to answer.
struct Flaky {
    pair: KeyPair,
    left: std::sync::atomic::AtomicU32,
}

impl rcgen::PublicKeyData for Flaky {
    fn der_bytes(&self) -> &[u8] {
        self.pair.der_bytes()
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.pair.algorithm()
    }
}

impl rcgen::SigningKey for Flaky {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        use std::sync::atomic::Ordering;
        match self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => self.pair.sign(message),
            Err(_) => Err(rcgen::Error::RemoteKeyError),
        }
    }
}

#[test]
fn a_key_that_stops_to_answer_is_unavailable_and_gives_nothing() {
    let key = Flaky { pair: KeyPair::from_pem(&WORLD.issuing.key_pem).unwrap(), left: 2.into() };
    let config = CaConfig { key: Arc::new(key), ..config(&WORLD.root, &WORLD.issuing) };
    let authority = Arc::new(Authority::load(config, now()).unwrap());
    let issuer = X509Issuer::new(BTreeMap::from([(authority.name().clone(), authority.clone())]));
    let (role, identity, input) = (role(spec()), job(), Input::X509 { csr_der: fresh_csr() });
    let ask = ask(&role, &identity, now() + QUARTER);
    assert!(issuer.issue(ask, &input, None, now()).is_ok());
    assert_eq!(issuer.issue(ask, &input, None, now()).map(drop).unwrap_err().code(), Code::IssuerUnavailable);
    assert_eq!(authority.sign_crl(1, &[], now()).map(drop).unwrap_err().code(), Code::IssuerUnavailable);
}

fn revoked(serial: &str, at: Timestamp) -> RevokedSerial {
    RevokedSerial { serial: serial.to_owned(), revoked_at: at, not_after: now() + DAY }
}

#[test]
fn a_crl_says_what_it_should() {
    let second = SignedDuration::from_secs(1);
    let list = [
        revoked("7f01", now() - second),
        revoked("02", now() - second * 60),
        revoked("7f01", now() - second * 9),
        revoked("00aa", now() + second * 2),
    ];
    let crl = WORLD.authority.sign_crl(u64::MAX, &list, now()).unwrap();
    assert_eq!((crl.number, crl.this_update.as_second()), (u64::MAX, 1_800_000_000));
    assert_eq!(crl.next_update.duration_since(crl.this_update), DEFAULT_CRL_LIFE);
    let (rest, parsed) = CertificateRevocationList::from_der(&crl.der).unwrap();
    assert!(rest.is_empty());
    let (_, issuing) = X509Certificate::from_der(&WORLD.authority.chain_der()[0]).unwrap();
    parsed.verify_signature(issuing.public_key()).unwrap();
    assert_eq!(parsed.crl_number().unwrap().to_u64_digits(), [u64::MAX]);
    assert_eq!(parsed.last_update().timestamp(), 1_800_000_000);
    assert_eq!(parsed.next_update().unwrap().timestamp(), 1_800_003_600);
    let entries: Vec<_> = parsed
        .iter_revoked_certificates()
        .map(|entry| (entry.serial().to_u64_digits()[0], 1_800_000_000 - entry.revocation_date.timestamp()))
        .collect();
    assert_eq!(entries, [(0xaa, 0), (2, 60), (0x7f01, 9)], "each once, at its first revocation, none after the CRL");
    let oids: Vec<(String, bool)> = parsed.extensions().iter().map(|extension| (extension.oid.to_string(), extension.critical)).collect();
    let expected = [("2.5.29.35", false), ("2.5.29.20", false), ("2.5.29.28", true)];
    assert_eq!(oids, expected.map(|(oid, critical)| (oid.to_owned(), critical)));
}

#[test]
fn a_crl_of_a_serial_that_is_none_is_refused() {
    for bad in ["", "0", "XY", "AA", "-1", &"11".repeat(21)] {
        assert_eq!(WORLD.authority.sign_crl(1, &[revoked(bad, now())], now()).map(drop).unwrap_err().code(), Code::Internal, "{bad:?}");
    }
}
