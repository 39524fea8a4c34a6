//! Which of its certificates the holder of an enrolled lease may show, whatever came in between.

use daypass::{
    model::{
        error::Code,
        lease::{Change, Lease, LeaseState},
        request::Input,
    },
    vend::{Call, HeldLease, WatchRequest, WatchWhat},
};
use futures::StreamExt;

use super::world::{Key, World, failed};

/// A lease at generation 3 of which the first was acknowledged, and the holders of the first and the third.
async fn at_three(world: &World) -> (Lease, Call, Call) {
    let (lease, first) = world.agent("acme").await;
    world.renew(&first, lease.id, Some(1)).await.unwrap();
    let (lease, third) = world.renew(&first, lease.id, Some(1)).await.unwrap();
    assert_eq!((lease.generation, lease.acknowledged), (3, 1));
    (lease, first, third)
}

/// Were one in between acknowledged, whoever has it might show it.
#[tokio::test(flavor = "multi_thread")]
async fn none_but_the_newest_can_be_acknowledged() {
    let world = World::on_sqlite();
    let (lease, _, third) = at_three(&world).await;
    let vend = &world.servers[0].vend;
    let error = failed(vend.acknowledge(&third, lease.id, 2, None).await);
    assert_eq!(error.code(), Code::LeaseState, "{error}");
    assert_eq!(world.stored(lease.id).await, lease, "it changed nothing");
    assert!(lease.apply(Change::Acknowledge { generation: 2, next_key: None }).is_err());
    assert_eq!(vend.acknowledge(&third, lease.id, 3, None).await.unwrap().acknowledged, 3);
    assert_eq!(world.stored(lease.id).await.state, LeaseState::Active);
}

/// Between the look at the lease and the write of what was made, another holder acknowledged the newest.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_an_acknowledgement_overtakes_is_not_written() {
    let world = World::on_sqlite();
    let (lease, first, third) = at_three(&world).await;
    let renew = |lease: &Lease, shown| {
        lease.apply(Change::Renew {
            at: world.servers[0].vend.now(),
            expires_at: lease.expires_at,
            handle: lease.handle.clone(),
            shown: Some(shown),
        })
    };
    assert_eq!(renew(&lease, 1).unwrap().acknowledged, 1);
    let acknowledged = world.servers[0].vend.acknowledge(&third, lease.id, 3, None).await.unwrap();
    assert!(renew(&acknowledged, 1).is_err() && renew(&acknowledged, 2).is_err());
    assert_eq!(renew(&acknowledged, 3).unwrap().generation, 4);
    assert_eq!(failed(world.renew(&first, lease.id, None).await).code(), Code::GenerationSuperseded);
}

/// A stream gives no certificate to who opened it with one that another superseded since.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_who_shows_an_older_certificate_ends_when_it_is_due() {
    let world = World::on_sqlite();
    let (lease, first) = world.agent("acme").await;
    let Input::X509 { csr_der } = Key::new().csr() else { panic!("no CSR") };
    let what = WatchWhat::Held(HeldLease { id: lease.id, generation: 1, ttl: None, input: Input::None });
    let vend = &world.servers[0].vend;
    let mut watched = vend.watch(&first, WatchRequest { what, next_csr: Some(csr_der) }).await.unwrap();
    assert!(watched.stream.next().await.unwrap().is_ok());
    let (_, second) = world.renew(&first, lease.id, Some(1)).await.unwrap();
    let Input::X509 { csr_der } = Key::new().csr() else { panic!("no CSR") };
    let now = vend.acknowledge(&second, lease.id, 2, Some(&csr_der)).await.unwrap();

    world.clock.forward(now.rotation().unwrap().start.duration_since(vend.now()));
    while vend.rotate_due().await.unwrap() > 0 {}
    let moved = watched.stream.next().await.unwrap().unwrap();
    assert!(moved.credential.is_none() && moved.lease.generation == 2, "that its holder renewed it is told");
    world.clock.forward(daypass::model::SignedDuration::from_secs(1));
    while vend.rotate_due().await.unwrap() > 0 {}
    let ended = watched.stream.next().await.unwrap().err().expect("it ends");
    assert_eq!(ended.code(), Code::GenerationSuperseded, "{ended}");
    assert_eq!(world.stored(lease.id).await.generation, 2, "nothing was made");
}
