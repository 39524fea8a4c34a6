//! A fault at every step of what a remote system makes: no session that no lease covers, and none alive that nobody asked for.

use std::sync::atomic::Ordering;

use daypass::{
    model::{
        SignedDuration,
        credential::Credential,
        error::Code,
        lease::{LeaseId, LeaseState, Reach},
        revocation::DenyBy,
        role::RoleSpec,
    },
    vend::{Issued, REMOTE_TIMEOUT},
};

use super::{
    cloud::{SETTLES_IN, Session, covers},
    faulty::When,
    world::{World, job, operator, renewal},
};

/// Every call of a port on the way of an issue: which, its place among those of its kind, and when it fails.
const ISSUE_FAULTS: [(&str, usize, When); 14] = [
    ("put", 0, When::Before),
    ("put", 0, When::After),
    ("append", 0, When::Before),
    ("append", 0, When::After),
    ("mint", 0, When::Before),
    ("mint", 0, When::After),
    ("mint_unheard", 0, When::Before),
    ("swap", 0, When::Before),
    ("swap", 0, When::After),
    ("append", 1, When::Before),
    ("append", 1, When::After),
    // Nothing is due to them on the straight way; they must not matter.
    ("get", 0, When::Before),
    ("due", 0, When::Before),
    ("add_revoked", 0, When::Before),
];

fn key_id(issued: &Issued) -> &str {
    let Credential::Aws(aws) = &issued.credential else { panic!("no AWS credential") };
    &aws.access_key_id
}

