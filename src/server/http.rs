//! The HTTP edge: health, metrics, the CA chain and the CRLs. Public, plain, small.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::ready::Readiness;
use crate::vend::Vend;

/// HTTP connections at once.
const MAX_CONNECTIONS: usize = 1024;

/// How long a client may take to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may last: time for a large CRL over a slow line, and no place for ever for a client that does not read.
const MAX_AGE: Duration = Duration::from_secs(60);

/// The largest request head, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// What the handlers need.
pub(super) struct Public {
    pub vend: Arc<Vend>,
    pub readiness: Arc<Readiness>,
    pub metrics: PrometheusHandle,
    /// CRLs of roots, made elsewhere: name and DER.
    pub root_crls: Vec<(String, Vec<u8>)>,
}

/// Every route.
fn router(public: Arc<Public>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(render_metrics))
        .route("/ca.pem", get(ca_pem))
        .route("/crl/{file}", get(crl))
        .with_state(public)
}

async fn ready(State(public): State<Arc<Public>>) -> Response {
    let faults = public.readiness.faults();
    let status = if faults.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(serde_json::json!({ "ready": faults.is_empty(), "faults": faults }))).into_response()
}

async fn render_metrics(State(public): State<Arc<Public>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], public.metrics.render()).into_response()
}

async fn ca_pem(State(public): State<Arc<Public>>) -> Response {
    let mut text = String::new();
    let mut seen: Vec<Vec<u8>> = Vec::new();
    for ca in public.vend.trust_bundle() {
        for der in ca.chain_der.into_iter().chain(ca.root_der) {
            if !seen.contains(&der) {
                text.push_str(&pem("CERTIFICATE", &der));
                seen.push(der);
            }
        }
    }
    ([(header::CONTENT_TYPE, "application/x-pem-file")], text).into_response()
}

async fn crl(State(public): State<Arc<Public>>, Path(file): Path<String>, headers: HeaderMap) -> Response {
    let Some(name) = file.strip_suffix(".crl") else { return StatusCode::NOT_FOUND.into_response() };
    if let Some((_, der)) = public.root_crls.iter().find(|(root, _)| root == name) {
        return ([(header::CONTENT_TYPE, "application/pkix-crl")], der.clone()).into_response();
    }
    let Ok(ca) = name.parse() else { return StatusCode::NOT_FOUND.into_response() };
    let Some(published) = public.vend.crls().subscribe(&ca) else { return StatusCode::NOT_FOUND.into_response() };
    let Some(crl) = published.borrow().clone() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the CRL is not signed yet; try again in a second\n").into_response();
    };
    let etag = format!("\"{}\"", crl.number);
    // A cache between us and a relying party must ask each time: a revocation is out within a second.
    let caching = [(header::ETAG, etag.clone()), (header::CACHE_CONTROL, "no-cache".to_owned())];
    if headers.get(header::IF_NONE_MATCH).is_some_and(|asked| asked.as_bytes() == etag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    (caching, [(header::CONTENT_TYPE, "application/pkix-crl")], crl.der.clone()).into_response()
}

/// PEM as RFC 7468 section 3 has it.
fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    let encoded = STANDARD.encode(der);
    for line in encoded.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// Answers one connection, for `max_age` at most.
fn answer(tcp: TcpStream, app: Router, max_age: Duration, graceful: &GracefulShutdown) -> impl Future<Output = ()> + use<> {
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(tcp), TowerToHyperService::new(app));
    let watched = graceful.watch(connection);
    async move {
        let _gone_or_too_old = tokio::time::timeout(max_age, watched).await;
    }
}

/// Serves until `shutdown` resolves.
pub(super) async fn serve(listener: TcpListener, public: Arc<Public>, shutdown: impl Future<Output = ()>) {
    let app = router(public);
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
        let (tcp, _address): (_, SocketAddr) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "an HTTP connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let connection = answer(tcp, app.clone(), MAX_AGE, &graceful);
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
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_client_that_does_not_read_loses_its_place() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        // More than the sockets of both sides hold.
        let app = Router::new().route("/", get(|| async { vec![0_u8; 64 << 20] }));
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let served = answer(tcp, app, Duration::from_millis(200), &GracefulShutdown::new());
        tokio::time::timeout(Duration::from_secs(10), served).await.expect("it holds its place for ever");
    }
}
