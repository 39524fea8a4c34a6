//! Connections of our own making, for what the client would never do.

use std::{future::Future, sync::Arc, time::Duration};

use daypass::{
    client::{Client, csr, settings},
    proto::v1::{
        IssueRequest, X509Input, credential_service_client::CredentialServiceClient, issue_request::Input,
        lease_service_client::LeaseServiceClient,
    },
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, client::Resumption, crypto::aws_lc_rs, version::TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

use super::world::{Caller, World};

/// The client's preface of HTTP/2 (RFC 9113 section 3.4) with an empty SETTINGS frame.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// HEADERS of a request and a RST_STREAM for it (RFC 9113 sections 6.2 and 6.4).
pub fn request_and_reset(stream: u32, path: &str) -> Vec<u8> {
    // HPACK (RFC 7541): POST and https by index, then literals that are not indexed: :path, :authority, content-type.
    let mut block = vec![0x83, 0x87, 0x04, u8::try_from(path.len()).unwrap()];
    block.extend_from_slice(path.as_bytes());
    block.extend_from_slice(b"\x01\x09localhost");
    block.extend_from_slice(b"\x0f\x10\x10application/grpc");
    let mut frames = frame(1, 0x4, stream, &block);
    frames.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
    frames
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A TLS client that trusts the world's CA, with the caller's certificate when it has one.
pub fn tls(world: &World, caller: &Caller) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(world.file("ca.pem")).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_protocol_versions(&[&TLS13]).unwrap().with_root_certificates(roots);
    let mut config = match &caller.pair {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = CertificateDer::pem_file_iter(&pair.cert).unwrap().collect::<Result<_, _>>().unwrap();
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&pair.key).unwrap()).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::in_memory_sessions(8);
    config
}

/// A TLS connection.
pub async fn connect(world: &World, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(("127.0.0.1", world.grpc)).await?;
    tcp.set_nodelay(true)?;
    TlsConnector::from(config).connect(ServerName::try_from("localhost").unwrap(), tcp).await
}

/// A connection that speaks HTTP/2 and is held open: the server has answered its preface.
pub async fn hold(world: &World, caller: &Caller) -> TlsStream<TcpStream> {
    let mut stream = connect(world, Arc::new(tls(world, caller))).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    let mut answer = [0; 9];
    timeout(Duration::from_secs(5), stream.read_exact(&mut answer)).await.expect("the server answers the preface").unwrap();
    assert_eq!(answer[3], 4, "the server's first frame is SETTINGS");
    stream
}

/// Whether a held connection ends within a time.
pub async fn ends_within(stream: &mut TlsStream<TcpStream>, patience: Duration) -> bool {
    let ended = async {
        let mut scratch = [0; 4096];
        while stream.read(&mut scratch).await.is_ok_and(|read| read > 0) {}
    };
    timeout(patience, ended).await.is_ok()
}

/// A gRPC channel of the caller; its token must go into each request.
pub async fn channel(world: &World, caller: &Caller) -> Channel {
    let mut once = Some(TokioIo::new(connect(world, Arc::new(tls(world, caller))).await.unwrap()));
    let connector =
        tower::service_fn(move |_| std::future::ready(once.take().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected))));
    Endpoint::from_static("https://localhost").connect_with_connector(connector).await.unwrap()
}

/// A request with the caller's token.
pub fn request<T>(caller: &Caller, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = &caller.token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    request
}

/// What asks for a role with a fresh key.
pub fn issue_request(role: &str) -> IssueRequest {
    let (_, csr) = csr::make().unwrap();
    let input = Some(Input::X509(X509Input { csr_der: csr.der().to_vec() }));
    IssueRequest { role: role.to_owned(), ttl: None, request_id: String::new(), input }
}

/// Calls of the credential service.
pub async fn credentials(world: &World, caller: &Caller) -> CredentialServiceClient<Channel> {
    CredentialServiceClient::new(channel(world, caller).await)
}

/// Calls of the lease service.
pub async fn leases(world: &World, caller: &Caller) -> LeaseServiceClient<Channel> {
    LeaseServiceClient::new(channel(world, caller).await)
}

/// The client's library as the caller.
pub fn client(world: &World, caller: &Caller) -> Client {
    let pair = caller.pair.clone();
    let flags = settings::Flags {
        addr: Some(format!("127.0.0.1:{}", world.grpc)),
        ca: Some(world.file("ca.pem")),
        cert: pair.as_ref().map(|pair| pair.cert.clone()),
        key: pair.map(|pair| pair.key),
        timeout: Some(Duration::from_secs(10)),
        ..settings::Flags::default()
    };
    let token = caller.token.clone();
    let env = move |name: &str| (name == "DAYPASS_TOKEN").then(|| token.clone().map(Into::into)).flatten();
    Client::new(settings::Settings::load(flags, &env).unwrap()).unwrap()
}

/// Runs one test's work.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}
