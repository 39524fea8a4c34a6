//! Whether the harnesses of Envoy and py-spiffe tell the truth: against a server that says exactly what the test says.

use std::{collections::HashMap, fs, path::Path, pin::Pin, sync::Arc, time::Duration};

use daypass::agent::sockets::authority::AnyAuthority;
use daypass::proto::{
    envoy::{
        config::core::v3::{DataSource, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{CertificateValidationContext, Secret, TlsCertificate, secret::Type},
        service::{
            discovery::v3::{DiscoveryRequest, DiscoveryResponse},
            secret::v3::secret_discovery_service_server::{SecretDiscoveryService, SecretDiscoveryServiceServer},
        },
    },
    workload::{
        JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest, ValidateJwtsvidResponse,
        X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
        spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
    },
};
use futures::{Stream, StreamExt};
use prost::Message;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{net::UnixListener, runtime::Runtime, sync::watch};
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tonic::{Request, Response, Status, Streaming};

use super::{
    START_TIMEOUT,
    envoy::{Envoy, Secrets},
    handshakes::{Handshakes, Server, client},
    openssl::{Ca, Pair},
    spiffe_py::{Der, SpiffePy},
    wait_until,
};

const SECRETS: Secrets<'_> = Secrets { certificate: "web", roots: "ROOTCA" };
const SECRET_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// What is served.
#[derive(Clone, PartialEq)]
struct Said {
    version: u32,
    pair: Pair,
    roots: std::path::PathBuf,
}

impl Said {
    fn chain_der(&self) -> Vec<u8> {
        CertificateDer::from_pem_file(&self.pair.cert).expect("PEM").to_vec()
    }

    fn roots_der(&self) -> Vec<u8> {
        CertificateDer::from_pem_file(&self.roots).expect("PEM").to_vec()
    }

    fn secret(&self, name: &str) -> Secret {
        let file = |path: &Path| Some(DataSource { specifier: Some(Specifier::InlineBytes(fs::read(path).expect("a file of the test"))) });
        let r#type = match name {
            "web" => Type::TlsCertificate(TlsCertificate { certificate_chain: file(&self.pair.cert), private_key: file(&self.pair.key) }),
            _ => Type::ValidationContext(CertificateValidationContext { trusted_ca: file(&self.roots), crl: None }),
        };
        Secret { name: name.to_owned(), r#type: Some(r#type) }
    }
}

/// A server on a unix socket.
struct Sayer {
    says: Arc<watch::Sender<Said>>,
    _runtime: Runtime,
}

#[derive(Clone)]
struct Service(watch::Receiver<Said>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Sayer {
    fn start(socket: &Path, first: Said) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let (says, said) = watch::channel(first);
        let service = Service(said);
        let listener = runtime.block_on(async { UnixListener::bind(socket) }).expect("the test's folder can be written");
        let server = tonic::transport::Server::builder()
            .add_service(SecretDiscoveryServiceServer::new(service.clone()))
            .add_service(SpiffeWorkloadApiServer::new(service));
        // As the agent's own sockets do it: gRPC's C core says the socket's path for its authority.
        let incoming = UnixListenerStream::new(listener).map(|stream| stream.map(AnyAuthority::new));
        runtime.spawn(server.serve_with_incoming(incoming));
        Self { says: Arc::new(says), _runtime: runtime }
    }

    fn say(&self, version: u32, pair: &Pair) {
        self.says.send_modify(|said| (said.version, said.pair) = (version, pair.clone()));
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Service {
    type StreamSecretsStream = Answers<DiscoveryResponse>;

    async fn stream_secrets(&self, request: Request<Streaming<DiscoveryRequest>>) -> Result<Response<Answers<DiscoveryResponse>>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.ok_or(Status::invalid_argument("no request"))?;
        // What follows is ACK or NACK: Envoy counts them itself.
        tokio::spawn(async move { while requests.message().await.is_ok_and(|message| message.is_some()) {} });
        let names = first.resource_names;
        let answer = move |said: Said| {
            let any = |name: &String| prost_types::Any { type_url: SECRET_TYPE.into(), value: said.secret(name).encode_to_vec() };
            let version = said.version.to_string();
            let resources = names.iter().map(any).collect();
            Ok(DiscoveryResponse { version_info: version.clone(), resources, type_url: SECRET_TYPE.into(), nonce: version })
        };
        Ok(Response::new(Box::pin(WatchStream::new(self.0.clone()).map(answer))))
    }

    async fn fetch_secrets(&self, _: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("Envoy streams"))
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;

    async fn fetch_x509svid(&self, request: Request<X509svidRequest>) -> Result<Response<Answers<X509svidResponse>>, Status> {
        if request.metadata().get("workload.spiffe.io").is_none_or(|value| value != "true") {
            return Err(Status::invalid_argument("no security header"));
        }
        let answer = |said: Said| {
            let key = PrivateKeyDer::from_pem_file(&said.pair.key).expect("PEM").secret_der().to_vec();
            let svid = X509svid {
                spiffe_id: "spiffe://example.org/web".into(),
                x509_svid: said.chain_der(),
                x509_svid_key: key,
                bundle: said.roots_der(),
                hint: String::new(),
            };
            Ok(X509svidResponse { svids: vec![svid], crl: Vec::new(), federated_bundles: HashMap::new() })
        };
        Ok(Response::new(Box::pin(WatchStream::new(self.0.clone()).map(answer))))
    }

    async fn fetch_x509_bundles(&self, _: Request<X509BundlesRequest>) -> Result<Response<Answers<X509BundlesResponse>>, Status> {
        let answer = |said: Said| {
            let bundles = HashMap::from([("spiffe://example.org".to_owned(), said.roots_der())]);
            Ok(X509BundlesResponse { crl: Vec::new(), bundles })
        };
        Ok(Response::new(Box::pin(WatchStream::new(self.0.clone()).map(answer))))
    }

    async fn fetch_jwtsvid(&self, _: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::permission_denied("no identity"))
    }

    async fn fetch_jwt_bundles(&self, _: Request<JwtBundlesRequest>) -> Result<Response<Answers<JwtBundlesResponse>>, Status> {
        Err(Status::unavailable("not yet"))
    }

    async fn validate_jwtsvid(&self, _: Request<ValidateJwtsvidRequest>) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::invalid_argument("no token of ours"))
    }
}

