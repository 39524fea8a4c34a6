//! An identity on disk: whole, closed to others, and found again.

use std::{
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use rcgen::{CertificateParams, KeyPair, SerialNumber};

use tokio::sync::{Notify, watch};

use super::*;
use crate::{
    client::{
        settings::Roots,
        types::{CredentialKind, LeaseState, Reach, Revocation, RotationWindow},
    },
    clock::Clock,
};

fn lease(generation: u32) -> Lease {
    let at = |second| Timestamp::from_second(second).unwrap();
    Lease {
        id: "0192f0c1-7b5a-7000-8000-000000000000".to_owned(),
        role: "agent".to_owned(),
        kind: CredentialKind::X509,
        tenant: "acme".to_owned(),
        subject: "spiffe://dev/agent/acme/a".to_owned(),
        state: LeaseState::Active,
        issued_at: at(1_000),
        expires_at: at(5_000),
        renewable: true,
        revocation: Revocation { reach: Reach::Crl, live_until: at(5_000) },
        generation,
        renew_until: Some(at(90_000)),
        revoked_at: None,
        serial: "40".repeat(20),
        credential_id: "40".repeat(20),
        rotation: Some(RotationWindow { start: at(3_000), end: at(3_300) }),
        acknowledged_generation: 0,
        enrolled: true,
    }
}

fn identity(generation: u32) -> Identity {
    let (key, csr) = csr::make().unwrap();
    identity_for(generation, &key, &csr)
}

fn identity_for(generation: u32, key: &PrivateKey, csr: &Csr) -> Identity {
    let pair = KeyPair::from_pem(key.pem()).unwrap();
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&[0x40; 20]));
    let der = params.self_signed(&pair).unwrap().der().to_vec();
    let (not_before, not_after) = (Timestamp::from_second(1_000).unwrap(), Timestamp::from_second(5_000).unwrap());
    let credential = Credential::X509(X509Credential { chain_der: vec![der.clone()], root_der: vec![der], not_before, not_after });
    Identity::new(Issued { lease: lease(generation), credential }, key, csr).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_stored_is_found_again_and_closed_to_others() {
    let temp = tempfile::tempdir().unwrap();
    let dir = IdentityDir::open(&temp.path().join("state")).unwrap();
    assert!(!dir.is_filled());
    assert_eq!(dir.load().map(drop).unwrap_err().code(), "NO_IDENTITY");
    let first = identity(1);
    dir.store(&first).unwrap();
    let found = dir.load().unwrap();
    assert_eq!(found.kept, first.kept);
    assert!(found.kept.acknowledged, "the first one supersedes none");
    assert_eq!((&found.chain_der, &*found.key_pem), (&first.chain_der, &*first.key_pem));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&temp.path().join("state")), 0o700);
    assert_eq!(mode(&dir.path()), 0o700);
    for name in [KEY, CERTIFICATE, CA, LEASE] {
        assert_eq!(mode(&dir.path().join(name)), 0o600, "{name}");
    }
    assert!(!fs::read_to_string(dir.path().join(LEASE)).unwrap().contains("PRIVATE"));
}

#[test]
fn the_next_one_takes_the_place_of_the_one_before_as_a_whole() {
    let temp = tempfile::tempdir().unwrap();
    let dir = IdentityDir::open(temp.path()).unwrap();
    dir.store(&identity(1)).unwrap();
    let before = fs::read_link(dir.path()).unwrap();
    let next = identity(2);
    dir.store(&next).unwrap();
    assert_ne!(fs::read_link(dir.path()).unwrap(), before);
    let found = dir.load().unwrap();
    assert_eq!((found.kept.generation, found.kept.acknowledged), (2, false));
    assert_eq!(*found.key_pem, *next.key_pem);
    assert_eq!(names(temp.path()).len(), 2, "the link and what it leads to: {:?}", names(temp.path()));
}

#[test]
fn what_cannot_be_written_leaves_the_one_before() {
    let temp = tempfile::tempdir().unwrap();
    let dir = IdentityDir::open(temp.path()).unwrap();
    dir.store(&identity(1)).unwrap();
    // A directory where the link stands cannot be replaced by one.
    fs::remove_file(dir.path()).unwrap();
    fs::create_dir(dir.path()).unwrap();
    fs::write(dir.path().join("x"), "").unwrap();
    assert_eq!(dir.store(&identity(2)).unwrap_err().code(), "FILE");
    let left = names(temp.path());
    assert!(left.iter().all(|name| !name.starts_with('.')), "nothing half-made remains: {left:?}");
}

#[test]
fn what_is_in_force_stays_though_it_could_not_be_synced() {
    let temp = tempfile::tempdir().unwrap();
    let dir = IdentityDir::open(temp.path()).unwrap();
    dir.store(&identity(1)).unwrap();
    let name = fs::read_link(dir.path()).unwrap();
    dir.remove_unless_in_force(name.to_str().unwrap());
    assert_eq!(dir.load().unwrap().kept.generation, 1);
    fs::create_dir(temp.path().join("identity.half")).unwrap();
    dir.remove_unless_in_force("identity.half");
    assert!(!temp.path().join("identity.half").exists());
}

