//! What a running service does with a CA that rotates: CRLs of every state, two servers, its own certificate.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use daypass::{
    proto::v1::{AcknowledgeTrustBundleRequest, KeyState, WatchTrustBundleRequest},
    store::{
        Collection, Entry, EntryStore,
        redis::{RedisOptions, RedisStore},
    },
};
use serde_json::Value;

use super::ca_world::{Follower, SPREAD, Under, bundle, ca, ca_ok, crl, rotating, states, trust, trust_at};
use crate::{
    e2e::{
        two_servers::Second,
        wire::{block_on, client},
        world::{Caller, World},
    },
    support::{
        parts::{
            openssl::{REVOKED, openssl, openssl_ok, to_pem, verify},
            run, wait_until,
        },
        redis::Redis,
    },
};

/// The common name of a certificate's issuer.
fn issuer(world: &World, cert: &std::path::Path) -> String {
    let shown = openssl_ok(world.dir(), ["x509", "-noout", "-issuer", "-nameopt", "multiline", "-in", cert.to_str().unwrap()]).text();
    shown.lines().find_map(|line| line.split_once("commonName").map(|(_, name)| name.trim_start_matches([' ', '=']).to_owned())).unwrap()
}

fn revoke(world: &World, issued: &Value) {
    let revoked = world.cli(&world.operator(), ["lease", "revoke", issued["lease"]["id"].as_str().unwrap()]);
    assert_eq!(revoked.code, 0, "{revoked:?}");
}

#[test]
fn crls_of_every_state_are_served_and_each_names_its_own() {
    let world = rotating(None, Under::Root);
    let (old, old_pair) = world.issue(&world.operator(), "web", "old");
    assert_eq!(issuer(&world, &old_pair.cert), "issuing-1");
    ca_ok(&world, &["prepare", "issuing"]);
    let prepared = crl(world.http, "issuing-2");
    assert!(!prepared.is_empty(), "its CRL is out before it signs");
    assert!(!ca(&world, &["activate", "issuing"]).ok, "nobody has had the time to take it up");
    ca_ok(&world, &["activate", "issuing", "--force"]);
    let (new, new_pair) = world.issue(&world.operator(), "web", "new");
    assert_eq!(issuer(&world, &new_pair.cert), "issuing-2");
    ca_ok(&world, &["prepare", "issuing"]);

    revoke(&world, &old);
    let verdict = |pair: &crate::support::parts::openssl::Pair, ca: &str| {
        let (root_list, list, lists) = (world.file("root.crl.pem"), world.file("one.crl.pem"), world.file("lists.pem"));
        to_pem("crl", &crl(world.http, "root-issuing"), &root_list);
        to_pem("crl", &crl(world.http, ca), &list);
        fs::write(&lists, fs::read_to_string(root_list).unwrap() + &fs::read_to_string(list).unwrap()).unwrap();
        verify(&pair.cert, &world.file("ca.pem"), Some(&pair.cert), Some(&lists))
    };
    assert!(verdict(&old_pair, "issuing-1").all().contains(REVOKED), "{}", verdict(&old_pair, "issuing-1").all());
    assert!(verdict(&new_pair, "issuing-2").ok, "{}", verdict(&new_pair, "issuing-2").all());
    let text = |name: &str| {
        let path = world.file("shown.crl");
        fs::write(&path, crl(world.http, name)).unwrap();
        openssl(world.dir(), ["crl", "-inform", "der", "-noout", "-text", "-in", path.to_str().unwrap()]).text()
    };
    let entries = |name: &str| text(name).matches("Serial Number:").count();
    assert_eq!([entries("issuing-1"), entries("issuing-2"), entries("issuing-3")], [1, 0, 0]);
    revoke(&world, &new);
    wait_until(SPREAD, "the new one's CRL names it", || (entries("issuing-2") == 1).then_some(()));
    assert_eq!([entries("issuing-1"), entries("issuing-3")], [1, 0]);

    // A key that is taken out is gone everywhere.
    ca_ok(&world, &["retire", "issuing-1"]);
    wait_until(SPREAD, "the CRL of a CA that is gone is gone", || {
        world.get("/crl/issuing-1.crl").is_some_and(|got| got.0 == 404).then_some(())
    });
    assert_eq!(world.get("/crl/issuing.crl").unwrap().0, 404, "the configured name is no authority's");
}

