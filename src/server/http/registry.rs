//! `/token`: where a registry's clients exchange a lease's secret for a token (distribution, "Token Authentication Specification" and
//! "OAuth2 Token Authentication"). It reads what was asked, bounds it, calls `vend`, and writes the answer; it decides nothing.

mod asked;
mod login;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{RawQuery, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};

use super::Peer;
use crate::{
    clock,
    model::error::{Code, Error, Result},
    server::{
        grpc::{CALL_ID, grpc_code, outcome},
        limiters::Limiters,
    },
    vend::{Exchanged, Origin, Vend},
};
use asked::{Asked, Flow};
use login::Login;

/// The method on record and in metrics.
const METHOD: &str = "registry/exchange";

/// What a client without credentials, or with wrong ones, is asked for (RFC 7617 section 2).
const CHALLENGE: &str = "Basic realm=\"daypass\", charset=\"UTF-8\"";

const TOO_MANY_FAILURES: &str = "too many failed authentications from your address; wait a minute";

/// The token endpoint.
pub(in crate::server) struct TokenEdge {
    pub vend: Arc<Vend>,
    pub limiters: Arc<Limiters>,
    pub request_timeout: Duration,
}

/// The route.
pub(super) fn router(edge: Arc<TokenEdge>) -> Router {
    Router::new().route("/token", get(by_get).post(by_post)).with_state(edge)
}

async fn by_get(State(edge): State<Arc<TokenEdge>>, peer: Extension<Peer>, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    edge.answer(&peer, async { Asked::by_get(&headers, query.as_deref().unwrap_or_default()) }).await
}

async fn by_post(State(edge): State<Arc<TokenEdge>>, peer: Extension<Peer>, headers: HeaderMap, body: Body) -> Response {
    edge.answer(&peer, Asked::by_post(&headers, body)).await
}

impl TokenEdge {
    /// Answers in time, with the call's id; the same id stands in the log and on record.
    async fn answer(&self, peer: &Peer, asked: impl Future<Output = Result<Asked>>) -> Response {
        let begun = Instant::now();
        let id = uuid::Builder::from_random_bytes(clock::random()).into_uuid();
        let origin = Origin { method: METHOD, peer_address: Some(peer.0.ip()), call_id: id.simple().to_string() };
        let work = async {
            let asked = asked.await?;
            let exchanged = self.exchange(&origin, &asked).await?;
            Ok(reply(&asked, &exchanged))
        };
        let too_late = || Err(Error::new(Code::DeadlineExceeded, "the request took too long; try again"));
        let answered = tokio::time::timeout(self.request_timeout, work).await.unwrap_or_else(|_| too_late());
        measure(begun, answered.as_ref().err());
        let mut response = match answered {
            // RFC 6749 section 5.1: nobody keeps an answer that holds a token.
            Ok(reply) => ([(header::CACHE_CONTROL, "no-store")], Json(reply)).into_response(),
            Err(error) => refusal(&error, &origin),
        };
        if let Ok(id) = HeaderValue::try_from(&origin.call_id) {
            response.headers_mut().insert(CALL_ID, id);
        }
        response
    }

    async fn exchange(&self, origin: &Origin, asked: &Asked) -> Result<Exchanged> {
        let Some(Login { username, secret }) = &asked.login else {
            return Err(Error::new(Code::Unauthenticated, "log in with the user name and the secret of a lease: daypass issue ROLE"));
        };
        if origin.peer_address.is_some_and(|address| self.limiters.guesses_are_used_up(address)) {
            return Err(Error::new(Code::RateLimited, TOO_MANY_FAILURES));
        }
        if let Err((error, on_record)) = self.limiters.admit_exchange(secret) {
            return Err(if on_record { self.vend.exchange_refused(origin, username, error).await } else { error });
        }
        let error = match self.vend.exchange(origin, username, secret, &asked.service, &asked.scopes).await {
            Ok(exchanged) => return Ok(exchanged),
            Err(error) => error,
        };
        if let (Code::Unauthenticated, Some(address)) = (error.code(), origin.peer_address) {
            self.limiters.guessed_wrong(address);
        }
        match origin.peer_address.is_some_and(|address| self.limiters.too_many_failures(address)) {
            true if error.code().is_refusal() => Err(Error::new(Code::RateLimited, TOO_MANY_FAILURES)),
            // Our fault: told as it is, but not recorded without bound.
            true => Err(error),
            false => Err(self.vend.exchange_refused(origin, username, error).await),
        }
    }
}

/// The two specifications call the token by other names.
fn reply(asked: &Asked, exchanged: &Exchanged) -> Value {
    let token = &exchanged.token;
    let mut reply = json!({ "access_token": token.token.expose(), "expires_in": token.expires_in, "issued_at": exchanged.issued_at });
    match asked.flow {
        Flow::Get => reply["token"] = token.token.expose().into(),
        Flow::Post => reply["scope"] = token.granted.join(" ").into(),
    }
    if let (true, Some(login)) = (asked.offline, &asked.login) {
        // The secret is all that a refresh token would be: good for the lease's life, and no longer.
        reply["refresh_token"] = login.secret.expose().into();
    }
    reply
}

/// An error in the form that clients of registries read (OCI distribution specification, "Error Codes").
fn refusal(error: &Error, origin: &Origin) -> Response {
    let call_id = &origin.call_id;
    if !error.code().is_refusal() {
        tracing::error!(call_id, %error, "a request failed");
    } else if let Some(cause) = error.cause() {
        tracing::info!(call_id, reason = error.code().as_str(), cause, "a request was refused");
    }
    let (status, code) = status(error.code());
    let detail = json!({ "reason": error.code().as_str(), "call_id": call_id });
    let body = json!({ "errors": [{ "code": code, "message": error.public(), "detail": detail }] });
    let mut response = (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response();
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
    }
    response
}

fn status(code: Code) -> (StatusCode, &'static str) {
    match code {
        Code::InvalidRequest => (StatusCode::BAD_REQUEST, "UNSUPPORTED"),
        Code::Unauthenticated => (StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
        Code::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
        Code::StoreUnavailable | Code::AuditUnavailable | Code::IssuerUnavailable | Code::Unavailable | Code::DeadlineExceeded => {
            (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE")
        }
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
    }
}

fn measure(begun: Instant, error: Option<&Error>) {
    let outcome = outcome(error.map_or(tonic::Code::Ok, |error| grpc_code(error.code())));
    metrics::counter!("daypass_requests_total", "method" => METHOD, "outcome" => outcome).increment(1);
    metrics::histogram!("daypass_request_seconds", "method" => METHOD).record(begun.elapsed());
}
