//! Where AWS SDKs ask for the session: the container credentials endpoint, on the loopback.
//!
//! SDKs ask again by themselves before a session ends, so that a renewal reaches them without a file that holds the session. The
//! form is that of Amazon ECS and EKS: a token in the `Authorization` header, an answer with `Token` (not `SessionToken`).
//!
//! Every user of the machine can connect; only who reads the command's private files has the token. When `exec` is killed, the port can
//! be taken by another user until the watcher has ended the command and removed the file with the token, without which SDKs do not ask:
//! it could give the command other credentials for that moment, and learns a token that opens nothing any more.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use zeroize::Zeroizing;

use crate::{
    client::{
        error::{Error, Kind, Result},
        types::AwsCredential,
    },
    clock::{self, Clock, SystemClock},
    model::hex,
};

/// How many connections are served at a time. One more ends the oldest: a request needs moments, so that whoever holds all places and
/// says nothing keeps nobody out.
pub const MAX_CONNECTIONS: usize = 64;

/// How long a request may take to arrive.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may last in all.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest head of a request, in bytes.
pub const MAX_HEAD: usize = 16 * 1024;

/// The endpoint; it ends with this value.
pub struct Endpoint {
    port: u16,
    token: Zeroizing<String>,
    sessions: watch::Sender<Vec<(String, AwsCredential)>>,
    serving: JoinHandle<()>,
}

impl Endpoint {
    /// Listens on a free port of 127.0.0.1.
    pub fn start() -> Result<Self> {
        let fault = |error| Error::new(Kind::Other, "SYSTEM", format!("no port of 127.0.0.1 can be had: {error}"));
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(fault)?;
        listener.set_nonblocking(true).map_err(fault)?;
        let listener = TcpListener::from_std(listener).map_err(fault)?;
        let port = listener.local_addr().map_err(fault)?.port();
        let token = Zeroizing::new(hex::encode(&clock::random::<32>()));
        let (sessions, seen) = watch::channel(Vec::new());
        let desk = Arc::new(Desk { token: token.clone(), sessions: seen });
        Ok(Self { port, token, sessions, serving: tokio::spawn(serve(listener, desk)) })
    }

    /// What a request must bring, without a line end: SDKs send the file as it is.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Where a role's session is.
    pub fn uri(&self, role: &str) -> String {
        format!("http://127.0.0.1:{}/{role}", self.port)
    }

