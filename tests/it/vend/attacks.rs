//! What an attacker, or an accident, would try on the heart.

use daypass::{
    model::{
        SignedDuration,
        error::Code,
        lease::{Handle, LeaseFilter, LeaseId, LeaseState},
        request::{Input, IssueRequest, RequestId},
    },
    vend::{RevokeStep, SWEEP_BATCH},
};
use rcgen::{CertificateParams, KeyPair};
use tokio::sync::mpsc;

use super::world::{World, job, operator, renewal, serials};

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_hidden_reads_as_one_that_is_not_there() {
    let world = World::new();
    let hidden = world.issue(&operator(), None).await.unwrap().lease.id;
    let absent = LeaseId::floor(world.vend.now());
    let mut answers = Vec::new();
    for id in [hidden, absent] {
        answers.push(world.vend.get(&job(1), id).await.unwrap_err());
        answers.push(world.vend.revoke(&job(1), id, "").await.unwrap_err());
        answers.push(world.vend.renew(&job(1), renewal(id, world.input())).await.err().unwrap());
    }
    for answer in &answers {
        assert_eq!((answer.code(), answer.public()), (Code::LeaseNotFound, answers[0].public()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_token_and_its_request_id_give_nothing_for_another_key_after_a_revoke() {
    let world = World::new();
    let issued = world.issue(&job(1), Some("step")).await.unwrap();
    world.vend.revoke(&job(1), issued.lease.id, "the token leaked").await.unwrap();
    let key = KeyPair::generate().unwrap();
    let csr_der = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
    let request = IssueRequest {
        role: "web".parse().unwrap(),
        ttl: None,
        request_id: Some(RequestId::try_from("step".to_owned()).unwrap()),
        input: Input::X509 { csr_der },
    };
    let thief = world.vend.issue(&job(1), request).await.err().expect("a second lease for one token");
    assert_eq!(thief.code(), Code::TokenReplayed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_writes_nothing_into_the_record_of_another_tenant() {
    let world = World::new();
    let filter = LeaseFilter { tenant: Some("ops".parse().unwrap()), ..LeaseFilter::default() };
    let (sender, mut steps) = mpsc::channel(64);
    world.vend.clone().revoke_matching(job(1), filter, true, String::new(), sender).await;
    while steps.recv().await.is_some() {}
    let events = world.events();
    assert!(!events.is_empty());
    for event in events {
        assert_eq!(event.tenant.as_ref().map(daypass::model::name::TenantName::as_str), Some("jobs"), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_leases_of_a_removed_ca_do_not_stop_the_sweep() {
    let world = World::new();
    let issued = world.issue(&operator(), None).await.unwrap();
    let model = world.stored(issued.lease.id).await.unwrap();
    let begun = world.vend.now();
    // A whole batch of revocations that nobody can carry out, all due before anything else.
    let stuck: Vec<_> = (0..SWEEP_BATCH)
        .map(|n| {
            let mut lease = model.clone();
            let mut random = [0; 10];
            random[..8].copy_from_slice(&(n as u64).to_be_bytes());
            lease.id = LeaseId::new(begun, random, &lease.tenant);
            let Handle::X509 { ca, .. } = &mut lease.handle else { panic!("no certificate") };
            *ca = "removed".parse().unwrap();
            lease.state = LeaseState::Revoking;
            lease.revoked_at = Some(begun);
            lease
        })
        .collect();
    world.store.restore(&stuck).await.unwrap();
    world.clock.forward(SignedDuration::from_mins(16));
    for _ in 0..3 {
        world.vend.sweep().await.expect("one that is stuck holds up the sweep");
    }
    assert_eq!(world.stored(issued.lease.id).await.unwrap().state, LeaseState::Expired, "it starves behind those that are stuck");
    let ended = world.stored(stuck[0].id).await.unwrap();
    assert_eq!((ended.state, ended.live_until), (LeaseState::Revoked, ended.expires_at), "no claim of more than is true");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_goes_on_when_nobody_reads_its_progress() {
    let world = World::new();
    let issued = world.issue(&operator(), None).await.unwrap();
    let filter = LeaseFilter { role: Some("web".parse().unwrap()), ..LeaseFilter::default() };
    // Room for the first step only, and a reader who keeps the stream and reads nothing.
    let (sender, steps) = mpsc::channel::<daypass::model::error::Result<RevokeStep>>(1);
    let work = world.vend.clone().revoke_matching(operator(), filter, false, String::new(), sender);
    tokio::time::timeout(std::time::Duration::from_secs(30), work).await.expect("it waits for its reader for ever");
    drop(steps);
    assert_eq!(world.stored(issued.lease.id).await.unwrap().state, LeaseState::Revoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crl_from_the_future_is_signed_anew_once_the_clock_is_right() {
    let world = World::new();
    let issued = world.issue(&operator(), None).await.unwrap();
    world.vend.revoke(&operator(), issued.lease.id, "").await.unwrap();
    let entries = |der: &[u8]| {
        use x509_parser::prelude::FromDer;
        let (_, crl) = x509_parser::revocation_list::CertificateRevocationList::from_der(der).unwrap();
        crl.iter_revoked_certificates().count()
    };
    let day = SignedDuration::from_hours(24);
    world.clock.forward(day);
    assert!(world.vend.publish_crl(&world.ca).await.unwrap());
    assert_eq!(entries(&world.vend.crls().published(&world.ca).unwrap().der), 0, "expired by that time");
    world.clock.forward(-day);
    assert!(world.vend.publish_crl(&world.ca).await.unwrap(), "the empty one stays out for a day");
    let crl = world.vend.crls().published(&world.ca).unwrap();
    assert_eq!(entries(&crl.der), 1);
    assert!(crl.this_update <= world.vend.now());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_on_record_is_carried_out_however_often_it_lost_a_race() {
    let world = World::new();
    let issued = world.issue(&operator(), None).await.unwrap();
    world.faults.race(3);
    let busy = world.vend.revoke(&operator(), issued.lease.id, "").await.expect_err("a renewal came before it three times");
    assert_eq!(busy.code(), Code::LeaseState);
    world.settle().await;
    let stored = world.stored(issued.lease.id).await.unwrap();
    assert_eq!(stored.state, LeaseState::Revoked, "it is on record as revoked, and lives");
    assert!(world.revoked().await.contains(&serials(&stored)[0]));
}