/// What must hold of every session at any time when nothing is in flight and the passes are at rest.
async fn check(world: &World, held: &[String], what: &str) {
    let recorded: Vec<LeaseId> = world.events().iter().filter_map(|event| event.lease.as_ref()).map(|lease| lease.id).collect();
    for session in world.cloud.sessions() {
        let lease = world.stored(session.lease).await.unwrap_or_else(|| panic!("{what}: {session:?} is off the record"));
        assert!(recorded.contains(&lease.id), "{what}: {session:?} is in no audit record");
        assert!(covers(&lease, &session), "{what}: {session:?} outlives {lease:?}");
        if !held.contains(&session.key_id) && lease.reach == Reach::Lease {
            assert!(world.cloud.denies(&session, world.vend.now()), "{what}: {session:?} of nobody lives under {lease:?}");
        }
    }
    for lease in world.leases().await {
        let sessions = world.cloud.sessions();
        let holder = sessions.iter().any(|session| session.lease == lease.id && held.contains(&session.key_id));
        assert!(holder || !lease.state.is_live(), "{what}: nobody holds {lease:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn issuing_a_session_leaves_none_alive_behind_an_error() {
    for (operation, nth, when) in ISSUE_FAULTS {
        for role in ["deploy", "batch", "fixed"] {
            for request_id in [None, Some("step-1")] {
                let what = format!("{role} {operation} {nth} {when:?} {request_id:?}");
                let world = World::new();
                world.faults.plan(operation, nth, when);
                let issued = world.session(&operator(), role, request_id).await;
                let met = world.faults.heal().get(operation).is_some_and(|calls| *calls > nth);
                assert_eq!(issued.is_err(), met, "{what}: {:?}", issued.err());
                let mut held: Vec<String> = issued.iter().map(|issued| key_id(issued).to_owned()).collect();
                world.settle().await;
                check(&world, &held, &what).await;
                // And the house works on, also for the same request.
                let again = world.session(&operator(), role, request_id.filter(|_| held.is_empty())).await.unwrap();
                held.push(key_id(&again).to_owned());
                check(&world, &held, &what).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_made_is_voided_at_once_and_on_record() {
    let world = World::new();
    world.faults.plan("mint", 0, When::Before);
    let error = world.session(&operator(), "deploy", None).await.err().unwrap();
    assert_eq!(error.code(), Code::IssuerUnavailable);
    let [lease] = &world.leases().await[..] else { panic!("one lease") };
    assert_eq!((lease.state, lease.version), (LeaseState::Expired, 2));
    let last = world.events().pop().unwrap();
    assert_eq!((last.lease.as_ref(), last.reason.as_deref()), (Some(lease), Some("ISSUER_UNAVAILABLE")));
    assert_eq!(world.cloud.publications(), 0, "there is nothing to deny");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_lease_is_durable_and_on_record_before_anything_is_made() {
    let world = World::new();
    let issued = world.session(&operator(), "deploy", Some("r")).await.unwrap();
    let events = world.events();
    let [reserved, made] = &events[..] else { panic!("two records: {events:?}") };
    assert_eq!((&*reserved.method, &*made.method), ("issue/reserve", "CredentialService/Issue"));
    let pending = reserved.lease.as_ref().unwrap();
    assert_eq!((pending.state, pending.version, pending.id), (LeaseState::Pending, 1, issued.lease.id));
    assert_eq!(made.lease.as_ref(), Some(&issued.lease));
    assert_eq!((issued.lease.state, issued.lease.version), (LeaseState::Active, 2));
    assert_eq!(issued.lease.handle.credential_id(), key_id(&issued));
    for event in &events {
        assert_eq!(
            (event.request_id.as_deref(), event.actor.as_ref().map(|actor| &*actor.subject)),
            (Some("r"), Some("spiffe://dev/operator"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_that_a_crash_left_is_denied_and_reported() {
    let mut world = World::new();
    let begun = tokio::time::timeout(std::time::Duration::ZERO, async {
        // The future is dropped at some await after the reservation.
        world.faults.plan("none", 0, When::Before);
        world.session(&operator(), "deploy", None).await
    });
    let _crashed = begun.await;
    world.restart().await;
    world.clock.forward(SignedDuration::from_secs(31));
    world.settle().await;
    for lease in world.leases().await {
        assert_eq!(lease.state, LeaseState::Revoked);
        assert!(world.events().iter().any(|event| event.method == "sweep/close" && event.lease_id == Some(lease.id)));
        assert!(world.cloud.policy(DenyBy::SessionTag).iter().any(|entry| entry.serial == lease.id.to_hex()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_the_sweep_took_cannot_be_activated_any_more() {
    let world = std::sync::Arc::new(World::new());
    world.cloud.slow.store(true, Ordering::SeqCst);
    let slow = world.clone();
    let issue = tokio::spawn(async move { slow.session(&operator(), "deploy", None).await.err() });
    world.cloud.asked.notified().await;
    // The clock leaps past the grace while the session is being made.
    world.clock.forward(SignedDuration::from_secs(31));
    assert_eq!(world.vend.sweep().await.unwrap().closed, 1);
    world.cloud.go.notify_one();
    let late = issue.await.unwrap().expect("its session is being denied");
    assert_eq!(late.code(), Code::LeaseState);
    world.settle().await;
    assert_eq!(world.cloud.sessions().len(), 1);
    check(&world, &[], "swept").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_in_work_is_not_closed_under_its_feet() {
    let world = std::sync::Arc::new(World::new());
    world.cloud.slow.store(true, Ordering::SeqCst);
    let slow = world.clone();
    let issue = tokio::spawn(async move { slow.session(&operator(), "deploy", None).await });
    world.cloud.asked.notified().await;
    // As long as a remote system may take.
    world.clock.forward(SignedDuration::try_from(REMOTE_TIMEOUT).unwrap());
    assert!(world.vend.sweep().await.unwrap().is_idle());
    world.cloud.go.notify_one();
    let issued = issue.await.unwrap().expect("it was slow, and in time");
    check(&world, &[key_id(&issued).to_owned()], "slow").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_system_that_never_answers_is_given_up_and_denied() {
    let world = std::sync::Arc::new(World::new());
    world.cloud.slow.store(true, Ordering::SeqCst);
    let call = operator();
    let session = tokio::time::timeout(REMOTE_TIMEOUT + std::time::Duration::from_secs(10), world.session(&call, "deploy", None));
    let error = session.await.expect("it waits for ever").err().unwrap();
    assert_eq!(error.code(), Code::IssuerUnavailable);
    world.settle().await;
    let [lease] = &world.leases().await[..] else { panic!("one lease") };
    assert_eq!(lease.state, LeaseState::Revoked);
    assert_eq!(world.cloud.policy(DenyBy::SessionTag).len(), 1, "it may yet have been made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_gets_a_new_session_and_the_lost_one_is_denied() {
    let world = World::new();
    let lost = world.session(&job(1), "deploy", Some("step")).await.unwrap();
    let found = world.session(&job(1), "deploy", Some("step")).await.unwrap();
    assert_ne!(lost.lease.id, found.lease.id);
    assert_eq!(world.stored(lost.lease.id).await.unwrap().state, LeaseState::Revoked);
    check(&world, &[key_id(&found).to_owned()], "retried").await;
    let why =
        world.events().into_iter().find(|event| event.lease_id == Some(lost.lease.id) && !event.detail.is_empty()).expect("on record why");
    assert!(why.detail[0].contains("another lease takes its place"), "{why:?}");
    let other = world.session(&job(1), "deploy", Some("other")).await.err().expect("its token is used");
    assert_eq!(other.code(), Code::TokenReplayed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_while_the_first_is_in_work_is_told_so() {
    let world = World::new();
    world.faults.plan("mint_unheard", 0, When::Before);
    world.session(&operator(), "deploy", Some("step")).await.err().expect("no answer came");
    world.faults.heal();
    let early = world.session(&operator(), "deploy", Some("step")).await.err().expect("the first is not closed yet");
    assert_eq!(early.code(), Code::Unavailable);
    world.settle().await;
    world.session(&operator(), "deploy", Some("step")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_at_once_leave_one_session_alive() {
    let world = std::sync::Arc::new(World::new());
    let tasks = (0..16).map(|_| {
        let world = world.clone();
        tokio::spawn(async move { world.session(&operator(), "deploy", Some("step")).await.ok().map(|issued| key_id(&issued).to_owned()) })
    });
    let held: Vec<String> = futures::future::join_all(tasks).await.into_iter().filter_map(Result::unwrap).collect();
    assert!(!held.is_empty());
    world.settle().await;
    let now = world.vend.now();
    let alive: Vec<Session> = world.cloud.sessions().into_iter().filter(|session| !world.cloud.denies(session, now)).collect();
    assert_eq!(alive.len(), 1, "{alive:?}");
    assert!(held.contains(&alive[0].key_id), "somebody has it");
}

#[tokio::test(flavor = "multi_thread")]
async fn renewing_a_session_is_covered_whatever_fails() {
    let steps = [
        ("get", 0, When::Before),
        ("swap", 0, When::Before),
        ("swap", 0, When::After),
        ("append", 0, When::Before),
        ("append", 0, When::After),
        ("mint", 0, When::Before),
        ("mint", 0, When::After),
        ("mint_unheard", 0, When::Before),
        ("swap", 1, When::Before),
        ("swap", 1, When::After),
        ("append", 1, When::Before),
        ("append", 1, When::After),
    ];
    for (operation, nth, when) in steps {
        let what = format!("{operation} {nth} {when:?}");
        let world = World::new();
        let issued = world.session(&operator(), "deploy", None).await.unwrap();
        world.clock.forward(SignedDuration::from_mins(10));
        world.faults.plan(operation, nth, when);
        let failed = world.vend.renew(&operator(), renewal(issued.lease.id, world.input())).await;
        assert!(failed.is_err(), "{what}");
        world.faults.heal();
        let stored = world.stored(issued.lease.id).await.unwrap();
        assert_eq!(stored.state, LeaseState::Active, "{what}: its caller holds the session of before");
        for session in world.cloud.sessions() {
            assert!(covers(&stored, &session), "{what}: {session:?} outlives {stored:?}");
        }
        if operation == "mint" && when == When::Before || operation == "append" && nth == 0 {
            assert_eq!(stored.expires_at, issued.lease.expires_at, "{what}: nothing was made, and the expiry is as it was");
        }
        let renewed = world.vend.renew(&operator(), renewal(issued.lease.id, world.input())).await.unwrap();
        assert_eq!(world.stored(issued.lease.id).await.unwrap(), renewed.lease);
        world.vend.revoke(&operator(), issued.lease.id, "").await.unwrap();
        for session in world.cloud.sessions() {
            assert!(world.cloud.denies(&session, world.vend.now()), "{what}: a revoke reaches every session of its lease");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_is_on_record_before_the_remote_system_is_asked() {
    let world = World::new();
    let issued = world.session(&operator(), "deploy", None).await.unwrap();
    world.clock.forward(SignedDuration::from_mins(10));
    let renewed = world.vend.renew(&operator(), renewal(issued.lease.id, world.input())).await.unwrap();
    let events = world.events();
    let [.., reserved, made] = &events[..] else { panic!("{events:?}") };
    assert_eq!(reserved.method, "renew/reserve");
    let (extended, lease) = (reserved.lease.as_ref().unwrap(), made.lease.as_ref().unwrap());
    assert_eq!((extended.version, lease), (3, &renewed.lease));
    assert!(extended.expires_at >= renewed.lease.expires_at && renewed.lease.expires_at > issued.lease.expires_at);
    assert_eq!(renewed.lease.generation, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_not_renewed_into_another_kind() {
    let world = World::new();
    let issued = world.session(&operator(), "deploy", None).await.unwrap();
    world.reload(|catalog| {
        let mut role = catalog.roles[&issued.lease.role].as_ref().clone();
        let RoleSpec::Aws(spec) = role.spec else { panic!("another kind") };
        role.spec = RoleSpec::Ecr(spec);
        catalog.roles.insert(role.name.clone(), role.into());
    });
    world.clock.forward(SignedDuration::from_mins(10));
    let refused = world.vend.renew(&operator(), renewal(issued.lease.id, world.input())).await.err().expect("it was no ECR login");
    assert_eq!(refused.code(), Code::NotRenewable, "{refused}");
    assert_eq!((world.stored(issued.lease.id).await.unwrap(), world.cloud.sessions().len()), (issued.lease, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoke_denies_one_session_and_says_when_that_holds() {
    let world = World::new();
    let (gone, kept) =
        (world.session(&operator(), "deploy", None).await.unwrap(), world.session(&operator(), "deploy", None).await.unwrap());
    let revoked = world.vend.revoke(&operator(), gone.lease.id, "leaked").await.unwrap();
    assert_eq!((revoked.state, revoked.reach), (LeaseState::Revoked, Reach::Lease));
    assert_eq!(revoked.live_until, world.vend.now() + SETTLES_IN);
    let denied = |issued: &Issued| {
        let session = world.cloud.sessions().into_iter().find(|session| session.key_id == key_id(issued)).unwrap();
        world.cloud.denies(&session, world.vend.now())
    };
    assert!(denied(&gone) && !denied(&kept));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoke_that_cuts_other_leases_says_so_and_a_failed_call_cuts_none() {
    let world = World::new();
    let kept = world.session(&operator(), "batch", None).await.unwrap();
    world.clock.forward(SignedDuration::from_secs(1));
    world.faults.plan("mint", 0, When::After);
    world.session(&operator(), "batch", None).await.err().expect("no answer came");
    world.faults.heal();
    world.settle().await;
    let session = world.cloud.sessions().remove(0);
    assert!(!world.cloud.denies(&session, world.vend.now()), "a session of nobody is no reason to cut others");
    let unheld = world.leases().await.into_iter().find(|lease| lease.state == LeaseState::Revoked).unwrap();
    assert_eq!((unheld.reach, unheld.live_until), (Reach::Expiry, unheld.expires_at), "and its lease says that it lives");

    world.vend.revoke(&operator(), kept.lease.id, "leaked").await.unwrap();
    assert!(world.cloud.sessions().iter().all(|session| world.cloud.denies(session, world.vend.now())));
    let told = world.events().into_iter().rev().find(|event| event.lease_id == Some(kept.lease.id)).unwrap();
    assert!(told.detail.iter().any(|line| line.contains("every session of arn:aws:iam::")), "{told:?}");
}

/// Else its lease would be on record as ended while it lives, count against no cap, and be past every revocation.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_cannot_be_ended_alone_keeps_its_lease_whatever_is_retried() {
    for role in ["batch", "fixed"] {
        let world = World::new();
        let held = world.session(&operator(), role, Some("again")).await.unwrap();
        world.faults.plan_forever("mint", When::Before);
        let refused = world.session(&operator(), role, Some("again")).await.err().expect("nobody can make it again");
        assert_eq!(refused.code(), Code::RequestIdReused, "{role}: {refused}");
        assert_eq!(world.stored(held.lease.id).await.unwrap(), held.lease, "{role}");
        world.faults.heal();
        assert_eq!(world.cloud.sessions().len(), 1, "{role}");
        let revoked = world.vend.revoke(&operator(), held.lease.id, "").await.unwrap();
        let denied = world.cloud.denies(&world.cloud.sessions()[0], world.vend.now());
        assert_eq!((revoked.state, denied), (LeaseState::Revoked, role == "batch"));
        world.session(&operator(), role, Some("again")).await.expect("its lease has ended");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_reaches_lives_on_and_its_lease_says_so() {
    let world = World::new();
    let issued = world.session(&operator(), "fixed", None).await.unwrap();
    let revoked = world.vend.revoke(&operator(), issued.lease.id, "").await.unwrap();
    assert_eq!((revoked.state, revoked.live_until), (LeaseState::Revoked, issued.lease.expires_at));
    assert_eq!(world.cloud.publications(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_of_a_session_is_carried_out_whatever_fails() {
    let steps = [("get", 0), ("append", 0), ("swap", 0), ("add_revoked", 0), ("revoked", 0), ("publish", 0), ("swap", 1)];
    for (operation, nth) in steps {
        for when in [When::Before, When::After] {
            let what = format!("{operation} {nth} {when:?}");
            let world = World::new();
            let issued = world.session(&operator(), "deploy", None).await.unwrap();
            world.faults.plan(operation, nth, when);
            let answer = world.vend.revoke(&operator(), issued.lease.id, "test").await;
            world.faults.heal();
            world.clock.forward(SignedDuration::from_secs(40));
            world.settle().await;
            let recorded = world.events().iter().any(|event| event.lease.as_ref().is_some_and(|lease| lease.state == LeaseState::Revoking));
            let session = world.cloud.sessions().remove(0);
            assert_eq!(world.cloud.denies(&session, world.vend.now()), recorded, "{what}, answered {:?}", answer.err());
            assert!(recorded || operation == "get", "{what}");
            let expected = if recorded { LeaseState::Revoked } else { LeaseState::Active };
            assert_eq!(world.stored(issued.lease.id).await.unwrap().state, expected, "{what}");
        }
    }
}
