//! Every kind of credential rotates; one that a remote system makes is covered before it is asked.

use std::sync::atomic::Ordering;

use daypass::model::{
    SignedDuration,
    credential::Credential,
    error::Code,
    event::Outcome,
    lease::{Lease, LeaseState},
    role::RoleSpec,
};

use super::holder::{Holder, change_role, fresh, held, new_lease, rotate, timed_lease, until_due};
use crate::vend::{
    faulty::When,
    world::{World, operator, renewal},
};

fn text(credential: &Credential) -> String {
    match credential {
        Credential::X509(x509) => format!("{:?}", x509.chain_der),
        Credential::Aws(aws) => aws.access_key_id.clone(),
        Credential::Registry(registry) => registry.secret.expose().to_owned(),
        Credential::Jwt(jwt) => jwt.token.expose().to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_rotates() {
    for role in ["deploy", "push", "federate-one"] {
        let world = World::new();
        let role = if role == "federate-one" {
            world.reload(|catalog| {
                let name = "federate".parse().unwrap();
                let mut role = (*catalog.roles[&name]).clone();
                if let RoleSpec::Jwt(jwt) = &mut role.spec {
                    jwt.audiences.truncate(1);
                }
                catalog.roles.insert(name, std::sync::Arc::new(role));
            });
            "federate"
        } else {
            role
        };
        // Short ones: nothing reads the keys that sign JWTs anew here.
        let ttl = SignedDuration::from_mins(if role == "deploy" { 15 } else { 10 });
        let request = timed_lease(role, &fresh(), None, Some(ttl));
        let mut holder = Holder::open(&world.vend, operator(), request).await.unwrap();
        for generation in 2..5 {
            let before = holder.lease.clone();
            until_due(&world.clock, &before);
            rotate(&world.vend).await;
            holder.next().await;
            assert_eq!(holder.lease.generation, generation, "{role}");
            assert!(holder.lease.expires_at > before.expires_at, "{role}");
        }
        let mut all: Vec<String> = holder.credentials.iter().map(text).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 4, "{role}: each is another one");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_system_that_fails_is_asked_again_and_what_it_made_is_covered() {
    for when in [When::Before, When::After] {
        let world = World::new();
        let mut holder = Holder::open(&world.vend, operator(), new_lease("deploy", &fresh(), None)).await.unwrap();
        until_due(&world.clock, &holder.lease);
        world.faults.plan("mint", 0, when);
        rotate(&world.vend).await;
        world.faults.heal();
        holder.hears_nothing();
        let covered = world.stored(holder.lease.id).await.unwrap();
        assert_eq!(covered.generation, 1);
        for session in world.cloud.sessions() {
            assert!(session.expires_at <= covered.expires_at, "{when:?}: a session outlives its lease");
        }
        rotate(&world.vend).await;
        holder.hears_nothing();
        world.clock.forward(SignedDuration::from_secs(2));
        rotate(&world.vend).await;
        holder.next().await;
        assert_eq!(holder.lease.generation, 2, "{when:?}");
        let revoked = world.vend.revoke(&operator(), holder.lease.id, "").await.unwrap();
        assert_eq!(revoked.state, LeaseState::Revoked);
        let now = world.vend.now();
        assert!(world.cloud.sessions().iter().all(|session| world.cloud.denies(session, now)), "{when:?}");
    }
}

/// A session is 15 minutes long at least and ends before its lease does. Its holder is told in time that it must replace the lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_rotated_for_as_long_as_a_remote_system_makes_another() {
    let world = World::new();
    let (ttl, life) = (SignedDuration::from_mins(15), SignedDuration::from_hours(1));
    change_role(&world, "deploy", |role| (role.default_ttl, role.max_ttl, role.max_life) = (ttl, life, life));
    let mut holder = Holder::open(&world.vend, operator(), new_lease("deploy", &fresh(), None)).await.unwrap();
    while holder.lease.rotation().is_some() {
        until_due(&world.clock, &holder.lease);
        rotate(&world.vend).await;
        holder.next().await;
    }
    let Lease { id, generation, expires_at, issued_at, renew_until, .. } = holder.lease;
    assert!(generation >= 4 && expires_at > issued_at + SignedDuration::from_mins(40), "{generation} until {expires_at}");

    // It lives to its end, and nobody is asked for another one.
    while world.vend.now() + SignedDuration::from_secs(30) < expires_at {
        world.clock.forward(SignedDuration::from_secs(20));
        rotate(&world.vend).await;
        holder.hears_nothing();
    }
    assert!(world.events().iter().all(|event| event.outcome == Outcome::Done), "nothing was tried in vain");
    let stored = world.stored(id).await.unwrap();
    assert!(expires_at < renew_until && !stored.renewable(world.vend.now()));
    let refused = world.vend.renew(&operator(), renewal(id, world.input())).await.err().unwrap();
    assert_eq!(refused.code(), Code::NotRenewable);
}

/// Its holder issues another lease while the credential still lives.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_the_remote_system_makes_no_other_session_under_its_lease() {
    let world = World::new();
    let mut holder = Holder::open(&world.vend, operator(), new_lease("deploy", &fresh(), None)).await.unwrap();
    change_role(&world, "deploy", |role| {
        let RoleSpec::Aws(spec) = &mut role.spec else { panic!("another kind") };
        spec.role_arn = "arn:aws:iam::123456789012:role/other".to_owned();
    });
    until_due(&world.clock, &holder.lease);
    rotate(&world.vend).await;
    assert_eq!(holder.end().await.code(), Code::NotRenewable);
    let event = world.events().into_iter().rfind(|event| event.method == "watch/rotate").unwrap();
    assert_eq!((event.outcome, event.reason.as_deref()), (Outcome::Denied, Some("NOT_RENEWABLE")));
    assert_eq!(world.stored(holder.lease.id).await.unwrap().expires_at, holder.lease.expires_at);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_remote_system_holds_up_nothing_that_is_made_here() {
    let world = World::new();
    let [first, second] = [fresh(), fresh()];
    let mut slow = Holder::open(&world.vend, operator(), new_lease("deploy", &first, None)).await.unwrap();
    let request = timed_lease("web", &first, Some(&second), Some(SignedDuration::from_mins(30)));
    let mut quick = Holder::open(&world.vend, operator(), request).await.unwrap();
    // Both are due at two thirds of their life at the latest.
    world.clock.forward(SignedDuration::from_mins(21));
    world.cloud.slow.store(true, Ordering::SeqCst);
    let waiting = tokio::spawn(futures::future::join_all(world.vend.take_remote(8)));
    world.cloud.asked.notified().await;
    while world.vend.rotate_due().await.unwrap() > 0 {}
    assert!(second.fits(quick.next().await));
    slow.hears_nothing();
    world.cloud.go.notify_one();
    waiting.await.unwrap();
    slow.next().await;
    assert_eq!(slow.lease.generation, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_session_is_made_up_for() {
    let world = World::new();
    let mut holder = Holder::open(&world.vend, operator(), new_lease("deploy", &fresh(), None)).await.unwrap();
    holder.acknowledge(&world.vend, None).await;
    let id = holder.lease.id;
    until_due(&world.clock, &holder.lease);
    rotate(&world.vend).await;
    drop(holder);
    let again = Holder::open(&world.vend, operator(), held(id, 1, &fresh(), None)).await.unwrap();
    assert_eq!((again.lease.generation, again.credentials.len()), (3, 1));
    let refused = world.vend.watch(&operator(), held(id, 4, &fresh(), None)).await.err().unwrap();
    assert_eq!(refused.code(), Code::LeaseState);
}
