//! A fault at every step: no credential without a lease and its record, no error with a lease that lives.

use daypass::model::{
    error::Code,
    event::Outcome,
    lease::{LeaseId, LeaseState},
};

use super::{
    faulty::When,
    world::{World, job, operator, renewal, serials},
};

const WHENS: [When; 2] = [When::Before, When::After];

#[tokio::test(flavor = "multi_thread")]
async fn issuing_leaves_no_live_lease_behind_an_error() {
    for operation in ["put", "append"] {
        for when in WHENS {
            for request_id in [None, Some("step-1")] {
                let world = World::new();
                world.faults.plan(operation, 0, when);
                let error = world.issue(&operator(), request_id).await.err().expect("a fault gives an error");
                assert!(!error.code().is_refusal(), "{operation} {when:?}: {error}");
                assert!(world.faults.heal()[operation] > 0, "the fault was never met");
                world.settle().await;
                for lease in world.leases().await {
                    assert_eq!(lease.state, LeaseState::Revoked, "{operation} {when:?}: {lease:?}");
                    assert!(world.revoked().await.contains(&serials(&lease)[0]));
                }
                // And the house works on, also for the same request.
                let issued = world.issue(&operator(), request_id).await.unwrap();
                assert_eq!(world.stored(issued.lease.id).await.unwrap().state, LeaseState::Active);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_never_gets_a_lease_that_is_about_to_be_closed() {
    let world = World::new();
    world.faults.plan("append", 0, When::Before);
    world.issue(&operator(), Some("step-1")).await.err().expect("a fault gives an error");
    world.faults.heal();
    // The pass that closes it has not run yet, and the store still has it as active.
    assert!(world.leases().await.iter().any(|lease| lease.state == LeaseState::Active));
    let early = world.issue(&operator(), Some("step-1")).await.err().expect("not that lease");
    assert_eq!(early.code(), Code::Unavailable);
    world.settle().await;
    let issued = world.issue(&operator(), Some("step-1")).await.unwrap();
    assert_eq!(world.stored(issued.lease.id).await.unwrap().state, LeaseState::Active);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_request_does_not_burn_its_token() {
    for (operation, when) in [("put", When::After), ("append", When::Before), ("append", When::After)] {
        let world = World::new();
        world.faults.plan(operation, 0, when);
        world.issue(&job(1), Some("step-1")).await.err().expect("a fault gives an error");
        world.faults.heal();
        world.settle().await;
        let again = world.issue(&job(1), Some("step-1")).await;
        assert!(again.is_ok(), "{operation} {when:?}: a retry with the same request id is no replay: {:?}", again.err());
        let stolen = world.issue(&job(1), Some("step-2")).await.err().expect("another request with the token is one");
        assert_eq!(stolen.code(), Code::TokenReplayed);
        let bare = world.issue(&job(1), None).await.err().expect("and so is one without an id");
        assert_eq!(bare.code(), Code::TokenReplayed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_handed_out_is_on_record_with_its_lease() {
    let world = World::new();
    let issued = world.issue(&operator(), Some("r")).await.unwrap();
    let calls = {
        world.faults.plan("none", 0, When::Before);
        world.issue(&operator(), Some("s")).await.unwrap();
        world.faults.heal()
    };
    assert_eq!((calls["put"], calls["append"], calls.len()), (1, 1, 2), "one round trip to the store, one append: {calls:?}");
    let events = world.events();
    let event = events.iter().find(|event| event.lease_id == Some(issued.lease.id)).expect("on record");
    assert_eq!(event.lease.as_ref(), Some(&issued.lease));
    assert_eq!(event.outcome, Outcome::Done);
    assert_eq!(event.request_id.as_deref(), Some("r"));
    assert_eq!(world.stored(issued.lease.id).await.unwrap(), issued.lease);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_was_asked_for_is_carried_out_whatever_fails() {
    let steps = [("get", 0), ("append", 0), ("swap", 0), ("add_revoked", 0), ("revoked", 0), ("next_crl_number", 0), ("swap", 1)];
    for (operation, nth) in steps {
        for when in WHENS {
            let world = World::new();
            let issued = world.issue(&operator(), None).await.unwrap();
            world.faults.plan(operation, nth, when);
            let answer = world.vend.revoke(&operator(), issued.lease.id, "test").await;
            world.faults.heal();
            let state = async |id: LeaseId| world.stored(id).await.map(|lease| lease.state);
            if answer.is_ok() {
                assert_eq!(state(issued.lease.id).await, Some(LeaseState::Revoked), "{operation} {nth} {when:?}");
            }
            // Past the grace of what is open, and before the lease's own end.
            world.clock.forward(daypass::model::SignedDuration::from_secs(40));
            world.settle().await;
            let recorded = world.events().iter().any(|event| event.lease.as_ref().is_some_and(|lease| lease.state == LeaseState::Revoking));
            let expected = if recorded { LeaseState::Revoked } else { LeaseState::Active };
            assert_eq!(state(issued.lease.id).await, Some(expected), "{operation} {nth} {when:?}, answered {:?}", answer.err());
            assert_eq!(world.revoked().await.contains(&serials(&issued.lease)[0]), recorded);
            // Only what was never decided is forgotten.
            assert!(recorded || operation == "get", "{operation} {nth} {when:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_fails_gives_no_credential_and_no_harm() {
    for (operation, when) in
        [("get", When::Before), ("swap", When::Before), ("swap", When::After), ("append", When::Before), ("append", When::After)]
    {
        let world = World::new();
        let issued = world.issue(&operator(), None).await.unwrap();
        world.faults.plan(operation, 0, when);
        let failed = world.vend.renew(&operator(), renewal(issued.lease.id, world.input())).await;
        assert!(failed.is_err(), "{operation} {when:?}");
        world.faults.heal();
        let renewed = world.vend.renew(&operator(), renewal(issued.lease.id, world.input())).await.unwrap();
        let stored = world.stored(issued.lease.id).await.unwrap();
        assert_eq!(stored, renewed.lease);
        // A revoke reaches every certificate that was ever made under it, also one that nobody got.
        world.vend.revoke(&operator(), issued.lease.id, "").await.unwrap();
        let revoked = world.revoked().await;
        assert!(serials(&stored).iter().all(|serial| revoked.contains(serial)), "{operation} {when:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_cannot_be_recorded_is_not_told() {
    let world = World::new();
    world.faults.plan_forever("append", When::Before);
    let request =
        daypass::model::request::IssueRequest { role: "nothing".parse().unwrap(), ttl: None, request_id: None, input: world.input() };
    let error = world.vend.issue(&operator(), request).await.err().unwrap();
    assert_eq!(error.code(), Code::AuditUnavailable);
    let error = world.vend.revoke(&operator(), LeaseId::floor(world.vend.now()), "").await.err().unwrap();
    assert_eq!(error.code(), Code::AuditUnavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn live_until_counts_from_the_crl_and_not_from_the_revocation() {
    let world = World::new();
    let lapse = daypass::issuer::x509::DEFAULT_CRL_LIFE + daypass::model::SignedDuration::from_secs(1);
    let at_once = world.issue_long(&operator()).await.unwrap();
    let revoked = world.vend.revoke(&operator(), at_once.lease.id, "").await.unwrap();
    assert_eq!(revoked.live_until, world.vend.now() + lapse);
    // Half an hour without a store for the list: the last CRL without the serial may be as young as the first one with it.
    let late = world.issue_long(&operator()).await.unwrap();
    world.faults.plan("add_revoked", 0, When::Before);
    world.vend.revoke(&operator(), late.lease.id, "").await.expect_err("the list cannot be written");
    world.faults.heal();
    world.clock.forward(daypass::model::SignedDuration::from_mins(30));
    world.vend.sweep().await.unwrap();
    let stored = world.stored(late.lease.id).await.unwrap();
    assert_eq!((stored.state, stored.live_until), (LeaseState::Revoked, world.vend.now() + lapse));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_cannot_be_recorded_takes_nothing_over() {
    let world = World::new();
    let first = world.issue(&operator(), Some("step-1")).await.unwrap();
    world.faults.plan("append", 0, When::Before);
    world.issue(&operator(), Some("step-1")).await.err().expect("a fault gives an error");
    world.faults.heal();
    world.settle().await;
    assert_eq!(world.stored(first.lease.id).await.unwrap(), first.lease, "what the first call handed out is as it was");
}
