//! The HTTP edge: what anybody may read ([`public`]), what verifies our JWTs ([`oidc`]), and the token endpoint of registries
//! ([`registry`]).

mod oidc;
mod public;
mod registry;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::Request};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tower::Service;

pub(super) use public::Public;
pub(super) use registry::TokenEdge;

use super::{
    addresses::{Addresses, Place},
    tls::TlsEdge,
};

/// HTTP connections at once; how many of them one address may have is configured.
const MAX_CONNECTIONS: usize = 1024;

/// How long a client may take to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = HEAD_TIMEOUT;

/// How long a connection may last: time for a large CRL over a slow line, and no place for ever for a client that does not read.
const MAX_AGE: Duration = Duration::from_secs(60);

/// The largest request head, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// The other end of a connection, for the handlers.
#[derive(Clone, Copy)]
struct Peer(SocketAddr);

/// What the handlers need.
#[derive(Clone)]
pub(super) struct Edges {
    pub public: Arc<Public>,
    /// None where the token endpoint is not served: secrets travel to it.
    pub tokens: Option<Arc<TokenEdge>>,
}

/// Every route.
fn router(edges: Edges) -> Router {
    let open = public::router(edges.public.clone()).merge(oidc::router(edges.public));
    match edges.tokens {
        Some(tokens) => open.merge(registry::router(tokens)),
        None => open,
    }
}

/// Answers one connection, for `max_age` at most, its handshake included.
async fn answer(
    tcp: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    peer: Peer,
    place: Place,
    app: Router,
    max_age: Duration,
    watcher: Watcher,
) {
    let answered = async {
        match tls {
            None => converse(tcp, peer, app, watcher).await,
            Some(config) => {
                let Ok(own) = place.handshakes.acquire().await else { return };
                let accepted = tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(tcp)).await;
                drop(own);
                match accepted {
                    Ok(Ok(tls)) => converse(tls, peer, app, watcher).await,
                    Ok(Err(error)) => tracing::debug!(address = %peer.0, %error, "a TLS handshake for HTTP was refused"),
                    Err(_) => tracing::debug!(address = %peer.0, "a TLS handshake for HTTP took too long"),
                }
            }
        }
    };
    let _gone_or_too_old = tokio::time::timeout(max_age, answered).await;
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Peer, app: Router, watcher: Watcher) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        app.clone().call(request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let _gone = watcher.watch(connection).await;
}

/// Serves until `shutdown` resolves; over TLS, with the certificate of the moment, when `tls` is given.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<TlsEdge>>,
    edges: Edges,
    addresses: Arc<Addresses>,
    shutdown: impl Future<Output = ()>,
) {
    accept_all(listener, tls, router(edges), addresses, shutdown).await;
}

async fn accept_all(
    listener: TcpListener,
    tls: Option<Arc<TlsEdge>>,
    app: Router,
    addresses: Arc<Addresses>,
    shutdown: impl Future<Output = ()>,
) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    tokio::pin!(shutdown);
    loop {
        let next = async { (connections.clone().acquire_owned().await, listener.accept().await) };
        let (permit, accepted) = tokio::select! {
            () = &mut shutdown => break,
            (Ok(permit), accepted) = next => (permit, accepted),
            else => break,
        };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "an HTTP connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(place) = addresses.enter(address.ip()) else {
            tracing::info!(%address, "an HTTP connection was closed: its address has as many as it may");
            continue;
        };
        let config = tls.as_ref().map(|edge| edge.web());
        let connection = answer(tcp, config, Peer(address), place, app.clone(), MAX_AGE, graceful.watcher());
        tokio::spawn(async move {
            connection.await;
            drop(permit);
        });
    }
    drop(listener);
    let _in_time = tokio::time::timeout(Duration::from_secs(2), graceful.shutdown()).await;
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_client_that_does_not_read_loses_its_place() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, address) = listener.accept().await.unwrap();
        // More than the sockets of both sides hold.
        let app = Router::new().route("/", get(|| async { vec![0_u8; 64 << 20] }));
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let place = Addresses::new(1, 1).enter(address.ip()).unwrap();
        let served = answer(tcp, None, Peer(address), place, app, Duration::from_millis(200), GracefulShutdown::new().watcher());
        tokio::time::timeout(Duration::from_secs(10), served).await.expect("it holds its place for ever");
    }

    /// Asks once, and leaves the connection open; nothing when it was closed unanswered.
    async fn ask(client: &mut TcpStream) -> String {
        let _closed_already = client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut answer = [0; 512];
        let read = tokio::time::timeout(Duration::from_secs(10), client.read(&mut answer)).await.expect("neither answered nor closed");
        String::from_utf8_lossy(&answer[..read.unwrap_or(0)]).into_owned()
    }

    #[tokio::test]
    async fn one_address_cannot_take_every_place() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap();
        let app = Router::new().route("/", get(|| async { "served" }));
        let serving = tokio::spawn(accept_all(listener, None, app, Addresses::new(2, 1), std::future::pending()));
        let connect = || TcpStream::connect(port);
        let (mut first, mut second, mut third) = (connect().await.unwrap(), connect().await.unwrap(), connect().await.unwrap());
        assert!(ask(&mut first).await.ends_with("served") && ask(&mut second).await.ends_with("served"));
        assert_eq!(ask(&mut third).await, "", "its address has two");
        drop(first);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while !ask(&mut connect().await.unwrap()).await.ends_with("served") {
            assert!(tokio::time::Instant::now() < deadline, "the place was not given back");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(ask(&mut second).await.ends_with("served"), "who has a place keeps it");
        serving.abort();
    }
}
