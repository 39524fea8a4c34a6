//! `daypass.v1.CredentialService`

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use super::convert;
use crate::{
    model::error::{Code, Error},
    proto::v1::{self, credential_service_server::CredentialService},
    server::grpc::Edge,
};

#[async_trait]
impl CredentialService for Edge {
    async fn issue(&self, request: Request<v1::IssueRequest>) -> Result<Response<v1::IssueResponse>, Status> {
        let vend = &self.vend;
        self.unary("CredentialService/Issue", request, async |call, message| {
            let request = match convert::issue_request(message) {
                Ok(request) => request,
                Err(error) => return Err(vend.refused(&call, error).await),
            };
            // With a request id the caller can still fetch what it missed, where it can be made again; else nobody ever can.
            let repeatable = request.request_id.is_some();
            let (work, closer) = (Arc::clone(vend), Arc::clone(vend));
            let issued = self
                .unbroken(async move { work.issue(&call, request).await }, move |issued| {
                    if !(repeatable && issued.credential.can_be_made_again()) {
                        closer.abandon(&issued.lease);
                    }
                })
                .await?;
            Ok(v1::IssueResponse {
                lease: Some(convert::lease(&issued.lease, issued.now)),
                credential: Some(convert::credential(issued.credential)),
            })
        })
        .await
    }

    type WatchStream = tokio_stream::Empty<Result<v1::WatchResponse, Status>>;

    async fn watch(&self, _: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn acknowledge(&self, _: Request<v1::AcknowledgeRequest>) -> Result<Response<v1::AcknowledgeResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Result<Response<v1::ExplainResponse>, Status> {
        let vend = &self.vend;
        self.unary("CredentialService/Explain", request, async |call, message| {
            let v1::ExplainRequest { role } = message;
            match role.parse() {
                Ok(role) => Ok(convert::explanation(vend.explain(&call, &role).await?)),
                Err(error) => Err(vend.refused(&call, Error::new(Code::InvalidRequest, format!("{error}"))).await),
            }
        })
        .await
    }

    async fn who_am_i(&self, request: Request<v1::WhoAmIRequest>) -> Result<Response<v1::WhoAmIResponse>, Status> {
        let vend = &self.vend;
        self.unary("CredentialService/WhoAmI", request, async |call, message| {
            let v1::WhoAmIRequest {} = message;
            Ok(convert::who_am_i(&vend.who_am_i(&call).await?))
        })
        .await
    }
}
