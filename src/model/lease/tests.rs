use proptest::prelude::*;

use super::*;
use crate::model::revocation::{AwsDeny, DenyBy};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn aws(key_id: Option<&str>) -> Handle {
    let role_arn = "arn:aws:iam::123456789012:role/deploy".to_owned();
    let deny = AwsDeny { aws: "main".parse().unwrap(), by: DenyBy::SessionTag, role_arn: role_arn.clone() };
    Handle::Aws { deny: Some(deny), role_arn, session: "daypass".to_owned(), key_id: key_id.map(str::to_owned) }
}

fn reserved(kind: CredentialKind, handle: Handle) -> Lease {
    let tenant: TenantName = "acme".parse().unwrap();
    Lease {
        id: LeaseId::new(at(0), [7; 10], &tenant),
        version: 1,
        role: "deploy".parse().unwrap(),
        kind,
        tenant,
        subject: "oidc:github:job".to_owned().try_into().unwrap(),
        state: LeaseState::Pending,
        issued_at: at(0),
        expires_at: at(930),
        renew_until: at(900),
        generation: 1,
        reach: Reach::Lease,
        live_until: at(930),
        revoked_at: None,
        renewed_at: None,
        held_until: None,
        acknowledged: 0,
        claim: None,
        enrolled: false,
        handle,
    }
}

#[test]
fn what_was_reserved_takes_the_times_that_the_remote_system_answered() {
    let active =
        reserved(CredentialKind::Aws, aws(None)).apply(Change::Activate { expires_at: at(901), handle: aws(Some("ASIA1")) }).unwrap();
    assert_eq!((active.state, active.version, active.handle.credential_id()), (LeaseState::Active, 2, "ASIA1"));
    assert_eq!((active.expires_at, active.live_until, active.renew_until), (at(901), at(901), at(901)));
    assert!(active.apply(Change::Activate { expires_at: at(901), handle: aws(None) }).is_err(), "only what is pending");
    assert!(active.apply(Change::Void { at: at(3) }).is_err(), "what was made cannot be unmade");
}

#[test]
fn what_was_never_made_ends_at_once() {
    let void = reserved(CredentialKind::Aws, aws(None)).apply(Change::Void { at: at(3) }).unwrap();
    assert_eq!((void.state, void.expires_at, void.live_until), (LeaseState::Expired, at(3), at(3)));
    assert!(!void.state.is_live());
}

#[test]
fn an_extension_never_shortens_and_never_passes_its_bound() {
    let mut lease = reserved(CredentialKind::Aws, aws(None));
    assert!(lease.apply(Change::Extend { expires_at: at(2000) }).is_err(), "only what is active");
    (lease.state, lease.renew_until) = (LeaseState::Active, at(3000));
    let expires_at = |to| lease.apply(Change::Extend { expires_at: to }).unwrap().expires_at;
    assert_eq!((expires_at(at(2000)), expires_at(at(9000)), expires_at(at(1))), (at(2000), at(3000), at(930)));
}

#[test]
fn an_extension_that_came_to_nothing_is_taken_back() {
    let mut lease = reserved(CredentialKind::Aws, aws(None));
    assert!(lease.apply(Change::Withdraw { expires_at: at(930) }).is_err(), "only what is active");
    (lease.state, lease.renew_until) = (LeaseState::Active, at(3000));
    let extended = lease.apply(Change::Extend { expires_at: at(2000) }).unwrap();
    let back = extended.apply(Change::Withdraw { expires_at: lease.expires_at }).unwrap();
    assert_eq!(back, Lease { version: 3, ..lease });
    assert_eq!(back.apply(Change::Withdraw { expires_at: at(9000) }).unwrap().expires_at, at(930), "it never extends");
}

