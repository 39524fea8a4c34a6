//! What every method does before and after its own work: call id, authentication, rate limits, metrics, error mapping.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tonic::{
    Request, Response, Status,
    metadata::{AsciiMetadataValue, MetadataValue},
};

use super::{
    convert,
    status::status,
    streams::{MAX_STREAMS_PER_CALLER, StreamPlace, Streams},
};
use crate::{
    authn::one_authorization,
    clock,
    model::{
        error::{Code, Error, Result},
        identity::Identity,
    },
    server::{
        bundles::Bundles,
        callers::Callers,
        conn::ConnInfo,
        limiters::{Limiters, caller_key},
        trust::Trust,
    },
    vend::{Call, Enrollments, Origin, Vend},
};

/// The answer's header that names the call, the same id as in the log and in the audit record.
pub(in crate::server) const CALL_ID: &str = "x-daypass-call-id";

/// The edge: everything that the services share.
pub(in crate::server) struct Edge {
    pub(in crate::server) vend: Arc<Vend>,
    pub(in crate::server) enrollments: Arc<Enrollments>,
    pub(in crate::server) authn: Arc<Callers>,
    pub(in crate::server) trust: Arc<Trust>,
    pub(in crate::server) bundles: Arc<Bundles>,
    pub(in crate::server) limiters: Arc<Limiters>,
    pub(in crate::server) request_timeout: Duration,
    /// What runs on when its caller leaves; a shutdown waits for it.
    pub(in crate::server) in_flight: TaskTracker,
    /// How many streams each caller has.
    pub(in crate::server) streams: Arc<Streams>,
    /// How long a stream may live.
    pub(in crate::server) connection_age: Duration,
    pub(in crate::server) shutdown: watch::Receiver<bool>,
}

impl Edge {
    /// Runs a unary method: authenticates, calls `work`, measures, maps the error.
    pub(super) async fn unary<T, U, F, Fut>(&self, method: &'static str, request: Request<T>, work: F) -> Result<Response<U>, Status>
    where
        F: FnOnce(Call, T) -> Fut + Send,
        Fut: Future<Output = Result<U>> + Send,
        T: Send,
    {
        let begun = Instant::now();
        let origin = origin(method, &request);
        let call_id = origin.call_id.clone();
        let answered = async {
            let call = self.authenticate(origin, &request).await?;
            work(call, request.into_inner()).await
        };
        let answered = tokio::time::timeout(self.request_timeout, answered).await.unwrap_or_else(|_| Err(too_late()));
        let answer = answered.map_err(|error| status(&error, &call_id));
        measure(method, begun, answer.as_ref().err());
        with_call_id(answer, &call_id)
    }

    /// Authenticates a caller, admits it at its rate, and puts a refusal on record.
    pub(super) async fn authenticate<T>(&self, origin: Origin, request: &Request<T>) -> Result<Call> {
        let address = origin.peer_address;
        match self.identity(request).await {
            Ok(identity) => {
                let call = Call { identity: Arc::new(identity), origin };
                match self.limiters.admit(&call.identity) {
                    Ok(()) => Ok(call),
                    Err((error, true)) => Err(self.vend.refused(&call, error).await),
                    Err((error, false)) => Err(error),
                }
            }
            Err(error) => match address.is_some_and(|address| self.limiters.too_many_failures(address)) {
                true if error.code().is_refusal() => {
                    Err(Error::new(Code::RateLimited, "too many failed authentications from your address; wait a minute"))
                }
                // Our fault, and yet anybody can bring it about (with a token of an issuer whose keys cannot be had): told as it is, but not
                // recorded without bound.
                true => Err(error),
                false => Err(self.vend.unauthenticated(&origin, error).await),
            },
        }
    }

    /// A place for one more stream of a caller: each has only so many, and holds none of another's.
    pub(super) async fn place_for(&self, call: &Call) -> Result<StreamPlace> {
        match self.streams.enter(caller_key(&call.identity)) {
            Some(place) => Ok(place),
            None => {
                let busy =
                    format!("you have {MAX_STREAMS_PER_CALLER} streams already (audit tail, revoke of many); try again when one has ended");
                Err(self.vend.refused(call, Error::new(Code::RateLimited, busy)).await)
            }
        }
    }

    async fn identity<T>(&self, request: &Request<T>) -> Result<Identity> {
        let now = self.vend.now();
        let peer = request.extensions().get::<ConnInfo>().and_then(|info| info.peer.clone());
        if let Some(peer) = &peer
            && peer.not_after <= now
        {
            return Err(Error::new(Code::Unauthenticated, "your client certificate has expired; get a new one and connect again"));
        }
        if peer.is_some() && !self.trust.knows_revocations() {
            return Err(Error::new(
                Code::Unavailable,
                "the server does not know yet which client certificates are revoked; try again in a second",
            ));
        }
        let authorization = one_authorization(request.metadata().get_all("authorization").iter().map(MetadataValue::as_bytes))?;
        let proof = self.authn.proof(peer.as_deref(), authorization, now).await?;
        self.vend.rules().book.catalog().identify(proof)
    }

    /// Work that must not stop half-way when the caller leaves: it runs on, also through a shutdown, and `undelivered` hears of a result
    /// that nobody took.
    pub(super) async fn unbroken<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
        undelivered: impl FnOnce(T) + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.in_flight.spawn(async move {
            if let Err(Ok(result)) = sender.send(work.await) {
                undelivered(result);
            }
        });
        receiver.await.unwrap_or_else(|_| Err(Error::internal("the work panicked")))
    }
}

/// Where a request comes from.
pub(super) fn origin<T>(method: &'static str, request: &Request<T>) -> Origin {
    let peer_address = request.extensions().get::<ConnInfo>().map(|info| info.address.ip());
    let id = uuid::Builder::from_random_bytes(clock::random()).into_uuid();
    Origin { method, peer_address, call_id: id.simple().to_string() }
}

pub(super) fn measure(method: &'static str, begun: Instant, refusal: Option<&Status>) {
    let outcome = convert::outcome(refusal.map_or(tonic::Code::Ok, Status::code));
    metrics::counter!("daypass_requests_total", "method" => method, "outcome" => outcome).increment(1);
    metrics::histogram!("daypass_request_seconds", "method" => method).record(begun.elapsed());
}

pub(in crate::server) fn with_call_id<U>(answer: Result<U, Status>, call_id: &str) -> Result<Response<U>, Status> {
    let id = AsciiMetadataValue::try_from(call_id);
    match (answer, id) {
        (Ok(body), Ok(id)) => {
            let mut response = Response::new(body);
            response.metadata_mut().insert(CALL_ID, id);
            Ok(response)
        }
        (Ok(body), Err(_)) => Ok(Response::new(body)),
        (Err(mut status), Ok(id)) => {
            status.metadata_mut().insert(CALL_ID, id);
            Err(status)
        }
        (Err(status), Err(_)) => Err(status),
    }
}

pub(super) fn too_late() -> Error {
    Error::new(Code::DeadlineExceeded, "the request took too long; try again with the same request id")
}
