//! The gRPC edge: authenticates, bounds, converts, calls `vend`, and maps errors. It decides nothing.

mod audit;
mod convert;
mod credential;
mod edge;
mod enrollment;
mod lease;
mod status;
mod streams;
mod trust;

use std::{io, sync::Arc, time::Duration};

use tokio_stream::Stream;
use tonic::transport::{Server, server::Router};
use tonic_health::pb::health_server::{Health, HealthServer};

pub(super) use convert::outcome;
pub(super) use edge::{CALL_ID, Edge, with_call_id};
pub(super) use status::{grpc_code, status};
pub(super) use streams::Streams;

use super::{
    config::{Limits, std_duration},
    conn::Conn,
};
use crate::{
    model::error::{Error, Result},
    proto::{
        self,
        v1::{
            audit_service_server::AuditServiceServer, credential_service_server::CredentialServiceServer,
            enrollment_service_server::EnrollmentServiceServer, lease_service_server::LeaseServiceServer,
            trust_service_server::TrustServiceServer,
        },
    },
};

/// How often an idle connection is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Streams that may be reset for a protocol error of the peer before the connection is closed.
const LOCAL_RESETS: usize = 64;

/// The largest message to the services that anybody may ask, reflection and health, in bytes: a name.
pub(super) const MAX_PUBLIC_MESSAGE: usize = 4 * 1024;

/// Every service, and the health reporter that says whether they serve.
fn router(edge: Arc<Edge>, limits: &Limits, health: HealthServer<impl Health>) -> Result<Router> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(Error::internal)?
        .max_decoding_message_size(MAX_PUBLIC_MESSAGE);
    let bytes = limits.message_bytes;
    let credential = CredentialServiceServer::from_arc(edge.clone()).max_decoding_message_size(bytes);
    let lease = LeaseServiceServer::from_arc(edge.clone()).max_decoding_message_size(bytes);
    let trust = TrustServiceServer::from_arc(edge.clone()).max_decoding_message_size(bytes);
    let enrollment = EnrollmentServiceServer::from_arc(edge.clone()).max_decoding_message_size(bytes);
    let audit = AuditServiceServer::from_arc(edge).max_decoding_message_size(bytes);
    let mut server = Server::builder()
        .max_concurrent_streams(limits.streams_per_connection)
        .http2_max_header_list_size(limits.header_bytes)
        .http2_max_pending_accept_reset_streams(Some(limits.pending_resets))
        .http2_max_local_error_reset_streams(Some(LOCAL_RESETS))
        .http2_keepalive_interval(Some(KEEPALIVE))
        // Without a grace: with one, tonic cuts what is in flight instead of ending the connection gracefully. Tails end by themselves.
        .max_connection_age(std_duration(limits.connection_age));
    Ok(server
        .add_service(credential)
        .add_service(lease)
        .add_service(trust)
        .add_service(enrollment)
        .add_service(audit)
        .add_service(reflection)
        .add_service(health))
}

/// Serves connections until `shutdown` resolves, then finishes what is in flight.
pub(super) async fn serve(
    edge: Arc<Edge>,
    limits: &Limits,
    health: HealthServer<impl Health>,
    incoming: impl Stream<Item = io::Result<Conn>> + Send,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<()> {
    router(edge, limits, health)?.serve_with_incoming_shutdown(incoming, shutdown).await.map_err(Error::internal)
}
