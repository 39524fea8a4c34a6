//! Two that hold one identity: found at the next use of the older certificate, refused, on record, and by the role's word revoked.

use std::{collections::HashMap, time::Duration};

use daypass::{
    client::{Client, csr, types::Issued},
    model::{error::Code, event::Outcome, lease::LeaseState, request::Input, role::OnClone},
    vend::{HeldLease, WatchRequest, WatchWhat},
};
use futures::StreamExt;
use serde_json::Value;

use super::world::{Key, World as Heart, caller, failed, origin, peer};
use crate::{
    e2e::{
        two_servers::Second,
        wire::{block_on, client},
        world::{Caller, World},
    },
    support::{
        parts::{openssl::Pair, wait_until},
        redis::Redis,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_supersedes_the_certificates_before() {
    for world in [Heart::on_sqlite(), Heart::on_redis()] {
        let (lease, first) = world.agent("acme").await;
        let (_, second) = world.renew(&first, lease.id, Some(1)).await.unwrap();
        assert!(world.revoked().await.is_empty(), "until it is acknowledged both are good");
        let vend = &world.servers[1].vend;
        // It must have been seen to work before it ends the one before.
        assert_eq!(failed(vend.acknowledge(&first, lease.id, 2, None).await).code(), Code::LeaseState);
        assert_eq!(failed(vend.acknowledge(&second, lease.id, 3, None).await).code(), Code::LeaseState);
        assert!(world.revoked().await.is_empty());

        let acknowledged = vend.acknowledge(&second, lease.id, 2, None).await.unwrap();
        assert_eq!(acknowledged.acknowledged, 2);
        let old = lease.handle.credential_id().to_owned();
        assert_eq!(world.revoked().await, std::slice::from_ref(&old), "the first one alone");
        vend.acknowledge(&second, lease.id, 2, None).await.unwrap();
        assert_eq!(world.revoked().await, [old], "again is no harm");
        let (_, third) = world.renew(&second, lease.id, Some(2)).await.unwrap();
        vend.acknowledge(&third, lease.id, 3, None).await.unwrap();
        assert_eq!(world.revoked().await.len(), 2);
        assert_eq!(world.stored(lease.id).await.state, LeaseState::Active);
    }
}

/// Before the CRL is out, or at a server that does not have it yet.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_certificate_that_still_gets_in_is_a_clones() {
    let world = Heart::on_sqlite();
    let (lease, first) = world.agent("acme").await;
    let (_, second) = world.renew(&first, lease.id, None).await.unwrap();
    world.servers[0].vend.acknowledge(&second, lease.id, 2, None).await.unwrap();
    // Whatever it says of its generation: its certificate says it.
    let error = failed(world.renew(&first, lease.id, Some(2)).await);
    assert_eq!(error.code(), Code::GenerationSuperseded, "{error}");
    let lease = world.stored(lease.id).await;
    assert!(matches!(lease.state, LeaseState::Revoking | LeaseState::Revoked));
    assert!(failed(world.renew(&second, lease.id, Some(2)).await).code() == Code::LeaseState, "both lose it");
    assert_eq!(world.revoked().await.len(), 2);
    let found = world.events().into_iter().find(|event| event.method == "clone/found").expect("on record");
    assert_eq!((found.outcome, found.lease_id), (Outcome::Denied, Some(lease.id)));
    assert_eq!(found.actor.unwrap().subject, "spiffe://dev/agent/acme/scanner");
}

/// A thief who acknowledges nothing, and renews in the moment between the holder's renewal and its acknowledgement, has the newest certificate
/// beside the one that is acknowledged: it must not go on so unseen.
#[tokio::test(flavor = "multi_thread")]
async fn a_clone_that_renews_before_the_acknowledgement_is_found_at_it() {
    for world in [Heart::on_sqlite(), Heart::on_redis()] {
        let (lease, first) = world.agent("acme").await;
        let (_, held) = world.renew(&first, lease.id, Some(1)).await.unwrap();
        let (_, stolen) = world.renew(&first, lease.id, None).await.unwrap();
        let error = failed(world.servers[1].vend.acknowledge(&held, lease.id, 2, None).await);
        assert_eq!(error.code(), Code::GenerationSuperseded, "{error}");
        assert!(matches!(world.stored(lease.id).await.state, LeaseState::Revoking | LeaseState::Revoked));
        assert_eq!(failed(world.renew(&stolen, lease.id, None).await).code(), Code::LeaseState, "both lose it");
        assert_eq!(world.revoked().await.len(), 3);
    }
}

/// The same where the holder acknowledges nothing at all: what each shows when it renews is what it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_acknowledges_what_it_was_asked_for_with() {
    let world = Heart::on_sqlite();
    let (lease, first) = world.agent("acme").await;
    // An answer that was lost, twice: nobody has what it held.
    for _ in 0..2 {
        world.renew(&first, lease.id, Some(1)).await.unwrap();
    }
    let (_, fourth) = world.renew(&first, lease.id, Some(1)).await.unwrap();
    assert!(world.revoked().await.is_empty());
    let (fifth, call) = world.renew(&fourth, lease.id, Some(4)).await.unwrap();
    assert_eq!((fifth.generation, fifth.acknowledged), (5, 4));
    assert_eq!(world.revoked().await.len(), 3, "what nobody uses any more");
    world.servers[1].vend.acknowledge(&call, lease.id, 4, None).await.unwrap();
    world.servers[1].vend.acknowledge(&call, lease.id, 5, None).await.unwrap();
    assert_eq!(failed(world.renew(&first, lease.id, None).await).code(), Code::GenerationSuperseded);
}

