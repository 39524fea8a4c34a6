//! Two servers over one store: none rotates what is the other's, none is missed when one dies.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use daypass::{
    model::{
        SignedDuration,
        error::Code,
        lease::{CLAIM_LIFE, Change, Claim, Lease, LeaseId, ServerId},
    },
    store::{
        LeaseStore, Swap,
        redis::{RedisOptions, RedisStore},
    },
    vend::{SeenRevoked, Vend, WatchLimits},
};

use super::holder::{Holder, fresh, held, new_lease, rotate, until_due};
use crate::{
    support::redis::Redis,
    vend::{
        faulty::{Faults, When},
        world::{Server, World, operator},
    },
};

/// A world over SQLite, and one over Redis.
fn worlds() -> Vec<(World, Option<Redis>)> {
    let redis = Redis::start();
    let options = RedisOptions { timeout: Duration::from_secs(5), ..RedisOptions::new(redis.url()) };
    let store: Arc<dyn LeaseStore> = Arc::new(RedisStore::new(options).unwrap());
    vec![(World::new(), None), (World::on(store), Some(redis))]
}

fn another(world: &World, faults: &Faults) -> Server {
    world.server(faults, WatchLimits { age: SignedDuration::from_hours(240), ..WatchLimits::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_with_the_newer_stream_rotates_and_the_other_one_ends_its_own() {
    for (world, _redis) in worlds() {
        let other = another(&world, &world.faults);
        let [first, second] = [fresh(), fresh()];
        let mut old = Holder::open(&world.vend, operator(), new_lease("web", &first, Some(&second))).await.unwrap();
        let mut new = Holder::open(&other.vend, operator(), held(old.lease.id, 1, &fresh(), None)).await.unwrap();
        until_due(&world.clock, &new.lease);
        rotate(&world.vend).await;
        assert_eq!(old.end().await.code(), Code::WatchTakenOver);
        assert_eq!(world.stored(new.lease.id).await.unwrap().generation, 1, "it must not rotate any more");
        rotate(&other.vend).await;
        assert!(second.fits(new.next().await));

        // And back again, over a generation that the first server never made.
        let third = fresh();
        let mut back = Holder::open(&world.vend, operator(), held(new.lease.id, 2, &fresh(), Some(&third))).await.unwrap();
        until_due(&world.clock, &back.lease);
        rotate(&other.vend).await;
        rotate(&world.vend).await;
        assert_eq!(new.end().await.code(), Code::WatchTakenOver);
        assert!(third.fits(back.next().await));
        assert_eq!(back.lease.generation, 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_with_a_claim_is_waited_for_and_then_taken_over() {
    for (world, _redis) in worlds() {
        let faults = Faults::default();
        let dying = another(&world, &faults);
        let [first, second] = [fresh(), fresh()];
        let holder = Holder::open(&dying.vend, operator(), new_lease("web", &first, Some(&second))).await.unwrap();
        let lease = holder.lease.clone();
        until_due(&world.clock, &lease);
        // The claim is written, and then it is gone.
        faults.plan_forever("swap", When::After);
        assert!(dying.vend.rotate_due().await.is_err());
        let claimed = world.stored(lease.id).await.unwrap();
        assert!(claimed.claim.unwrap().is_live(world.vend.now()) && claimed.generation == 1);
        drop((holder, dying));

        let mut again = Holder::open(&world.vend, operator(), held(lease.id, 1, &fresh(), None)).await.unwrap();
        rotate(&world.vend).await;
        again.hears_nothing();
        world.clock.forward(CLAIM_LIFE);
        rotate(&world.vend).await;
        assert!(second.fits(again.next().await), "its key is still there");
        assert_eq!(again.lease.generation, 2);
        assert_eq!(made(&world).get(&(lease.id, 2)), Some(&1));
    }
}

/// The lease of a holder that left, due and claimed by a server that is making its next credential.
async fn claimed_elsewhere(world: &World, lease: &Lease) {
    let claim = Claim::to_rotate(ServerId(7), world.vend.now());
    let claimed = world.stored(lease.id).await.unwrap().apply(Change::Claim(claim)).unwrap();
    assert_eq!(world.store.swap(&[claimed]).await.unwrap(), [Swap::Done]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_made_while_a_stream_is_opened_is_waited_for() {
    let world = World::new();
    let second = fresh();
    let lease = Holder::open(&world.vend, operator(), new_lease("web", &fresh(), Some(&second))).await.unwrap().lease;
    until_due(&world.clock, &lease);
    let (gate, vend, id) = (world.faults.hold("swap"), world.vend.clone(), lease.id);
    let opening = tokio::spawn(async move { Holder::open(&vend, operator(), held(id, 1, &fresh(), None)).await.unwrap() });
    while gate.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    claimed_elsewhere(&world, &lease).await;
    gate.open();
    let mut again = opening.await.unwrap();
    rotate(&world.vend).await;
    again.hears_nothing();
    world.clock.forward(CLAIM_LIFE);
    rotate(&world.vend).await;
    assert!(second.fits(again.next().await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_waited_for_whatever_hurries() {
    let world = World::new();
    let second = fresh();
    let lease = Holder::open(&world.vend, operator(), new_lease("web", &fresh(), Some(&second))).await.unwrap().lease;
    let mut seen = SeenRevoked::default();
    world.vend.see_revoked(&mut seen).await.unwrap();
    until_due(&world.clock, &lease);
    claimed_elsewhere(&world, &lease).await;
    let mut again = Holder::open(&world.vend, operator(), held(lease.id, 1, &fresh(), None)).await.unwrap();
    // The next key makes the stream be looked at; so does a list of revocations that was not seen for long.
    again.acknowledge(&world.vend, Some(&second)).await;
    rotate(&world.vend).await;
    again.hears_nothing();
    world.vend.see_revoked(&mut seen).await.unwrap();
    rotate(&world.vend).await;
    again.hears_nothing();
    world.clock.forward(CLAIM_LIFE);
    rotate(&world.vend).await;
    assert!(second.fits(again.next().await));
}

/// A server whose clock is an hour ahead claims for an hour longer; the holder of a lease that dies sooner must not wait so long.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_by_a_clock_that_is_ahead_is_waited_for_no_longer_than_any() {
    let world = World::new();
    let second = fresh();
    let holder = Holder::open(&world.vend, operator(), new_lease("web", &fresh(), Some(&second))).await.unwrap();
    let lease = holder.lease.clone();
    drop(holder);
    until_due(&world.clock, &lease);
    let claim = Claim::to_rotate(ServerId(7), world.vend.now() + SignedDuration::from_hours(1));
    let claimed = world.stored(lease.id).await.unwrap().apply(Change::Claim(claim)).unwrap();
    assert_eq!(world.store.swap(&[claimed]).await.unwrap(), [Swap::Done]);

    let mut again = Holder::open(&world.vend, operator(), held(lease.id, 1, &fresh(), None)).await.unwrap();
    rotate(&world.vend).await;
    again.hears_nothing();
    world.clock.forward(CLAIM_LIFE);
    rotate(&world.vend).await;
    assert!(second.fits(again.next().await));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_slow_server_makes_after_it_was_taken_over_goes_nowhere() {
    let world = World::new();
    let slow = another(&world, &world.faults);
    let mut old = Holder::open(&slow.vend, operator(), new_lease("deploy", &fresh(), None)).await.unwrap();
    until_due(&world.clock, &old.lease);
    world.cloud.slow.store(true, std::sync::atomic::Ordering::SeqCst);
    let work = slow.vend.take_remote(1).pop().unwrap();
    let work = tokio::spawn(work);
    world.cloud.asked.notified().await;
    // The holder is impatient.
    let mut new = Holder::open(&world.vend, operator(), held(old.lease.id, 1, &fresh(), None)).await.unwrap();
    world.cloud.slow.store(false, std::sync::atomic::Ordering::SeqCst);
    world.cloud.go.notify_one();
    work.await.unwrap();
    old.hears_nothing();
    assert_eq!(world.stored(new.lease.id).await.unwrap().generation, 1);
    world.clock.forward(CLAIM_LIFE);
    rotate(&world.vend).await;
    new.next().await;
    assert_eq!(new.lease.generation, 2);
    world.vend.revoke(&operator(), new.lease.id, "").await.unwrap();
    let now = world.vend.now();
    assert!(world.cloud.sessions().iter().all(|session| world.cloud.denies(session, now)), "what went nowhere is denied, too");
}

/// How often each generation went on record as made.
fn made(world: &World) -> BTreeMap<(LeaseId, u32), usize> {
    let mut count = BTreeMap::new();
    // What a policy allowed and was made; a reservation is none yet.
    for event in world.events().into_iter().filter(|event| !event.policies.is_empty() && !event.method.ends_with("/reserve")) {
        if let Some(lease) = event.lease {
            *count.entry((lease.id, lease.generation)).or_default() += 1;
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn none_is_missed_and_none_is_made_twice_when_one_of_two_dies() {
    const LEASES: usize = 60;
    for (world, _redis) in worlds() {
        let dying = another(&world, &Faults::default());
        let mut holders = Vec::new();
        for n in 0..LEASES {
            let vend: &Arc<Vend> = if n % 2 == 0 { &world.vend } else { &dying.vend };
            holders.push(Holder::open(vend, operator(), new_lease("push", &fresh(), None)).await.unwrap());
        }
        let end = world.vend.now() + SignedDuration::from_mins(90);
        let half = world.vend.now() + SignedDuration::from_mins(40);
        let mut dying = Some(dying);
        while world.vend.now() < end {
            world.clock.forward(SignedDuration::from_secs(20));
            // Both turn at the same moment.
            match &dying {
                Some(server) => drop(tokio::join!(rotate(&world.vend), rotate(&server.vend))),
                None => rotate(&world.vend).await,
            }
            if world.vend.now() >= half && dying.take().is_some() {
                for holder in holders.iter_mut().skip(1).step_by(2) {
                    let request = held(holder.lease.id, holder.lease.generation, &fresh(), None);
                    let again = Holder::open(&world.vend, operator(), request).await.unwrap();
                    assert!(again.lease.generation <= holder.lease.generation + 2, "at most one was lost on the way");
                    *holder = again;
                }
            }
            for holder in &mut holders {
                drain(&world, holder).await;
                assert!(holder.lease.expires_at > world.vend.now(), "a lease lapsed");
            }
        }
        assert!(holders.iter().all(|holder| holder.lease.generation >= 5));
        let made = made(&world);
        assert!(made.values().all(|count| *count == 1), "{made:?}");
        for holder in &holders {
            assert!((1..=holder.lease.generation).all(|generation| made.contains_key(&(holder.lease.id, generation))));
        }
    }
}

/// Reads what has come; takes the lease up again when its stream has grown old.
async fn drain(world: &World, holder: &mut Holder) {
    use futures::{FutureExt, StreamExt};
    while let Some(heard) = holder.stream.next().now_or_never() {
        match heard {
            Some(Ok(watched)) => {
                assert_eq!(watched.lease.generation, holder.lease.generation + 1, "one after the other");
                assert!(watched.credential.is_some());
                holder.lease = watched.lease;
            }
            Some(Err(error)) => {
                assert_eq!(error.code(), Code::Unavailable, "{error}");
                let request = held(holder.lease.id, holder.lease.generation, &fresh(), None);
                *holder = Holder::open(&world.vend, operator(), request).await.unwrap();
            }
            None => panic!("it ended before"),
        }
    }
}
