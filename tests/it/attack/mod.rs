//! What a stranger on the network would try on the real service.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
};

/// `daypassd dev` in a directory of its own; it ends with this value.
struct Dev {
    dir: tempfile::TempDir,
    grpc: SocketAddr,
    child: Child,
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _status = self.child.wait();
    }
}

impl Dev {
    async fn start() -> Self {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (dir, grpc, http) = (tempfile::tempdir().unwrap(), free(), free());
        let child = Command::new(env!("CARGO_BIN_EXE_daypassd"))
            .args(["dev", "--grpc", &grpc.to_string(), "--http", &http.to_string(), "--dir"])
            .arg(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let dev = Self { dir, grpc, child };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(grpc).await.is_err() {
            assert!(Instant::now() < deadline, "it does not listen");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        dev
    }

    /// TLS as anybody: without a certificate.
    fn tls(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(self.dir.path().join("ca.pem")).unwrap() {
            roots.add(root.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

#[tokio::test]
async fn silent_connections_of_one_address_keep_no_other_out() {
    let dev = Dev::start().await;
    let mut silent = Vec::new();
    for _ in 0..600 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
        silent.push(socket.connect(dev.grpc).await.unwrap());
    }
    let handshakes = async {
        // The first ones may yet slip past those who came before them.
        for _ in 0..20 {
            let tcp = TcpStream::connect(dev.grpc).await.unwrap();
            drop(dev.tls().connect(ServerName::try_from("localhost").unwrap(), tcp).await.unwrap());
        }
    };
    // Those who are silent have five seconds each.
    tokio::time::timeout(Duration::from_secs(4), handshakes).await.expect("600 silent strangers keep everybody out");
}

#[tokio::test]
async fn nobody_sends_large_messages_to_what_anybody_may_ask() {
    let dev = Dev::start().await;
    let (tls, address) = (dev.tls(), dev.grpc);
    let connector = tower::service_fn(move |_| {
        let tls = tls.clone();
        async move {
            let tcp = TcpStream::connect(address).await?;
            let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
            std::io::Result::Ok(hyper_util::rt::TokioIo::new(tls.connect(name, tcp).await?))
        }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap();
    let mut client = ServerReflectionClient::new(channel);
    let ask = |host: String| {
        let message_request = Some(MessageRequest::FileContainingSymbol("daypass.v1.LeaseService".to_owned()));
        tokio_stream::once(ServerReflectionRequest { host, message_request })
    };
    let mut small = client.server_reflection_info(ask(String::new())).await.unwrap().into_inner();
    assert!(small.message().await.unwrap().is_some());
    // A message that is too large ends the stream without an answer.
    if let Ok(answer) = client.server_reflection_info(ask("a".repeat(100_000))).await {
        assert!(!matches!(answer.into_inner().message().await, Ok(Some(_))), "it was read whole, and answered");
    }
}
