//! `daypass.v1.TrustService`: public, without authentication.

use std::time::Instant;

use tonic::{Request, Response, Status, async_trait};

use super::edge::{measure, origin, with_call_id};
use crate::{
    proto::v1::{self, trust_service_server::TrustService},
    server::grpc::Edge,
};

/// How soon a relying party should ask again, in seconds.
const REFRESH_AFTER: i64 = 300;

#[async_trait]
impl TrustService for Edge {
    type WatchTrustBundleStream = tokio_stream::Empty<Result<v1::WatchTrustBundleResponse, Status>>;

    async fn watch_trust_bundle(&self, _: Request<v1::WatchTrustBundleRequest>) -> Result<Response<Self::WatchTrustBundleStream>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn acknowledge_trust_bundle(
        &self,
        _: Request<v1::AcknowledgeTrustBundleRequest>,
    ) -> Result<Response<v1::AcknowledgeTrustBundleResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn get_trust_bundle(&self, request: Request<v1::GetTrustBundleRequest>) -> Result<Response<v1::GetTrustBundleResponse>, Status> {
        let begun = Instant::now();
        let origin = origin("TrustService/GetTrustBundle", &request);
        let authorities = self.vend.trust_bundle().into_iter().map(|ca| v1::CertificateAuthority {
            name: ca.name.to_string(),
            chain_der: ca.chain_der,
            root_der: ca.root_der,
            crl_url: ca.crl_url,
            state: v1::KeyState::Active.into(),
            ca: ca.name.to_string(),
        });
        let refresh_after = Some(prost_types::Duration { seconds: REFRESH_AFTER, nanos: 0 });
        let bundle =
            v1::GetTrustBundleResponse { authorities: authorities.collect(), refresh_after, version: String::new(), jwks: String::new() };
        measure(origin.method, begun, None);
        with_call_id(Ok(bundle), &origin.call_id)
    }
}