/// A stream makes no certificate after one of which nobody has said that it has it: there would be two that were made for the same holder.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_waits_for_the_acknowledgement_of_what_it_gave() {
    let world = Heart::on_sqlite();
    let (lease, first) = world.agent("acme").await;
    let Input::X509 { csr_der } = Key::new().csr() else { panic!("no CSR") };
    let what = WatchWhat::Held(HeldLease { id: lease.id, generation: 1, ttl: None, input: Input::None });
    let vend = &world.servers[0].vend;
    let mut watched = vend.watch(&first, WatchRequest { what, next_csr: Some(csr_der) }).await.unwrap();
    assert_eq!(watched.stream.next().await.unwrap().unwrap().lease.generation, 1);
    world.clock.forward(lease.rotation().unwrap().start.duration_since(vend.now()));
    assert_eq!(vend.rotate_due().await.unwrap(), 1);
    assert_eq!(world.stored(lease.id).await.generation, 1);
    vend.acknowledge(&first, lease.id, 1, None).await.unwrap();
    assert_eq!(vend.rotate_due().await.unwrap(), 1);
    assert_eq!(watched.stream.next().await.unwrap().unwrap().lease.generation, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_of_handshakes_is_looked_into() {
    let world = Heart::on_sqlite();
    world.reload(|catalog| {
        let role = catalog.roles.get_mut(&"agent".parse().unwrap()).unwrap();
        std::sync::Arc::make_mut(role).on_clone = OnClone::Alert;
    });
    let (lease, first) = world.agent("acme").await;
    let (_, second) = world.renew(&first, lease.id, None).await.unwrap();
    let vend = &world.servers[0].vend;
    let shown = |call: &daypass::vend::Call| call.identity.certificate().unwrap().clone();
    let origin = origin("tls/handshake");
    assert!(!vend.revoked_was_shown(&origin, &shown(&first)).await.unwrap(), "nothing is acknowledged");
    vend.acknowledge(&second, lease.id, 2, None).await.unwrap();
    assert!(!vend.revoked_was_shown(&origin, &shown(&second)).await.unwrap());
    // A serial is the word of the CA that wrote it: the names must be the lease's too, and the lease must know it.
    let stranger = caller("acme", peer("spiffe://dev/agent/acme/other", lease.handle.credential_id().to_owned()));
    assert!(!vend.revoked_was_shown(&origin, &shown(&stranger)).await.unwrap());
    let unknown = daypass::model::lease::Serial::of_lease(lease.id, 1, [1, 1]).to_hex();
    assert!(!vend.revoked_was_shown(&origin, &peer(lease.subject.as_str(), unknown)).await.unwrap());

    assert!(vend.revoked_was_shown(&origin, &shown(&first)).await.unwrap());
    assert_eq!(world.stored(lease.id).await.state, LeaseState::Active, "the role says alert");
    let found: Vec<_> = world.events().into_iter().filter(|event| event.method == "clone/found").collect();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].peer_address, origin.peer_address);
}

