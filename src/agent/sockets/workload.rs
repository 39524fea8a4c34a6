//! The SPIFFE Workload API: identities and bundles for the process that asks, as the SPIFFE Workload API standard has it.
//!
//! What the standard leaves open: bundles are for everybody who can open the socket, for the service shows them to everybody; an
//! identity's hint is the name of its role.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use futures::stream::BoxStream;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::{
    follow::{State, follow},
    jwt::JwtSvids,
    view::{Certificate, Shown, View},
};
use crate::{
    agent::desk::Bundle,
    authn::oidc::verify_svid,
    clock::Clock,
    model::{error::Code, name::TrustDomain, request::MAX_AUDIENCE},
    proto::workload::{
        JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest, ValidateJwtsvidResponse,
        X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
        spiffe_workload_api_server::SpiffeWorkloadApi,
    },
    unix::peer::Peer,
};

/// The largest message that is taken, in bytes: a token of 16 KiB is the most of it.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// What every call must bring, exactly once (SPIFFE Workload Endpoint standard, section 5): a page that a browser was made to open cannot.
const HEADER: &str = "workload.spiffe.io";

/// A JWK Set without keys (RFC 7517 section 5).
const NO_KEYS: &str = r#"{"keys":[]}"#;

/// The service.
pub(super) struct Workload {
    pub shown: Shown,
    pub jwts: JwtSvids,
    pub clock: Arc<dyn Clock>,
    pub shutdown: watch::Receiver<bool>,
}

/// Refuses a call without the header.
pub(super) fn check_header(request: Request<()>) -> Result<Request<()>, Status> {
    let mut found = request.metadata().get_all(HEADER).iter();
    match (found.next(), found.next()) {
        (Some(value), None) if value.as_bytes() == b"true" => Ok(request),
        _ => Err(Status::invalid_argument(format!("the metadata {HEADER}: true is missing, or stands there more than once"))),
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Workload {
    type FetchX509SVIDStream = BoxStream<'static, Result<X509svidResponse, Status>>;
    type FetchX509BundlesStream = BoxStream<'static, Result<X509BundlesResponse, Status>>;
    type FetchJWTBundlesStream = BoxStream<'static, Result<JwtBundlesResponse, Status>>;

    async fn fetch_x509svid(&self, request: Request<X509svidRequest>) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let view = self.view(&request)?;
        Ok(Response::new(follow(view, self.shutdown.clone(), x509_svids)))
    }

    async fn fetch_x509_bundles(&self, request: Request<X509BundlesRequest>) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let view = self.view(&request)?;
        Ok(Response::new(follow(view, self.shutdown.clone(), |view| {
            let bundles = bundles(view, |bundle| bundle.roots_der.concat())?;
            Ok(State::of_map(bundles, |bundles| X509BundlesResponse { crl: Vec::new(), bundles }))
        })))
    }

    async fn fetch_jwtsvid(&self, request: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        let peer = Peer::of(&request)?;
        let JwtsvidRequest { audience, spiffe_id } = request.into_inner();
        let audience = match audience.as_slice() {
            [one] if !one.is_empty() && one.len() <= MAX_AUDIENCE => one,
            [_] => return Err(Status::invalid_argument(format!("an audience has 1 to {MAX_AUDIENCE} bytes"))),
            [] => return Err(Status::invalid_argument("name an audience")),
            _ => {
                return Err(Status::invalid_argument(
                    "name one audience: a token here has one, so that none of them can use it at another",
                ));
            }
        };
        let wanted = match spiffe_id.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|fault| Status::invalid_argument(format!("spiffe_id: {fault}")))?),
        };
        let found = self.jwts.fetch(peer.uid, |role| self.shown.allows(role, &peer), audience, wanted.as_ref()).await?;
        let svids = found.into_iter().map(|svid| Jwtsvid { spiffe_id: svid.id, svid: svid.token.expose().to_owned(), hint: svid.role });
        Ok(Response::new(JwtsvidResponse { svids: svids.collect() }))
    }

    async fn fetch_jwt_bundles(&self, request: Request<JwtBundlesRequest>) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let view = self.view(&request)?;
        Ok(Response::new(follow(view, self.shutdown.clone(), |view| {
            let bundles = bundles(view, |bundle| jwks(bundle).as_bytes().to_vec())?;
            Ok(State::of_map(bundles, |bundles| JwtBundlesResponse { bundles }))
        })))
    }

    async fn validate_jwtsvid(&self, request: Request<ValidateJwtsvidRequest>) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let view = self.view(&request)?;
        let ValidateJwtsvidRequest { audience, svid } = request.into_inner();
        if audience.is_empty() {
            return Err(Status::invalid_argument("name the audience that you are"));
        }
        let bundle = view.bundle().ok_or_else(no_bundle)?;
        let verified = verify_svid(&svid, &audience, jwks(&bundle), self.clock.now()).map_err(|error| match error.code() {
            Code::IssuerUnavailable => Status::unavailable(error.public()),
            _ => Status::invalid_argument(error.public()),
        })?;
        if !view.trust_domains().contains(&verified.id.trust_domain) {
            return Err(Status::invalid_argument("the token's trust domain is another one"));
        }
        let claims =
            serde_json::from_str(&verified.claims).map_err(|_| Status::invalid_argument("the token's payload is no JSON object"))?;
        Ok(Response::new(ValidateJwtsvidResponse { spiffe_id: verified.id.to_string(), claims: Some(fields(claims)) }))
    }
}

