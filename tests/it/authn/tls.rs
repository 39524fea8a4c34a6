//! Real handshakes against the server's TLS.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use daypass::{
    authn::mtls::{ClientVerifier, ExpiredCrl, Heard, TrustDomainConfig, TrustStore, Verdict, server_config, with_verdict},
    clock::Clock,
    model::{SignedDuration, Timestamp, identity::CertificateIdentity},
};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose};
use rustls::{
    ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs},
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::certs::{Authority, Client, TRUST_DOMAIN, leaf, moment, now, uri};

const ID: &str = "spiffe://example.org/agent";

struct Stopped(Mutex<Timestamp>);

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

/// What the server saw of a handshake: the certificates, or why it failed.
type Seen = Result<usize, String>;

/// Greets whoever finishes a handshake. Ends when it is dropped.
struct Server {
    address: SocketAddr,
    seen: mpsc::UnboundedReceiver<Seen>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(config: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (report, seen) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, report) = (TlsAcceptor::from(config.clone()), report.clone());
                tokio::spawn(async move {
                    match acceptor.accept(stream).await {
                        Ok(mut stream) => {
                            let _ = report.send(Ok(stream.get_ref().1.peer_certificates().map_or(0, <[_]>::len)));
                            let _ = stream.write_all(b"hello").await;
                            let _ = stream.shutdown().await;
                        }
                        Err(error) => drop(report.send(Err(error.to_string()))),
                    }
                });
            }
        });
        Self { address, seen, task }
    }

    async fn next(&mut self) -> Seen {
        tokio::time::timeout(Duration::from_secs(5), self.seen.recv()).await.expect("a handshake ends").unwrap()
    }
}

/// What the client saw of a handshake that ended well.
#[derive(Debug)]
struct Met {
    version: ProtocolVersion,
    group: NamedGroup,
    kind: HandshakeKind,
    tickets: u32,
    alpn: Option<Vec<u8>>,
}

async fn meet(address: SocketAddr, config: &Arc<ClientConfig>) -> Result<Met, String> {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(config.clone()).connect(name, stream).await.map_err(|error| error.to_string())?;
    let mut greeting = Vec::new();
    stream.read_to_end(&mut greeting).await.map_err(|error| error.to_string())?;
    assert_eq!(greeting, b"hello");
    let connection = stream.get_ref().1;
    Ok(Met {
        version: connection.protocol_version().unwrap(),
        group: connection.negotiated_key_exchange_group().unwrap().name(),
        kind: connection.handshake_kind().unwrap(),
        tickets: connection.tls13_tickets_received(),
        alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
    })
}

/// A CA for clients, one for servers, and what stands between them.
struct Stage {
    clients: Authority,
    servers: Authority,
    verifier: Arc<ClientVerifier>,
    certificate: Arc<SingleCertAndKey>,
}

impl Stage {
    fn new() -> Self {
        let (clients, servers) = (Authority::new("clients"), Authority::new("servers"));
        let verifier = Arc::new(ClientVerifier::new(trusting(&clients, &[]), Arc::new(Stopped(Mutex::new(now())))));
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let server = servers.leaf(&params);
        let certified = CertifiedKey::from_der(server.chain.clone(), server.private_key(), &aws_lc_rs::default_provider()).unwrap();
        Self { clients, servers, verifier, certificate: Arc::new(SingleCertAndKey::from(certified)) }
    }

    async fn server(&self) -> Server {
        Server::start(server_config(self.verifier.clone(), self.certificate.clone()).unwrap()).await
    }

    /// A client that the system's clock admits too.
    fn client(&self) -> Client {
        let mut params = leaf(vec![uri(ID)]);
        params.not_after = moment(3650);
        self.clients.leaf(&params)
    }

    fn config(&self, client: Option<&Client>) -> Arc<ClientConfig> {
        self.config_with(client, aws_lc_rs::default_provider())
    }

    fn config_with(&self, client: Option<&Client>, provider: CryptoProvider) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.servers.certificate.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some(client) => builder.with_client_auth_cert(client.chain.clone(), client.private_key()).unwrap(),
        };
        config.resumption = Resumption::in_memory_sessions(16);
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }
}

fn trusting(clients: &Authority, revoked: &[u8]) -> TrustStore {
    TrustStore::new(vec![TrustDomainConfig::new(
        TRUST_DOMAIN.parse().unwrap(),
        clients.pem().into_bytes(),
        vec![clients.crl_at(revoked, -1, 3650)],
        true,
        CertificateIdentity::Spiffe,
    )])
    .unwrap()
}

