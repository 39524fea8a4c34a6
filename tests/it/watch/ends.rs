//! Why a stream ends, and that its holder is told.

use std::sync::Arc;

use daypass::{
    model::{
        SignedDuration,
        error::Code,
        event::Outcome,
        identity::{Identity, Proof},
        lease::LeaseState,
    },
    vend::{Call, SeenRevoked, WATCH_PENDING, WatchLimits},
};

use super::holder::{Holder, fresh, held, new_lease, rotate, timed_lease, until_due};
use crate::vend::{
    faulty::When,
    world::{POLICY, World, job, operator},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_says_no_ends_it_on_record_at_the_next_rotation() {
    let world = World::new();
    let mut holder = Holder::open(&world.vend, operator(), new_lease("web", &fresh(), Some(&fresh()))).await.unwrap();
    world.reload_policy(&POLICY.replace("action, resource);", r#"action in [Action::"issue", Action::"read"], resource);"#));
    holder.hears_nothing();
    until_due(&world.clock, &holder.lease);
    rotate(&world.vend).await;
    assert_eq!(holder.end().await.code(), Code::Denied);
    let event = world.events().into_iter().rfind(|event| event.method == "watch/rotate").expect("on record");
    assert_eq!((event.outcome, event.reason.as_deref()), (Outcome::Denied, Some("DENIED")));
    assert_eq!(event.lease_id, Some(holder.lease.id));
    let stored = world.stored(holder.lease.id).await.unwrap();
    assert_eq!((stored.state, stored.generation), (LeaseState::Active, 1), "what it has lives on");
    let refused = world.vend.watch(&operator(), held(holder.lease.id, 1, &fresh(), None)).await.err().unwrap();
    assert_eq!(refused.code(), Code::Denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_it_at_once_here_and_at_the_next_look_elsewhere() {
    let world = World::new();
    let other = world.another();
    let mut seen = SeenRevoked::default();
    other.vend.see_revoked(&mut seen).await.unwrap();
    for role in ["web", "deploy", "push"] {
        let mut here = Holder::open(&world.vend, operator(), new_lease(role, &fresh(), None)).await.unwrap();
        let mut elsewhere = Holder::open(&other.vend, operator(), new_lease(role, &fresh(), None)).await.unwrap();
        let mut bystander = Holder::open(&other.vend, operator(), new_lease(role, &fresh(), None)).await.unwrap();
        for holder in [&here, &elsewhere] {
            world.vend.revoke(&operator(), holder.lease.id, "").await.unwrap();
        }
        assert_eq!(here.end().await.code(), Code::LeaseState);
        elsewhere.hears_nothing();
        other.vend.see_revoked(&mut seen).await.unwrap();
        assert_eq!(elsewhere.end().await.code(), Code::LeaseState, "{role}");
        bystander.hears_nothing();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_could_not_look_for_long_looks_at_every_lease() {
    let world = World::new();
    let other = world.another();
    let mut seen = SeenRevoked::default();
    other.vend.see_revoked(&mut seen).await.unwrap();
    let mut holder =
        Holder::open(&other.vend, operator(), timed_lease("web", &fresh(), None, Some(SignedDuration::from_hours(4)))).await.unwrap();
    world.vend.revoke(&operator(), holder.lease.id, "").await.unwrap();
    // The list has forgotten it by then.
    world.clock.forward(SignedDuration::from_mins(6));
    world.vend.forget().await.unwrap();
    other.vend.see_revoked(&mut seen).await.unwrap();
    rotate(&other.vend).await;
    assert_eq!(holder.end().await.code(), Code::LeaseState);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_cut_before_anything_is_made_for_it() {
    let world = World::new();
    let (mut slow, mut generation) = (Holder::open(&world.vend, operator(), new_lease("push", &fresh(), None)).await.unwrap(), 1);
    loop {
        let stored = world.stored(slow.lease.id).await.unwrap();
        assert_eq!(stored.generation, generation);
        until_due(&world.clock, &stored);
        rotate(&world.vend).await;
        if world.vend.watches().is_empty() {
            break;
        }
        generation += 1;
    }
    assert_eq!(generation, 1 + u32::try_from(WATCH_PENDING).unwrap());
    assert_eq!(world.stored(slow.lease.id).await.unwrap().generation, generation, "none is made for who has no room");
    for _ in 0..WATCH_PENDING {
        slow.next().await;
    }
    assert_eq!(slow.end().await.code(), Code::DeadlineExceeded);
    let again = Holder::open(&world.vend, operator(), held(slow.lease.id, generation, &fresh(), None)).await.unwrap();
    assert!(again.credentials.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expires_ends_its_streams_and_bounds_no_lease() {
    let world = World::new();
    let call = operator();
    let Proof::Certificate(peer) = &call.identity.proof else { panic!("no certificate") };
    let mut peer = peer.clone();
    peer.not_after = world.vend.now() + SignedDuration::from_mins(12);
    let call = Call { identity: Arc::new(Identity { proof: Proof::Certificate(peer.clone()), ..(*call.identity).clone() }), ..call };
    let mut holder = Holder::open(&world.vend, call, new_lease("web", &fresh(), Some(&fresh()))).await.unwrap();
    until_due(&world.clock, &holder.lease);
    rotate(&world.vend).await;
    holder.next().await;
    assert!(holder.lease.expires_at > peer.not_after);
    holder.acknowledge(&world.vend, Some(&fresh())).await;
    until_due(&world.clock, &holder.lease);
    world.clock.forward(SignedDuration::from_mins(2));
    rotate(&world.vend).await;
    assert_eq!(holder.end().await.code(), Code::Unauthenticated);
    assert_eq!(world.stored(holder.lease.id).await.unwrap().generation, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_grow_old_and_not_all_at_once() {
    let world = World::new();
    let age = SignedDuration::from_mins(20);
    let server = world.server(&world.faults, WatchLimits { age, ..WatchLimits::default() });
    let ttl = Some(SignedDuration::from_hours(4));
    let mut holders = Vec::new();
    for _ in 0..20 {
        holders.push(Holder::open(&server.vend, operator(), timed_lease("web", &fresh(), None, ttl)).await.unwrap());
    }
    world.clock.forward(age * 3 / 4 - SignedDuration::from_secs(1));
    rotate(&server.vend).await;
    assert_eq!(server.vend.watches().len(), 20);
    let mut ended = 0;
    for _ in 0..4 {
        world.clock.forward(age / 16);
        rotate(&server.vend).await;
        let left = server.vend.watches().len();
        assert!(20 - left < ended + 18, "nearly all at once");
        ended = 20 - left;
    }
    world.clock.forward(SignedDuration::from_secs(2));
    rotate(&server.vend).await;
    assert!(server.vend.watches().is_empty());
    for holder in &mut holders {
        assert_eq!(holder.end().await.code(), Code::Unavailable);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_in_its_time_without_a_store_too() {
    let world = World::new();
    let age = SignedDuration::from_mins(20);
    let server = world.server(&world.faults, WatchLimits { age, ..WatchLimits::default() });
    let ttl = Some(SignedDuration::from_hours(4));
    let mut holder = Holder::open(&server.vend, operator(), timed_lease("web", &fresh(), None, ttl)).await.unwrap();
    world.faults.plan_forever("get", When::Before);
    world.clock.forward(age);
    assert_eq!(server.vend.rotate_due().await.unwrap_err().code(), Code::StoreUnavailable);
    assert_eq!(holder.end().await.code(), Code::Unavailable, "another server may have a store");
    assert!(server.vend.watches().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_all_and_takes_no_more() {
    let world = World::new();
    let mut holders = Vec::new();
    for role in ["web", "deploy", "push"] {
        holders.push(Holder::open(&world.vend, operator(), new_lease(role, &fresh(), None)).await.unwrap());
    }
    world.vend.watches().close();
    for holder in &mut holders {
        assert_eq!(holder.end().await.code(), Code::Unavailable);
    }
    assert!(world.vend.watches().is_empty());
    let refused = world.vend.watch(&operator(), held(holders[0].lease.id, 1, &fresh(), None)).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unavailable);
    let leases = world.leases().await.len();
    assert!(world.vend.watch(&operator(), new_lease("web", &fresh(), None)).await.is_err());
    assert_eq!(world.leases().await.len(), leases, "a refused watch issues nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_caller_and_the_server_have_so_many() {
    let world = World::new();
    let limits = WatchLimits { total: 3, per_caller: 2, ..WatchLimits::default() };
    let server = world.server(&world.faults, limits);
    let open = async |call, key: &super::holder::Fresh| Holder::open(&server.vend, call, new_lease("web", key, None)).await;
    let one = open(operator(), &fresh()).await.unwrap();
    let mut two = open(operator(), &fresh()).await.unwrap();
    let refused = open(operator(), &fresh()).await.err().unwrap();
    assert_eq!(refused.code(), Code::RateLimited);
    assert_eq!(world.leases().await.len(), 2, "a refused watch issues nothing");
    let event = world.events().pop().unwrap();
    assert_eq!((event.outcome, event.reason.as_deref()), (Outcome::Denied, Some("RATE_LIMITED")));
    let _third = open(job(1), &fresh()).await.unwrap();
    assert_eq!(open(job(2), &fresh()).await.err().unwrap().code(), Code::RateLimited, "the server is full");

    // Who takes its own stream over takes its place.
    let again = Holder::open(&server.vend, operator(), held(two.lease.id, 1, &fresh(), None)).await.unwrap();
    assert_eq!(two.end().await.code(), Code::WatchTakenOver);
    drop(two);
    assert_eq!(server.vend.watches().len(), 3, "the end of the old one is not the end of the new one");
    drop(one);
    open(operator(), &fresh()).await.unwrap();
    drop(again);
    assert_eq!(server.vend.watches().len(), 1);
}
