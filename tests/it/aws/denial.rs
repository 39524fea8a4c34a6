//! What a revocation does to sessions that are out, at MiniStack.

use std::sync::Arc;

use daypass::{
    issuer::{DenyDesk, aws::AwsConfig},
    model::{
        SignedDuration, Timestamp,
        credential::CredentialKind,
        error::Code,
        identity::Subject,
        lease::{Handle, Lease, LeaseId, LeaseState, Reach},
        revocation::{AwsDeny, RevokedSerial},
        role::{AwsOverflow, AwsRevocation, AwsRole, RoleSpec},
    },
};
use serde_json::json;

use super::{
    sessions::World,
    world::{deploy, grant, issuer, keys, lease, mint, now, session, way},
};
use crate::{
    support::parts::{
        boto::Keys,
        ministack::{allow, deny_all, policy},
    },
    vend::{cloud::Cloud, faulty::Faults, world as vend},
};

pub fn revoked(lease: LeaseId, at: Timestamp) -> RevokedSerial {
    RevokedSerial { serial: lease.to_hex(), revoked_at: at, not_after: at + SignedDuration::from_mins(20) }
}

/// A role that is revoked so, with two sessions of it.
struct Two {
    world: World,
    role: AwsRole,
    list: AwsDeny,
    one: (LeaseId, Keys),
    two: (LeaseId, Keys),
}

async fn two(revocation: AwsRevocation) -> Two {
    let world = World::start();
    let role = AwsRole { revocation, ..deploy(&world.arn) };
    let issuer = world.issuer(&role);
    let grant = grant(RoleSpec::Aws(role.clone()), &[]);
    let (one, two) = (lease(), lease());
    let minted = [mint(&issuer, &grant, one).await.expect("a session"), mint(&issuer, &grant, two).await.expect("a session")];
    let Handle::Aws { deny: Some(list), .. } = minted[0].handle.clone() else { panic!("nothing denies it") };
    assert_eq!(issuer.lists(), std::slice::from_ref(&list));
    assert!(issuer.knows(&list));
    let [first, second] = minted.map(|minted| keys(&session(minted)));
    Two { world, role, list, one: (one, first), two: (two, second) }
}

#[tokio::test]
async fn one_lease_is_denied_and_the_other_goes_on() {
    for (revocation, name) in
        [(AwsRevocation::SessionTag, "DaypassRevokedSessionTags"), (AwsRevocation::SessionName, "DaypassRevokedSessionNames")]
    {
        let Two { world, role, list, one, two } = two(revocation).await;
        let desk = world.issuer(&role);
        let verdicts = || (world.read(&one.1, "a/x"), world.read(&two.1, "a/x"));
        assert_eq!(verdicts(), ("done".to_owned(), "done".to_owned()));
        let entries = [revoked(one.0, now())];
        assert!(desk.agrees(&list, &[], now()).await.unwrap() && !desk.agrees(&list, &entries, now()).await.unwrap());
        desk.publish(&list, &entries, now()).await.unwrap();
        assert_eq!(verdicts(), ("AccessDenied".to_owned(), "done".to_owned()), "{revocation:?}");
        assert!(desk.agrees(&list, &entries, now()).await.unwrap() && !desk.agrees(&list, &[], now()).await.unwrap());
        assert!(world.aws.inline_policies("deploy").contains_key(name));
        // What another hand changes is seen, and mended.
        world.aws.set_inline_policy("deploy", name, &policy(&[allow(&["s3:*"], &["*"])]));
        assert!(!desk.agrees(&list, &entries, now()).await.unwrap());
        desk.publish(&list, &entries, now()).await.unwrap();
        assert_eq!(verdicts().0, "AccessDenied");
        // The whole list is stated each time.
        desk.publish(&list, &[revoked(two.0, now())], now()).await.unwrap();
        assert_eq!(verdicts(), ("done".to_owned(), "AccessDenied".to_owned()));
    }
}

