//! A server is gone and all its holders come to another one: they take turns at the store.

use std::time::{Duration, Instant};

use daypass::vend::TAKEN_UP_AT_ONCE_PER_CALLER;
use futures::future::join_all;

use super::holder::{Holder, fresh, held, new_lease, rotate, until_due};
use crate::vend::{
    faulty::Gate,
    world::{World, job, operator},
};

const PATIENCE: Duration = Duration::from_secs(20);

async fn until_waiting(gate: &Gate, count: usize) {
    let end = Instant::now() + PATIENCE;
    while gate.waiting() < count {
        assert!(Instant::now() < end, "{} of {count} came to the store", gate.waiting());
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn those_of_one_caller_come_to_the_store_a_few_at_a_time_and_all_are_taken_up() {
    let world = World::new();
    let (key, dead) = (fresh(), world.another());
    let mut leases = Vec::new();
    for _ in 0..3 * TAKEN_UP_AT_ONCE_PER_CALLER {
        leases.push(Holder::open(&dead.vend, operator(), new_lease("web", &key, None)).await.unwrap().lease);
    }
    let of_another = Holder::open(&dead.vend, job(1), new_lease("web", &key, None)).await.unwrap().lease;

    let gate = world.faults.hold("get");
    let take_up = |call, id| {
        let (vend, key) = (world.vend.clone(), fresh());
        tokio::spawn(async move { Holder::open(&vend, call, held(id, 1, &key, None)).await })
    };
    let taking: Vec<_> = leases.iter().map(|lease| take_up(operator(), lease.id)).collect();
    until_waiting(&gate, TAKEN_UP_AT_ONCE_PER_CALLER).await;
    // Another caller does not stand behind them.
    let others = take_up(job(2), of_another.id);
    until_waiting(&gate, TAKEN_UP_AT_ONCE_PER_CALLER + 1).await;
    for _ in 0..1000 {
        tokio::task::yield_now().await;
        assert_eq!(gate.waiting(), TAKEN_UP_AT_ONCE_PER_CALLER + 1);
    }

    gate.open();
    let mut holders: Vec<Holder> = join_all(taking).await.into_iter().map(|holder| holder.unwrap().unwrap()).collect();
    holders.push(others.await.unwrap().unwrap());
    assert_eq!(world.vend.watches().len(), holders.len());

    // And the turns are free again.
    let next = fresh();
    let mut again = Holder::open(&world.vend, operator(), held(leases[0].id, 1, &fresh(), Some(&next))).await.unwrap();
    until_due(&world.clock, &again.lease);
    rotate(&world.vend).await;
    assert!(next.fits(again.next().await));
}