/// An agent of the throwaway world, by the client's own library.
struct Agent {
    lease: String,
    /// Each generation's certificate and key, as files.
    pairs: HashMap<u32, Pair>,
}

impl Agent {
    fn enroll(world: &World) -> Self {
        let code = world.cli(&world.operator(), ["enroll", "create", "--tenant", "fleet", "--role", "agent"]);
        assert_eq!(code.code, 0, "{code:?}");
        let (key, csr) = csr::make().unwrap();
        let code = daypass::model::secret::Secret::new(code.stdout.trim().to_owned());
        let issued = block_on(async { client(world, &Caller::nobody()).redeem(&code, &csr).await }).unwrap();
        let mut agent = Self { lease: issued.lease.id.clone(), pairs: HashMap::new() };
        agent.keep(world, &issued, key.pem());
        agent
    }

    fn keep(&mut self, world: &World, issued: &Issued, key: &str) {
        let daypass::client::types::Credential::X509(made) = &issued.credential else { panic!("no certificate") };
        let generation = issued.lease.generation;
        let file = |kind: &str| world.file(&format!("agent-{}-{generation}.{kind}", self.lease));
        let mut pem = String::new();
        made.chain_der.iter().for_each(|der| daypass::model::pem::push(&mut pem, "CERTIFICATE", der));
        std::fs::write(file("pem"), pem).unwrap();
        std::fs::write(file("key"), key).unwrap();
        std::fs::set_permissions(file("key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        self.pairs.insert(generation, Pair { cert: file("pem"), key: file("key") });
    }

    fn caller(&self, generation: u32) -> Caller {
        Caller::pair(self.pairs[&generation].clone())
    }

    fn client(&self, world: &World, generation: u32) -> Client {
        client(world, &self.caller(generation))
    }

    fn renew(&mut self, world: &World, generation: u32) {
        let (key, csr) = csr::make().unwrap();
        let issued = block_on(async { self.client(world, generation).renew_identity(&self.lease, generation, &csr).await }).unwrap();
        self.keep(world, &issued, key.pem());
    }

    fn acknowledge(&self, world: &World, generation: u32) {
        block_on(async { self.client(world, generation).acknowledge_identity(&self.lease, generation).await }).unwrap();
    }
}

fn clones(world: &World) -> Vec<Value> {
    world.records().into_iter().filter(|record| record["method"] == "clone/found").collect()
}

fn state(world: &World, lease: &str) -> Value {
    world.cli(&world.operator(), ["lease", "get", lease, "-o", "json"]).json()["state"].clone()
}

/// The whole story over real TLS: a copied key is found when it is used, and ends both.
#[test]
fn a_cloned_client_certificate_is_found_at_its_next_use() {
    let world = World::start();
    let mut agent = Agent::enroll(&world);
    assert_eq!(world.cli(&agent.caller(1), ["whoami", "-o", "json"]).json()["tenant"], "fleet");
    agent.renew(&world, 1);
    assert_eq!(world.cli(&agent.caller(1), ["whoami"]).code, 0, "both are good until the new one is in use");
    agent.acknowledge(&world, 2);
    wait_until(Duration::from_secs(5), "the first certificate is refused", || {
        (world.cli(&agent.caller(1), ["whoami"]).code == 3).then_some(())
    });
    let found = wait_until(Duration::from_secs(5), "the clone is on record", || clones(&world).into_iter().next());
    assert_eq!(
        (&found["lease_id"], &found["outcome"], &found["tenant"]),
        (&agent.lease.as_str().into(), &"denied".into(), &"fleet".into())
    );
    assert_eq!(found["peer_address"], "127.0.0.1");
    assert_eq!(found["reason"], "GENERATION_SUPERSEDED");
    wait_until(Duration::from_secs(5), "both lose their access", || (world.cli(&agent.caller(2), ["whoami"]).code == 3).then_some(()));
    assert_eq!(state(&world, &agent.lease), "revoked");
    assert!(world.metrics().contains("daypass_clones_total"));
    let told = world.cli(&agent.caller(1), ["whoami"]);
    assert!(told.line().contains("revoked"), "the client says so: {told:?}");
}

#[test]
fn where_the_role_says_alert_the_holder_goes_on() {
    let world = World::start();
    world.reconfigure(|world| world.edit("daypass.toml", "on_clone = \"revoke\"", "on_clone = \"alert\""));
    let mut agent = Agent::enroll(&world);
    agent.renew(&world, 1);
    agent.acknowledge(&world, 2);
    wait_until(Duration::from_secs(5), "the clone is on record", || {
        assert_ne!(world.cli(&agent.caller(2), ["whoami"]).code, 3);
        let _refused_once_the_crl_is_out = world.cli(&agent.caller(1), ["whoami"]);
        clones(&world).into_iter().next()
    });
    assert_eq!(world.cli(&agent.caller(1), ["whoami"]).code, 3);
    assert_eq!(world.cli(&agent.caller(2), ["whoami"]).code, 0);
    assert_eq!(state(&world, &agent.lease), "active");
    agent.renew(&world, 2);
}

/// A certificate is no secret: who shows a copy of it without its key brings nobody under suspicion.
#[test]
fn a_copied_certificate_without_its_key_is_no_clone() {
    let world = World::start();
    let mut agent = Agent::enroll(&world);
    agent.renew(&world, 1);
    agent.acknowledge(&world, 2);
    std::thread::sleep(Duration::from_millis(1_500)); // The CRL is out within a second; nothing else can be waited for without a use.
    let stranger = Agent::enroll(&world);
    // rustls checks that the pair fits before it connects; openssl's client shows what it is given.
    let (cert, key) = (&agent.pairs[&1].cert, &stranger.pairs[&1].key);
    let shown = super::agent::handshake_with_another_key(&world, cert, key);
    assert!(shown, "the handshake reached the server's look at the signature");
    std::thread::sleep(Duration::from_millis(1_000));
    assert!(clones(&world).is_empty());
    assert_eq!(state(&world, &agent.lease), "active");
    assert_eq!(world.cli(&agent.caller(2), ["whoami"]).code, 0);

    // With its key it is.
    assert_eq!(world.cli(&agent.caller(1), ["whoami"]).code, 3);
    wait_until(Duration::from_secs(5), "the clone is on record", || clones(&world).into_iter().next());
}

#[test]
fn a_clone_that_turns_to_another_server_is_found_there() {
    let redis = Redis::start();
    let world = World::on_redis(&redis.url());
    let second = Second::start(&world);
    let mut agent = Agent::enroll(&world);
    agent.renew(&world, 1);
    agent.acknowledge(&world, 2);
    wait_until(Duration::from_secs(5), "the other server refuses it", || {
        (second.cli(&world, &agent.caller(1), &["whoami"]).0 == Some(3)).then_some(())
    });
    wait_until(Duration::from_secs(5), "it is revoked", || (state(&world, &agent.lease) == "revoked").then_some(()));
    wait_until(Duration::from_secs(5), "everywhere", || (world.cli(&agent.caller(2), ["whoami"]).code == 3).then_some(()));
}