impl Workload {
    fn view<T>(&self, request: &Request<T>) -> Result<View, Status> {
        Ok(self.shown.view(&Peer::of(request)?))
    }
}

/// Every identity that the process may have, each with the bundle of its trust domain.
fn x509_svids(view: &View) -> Result<State<X509svidResponse>, Status> {
    let svids: Vec<_> = view.certificates().iter().filter_map(|certificate| x509_svid(view, certificate)).collect();
    match svids.is_empty() {
        false => Ok(State::of(X509svidResponse { svids, crl: Vec::new(), federated_bundles: HashMap::new() })),
        true if view.is_waiting() => Err(Status::unavailable("the agent has no credential yet; try again")),
        true => Err(Status::permission_denied("no identity issued")),
    }
}

fn x509_svid(view: &View, certificate: &Certificate) -> Option<X509svid> {
    let id = certificate.id.as_ref()?;
    let bundle = view.bundle_of(&id.trust_domain);
    // Until the bundle came: the roots that came with the certificate.
    let roots = bundle.as_ref().map_or(certificate.roots(), |bundle| &bundle.roots_der);
    Some(X509svid {
        spiffe_id: id.to_string(),
        x509_svid: certificate.chain().concat(),
        x509_svid_key: certificate.key().to_vec(),
        bundle: roots.concat(),
        hint: certificate.role.clone(),
    })
}

/// The bundle of each trust domain.
fn bundles(view: &View, content: impl Fn(&Bundle) -> Vec<u8>) -> Result<BTreeMap<String, Vec<u8>>, Status> {
    let domains = view.trust_domains();
    view.bundle().ok_or_else(no_bundle)?;
    if domains.is_empty() {
        return Err(Status::unavailable("the agent does not know yet of which trust domain its bundle is; sockets.trust_domain says so"));
    }
    Ok(domains.iter().filter_map(|domain| Some((spiffe_id_of(domain), content(&*view.bundle_of(domain)?)))).collect())
}

/// The trust domain itself, as a SPIFFE ID (SPIFFE ID standard, section 2.1).
fn spiffe_id_of(domain: &TrustDomain) -> String {
    format!("spiffe://{domain}")
}

fn jwks(bundle: &Bundle) -> &str {
    if bundle.jwks.is_empty() { NO_KEYS } else { &bundle.jwks }
}

fn no_bundle() -> Status {
    Status::unavailable("the agent has no trust bundle yet; try again")
}

fn fields(claims: serde_json::Map<String, serde_json::Value>) -> prost_types::Struct {
    prost_types::Struct { fields: claims.into_iter().map(|(name, value)| (name, prost_value(value))).collect() }
}

/// As the JSON mapping of protocol buffers has it: every number is a double. The verifier has bounded the depth.
fn prost_value(value: serde_json::Value) -> prost_types::Value {
    use prost_types::value::Kind;
    use serde_json::Value;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(value),
        Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::NAN)),
        Value::String(value) => Kind::StringValue(value),
        Value::Array(values) => Kind::ListValue(prost_types::ListValue { values: values.into_iter().map(prost_value).collect() }),
        Value::Object(members) => Kind::StructValue(fields(members)),
    };
    prost_types::Value { kind: Some(kind) }
}