#[test]
fn one_of_another_enrolment_is_not_replaced_by_a_renewal_of_the_one_before() {
    let temp = tempfile::tempdir().unwrap();
    let dir = IdentityDir::open(temp.path()).unwrap();
    let first = identity(1);
    dir.store(&first).unwrap();
    dir.replace(&first, &identity(2)).unwrap();
    assert_eq!(dir.load().unwrap().kept.generation, 2);
    // Somebody takes it away, to enrol the agent anew.
    fs::remove_file(dir.path()).unwrap();
    assert_eq!(dir.replace(&first, &identity(3)).unwrap_err().code(), "IDENTITY_REPLACED");
    assert!(!dir.is_filled());
    let mut another = identity(1);
    another.kept.lease_id = "0192f0c1-7b5a-7000-8000-000000000001".to_owned();
    dir.store(&another).unwrap();
    let before = names(temp.path());
    assert_eq!(dir.replace(&first, &identity(3)).unwrap_err().code(), "IDENTITY_REPLACED");
    assert_eq!((dir.load().unwrap().kept, names(temp.path())), (another.kept.clone(), before));
    // What nobody can use is not somebody's.
    fs::write(dir.path().join(LEASE), "{").unwrap();
    dir.replace(&first, &identity(3)).unwrap();
    assert_eq!(dir.load().unwrap().kept.generation, 3);
}

#[test]
fn others_may_not_write_where_it_lies() {
    let temp = tempfile::tempdir().unwrap();
    let open = temp.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(IdentityDir::open(&open).unwrap_err().kind(), Kind::Usage);
    // Only root can give one away; who has it could put a key of their own there.
    if rustix::process::geteuid().is_root() {
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(&open, Some(4_000_001), None).unwrap();
        assert_eq!(IdentityDir::open(&open).unwrap_err().kind(), Kind::Usage);
    }
}

#[test]
fn a_key_that_is_being_asked_for_is_the_same_after_a_crash() {
    let temp = tempfile::tempdir().unwrap();
    let dir = IdentityDir::open(temp.path()).unwrap();
    let (first, first_csr) = dir.pending().unwrap();
    let (again, again_csr) = dir.pending().unwrap();
    assert_eq!(first.pem(), again.pem());
    // Each request is signed anew, for the same key.
    let identity = identity_for(1, &first, &again_csr);
    assert!(first_csr.serial_of(&identity.chain_der[0]).is_ok());
    let path = temp.path().join(PENDING);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    fs::write(&path, "nonsense").unwrap();
    assert_eq!(dir.pending().map(drop).unwrap_err().code(), "KEY");
}

#[test]
fn a_key_that_was_asked_for_does_not_outlast_the_identity_that_it_is_for() {
    let temp = tempfile::tempdir().unwrap();
    let dir = IdentityDir::open(temp.path()).unwrap();
    let (first, _) = dir.pending().unwrap();
    // A crash right after the first identity was put in force, then its renewal, then its end.
    fs::copy(temp.path().join(PENDING), temp.path().join("kept")).unwrap();
    dir.store(&identity(1)).unwrap();
    fs::rename(temp.path().join("kept"), temp.path().join(PENDING)).unwrap();
    dir.store(&identity(2)).unwrap();
    fs::remove_file(dir.path()).unwrap();
    assert_ne!(dir.pending().unwrap().0.pem(), first.pem(), "the next enrolment has a key of its own");
}

#[test]
fn damage_is_told_with_the_file() {
    let temp = tempfile::tempdir().unwrap();
    let dir = IdentityDir::open(temp.path()).unwrap();
    for name in [KEY, CERTIFICATE, CA, LEASE] {
        let _ = fs::remove_file(dir.path());
        dir.store(&identity(1)).unwrap();
        fs::write(dir.path().join(name), [0xff, 0xfe]).unwrap();
        let error = dir.load().map(drop).unwrap_err();
        assert!(error.code() == "FILE" && error.message().contains(name), "{name}: {error}");
    }
}

/// In seconds of Unix time.
#[derive(Default)]
struct SetClock(AtomicI64);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.0.load(Ordering::SeqCst)).unwrap()
    }
}

/// The server is away all the time.
#[tokio::test]
async fn a_clock_that_was_ahead_for_a_while_does_not_cost_the_identity() {
    const PATIENCE: Duration = Duration::from_secs(20);
    let temp = tempfile::tempdir().unwrap();
    let dir = IdentityDir::open(temp.path()).unwrap();
    dir.store(&identity(1)).unwrap();
    let (clock, doubts) = (Arc::new(SetClock(6_000.into())), Arc::new(Notify::new()));
    let keeper = Keeper {
        dir: dir.clone(),
        address: "127.0.0.1:1".parse().unwrap(),
        roots: Roots::System,
        timeout: Duration::from_secs(1),
        settle: Duration::ZERO,
        doubts: doubts.clone(),
        clock: clock.clone(),
    };
    let (current, mut followed) = watch::channel(Arc::new(dir.load().unwrap()));
    let (lost, mut said) = watch::channel(None);
    tokio::spawn(async move { keeper.run(&current, &lost).await });
    let why = tokio::time::timeout(PATIENCE, said.wait_for(Option::is_some)).await.expect("it is told").unwrap().clone();
    assert_eq!(why.unwrap().code(), "IDENTITY_EXPIRED");
    clock.0.store(2_000, Ordering::SeqCst);
    tokio::time::timeout(PATIENCE, said.wait_for(Option::is_none)).await.expect("it is valid again").unwrap();

    // What somebody enrols the agent for meanwhile is taken up.
    let mut another = identity(1);
    another.kept.lease_id = "0192f0c1-7b5a-7000-8000-000000000001".to_owned();
    fs::remove_file(dir.path()).unwrap();
    dir.store(&another).unwrap();
    doubts.notify_one();
    let is_another = |identity: &Arc<Identity>| identity.kept.lease_id == another.kept.lease_id;
    tokio::time::timeout(PATIENCE, followed.wait_for(is_another)).await.expect("it is taken up").unwrap();
}
