//! Every step of a rotation fails, before and after it has had its effect: no credential leaves without its record, no generation is made
//! twice, and the holder gets the next one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use daypass::{
    audit::read,
    model::{
        SignedDuration,
        error::Code,
        event::{Event, Outcome},
        lease::{Lease, LeaseId},
        role::RoleSpec,
    },
    store::redis::{RedisOptions, RedisStore},
};

use super::holder::{Fresh, Holder, change_role, fresh, held, new_lease, until_due};
use crate::{
    support::redis::Redis,
    vend::{
        faulty::When,
        world::{World, operator},
    },
};

/// Turns of the pass until nothing is due, whatever fails.
async fn rotate_through(world: &World) {
    for _ in 0..20 {
        let _tried_again = world.vend.rotate_due().await;
        for work in world.vend.take_remote(8) {
            work.await;
        }
        world.clock.forward(SignedDuration::from_secs(5));
    }
}

/// The holder reads until it has a generation past `after`, and takes the lease up again whenever its stream ends.
async fn reach(world: &World, mut holder: Holder, after: u32, spare: &Fresh) -> Holder {
    for _ in 0..10 {
        while holder.lease.generation <= after {
            match holder.read().await {
                Ok(watched) => holder.credentials.extend(watched.credential),
                Err(_) => break,
            }
        }
        if holder.lease.generation > after {
            return holder;
        }
        let (id, generation) = (holder.lease.id, holder.lease.generation);
        holder = Holder::open(&world.vend, operator(), held(id, generation, spare, None)).await.unwrap();
        rotate_through(world).await;
    }
    panic!("generation {after} is never passed");
}

