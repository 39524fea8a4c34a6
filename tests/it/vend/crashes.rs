//! A process that dies between any two steps, two hundred times: each session that it left is covered by a lease on record, and denied
//! unless its lease had become the caller's.

use std::{collections::BTreeSet, pin::pin, task::Poll, time::Instant};

use daypass::{
    model::{
        SignedDuration,
        event::Event,
        lease::{Lease, LeaseFilter, LeaseId, LeaseState},
    },
    vend::RECENT,
};

use super::{
    cloud::covers,
    faulty::When,
    world::{World, operator, renewal},
};

/// How many times it dies.
const CRASHES: usize = 200;

/// More awaits than any action has.
const MOST_AWAITS: u64 = 16;

/// Runs a future until it has waited `awaits` times, then drops it. Gives its result if it came to one before.
async fn crash_after<T>(awaits: u64, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut waited = 0;
    std::future::poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if waited == awaits => Poll::Ready(None),
        Poll::Pending => {
            waited += 1;
            Poll::Pending
        }
    })
    .await
}

/// Numbers that come again with the same seed.
struct Dice(u64);

impl Dice {
    /// Below `sides` (SplitMix64).
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_crashes_leave_no_session_off_the_record_and_none_alive_that_was_not_its_callers() {
    let mut world = World::new();
    let mut dice = Dice(7);
    // Whose credential reached its caller, and what may have: the lease was active when the process died.
    let (mut held, mut perhaps) = (BTreeSet::new(), BTreeSet::new());
    let (mut crashed, mut answered) = (0, 0);
    while crashed < CRASHES {
        let awaits = dice.throw(MOST_AWAITS);
        let died = match (dice.throw(4), held.iter().next().copied()) {
            (0, Some(id)) => {
                let renewed = crash_after(awaits, world.vend.renew(&operator(), renewal(id, world.input()))).await;
                renewed.is_none()
            }
            (1, Some(id)) => {
                held.remove(&id);
                perhaps.insert(id);
                crash_after(awaits, world.vend.revoke(&operator(), id, "")).await.is_none()
            }
            (_, _) => {
                let id = format!("r{crashed}");
                let request_id = (dice.throw(2) == 0).then_some(&*id);
                match crash_after(awaits, world.session(&operator(), "deploy", request_id)).await {
                    Some(issued) => {
                        held.insert(issued.unwrap().lease.id);
                        false
                    }
                    None => true,
                }
            }
        };
        if !died {
            answered += 1;
            continue;
        }
        crashed += 1;
        world.restart().await;
        // As the dead process left it.
        perhaps.extend(leases(&world).await.iter().filter(|lease| lease.state == LeaseState::Active).map(|lease| lease.id));
        world.clock.forward(SignedDuration::from_secs(31));
        world.settle().await;
        check(&world, &held, &perhaps).await;
    }
    assert!(answered > CRASHES / 10, "it dies before it can do anything: {answered}");
    let sessions = world.cloud.sessions();
    let denied = sessions.iter().filter(|session| world.cloud.denies(session, world.vend.now())).count();
    assert!(sessions.len() > CRASHES / 4 && denied > CRASHES / 10, "{} sessions, {denied} denied", sessions.len());
}

/// A revocation that is on record holds, also where the process died before the store had it, and whatever its lease went through meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_on_record_outlives_a_crash_before_the_store_has_it() {
    for renewed in [false, true] {
        for certificate in [false, true] {
            let mut world = World::new();
            let issued = match certificate {
                true => world.issue(&operator(), None).await.unwrap(),
                false => world.session(&operator(), "deploy", None).await.unwrap(),
            };
            world.faults.plan_forever("swap", When::Before);
            world.vend.revoke(&operator(), issued.lease.id, "leaked").await.expect_err("the store is away");
            let on_record = |event: &Event| event.lease.as_ref().is_some_and(|lease| lease.state == LeaseState::Revoking);
            assert!(world.events().iter().any(on_record));
            world.restart().await;
            world.faults.heal();
            assert_eq!(world.stored(issued.lease.id).await.unwrap().state, LeaseState::Active, "the store knows nothing of it");
            if renewed {
                world.clock.forward(SignedDuration::from_mins(5));
                world.vend.renew(&operator(), renewal(issued.lease.id, world.input())).await.unwrap();
            }
            assert_eq!(world.vend.close_open().await.unwrap(), 1);
            world.settle().await;
            assert_eq!(world.stored(issued.lease.id).await.unwrap().state, LeaseState::Revoked);
            let now = world.vend.now();
            assert!(world.cloud.sessions().iter().all(|session| world.cloud.denies(session, now)));

            // What was carried out is not done again.
            let records = world.events().len();
            assert!(world.vend.take_up().await.unwrap() > 0);
            world.settle().await;
            assert_eq!(world.events().len(), records);
        }
    }
}

/// The newest records are read, however many there are.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_looks_at_the_newest_records_only() {
    let world = World::new();
    let issued = world.issue(&operator(), None).await.unwrap();
    world.vend.revoke(&operator(), issued.lease.id, "").await.unwrap();
    assert_eq!(world.vend.take_up().await.unwrap(), 1);
    let event = world.events().remove(0);
    world.log.append(vec![event; usize::try_from(RECENT).unwrap()]).await.unwrap();
    let begun = Instant::now();
    assert_eq!(world.vend.take_up().await.unwrap(), 0);
    println!("{RECENT} records in {:?}", begun.elapsed());
}

async fn check(world: &World, held: &BTreeSet<LeaseId>, perhaps: &BTreeSet<LeaseId>) {
    let now = world.vend.now();
    let leases = leases(world).await;
    for session in world.cloud.sessions().iter().filter(|session| session.expires_at > now) {
        let lease = leases.iter().find(|lease| lease.id == session.lease).unwrap_or_else(|| panic!("{session:?} is off the record"));
        assert!(covers(lease, session), "{session:?} outlives {lease:?}");
        match lease.state {
            LeaseState::Active => assert!(held.contains(&lease.id) || perhaps.contains(&lease.id), "nobody can have {session:?}"),
            LeaseState::Revoked | LeaseState::Expired => assert!(world.cloud.denies(session, now), "{session:?} lives on under {lease:?}"),
            LeaseState::Pending | LeaseState::Revoking => panic!("{lease:?} is left open"),
        }
    }
}

async fn leases(world: &World) -> Vec<Lease> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = world.store.list(&LeaseFilter::default(), after, 1000).await.unwrap();
        all.extend(page.leases);
        match page.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}