#[test]
fn envoy_takes_a_rotation_under_load_and_refuses_rubbish() {
    let dir = tempfile::tempdir().expect("a folder");
    let (ca, stranger) = (Ca::new(dir.path(), "ca"), Ca::new(dir.path(), "stranger"));
    let [first, second] = ["first", "second"].map(|name| ca.leaf(name, &["DNS:localhost"], "serverAuth", 1));
    let (agent, unknown) = (ca.client("agent", &[]), stranger.client("agent", &[]));
    let socket = dir.path().join("sds.sock");
    let envoy = Envoy::start(&socket, SECRETS);
    assert_eq!(envoy.secret_version("web"), None, "nobody serves it yet");

    let sayer = Sayer::start(&socket, Said { version: 1, pair: first.clone(), roots: ca.cert.clone() });
    let server = Server::localhost(envoy.wait_until_it_serves(START_TIMEOUT));
    let shake = |pair: &Pair| server.shake(client(&ca.cert, Some(pair)));
    let leaf = |pair: &Pair| CertificateDer::from_pem_file(&pair.cert).expect("PEM").to_vec();
    assert_eq!(shake(&agent).map(|shaken| (shaken.status, shaken.leaf)), Ok((200, leaf(&first))));
    assert!(shake(&unknown).is_err(), "Envoy asks for a certificate of the roots that it was given");

    let trusting = client(&ca.cert, Some(&agent));
    let load = Handshakes::start(&server, 2, move || trusting.clone());
    sayer.say(2, &second);
    wait_until(START_TIMEOUT, "the second certificate is shown", || (shake(&agent).ok()?.leaf == leaf(&second)).then_some(()));
    let tally = load.end();
    assert_eq!((tally.failed, tally.failures), (0, vec![]));
    assert!(tally.done.keys().all(|shown| [leaf(&first), leaf(&second)].contains(shown)));
    wait_until(START_TIMEOUT, "Envoy says so", || (envoy.secret_version("web").as_deref() == Some("2")).then_some(()));
    assert_eq!(envoy.stat("sds.web.update_rejected"), 0);

    // A certificate over another key.
    let rubbish = Pair { cert: first.cert.clone(), key: second.key.clone() };
    sayer.say(3, &rubbish);
    wait_until(START_TIMEOUT, "Envoy refuses it", || (envoy.stat("sds.web.update_rejected") == 1).then_some(()));
    assert_eq!(shake(&agent).map(|shaken| shaken.leaf), Ok(leaf(&second)), "the old one stays in service");
}

#[test]
fn py_spiffe_fetches_follows_and_tells_refusals() {
    let dir = tempfile::tempdir().expect("a folder");
    let ca = Ca::new(dir.path(), "ca");
    let leaf = |name: &str| ca.leaf(name, &["URI:spiffe://example.org/web"], "serverAuth,clientAuth", 1);
    let (first, second) = (leaf("first"), leaf("second"));
    let der = |path: &Path| Der(CertificateDer::from_pem_file(path).expect("PEM").to_vec());
    let socket = dir.path().join("workload.sock");
    let sayer = Sayer::start(&socket, Said { version: 1, pair: first.clone(), roots: ca.cert.clone() });

    let workload = SpiffePy::start(&socket);
    let svid = workload.svid().expect("an SVID");
    assert_eq!((svid.spiffe_id.as_str(), &svid.chain), ("spiffe://example.org/web", &vec![der(&first.cert)]));
    assert_eq!(workload.bundles().expect("bundles"), [("example.org".to_owned(), vec![der(&ca.cert)])].into());
    let refused = |refusal: super::spiffe_py::Refusal| refusal.code.expect("a status");
    assert_eq!(refused(workload.jwt(&["demo"], None).expect_err("it is refused")), "PERMISSION_DENIED");
    assert_eq!(refused(workload.jwt_bundles().expect_err("there are none")), "UNAVAILABLE");
    assert_eq!(refused(workload.validate("a.b.c", "demo").expect_err("it is refused")), "INVALID_ARGUMENT");
    assert_eq!(workload.verify("a.b.c", "demo").expect_err("it is no JWT").code, None);

    workload.follow().expect("the source opens");
    assert_eq!(workload.current().expect("the first").svid, svid);
    sayer.say(2, &second);
    let current = wait_until(Duration::from_secs(10), "the source has the second", || {
        let current = workload.current().expect("the source works");
        (current.svid.chain == [der(&second.cert)]).then_some(current)
    });
    assert!(current.updates >= 1 && current.svid.serial != svid.serial);
}