/// The generations of a lease that went on record as made.
fn generations(world: &World, id: LeaseId) -> BTreeMap<u32, usize> {
    let records = read::records(&world.dir.path().join("audit"), 0).unwrap();
    let events = records.map(|record| serde_json::from_str::<Event>(&record.unwrap().1).unwrap());
    // What a policy allowed and was made; a reservation is none yet.
    let made = events.filter(|event| event.lease_id == Some(id) && !event.policies.is_empty() && !event.method.ends_with("/reserve"));
    let mut count = BTreeMap::new();
    for lease in made.filter_map(|event| event.lease) {
        *count.entry(lease.generation).or_default() += 1;
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_the_holder_gets_the_next_one_and_none_twice() {
    for role in ["web", "push", "deploy"] {
        for operation in ["get", "swap", "append", "mint"] {
            for nth in 0..3 {
                for when in [When::Before, When::After] {
                    let world = World::new();
                    let [first, second, spare] = [fresh(), fresh(), fresh()];
                    let mut holder = Holder::open(&world.vend, operator(), new_lease(role, &first, Some(&second))).await.unwrap();
                    let id = holder.lease.id;
                    until_due(&world.clock, &holder.lease);
                    world.faults.plan(operation, nth, when);
                    rotate_through(&world).await;
                    world.faults.heal();
                    holder = reach(&world, holder, 1, &spare).await;
                    let at = format!("{role} {operation} {nth} {when:?}");
                    let stored = world.stored(id).await.unwrap();
                    assert_eq!(stored.generation, holder.lease.generation, "{at}");
                    assert!(stored.generation <= 3, "{at}: {}", stored.generation);
                    assert!(stored.expires_at > world.vend.now(), "{at}: it lapsed");
                    let twice: Vec<_> = generations(&world, id).into_iter().filter(|(_, count)| *count > 1).collect();
                    assert!(twice.is_empty(), "{at}: {twice:?}");
                    if role == "deploy" {
                        world.vend.revoke(&operator(), id, "").await.unwrap();
                        let now = world.vend.now();
                        assert!(world.cloud.sessions().iter().all(|session| world.cloud.denies(session, now)), "{at}: a session escaped");
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaves_that_is_not_on_record() {
    for role in ["web", "deploy"] {
        let world = World::new();
        let mut holder = Holder::open(&world.vend, operator(), new_lease(role, &fresh(), Some(&fresh()))).await.unwrap();
        until_due(&world.clock, &holder.lease);
        world.faults.plan_forever("append", When::Before);
        rotate_through(&world).await;
        use futures::{FutureExt, StreamExt};
        let left = holder.stream.next().now_or_never().flatten().is_some_and(|heard| heard.is_ok());
        assert!(!left, "{role}: a credential left without its record");
        world.faults.heal();
        let id = holder.lease.id;
        drop(holder);
        let holder = Holder::open(&world.vend, operator(), held(id, 1, &fresh(), None)).await.unwrap();
        rotate_through(&world).await;
        reach(&world, holder, 1, &fresh()).await;
    }
}

/// Eight certificates may live under a lease: were one made at each try, none could be made when the log is back.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_made_while_the_log_is_away_and_all_goes_on_after_it() {
    for role in ["web", "push", "deploy"] {
        let world = World::new();
        let [first, second] = [fresh(), fresh()];
        let mut holder = Holder::open(&world.vend, operator(), new_lease(role, &first, Some(&second))).await.unwrap();
        let before = world.stored(holder.lease.id).await.unwrap();
        until_due(&world.clock, &holder.lease);
        world.faults.log_away();
        for _ in 0..12 {
            rotate_through(&world).await;
            world.clock.forward(SignedDuration::from_secs(-100));
        }
        holder.hears_nothing();
        assert_eq!(world.stored(before.id).await.unwrap(), before, "{role}: it was not even claimed");

        world.faults.heal();
        world.clock.forward(SignedDuration::from_secs(60));
        rotate_through(&world).await;
        holder.next().await;
        assert_eq!(holder.lease.generation, 2, "{role}");

        // Nor is one made up for.
        let (id, kept) = (before.id, world.stored(before.id).await.unwrap());
        drop(holder);
        world.faults.log_away();
        for _ in 0..12 {
            let refused = world.vend.watch(&operator(), held(id, 1, &first, None)).await.err().unwrap();
            assert_eq!(refused.code(), Code::AuditUnavailable, "{role}");
        }
        assert_eq!(world.stored(id).await.unwrap(), kept, "{role}");
        world.faults.heal();
        let again = Holder::open(&world.vend, operator(), held(id, 1, &first, None)).await.unwrap();
        assert_eq!((again.lease.generation, again.credentials.len()), (3, 1), "{role}");
    }
}

/// A key that cannot sign, with many leases that are due: their records share one write, or the pass would do nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn what_fails_together_goes_on_record_together() {
    const LEASES: usize = 20;
    let world = World::new();
    let mut holders = Vec::new();
    for _ in 0..LEASES {
        holders.push(Holder::open(&world.vend, operator(), new_lease("push", &fresh(), None)).await.unwrap());
    }
    change_role(&world, "push", |role| {
        let RoleSpec::Registry(spec) = &mut role.spec else { panic!("another kind") };
        spec.registry = "gone".parse().unwrap();
    });
    for holder in &holders {
        until_due(&world.clock, &holder.lease);
    }
    world.faults.heal();
    assert_eq!(world.vend.rotate_due().await.unwrap(), LEASES);
    assert_eq!(world.faults.heal()["append"], 1);
    let failed = world.events().into_iter().filter(|event| event.method == "watch/rotate" && event.outcome != Outcome::Done);
    let leases: BTreeSet<_> = failed.filter_map(|event| event.lease_id).collect();
    assert_eq!(leases.len(), LEASES, "each of them");

    // And each is tried again.
    world.reload(|_| ());
    rotate_through(&world).await;
    for holder in &mut holders {
        holder.next().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lost_a_rotation_makes_no_generation_twice() {
    let world = World::new();
    let mut holder = Holder::open(&world.vend, operator(), new_lease("push", &fresh(), None)).await.unwrap();
    let before = world.stored(holder.lease.id).await.unwrap();
    until_due(&world.clock, &holder.lease);
    while world.vend.rotate_due().await.unwrap() > 0 {}
    holder.next().await;
    let after = holder.lease.clone();

    // A failover forgot what was made: the lease is as it was, and due.
    let forgetful = World::new();
    assert_eq!(forgetful.store.restore(&[before]).await.unwrap(), 1);
    let other = Holder::open(&forgetful.vend, operator(), held(after.id, 1, &fresh(), None)).await.unwrap();
    assert_eq!(other.lease.generation, 1);
    drop(other);

    let snapshots: Vec<_> = read::leases_since(&world.dir.path().join("audit"), after.issued_at).unwrap().map(Result::unwrap).collect();
    assert_eq!(forgetful.vend.reconcile(snapshots).await.unwrap(), 1);
    let restored = forgetful.stored(after.id).await.unwrap();
    assert_eq!((restored.generation, restored.made_at()), (2, after.made_at()), "the log gives it back");
}

/// The stream goes on at a server that knows better than a store that was emptied by a failover.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_waits_until_a_store_that_lost_its_rotation_has_it_back() {
    let redis = Redis::start();
    let world = World::on(Arc::new(RedisStore::new(RedisOptions::new(redis.url())).unwrap()));
    // One that is due early: the first credential still lives when the third is due.
    let mut holder = loop {
        let holder = Holder::open(&world.vend, operator(), new_lease("push", &fresh(), None)).await.unwrap();
        let Lease { issued_at, expires_at, .. } = holder.lease;
        if holder.lease.rotation().unwrap().start.duration_since(issued_at) < expires_at.duration_since(issued_at) / 5 * 2 {
            break holder;
        }
    };
    let before = world.stored(holder.lease.id).await.unwrap();
    until_due(&world.clock, &before);
    while world.vend.rotate_due().await.unwrap() > 0 {}
    holder.next().await;
    let after = world.stored(before.id).await.unwrap();
    assert_eq!((before.generation, after.generation), (1, 2));

    redis.cli(&["FLUSHALL"]);
    assert_eq!(world.store.restore(std::slice::from_ref(&before)).await.unwrap(), 1);
    until_due(&world.clock, &after);
    while world.vend.rotate_due().await.unwrap() > 0 {}
    assert_eq!(world.stored(before.id).await.unwrap().generation, 1, "the second was made before");
    holder.hears_nothing();

    assert_eq!(world.vend.reconcile(vec![after]).await.unwrap(), 1);
    world.clock.forward(SignedDuration::from_secs(5));
    while world.vend.rotate_due().await.unwrap() > 0 {}
    holder.next().await;
    assert_eq!(holder.lease.generation, 3);
    assert!(generations(&world, before.id).values().all(|count| *count == 1), "none twice");
}
