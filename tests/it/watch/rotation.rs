//! When credentials come, and for which key.

use daypass::model::{
    SignedDuration,
    error::Code,
    event::Outcome,
    lease::{Handle, Lease, LeaseState},
};
use proptest::prelude::*;

use super::holder::{Holder, change_role, fresh, held, named_lease, new_lease, rotate, timed_lease, until_due};
use crate::vend::world::{World, job, operator, renewal, serials};

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_comes_when_it_is_due_for_the_key_given_ahead() {
    let world = World::new();
    let [first, second, third] = [fresh(), fresh(), fresh()];
    let mut holder = Holder::open(&world.vend, operator(), new_lease("web", &first, Some(&second))).await.unwrap();
    assert!(first.fits(&holder.credentials[0]));
    assert_eq!((holder.lease.generation, holder.lease.acknowledged), (1, 0));
    let begun = holder.lease.clone();

    until_due(&world.clock, &holder.lease);
    world.clock.forward(SignedDuration::from_millis(-1));
    rotate(&world.vend).await;
    holder.hears_nothing();

    world.clock.forward(SignedDuration::from_millis(1));
    rotate(&world.vend).await;
    assert!(second.fits(holder.next().await), "for the key that was given ahead");
    assert_eq!(holder.lease.generation, 2);
    assert!(holder.lease.expires_at > begun.expires_at);
    assert_eq!(serials(&holder.lease).len(), 2, "a revoke reaches the one before, too");
    assert_eq!(world.stored(begun.id).await.unwrap(), holder.lease);
    let Handle::X509 { next_key, .. } = &holder.lease.handle else { panic!("no certificate") };
    assert_eq!(*next_key, None, "a key is used once");

    // Without another key there is nothing to make a certificate from.
    until_due(&world.clock, &holder.lease);
    rotate(&world.vend).await;
    holder.hears_nothing();
    holder.acknowledge(&world.vend, Some(&third)).await;
    assert_eq!(holder.lease.acknowledged, 2);
    rotate(&world.vend).await;
    assert!(third.fits(holder.next().await), "as soon as the key is there");

    let on_record: Vec<_> = world.events().into_iter().filter(|event| event.method == "watch/rotate").collect();
    let generations: Vec<_> = on_record.iter().map(|event| event.lease.as_ref().unwrap().generation).collect();
    assert_eq!(generations, [2, 3]);
    assert!(on_record.iter().all(|event| event.outcome == Outcome::Done && !event.policies.is_empty() && event.actor.is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_until_the_lease_may_not_and_ends_with_the_lease() {
    let world = World::new();
    let mut keys = vec![fresh(), fresh()];
    let mut holder = Holder::open(&world.vend, operator(), new_lease("web", &keys[0], Some(&keys[1]))).await.unwrap();
    while holder.lease.rotation().is_some() {
        until_due(&world.clock, &holder.lease);
        rotate(&world.vend).await;
        assert!(keys.last().unwrap().fits(holder.next().await));
        keys.push(fresh());
        holder.acknowledge(&world.vend, keys.last()).await;
    }
    assert!(holder.lease.generation > 30, "8 hours of 15 minutes each: {}", holder.lease.generation);
    assert_eq!(holder.lease.expires_at, holder.lease.renew_until);
    let rest = holder.lease.expires_at.duration_since(world.vend.now());
    world.clock.forward(rest);
    rotate(&world.vend).await;
    assert_eq!(holder.end().await.code(), Code::LeaseState);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_that_was_asked_for_stays() {
    let world = World::new();
    let [first, second] = [fresh(), fresh()];
    let ttl = SignedDuration::from_mins(3);
    let mut holder = Holder::open(&world.vend, operator(), timed_lease("web", &first, Some(&second), Some(ttl))).await.unwrap();
    until_due(&world.clock, &holder.lease);
    rotate(&world.vend).await;
    holder.next().await;
    let life = holder.lease.expires_at.duration_since(holder.lease.made_at());
    assert!(life <= ttl && life > ttl - SignedDuration::from_secs(1), "{life:?}");
}

/// The role was changed to give shorter lives: until one of those ends later than what the holder has, none is of use.
#[tokio::test(flavor = "multi_thread")]
async fn none_is_made_that_would_end_when_the_one_before_it_does() {
    let world = World::new();
    let [first, second] = [fresh(), fresh()];
    change_role(&world, "web", |role| role.default_ttl = SignedDuration::from_hours(4));
    let mut holder = Holder::open(&world.vend, operator(), new_lease("web", &first, Some(&second))).await.unwrap();
    let begun = holder.lease.clone();
    let short = SignedDuration::from_mins(5);
    change_role(&world, "web", |role| role.default_ttl = short);
    until_due(&world.clock, &holder.lease);
    while world.vend.now() + short <= begun.expires_at {
        rotate(&world.vend).await;
        holder.hears_nothing();
        world.clock.forward(SignedDuration::from_secs(20));
    }
    assert_eq!(world.stored(begun.id).await.unwrap(), begun);
    // It is looked at often enough not to be late.
    world.clock.forward(SignedDuration::from_secs(20));
    rotate(&world.vend).await;
    assert!(second.fits(holder.next().await));
    assert!(holder.lease.expires_at > begun.expires_at && holder.lease.generation == 2);
}

/// What keeps a lease from going further may pass: a longer contract, a role as it was, or time alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_may_go_no_further_goes_on_once_it_may() {
    for by_reload in [true, false] {
        let world = World::new();
        let [first, second] = [fresh(), fresh()];
        let mut holder = Holder::open(&world.vend, operator(), new_lease("web", &first, Some(&second))).await.unwrap();
        let begun = holder.lease.clone();
        let short = SignedDuration::from_mins(2);
        change_role(&world, "web", |role| (role.default_ttl, role.max_ttl) = (short, short));
        until_due(&world.clock, &holder.lease);
        rotate(&world.vend).await;
        holder.hears_nothing();
        if by_reload {
            world.reload(|_| ());
            world.clock.forward(SignedDuration::from_secs(20));
        } else {
            let near = begun.expires_at - SignedDuration::from_secs(110);
            world.clock.forward(near.duration_since(world.vend.now()));
        }
        rotate(&world.vend).await;
        assert!(second.fits(holder.next().await), "{by_reload}");
        assert!(holder.lease.expires_at > begun.expires_at);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_taken_up_where_it_stands() {
    let world = World::new();
    let [first, second, third] = [fresh(), fresh(), fresh()];
    let holder = Holder::open(&world.vend, operator(), new_lease("web", &first, Some(&second))).await.unwrap();
    let id = holder.lease.id;
    drop(holder);
    assert!(world.vend.watches().is_empty(), "who leaves is forgotten");

    let mut again = Holder::open(&world.vend, operator(), held(id, 1, &third, None)).await.unwrap();
    assert!(again.credentials.is_empty() && again.lease.generation == 1, "it has the newest one");
    until_due(&world.clock, &again.lease);
    rotate(&world.vend).await;
    assert!(second.fits(again.next().await), "the key that was given before is still there");

    // One that is due already comes at once.
    drop(again);
    let next = fresh();
    let stored = world.stored(id).await.unwrap();
    until_due(&world.clock, &stored);
    let mut late = Holder::open(&world.vend, operator(), held(id, 2, &third, Some(&next))).await.unwrap();
    rotate(&world.vend).await;
    assert!(next.fits(late.next().await));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_arrived_is_made_up_for() {
    let world = World::new();
    let [first, second, third, fourth] = [fresh(), fresh(), fresh(), fresh()];
    let mut holder = Holder::open(&world.vend, operator(), new_lease("web", &first, Some(&second))).await.unwrap();
    holder.acknowledge(&world.vend, None).await;
    let id = holder.lease.id;
    until_due(&world.clock, &holder.lease);
    rotate(&world.vend).await;
    drop(holder);
    assert_eq!(world.stored(id).await.unwrap().generation, 2, "made, and never read");

    let mut again = Holder::open(&world.vend, operator(), held(id, 1, &third, Some(&fourth))).await.unwrap();
    assert_eq!(again.lease.generation, 3);
    assert!(third.fits(&again.credentials[0]));
    assert_eq!(serials(&again.lease).len(), 3, "a revoke reaches what was lost");
    until_due(&world.clock, &again.lease);
    rotate(&world.vend).await;
    assert!(fourth.fits(again.next().await), "the key for the one after is not lost");

    let beyond = world.vend.watch(&operator(), held(id, 9, &first, None)).await.err().unwrap();
    assert_eq!(beyond.code(), Code::LeaseState);
    let stranger = world.vend.watch(&job(1), held(id, 4, &first, None)).await.err().unwrap();
    assert_eq!(stranger.code(), Code::LeaseNotFound);
    let not_there = world.vend.acknowledge(&job(2), id, 4, None).await.err().unwrap();
    assert_eq!((not_there.code(), not_there.public()), (stranger.code(), stranger.public()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_its_holder_renews_is_told_and_rotates_later() {
    let world = World::new();
    let [first, second] = [fresh(), fresh()];
    let mut holder = Holder::open(&world.vend, operator(), new_lease("web", &first, Some(&second))).await.unwrap();
    let due = holder.lease.rotation().unwrap().start;
    world.clock.forward(SignedDuration::from_mins(4));
    let renewed = world.vend.renew(&operator(), renewal(holder.lease.id, first.input())).await.unwrap();
    assert_eq!(renewed.lease.generation, 2);
    world.clock.forward(due.duration_since(world.vend.now()).max(SignedDuration::ZERO));
    rotate(&world.vend).await;
    let told = holder.read().await.unwrap();
    assert!(told.credential.is_none() && told.lease == renewed.lease, "its holder has that one");
    until_due(&world.clock, &holder.lease);
    rotate(&world.vend).await;
    assert!(second.fits(holder.next().await));
    assert_eq!(holder.lease.generation, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_failed_is_repeated_by_its_request_id() {
    let world = World::new();
    let first = fresh();
    let one = Holder::open(&world.vend, operator(), named_lease("web", &first, "step")).await.unwrap();
    let mut two = Holder::open(&world.vend, operator(), named_lease("web", &first, "step")).await.unwrap();
    assert_eq!(one.lease.id, two.lease.id);
    let mut one = one;
    assert_eq!(one.end().await.code(), Code::WatchTakenOver);
    two.hears_nothing();
    assert_eq!(world.leases().await.len(), 1);
    assert_eq!(world.vend.watches().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_key_given_ahead_leaves_no_lease() {
    let world = World::new();
    let mut request = new_lease("web", &fresh(), None);
    request.next_csr = Some(vec![0x30, 0]);
    let refused = world.vend.watch(&operator(), request).await.err().unwrap();
    assert_eq!(refused.code(), Code::InvalidCsr);
    assert!(world.vend.watches().is_empty());
    world.settle().await;
    assert!(world.leases().await.iter().all(|lease| lease.state == LeaseState::Revoked), "what was made is closed");

    let mut holder = Holder::open(&world.vend, operator(), new_lease("web", &fresh(), None)).await.unwrap();
    let refused = world.vend.acknowledge(&operator(), holder.lease.id, 1, Some(&[0x30, 0])).await.err().unwrap();
    assert_eq!(refused.code(), Code::InvalidCsr);
    assert_eq!(world.stored(holder.lease.id).await.unwrap().acknowledged, 0);
    for generation in [0, 2] {
        assert!(world.vend.acknowledge(&operator(), holder.lease.id, generation, None).await.is_err(), "{generation}");
    }
    holder.acknowledge(&world.vend, None).await;
    let version = holder.lease.version;
    holder.acknowledge(&world.vend, None).await;
    assert_eq!(holder.lease.version, version, "idempotent");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Every server says the same, and every time lies where the contract says.
    #[test]
    fn a_window_is_drawn_once_between_a_third_and_two_thirds(random: [u8; 10], life in 1_i64..7_776_000) {
        let lease = drawn(random, life);
        let window = lease.rotation().unwrap();
        let start = window.start.duration_since(lease.issued_at).as_millis();
        let life = i128::from(life);
        prop_assert!((life * 333..=life * 667).contains(&start), "{start} of {life} s");
        prop_assert!(window.end > window.start && window.end <= lease.expires_at);
        prop_assert_eq!(lease.clone().rotation().unwrap(), window);
    }
}

#[test]
fn leases_of_one_moment_are_spread_evenly() {
    let mut seconds = vec![0; 600];
    for n in 0..6000_u32 {
        let mut random = [0; 10];
        random[..4].copy_from_slice(&n.wrapping_mul(2_654_435_761).to_be_bytes());
        random[6..].copy_from_slice(&n.wrapping_mul(2_246_822_519).rotate_left(7).to_be_bytes());
        let lease = drawn(random, 600);
        let start = lease.rotation().unwrap().start.duration_since(lease.issued_at);
        seconds[usize::try_from(start.as_secs()).unwrap()] += 1;
    }
    let used = seconds.iter().filter(|count| **count > 0).count();
    let busiest = seconds.iter().max().unwrap();
    assert!(used >= 199 && *busiest <= 3 * 6000 / used, "{used} seconds, the busiest with {busiest}");
}

fn drawn(random: [u8; 10], life: i64) -> Lease {
    use daypass::model::{credential::CredentialKind, identity::Subject, lease::LeaseId, lease::Reach};
    let at: daypass::model::Timestamp = "2027-01-15T08:00:00Z".parse().unwrap();
    let tenant: daypass::model::name::TenantName = "ops".parse().unwrap();
    let expires_at = at + SignedDuration::from_secs(life);
    Lease {
        id: LeaseId::new(at, random, &tenant),
        version: 1,
        role: "web".parse().unwrap(),
        kind: CredentialKind::Jwt,
        tenant,
        subject: Subject::try_from("cn:a/b".to_owned()).unwrap(),
        state: LeaseState::Active,
        issued_at: at,
        expires_at,
        renew_until: expires_at + SignedDuration::from_secs(1),
        generation: 1,
        reach: Reach::Expiry,
        live_until: expires_at,
        revoked_at: None,
        handle: Handle::Jwt { jti: String::new(), aud: String::new(), claims: String::new() },
        renewed_at: None,
        held_until: None,
        acknowledged: 0,
        claim: None,
        enrolled: false,
    }
}
