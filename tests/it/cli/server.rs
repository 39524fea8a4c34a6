//! A server that speaks the contract over real TLS and behaves as a test needs it, by role, id or tenant.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use daypass::{
    client::MAX_ANSWER,
    proto::v1::{
        self, audit_service_server::AuditServiceServer, credential_service_server::CredentialServiceServer,
        lease_service_server::LeaseServiceServer,
    },
};
use futures::{StreamExt, stream};
use rustls::{RootCertStore, ServerConfig, crypto::aws_lc_rs, server::WebPkiClientVerifier, version::TLS13};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::mpsc,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, transport::server::Connected};
use tonic_types::{ErrorDetails, StatusExt};

use super::{kinds, pki::Pki, vended};

/// How many leases `List` knows, and how many it gives at most in a page.
pub const LEASES: u32 = 25;
const PAGE: u32 = 10;

/// The lease that can be revoked, and one that may not.
pub const GOOD: &str = "0192f0c1-7b5a-7000-8000-000000000001";
pub const FORBIDDEN: &str = "0192f0c1-7b5a-7000-8000-000000000002";
pub const UNKNOWN: &str = "0192f0c1-7b5a-7000-8000-0000000000ff";

/// What the server saw.
#[derive(Default)]
pub struct Seen {
    pub calls: Mutex<HashMap<String, usize>>,
    pub request_ids: Mutex<Vec<String>>,
    pub authorization: Mutex<Option<String>>,
    pub grpc_timeout: Mutex<Option<String>>,
    pub page_sizes: Mutex<Vec<u32>>,
    pub revoke_reason: Mutex<String>,
    pub audience: Mutex<Option<String>>,
    pub tails: Mutex<Vec<v1::TailRequest>>,
    pub revoked: Mutex<Vec<String>>,
    /// Whether issuing is unavailable, or hangs.
    pub trouble: Mutex<Option<Trouble>>,
    pub connections: AtomicUsize,
    pub handshake: Mutex<String>,
}

/// What goes wrong while it lasts, whatever the role.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    Down,
    Hangs,
    Denies,
}

impl Seen {
    pub fn trouble(&self, trouble: impl Into<Option<Trouble>>) {
        *self.trouble.lock().unwrap() = trouble.into();
    }

    pub fn calls(&self, what: &str) -> usize {
        self.calls.lock().unwrap().get(what).copied().unwrap_or(0)
    }

    /// The leases that were revoked, in this order.
    pub fn revoked(&self) -> Vec<String> {
        self.revoked.lock().unwrap().clone()
    }

    fn count<T>(&self, what: &str, request: &Request<T>) -> usize {
        let text = |name| request.metadata().get(name).map(|value| value.to_str().unwrap().to_owned());
        *self.authorization.lock().unwrap() = text("authorization");
        *self.grpc_timeout.lock().unwrap() = text("grpc-timeout");
        self.count_only(what)
    }

    fn count_only(&self, what: &str) -> usize {
        let mut calls = self.calls.lock().unwrap();
        let calls = calls.entry(what.to_owned()).or_default();
        *calls += 1;
        *calls
    }
}

/// A running server; it ends with this value.
pub struct Server {
    pub pki: Arc<Pki>,
    pub seen: Arc<Seen>,
    pub port: u16,
    runtime: Option<Runtime>,
}

/// What a connection gets after its handshake.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum After {
    Serve,
    HangUp,
}

impl Server {
    pub fn new() -> Self {
        Self::with("127.0.0.1", 2090, After::Serve)
    }

    pub fn with(name: &str, certificate_until: i32, after: After) -> Self {
        let pki = Arc::new(Pki::new());
        let seen = Arc::new(Seen::default());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = TlsAcceptor::from(Arc::new(tls(&pki, name, certificate_until)));
        let (accepted, incoming) = mpsc::channel(16);
        runtime.spawn(accept(listener, acceptor, accepted, Arc::clone(&seen), after));
        let canned = Canned { pki: Arc::clone(&pki), seen: Arc::clone(&seen) };
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(CredentialServiceServer::new(canned.clone()))
                .add_service(LeaseServiceServer::new(canned.clone()))
                .add_service(AuditServiceServer::new(canned))
                .serve_with_incoming(ReceiverStream::new(incoming)),
        );
        Self { pki, seen, port, runtime: Some(runtime) }
    }
}

