//! The sockets themselves: their files, their end, and their bounds.

use std::{
    fs,
    io::{Error, ErrorKind, Write},
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::{UnixListener, UnixStream},
    },
    time::{Duration, Instant},
};

use daypass::{
    agent::sockets::{FETCH_TIMEOUT, MAX_HEADERS, MAX_SDS_MESSAGE, MAX_WORKLOAD_MESSAGE, STREAMS_PER_CONNECTION, Sockets},
    proto::{
        envoy::service::{
            discovery::v3::DiscoveryRequest, secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient as SdsClient,
        },
        workload::{
            JwtsvidRequest, ValidateJwtsvidRequest, X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient as WorkloadClient,
        },
    },
};
use tonic::{Code, Request};

use super::socket_world::World;
use crate::e2e::wire::{PREFACE, request_and_reset};

const BOTH: &str = "[workload]\npath = \"workload.sock\"\nmode = \"0660\"\njwt_roles = [\"web-jwt\"]\n[sds]\npath = \"sds.sock\"";

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

#[test]
fn sockets_have_their_mode_and_replace_dead_ones_only() {
    let world = World::new(&["web"], BOTH);
    let mode = |name: &str| fs::metadata(world.path(name)).map(|found| (found.file_type().is_socket(), found.mode() & 0o777));
    assert_eq!((mode("workload.sock").unwrap(), mode("sds.sock").unwrap()), ((true, 0o660), (true, 0o600)));
    let second = world.block_on(async { Sockets::bind(world.section()).map(drop) });
    assert!(second.unwrap_err().message().contains("another process"));
    assert!(mode("workload.sock").is_ok(), "who could not start takes nothing away");
    world.stop().unwrap();
    assert!(mode("workload.sock").is_err() && mode("sds.sock").is_err());

    drop(UnixListener::bind(world.path("sds.sock")).unwrap());
    assert!(mode("sds.sock").is_ok(), "a dead agent's");
    world.start();
    world.channel("sds.sock");
    world.stop().unwrap();
    fs::write(world.path("sds.sock"), "mine").unwrap();
    let taken = world.block_on(async { Sockets::bind(world.section()).map(drop) });
    assert!(taken.unwrap_err().message().contains("no socket"));
    assert!(mode("workload.sock").is_err(), "none is bound when one cannot be");
    assert_eq!(fs::read_to_string(world.path("sds.sock")).unwrap(), "mine");
}

#[test]
fn streams_end_with_the_agent_whether_it_stops_or_is_dropped() {
    let world = World::new(&["web"], BOTH);
    world.put_pair("web", &world.pair("web", "web"));
    for end in [World::stop_ok as fn(&World), World::abort] {
        let channel = world.channel("workload.sock");
        let stream = world.block_on(WorkloadClient::new(channel).fetch_x509svid(with_header(X509svidRequest {}))).unwrap();
        let mut stream = stream.into_inner();
        assert!(world.block_on(stream.message()).is_ok());
        end(&world);
        assert_eq!(world.block_on(stream.message()).unwrap_err().code(), Code::Unavailable);
        world.start();
    }
}

#[test]
fn a_message_and_a_header_have_their_bounds() {
    let world = World::new(&["web"], BOTH);
    let mut workload = WorkloadClient::new(world.channel("workload.sock"));
    let mut validate = |length: usize| {
        let request = with_header(ValidateJwtsvidRequest { audience: "db".to_owned(), svid: "x".repeat(length) });
        world.block_on(workload.validate_jwtsvid(request)).unwrap_err().code()
    };
    assert_eq!(validate(MAX_WORKLOAD_MESSAGE - 100), Code::Unavailable, "it is read, and there is no bundle");
    assert_eq!(validate(MAX_WORKLOAD_MESSAGE), Code::OutOfRange);
    let mut sds = SdsClient::new(world.channel("sds.sock"));
    let mut fetch = |length: usize| {
        let request = DiscoveryRequest { version_info: "x".repeat(length), ..Default::default() };
        world.block_on(sds.fetch_secrets(request)).unwrap_err().code()
    };
    assert_eq!(fetch(MAX_SDS_MESSAGE - 100), Code::Unavailable);
    assert_eq!(fetch(MAX_SDS_MESSAGE), Code::OutOfRange);
    let mut request = with_header(ValidateJwtsvidRequest { audience: "db".to_owned(), svid: String::new() });
    request.metadata_mut().insert("long", "x".repeat(MAX_HEADERS as usize).parse().unwrap());
    let refused = world.block_on(workload.validate_jwtsvid(request)).unwrap_err();
    assert_ne!(refused.code(), Code::Unavailable, "the call did not get as far as the missing bundle: {refused:?}");
}

#[test]
fn a_connection_has_so_many_streams_and_no_more() {
    let world = World::new(&["web"], BOTH);
    world.put_pair("web", &world.pair("web", "web"));
    let channel = world.channel("workload.sock");
    let open = || WorkloadClient::new(channel.clone());
    world.block_on(async {
        let mut held = Vec::new();
        for _ in 0..STREAMS_PER_CONNECTION {
            let mut stream = open().fetch_x509svid(with_header(X509svidRequest {})).await.unwrap().into_inner();
            assert!(stream.message().await.unwrap().is_some());
            held.push(stream);
        }
        let mut client = open();
        let waiting = client.fetch_x509svid(with_header(X509svidRequest {}));
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.is_err(), "one more waits at the client");
        held.pop();
        assert!(waiting.await.is_ok());
    });
}

#[test]
fn a_flood_of_resets_costs_the_flooder_its_connection() {
    let world = World::new(&["web"], BOTH);
    let mut flooder = UnixStream::connect(world.path("sds.sock")).unwrap();
    flooder.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    flooder.write_all(PREFACE).unwrap();
    let path = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
    let flood: Vec<u8> = (0..5_000).flat_map(|number| request_and_reset(2 * number + 1, path)).collect();
    // It is cut off somewhere on the way.
    let _ = flooder.write_all(&flood);
    let end = std::io::copy(&mut flooder, &mut std::io::sink());
    let waits = |error: &Error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
    assert!(!end.is_err_and(|error| waits(&error)), "the flooder stays connected");
    world.put_pair("web", &world.pair("web", "web"));
    let stream = world.block_on(WorkloadClient::new(world.channel("workload.sock")).fetch_x509svid(with_header(X509svidRequest {})));
    assert!(stream.is_ok());
}

#[test]
fn a_service_that_does_not_answer_is_not_waited_for_any_longer() {
    let world = World::new(&["web"], BOTH);
    world.jwts.hang();
    let request = with_header(JwtsvidRequest { audience: vec!["db".to_owned()], spiffe_id: String::new() });
    let mut client = WorkloadClient::new(world.channel("workload.sock"));
    let begun = Instant::now();
    let refused = world.block_on(client.fetch_jwtsvid(request)).unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded);
    assert!(begun.elapsed() >= FETCH_TIMEOUT);
}
