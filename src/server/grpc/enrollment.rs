//! `daypass.v1.EnrollmentService`. Redeem is for who has no certificate yet: the code is all that it shows, and wrong ones are bounded as
//! failed authentications are.

use std::{sync::Arc, time::Instant};

use tonic::{Request, Response, Status, async_trait};

use super::{
    Edge, convert,
    edge::{measure, origin, too_late, with_call_id},
    status::status,
};
use crate::{
    model::{
        enrollment::Enrollment,
        error::{Code, Error, Result},
        name::TenantName,
        secret::Secret,
    },
    proto::v1::{self, enrollment_service_server::EnrollmentService},
    vend::{CreatedEnrollment, Issued, NewEnrollment, Origin},
};

const TOO_MANY_FAILURES: &str = "too many failed authentications from your address; wait a minute";

#[async_trait]
impl EnrollmentService for Edge {
    async fn create(&self, request: Request<v1::CreateRequest>) -> Result<Response<v1::CreateResponse>, Status> {
        let enrollments = &self.enrollments;
        self.unary("EnrollmentService/Create", request, async |call, message| {
            let wanted = match new_enrollment(message) {
                Ok(wanted) => wanted,
                Err(error) => return Err(self.vend.refused(&call, error).await),
            };
            let work = Arc::clone(enrollments);
            let CreatedEnrollment { enrollment, code } = self.unbroken(async move { work.create(&call, wanted).await }, drop).await?;
            Ok(v1::CreateResponse { enrollment: Some(message_of(&enrollment)), code: code.expose().to_owned() })
        })
        .await
    }

    async fn list(&self, request: Request<v1::ListEnrollmentsRequest>) -> Result<Response<v1::ListEnrollmentsResponse>, Status> {
        let enrollments = &self.enrollments;
        self.unary("EnrollmentService/List", request, async |call, message| {
            let v1::ListEnrollmentsRequest { tenant } = message;
            let tenant: Option<TenantName> = match convert::maybe(tenant).map(|tenant| tenant.parse()).transpose() {
                Ok(tenant) => tenant,
                Err(error) => return Err(self.vend.refused(&call, convert::invalid(error)).await),
            };
            let found = enrollments.list(&call, tenant.as_ref()).await?;
            Ok(v1::ListEnrollmentsResponse { enrollments: found.iter().map(message_of).collect() })
        })
        .await
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteResponse>, Status> {
        let enrollments = &self.enrollments;
        self.unary("EnrollmentService/Delete", request, async |call, message| {
            let v1::DeleteRequest { id } = message;
            let id = match id.parse() {
                Ok(id) => id,
                Err(error) => return Err(self.vend.refused(&call, convert::invalid(error)).await),
            };
            let work = Arc::clone(enrollments);
            self.unbroken(async move { work.delete(&call, id).await }, drop).await?;
            Ok(v1::DeleteResponse {})
        })
        .await
    }

    async fn redeem(&self, request: Request<v1::RedeemRequest>) -> Result<Response<v1::RedeemResponse>, Status> {
        let begun = Instant::now();
        let origin = origin("EnrollmentService/Redeem", &request);
        let call_id = origin.call_id.clone();
        let redeemed = tokio::time::timeout(self.request_timeout, self.try_redeem(origin, request.into_inner()));
        let redeemed = redeemed.await.unwrap_or_else(|_| Err(too_late()));
        let answer = redeemed.map_err(|error| status(&error, &call_id)).map(|issued| v1::RedeemResponse {
            issued: Some(v1::IssueResponse {
                lease: Some(convert::lease(&issued.lease, issued.now)),
                credential: Some(convert::credential(issued.credential)),
            }),
        });
        measure("EnrollmentService/Redeem", begun, answer.as_ref().err());
        with_call_id(answer, &call_id)
    }
}

impl Edge {
    async fn try_redeem(&self, origin: Origin, message: v1::RedeemRequest) -> Result<Issued> {
        if origin.peer_address.is_some_and(|address| self.limiters.guesses_are_used_up(address)) {
            return Err(Error::new(Code::RateLimited, TOO_MANY_FAILURES));
        }
        let v1::RedeemRequest { code, x509 } = message;
        let (code, input) = (Secret::new(code), x509.map(convert::x509_input));
        let work = Arc::clone(&self.enrollments);
        let redeeming = {
            let origin = origin.clone();
            async move {
                let input = input.unwrap_or_else(|| Err(convert::invalid("x509 is missing: send a PKCS #10 request (CSR)")))?;
                work.redeem(&origin, &code, input).await
            }
        };
        let error = match self.unbroken(redeeming, drop).await {
            Ok(issued) => return Ok(issued),
            // What is wrong with a good code's request is on record already; so is what nobody could help. It counts as a guess: who has one
            // code must not fill the record with what is refused under it.
            Err(error) if error.code() != Code::EnrollmentCode => {
                if let Some(address) = origin.peer_address.filter(|_| error.code().is_refusal()) {
                    self.limiters.guessed_wrong(address);
                }
                return Err(error);
            }
            Err(error) => error,
        };
        let Some(address) = origin.peer_address else { return Err(self.enrollments.refused(&origin, error).await) };
        self.limiters.guessed_wrong(address);
        match self.limiters.too_many_failures(address) {
            true => Err(Error::new(Code::RateLimited, TOO_MANY_FAILURES)),
            false => Err(self.enrollments.refused(&origin, error).await),
        }
    }
}

fn new_enrollment(message: v1::CreateRequest) -> Result<NewEnrollment> {
    let v1::CreateRequest { tenant, role, name, ttl } = message;
    Ok(NewEnrollment {
        tenant: tenant.parse().map_err(convert::invalid)?,
        role: role.parse().map_err(convert::invalid)?,
        name: convert::maybe(name).map(|name| name.parse()).transpose().map_err(convert::invalid)?,
        ttl: ttl.map(|ttl| convert::span(&ttl)).transpose()?,
    })
}

fn message_of(enrollment: &Enrollment) -> v1::Enrollment {
    let Enrollment { id, tenant, role, name, created_by, created_at, expires_at, redeemed: _ } = enrollment;
    v1::Enrollment {
        id: id.to_string(),
        tenant: tenant.to_string(),
        role: role.to_string(),
        name: name.to_string(),
        created_by: created_by.to_string(),
        created_at: Some(convert::timestamp(*created_at)),
        expires_at: Some(convert::timestamp(*expires_at)),
    }
}