impl Server {
    /// Ends it: nothing answers any more.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn tls(pki: &Pki, name: &str, until: i32) -> ServerConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(pki.ca_der()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .with_crls([pki.crl()])
        .allow_unauthenticated()
        .build()
        .unwrap();
    let (certificate, key) = pki.server(name, until);
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).unwrap();
    let mut config = builder.with_client_cert_verifier(verifier).with_single_cert(vec![certificate], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, accepted: mpsc::Sender<std::io::Result<Io>>, seen: Arc<Seen>, after: After) {
    while let Ok((tcp, _)) = listener.accept().await {
        seen.connections.fetch_add(1, Ordering::SeqCst);
        let (acceptor, accepted, seen) = (acceptor.clone(), accepted.clone(), Arc::clone(&seen));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(tcp).await else { return };
            let tls = stream.get_ref().1;
            let group = tls.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name);
            *seen.handshake.lock().unwrap() = format!("{:?} {group:?}", tls.protocol_version());
            if after == After::Serve {
                // The server has ended when nobody takes it.
                let _ = accepted.send(Ok(Io(stream))).await;
            }
        });
    }
}

struct Io(TlsStream<TcpStream>);

impl Connected for Io {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[derive(Clone)]
struct Canned {
    pki: Arc<Pki>,
    seen: Arc<Seen>,
}

pub fn status(code: Code, reason: &str, message: &str) -> Status {
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, "daypass", HashMap::new()))
}

pub fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}

pub fn lease(number: u32) -> v1::Lease {
    v1::Lease {
        id: format!("0192f0c1-7b5a-7000-8000-{number:012x}"),
        role: "web".to_owned(),
        kind: v1::CredentialKind::X509.into(),
        tenant: "acme".to_owned(),
        subject: "spiffe://example.org/agent".to_owned(),
        state: v1::LeaseState::Active.into(),
        issued_at: at(1_800_000_000 + i64::from(number)),
        expires_at: at(1_800_000_900),
        renewable: true,
        revocation: Some(v1::Revocation { reach: v1::RevocationReach::Crl.into(), live_until: at(1_800_000_900) }),
        generation: 1,
        renew_until: at(1_800_003_600),
        revoked_at: None,
        credential_id: String::new(),
        serial: "a1b2c3".to_owned(),
        rotation: None,
        acknowledged_generation: 0,
        enrolled: false,
    }
}

