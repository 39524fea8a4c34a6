//! Secret discovery: Envoy as it is, and the protocol call by call.

use std::path::Path;

use daypass::proto::{
    envoy::{
        config::core::v3::{DataSource, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{Secret, secret::Type},
        service::{
            discovery::v3::{DiscoveryRequest, DiscoveryResponse},
            secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient as Client,
        },
    },
    google::rpc::Status as Detail,
};
use prost::Message;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Response, Status, Streaming, transport::Channel};

use super::socket_world::{PATIENCE, World, aws, der, x509};
use crate::support::parts::{
    START_TIMEOUT,
    envoy::{Envoy, Secrets},
    handshakes::{Handshakes, Server, client},
    openssl::{Ca, Pair},
    wait_until,
};

const SDS: &str = "[sds]\npath = \"sds.sock\"";

/// How often the certificate is changed under load.
const ROTATIONS: usize = 12;

#[test]
fn envoy_takes_rotations_under_load_without_a_failed_handshake() {
    let world = World::new(&["web"], SDS);
    let stranger = Ca::new(world.folder.path(), "stranger");
    let agent = world.ca.client("agent", &[]);
    let envoy = Envoy::start(&world.path("sds.sock"), Secrets { certificate: "web", roots: "ROOTCA" });
    assert_eq!(envoy.secret_version("web"), None, "the desk is empty");

    let pairs: Vec<Pair> = (0..=ROTATIONS).map(|number| world.pair(&format!("web-{number}"), "web")).collect();
    world.put_pair("web", &pairs[0]);
    world.put_bundle(&[&world.ca.cert]);
    let server = Server::localhost(envoy.wait_until_it_serves(START_TIMEOUT));
    let shake = |pair: &Pair| server.shake(client(&world.ca.cert, Some(pair)));
    assert_eq!(shake(&agent).map(|shaken| (shaken.status, shaken.leaf)), Ok((200, der(&pairs[0].cert))));
    assert!(shake(&stranger.client("agent", &[])).is_err(), "mutual: who has no certificate of the bundle is refused");

    let trusting = client(&world.ca.cert, Some(&agent));
    let load = Handshakes::start(&server, 3, move || trusting.clone());
    for pair in &pairs[1..] {
        world.put_pair("web", pair);
        wait_until(PATIENCE, "the next certificate is shown", || (shake(&agent).ok()?.leaf == der(&pair.cert)).then_some(()));
    }
    let tally = load.end();
    assert_eq!((tally.failed, tally.failures.as_slice()), (0, [].as_slice()));
    let shown = pairs.iter().filter(|pair| tally.done.contains_key(&der(&pair.cert))).count();
    assert!(shown > ROTATIONS / 2, "the load has seen {shown} of {} certificates", pairs.len());
    assert_eq!((envoy.stat("sds.web.update_rejected"), envoy.stat("sds.ROOTCA.update_rejected")), (0, 0));
    wait_until(PATIENCE, "Envoy has counted them", || (envoy.stat("sds.web.update_success") == ROTATIONS as u64 + 1).then_some(()));
    assert_eq!(envoy.stat("sds.ROOTCA.update_success"), 1, "a secret is sent only when its content changes");
}

#[test]
fn envoy_keeps_the_old_one_when_it_rejects_one_and_takes_the_next() {
    let world = World::new(&["web"], SDS);
    let agent = world.ca.client("agent", &[]);
    let [first, second, third] = ["first", "second", "third"].map(|name| world.pair(name, "web"));
    world.put_pair("web", &first);
    world.put_bundle(&[&world.ca.cert]);
    let envoy = Envoy::start(&world.path("sds.sock"), Secrets { certificate: "web", roots: "spiffe://example.org" });
    let server = Server::localhost(envoy.wait_until_it_serves(START_TIMEOUT));
    let shown = || server.shake(client(&world.ca.cert, Some(&agent))).map(|shaken| shaken.leaf);

    // A certificate with another's key.
    world.put("web", Some(x509("web", &second.cert, &third.key)));
    wait_until(PATIENCE, "Envoy rejects it", || (envoy.stat("sds.web.update_rejected") == 1).then_some(()));
    assert_eq!(shown(), Ok(der(&first.cert)), "the old one stays in service");
    world.put_bundle(&[&world.ca.cert]);
    world.put_pair("web", &third);
    wait_until(PATIENCE, "the next one is taken", || (shown() == Ok(der(&third.cert))).then_some(()));
    assert_eq!(envoy.stat("sds.web.update_rejected"), 1, "what was rejected is not sent again");
}