#[tokio::test]
async fn every_older_session_is_denied_by_time() {
    let Two { world, role, list, one, two } = two(AwsRevocation::RoleSessions).await;
    let desk = world.issuer(&role);
    let verdicts = || (world.read(&one.1, "a/x"), world.read(&two.1, "a/x"));
    // Revoked before they were made: nobody is that old.
    let before = now() - SignedDuration::from_mins(1);
    desk.publish(&list, &[revoked(one.0, before)], now()).await.unwrap();
    assert_eq!(verdicts(), ("done".to_owned(), "done".to_owned()));
    let entries = [revoked(one.0, now())];
    desk.publish(&list, &entries, now()).await.unwrap();
    assert_eq!(verdicts(), ("AccessDenied".to_owned(), "AccessDenied".to_owned()), "the other one is as old");
    assert!(desk.agrees(&list, &entries, now()).await.unwrap());
    desk.publish(&list, &[], now()).await.unwrap();
    assert_eq!(verdicts(), ("done".to_owned(), "done".to_owned()));
    assert!(!world.aws.inline_policies("deploy").contains_key("AWSRevokeOlderSessions"));

    // What AWS' console writes under that name stays, whatever becomes of ours.
    let console = deny_all(&json!({"DateLessThan": {"aws:TokenIssueTime": "2020-01-01T00:00:00Z"}}));
    world.aws.set_inline_policy("deploy", "AWSRevokeOlderSessions", &policy(std::slice::from_ref(&console)));
    assert!(desk.agrees(&list, &[], now()).await.unwrap());
    desk.publish(&list, &entries, now()).await.unwrap();
    assert!(desk.agrees(&list, &entries, now()).await.unwrap());
    assert_eq!(verdicts().0, "AccessDenied");
    desk.publish(&list, &[], now()).await.unwrap();
    assert_eq!(world.aws.inline_policies("deploy")["AWSRevokeOlderSessions"]["Statement"], json!([console]));
}

#[tokio::test]
async fn a_hundred_leases_put_and_lapsed_leave_nothing() {
    let Two { world, role, list, one, two } = two(AwsRevocation::SessionTag).await;
    let desk = world.issuer(&role);
    let mut entries: Vec<RevokedSerial> = (0..99).map(|_| revoked(lease(), now())).collect();
    entries.push(revoked(one.0, now()));
    desk.publish(&list, &entries, now()).await.unwrap();
    assert_eq!((world.read(&one.1, "a/x").as_str(), world.read(&two.1, "a/x").as_str()), ("AccessDenied", "done"));
    // The store forgets half of them; then their time has passed, whatever the store says.
    desk.publish(&list, &entries[50..], now()).await.unwrap();
    let half = world.aws.inline_policies("deploy")["DaypassRevokedSessionTags"].to_string().len();
    assert!(half < 50 * 45, "{half}");
    desk.publish(&list, &entries[50..], now() + SignedDuration::from_mins(21)).await.unwrap();
    let left: Vec<String> = world.aws.inline_policies("deploy").into_keys().collect();
    assert_eq!(left, ["permissions"]);
    // To do it again changes nothing.
    desk.publish(&list, &[], now()).await.unwrap();
}

#[tokio::test]
async fn a_full_list_says_so_or_denies_by_time() {
    let Two { world, role, list, one, two } = two(AwsRevocation::SessionTag).await;
    let small = || AwsConfig { deny_size: 512, ..way(world.aws.url(), &world.service) };
    let now = now();
    // Long ago, so that time alone would not deny the two that are out.
    let long_ago = now - SignedDuration::from_mins(5);
    let mut entries: Vec<RevokedSerial> = (0..30).map(|_| revoked(lease(), long_ago)).collect();
    entries.push(revoked(one.0, now));
    let verdicts = || (world.read(&one.1, "a/x"), world.read(&two.1, "a/x"));

    let desk = issuer(small(), &role, None);
    let full = desk.publish(&list, &entries, now).await.expect_err("there is no room");
    assert!(full.code() == Code::IssuerUnavailable && full.public().contains("is full"), "{full}");
    assert_eq!(verdicts(), ("done".to_owned(), "done".to_owned()), "the newest one waits");
    assert!(world.aws.inline_policies("deploy")["DaypassRevokedSessionTags"].to_string().len() <= 512);
    // Also to who did not write it: what is there is all that fits, and not the list.
    let other = issuer(small(), &role, None);
    let full = other.agrees(&list, &entries, now).await.expect_err("it lacks one");
    assert!(full.code() == Code::IssuerUnavailable && full.public().contains("is full"), "{full}");
    assert!(!other.agrees(&list, &entries[25..], now).await.unwrap(), "there is room, and it says something else");
    desk.publish(&list, &entries[25..], now).await.expect("others have lapsed");
    assert_eq!(verdicts(), ("AccessDenied".to_owned(), "done".to_owned()));

    let role = AwsRole { overflow: AwsOverflow::RoleSessions, ..role };
    let desk = issuer(small(), &role, None);
    desk.publish(&list, &entries, now).await.expect("the oldest are denied by time");
    assert_eq!(verdicts(), ("AccessDenied".to_owned(), "done".to_owned()), "the newest one is named");
    let there = world.aws.inline_policies("deploy")["DaypassRevokedSessionTags"].to_string();
    assert!(there.len() <= 512 && there.contains("aws:TokenIssueTime"), "{there}");
    assert!(desk.agrees(&list, &entries, now).await.unwrap());
}