#[tokio::test]
async fn a_client_is_met_in_tls_1_3_with_the_hybrid_key_exchange() {
    let stage = Stage::new();
    let mut server = stage.server().await;
    let client = stage.client();
    let met = meet(server.address, &stage.config(Some(&client))).await.unwrap();
    assert_eq!((met.version, met.group), (ProtocolVersion::TLSv1_3, NamedGroup::X25519MLKEM768));
    assert_eq!(met.alpn.as_deref(), Some(b"h2".as_slice()));
    assert_eq!(server.next().await, Ok(1));
    assert_eq!(stage.verifier.verify(&client.chain).unwrap().id, ID);
    // Without a certificate: a caller with a token.
    meet(server.address, &stage.config(None)).await.unwrap();
    assert_eq!(server.next().await, Ok(0));
}

#[tokio::test]
async fn the_hybrid_is_taken_where_the_client_puts_it_first_and_the_classical_groups_still_serve() {
    let stage = Stage::new();
    let server = stage.server().await;
    let groups: [(&[&'static dyn SupportedKxGroup], NamedGroup); 5] = [
        (&[aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519], NamedGroup::X25519MLKEM768),
        (&[aws_lc_rs::kx_group::X25519MLKEM768], NamedGroup::X25519MLKEM768),
        (&[aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1], NamedGroup::X25519),
        (&[aws_lc_rs::kx_group::SECP256R1], NamedGroup::secp256r1),
        (&[aws_lc_rs::kx_group::SECP384R1], NamedGroup::secp384r1),
    ];
    for (offered, chosen) in groups {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = offered.to_vec();
        assert_eq!(meet(server.address, &stage.config_with(None, provider)).await.unwrap().group, chosen);
    }
}

#[tokio::test]
async fn tls_1_2_and_below_are_refused() {
    let stage = Stage::new();
    let mut server = stage.server().await;
    for (flag, met) in [("-tls1_3", true), ("-tls1_2", false), ("-tls1_1", false)] {
        let address = server.address.to_string();
        let openssl = move || {
            std::process::Command::new("openssl")
                .args(["s_client", flag, "-cipher", "ALL:@SECLEVEL=0", "-alpn", "h2", "-connect", &address])
                .stdin(std::process::Stdio::null())
                .output()
                .unwrap()
        };
        let done = tokio::task::spawn_blocking(openssl).await.unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        assert_eq!(said.contains("Server certificate\n"), met, "{flag}: {said}");
        assert!(!said.contains("New Session Ticket arrived"), "{flag}: {said}");
        assert_eq!(server.next().await.is_ok(), met, "{flag}");
    }
}

#[tokio::test]
async fn another_protocol_than_h2_is_refused() {
    let stage = Stage::new();
    let server = stage.server().await;
    let mut config = Arc::unwrap_or_clone(stage.config(None));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    assert!(meet(server.address, &Arc::new(config)).await.is_err());
}

#[tokio::test]
async fn a_stranger_is_refused_in_the_handshake() {
    let stage = Stage::new();
    let mut server = stage.server().await;
    for stranger in [Authority::new("clients").leaf(&leaf(vec![uri(ID)])), stage.clients.leaf(&leaf(vec![uri("spiffe://other.example/a")]))]
    {
        meet(server.address, &stage.config(Some(&stranger))).await.unwrap_err();
        server.next().await.unwrap_err();
    }
    // A certificate without its key is no proof.
    let mut thief = stage.client();
    thief.key = stage.client().key;
    let config = stage_config_of_thief(&stage, &thief);
    meet(server.address, &config).await.unwrap_err();
    server.next().await.unwrap_err();
}

/// rustls checks that a key fits its certificate; a thief does not.
fn stage_config_of_thief(stage: &Stage, thief: &Client) -> Arc<ClientConfig> {
    let provider = aws_lc_rs::default_provider();
    let key = provider.key_provider.load_private_key(thief.private_key()).unwrap();
    let certified = Arc::new(SingleCertAndKey::from(CertifiedKey::new(thief.chain.clone(), key)));
    let mut config = Arc::unwrap_or_clone(stage.config(None));
    config.client_auth_cert_resolver = certified;
    Arc::new(config)
}

#[tokio::test]
async fn a_revoked_client_is_refused_anew_and_has_nothing_to_resume() {
    let stage = Stage::new();
    let mut server = stage.server().await;
    let client = stage.client();
    let config = stage.config(Some(&client));
    // One client configuration throughout: it keeps whatever session it is given.
    for _ in 0..3 {
        let met = meet(server.address, &config).await.unwrap();
        assert_eq!((met.kind == HandshakeKind::Resumed, met.tickets), (false, 0));
        server.next().await.unwrap();
    }
    let version = stage.verifier.version();
    assert_eq!(*version.borrow(), 0);
    stage.verifier.replace(trusting(&stage.clients, &[7]));
    assert!(version.has_changed().unwrap());
    assert_eq!(*version.borrow(), 1);
    let error = meet(server.address, &config).await.unwrap_err();
    assert!(error.contains("CertificateRevoked"), "{error}");
    server.next().await.unwrap_err();
    assert_eq!(stage.verifier.verify(&client.chain).unwrap_err().code(), daypass::model::error::Code::CertificateRevoked);

    // And back again: what counts is the store of the moment.
    stage.verifier.replace(trusting(&stage.clients, &[]));
    meet(server.address, &config).await.unwrap();
    // A CA that was removed takes its clients along.
    stage.verifier.replace(TrustStore::new(Vec::new()).unwrap());
    meet(server.address, &config).await.unwrap_err();
}

#[tokio::test]
async fn a_ticket_from_elsewhere_resumes_nothing() {
    let stage = Stage::new();
    let client = stage.client();
    let config = stage.config(Some(&client));
    // A server of the same name and certificate that does hand out tickets.
    let lenient = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(stage.verifier.clone())
        .with_cert_resolver(stage.certificate.clone());
    let lenient = Server::start(Arc::new(lenient)).await;
    assert!(meet(lenient.address, &config).await.unwrap().tickets > 0);
    assert_eq!(
        meet(lenient.address, &config).await.unwrap().kind,
        HandshakeKind::Resumed,
        "the ticket must be a good one for this test to mean anything"
    );

    stage.verifier.replace(trusting(&stage.clients, &[7]));
    assert_eq!(
        meet(lenient.address, &config).await.unwrap().kind,
        HandshakeKind::Resumed,
        "rustls does not ask the verifier on resumption"
    );
    let mut server = stage.server().await;
    let error = meet(server.address, &config).await.unwrap_err();
    assert!(error.contains("CertificateRevoked"), "{error}");
    server.next().await.unwrap_err();
}

#[tokio::test]
async fn the_time_of_a_handshake_is_the_clocks() {
    let clock = Arc::new(Stopped(Mutex::new(now())));
    let mut stage = Stage::new();
    stage.verifier = Arc::new(ClientVerifier::new(trusting(&stage.clients, &[]), clock.clone()));
    let server = stage.server().await;
    let config = stage.config(Some(&stage.clients.leaf(&leaf(vec![uri(ID)]))));
    meet(server.address, &config).await.unwrap();
    *clock.0.lock().unwrap() = now() + SignedDuration::from_hours(25);
    meet(server.address, &config).await.unwrap_err();
}

#[test]
fn nothing_that_could_resume_is_configured() {
    let stage = Stage::new();
    let config = server_config(stage.verifier.clone(), stage.certificate.clone()).unwrap();
    assert_eq!((config.send_tls13_tickets, config.max_early_data_size), (0, 0));
    assert!(!config.ticketer.enabled() && !config.session_storage.can_cache() && !config.send_half_rtt_data);
    assert_eq!(config.alpn_protocols, [b"h2".to_vec()]);
}

/// A handshake over a pipe, with the server's half listened to.
async fn heard(stage: &Stage, client: Option<&Client>) -> (bool, Option<Verdict>) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let acceptor = TlsAcceptor::from(server_config(stage.verifier.clone(), stage.certificate.clone()).unwrap());
    let connector = TlsConnector::from(stage.config(client));
    let connecting = tokio::spawn(async move { connector.connect(ServerName::try_from("localhost").unwrap(), theirs).await.map(drop) });
    let (accepted, heard) = with_verdict(acceptor.accept(ours)).await;
    let _as_it_sees_it = connecting.await.unwrap();
    let verdict = match heard {
        Heard::Verdict(verdict) => Some(verdict),
        Heard::Nothing | Heard::Unproven(_) | Heard::Revoked(_) => None,
    };
    (accepted.is_ok(), verdict)
}

#[tokio::test]
async fn a_handshake_hands_over_what_it_verified_and_nothing_of_another() {
    let stage = Stage::new();
    let clients: Vec<_> = (0..20).map(|n| stage.clients.leaf(&leaf(vec![uri(&format!("{ID}-{n}"))]))).collect();
    // All at once, in one task: each must hear its own.
    let verdicts = futures::future::join_all(clients.iter().map(|client| heard(&stage, Some(client)))).await;
    for ((met, verdict), client) in verdicts.iter().zip(&clients) {
        assert!(met);
        assert_eq!(**verdict.as_ref().unwrap().peer(), stage.verifier.verify(&client.chain).unwrap());
    }
    let (met, verdict) = heard(&stage, None).await;
    assert!(met && verdict.is_none(), "nobody showed a certificate");
    let stranger = Authority::new("clients").leaf(&leaf(vec![uri(ID)]));
    let (met, verdict) = heard(&stage, Some(&stranger)).await;
    assert!(!met && verdict.is_none(), "a stranger");
    // Outside of it the verifier verifies as ever.
    assert_eq!(stage.verifier.judge(&clients[3].chain, now()).unwrap().peer().id, format!("{ID}-3"));
}

#[tokio::test]
async fn a_verdict_falls_with_the_trust_that_it_was_found_under() {
    let stage = Stage::new();
    let client = stage.client();
    let (_, verdict) = heard(&stage, Some(&client)).await;
    let verdict = verdict.unwrap();
    assert!(stage.verifier.stands(&verdict, now()));
    stage.verifier.replace(trusting(&stage.clients, &[7]));
    assert!(!stage.verifier.stands(&verdict, now()));
    assert_eq!(stage.verifier.judge(&client.chain, now()).unwrap_err().code(), daypass::model::error::Code::CertificateRevoked);
    // Not even the same trust raises it again.
    stage.verifier.replace(trusting(&stage.clients, &[]));
    assert!(!stage.verifier.stands(&verdict, now()));
    let again = stage.verifier.judge(&client.chain, now()).unwrap();
    assert!(stage.verifier.stands(&again, now()));
    assert_eq!(again.peer(), verdict.peer());
}

/// What stands in place of a verification must say what a verification would: at every second around every instant that counts.
#[test]
fn a_verdict_stands_only_while_a_new_verification_would_find_the_same() {
    let root = Authority::new("root");
    let mut params = super::certs::ca_params("below");
    (params.not_before, params.not_after) = (moment(-5), moment(6));
    let below = root.below(params);
    let mut params = leaf(vec![uri(ID)]);
    (params.not_before, params.not_after) = (moment(-3), moment(8));
    let client = below.leaf(&params);
    let seconds = |days: i64, more: i64| now() + SignedDuration::from_hours(24 * days) + SignedDuration::from_secs(more);
    // The first to end: the intermediate, the CRL of its own, or (where that is tolerated) no CRL.
    for (expired_crl, crl_days, ends) in
        [(ExpiredCrl::Refuse, 10, 6), (ExpiredCrl::Refuse, 4, 4), (ExpiredCrl::Tolerate, 4, 6), (ExpiredCrl::Tolerate, 10, 6)]
    {
        let crls = vec![root.crl_at(&[], -20, 100), below.crl_at(&[], -20, crl_days)];
        let mut config =
            TrustDomainConfig::new(TRUST_DOMAIN.parse().unwrap(), root.pem().into_bytes(), crls, true, CertificateIdentity::Spiffe);
        config.expired_crl = expired_crl;
        let store = TrustStore::new(vec![config]).unwrap();
        let verifier = ClientVerifier::new(store, Arc::new(Stopped(Mutex::new(now()))));
        let verdict = verifier.judge(&client.chain, now()).unwrap();
        let mut ended = None;
        for (day, second) in (-6..=9).flat_map(|day| (-2..=2).map(move |second| (day, second))) {
            let at = seconds(day, second);
            if verifier.stands(&verdict, at) {
                let fresh = verifier.judge(&client.chain, at);
                assert_eq!(fresh.unwrap().peer(), verdict.peer(), "{expired_crl:?} {crl_days}: day {day}, second {second}");
            } else if day > 0 && ended.is_none() {
                ended = Some(day);
            }
        }
        assert_eq!(ended, Some(ends), "{expired_crl:?} {crl_days}: it stands for as long as it can");
        assert!(!verifier.stands(&verdict, seconds(-3, -1)), "a clock that went back");
        assert!(verifier.stands(&verdict, seconds(-3, 0)));
    }
}
