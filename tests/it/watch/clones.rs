//! Two who hold one lease.

use std::sync::Arc;

use daypass::{
    model::{
        SignedDuration,
        error::Code,
        event::Outcome,
        lease::{LeaseFilter, LeaseState},
        role::OnClone,
    },
    vend::{Renewal, WatchLimits},
};

use super::holder::{Holder, fresh, held, new_lease, rotate, until_due};
use crate::vend::{
    faulty::Faults,
    world::{World, operator, serials},
};

fn on_clone(world: &World, on_clone: OnClone) {
    world.reload(|catalog| {
        for role in catalog.roles.values_mut() {
            *role = Arc::new(daypass::model::role::Role { on_clone, ..(**role).clone() });
        }
    });
}

/// A lease of which generation 2 was acknowledged.
async fn at_two(world: &World) -> Holder {
    let [first, second, third] = [fresh(), fresh(), fresh()];
    let mut holder = Holder::open(&world.vend, operator(), new_lease("web", &first, Some(&second))).await.unwrap();
    holder.acknowledge(&world.vend, None).await;
    until_due(&world.clock, &holder.lease);
    rotate(&world.vend).await;
    holder.next().await;
    holder.acknowledge(&world.vend, Some(&third)).await;
    holder
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_an_older_generation_than_was_acknowledged_is_found() {
    for (rule, state) in [(OnClone::Alert, LeaseState::Active), (OnClone::Revoke, LeaseState::Revoked)] {
        for by_renew in [false, true] {
            let world = World::new();
            on_clone(&world, rule);
            let mut holder = at_two(&world).await;
            let id = holder.lease.id;
            let error = if by_renew {
                let renewal = Renewal { lease: id, generation: Some(1), ttl: None, input: fresh().input() };
                world.vend.renew(&operator(), renewal).await.err().unwrap()
            } else {
                world.vend.watch(&operator(), held(id, 1, &fresh(), None)).await.err().unwrap()
            };
            assert_eq!(error.code(), Code::GenerationSuperseded);
            let stored = world.stored(id).await.unwrap();
            assert_eq!((stored.state, stored.generation), (state, 2), "{rule:?}");
            let found: Vec<_> = world.events().into_iter().filter(|event| event.method == "clone/found").collect();
            let [event] = found.as_slice() else { panic!("{found:?}") };
            assert_eq!((event.lease_id, event.outcome), (Some(id), Outcome::Denied));
            assert_eq!(event.peer_address, operator().origin.peer_address);
            assert_eq!(event.actor.as_ref().unwrap().subject, "spiffe://dev/operator");
            assert!(event.detail[0].contains("generation 1") && event.detail[0].contains("2 acknowledged"), "{:?}", event.detail);
            let crl = world.revoked().await;
            match rule {
                OnClone::Alert => {
                    holder.hears_nothing();
                    assert!(crl.is_empty());
                }
                OnClone::Revoke => {
                    assert_eq!(holder.end().await.code(), Code::LeaseState, "both lose it");
                    assert!(serials(&holder.lease).iter().all(|serial| crl.contains(serial)));
                    assert!(world.events().iter().any(|event| event.method == "clone/revoke"));
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_gone_revokes() {
    let world = World::new();
    let holder = at_two(&world).await;
    let mut lease = holder.lease.clone();
    lease.role = "gone".parse().unwrap();
    let error = world.vend.clone_found(&operator().origin, &*operator().identity, &lease, 1).await;
    assert_eq!(error.code(), Code::GenerationSuperseded);
    assert_eq!(world.stored(lease.id).await.unwrap().state, LeaseState::Revoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_acknowledged_is_no_sign_of_a_clone() {
    let world = World::new();
    let [first, second] = [fresh(), fresh()];
    let mut holder = Holder::open(&world.vend, operator(), new_lease("web", &first, Some(&second))).await.unwrap();
    until_due(&world.clock, &holder.lease);
    rotate(&world.vend).await;
    holder.next().await;
    let again = Holder::open(&world.vend, operator(), held(holder.lease.id, 1, &fresh(), None)).await.unwrap();
    assert_eq!(again.lease.generation, 3);

    // And an acknowledgement that arrives late is none either.
    let mut holder = at_two(&world).await;
    let late = world.vend.acknowledge(&operator(), holder.lease.id, 1, Some(&fresh().csr)).await.err().unwrap();
    assert_eq!(late.code(), Code::LeaseState);
    holder.hears_nothing();
    assert_eq!(world.stored(holder.lease.id).await.unwrap(), holder.lease, "it changed nothing");
    assert!(!world.events().iter().any(|event| event.method == "clone/found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_cuts_no_session_of_another_lease() {
    let world = World::new();
    let bystander = world.session(&operator(), "batch", None).await.unwrap();
    let mut holder = Holder::open(&world.vend, operator(), new_lease("batch", &fresh(), None)).await.unwrap();
    until_due(&world.clock, &holder.lease);
    rotate(&world.vend).await;
    holder.next().await;
    holder.acknowledge(&world.vend, None).await;
    let found = world.vend.watch(&operator(), held(holder.lease.id, 1, &fresh(), None)).await.err().unwrap();
    assert_eq!(found.code(), Code::GenerationSuperseded);
    assert_eq!(world.stored(holder.lease.id).await.unwrap().state, LeaseState::Revoked);
    let now = world.vend.now();
    let session = world.cloud.sessions().into_iter().find(|session| session.lease == bystander.lease.id).unwrap();
    assert!(!world.cloud.denies(&session, now), "the caller had no right to cut that");
    let active = world.store.list(&LeaseFilter { state: Some(LeaseState::Active), ..LeaseFilter::default() }, None, 10).await.unwrap();
    assert_eq!(active.leases.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_record_a_clone_is_revoked_once_there_can_be_one() {
    let world = World::new();
    let mut holder = at_two(&world).await;
    world.faults.plan_forever("append", crate::vend::faulty::When::Before);
    let error = world.vend.watch(&operator(), held(holder.lease.id, 1, &fresh(), None)).await.err().unwrap();
    assert_eq!(error.code(), Code::AuditUnavailable);
    world.faults.heal();
    world.settle().await;
    assert_eq!(world.stored(holder.lease.id).await.unwrap().state, LeaseState::Revoked);
    assert_eq!(holder.end().await.code(), Code::LeaseState);
}

/// Between the look at the lease and the mark of where its stream is, its other holder acknowledged a newer generation.
#[tokio::test(flavor = "multi_thread")]
async fn a_clone_that_comes_while_the_lease_moves_gets_nothing() {
    for (rule, state) in [(OnClone::Alert, LeaseState::Active), (OnClone::Revoke, LeaseState::Revoked)] {
        let world = World::new();
        on_clone(&world, rule);
        // Its holder is at another server than the one that the clone turns to.
        let there = world.server(&Faults::default(), WatchLimits { age: SignedDuration::from_hours(240), ..WatchLimits::default() });
        let [second, third] = [fresh(), fresh()];
        let mut holder = Holder::open(&there.vend, operator(), new_lease("web", &fresh(), Some(&second))).await.unwrap();
        holder.acknowledge(&there.vend, None).await;
        until_due(&world.clock, &holder.lease);

        let (gate, id, vend) = (world.faults.hold("swap"), holder.lease.id, world.vend.clone());
        let clone = tokio::spawn(async move { vend.watch(&operator(), held(id, 1, &fresh(), Some(&fresh()))).await.map(drop) });
        while gate.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        rotate(&there.vend).await;
        holder.next().await;
        holder.acknowledge(&there.vend, Some(&third)).await;
        gate.open();
        assert_eq!(clone.await.unwrap().err().unwrap().code(), Code::GenerationSuperseded, "{rule:?}");
        let stored = world.stored(id).await.unwrap();
        assert_eq!((stored.state, stored.generation), (state, 2), "{rule:?}: nothing was made for it");
        assert_eq!(world.events().iter().filter(|event| event.method == "clone/found").count(), 1);
        if rule == OnClone::Alert {
            until_due(&world.clock, &stored);
            rotate(&there.vend).await;
            assert!(third.fits(holder.next().await), "the stream stays where it is");
        }
    }
}
