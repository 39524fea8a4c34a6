//! What anybody may read: health, metrics, the CA chain and the CRLs.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;

use crate::{model::pem, server::ready::Readiness, vend::Vend};

/// What the handlers need.
pub(in crate::server) struct Public {
    pub vend: Arc<Vend>,
    pub readiness: Arc<Readiness>,
    pub metrics: PrometheusHandle,
    /// CRLs of roots, made elsewhere: name and DER.
    pub root_crls: Vec<(String, Vec<u8>)>,
}

/// The routes.
pub(super) fn router(public: Arc<Public>) -> Router {
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
    for ca in public.vend.trust_bundle().authorities {
        for der in ca.chain_der.into_iter().chain(ca.root_der) {
            if !seen.contains(&der) {
                pem::push(&mut text, "CERTIFICATE", &der);
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