#[test]
fn envoy_takes_another_bundle_and_comes_back_to_another_agent() {
    let world = World::new(&["web"], SDS);
    let other = Ca::new(world.folder.path(), "other");
    let (agent, newcomer) = (world.ca.client("agent", &[]), other.client("newcomer", &[]));
    world.put_pair("web", &world.pair("web", "web"));
    world.put_bundle(&[&world.ca.cert]);
    let envoy = Envoy::start(&world.path("sds.sock"), Secrets { certificate: "default", roots: "ROOTCA" });
    let server = Server::localhost(envoy.wait_until_it_serves(START_TIMEOUT));
    let shake = |pair: &Pair| server.shake(client(&world.ca.cert, Some(pair)));
    assert!(shake(&newcomer).is_err());
    world.put_bundle(&[&world.ca.cert, &other.cert]);
    wait_until(PATIENCE, "the second root is trusted", || shake(&newcomer).ok());
    shake(&agent).expect("and the first still is");

    world.stop().expect("it ends without an error");
    assert!(!world.path("sds.sock").exists(), "the socket goes with the agent");
    shake(&agent).expect("Envoy goes on with what it has");
    let next = world.pair("next", "web");
    world.put_pair("web", &next);
    world.start();
    wait_until(PATIENCE, "Envoy has found the new one", || (shake(&agent).ok()?.leaf == der(&next.cert)).then_some(()));
}

/// A stream, as a client of the protocol has it.
struct Stream {
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
}

impl Stream {
    async fn open(channel: Channel, first: DiscoveryRequest) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(4);
        requests.send(first).await.unwrap();
        let responses = Client::new(channel).stream_secrets(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    async fn say(&self, request: DiscoveryRequest) {
        self.requests.send(request).await.unwrap();
    }

    async fn next(&mut self) -> Result<DiscoveryResponse, Status> {
        self.responses.message().await.map(|message| message.expect("the server does not end it"))
    }
}

fn names(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest { resource_names: names.iter().map(|&name| name.into()).collect(), ..Default::default() }
}

fn ack(response: &DiscoveryResponse, names_of: &[&str]) -> DiscoveryRequest {
    let (version_info, response_nonce) = (response.version_info.clone(), response.nonce.clone());
    DiscoveryRequest { version_info, response_nonce, ..names(names_of) }
}

fn secrets(response: &DiscoveryResponse) -> Vec<Secret> {
    response.resources.iter().map(|any| Secret::decode(any.value.as_slice()).unwrap()).collect()
}

fn bytes(source: Option<&DataSource>) -> &[u8] {
    match source.and_then(|source| source.specifier.as_ref()) {
        Some(Specifier::InlineBytes(bytes)) => bytes,
        _ => panic!("it is not in line"),
    }
}

/// The leaf and key, or the roots, of a secret.
fn content(secret: &Secret) -> (Vec<Vec<u8>>, Vec<u8>) {
    let certificates = |source| CertificateDer::pem_slice_iter(bytes(source)).map(|der| der.unwrap().to_vec()).collect();
    match secret.r#type.as_ref().unwrap() {
        Type::TlsCertificate(found) => {
            let key = PrivateKeyDer::from_pem_slice(bytes(found.private_key.as_ref())).unwrap();
            (certificates(found.certificate_chain.as_ref()), key.secret_der().to_vec())
        }
        Type::ValidationContext(found) => (certificates(found.trusted_ca.as_ref()), Vec::new()),
    }
}

fn key_of(path: &Path) -> Vec<u8> {
    PrivateKeyDer::from_pem_file(path).unwrap().secret_der().to_vec()
}

#[test]
fn each_name_gives_its_secret_and_a_lapse_takes_nothing_away() {
    let world = World::new(&["api", "web"], SDS);
    let (api, web) = (world.pair("api", "api"), world.pair("web", "web"));
    world.put_pair("web", &web);
    world.put_bundle(&[&world.ca.cert]);
    let channel = world.channel("sds.sock");
    let fetch = |name: &str| world.block_on(Client::new(channel.clone()).fetch_secrets(names(&[name]))).map(Response::into_inner);
    assert_eq!(fetch("api").unwrap_err().code(), Code::Unavailable, "it is still to come");
    assert_eq!(fetch("default").unwrap_err().code(), Code::Unavailable, "the first role is still to come: it is not the second's turn");
    world.put_pair("api", &api);
    for (name, pair) in [("web", &web), ("api", &api), ("default", &api), ("spiffe://example.org/web", &web)] {
        let found = secrets(&fetch(name).unwrap());
        assert_eq!((found.len(), found[0].name.as_str()), (1, name));
        assert_eq!(content(&found[0]), (vec![der(&pair.cert)], key_of(&pair.key)), "{name}");
    }
    for name in ["ROOTCA", "spiffe://example.org"] {
        assert_eq!(content(&secrets(&fetch(name).unwrap())[0]), (vec![der(&world.ca.cert)], vec![]), "{name}");
    }
    for name in ["", "other", "WEB", "spiffe://example.org/other", "rootca"] {
        assert_eq!(fetch(name).unwrap_err().code(), Code::PermissionDenied, "{name}");
    }
    let all = world.block_on(Client::new(channel.clone()).fetch_secrets(names(&[]))).unwrap().into_inner();
    let found: Vec<_> = secrets(&all).into_iter().map(|secret| secret.name).collect();
    assert_eq!(found, ["ROOTCA", "api", "web"], "no name is all");

    world.block_on(async {
        let mut stream = Stream::open(channel.clone(), names(&["web"])).await.unwrap();
        let first = stream.next().await.unwrap();
        stream.say(ack(&first, &["web"])).await;
        world.put("web", None);
        let next = world.pair("next", "web");
        world.put_pair("web", &next);
        let second = stream.next().await.unwrap();
        assert_eq!(content(&secrets(&second)[0]).0, [der(&next.cert)], "the lapse itself was no message");
        assert_ne!((&first.version_info, &first.nonce), (&second.version_info, &second.nonce));
    });
}

