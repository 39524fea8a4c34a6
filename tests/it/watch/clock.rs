//! A wall clock that jumps forward, or a machine that slept: what is due then comes at once.

use daypass::{background, model::SignedDuration};
use tokio::sync::watch;

use super::holder::{Holder, fresh, timed_lease, until_due};
use crate::vend::world::{World, operator};

#[tokio::test(flavor = "multi_thread")]
async fn rotation_goes_on_after_a_jump() {
    let mut world = World::new();
    world.only_passes().await;
    let ((stop, shutdown), (_settled, settled)) = (watch::channel(false), watch::channel(true));
    let mut passes = background::start(&world.vend, &shutdown, &settled);
    let second = fresh();
    let mut holders = Vec::new();
    for role in ["web", "deploy"] {
        let request = timed_lease(role, &fresh(), Some(&second), Some(SignedDuration::from_mins(30)));
        holders.push(Holder::open(&world.vend, operator(), request).await.unwrap());
    }
    for holder in &holders {
        until_due(&world.clock, &holder.lease);
    }
    assert!(world.vend.now() > holders[0].lease.issued_at + SignedDuration::from_mins(5), "further than any clock is slewed");
    for holder in &mut holders {
        holder.next().await;
    }
    stop.send_replace(true);
    while passes.join_next().await.is_some() {}
}
