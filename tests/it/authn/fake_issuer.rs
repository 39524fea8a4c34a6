//! An issuer on loopback that misbehaves on demand, over HTTP or HTTPS.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

/// What a path answers.
#[derive(Clone)]
pub enum Answer {
    /// The right document.
    Right,
    /// This body, with status 200.
    Body(Vec<u8>),
    /// This body in chunks, so that its length is not announced.
    Chunked(Vec<u8>),
    /// This status.
    Status(u16),
    /// A redirect to this place.
    Redirect(String),
    /// Nothing, for ever.
    Hang,
    /// Half an answer, then nothing.
    Stall,
}

struct Behaviour {
    discovery: Answer,
    jwks: Answer,
    keys: Value,
}

/// Ends when it is dropped.
pub struct FakeIssuer {
    pub url: String,
    behaviour: Arc<Mutex<Behaviour>>,
    discoveries: Arc<AtomicUsize>,
    key_sets: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for FakeIssuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeIssuer {
    pub async fn http(keys: Value) -> Self {
        Self::start(keys, None).await
    }

    pub async fn https(keys: Value, tls: TlsAcceptor) -> Self {
        Self::start(keys, Some(tls)).await
    }

    async fn start(keys: Value, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let behaviour = Arc::new(Mutex::new(Behaviour { discovery: Answer::Right, jwks: Answer::Right, keys }));
        let (discoveries, key_sets) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let server =
            Server { url: url.clone(), behaviour: behaviour.clone(), discoveries: discoveries.clone(), key_sets: key_sets.clone() };
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (server, tls) = (server.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => server.serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                server.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        Self { url, behaviour, discoveries, key_sets, task }
    }

    pub fn discovery(&self, answer: Answer) {
        self.behaviour.lock().unwrap().discovery = answer;
    }

    pub fn jwks(&self, answer: Answer) {
        self.behaviour.lock().unwrap().jwks = answer;
    }

    pub fn keys(&self, keys: Value) {
        self.behaviour.lock().unwrap().keys = keys;
    }

    /// How often discovery and key set were asked for.
    pub fn asked(&self) -> (usize, usize) {
        (self.discoveries.load(Ordering::SeqCst), self.key_sets.load(Ordering::SeqCst))
    }
}

#[derive(Clone)]
struct Server {
    url: String,
    behaviour: Arc<Mutex<Behaviour>>,
    discoveries: Arc<AtomicUsize>,
    key_sets: Arc<AtomicUsize>,
}

impl Server {
    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut request = Vec::new();
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            let mut buffer = [0; 1024];
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(read) => request.extend_from_slice(&buffer[..read]),
            }
        }
        let path = String::from_utf8_lossy(&request).split(' ').nth(1).unwrap_or_default().to_owned();
        let answer = self.answer(&path);
        respond(&mut stream, answer).await;
        let _ = stream.shutdown().await;
    }

    fn answer(&self, path: &str) -> Answer {
        let behaviour = self.behaviour.lock().unwrap();
        let (answer, right) = match path {
            "/.well-known/openid-configuration" => {
                self.discoveries.fetch_add(1, Ordering::SeqCst);
                (behaviour.discovery.clone(), json!({"issuer": self.url, "jwks_uri": format!("{}/keys", self.url)}))
            }
            "/keys" => {
                self.key_sets.fetch_add(1, Ordering::SeqCst);
                (behaviour.jwks.clone(), behaviour.keys.clone())
            }
            _ => (Answer::Status(404), Value::Null),
        };
        match answer {
            Answer::Right => Answer::Body(right.to_string().into_bytes()),
            other => other,
        }
    }
}

async fn respond(stream: &mut (impl AsyncWrite + Unpin), answer: Answer) {
    let head = |status: u16, rest: &str| format!("HTTP/1.1 {status} X\r\nconnection: close\r\n{rest}\r\n").into_bytes();
    let bytes = match answer {
        Answer::Right => unreachable!("made into a body before"),
        Answer::Body(body) => [head(200, &format!("content-length: {}\r\n", body.len())), body].concat(),
        Answer::Chunked(body) => {
            let mut bytes = head(200, "transfer-encoding: chunked\r\n");
            for chunk in body.chunks(8192) {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
            bytes
        }
        Answer::Status(status) => head(status, "content-length: 0\r\n"),
        Answer::Redirect(to) => head(302, &format!("location: {to}\r\ncontent-length: 0\r\n")),
        Answer::Hang => std::future::pending().await,
        Answer::Stall => {
            let _ = stream.write_all(&head(200, "content-length: 1000\r\n")).await;
            let _ = stream.write_all(b"{").await;
            std::future::pending().await
        }
    };
    let _ = stream.write_all(&bytes).await;
}
