//! A `daypassd dev` whose issuing CA rotates, and its trust bundle as a relying party follows it.

use std::{collections::BTreeMap, future::ready, io, process::Command, sync::Arc, time::Duration};

use daypass::proto::v1::{
    AcknowledgeTrustBundleRequest, CertificateAuthority, GetTrustBundleRequest, GetTrustBundleResponse, KeyState, WatchTrustBundleRequest,
    trust_service_client::TrustServiceClient,
};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::{
    e2e::{
        wire::tls,
        world::{Caller, World},
    },
    support::parts::{Ran, run, wait_until},
};

/// How long a change of the keys may take until it is everywhere: servers look every five seconds.
pub const SPREAD: Duration = Duration::from_secs(15);

/// What each key is under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Under {
    /// Nothing: it is its own root.
    Itself,
    /// The root of the throwaway world.
    Root,
}

/// A world whose CA `issuing` rotates; the certificates of its operator and its vendor are of the one before.
pub fn rotating(store: Option<String>, under: Under) -> World {
    let mut world = store.map_or_else(World::start, |url| World::on_redis(&url));
    world.stop();
    let root = match under {
        Under::Itself => String::new(),
        Under::Root => ", root = { certificate = \"ca.pem\", key = \"pki/root.key\" }".to_owned(),
    };
    let fixed = "certificate = \"pki/issuing.pem\"\nkey = \"pki/issuing.key\"\nroot = \"ca.pem\"\n";
    let rotation = format!("rotation = {{ every = \"720h\", activate_when_acknowledged = true, acknowledged_after = \"3s\"{root} }}\n");
    world.edit("daypass.toml", fixed, &rotation);
    if under == Under::Itself {
        let line = world.read("daypass.toml").lines().find(|line| line.starts_with("root_crl")).unwrap().to_owned();
        world.edit("daypass.toml", &line, "");
    }
    world.start_again();
    world
}

/// Runs `daypassd ca …` at a server's socket.
pub fn ca(world: &World, args: &[&str]) -> Ran {
    run(Command::new(env!("CARGO_BIN_EXE_daypassd")).arg("ca").args(args).arg("--config").arg(world.file("daypass.toml")))
}

#[track_caller]
pub fn ca_ok(world: &World, args: &[&str]) {
    let ran = ca(world, args);
    assert!(ran.ok, "ca {args:?}: {}", ran.all());
}

/// The trust service of a world, as anybody may call it.
pub async fn trust(world: &World) -> TrustServiceClient<Channel> {
    TrustServiceClient::new(crate::e2e::wire::channel(world, &Caller::nobody()).await)
}

/// The same at another server of the world.
pub async fn trust_at(world: &World, port: u16) -> TrustServiceClient<Channel> {
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let tls = TlsConnector::from(Arc::new(tls(world, &Caller::nobody())));
    let mut once = Some(TokioIo::new(tls.connect(ServerName::try_from("localhost").unwrap(), tcp).await.unwrap()));
    let connector = tower::service_fn(move |_| ready(once.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))));
    TrustServiceClient::new(Endpoint::from_static("https://localhost").connect_with_connector(connector).await.unwrap())
}

pub async fn bundle(client: &mut TrustServiceClient<Channel>) -> GetTrustBundleResponse {
    client.get_trust_bundle(GetTrustBundleRequest {}).await.unwrap().into_inner()
}

/// The states of the authorities of `issuing`.
pub fn states(bundle: &GetTrustBundleResponse) -> BTreeMap<String, KeyState> {
    bundle.authorities.iter().map(|authority| (authority.name.clone(), authority.state())).collect()
}

/// Who follows the bundle, and says what it has.
pub struct Follower {
    pub bundle: watch::Receiver<GetTrustBundleResponse>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Follower {
    /// Follows; `acknowledges` or not.
    pub async fn start(mut client: TrustServiceClient<Channel>, acknowledges: bool) -> Self {
        let mut stream = client.watch_trust_bundle(WatchTrustBundleRequest {}).await.unwrap().into_inner();
        let first = stream.message().await.unwrap().unwrap();
        let (sender, bundle) = watch::channel(first.bundle.unwrap());
        let watch_id = first.watch_id;
        let task = tokio::spawn(async move {
            loop {
                if acknowledges {
                    let version = sender.borrow().version.clone();
                    let acknowledgement = AcknowledgeTrustBundleRequest { watch_id: watch_id.clone(), version };
                    client.acknowledge_trust_bundle(acknowledgement).await.unwrap();
                }
                let Ok(Some(message)) = stream.message().await else { return };
                assert_eq!(message.watch_id, watch_id);
                sender.send_replace(message.bundle.unwrap());
            }
        });
        Self { bundle, task }
    }

    /// Waits until the states are as wanted.
    pub async fn until(&self, wanted: &[(&str, KeyState)]) -> GetTrustBundleResponse {
        let wanted: BTreeMap<String, KeyState> = wanted.iter().map(|(name, state)| ((*name).to_owned(), *state)).collect();
        let mut bundle = self.bundle.clone();
        let reached = tokio::time::timeout(SPREAD, bundle.wait_for(|bundle| states(bundle) == wanted)).await;
        match reached {
            Ok(bundle) => bundle.unwrap().clone(),
            Err(_) => panic!("not {wanted:?}, but {:?}", states(&self.bundle.borrow())),
        }
    }
}

/// The roots of a bundle.
pub fn roots(bundle: &GetTrustBundleResponse) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for der in bundle.authorities.iter().flat_map(|authority: &CertificateAuthority| &authority.root_der) {
        roots.add(der.clone().into()).unwrap();
    }
    roots
}

/// The CRL that a server serves under a name, once it does.
pub fn crl(http: u16, name: &str) -> Vec<u8> {
    wait_until(SPREAD, &format!("the CRL of {name} is served"), || {
        let url = format!("http://127.0.0.1:{http}/crl/{name}.crl");
        let ran = run(Command::new("curl").args(["-fsS", &url]));
        ran.ok.then_some(ran.stdout)
    })
}
