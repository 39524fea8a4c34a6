//! What one client may take from the others: bounded. And how the server ends: gracefully.

use std::{
    io::Read,
    net::TcpStream,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use daypass::proto::v1::{
    IssueRequest, TailRequest, WhoAmIRequest, X509Input, audit_service_client::AuditServiceClient, issue_request::Input,
};
use tokio::io::AsyncWriteExt;
use tonic::Code;

use super::{
    token,
    wire::{block_on, channel, connect, credentials, ends_within, frame, hold, issue_request, request, request_and_reset, tls},
    world::{Caller, World},
};
use crate::support::{
    parts::{run, wait_until},
    redis::Redis,
};

const WHO_AM_I: &str = "/daypass.v1.CredentialService/WhoAmI";

/// Within this a server that has nothing left to do has ended.
const DRAINED: Duration = Duration::from_secs(5);

fn limited(lines: &str) -> World {
    let mut world = World::start();
    world.stop();
    world.limit(lines);
    world.start_again();
    world
}

#[test]
fn a_message_that_is_too_large_is_refused_and_the_connection_goes_on() {
    let world = World::start();
    block_on(async {
        let mut client = credentials(&world, &world.operator()).await;
        let large = |bytes| IssueRequest { input: Some(Input::X509(X509Input { csr_der: vec![0x30; bytes] })), ..issue_request("web") };
        let status = client.issue(large(64 * 1024)).await.unwrap_err();
        assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status:?}");
        let status = client.issue(large(17 * 1024)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        client.who_am_i(WhoAmIRequest {}).await.unwrap();
    });
}

#[test]
fn too_many_headers_are_refused_and_the_server_goes_on() {
    let world = World::start();
    block_on(async {
        let mut client = credentials(&world, &world.operator()).await;
        let mut many = request(&world.operator(), WhoAmIRequest {});
        for number in 0..200 {
            let name: tonic::metadata::AsciiMetadataKey = format!("x-filler-{number}").parse().unwrap();
            many.metadata_mut().insert(name, "x".repeat(300).parse().unwrap());
        }
        assert!(client.who_am_i(many).await.is_err(), "60 KiB of headers");
        let mut two = request(&world.operator(), WhoAmIRequest {});
        two.metadata_mut().append("authorization", format!("Bearer {}", token::mint(&world, serde_json::json!({}))).parse().unwrap());
        two.metadata_mut().append("authorization", "Bearer x".parse().unwrap());
        let status = credentials(&world, &world.operator()).await.who_am_i(two).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "two authorizations are none: {status:?}");
    });
    assert_eq!(world.cli(&world.operator(), ["whoami"]).code, 0);
}

#[test]
fn a_flood_of_resets_costs_the_flooder_its_connection() {
    let world = World::start();
    block_on(async {
        let mut flooder = hold(&world, &world.vendor()).await;
        // A few are nothing unusual.
        flooder.write_all(&(0..3).flat_map(|number| request_and_reset(2 * number + 1, WHO_AM_I)).collect::<Vec<u8>>()).await.unwrap();
        assert!(!ends_within(&mut flooder, Duration::from_millis(500)).await);
        let flood: Vec<u8> = (3..5_000).flat_map(|number| request_and_reset(2 * number + 1, WHO_AM_I)).collect();
        // It is cut off somewhere on the way.
        let _ = flooder.write_all(&flood).await;
        assert!(ends_within(&mut flooder, Duration::from_secs(5)).await, "the flooder stays connected");
    });
    assert_eq!(world.cli(&world.operator(), ["whoami"]).code, 0);
    assert!(world.is_ready());
}

#[test]
fn a_frame_larger_than_agreed_and_other_nonsense_ends_the_connection_alone() {
    let world = World::start();
    block_on(async {
        let mut good = hold(&world, &world.operator()).await;
        for nonsense in [frame(0, 0, 1, &vec![0; 20_000]), frame(4, 0, 0, b"odd"), vec![0xff; 64]] {
            let mut bad = hold(&world, &world.vendor()).await;
            let _ = bad.write_all(&nonsense).await;
            assert!(ends_within(&mut bad, Duration::from_secs(5)).await);
        }
        assert!(!ends_within(&mut good, Duration::from_millis(300)).await);
    });
    assert_eq!(world.cli(&world.operator(), ["whoami"]).code, 0);
}

#[test]
fn who_says_nothing_is_dropped_and_does_not_keep_others_out() {
    let world = limited("handshake_timeout = \"1s\"\nhandshakes = 2");
    let begun = Instant::now();
    let silent: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(("127.0.0.1", world.grpc)).unwrap()).collect();
    assert_eq!(world.cli(&world.operator(), ["whoami"]).code, 0, "it waits its turn");
    for mut tcp in silent {
        tcp.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
        assert!(matches!(tcp.read(&mut [0; 16]), Ok(0) | Err(_)));
    }
    let took = begun.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(8)).contains(&took), "{took:?}");
}