#[test]
fn a_registry_takes_its_tokens_a_minute_longer() {
    let handle = Handle::Registry { registry: "main".parse().unwrap(), repositories: vec![], actions: vec![], secrets: vec![] };
    let mut lease = reserved(CredentialKind::Registry, handle);
    lease.state = LeaseState::Active;
    assert_eq!(lease.accepted_until(), at(990));
    let revoking = lease.apply(Change::BeginRevoke { at: at(10) }).unwrap();
    assert_eq!(revoking.apply(Change::FinishRevoke { live_until: at(370) }).unwrap().live_until, at(370));
    assert_eq!(revoking.apply(Change::FinishRevoke { live_until: at(5000) }).unwrap().live_until, at(990));
    assert!(revoking.revocation().is_empty());
}

#[test]
fn a_lease_of_aws_is_denied_by_its_id() {
    let lease = reserved(CredentialKind::Aws, aws(None));
    let (list, entries) = lease.revocation().pop_first().unwrap();
    assert_eq!(list.to_string(), "aws:main:session_tag:arn:aws:iam::123456789012:role/deploy");
    assert_eq!(entries.iter().map(|entry| (entry.serial.as_str(), entry.not_after)).collect::<Vec<_>>(), [(&*lease.id.to_hex(), at(990))]);
    assert_eq!(lease.id.to_hex().len(), 32);
}

#[test]
fn each_certificate_is_revoked_at_the_ca_that_issued_it() {
    let live =
        |serial: &str, ca: Option<&str>| LiveSerial { serial: serial.to_owned(), not_after: at(930), ca: ca.map(|ca| ca.parse().unwrap()) };
    let serials = vec![live("01", Some("issuing-1")), live("02", None), live("03", Some("issuing-1"))];
    let handle = Handle::X509 { ca: "issuing-2".parse().unwrap(), serials, tbs: String::new(), next_key: None };
    let lists = reserved(CredentialKind::X509, handle).revocation();
    let said: Vec<(String, Vec<&str>)> =
        lists.iter().map(|(list, entries)| (list.to_string(), entries.iter().map(|entry| entry.serial.as_str()).collect())).collect();
    assert_eq!(said, [("issuing-1".to_owned(), vec!["01", "03"]), ("issuing-2".to_owned(), vec!["02"])]);
}

fn held(seed: [u8; 10], life: i64) -> Lease {
    let handle = Handle::X509 { ca: "issuing".parse().unwrap(), serials: Vec::new(), tbs: String::new(), next_key: Some("30".to_owned()) };
    let mut lease = reserved(CredentialKind::X509, handle);
    lease.id = LeaseId::new(at(0), seed, &lease.tenant);
    (lease.state, lease.expires_at, lease.renew_until) = (LeaseState::Active, at(life), at(life * 10));
    lease
}

fn renewed(lease: &Lease, at: Timestamp, expires_at: Timestamp) -> Lease {
    lease.apply(Change::Renew { at, expires_at, handle: lease.handle.clone(), shown: None }).unwrap()
}

#[test]
fn a_claim_is_live_until_it_lapses_or_its_work_is_done() {
    let claimed = held([1; 10], 600).apply(Change::Claim(Claim::to_rotate(ServerId(1), at(300)))).unwrap();
    let claim = claimed.claim.unwrap();
    assert!(claim.is_live(at(309)) && !claim.is_live(at(310)));
    assert!(!renewed(&claimed, at(305), at(900)).claim.unwrap().is_live(at(305)), "its work is done");
    // Another server that takes the holder over waits until the first one's claim has lapsed.
    let taken = claimed.apply(Change::TakeUp { by: ServerId(2), at: at(302), next_key: None }).unwrap().claim.unwrap();
    assert_eq!((taken.by, taken.until), (ServerId(2), at(310)));
    let ahead = held([1; 10], 600).apply(Change::Claim(Claim::to_rotate(ServerId(1), at(3600)))).unwrap();
    let taken = ahead.apply(Change::TakeUp { by: ServerId(2), at: at(302), next_key: None }).unwrap().claim.unwrap();
    assert_eq!((taken.by, taken.until), (ServerId(2), at(312)), "a clock that is ahead holds up nobody for longer");
    let revoking = claimed.apply(Change::BeginRevoke { at: at(306) }).unwrap();
    assert!(
        revoking.apply(Change::Claim(claim)).is_err() && revoking.apply(Change::Acknowledge { generation: 1, next_key: None }).is_err()
    );
}

