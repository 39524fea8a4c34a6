//! `daypass.v1.CredentialService`

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio_stream::Stream;
use tonic::{Request, Response, Status, async_trait};

use super::{
    convert,
    edge::{measure, origin, too_late, with_call_id},
    status::status,
};
use crate::{
    model::error::{Code, Error},
    proto::v1::{self, credential_service_server::CredentialService},
    server::grpc::Edge,
    vend::WatchStream,
};

/// The messages of a watch on the wire.
pub struct WatchResponses {
    messages: WatchStream,
    call_id: String,
}

impl Stream for WatchResponses {
    type Item = Result<v1::WatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let message = ready!(Pin::new(&mut self.messages).poll_next(cx));
        Poll::Ready(message.map(|message| message.map(convert::watched).map_err(|error| status(&error, &self.call_id))))
    }
}

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

    type WatchStream = WatchResponses;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<WatchResponses>, Status> {
        let begun = Instant::now();
        let origin = origin("CredentialService/Watch", &request);
        let call_id = origin.call_id.clone();
        let opened = async {
            let call = self.authenticate(origin, &request).await?;
            let request = match convert::watch_request(request.into_inner()) {
                Ok(request) => request,
                Err(error) => return Err(self.vend.refused(&call, error).await),
            };
            let (work, closer) = (Arc::clone(&self.vend), Arc::clone(&self.vend));
            self.unbroken(async move { work.watch(&call, request).await }, move |opened| {
                if let Some(lease) = opened.unheld {
                    closer.abandon(&lease);
                }
            })
            .await
        };
        let opened = tokio::time::timeout(self.request_timeout, opened).await.unwrap_or_else(|_| Err(too_late()));
        let answer = opened.map_err(|error| status(&error, &call_id));
        measure("CredentialService/Watch", begun, answer.as_ref().err());
        let responses = answer.map(|opened| WatchResponses { messages: opened.stream, call_id: call_id.clone() });
        with_call_id(responses, &call_id)
    }

    async fn acknowledge(&self, request: Request<v1::AcknowledgeRequest>) -> Result<Response<v1::AcknowledgeResponse>, Status> {
        let vend = &self.vend;
        self.unary("CredentialService/Acknowledge", request, async |call, message| {
            let (id, generation, next_csr) = match convert::acknowledge_request(message) {
                Ok(parsed) => parsed,
                Err(error) => return Err(vend.refused(&call, error).await),
            };
            let work = Arc::clone(vend);
            let acknowledged = async move { work.acknowledge(&call, id, generation, next_csr.as_deref()).await };
            let lease = self.unbroken(acknowledged, drop).await?;
            Ok(v1::AcknowledgeResponse { lease: Some(convert::lease(&lease, vend.now())) })
        })
        .await
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
