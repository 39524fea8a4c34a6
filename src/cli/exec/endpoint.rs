//! Where AWS SDKs ask for the session: the container credentials endpoint, on the loopback.
//!
//! Every user of the machine can connect; only who reads the command's private files has the token. When `exec` is killed, the port can
//! be taken by another user until the watcher has ended the command and removed the file with the token, without which SDKs do not ask:
//! it could give the command other credentials for that moment, and learns a token that opens nothing any more.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use zeroize::Zeroizing;

use crate::{
    agent::sockets::container::{self, Caller, Refusal, Sessions},
    client::{
        error::{Error, Kind, Result},
        types::AwsCredential,
    },
    clock::SystemClock,
};

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
        let token = container::token();
        let (sessions, seen) = watch::channel(Vec::new());
        let serving = container::serve(listener, token.clone(), Arc::new(SystemClock), Arc::new(Seen(seen)));
        Ok(Self { port, token, sessions, serving: tokio::spawn(serving) })
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

/// The sessions as they were put.
struct Seen(watch::Receiver<Vec<(String, AwsCredential)>>);

#[async_trait]
impl Sessions for Seen {
    async fn session(&self, path: &str, _: Caller) -> Result<AwsCredential, Refusal> {
        let role = path.trim_start_matches('/');
        self.0.borrow().iter().find(|(name, _)| name == role).map(|(_, session)| session.clone()).ok_or(Refusal::NotFound)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::{
        container::{MAX_CONNECTIONS, REQUEST_TIMEOUT},
        *,
    };
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