impl Canned {
    /// What becomes of a role.
    async fn behave(&self, role: &str, call: usize) -> Result<(), Status> {
        match role {
            "denied" => Err(status(Code::PermissionDenied, "DENIED", "no policy permits it; ask the owner of the role")),
            "nosuch" => Err(status(Code::NotFound, "ROLE_NOT_FOUND", "there is no such role")),
            "expired" => Err(status(Code::Unauthenticated, "TOKEN_EXPIRED", "the token has expired; get a fresh one")),
            "anonymous" => Err(Status::unauthenticated("who are you?")),
            "too-long" => Err(status(Code::InvalidArgument, "INVALID_REQUEST", "ttl is more than the role's maximum")),
            "hostile" => Err(Status::internal("a\u{1b}[2J\r\nb\u{202e}c")),
            "down" => Err(status(Code::Unavailable, "STORE_UNAVAILABLE", "the lease store does not answer")),
            "flaky" if call < 3 => Err(Status::unavailable("not yet")),
            "slow" => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn certify(&self, role: &str, csr_der: &[u8]) -> Option<v1::Credential> {
        let leaf = match role {
            "wrong-key" => self.pki.server("other", 2090).0.to_vec(),
            _ => self.pki.sign(csr_der)?,
        };
        let ca = self.pki.ca_der().to_vec();
        let x509 = v1::X509Credential {
            chain_der: vec![leaf, ca.clone()],
            root_der: vec![ca],
            not_before: at(1_800_000_000),
            not_after: at(1_800_000_900),
        };
        Some(v1::Credential { kind: Some(v1::credential::Kind::X509(x509)) })
    }
}

#[tonic::async_trait]
impl v1::credential_service_server::CredentialService for Canned {
    type WatchStream = tokio_stream::Empty<Result<v1::WatchResponse, Status>>;

    async fn watch(&self, _: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("no command watches here"))
    }

    async fn acknowledge(&self, _: Request<v1::AcknowledgeRequest>) -> Result<Response<v1::AcknowledgeResponse>, Status> {
        Err(Status::unimplemented("no command acknowledges here"))
    }

    async fn issue(&self, request: Request<v1::IssueRequest>) -> Result<Response<v1::IssueResponse>, Status> {
        let call = self.seen.count(&request.get_ref().role, &request);
        let v1::IssueRequest { role, request_id, input, .. } = request.into_inner();
        self.seen.request_ids.lock().unwrap().push(request_id);
        let trouble = *self.seen.trouble.lock().unwrap();
        let role_in_trouble = match trouble {
            Some(Trouble::Down) => "down",
            Some(Trouble::Hangs) => "slow",
            Some(Trouble::Denies) => "denied",
            None => role.as_str(),
        };
        self.behave(role_in_trouble, call).await?;
        if let Some(answer) = vended::answer(&role, call) {
            return Ok(Response::new(answer));
        }
        use v1::issue_request::Input;
        *self.seen.audience.lock().unwrap() = match &input {
            Some(Input::Jwt(v1::JwtInput { audience })) => Some(audience.clone()),
            _ => None,
        };
        if let Some((lease, credential)) = kinds::issue(&role) {
            return Ok(Response::new(v1::IssueResponse { lease: Some(lease), credential: Some(credential) }));
        }
        let Some(Input::X509(v1::X509Input { csr_der })) = input else {
            return Err(status(Code::InvalidArgument, "INVALID_REQUEST", "no CSR"));
        };
        if let Some(lease) = kinds::brief_certificate(&role, 1) {
            let credential = self.certify(&role, &csr_der).map(|made| kinds::ending_as(made, &lease));
            return Ok(Response::new(v1::IssueResponse { lease: Some(lease), credential }));
        }
        let credential = self.certify(&role, &csr_der).ok_or_else(|| status(Code::InvalidArgument, "INVALID_CSR", "bad CSR"))?;
        Ok(Response::new(v1::IssueResponse { lease: Some(lease(1)), credential: Some(credential) }))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Result<Response<v1::ExplainResponse>, Status> {
        let failed = v1::FailedCondition { condition: "claims.ref == \"main\"".to_owned(), claims: vec!["ref".to_owned()], absent: true };
        let policy =
            v1::ConsideredPolicy { id: "web".to_owned(), effect: "permit".to_owned(), satisfied: false, line: 7, failed: vec![failed] };
        let allowed = request.get_ref().role == "web";
        Ok(Response::new(v1::ExplainResponse {
            allowed,
            reason: if allowed { String::new() } else { "DENIED".to_owned() },
            policies: vec![policy],
            policy_version: if request.get_ref().role == "huge" { "x".repeat(MAX_ANSWER) } else { "0123456789ab".to_owned() },
        }))
    }

    async fn who_am_i(&self, request: Request<v1::WhoAmIRequest>) -> Result<Response<v1::WhoAmIResponse>, Status> {
        self.seen.count("whoami", &request);
        Ok(Response::new(v1::WhoAmIResponse {
            subject: "spiffe://example.org/operator".to_owned(),
            tenant: "acme".to_owned(),
            method: "mtls".to_owned(),
            authority: "example.org".to_owned(),
            expires_at: at(1_800_000_900),
            claims: [("repository_id".to_owned(), "\"42\"".to_owned())].into(),
            peer: String::new(),
            roles: vec!["vendor-client".to_owned(), "web".to_owned()],
        }))
    }
}

type Steps = Pin<Box<dyn futures::Stream<Item = Result<v1::RevokeMatchingResponse, Status>> + Send>>;

#[tonic::async_trait]
impl v1::lease_service_server::LeaseService for Canned {
    type RevokeMatchingStream = Steps;

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        match request.get_ref().lease_id.as_str() {
            GOOD => Ok(Response::new(v1::GetResponse { lease: Some(lease(1)) })),
            _ => Err(status(Code::NotFound, "LEASE_NOT_FOUND", "there is no such lease")),
        }
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        let v1::ListRequest { filter: _, page_size, page_token } = request.into_inner();
        self.seen.page_sizes.lock().unwrap().push(page_size);
        let start: u32 = if page_token.is_empty() { 0 } else { page_token.parse().unwrap() };
        let end = (start + page_size.min(PAGE)).min(LEASES);
        let next_page_token = if end < LEASES { end.to_string() } else { String::new() };
        Ok(Response::new(v1::ListResponse { leases: (start..end).map(lease).collect(), next_page_token }))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let v1::RenewRequest { lease_id, ttl: _, input, generation: _ } = request.into_inner();
        let Some(role) = kinds::role_of(&lease_id) else {
            return Err(status(Code::NotFound, "LEASE_NOT_FOUND", "there is no such lease"));
        };
        let generation = self.seen.count_only(&format!("renew {role}"));
        kinds::refuse(role, generation)?;
        let generation = u32::try_from(generation).unwrap() + 1;
        if let Some((lease, credential)) = kinds::renew(role, generation) {
            return Ok(Response::new(v1::RenewResponse { lease: Some(lease), credential: Some(credential) }));
        }
        let Some(v1::renew_request::Input::X509(v1::X509Input { csr_der })) = input else {
            return Err(status(Code::InvalidArgument, "INVALID_REQUEST", "no CSR"));
        };
        if let Some(lease) = kinds::brief_certificate(role, generation) {
            let credential = self.certify(role, &csr_der).map(|made| kinds::ending_as(made, &lease));
            return Ok(Response::new(v1::RenewResponse { lease: Some(lease), credential }));
        }
        let lease = v1::Lease { generation: 2, ..lease(1) };
        Ok(Response::new(v1::RenewResponse { lease: Some(lease), credential: self.certify("web", &csr_der) }))
    }

    async fn revoke(&self, request: Request<v1::RevokeRequest>) -> Result<Response<v1::RevokeResponse>, Status> {
        let v1::RevokeRequest { lease_id, reason } = request.into_inner();
        *self.seen.revoke_reason.lock().unwrap() = reason;
        self.seen.revoked.lock().unwrap().push(lease_id.clone());
        match lease_id.as_str() {
            id if kinds::role_of(id).is_some() => Ok(Response::new(v1::RevokeResponse {
                lease: Some(v1::Lease { state: v1::LeaseState::Revoked.into(), revoked_at: at(1_800_000_100), ..lease(1) }),
            })),
            FORBIDDEN => Err(status(Code::PermissionDenied, "DENIED", "no policy permits it")),
            _ => Err(status(Code::NotFound, "LEASE_NOT_FOUND", "there is no such lease")),
        }
    }

    async fn revoke_matching(&self, request: Request<v1::RevokeMatchingRequest>) -> Result<Response<Steps>, Status> {
        use v1::revoke_matching_response::Step;
        self.seen.count("revoke-matching", &request);
        let v1::RevokeMatchingRequest { filter, dry_run, reason: _ } = request.into_inner();
        let filter = filter.unwrap();
        if filter.tenant == "foreign" {
            let step = Step::Matched(v1::RevokeMatched { count: 0, denied: 5 });
            return Ok(Response::new(stream::iter([Ok(v1::RevokeMatchingResponse { step: Some(step) })]).boxed()));
        }
        let failure = v1::RevokeFailure {
            lease_id: FORBIDDEN.to_owned(),
            reason: "STORE_UNAVAILABLE".to_owned(),
            message: "the store\u{1b}[0m did not answer".to_owned(),
        };
        let failed = u64::from(filter.role == "web");
        let mut steps = vec![Step::Matched(v1::RevokeMatched { count: 3, denied: 1 })];
        if !dry_run {
            steps.push(Step::Progress(v1::RevokeProgress { revoked: 1, failed: 0 }));
        }
        if !dry_run && filter.role == "web" {
            steps.push(Step::Failure(failure));
        }
        if !dry_run && filter.role != "cut" {
            steps.push(Step::Summary(v1::RevokeSummary { revoked: 3 - failed, failed, live_until: at(1_800_000_900) }));
        }
        let steps = steps.into_iter().map(|step| Ok(v1::RevokeMatchingResponse { step: Some(step) }));
        Ok(Response::new(stream::iter(steps).boxed()))
    }
}

/// A record as the log has it: with the log's own spaces.
pub fn record(seq: u64) -> String {
    format!(r#"{{"seq": {seq},"time":"2026-01-31T12:00:00Z","method":"CredentialService/Issue","outcome":"done","role":"web"}}"#)
}

#[tonic::async_trait]
impl v1::audit_service_server::AuditService for Canned {
    type TailStream = Pin<Box<dyn futures::Stream<Item = Result<v1::TailResponse, Status>> + Send>>;

    /// The log has five records when it is first asked, and two more later. A followed stream ends after the first five, as
    /// it does when a connection is old.
    async fn tail(&self, request: Request<v1::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let request = request.into_inner();
        self.seen.tails.lock().unwrap().push(request);
        let v1::TailRequest { after_seq, last, follow } = request;
        let start = if last > 0 { 5_u64.saturating_sub(last.into()) + 1 } else { after_seq + 1 };
        let resumed = follow && after_seq == 5;
        let end = if resumed { 7 } else { 5 };
        let records = stream::iter((start..=end).map(|seq| Ok(v1::TailResponse { seq, record: record(seq) })));
        Ok(Response::new(if resumed { records.chain(stream::pending()).boxed() } else { records.boxed() }))
    }
}