#[test]
fn a_caller_that_asks_too_often_is_told_so_and_others_are_not() {
    let world = limited("requests_per_caller_per_second = 1\nrequest_burst_per_caller = 3");
    let vendor = world.vendor();
    let said: Vec<_> = (0..8).map(|_| world.cli(&vendor, ["whoami", "-o", "json"])).collect();
    let refused: Vec<_> = said.iter().filter(|said| said.code != 0).collect();
    assert!(refused.len() >= 3 && said[..3].iter().all(|said| said.code == 0), "{said:?}");
    for said in &refused {
        assert_eq!((said.code, said.error().0.as_str()), (1, "RATE_LIMITED"));
    }
    assert_eq!(world.cli(&world.operator(), ["whoami"]).code, 0);
    let on_record = world.records().iter().filter(|record| record["reason"] == "RATE_LIMITED").count();
    assert!((1..refused.len()).contains(&on_record), "{on_record} of {} are on record", refused.len());
    block_on(async {
        let mut client = credentials(&world, &vendor).await;
        let mut codes = Vec::new();
        for _ in 0..6 {
            codes.push(client.who_am_i(WhoAmIRequest {}).await.map_or_else(|status| status.code(), |_| Code::Ok));
        }
        assert!(codes.contains(&Code::ResourceExhausted), "{codes:?}");
    });
    wait_until(Duration::from_secs(5), "the vendor may ask again", || (world.cli(&vendor, ["whoami"]).code == 0).then_some(()));
}

#[test]
fn who_guesses_at_tokens_is_stopped_and_who_is_known_is_not() {
    let world = limited("failed_logins_per_address_per_minute = 5");
    let codes: Vec<String> =
        (0..8).map(|number| world.cli(&Caller::token(format!("guess.number.{number}")), ["whoami", "-o", "json"]).error().0).collect();
    assert!(codes[..5].iter().all(|code| code == "UNAUTHENTICATED") && codes[5..].iter().all(|code| code == "RATE_LIMITED"), "{codes:?}");
    assert_eq!(world.cli(&world.operator(), ["whoami"]).code, 0);
    assert_eq!(world.cli(&world.job(), ["whoami"]).code, 0);
}

#[test]
fn more_connections_than_files_do_not_end_the_server() {
    let world = World::start();
    let limit = |files: &str| {
        let ran = run(Command::new("prlimit").args([format!("--pid={}", world.pid()), format!("--nofile={files}")]));
        assert!(ran.ok, "{}", ran.all());
    };
    let open = std::fs::read_dir(format!("/proc/{}/fd", world.pid())).unwrap().count();
    assert!(!world.metrics().contains("daypass_accept_errors_total"));
    limit(&format!("{}:4096", open + 4));
    let many: Vec<_> = (0..40).filter_map(|_| TcpStream::connect(("127.0.0.1", world.grpc)).ok()).collect();
    std::thread::sleep(Duration::from_millis(500));
    drop(many);
    limit("1024:4096");
    wait_until(Duration::from_secs(10), "the operator is served again", || {
        (world.cli(&world.operator(), ["whoami"]).code == 0).then_some(())
    });
    assert!(world.metrics().contains("daypass_accept_errors_total"), "it ran out of files");
    world.wait_ready(true, Duration::from_secs(5));
}

#[test]
fn sigterm_finishes_what_is_in_flight_and_takes_nothing_new() {
    let redis = Redis::start();
    let mut world = World::on_redis(&redis.url());
    block_on(async {
        let operator = world.operator();
        let mut client = credentials(&world, &operator).await;
        client.who_am_i(WhoAmIRequest {}).await.unwrap();
        let mut tail = AuditServiceClient::new(channel(&world, &operator).await)
            .tail(request(&operator, TailRequest { after_seq: 0, last: 1, follow: true }))
            .await
            .unwrap()
            .into_inner();
        // The request waits at the store, and is answered once the store goes on.
        redis.signal("STOP");
        let asked = tokio::spawn(async move { client.issue(issue_request("web")).await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.signal("TERM");
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!asked.is_finished());
        let refused = tokio::time::timeout(Duration::from_secs(5), async {
            let Ok(mut stream) = connect(&world, Arc::new(tls(&world, &operator))).await else { return true };
            ends_within(&mut stream, Duration::from_secs(4)).await
        });
        redis.signal("CONT");
        let lease = asked.await.unwrap().expect("what was in flight is finished").into_inner().lease.unwrap();
        assert_eq!(lease.role, "web");
        assert!(refused.await.unwrap(), "a new connection is served");
        while let Ok(Some(_)) = tail.message().await {}
        let status = world.wait_end(DRAINED);
        assert!(status.success(), "{status:?}");
        world.start_again();
        assert_eq!(world.cli(&operator, ["lease", "get", &lease.id]).code, 0);
    });
}

#[test]
fn sigterm_under_load_loses_no_answer() {
    let mut world = World::start();
    let issued = block_on(async {
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let mut client = credentials(&world, &world.operator()).await;
            workers.spawn(async move {
                let mut ids = Vec::new();
                loop {
                    match client.issue(issue_request("web")).await {
                        Ok(answer) => ids.push(answer.into_inner().lease.unwrap().id),
                        Err(status) => {
                            assert!(matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled), "{status:?}");
                            return ids;
                        }
                    }
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
        let begun = Instant::now();
        assert!(world.stop().success());
        assert!(begun.elapsed() < DRAINED, "{:?}", begun.elapsed());
        workers.join_all().await.concat()
    });
    assert!(issued.len() > 10, "{} leases", issued.len());
    world.start_again();
    // Nobody waits for an answer that never came: no lease lives that was not handed out.
    let active = world.cli(&world.operator(), ["lease", "list", "--state", "active", "--limit", "10000", "-o", "json"]).json();
    let active: std::collections::BTreeSet<_> =
        active.as_array().unwrap().iter().map(|lease| lease["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(active, issued.into_iter().collect());
}
