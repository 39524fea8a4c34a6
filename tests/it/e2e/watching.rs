//! Watched leases over the real wire.

use std::time::{Duration, Instant};

use daypass::{
    client::csr,
    proto::v1::{
        AcknowledgeRequest, HeldLease, IssueRequest, WatchRequest, WatchResponse, X509Input, credential::Kind, watch_request::What,
    },
};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use super::{
    two_servers::Second,
    wire::{block_on, credentials, issue_request},
    world::World,
};
use crate::support::redis::Redis;

/// Within this a message that is due comes.
const PATIENCE: Duration = Duration::from_secs(10);

fn fresh_csr() -> X509Input {
    let (_, csr) = csr::make().unwrap();
    X509Input { csr_der: csr.der().to_vec() }
}

fn new_lease(ttl_seconds: i64) -> WatchRequest {
    let ttl = Some(prost_types::Duration { seconds: ttl_seconds, nanos: 0 });
    let issue = IssueRequest { ttl, ..issue_request("web") };
    WatchRequest { what: Some(What::Issue(issue)), next_x509: Some(fresh_csr()) }
}

fn held(lease_id: &str, generation: u32) -> WatchRequest {
    let held = HeldLease { lease_id: lease_id.to_owned(), generation, ..HeldLease::default() };
    WatchRequest { what: Some(What::Held(held)), next_x509: None }
}

async fn message(stream: &mut Streaming<WatchResponse>) -> Result<WatchResponse, Status> {
    Ok(timeout(PATIENCE, stream.message()).await.expect("a message comes")?.expect("an end is told"))
}

#[test]
fn certificates_come_until_a_shutdown_which_waits_for_no_stream() {
    let mut world = World::start();
    block_on(async {
        let mut client = credentials(&world, &world.operator()).await;
        let mut stream = client.watch(new_lease(6)).await.unwrap().into_inner();
        let first = message(&mut stream).await.unwrap().lease.unwrap();
        let (id, mut expires_at) = (first.id, first.expires_at.unwrap().seconds);
        for generation in 1..4 {
            let ack = AcknowledgeRequest { lease_id: id.clone(), generation, next_x509: Some(fresh_csr()) };
            let acknowledged = client.acknowledge(ack).await.unwrap().into_inner().lease.unwrap();
            assert_eq!(acknowledged.acknowledged_generation, generation);
            let next = message(&mut stream).await.unwrap();
            let lease = next.lease.unwrap();
            assert_eq!((&lease.id, lease.generation), (&id, generation + 1));
            assert!(lease.expires_at.unwrap().seconds > expires_at);
            expires_at = lease.expires_at.unwrap().seconds;
            assert!(matches!(next.credential.unwrap().kind, Some(Kind::X509(_))));
        }
        let metrics = world.metrics();
        assert!(metrics.contains("daypass_rotations_total{outcome=\"done\"} 3"), "{metrics}");
        assert!(metrics.contains("daypass_watches 1"), "{metrics}");

        // Another stream of the same holder takes it over, on another connection.
        let mut other = credentials(&world, &world.operator()).await.watch(held(&id, 4)).await.unwrap().into_inner();
        assert!(message(&mut other).await.unwrap().credential.is_none(), "it has the newest one");
        assert_eq!(message(&mut stream).await.unwrap_err().code(), Code::Aborted);

        let told = Instant::now();
        world.signal("TERM");
        assert_eq!(message(&mut other).await.unwrap_err().code(), Code::Unavailable);
        drop((client, other));
        world.wait_end(Duration::from_secs(10));
        assert!(told.elapsed() < Duration::from_secs(10));
    });
}

#[test]
fn a_revocation_at_another_server_ends_a_stream_within_two_seconds() {
    let redis = Redis::start();
    let world = World::on_redis(&redis.url());
    let second = Second::start(&world);
    block_on(async {
        let mut client = credentials(&world, &world.operator()).await;
        let mut streams = Vec::new();
        for role in ["web", "push", "federate"] {
            let what = Some(What::Issue(issue_request(role)));
            let mut stream = client.watch(WatchRequest { what, next_x509: None }).await.unwrap().into_inner();
            let id = message(&mut stream).await.unwrap().lease.unwrap().id;
            streams.push((role, id, stream));
        }
        for (role, id, mut stream) in streams {
            let (code, said) = second.cli(&world, &world.operator(), &["lease", "revoke", &id, "-o", "json"]);
            let revoked = Instant::now();
            assert_eq!(code, Some(0), "{said}");
            assert_eq!(message(&mut stream).await.unwrap_err().code(), Code::FailedPrecondition, "{role}");
            assert!(revoked.elapsed() < Duration::from_secs(2), "{role}: {:?}", revoked.elapsed());
        }
    });
}

#[test]
fn a_caller_has_so_many_watches_and_gets_them_back() {
    let mut world = World::start();
    world.stop();
    world.limit("watches_per_caller = 2");
    world.start_again();
    block_on(async {
        let mut client = credentials(&world, &world.operator()).await;
        let mut streams = Vec::new();
        for _ in 0..2 {
            streams.push(client.watch(new_lease(60)).await.unwrap().into_inner());
        }
        assert_eq!(client.watch(new_lease(60)).await.unwrap_err().code(), Code::ResourceExhausted);
        streams.pop();
        let freed = Instant::now();
        while client.watch(new_lease(60)).await.is_err() {
            assert!(freed.elapsed() < PATIENCE, "a stream that was dropped still counts");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}
