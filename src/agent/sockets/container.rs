//! The container credentials endpoint, where AWS SDKs ask for a session: of the agent and of `daypass exec`.
//!
//! SDKs ask again by themselves before a session ends, so that a renewal reaches them without a file that holds the session. The
//! form is that of Amazon ECS and EKS: a token in the `Authorization` header, an answer with `Token` (not `SessionToken`).

use std::{collections::VecDeque, convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use zeroize::Zeroizing;

use crate::{client::types::AwsCredential, clock, clock::Clock, model::hex};

/// How many connections are served at a time. One more ends the oldest: a request needs moments, so that whoever holds all places and
/// says nothing keeps nobody out.
pub const MAX_CONNECTIONS: usize = 64;

/// How long a request may take to arrive.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may last in all.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest head of a request, in bytes.
pub const MAX_HEAD: usize = 16 * 1024;

/// Where the sessions come from.
#[async_trait]
pub trait Sessions: Send + Sync + 'static {
    /// The session at a path.
    async fn session(&self, path: &str, caller: Caller) -> Result<AwsCredential, Refusal>;
}

/// The two ends of a request's connection.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// Theirs.
    pub theirs: SocketAddr,
    /// Ours.
    pub ours: SocketAddr,
}

/// Why there is no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such role.
    NotFound,
    /// The caller may not have it.
    Denied,
    /// It is still to come.
    NotReady,
}

/// What a request must bring, without a line end: SDKs send the file as it is.
pub fn token() -> Zeroizing<String> {
    Zeroizing::new(hex::encode(&clock::random::<32>()))
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, token: Zeroizing<String>, clock: Arc<dyn Clock>, sessions: Arc<dyn Sessions>) {
    let desk = Arc::new(Desk { token, clock, sessions });
    // The oldest first. They end with this future.
    let mut served = Served(VecDeque::with_capacity(MAX_CONNECTIONS));
    loop {
        match listener.accept().await {
            Ok((tcp, theirs)) => {
                let Ok(ours) = tcp.local_addr() else { continue };
                served.add(tokio::spawn(connection(tcp, Caller { theirs, ours }, Arc::clone(&desk))));
            }
            // Too many open files, perhaps: it must not become a busy loop.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

struct Served(VecDeque<JoinHandle<()>>);

impl Served {
    fn add(&mut self, connection: JoinHandle<()>) {
        self.0.retain(|connection| !connection.is_finished());
        if self.0.len() >= MAX_CONNECTIONS
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
        self.0.push_back(connection);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// What each connection needs.
struct Desk {
    token: Zeroizing<String>,
    clock: Arc<dyn Clock>,
    sessions: Arc<dyn Sessions>,
}

async fn connection(tcp: TcpStream, caller: Caller, desk: Arc<Desk>) {
    let service = service_fn(|request| {
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(desk.answer(&request, caller).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(REQUEST_TIMEOUT).max_buf_size(MAX_HEAD).keep_alive(false);
    // Whoever broke it off has nothing to hear.
    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, http.serve_connection(TokioIo::new(tcp), service)).await;
}

impl Desk {
    async fn answer(&self, request: &Request<Incoming>, caller: Caller) -> Response<String> {
        let given = request.headers().get(header::AUTHORIZATION).map_or(b"".as_slice(), |value| value.as_bytes());
        if verify_slices_are_equal(given, self.token.as_bytes()).is_err() {
            return refusal(StatusCode::UNAUTHORIZED, "Unauthorized", "the Authorization header is not the content of the token file");
        }
        if request.method() != Method::GET {
            return refusal(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "only GET is known here");
        }
        let session = match self.sessions.session(request.uri().path(), caller).await {
            Ok(session) => session,
            Err(Refusal::NotFound) => return refusal(StatusCode::NOT_FOUND, "NotFound", "there is no such role here"),
            Err(Refusal::Denied) => return refusal(StatusCode::FORBIDDEN, "AccessDenied", "the role is not for your user"),
            Err(Refusal::NotReady) => return refusal(StatusCode::SERVICE_UNAVAILABLE, "NotReady", "there is no session yet; try again"),
        };
        if session.expires_at <= self.clock.now() {
            return refusal(StatusCode::SERVICE_UNAVAILABLE, "ExpiredToken", "the session has ended and could not be renewed");
        }
        let AwsCredential { access_key_id, secret_access_key, session_token, expires_at, region: _ } = session;
        let body = json!({
            "AccessKeyId": access_key_id,
            "SecretAccessKey": secret_access_key.expose(),
            "Token": session_token.expose(),
            "Expiration": expires_at.to_string(),
        });
        reply(StatusCode::OK, body.to_string())
    }
}

/// An error in the form that SDKs show.
fn refusal(status: StatusCode, code: &str, message: &str) -> Response<String> {
    reply(status, json!({"code": code, "message": message}).to_string())
}

fn reply(status: StatusCode, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}