/// What another server, or this one after a restart, makes of a list that was too long for the one that wrote it: no revocation ends on
/// record while its session lives.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_found_no_room_stays_open_at_every_server() {
    let Two { world: aws, role, list, one, .. } = two(AwsRevocation::SessionTag).await;
    let way = AwsConfig { deny_size: 512, ..way(aws.aws.url(), &aws.service) };
    let faults = Faults::default();
    let mut world = vend::World::over(Arc::new(issuer(way, &role, None)), Cloud::new(faults.clone()), faults);
    world.only_passes().await;
    world.clock.forward(now().duration_since(world.vend.now()));
    let revoking = |id, revoked_at: Timestamp| Lease {
        id,
        version: 1,
        role: "deploy".parse().unwrap(),
        kind: CredentialKind::Aws,
        tenant: "ops".parse().unwrap(),
        subject: Subject::try_from("spiffe://dev/operator".to_owned()).unwrap(),
        state: LeaseState::Revoking,
        issued_at: revoked_at,
        expires_at: revoked_at + SignedDuration::from_mins(20),
        renew_until: revoked_at + SignedDuration::from_mins(20),
        generation: 1,
        reach: Reach::Lease,
        live_until: revoked_at + SignedDuration::from_mins(20),
        revoked_at: Some(revoked_at),
        renewed_at: None,
        held_until: None,
        acknowledged: 0,
        claim: None,
        enrolled: false,
        handle: Handle::Aws { deny: Some(list.clone()), role_arn: role.role_arn.clone(), session: "ci".to_owned(), key_id: None },
    };
    let before = world.vend.now() - SignedDuration::from_mins(5);
    let mut leases: Vec<Lease> = (0..30).map(|_| revoking(lease(), before)).collect();
    leases.push(revoking(one.0, before + SignedDuration::from_secs(1)));
    world.store.restore(&leases).await.unwrap();
    let other = world.another();
    for _ in 0..2 {
        for server in [&world.vend, &other.vend] {
            // Nobody waits here: a sweep asks, the pass that it rings compares, writes, compares again.
            let _open = server.sweep().await;
            let full = server.publish_deny(&list, server.now()).await.expect_err("there is no room");
            assert!(full.public().contains("is full"), "{full}");
            let _open = server.sweep().await;
            assert_eq!(aws.read(&one.1, "a/x"), "done", "nothing denies it");
            assert_eq!(world.stored(one.0).await.unwrap().state, LeaseState::Revoking, "and nothing says otherwise");
        }
    }
}

#[tokio::test]
async fn the_desk_of_no_way_knows_nothing() {
    let role = deploy("arn:aws:iam::000000000000:role/deploy");
    let nobody = Keys { id: "AKIANOBODY".to_owned(), secret: "none".to_owned(), token: None };
    let desk = issuer(way("http://127.0.0.1:1", &nobody), &role, None);
    let list = desk.lists().pop().unwrap();
    let other = AwsDeny { aws: "other".parse().unwrap(), ..list.clone() };
    assert!(desk.knows(&list) && !desk.knows(&other));
    assert_eq!(desk.publish(&other, &[], now()).await.err().map(|refused| refused.code()), Some(Code::Internal));
    let at = now();
    assert_eq!(desk.settled_at(&list, at), at + daypass::issuer::aws::DEFAULT_PROPAGATION);
}