    /// Hands out this session for a role from now on.
    pub fn put(&self, role: &str, session: &AwsCredential) {
        self.sessions.send_modify(|sessions| {
            sessions.retain(|(name, _)| name != role);
            sessions.push((role.to_owned(), session.clone()));
        });
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// What each connection needs.
struct Desk {
    token: Zeroizing<String>,
    sessions: watch::Receiver<Vec<(String, AwsCredential)>>,
}

async fn serve(listener: TcpListener, desk: Arc<Desk>) {
    // The oldest first.
    let mut served: VecDeque<JoinHandle<()>> = VecDeque::with_capacity(MAX_CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => {
                served.retain(|connection| !connection.is_finished());
                if served.len() >= MAX_CONNECTIONS
                    && let Some(oldest) = served.pop_front()
                {
                    oldest.abort();
                }
                served.push_back(tokio::spawn(connection(tcp, Arc::clone(&desk))));
            }
            // Too many open files, perhaps: it must not become a busy loop.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn connection(tcp: TcpStream, desk: Arc<Desk>) {
    let service = service_fn(move |request| {
        let answer = desk.answer(&request);
        async { Ok::<_, Infallible>(answer) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(REQUEST_TIMEOUT).max_buf_size(MAX_HEAD).keep_alive(false);
    // Whoever broke it off has nothing to hear.
    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, http.serve_connection(TokioIo::new(tcp), service)).await;
}

impl Desk {
    fn answer(&self, request: &Request<Incoming>) -> Response<String> {
        let given = request.headers().get(header::AUTHORIZATION).map_or(b"".as_slice(), |value| value.as_bytes());
        if verify_slices_are_equal(given, self.token.as_bytes()).is_err() {
            return refusal(StatusCode::UNAUTHORIZED, "Unauthorized", "the Authorization header is not the content of the token file");
        }
        if request.method() != Method::GET {
            return refusal(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "only GET is known here");
        }
        let sessions = self.sessions.borrow();
        let role = request.uri().path().trim_start_matches('/');
        let Some((_, session)) = sessions.iter().find(|(name, _)| name == role) else {
            return refusal(StatusCode::NOT_FOUND, "NotFound", "there is no such role here");
        };
        if session.expires_at <= SystemClock.now() {
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::model::secret::Secret;

    fn session(key: &str, expires_at: &str) -> AwsCredential {
        AwsCredential {
            access_key_id: key.to_owned(),
            secret_access_key: Secret::new("secret".to_owned()),
            session_token: Secret::new("session".to_owned()),
            expires_at: expires_at.parse().unwrap(),
            region: "eu-central-1".to_owned(),
        }
    }

    async fn ask(endpoint: &Endpoint, head: &str) -> (u16, serde_json::Value) {
        let mut tcp = TcpStream::connect(("127.0.0.1", endpoint.port)).await.unwrap();
        tcp.write_all(format!("{head}\r\nHost: 127.0.0.1\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
    }

    #[tokio::test]
    async fn it_hands_out_the_newest_session_to_who_has_the_token() {
        let endpoint = Endpoint::start().unwrap();
        endpoint.put("deploy", &session("one", "2090-01-01T00:00:00Z"));
        endpoint.put("deploy", &session("two", "2090-01-01T00:00:00Z"));
        endpoint.put("old", &session("old", "2020-01-01T00:00:00Z"));
        let token = endpoint.token().to_owned();
        let (status, body) = ask(&endpoint, &format!("GET /deploy HTTP/1.1\r\nAuthorization: {token}")).await;
        let expected = json!({"AccessKeyId": "two", "SecretAccessKey": "secret", "Token": "session", "Expiration": "2090-01-01T00:00:00Z"});
        assert_eq!((status, body), (200, expected));
        for (head, status, code) in [
            ("GET /deploy HTTP/1.1".to_owned(), 401, "Unauthorized"),
            (format!("GET /deploy HTTP/1.1\r\nAuthorization: Bearer {token}"), 401, "Unauthorized"),
            (format!("GET /deploy HTTP/1.1\r\nAuthorization: {}", token.to_uppercase()), 401, "Unauthorized"),
            (format!("POST /deploy HTTP/1.1\r\nContent-Length: 0\r\nAuthorization: {token}"), 405, "MethodNotAllowed"),
            (format!("GET /other HTTP/1.1\r\nAuthorization: {token}"), 404, "NotFound"),
            (format!("GET /old HTTP/1.1\r\nAuthorization: {token}"), 503, "ExpiredToken"),
        ] {
            let (got, body) = ask(&endpoint, &head).await;
            assert_eq!((got, body["code"].as_str()), (status, Some(code)), "{head}");
            assert!(!body.to_string().contains("secret"));
        }
    }

    #[tokio::test]
    async fn who_holds_all_places_and_says_nothing_keeps_nobody_out() {
        let endpoint = Endpoint::start().unwrap();
        endpoint.put("deploy", &session("one", "2090-01-01T00:00:00Z"));
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            silent.push(TcpStream::connect(("127.0.0.1", endpoint.port)).await.unwrap());
        }
        let head = format!("GET /deploy HTTP/1.1\r\nAuthorization: {}", endpoint.token());
        let asked = tokio::time::timeout(REQUEST_TIMEOUT / 2, ask(&endpoint, &head)).await;
        assert_eq!(asked.expect("it is kept out").0, 200);
        let closed = tokio::time::timeout(REQUEST_TIMEOUT / 2, silent[0].read(&mut [0])).await;
        assert!(matches!(closed, Ok(Ok(0) | Err(_))), "the oldest has made room: {closed:?}");
    }
}
