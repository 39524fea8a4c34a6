//! `daypass.v1.TrustService`: public, without authentication.

use std::{pin::Pin, time::Instant};

use futures::{Stream, StreamExt, stream};
use tokio::{
    sync::watch,
    time::{Sleep, sleep},
};
use tonic::{Request, Response, Status, async_trait};

use super::{
    edge::{measure, origin, with_call_id},
    status::status,
};
use crate::{
    keys::{KeyState, schedule::REFRESH_AFTER},
    model::error::{Code, Error},
    proto::v1::{self, trust_service_server::TrustService},
    server::{bundles::Place, grpc::Edge},
    vend::{PublicCa, TrustBundle},
};

#[async_trait]
impl TrustService for Edge {
    type WatchTrustBundleStream = Pin<Box<dyn Stream<Item = Result<v1::WatchTrustBundleResponse, Status>> + Send>>;

    async fn get_trust_bundle(&self, request: Request<v1::GetTrustBundleRequest>) -> Result<Response<v1::GetTrustBundleResponse>, Status> {
        let begun = Instant::now();
        let origin = origin("TrustService/GetTrustBundle", &request);
        let bundle = bundle(&self.bundles.current());
        measure(origin.method, begun, None);
        with_call_id(Ok(bundle), &origin.call_id)
    }

    async fn watch_trust_bundle(
        &self,
        request: Request<v1::WatchTrustBundleRequest>,
    ) -> Result<Response<Self::WatchTrustBundleStream>, Status> {
        let begun = Instant::now();
        let origin = origin("TrustService/WatchTrustBundle", &request);
        let entered = self.bundles.enter(origin.peer_address).map_err(|error| status(&error, &origin.call_id));
        measure(origin.method, begun, entered.as_ref().err());
        let streamed = entered.map(|mut place| -> Self::WatchTrustBundleStream {
            place.bundle.mark_changed();
            // Streams that began together do not end together: a fifth less of the age at most.
            let age = self.connection_age - self.connection_age / 5 * place.jitter() / 256;
            let following =
                Following { place, shutdown: self.shutdown.clone(), end: Box::pin(sleep(age)), call_id: origin.call_id.clone() };
            stream::unfold(Some(following), |following| async { following?.next().await }).boxed()
        });
        with_call_id(streamed, &origin.call_id)
    }

    async fn acknowledge_trust_bundle(
        &self,
        request: Request<v1::AcknowledgeTrustBundleRequest>,
    ) -> Result<Response<v1::AcknowledgeTrustBundleResponse>, Status> {
        let begun = Instant::now();
        let origin = origin("TrustService/AcknowledgeTrustBundle", &request);
        let v1::AcknowledgeTrustBundleRequest { watch_id, version } = request.into_inner();
        let noted = self.bundles.acknowledge(&watch_id, &version);
        let answer = noted.map(|()| v1::AcknowledgeTrustBundleResponse {}).map_err(|error| status(&error, &origin.call_id));
        measure(origin.method, begun, answer.as_ref().err());
        with_call_id(answer, &origin.call_id)
    }
}

/// One stream.
struct Following {
    place: Place,
    shutdown: watch::Receiver<bool>,
    end: Pin<Box<Sleep>>,
    call_id: String,
}

impl Following {
    /// The next message, and who follows on; none when the stream has had its age: who reads it opens another.
    async fn next(mut self) -> Option<(Result<v1::WatchTrustBundleResponse, Status>, Option<Self>)> {
        let woken = tokio::select! {
            biased;
            over = self.shutdown.wait_for(|over| *over) => { drop(over); Woken::Shutdown },
            () = &mut self.end => Woken::Aged,
            changed = self.place.bundle.changed() => if changed.is_ok() { Woken::Changed } else { Woken::Aged },
        };
        match woken {
            Woken::Aged => None,
            Woken::Shutdown => {
                let error = Error::new(Code::Unavailable, "the server is shutting down; watch the trust bundle at another one");
                Some((Err(status(&error, &self.call_id)), None))
            }
            Woken::Changed => {
                let bundle = bundle(&self.place.bundle.borrow_and_update().clone());
                let message = v1::WatchTrustBundleResponse { bundle: Some(bundle), watch_id: self.place.watch_id() };
                Some((Ok(message), Some(self)))
            }
        }
    }
}

/// Why a stream goes on.
enum Woken {
    Shutdown,
    Aged,
    Changed,
}

fn bundle(bundle: &TrustBundle) -> v1::GetTrustBundleResponse {
    let TrustBundle { version, authorities, jwks } = bundle;
    v1::GetTrustBundleResponse {
        authorities: authorities.iter().map(authority).collect(),
        refresh_after: Some(prost_types::Duration { seconds: REFRESH_AFTER.as_secs(), nanos: 0 }),
        version: version.clone(),
        jwks: jwks.clone(),
    }
}

fn authority(public: &PublicCa) -> v1::CertificateAuthority {
    let PublicCa { name, ca, state, rotates: _, chain_der, root_der, crl_url } = public;
    let state = match state {
        KeyState::Prepared => v1::KeyState::Prepared,
        KeyState::Active => v1::KeyState::Active,
        KeyState::Retired => v1::KeyState::Retired,
    };
    v1::CertificateAuthority {
        name: name.to_string(),
        chain_der: chain_der.clone(),
        root_der: root_der.clone(),
        crl_url: crl_url.clone(),
        state: state.into(),
        ca: ca.to_string(),
    }
}