/// A key that leaked: its root stays, and its CRL goes with it.
#[test]
fn under_a_root_a_retired_key_admits_nobody_any_more() {
    let world = rotating(None, Under::Root);
    let code = |pair: &crate::support::parts::openssl::Pair| world.cli(&Caller::pair(pair.clone()), ["whoami"]).code;
    let [(_, old), (revoked, revoked_pair)] = ["old", "revoked"].map(|name| world.issue(&world.vendor(), "vendor-client", name));
    revoke(&world, &revoked);
    wait_until(SPREAD, "the revoked one is refused", || (code(&revoked_pair) == 3).then_some(()));
    ca_ok(&world, &["prepare", "issuing"]);
    crl(world.http, "issuing-2");
    ca_ok(&world, &["activate", "issuing", "--force"]);
    let (_, new) = world.issue(&world.vendor(), "vendor-client", "new");
    assert_eq!((code(&old), code(&new)), (0, 0));
    ca_ok(&world, &["retire", "issuing-1"]);
    wait_until(SPREAD, "who holds one of its certificates is refused", || (code(&old) == 3).then_some(()));
    assert_eq!((code(&revoked_pair), code(&new)), (3, 0));
}

#[test]
fn two_servers_have_one_state_and_take_each_others_clients() {
    let redis = Redis::start();
    let world = rotating(Some(redis.url()), Under::Itself);
    let second = Second::start(&world);
    block_on(async {
        let mut trust = trust(&world).await;
        let at_second = |path: &str| run(Command::new("curl").args(["-fsS", &format!("http://127.0.0.1:{}{path}", second.http)]));
        let (_, old) = world.issue(&world.vendor(), "vendor-client", "old");
        assert_eq!(second.cli(&world, &Caller::pair(old.clone()), &["whoami"]).0, Some(0), "a client of the active key");
        ca_ok(&world, &["prepare", "issuing"]);
        crl(second.http, "issuing-2");
        assert_eq!(states(&bundle(&mut trust).await)["issuing-2"], KeyState::Prepared);
        ca_ok(&world, &["activate", "issuing", "--force"]);
        let (issued, new) = world.issue(&world.vendor(), "vendor-client", "new");
        for (pair, what) in [(&old, "retired"), (&new, "new")] {
            assert_eq!(
                second.cli(&world, &Caller::pair(pair.clone()), &["whoami"]).0,
                Some(0),
                "a client of the {what} key, without a restart"
            );
        }
        let names = |text: String| {
            let mut names: Vec<String> = text.split("-----BEGIN").map(str::to_owned).collect();
            names.sort();
            names
        };
        wait_until(SPREAD, "both servers show one bundle", || {
            let second = at_second("/ca.pem").text();
            (names(second) == names(String::from_utf8(world.fetch("/ca.pem")).unwrap())).then_some(())
        });
        revoke(&world, &issued);
        wait_until(SPREAD, "the second refuses who the first has revoked", || {
            (second.cli(&world, &Caller::pair(new.clone()), &["whoami"]).0 == Some(3)).then_some(())
        });
        assert_eq!(second.cli(&world, &Caller::pair(old.clone()), &["whoami"]).0, Some(0), "and nobody else");
    });
}