/// Two CAs of one service, each of a trust domain of its own.
#[test]
fn a_trust_domain_has_the_roots_of_its_own_ca() {
    let world = World::new(&["web", "partner"], SDS);
    let [own, theirs] = ["own", "theirs"].map(|name| Ca::new(world.folder.path(), name));
    world.put_of_ca("web", &own, "example.org/web");
    world.put_of_ca("partner", &theirs, "partner.example/web");
    world.put_cas(&[("own", &own.cert), ("theirs", &theirs.cert)]);
    let channel = world.channel("sds.sock");
    let fetch = |name: &str| world.block_on(Client::new(channel.clone()).fetch_secrets(names(&[name]))).unwrap().into_inner();
    for (name, roots) in
        [("spiffe://example.org", vec![&own]), ("spiffe://partner.example", vec![&theirs]), ("ROOTCA", vec![&own, &theirs])]
    {
        let roots: Vec<_> = roots.into_iter().map(|ca| der(&ca.cert)).collect();
        assert_eq!(content(&secrets(&fetch(name))[0]).0, roots, "{name}");
    }
}

#[test]
fn a_rejected_version_comes_again_only_on_a_new_stream() {
    let world = World::new(&["web"], SDS);
    let [first, second] = ["first", "second"].map(|name| world.pair(name, "web"));
    world.put_pair("web", &first);
    world.put_bundle(&[&world.ca.cert]);
    let channel = world.channel("sds.sock");
    world.block_on(async {
        let mut stream = Stream::open(channel.clone(), names(&["web"])).await.unwrap();
        let rejected = stream.next().await.unwrap();
        let error_detail = Some(Detail { code: 13, message: "line\nbreak".to_owned() });
        stream.say(DiscoveryRequest { error_detail, version_info: String::new(), ..ack(&rejected, &["web"]) }).await;
        // The bundle and the same certificate once more: nothing that this stream has not had.
        world.put_bundle(&[&world.ca.cert]);
        world.put_pair("web", &first);
        let quiet = tokio::time::timeout(std::time::Duration::from_millis(300), stream.next()).await;
        assert!(quiet.is_err(), "{quiet:?}");
        world.put_pair("web", &second);
        let next = stream.next().await.unwrap();
        assert_eq!(content(&secrets(&next)[0]).0, [der(&second.cert)]);

        let back = DiscoveryRequest { version_info: next.version_info.clone(), ..names(&["web"]) };
        let mut again = Stream::open(channel.clone(), back).await.unwrap();
        assert_eq!(again.next().await.unwrap().version_info, next.version_info, "one content has one version, whoever asks");
    });
}

#[test]
fn a_role_is_for_who_is_named_and_for_nobody_else() {
    let uid = rustix::process::geteuid().as_raw();
    let section = format!("{SDS}\nroles = [\"web\", \"own\", \"deploy\"]\n[roles.own]\nuids = [{uid}]\n[roles.web]\nuids = [{}]", uid + 1);
    let world = World::new(&["web", "own", "off", "deploy"], &section);
    for role in ["web", "own", "off"] {
        world.put_pair(role, &world.pair(role, role));
    }
    world.put("deploy", Some(aws("deploy", "ASIA", jiff::SignedDuration::from_hours(1))));
    world.put_bundle(&[&world.ca.cert]);
    let mut client = Client::new(world.channel("sds.sock"));
    let mut fetch = |name: &str| world.block_on(client.fetch_secrets(names(&[name]))).map(|answer| secrets(&answer.into_inner()));
    assert_eq!(fetch("own").unwrap()[0].name, "own");
    assert_eq!(content(&fetch("default").unwrap()[0]).0, [der(&world.path("ca/own.pem"))], "the first of those that it may have");
    for name in ["web", "off", "spiffe://example.org/web", "deploy"] {
        let refused = fetch(name).unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{name}");
    }
    let everything = world.block_on(Client::new(world.channel("sds.sock")).fetch_secrets(names(&[]))).unwrap().into_inner();
    assert_eq!(secrets(&everything).len(), 2, "own and the bundle");
}
