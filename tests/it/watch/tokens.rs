//! The holder of a token gets no further than its role allows without a fresh one.

use daypass::{
    model::{SignedDuration, error::Code, identity::Proof, lease::LeaseState},
    vend::Call,
};

use super::holder::{Holder, fresh, held, new_lease, rotate, until_due};
use crate::vend::world::{World, job};

/// Rotates until the stream ends; gives the generations that came and the reason.
async fn to_its_end(world: &World, holder: &mut Holder) -> Code {
    loop {
        until_due(&world.clock, &holder.lease);
        rotate(&world.vend).await;
        match holder.read().await {
            Ok(watched) => assert!(watched.credential.is_some()),
            Err(error) => return error.code(),
        }
        holder.acknowledge(&world.vend, Some(&fresh())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_goes_as_far_as_its_token_vouches_and_on_with_a_fresh_one() {
    let world = World::new();
    let shown_at = world.vend.now();
    let mut holder = Holder::open(&world.vend, job(1), new_lease("web", &fresh(), Some(&fresh()))).await.unwrap();
    assert_eq!(to_its_end(&world, &mut holder).await, Code::TokenExpired);
    let hour = SignedDuration::from_hours(1);
    assert_eq!(holder.lease.expires_at, shown_at + hour, "max_life_per_token of the role");
    assert!(world.vend.now() < holder.lease.expires_at, "told while the credential still lives");
    let stored = world.stored(holder.lease.id).await.unwrap();
    assert_eq!((stored.state, &stored), (LeaseState::Active, &holder.lease));
    let event = world.events().into_iter().rfind(|event| event.method == "watch/rotate").unwrap();
    assert_eq!(event.reason.as_deref(), Some("TOKEN_EXPIRED"));

    let (id, generation) = (holder.lease.id, holder.lease.generation);
    let used = world.vend.watch(&job(1), held(id, generation, &fresh(), None)).await.err().unwrap();
    assert_eq!(used.code(), Code::TokenReplayed, "the token that was used up carries it no further");
    let fresh_at = world.vend.now();
    let mut again = Holder::open(&world.vend, job(2), held(id, generation, &fresh(), Some(&fresh()))).await.unwrap();
    assert_eq!(to_its_end(&world, &mut again).await, Code::TokenExpired);
    let end = again.lease.expires_at;
    assert!(end <= fresh_at + hour && end > fresh_at + hour - SignedDuration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_has_expired_meanwhile_ends_nothing() {
    let world = World::new();
    let call = job(1);
    let Proof::Token { token, .. } = &call.identity.proof else { panic!("no token") };
    let expires_at = token.expires_at;
    let second = fresh();
    let mut holder = Holder::open(&world.vend, call.clone(), new_lease("web", &fresh(), Some(&second))).await.unwrap();
    until_due(&world.clock, &holder.lease);
    assert!(world.vend.now() > expires_at || holder.lease.rotation().unwrap().start < expires_at);
    world.clock.forward(SignedDuration::from_mins(5));
    rotate(&world.vend).await;
    assert!(second.fits(holder.next().await));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_watch_again_is_no_replay_and_another_one_is() {
    let world = World::new();
    let [first, other] = [fresh(), fresh()];
    let holder = Holder::open(&world.vend, job(1), new_lease("web", &first, None)).await.unwrap();
    let id = holder.lease.id;
    let open = async |call: Call, key: &super::holder::Fresh| world.vend.watch(&call, held(id, 1, key, None)).await.map(drop).err();
    assert!(open(job(2), &first).await.is_none());
    assert!(open(job(2), &first).await.is_none(), "a retry");
    assert_eq!(open(job(2), &other).await.unwrap().code(), Code::TokenReplayed);
}
