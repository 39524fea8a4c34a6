//! `daypass.v1.LeaseService`

use std::{pin::Pin, sync::Arc, time::Instant};

use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, async_trait};

use super::{
    convert,
    edge::{measure, origin, with_call_id},
    status::status,
};
use crate::{
    model::{
        error::{Code, Error},
        lease::LeaseFilter,
    },
    proto::v1::{self, lease_service_server::LeaseService},
    server::grpc::Edge,
    vend::MAX_PAGE,
};

/// Leases in a page when the caller does not say.
const DEFAULT_PAGE: u32 = 100;

/// Steps of a revocation of many that wait for a slow reader.
const WAITING_STEPS: usize = 64;

#[async_trait]
impl LeaseService for Edge {
    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let vend = &self.vend;
        self.unary("LeaseService/Get", request, async |call, message| {
            let v1::GetRequest { lease_id } = message;
            let id = match convert::lease_id(&lease_id) {
                Ok(id) => id,
                Err(error) => return Err(vend.refused(&call, error).await),
            };
            let lease = vend.get(&call, id).await?;
            Ok(v1::GetResponse { lease: Some(convert::lease(&lease, vend.now())) })
        })
        .await
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        let vend = &self.vend;
        self.unary("LeaseService/List", request, async |call, message| {
            let v1::ListRequest { filter, page_size, page_token } = message;
            let parsed = convert::filter(filter).and_then(|filter| {
                let after = if page_token.is_empty() { None } else { Some(convert::lease_id(&page_token)?) };
                let size = if page_size == 0 { DEFAULT_PAGE } else { page_size } as usize;
                if size > MAX_PAGE {
                    return Err(Error::new(Code::InvalidRequest, format!("page_size is at most {MAX_PAGE}")));
                }
                Ok((filter, after, size))
            });
            let (filter, after, size) = match parsed {
                Ok(parsed) => parsed,
                Err(error) => return Err(vend.refused(&call, error).await),
            };
            let page = vend.list(&call, &filter, after, size).await?;
            let now = vend.now();
            Ok(v1::ListResponse {
                leases: page.leases.iter().map(|lease| convert::lease(lease, now)).collect(),
                next_page_token: page.next.map(|id| id.to_string()).unwrap_or_default(),
            })
        })
        .await
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let vend = &self.vend;
        self.unary("LeaseService/Renew", request, async |call, message| {
            let renewal = match convert::renew_request(message) {
                Ok(renewal) => renewal,
                Err(error) => return Err(vend.refused(&call, error).await),
            };
            let work = Arc::clone(vend);
            let renewed = self.unbroken(async move { work.renew(&call, renewal).await }, drop).await?;
            Ok(v1::RenewResponse {
                lease: Some(convert::lease(&renewed.lease, renewed.now)),
                credential: Some(convert::credential(renewed.credential)),
            })
        })
        .await
    }

    async fn revoke(&self, request: Request<v1::RevokeRequest>) -> Result<Response<v1::RevokeResponse>, Status> {
        let vend = &self.vend;
        self.unary("LeaseService/Revoke", request, async |call, message| {
            let v1::RevokeRequest { lease_id, reason } = message;
            let parsed = convert::lease_id(&lease_id).and_then(|id| Ok((id, convert::reason(&reason)?)));
            let (id, reason) = match parsed {
                Ok(parsed) => parsed,
                Err(error) => return Err(vend.refused(&call, error).await),
            };
            let work = Arc::clone(vend);
            let lease = self.unbroken(async move { work.revoke(&call, id, &reason).await }, drop).await?;
            Ok(v1::RevokeResponse { lease: Some(convert::lease(&lease, vend.now())) })
        })
        .await
    }

    type RevokeMatchingStream = Pin<Box<dyn Stream<Item = Result<v1::RevokeMatchingResponse, Status>> + Send>>;

    async fn revoke_matching(&self, request: Request<v1::RevokeMatchingRequest>) -> Result<Response<Self::RevokeMatchingStream>, Status> {
        let begun = Instant::now();
        let origin = origin("LeaseService/RevokeMatching", &request);
        let call_id = origin.call_id.clone();
        let started = async {
            let call = self.authenticate(origin, &request).await?;
            let v1::RevokeMatchingRequest { filter, dry_run, reason } = request.into_inner();
            let parsed = convert::filter(filter).and_then(|filter| Ok((narrowed(filter)?, convert::reason(&reason)?)));
            let (filter, reason) = match parsed {
                Ok(parsed) => parsed,
                Err(error) => return Err(self.vend.refused(&call, error).await),
            };
            let place = self.place_for(&call).await?;
            let (sender, steps) = mpsc::channel(WAITING_STEPS);
            let revoking = Arc::clone(&self.vend).revoke_matching(call, filter, dry_run, reason, sender);
            self.in_flight.spawn(async move {
                revoking.await;
                drop(place);
            });
            Ok(steps)
        };
        let answer = started.await.map_err(|error| status(&error, &call_id));
        measure("LeaseService/RevokeMatching", begun, answer.as_ref().err());
        let id = call_id.clone();
        let stream = answer.map(|steps| -> Self::RevokeMatchingStream {
            Box::pin(ReceiverStream::new(steps).map(move |step| step.map(convert::revoke_step).map_err(|error| status(&error, &id))))
        });
        with_call_id(stream, &call_id)
    }
}

/// A revocation of everything is not offered: it is too easily an accident.
fn narrowed(filter: LeaseFilter) -> Result<LeaseFilter, Error> {
    if filter.role.is_none() && filter.tenant.is_none() && filter.subject.is_none() && filter.issued_before.is_none() {
        return Err(Error::new(Code::InvalidRequest, "name at least one of role, tenant, subject and issued_before"));
    }
    Ok(filter)
}
