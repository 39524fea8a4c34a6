//! Discovery and the key set, for whoever verifies our JWTs. Where `[oidc]` is absent there is nothing here.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::Public;
use crate::vend::{Document, Vend};

/// The routes. What no other route takes is looked up under the issuer's own path, which a reload may change.
pub(super) fn router(public: Arc<Public>) -> Router {
    Router::new()
        .route("/.well-known/openid-configuration", get(discovery))
        .route("/jwks.json", get(jwks))
        .fallback(under_its_path)
        .with_state(public)
}

async fn discovery(State(public): State<Arc<Public>>, headers: HeaderMap) -> Response {
    serve(public.vend.oidc_discovery(), &headers)
}

async fn jwks(State(public): State<Arc<Public>>, headers: HeaderMap) -> Response {
    serve(public.vend.jwks(), &headers)
}

async fn under_its_path(State(public): State<Arc<Public>>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if method != Method::GET && method != Method::HEAD {
        return StatusCode::NOT_FOUND.into_response();
    }
    serve(named(&public.vend, uri.path()), &headers)
}

fn named(vend: &Vend, path: &str) -> Option<Document> {
    [vend.oidc_discovery(), vend.jwks()].into_iter().flatten().find(|document| document.path == path)
}

fn serve(document: Option<Document>, headers: &HeaderMap) -> Response {
    let Some(document) = document else { return StatusCode::NOT_FOUND.into_response() };
    let caching =
        [(header::ETAG, format!("\"{}\"", document.etag)), (header::CACHE_CONTROL, format!("public, max-age={}", document.max_age))];
    if headers.get_all(header::IF_NONE_MATCH).iter().any(|asked| names(asked, &document.etag)) {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    (caching, [(header::CONTENT_TYPE, "application/json")], document.body).into_response()
}

/// `If-None-Match` (RFC 9110 section 13.1.2): `*`, or a list of entity tags, compared weakly. Our tags hold no comma.
fn names(asked: &HeaderValue, etag: &str) -> bool {
    let Ok(asked) = asked.to_str() else { return false };
    asked.trim() == "*" || asked.split(',').map(str::trim).any(|tag| tag.strip_prefix("W/").unwrap_or(tag) == format!("\"{etag}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_compared_weakly_and_in_lists() {
        let names = |asked: &str| names(&HeaderValue::from_str(asked).unwrap(), "ab12");
        for same in ["\"ab12\"", "W/\"ab12\"", "*", " * ", "\"x\", \"ab12\"", "\"x\",W/\"ab12\" ,\"y\""] {
            assert!(names(same), "{same}");
        }
        for other in ["", "ab12", "\"ab1\"", "\"ab123\"", "w/\"ab12\"", "\"x\"", "**", "\"*\""] {
            assert!(!names(other), "{other}");
        }
    }
}