/// Servers that crash leave an entry each; without a key that waits somebody must clear them away, too.
#[test]
fn a_server_that_is_gone_is_forgotten_though_no_key_waits() {
    let redis = Redis::start();
    let mut world = rotating(Some(redis.url()), Under::Itself);
    world.stop();
    let store = RedisStore::new(RedisOptions::new(redis.url())).unwrap();
    let now = daypass::clock::Clock::now(&daypass::clock::SystemClock);
    let said = |ago: i64| {
        let at = now - daypass::model::SignedDuration::from_secs(ago);
        serde_json::json!({ "at": at, "watchers": 1, "keys": ["issuing-1"] }).to_string().into_bytes()
    };
    let entry = |key: u64, ago| Entry { key: format!("{key:016x}"), version: 1, body: said(ago) };
    block_on(async {
        for entry in [entry(1, 3600), entry(2, 60)] {
            assert!(store.write_entry(Collection::Servers, &entry).await.unwrap());
        }
        world.start_again();
        let deadline = Instant::now() + SPREAD;
        let there = async || store.entries(Collection::Servers).await.unwrap().into_iter().map(|entry| entry.key).collect::<Vec<_>>();
        while there().await.contains(&entry(1, 0).key) {
            assert!(Instant::now() < deadline, "the server that is gone is not forgotten");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(there().await.contains(&entry(2, 0).key), "one that spoke a minute ago is not");
    });
}

#[test]
fn a_key_waits_for_everybody_who_watches() {
    let world = rotating(None, Under::Itself);
    block_on(async {
        let attentive = Follower::start(trust(&world).await, true).await;
        let silent = Follower::start(trust(&world).await, false).await;
        let before = attentive.bundle.borrow().version.clone();
        ca_ok(&world, &["prepare", "issuing"]);
        let both = [("issuing-1", KeyState::Active), ("issuing-2", KeyState::Prepared)];
        let prepared = attentive.until(&both).await;
        assert!(prepared.version != before && prepared.version.len() == 32, "{}", prepared.version);
        // Several looks of the server, in none of which it may sign.
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(states(&attentive.bundle.borrow())["issuing-2"], KeyState::Prepared, "one of two has not said that it has it");
        drop(silent);
        attentive.until(&[("issuing-1", KeyState::Retired), ("issuing-2", KeyState::Active)]).await;

        let mut client = trust(&world).await;
        let mut stream = client.watch_trust_bundle(WatchTrustBundleRequest {}).await.unwrap().into_inner();
        let first = stream.message().await.unwrap().unwrap();
        let version = first.bundle.unwrap().version;
        assert_eq!(version, attentive.bundle.borrow().version);
        for (watch_id, version, says) in
            [("0".repeat(32), version.clone(), "no such stream"), (first.watch_id.clone(), "0".repeat(32), "no such version")]
        {
            let refused = client.acknowledge_trust_bundle(AcknowledgeTrustBundleRequest { watch_id, version }).await.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(refused.message().contains(says), "{refused}");
        }
    });
    assert!(world.metrics().contains("daypass_bundle_watches"));
}

#[test]
fn a_key_waits_for_who_watches_at_the_other_server() {
    let redis = Redis::start();
    let world = rotating(Some(redis.url()), Under::Itself);
    let second = Second::start(&world);
    block_on(async {
        let attentive = Follower::start(trust(&world).await, true).await;
        let silent = Follower::start(trust_at(&world, second.grpc).await, false).await;
        ca_ok(&world, &["prepare", "issuing"]);
        let prepared = [("issuing-1", KeyState::Active), ("issuing-2", KeyState::Prepared)];
        attentive.until(&prepared).await;
        silent.until(&prepared).await;
        // Several looks of both servers after the time from which on it could sign.
        tokio::time::sleep(Duration::from_secs(9)).await;
        for follower in [&attentive, &silent] {
            assert_eq!(states(&follower.bundle.borrow())["issuing-2"], KeyState::Prepared, "who watches at the second has not said so");
        }
        drop(silent);
        let there = Follower::start(trust_at(&world, second.grpc).await, true).await;
        let active = [("issuing-1", KeyState::Retired), ("issuing-2", KeyState::Active)];
        attentive.until(&active).await;
        there.until(&active).await;
    });
}

#[test]
fn one_who_watches_has_no_key_sign_before_who_polls_has_it() {
    let mut world = rotating(None, Under::Itself);
    world.stop();
    world.edit("daypass.toml", "acknowledged_after = \"3s\"", "acknowledged_after = \"9s\"");
    world.start_again();
    block_on(async {
        let alone = Follower::start(trust(&world).await, true).await;
        ca_ok(&world, &["prepare", "issuing"]);
        alone.until(&[("issuing-1", KeyState::Active), ("issuing-2", KeyState::Prepared)]).await;
        alone.until(&[("issuing-1", KeyState::Retired), ("issuing-2", KeyState::Active)]).await;
    });
    let shown: Value = serde_json::from_str(&ca(&world, &["show", "issuing", "-o", "json"]).text()).unwrap();
    let at = |name: &str| shown["keys"][1][name].as_str().unwrap().parse::<daypass::model::Timestamp>().unwrap();
    let waited = at("signs_from").duration_since(at("published_at")).as_secs();
    assert!((9..60).contains(&waited), "{waited} s");
}

#[test]
fn the_servers_own_certificate_follows_its_ca_under_live_connections() {
    let mut world = rotating(None, Under::Root);
    world.stop();
    let files = "certificate = \"pki/server.pem\"\nkey = \"pki/server.key\"\n";
    let own = "certificate_from = { ca = \"issuing\", names = [\"localhost\", \"127.0.0.1\"], life = \"1m\" }\n";
    world.edit("daypass.toml", files, own);
    world.start_again();
    let shown = || {
        let address = format!("127.0.0.1:{}", world.grpc);
        let ca = world.file("ca.pem");
        let args = ["s_client", "-connect", &address, "-alpn", "h2", "-verify_return_error", "-verify_hostname", "localhost", "-CAfile"];
        let said = run(Command::new("openssl").args(args).arg(&ca).stdin(std::process::Stdio::null()));
        assert!(said.text().contains("Verify return code: 0 (ok)"), "{}", said.all());
        let leaf = world.file("shown.pem");
        let text = said.text();
        let (from, to) = (text.find("-----BEGIN").unwrap(), text.find("-----END CERTIFICATE-----").unwrap());
        fs::write(&leaf, &text[from..to + "-----END CERTIFICATE-----\n".len()]).unwrap();
        let serial = openssl_ok(world.dir(), ["x509", "-noout", "-serial", "-in", leaf.to_str().unwrap()]).text();
        (serial.trim().trim_start_matches("serial=").to_lowercase(), issuer(&world, &leaf))
    };
    let (first, authority) = shown();
    assert_eq!(authority, "issuing-1");
    block_on(async {
        // One connection through all of it.
        let mut live = client(&world, &world.operator());
        let mut whoami = async || live.who_am_i().await.unwrap();
        whoami().await;
        ca_ok(&world, &["prepare", "issuing"]);
        crl(world.http, "issuing-2");
        ca_ok(&world, &["activate", "issuing", "--force"]);
        let second = wait_until(SPREAD, "the server shows a certificate of the new key", || {
            let (serial, authority) = shown();
            (authority == "issuing-2").then_some(serial)
        });
        assert_ne!(first, second);
        whoami().await;
        let third = wait_until(Duration::from_secs(45), "and another one at half of its life", || {
            let (serial, _) = shown();
            (serial != second).then_some(serial)
        });
        whoami().await;
        let told: Vec<String> = world
            .records()
            .iter()
            .filter(|record| record["method"] == "server/certificate")
            .map(|record| record["detail"][0].as_str().unwrap().to_owned())
            .collect();
        for serial in [&first, &second, &third] {
            assert!(told.iter().any(|told| told.contains(serial.as_str())), "{serial} is not on record: {told:?}");
        }
    });
    assert!(world.metrics().contains("daypass_own_certificate_seconds_left"));
}