#[test]
fn what_was_acknowledged_never_goes_back_nor_past_what_was_made() {
    let lease = renewed(&held([1; 10], 600), at(300), at(900));
    let acknowledge = |lease: &Lease, generation| lease.apply(Change::Acknowledge { generation, next_key: None }).unwrap().acknowledged;
    assert_eq!([0, 1, 2, 7].map(|generation| acknowledge(&lease, generation)), [0, 1, 2, 2]);
    let second = lease.apply(Change::Acknowledge { generation: 2, next_key: Some("31".to_owned()) }).unwrap();
    assert_eq!(acknowledge(&second, 1), 2);
    assert!(matches!(&second.handle, Handle::X509 { next_key: Some(key), .. } if key == "31"));
}

#[test]
fn what_cannot_be_renewed_is_never_due() {
    let mut lease = held([1; 10], 600);
    assert!(lease.rotation().is_some());
    lease.renew_until = lease.expires_at;
    assert_eq!(lease.rotation(), None);
    assert_eq!(held([1; 10], 600).apply(Change::BeginRevoke { at: at(1) }).unwrap().rotation(), None);
}

proptest! {
    #[test]
    fn a_window_lies_within_the_middle_of_the_life_and_its_place_there_stays(seed in any::<[u8; 10]>(), life in 3..8_000_000_i64) {
        let lease = held(seed, life);
        let part = |window: RotationWindow, from: Timestamp| window.start.duration_since(from).as_secs_f64() / (life as f64);
        let window = lease.rotation().unwrap();
        let first = part(window, at(0));
        prop_assert!((0.32..0.68).contains(&first), "{first}");
        prop_assert!(window.start < window.end && window.end < lease.expires_at);
        let next = renewed(&lease, at(life / 2), at(life / 2 + life));
        let second = part(next.rotation().unwrap(), at(life / 2));
        prop_assert!((first - second).abs() < 1e-3, "drawn once: {first} and {second}");
    }
}

/// Ten thousand leases of one moment: no second of their window has more than three times its share.
#[test]
fn leases_of_one_moment_spread() {
    let mut seconds = std::collections::HashMap::<i64, usize>::new();
    for number in 0..10_000_u64 {
        let mut seed = [0; 10];
        seed[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        seed.reverse();
        *seconds.entry(held(seed, 600).rotation().unwrap().start.as_second()).or_default() += 1;
    }
    let mean = 10_000 / 200;
    assert!(seconds.values().all(|count| *count < 3 * mean), "{:?}", seconds.values().max());
}

/// The last quarter of an hour of an AWS lease has room for no other session: it has no window there, and other kinds have.
#[test]
fn a_session_is_due_only_while_there_is_room_for_another() {
    let until = |kind, renew_until| Lease { kind, renew_until: at(renew_until), ..held([1; 10], 900) };
    let end = until(CredentialKind::Jwt, 901).rotation().unwrap().end;
    let least = end.duration_since(at(0)).as_secs() + 900 + 30;
    for kind in [CredentialKind::Aws, CredentialKind::Ecr] {
        let rotates = |renew_until| until(kind, renew_until).rotation().is_some();
        assert_eq!([901, 931, least - 1, least].map(rotates), [false, false, false, true], "{kind:?}");
        let lease = until(kind, 2000);
        assert!(lease.renewable(at(899)) && !Lease { renew_until: at(1828), ..lease }.renewable(at(899)), "{kind:?}");
        assert!(!until(kind, 930).gains(at(930), at(0)), "it would end no later");
    }
}
