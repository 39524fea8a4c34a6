//! A client that is no longer trusted: refused on a new connection, cut off on a live one.

use std::{path::Path, sync::Arc, time::Duration};

use daypass::{
    clock::{Clock, SystemClock},
    model::Timestamp,
};
use rustls::NamedGroup;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    wire::{PREFACE, block_on, connect, ends_within, hold, tls},
    world::{Caller, World},
};
use crate::support::{
    parts::{openssl::openssl, wait_until},
    redis::Redis,
};

/// Within this the live connection of a client that is no longer trusted ends.
const CUT_TIME: Duration = Duration::from_secs(5);

/// The vendor's second certificate, and the id of its lease.
fn vendor_client(world: &World) -> (String, Caller) {
    let (answer, pair) = world.issue(&world.vendor(), "vendor-client", "vendor-client");
    (answer["lease"]["id"].as_str().unwrap().to_owned(), Caller::pair(pair))
}

#[track_caller]
fn refused(world: &World, caller: &Caller) {
    let said = world.cli(caller, ["whoami"]);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.line().contains("revoked"), "{said:?}");
}

#[test]
fn a_revoked_certificate_opens_no_door_and_keeps_none_open() {
    let mut world = World::start();
    let (lease, client) = vendor_client(&world);
    let seen = world.cli(&client, ["whoami", "-o", "json"]).json();
    assert_eq!(seen["subject"], "spiffe://dev.daypass.test/vendor-client/acme-scan");
    assert_eq!(world.issue(&client, "vendor-client", "third").0["lease"]["tenant"], "acme-scan");

    block_on(async {
        let mut live = hold(&world, &client).await;
        let mut other = hold(&world, &world.vendor()).await;
        assert_eq!(world.cli(&world.operator(), ["lease", "revoke", &lease]).code, 0);
        refused(&world, &client);
        assert!(ends_within(&mut live, CUT_TIME).await, "the live connection stays");
        assert!(!ends_within(&mut other, Duration::from_secs(1)).await, "the vendor's own connection was cut too");
    });
    assert_eq!(world.cli(&world.vendor(), ["whoami"]).code, 0);
    assert!(world.metrics().contains("daypass_connections_cut_total 1"));

    // And after a restart, as soon as it says that it is ready.
    world.stop();
    world.start_again();
    refused(&world, &client);
}

#[test]
fn a_revoked_certificate_stays_out_while_the_store_is_away() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
    let world = World::on_redis(&redis.url());
    let (lease, client) = vendor_client(&world);
    assert_eq!(world.cli(&world.operator(), ["lease", "revoke", &lease]).code, 0);
    redis.stop();
    refused(&world, &client);
    world.wait_ready(false, Duration::from_secs(5));
    refused(&world, &client);

    redis.start_again();
    world.wait_ready(true, Duration::from_secs(5));
    refused(&world, &client);
}

/// What the server knew of its own revocations is in the store and in the audit log: without them it must not guess.
#[test]
fn a_revoked_certificate_stays_out_when_the_server_starts_without_its_store() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
    let mut world = World::on_redis(&redis.url());
    let (lease, client) = vendor_client(&world);
    assert_eq!(world.cli(&world.operator(), ["lease", "revoke", &lease]).code, 0);
    world.stop();
    redis.stop();
    world.start_unready();
    for _ in 0..5 {
        assert_ne!(world.cli(&client, ["whoami", "--timeout", "2s"]).code, 0, "a revoked client is served");
    }
    redis.start_again();
    world.wait_ready(true, Duration::from_secs(10));
    refused(&world, &client);
    assert_eq!(world.cli(&world.vendor(), ["whoami"]).code, 0);
}

#[test]
fn an_expired_certificate_ends_its_connection() {
    let world = World::start();
    let out = world.file("brief");
    let said = world.cli(&world.vendor(), ["issue", "vendor-client", "--ttl", "6s", "-o", "json", "--out", &out.display().to_string()]);
    let until: Timestamp = said.json()["lease"]["expires_at"].as_str().unwrap().parse().unwrap();
    let client = Caller::files(out.join("tls.crt"), out.join("tls.key"));
    block_on(async {
        let mut live = hold(&world, &client).await;
        let mut other = hold(&world, &world.vendor()).await;
        let left = Duration::try_from(until.duration_since(SystemClock.now())).expect("it is still good");
        assert!(ends_within(&mut live, left + CUT_TIME).await, "the live connection stays");
        assert!(!ends_within(&mut other, Duration::from_secs(1)).await, "the vendor's own connection was cut too");
    });
    assert_eq!(world.cli(&client, ["whoami"]).code, 3);
}

