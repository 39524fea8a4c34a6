//! Deny lists over several servers, outages and the hands of others.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use daypass::{
    background,
    model::{
        SignedDuration, Timestamp,
        error::Code,
        lease::{Handle, LeaseFilter, LeaseId, LeaseState, Reach},
        revocation::{AwsDeny, DenyBy, RevocationList, RevokedSerial},
    },
    vend::{MAX_REPLACEMENTS, RevokeStep, SWEEP_BATCH},
};
use tokio::sync::{mpsc, watch};

use super::{
    cloud::list,
    faulty::When,
    world::{World, job, operator},
};

const TAG: DenyBy = DenyBy::SessionTag;

#[tokio::test(flavor = "multi_thread")]
async fn many_revocations_at_once_share_a_publication() {
    let world = Arc::new(World::new());
    let mut ids = Vec::new();
    for _ in 0..64 {
        ids.push(world.session(&operator(), "deploy", None).await.unwrap().lease.id);
    }
    let revokes = ids.iter().map(|id| {
        let (world, id) = (world.clone(), *id);
        tokio::spawn(async move { world.vend.revoke(&operator(), id, "").await.unwrap() })
    });
    for revoked in futures::future::join_all(revokes).await {
        assert_eq!(revoked.unwrap().state, LeaseState::Revoked);
    }
    assert_eq!(world.cloud.policy(TAG).len(), 64);
    assert!(world.cloud.publications() < 64, "{} publications", world.cloud.publications());
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_are_revoked_by_one_path_with_a_publication_a_batch() {
    let world = World::new();
    let model = world.session(&operator(), "deploy", None).await.unwrap().lease;
    let leases: Vec<_> = (0..10_000_u64)
        .map(|n| {
            let mut lease = model.clone();
            let mut random = [0; 10];
            random[..8].copy_from_slice(&(n << 8).to_be_bytes());
            lease.id = LeaseId::new(world.vend.now(), random, &lease.tenant);
            lease
        })
        .collect();
    for batch in leases.chunks(1000) {
        world.store.restore(batch).await.unwrap();
    }
    let begun = Instant::now();
    let (sender, mut steps) = mpsc::channel(64);
    let filter = LeaseFilter { role: Some("deploy".parse().unwrap()), ..LeaseFilter::default() };
    tokio::spawn(world.vend.clone().revoke_matching(operator(), filter, false, String::new(), sender));
    let mut last = None;
    while let Some(step) = steps.recv().await {
        last = Some(step.unwrap());
    }
    assert!(matches!(last, Some(RevokeStep::Summary { revoked, failed: 0, .. }) if revoked > 9_000), "{last:?}");
    println!("revoked in {:?}, {} publications", begun.elapsed(), world.cloud.publications());
    assert!(world.cloud.publications() <= 30, "{} publications", world.cloud.publications());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_writes_an_older_list_over_a_newer_one_mends_it_at_once() {
    let world = Arc::new(World::new());
    let other = world.another();
    let (first, second) =
        (world.session(&operator(), "deploy", None).await.unwrap(), world.session(&operator(), "deploy", None).await.unwrap());
    // The first server has read the list and is slow to write it.
    world.cloud.slow_publication.store(true, Ordering::SeqCst);
    let slow = {
        let (world, id) = (world.clone(), first.lease.id);
        tokio::spawn(async move { world.vend.revoke(&operator(), id, "").await })
    };
    world.cloud.asked.notified().await;
    other.vend.revoke(&operator(), second.lease.id, "").await.unwrap();
    assert_eq!(world.cloud.policy(TAG).len(), 2);
    world.cloud.go.notify_one();
    slow.await.unwrap().unwrap();
    // It wrote what it had read, which lacked the second, and then what it read again.
    let deadline = Instant::now() + Duration::from_secs(10);
    while world.cloud.publications() < 3 {
        assert!(Instant::now() < deadline, "a denial that was acknowledged is gone");
        tokio::task::yield_now().await;
    }
    assert_eq!(world.cloud.policy(TAG).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_into_aws_that_was_renamed_takes_no_denial_back() {
    let world = World::new();
    let now = world.vend.now();
    let earlier = RevocationList::Aws(AwsDeny { aws: "renamed-since".parse().unwrap(), ..list(TAG) });
    let entry = RevokedSerial { serial: "7".repeat(32), revoked_at: now, not_after: now + SignedDuration::from_hours(1) };
    world.store.add_revoked(&earlier, &[entry]).await.unwrap();
    let session = world.session(&operator(), "deploy", None).await.unwrap();
    world.vend.revoke(&operator(), session.lease.id, "").await.unwrap();
    assert_eq!(world.cloud.policy(TAG).len(), 2, "one policy at the role says what both lists say");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_hand_changed_is_mended() {
    let world = World::new();
    let issued = world.session(&operator(), "deploy", None).await.unwrap();
    world.vend.revoke(&operator(), issued.lease.id, "").await.unwrap();
    let entry = world.cloud.policy(TAG);
    assert!(!world.vend.publish_deny(&list(TAG), world.vend.now()).await.unwrap(), "nothing to do");
    world.cloud.tamper(TAG, Vec::new());
    assert!(world.vend.publish_deny(&list(TAG), world.vend.now()).await.unwrap());
    assert_eq!(world.cloud.policy(TAG), entry);
    let foreign = RevokedSerial { serial: "00".repeat(16), revoked_at: world.vend.now(), not_after: Timestamp::MAX };
    world.cloud.tamper(TAG, vec![foreign]);
    assert!(world.vend.publish_deny(&list(TAG), world.vend.now()).await.unwrap());
    assert_eq!(world.cloud.policy(TAG), entry);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_leases_that_lapsed_leave_no_residue() {
    let world = World::new();
    for _ in 0..100 {
        let issued = world.session(&operator(), "deploy", None).await.unwrap();
        world.clock.forward(SignedDuration::from_millis(10));
        world.vend.revoke(&operator(), issued.lease.id, "").await.unwrap();
    }
    assert_eq!(world.cloud.policy(TAG).len(), 100);
    let before = world.vend.now();
    world.clock.forward(SignedDuration::from_hours(1));
    // While a leap of the clock is not believed, nothing lapses.
    assert!(!world.vend.publish_deny(&list(TAG), before).await.unwrap());
    assert_eq!(world.cloud.policy(TAG).len(), 100);
    world.vend.find_denies().await.unwrap();
    for list in world.vend.denies().known() {
        world.vend.publish_deny(&list, world.vend.now()).await.unwrap();
    }
    assert_eq!(world.cloud.policy(TAG), []);
    let written = world.cloud.publications();
    for list in world.vend.denies().known() {
        assert!(!world.vend.publish_deny(&list, world.vend.now()).await.unwrap());
    }
    assert_eq!(world.cloud.publications(), written, "and it is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_server_finds_the_lists_that_the_store_has() {
    let mut world = World::new();
    let issued = world.session(&operator(), "deploy", None).await.unwrap();
    world.vend.revoke(&operator(), issued.lease.id, "").await.unwrap();
    world.restart().await;
    world.vend.find_denies().await.unwrap();
    assert!(world.vend.denies().known().contains(&list(TAG)));
    assert_eq!(world.store.revocation_lists().await.unwrap(), [RevocationList::Aws(list(TAG)), RevocationList::Recent]);
}

/// Jobs give their sessions back as they end, and one caller could do so for ever: that fills half of a list at most.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_fills_a_list_that_others_need() {
    const ROOM: usize = 16;
    let world = World::new();
    world.cloud.room.store(ROOM, Ordering::SeqCst);
    let mut held = Vec::new();
    for token in 0..16 {
        held.push(world.session(&job(token), "deploy", None).await.unwrap().lease);
    }
    for n in 0..2 * ROOM {
        let issued = world.session(&operator(), "deploy", None).await.unwrap().lease;
        let revoked = world.vend.revoke(&operator(), issued.id, "").await.unwrap();
        let (reach, live_until) = if n < ROOM / 2 { (Reach::Lease, revoked.live_until) } else { (Reach::Expiry, issued.expires_at) };
        assert_eq!((revoked.state, revoked.reach, revoked.live_until), (LeaseState::Revoked, reach, live_until), "{n}");
    }
    assert_eq!(world.cloud.policy(TAG).len(), ROOM / 2);

    // Sessions of others find the rest of it, and from three quarters on there are no new ones that could not be denied.
    for lease in held.iter().take(ROOM / 4) {
        assert_eq!(world.vend.revoke(&operator(), lease.id, "").await.unwrap().reach, Reach::Lease);
    }
    let refused = world.session(&operator(), "deploy", None).await.err().expect("it could not be denied alone");
    assert!(refused.code() == Code::LeaseCap && refused.public().contains("room for 16"), "{refused}");
    for lease in held.iter().skip(ROOM / 4).take(ROOM / 4) {
        assert_eq!(world.vend.revoke(&operator(), lease.id, "").await.unwrap().reach, Reach::Lease);
    }
    assert_eq!(world.cloud.policy(TAG).len(), ROOM);
    world.session(&operator(), "batch", None).await.expect("that list is another one");
    world.clock.forward(SignedDuration::from_mins(32));
    world.session(&operator(), "deploy", None).await.expect("they have expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_id_replaces_a_few_sessions_and_then_keeps_the_last() {
    let world = World::new();
    for _ in 0..=MAX_REPLACEMENTS {
        world.session(&job(1), "deploy", Some("step")).await.unwrap();
    }
    let refused = world.session(&job(1), "deploy", Some("step")).await.err().expect("that is no retry any more");
    assert_eq!(refused.code(), Code::RequestIdReused, "{refused}");
    assert_eq!(world.cloud.policy(TAG).len(), usize::from(MAX_REPLACEMENTS));
    let live = world.leases().await.into_iter().filter(|lease| lease.state == LeaseState::Active).count();
    assert_eq!(live, 1, "its holder keeps it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_without_room_for_all_is_known_for_it_until_some_lapse() {
    let world = World::new();
    for n in 0..3 {
        let issued = world.session(&operator(), "deploy", None).await.unwrap();
        world.clock.forward(SignedDuration::from_mins(1));
        let revoked = world.vend.revoke(&operator(), issued.lease.id, "").await;
        assert!(revoked.is_ok() && !world.vend.deny_overflows(&list(TAG), world.vend.now()), "{n}");
    }
    world.cloud.room.store(2, Ordering::SeqCst);
    world.vend.publish_deny(&list(TAG), world.vend.now()).await.expect("it says what it should");
    world.cloud.tamper(TAG, Vec::new());
    world.vend.publish_deny(&list(TAG), world.vend.now()).await.expect_err("there is no room");
    assert!(world.vend.deny_overflows(&list(TAG), world.vend.now()));
    world.clock.forward(SignedDuration::from_mins(29));
    assert!(!world.vend.deny_overflows(&list(TAG), world.vend.now()), "one has lapsed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_comes_back_for_as_long_as_its_session_may_live_by_another_clock() {
    let world = World::new();
    let issued = world.session(&operator(), "deploy", None).await.unwrap();
    let revoked = world.vend.revoke(&operator(), issued.lease.id, "").await.unwrap();
    for (past_expiry, entries) in [(30, 1), (61, 0)] {
        let after = World::new();
        let past = revoked.expires_at + SignedDuration::from_secs(past_expiry);
        after.clock.forward(past.duration_since(after.vend.now()));
        assert_eq!(after.vend.reconcile(vec![revoked.clone()]).await.unwrap(), 0, "the lease itself is over");
        let (_, list) = after.store.revoked(&RevocationList::Aws(list(TAG)), after.vend.now()).await.unwrap();
        assert_eq!(list.len(), entries, "{past_expiry} s past its expiry");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_store_takes_no_denial_back_and_is_given_its_list_again() {
    let world = World::new();
    let issued = world.session(&operator(), "deploy", None).await.unwrap();
    let open = world.session(&operator(), "deploy", None).await.unwrap();
    world.vend.revoke(&operator(), issued.lease.id, "").await.unwrap();
    let since = world.vend.now().checked_sub(daypass::vend::LONGEST_LIFE).unwrap();
    let snapshots = || daypass::audit::read::leases_since(&world.dir.path().join("audit"), since).unwrap().map(Result::unwrap).collect();

    let emptied = World::new();
    assert_eq!(emptied.vend.reconcile(snapshots()).await.unwrap(), 2);
    assert_eq!(emptied.stored(open.lease.id).await.unwrap(), open.lease);
    emptied.vend.find_denies().await.unwrap();
    emptied.vend.publish_deny(&list(TAG), emptied.vend.now()).await.unwrap();
    let serials: Vec<String> = emptied.cloud.policy(TAG).into_iter().map(|entry| entry.serial).collect();
    assert_eq!(serials, [issued.lease.id.to_hex()]);

    // And a server that has published keeps what it knows while its store is empty.
    world.store.purge(&[], world.vend.now() + SignedDuration::from_hours(24)).await.unwrap();
    assert!(!world.vend.publish_deny(&list(TAG), world.vend.now()).await.unwrap());
    assert_eq!(world.cloud.policy(TAG).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_that_is_down_holds_up_neither_crls_nor_the_sweep() {
    let world = World::new();
    let expiring = world.issue(&operator(), None).await.unwrap();
    let session = world.session(&operator(), "deploy", None).await.unwrap();
    let certificate = world.issue(&operator(), None).await.unwrap();
    world.faults.plan_forever("publish", When::Before);
    let late = world.vend.revoke(&operator(), session.lease.id, "").await.expect_err("AWS is down");
    assert!(late.public().contains("recorded and on its way"), "{late}");
    let begun = Instant::now();
    world.vend.revoke(&operator(), certificate.lease.id, "").await.expect("its CRL is not held up");
    world.clock.forward(SignedDuration::from_mins(16));
    for _ in 0..3 {
        world.vend.sweep().await.unwrap();
    }
    assert!(begun.elapsed().as_secs() < 4, "somebody waited for AWS");
    assert_eq!(world.stored(expiring.lease.id).await.unwrap().state, LeaseState::Expired);
    assert_eq!(world.stored(session.lease.id).await.unwrap().state, LeaseState::Revoking, "its revocation is still on its way");
    world.faults.heal();
    world.settle().await;
    assert_eq!(world.stored(session.lease.id).await.unwrap().state, LeaseState::Revoked);
    assert!(world.cloud.denies(&world.cloud.sessions()[0], world.vend.now()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_revocations_that_aws_does_not_take_does_not_starve_the_sweep() {
    let world = World::new();
    let issued = world.issue(&operator(), None).await.unwrap();
    let model = world.session(&operator(), "deploy", None).await.unwrap().lease;
    world.faults.plan_forever("publish", When::Before);
    let stuck: Vec<_> = (0..SWEEP_BATCH as u64)
        .map(|n| {
            let mut lease = model.clone();
            let mut random = [0; 10];
            random[..8].copy_from_slice(&(n << 8).to_be_bytes());
            lease.id = LeaseId::new(world.vend.now(), random, &lease.tenant);
            lease.state = LeaseState::Revoking;
            lease.revoked_at = Some(world.vend.now());
            lease
        })
        .collect();
    world.store.restore(&stuck).await.unwrap();
    world.clock.forward(SignedDuration::from_mins(16));
    for _ in 0..3 {
        world.vend.sweep().await.unwrap();
    }
    assert_eq!(world.stored(issued.lease.id).await.unwrap().state, LeaseState::Expired, "it starves behind those that are stuck");
    let ended = world.stored(stuck[0].id).await.unwrap();
    assert_eq!((ended.state, ended.live_until), (LeaseState::Revoked, ended.expires_at), "no claim of more than is true");
    world.faults.heal();
    world.vend.publish_deny(&list(TAG), world.vend.now()).await.unwrap();
    assert_eq!(world.cloud.policy(TAG).len(), SWEEP_BATCH, "and nothing is forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_whose_way_into_aws_is_gone_ends_its_revocations() {
    let world = World::new();
    let issued = world.session(&operator(), "deploy", None).await.unwrap();
    let mut lease = issued.lease.clone();
    lease.id = LeaseId::new(world.vend.now(), [9; 10], &lease.tenant);
    let Handle::Aws { deny: Some(deny), .. } = &mut lease.handle else { panic!("no session") };
    deny.aws = "removed".parse().unwrap();
    world.store.restore(std::slice::from_ref(&lease)).await.unwrap();
    let revoked = world.vend.revoke(&operator(), lease.id, "").await.unwrap();
    assert_eq!((revoked.state, revoked.live_until), (LeaseState::Revoked, lease.expires_at));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_passes_publish_what_is_asked_for_and_nothing_before_the_store_is_settled() {
    let mut world = World::new();
    world.only_passes().await;
    let (stop, shutdown) = watch::channel(false);
    let (settle, settled) = watch::channel(false);
    let mut passes = background::start(&world.vend, &shutdown, &settled);
    let issued = world.session(&operator(), "deploy", None).await.unwrap();
    world.vend.revoke(&operator(), issued.lease.id, "").await.expect_err("the store may lack what is denied already");
    assert_eq!(world.cloud.publications(), 0);
    settle.send_replace(true);
    let other = world.session(&operator(), "deploy", None).await.unwrap();
    world.vend.revoke(&operator(), other.lease.id, "").await.unwrap();
    let policy: Vec<String> = world.cloud.policy(TAG).into_iter().map(|entry| entry.serial).collect();
    assert!([issued, other].iter().all(|issued| policy.contains(&issued.lease.id.to_hex())), "{policy:?}");

    // One list that cannot be written holds up no other.
    world.faults.plan_forever("publish", When::Before);
    let stuck = world.session(&operator(), "batch", None).await.unwrap();
    world.vend.revoke(&operator(), stuck.lease.id, "").await.expect_err("AWS is down");
    world.faults.heal();
    let free = world.session(&operator(), "deploy", None).await.unwrap();
    world.vend.revoke(&operator(), free.lease.id, "").await.unwrap();
    stop.send_replace(true);
    while passes.join_next().await.is_some() {}
}
