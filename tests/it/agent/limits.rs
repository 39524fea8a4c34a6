//! What is bounded at the agent's doors: who comes past a bound is refused or waits, others go on, and a place that is given back is free.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    sync::Arc,
    time::Duration,
};

use daypass::{
    agent::{
        health::{self, Board},
        sockets::{DRAIN_TIMEOUT, MAX_CONNECTIONS_PER_USER, MAX_FETCHES_PER_USER, container},
    },
    clock::SystemClock,
    model::SignedDuration,
    proto::workload::{JwtsvidRequest, X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient as WorkloadClient},
};
use tokio::sync::watch;
use tonic::{Request, transport::Channel};

use super::socket_world::{PATIENCE, World, aws};
use crate::support::parts::wait_until;

const SECTION: &str = "[workload]\npath = \"workload.sock\"\njwt_roles = [\"web-jwt\"]\n[sds]\npath = \"sds.sock\"\n\
                       [aws]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"aws.token\"\nroles = [\"deploy\"]";

/// How long nothing must happen to say that somebody waits.
const QUIET: Duration = Duration::from_millis(300);

fn world() -> World {
    let world = World::new(&["web", "deploy"], SECTION);
    world.put_pair("web", &world.pair("web", "web"));
    world.put("deploy", Some(aws("deploy", "ASIA", SignedDuration::from_hours(1))));
    world
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

/// Whether a workload gets its certificate.
async fn is_served(channel: Channel) -> bool {
    let stream = WorkloadClient::new(channel).fetch_x509svid(with_header(X509svidRequest {})).await;
    match stream {
        Ok(stream) => stream.into_inner().message().await.is_ok_and(|message| message.is_some()),
        Err(_) => false,
    }
}

/// Whether a connection was closed, as far as one sees within a moment.
fn is_closed(stream: &mut UnixStream) -> bool {
    stream.set_read_timeout(Some(QUIET)).unwrap();
    match stream.read(&mut [0; 64]) {
        Ok(0) => true,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        Ok(_) => is_closed(stream),
    }
}

#[test]
fn a_user_with_too_many_connections_is_closed_and_free_again_when_some_end() {
    let world = world();
    let connect = || UnixStream::connect(world.path("workload.sock")).unwrap();
    let mut held: Vec<_> = (0..MAX_CONNECTIONS_PER_USER).map(|_| connect()).collect();
    assert!(is_closed(&mut connect()), "one more than a user may have");
    assert!(!is_closed(held.last_mut().unwrap()), "those that are there stay");
    // Each socket counts for itself.
    let mut sds = UnixStream::connect(world.path("sds.sock")).unwrap();
    assert!(!is_closed(&mut sds));
    held.pop();
    wait_until(PATIENCE, "a place is free", || (!is_closed(&mut connect())).then_some(()));
    drop(held);
    wait_until(PATIENCE, "all are free", || {
        // It may still be closed in the moment in which the others end.
        let endpoint = tonic::transport::Endpoint::try_from(format!("unix://{}", world.path("workload.sock").display())).unwrap();
        let served = world.block_on(async { Ok::<_, tonic::transport::Error>(is_served(endpoint.connect().await?).await) });
        served.is_ok_and(|served| served).then_some(())
    });
}

#[test]
fn so_many_tokens_are_asked_for_at_once_for_one_user_and_one_more_waits() {
    let world = world();
    world.jwts.hang();
    let channel = world.channel("workload.sock");
    world.block_on(async {
        let ask = || {
            let mut client = WorkloadClient::new(channel.clone());
            let request = JwtsvidRequest { audience: vec!["db".to_owned()], spiffe_id: String::new() };
            tokio::spawn(async move { client.fetch_jwtsvid(with_header(request)).await.map(|answer| answer.into_inner().svids.len()) })
        };
        let asking: Vec<_> = (0..=MAX_FETCHES_PER_USER).map(|_| ask()).collect();
        while world.jwts.asked() < MAX_FETCHES_PER_USER {
            tokio::task::yield_now().await;
        }
        assert!(is_served(channel.clone()).await, "others go on");
        tokio::time::sleep(QUIET).await;
        assert_eq!(world.jwts.asked(), MAX_FETCHES_PER_USER, "the service is asked for no more at a time for one user");
        world.jwts.go_on();
        for asked in asking {
            assert_eq!(asked.await.unwrap().unwrap(), 1, "who waited has it too");
        }
        assert_eq!(world.jwts.asked(), MAX_FETCHES_PER_USER + 1);
    });
}

/// Status of a request to the AWS endpoint with so long a header.
fn ask_aws(world: &World, token: &str, padding: usize) -> Option<u16> {
    let mut tcp = TcpStream::connect(("127.0.0.1", world.aws_port())).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("GET /creds/deploy HTTP/1.1\r\nHost: a\r\nAuthorization: {token}\r\nX: {}\r\n\r\n", "x".repeat(padding));
    // It may be closed while we write.
    let _ = tcp.write_all(head.as_bytes());
    let mut answer = Vec::new();
    let _ = tcp.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).split(' ').nth(1)?.parse().ok()
}

#[test]
fn the_aws_endpoint_takes_so_long_a_head_and_so_many_silent_connections() {
    let world = world();
    let token = std::fs::read_to_string(world.path("aws.token")).unwrap();
    assert_eq!(ask_aws(&world, &token, container::MAX_HEAD / 2), Some(200));
    assert_ne!(ask_aws(&world, &token, 2 * container::MAX_HEAD), Some(200), "it is not read");

    let connect = || TcpStream::connect(("127.0.0.1", world.aws_port())).unwrap();
    let mut silent: Vec<_> = (0..container::MAX_CONNECTIONS).map(|_| connect()).collect();
    assert_eq!(ask_aws(&world, &token, 0), Some(200), "who says nothing keeps nobody out");
    silent[0].set_read_timeout(Some(container::REQUEST_TIMEOUT / 2)).unwrap();
    let oldest = silent[0].read(&mut [0]);
    assert!(
        !oldest.as_ref().is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)),
        "it made room: {oldest:?}"
    );
    drop(silent);
    assert_eq!(ask_aws(&world, &token, 0), Some(200));
}

#[test]
fn who_says_nothing_keeps_the_agent_from_its_end_no_longer_than_it_may() {
    let world = world();
    let silent = UnixStream::connect(world.path("workload.sock")).unwrap();
    assert!(world.block_on(is_served(world.channel("workload.sock"))));
    let begun = std::time::Instant::now();
    world.stop_ok();
    assert!(begun.elapsed() < DRAIN_TIMEOUT * 3, "{:?}", begun.elapsed());
    drop(silent);
}

#[test]
fn the_health_port_serves_so_many_at_a_time_and_others_wait() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let metrics = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle();
    let board = Arc::new(Board::new(Vec::new(), Arc::new(SystemClock), metrics));
    let listener = runtime.block_on(health::bind("127.0.0.1:0".parse().unwrap())).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (_stop, shutdown) = watch::channel(false);
    runtime.spawn(health::serve(listener, board, shutdown));

    let mut silent: Vec<_> = (0..health::MAX_CONNECTIONS).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    let mut waiting = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(waiting, "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    waiting.set_read_timeout(Some(QUIET)).unwrap();
    assert!(waiting.read(&mut [0]).is_err(), "it waits");
    silent.pop();
    waiting.set_read_timeout(Some(health::HEAD_TIMEOUT / 2)).unwrap();
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).expect("it has the place that was given back");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let mut long = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let _ = write!(long, "GET /healthz HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(2 * health::MAX_HEAD));
    let mut answer = Vec::new();
    let _ = long.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "a head has its bound");
}