#[test]
fn a_removed_trust_domain_ends_its_connections() {
    let world = World::start();
    let callers = crate::support::parts::openssl::Ca::new(world.dir(), "callers");
    let agent = Caller::pair(callers.client("agent", &["URI:spiffe://example.org/agent"]));
    let domain = "[[trust_domain]]\nname = \"example.org\"\nca = \"callers/ca.pem\"\nidentity = \"spiffe\"\n\n[[tenant]]\nname = \"agents\"\n\
                  kind = \"team\"\nmembers = [{ trust_domain = \"example.org\", id = \"spiffe://example.org/agent\" }]\n";
    world.reconfigure(|world| world.append("daypass.toml", domain));
    assert_eq!(world.cli(&agent, ["whoami", "-o", "json"]).json()["tenant"], "agents");
    block_on(async {
        let mut live = hold(&world, &agent).await;
        world.reconfigure(|world| world.edit("daypass.toml", domain, ""));
        assert!(ends_within(&mut live, CUT_TIME).await, "the live connection stays");
    });
    assert_eq!(world.cli(&agent, ["whoami"]).code, 3);
    assert_eq!(world.cli(&world.operator(), ["whoami"]).code, 0);
}

#[test]
fn a_crl_of_the_callers_own_ca_is_taken_up() {
    let world = World::start();
    let callers = crate::support::parts::openssl::Ca::new(world.dir(), "callers");
    let pair = callers.client("agent", &["URI:spiffe://example.org/agent"]);
    let (agent, cert) = (Caller::pair(pair.clone()), pair.cert);
    callers.crl();
    world.reconfigure(|world| {
        world.append(
            "daypass.toml",
            "[[trust_domain]]\nname = \"example.org\"\nca = \"callers/ca.pem\"\ncrls = [\"callers/ca.crl\"]\nidentity = \"spiffe\"\n\n\
             [[tenant]]\nname = \"agents\"\nkind = \"team\"\nmembers = [{ trust_domain = \"example.org\", id = \"spiffe://example.org/agent\" }]\n",
        );
    });
    assert_eq!(world.cli(&agent, ["whoami"]).code, 0);
    block_on(async {
        let mut live = hold(&world, &agent).await;
        callers.revoke(&cert);
        world.reconfigure(|_| drop(callers.crl()));
        assert!(ends_within(&mut live, CUT_TIME).await, "the live connection stays");
    });
    refused(&world, &agent);
}

#[test]
fn tls_1_3_only_post_quantum_first_and_no_tickets() {
    let world = World::start();
    let address = format!("127.0.0.1:{}", world.grpc);
    let old = openssl(world.dir(), ["s_client", "-connect", &address, "-tls1_2", "-CAfile", "ca.pem"]);
    assert!(!old.ok && old.all().contains("alert protocol version"), "{}", old.all());
    let new = openssl(world.dir(), ["s_client", "-connect", &address, "-tls1_3", "-CAfile", "ca.pem"]);
    assert!(new.all().contains("TLSv1.3") && new.all().contains("Verify return code: 0"), "{}", new.all());

    block_on(async {
        let config = Arc::new(tls(&world, &world.operator()));
        for round in 0..2 {
            let mut stream = connect(&world, config.clone()).await.unwrap();
            stream.write_all(PREFACE).await.unwrap();
            let mut answer = [0; 9];
            stream.read_exact(&mut answer).await.unwrap();
            let tls = stream.get_ref().1;
            assert_eq!(tls.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
            // Data has come, so a ticket would have come before it.
            assert_eq!((tls.tls13_tickets_received(), tls.handshake_kind()), (0, Some(rustls::HandshakeKind::Full)), "round {round}");
        }
    });
}

#[test]
fn one_key_in_another_certificate_is_another_caller() {
    let world = World::start();
    let (_, client) = vendor_client(&world);
    let pair = client.pair.unwrap();
    // The same names under another CA, and the right certificate with the wrong key.
    let stranger = crate::support::parts::openssl::Ca::new(world.dir(), "stranger");
    let twin = stranger.client("twin", &["URI:spiffe://dev.daypass.test/vendor-client/acme-scan"]);
    assert_eq!(world.cli(&Caller::pair(twin.clone()), ["whoami"]).code, 3);
    let said = world.cli(&Caller::files(pair.cert.clone(), twin.key), ["whoami"]);
    assert_eq!(said.code, 2, "a key that does not fit: {said:?}");
    let leases = world.cli(&world.operator(), ["lease", "list", "--state", "active", "-o", "json"]).json();
    assert_eq!(leases.as_array().unwrap().len(), 1);
    assert_eq!(leases[0]["role"], json!("vendor-client"));
    assert!(Path::new(&pair.cert).exists());
    wait_until(Duration::from_secs(5), "refused handshakes are counted", || world.metrics().contains("outcome=\"refused\"").then_some(()));
}
