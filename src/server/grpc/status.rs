//! The one mapping from the domain's error to gRPC.

use tonic::{Code as GrpcCode, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::model::error::{Code, Error};

/// The `domain` of every `google.rpc.ErrorInfo`.
const DOMAIN: &str = "daypass";

/// The status for a caller: its public text, and the stable reason as `google.rpc.ErrorInfo`. The internal text goes to the log.
pub(in crate::server) fn status(error: &Error, call_id: &str) -> Status {
    if !error.code().is_refusal() {
        tracing::error!(call_id, error = %error, "a request failed");
    } else if let Some(cause) = error.cause() {
        tracing::info!(call_id, reason = error.code().as_str(), cause, "a request was refused");
    }
    let details = ErrorDetails::with_error_info(error.code().as_str(), DOMAIN, [("call_id".to_owned(), call_id.to_owned())]);
    Status::with_error_details(grpc_code(error.code()), error.public(), details)
}

/// Which gRPC code stands for a reason.
pub(in crate::server) fn grpc_code(code: Code) -> GrpcCode {
    match code {
        Code::InvalidRequest | Code::InvalidCsr | Code::ClaimNotUsable => GrpcCode::InvalidArgument,
        Code::Unauthenticated | Code::TokenExpired | Code::TokenAudience | Code::TokenReplayed | Code::CertificateRevoked => {
            GrpcCode::Unauthenticated
        }
        Code::NoTenant | Code::TenantEnded | Code::Denied | Code::IssuerRefused | Code::GenerationSuperseded | Code::EnrollmentCode => {
            GrpcCode::PermissionDenied
        }
        Code::RoleNotFound | Code::LeaseNotFound | Code::EnrollmentNotFound => GrpcCode::NotFound,
        Code::LeaseState | Code::NotRenewable | Code::KeyState => GrpcCode::FailedPrecondition,
        Code::WatchTakenOver => GrpcCode::Aborted,
        Code::RequestIdReused => GrpcCode::AlreadyExists,
        Code::LeaseCap | Code::RateLimited => GrpcCode::ResourceExhausted,
        Code::StoreUnavailable | Code::AuditUnavailable | Code::IssuerUnavailable | Code::Unavailable => GrpcCode::Unavailable,
        Code::DeadlineExceeded => GrpcCode::DeadlineExceeded,
        Code::Internal => GrpcCode::Internal,
    }
}
