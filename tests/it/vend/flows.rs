//! What the heart promises when nothing fails.

use std::sync::Arc;

use daypass::{
    model::{
        SignedDuration,
        credential::Credential,
        error::Code,
        event::Outcome,
        lease::{Lease, LeaseFilter, LeaseId, LeaseState},
    },
    vend::RevokeStep,
};
use tokio::sync::mpsc;

use super::world::{World, job, operator, renewal, serials};

#[tokio::test(flavor = "multi_thread")]
async fn one_request_id_is_one_lease_and_one_certificate() {
    let world = World::new();
    let first = world.issue(&job(1), Some("step")).await.unwrap();
    let again = world.issue(&job(1), Some("step")).await.unwrap();
    assert_eq!(again.lease, Lease { version: 2, ..first.lease.clone() }, "taken over, else the same");
    assert_eq!(world.issue(&job(1), Some("step")).await.unwrap().lease, again.lease);
    let (Credential::X509(first), Credential::X509(again)) = (first.credential, again.credential) else { panic!("no certificates") };
    let tbs = |der: &[u8]| {
        use x509_parser::prelude::FromDer;
        let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(der).unwrap();
        certificate.tbs_certificate.as_ref().to_vec()
    };
    assert_eq!(tbs(&first.chain_der[0]), tbs(&again.chain_der[0]), "the same certificate, signed again");
    assert_eq!(world.leases().await.len(), 1);
    // Another caller's id of the same text is another request.
    world.issue(&operator(), Some("step")).await.unwrap();
    assert_eq!(world.leases().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_with_one_request_id_are_one_lease() {
    let world = Arc::new(World::new());
    let tasks = (0..32).map(|_| {
        let world = world.clone();
        tokio::spawn(async move { world.issue(&job(1), Some("step")).await.map(|issued| issued.lease.id) })
    });
    let ids: Vec<LeaseId> = futures::future::join_all(tasks).await.into_iter().map(|id| id.unwrap().unwrap()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(world.leases().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_expire_and_are_forgotten_after_their_retention() {
    let world = World::new();
    let issued = world.issue(&operator(), None).await.unwrap();
    world.clock.forward(SignedDuration::from_mins(15));
    let swept = world.vend.sweep().await.unwrap();
    assert_eq!(swept.expired, 1);
    assert_eq!(world.stored(issued.lease.id).await.unwrap().state, LeaseState::Expired);
    let event = world.events().into_iter().find(|event| event.method == "sweep/expire").expect("on record");
    assert_eq!((event.lease_id, event.outcome), (Some(issued.lease.id), Outcome::Done));
    assert!(world.vend.sweep().await.unwrap().is_idle());
    world.clock.forward(SignedDuration::from_hours(1));
    assert_eq!(world.vend.sweep().await.unwrap().purged, 1);
    assert_eq!(world.stored(issued.lease.id).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_keeps_the_lease_and_a_revoke_reaches_both_certificates() {
    let world = World::new();
    let issued = world.issue(&operator(), None).await.unwrap();
    world.clock.forward(SignedDuration::from_mins(5));
    let renewed = world.vend.renew(&operator(), renewal(issued.lease.id, world.input())).await.unwrap();
    assert_eq!(renewed.lease.id, issued.lease.id);
    assert_eq!(renewed.lease.generation, 2);
    assert_eq!(renewed.lease.expires_at.duration_since(issued.lease.expires_at), SignedDuration::from_mins(5));
    let revoked = world.vend.revoke(&operator(), issued.lease.id, "leaked").await.unwrap();
    assert_eq!(revoked.state, LeaseState::Revoked);
    assert!(revoked.live_until <= revoked.expires_at);
    let (crl, both) = (world.revoked().await, serials(&renewed.lease));
    assert_eq!(both.len(), 2);
    assert!(both.iter().all(|serial| crl.contains(serial)));
    let refused = world.vend.renew(&operator(), renewal(issued.lease.id, world.input())).await.err().unwrap();
    assert_eq!(refused.code(), Code::LeaseState);
    assert_eq!(world.vend.revoke(&operator(), issued.lease.id, "again").await.unwrap(), revoked, "idempotent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_renews_only_once_and_not_the_lease_that_it_got() {
    let world = World::new();
    let issued = world.issue(&job(1), Some("step")).await.unwrap();
    let used = world.vend.renew(&job(1), renewal(issued.lease.id, world.input())).await.err().expect("its token is used");
    assert_eq!(used.code(), Code::TokenReplayed);
    world.vend.renew(&job(2), renewal(issued.lease.id, world.input())).await.expect("a fresh token renews");
    let retried = world.vend.renew(&job(2), renewal(issued.lease.id, world.input())).await;
    assert!(retried.is_ok(), "a retry with the same key is no replay");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_revokes_what_matches_and_nothing_else() {
    let world = World::new();
    for n in 0..30 {
        world.issue(&job(n), None).await.unwrap();
    }
    let other = world.issue(&operator(), None).await.unwrap();
    let filter = LeaseFilter { tenant: Some("jobs".parse().unwrap()), ..LeaseFilter::default() };
    for dry_run in [true, false] {
        let (sender, mut steps) = mpsc::channel(64);
        world.vend.clone().revoke_matching(operator(), filter.clone(), dry_run, "incident".to_owned(), sender).await;
        let mut seen = Vec::new();
        while let Some(step) = steps.recv().await {
            seen.push(step.unwrap());
        }
        assert!(matches!(seen[0], RevokeStep::Matched { count: 30, denied: 0 }), "{seen:?}");
        let expected = if dry_run { 0 } else { 30 };
        assert!(matches!(seen.last().unwrap(), RevokeStep::Summary { revoked, failed: 0, .. } if *revoked == expected), "{seen:?}");
    }
    assert_eq!(world.stored(other.lease.id).await.unwrap().state, LeaseState::Active);
    assert_eq!(world.revoked().await.len(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_store_is_rebuilt_from_the_record() {
    let world = World::new();
    let kept = world.issue(&operator(), None).await.unwrap();
    let gone = world.issue(&operator(), None).await.unwrap();
    world.vend.revoke(&operator(), gone.lease.id, "").await.unwrap();
    let log = world.dir.path().join("audit");
    let since = world.vend.now().checked_sub(daypass::vend::LONGEST_LIFE).unwrap();
    let snapshots: Vec<_> = daypass::audit::read::leases_since(&log, since).unwrap().map(Result::unwrap).collect();

    let empty = World::new();
    assert_eq!(empty.vend.reconcile(snapshots.clone()).await.unwrap(), 2);
    assert_eq!(empty.stored(kept.lease.id).await.unwrap(), kept.lease);
    assert!(empty.revoked().await.contains(&serials(&gone.lease)[0]));
    assert!(!empty.revoked().await.contains(&serials(&kept.lease)[0]));
    assert_eq!(empty.vend.reconcile(snapshots).await.unwrap(), 0, "idempotent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_filled_with_what_the_caller_may_see_and_its_token_names_nothing_else() {
    let world = World::new();
    let mut own = Vec::new();
    for n in 0..12 {
        world.issue(&operator(), None).await.unwrap();
        world.clock.forward(SignedDuration::from_millis(2));
        own.push(world.issue(&job(n), None).await.unwrap().lease.id);
        world.clock.forward(SignedDuration::from_millis(2));
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = world.vend.list(&job(0), &LeaseFilter::default(), after, 5).await.unwrap();
        seen.extend(page.leases.iter().map(|lease| lease.id));
        match page.next {
            Some(token) => {
                assert!(own.contains(&token), "a token of somebody else's lease");
                assert_eq!(page.leases.len(), 5);
                after = Some(token);
            }
            None => break,
        }
    }
    own.sort_unstable();
    seen.sort_unstable();
    assert_eq!(seen, own);
}
