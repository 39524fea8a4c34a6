//! First identities: codes that operators make, the certificate that an agent gets for one, and how it renews that.

use super::{
    Client, MAX_ANSWER, convert,
    csr::Csr,
    error::{Error, Result},
    types::{CreatedEnrollment, Enrollment, EnrollmentOrder, Issued, Lease},
};
use crate::{
    model::secret::Secret,
    proto::v1::{self, enrollment_service_client::EnrollmentServiceClient as Service},
};

use tonic::transport::Channel;

impl Client {
    /// Makes a code. A repetition after a lost answer makes another one; the lost one is nobody's, and passes.
    pub async fn create_enrollment(&mut self, order: EnrollmentOrder) -> Result<CreatedEnrollment> {
        let EnrollmentOrder { tenant, role, name, ttl } = order;
        let request = v1::CreateRequest { tenant, role, name: name.unwrap_or_default(), ttl: ttl.map(convert::duration) };
        let answer = self.call(request, async |channel, request| service(channel).create(request).await).await?;
        let v1::CreateResponse { enrollment, code } = answer;
        let enrollment = enrollment_of(enrollment.ok_or_else(|| convert::missing("enrollment"))?)?;
        Ok(CreatedEnrollment { enrollment, code: Secret::new(code) })
    }

    /// The codes that wait to be redeemed, of a tenant or of all, oldest first.
    pub async fn enrollments(&mut self, tenant: Option<&str>) -> Result<Vec<Enrollment>> {
        let request = v1::ListEnrollmentsRequest { tenant: tenant.unwrap_or_default().to_owned() };
        let answer = self.call(request, async |channel, request| service(channel).list(request).await).await?;
        let v1::ListEnrollmentsResponse { enrollments } = answer;
        enrollments.into_iter().map(enrollment_of).collect()
    }

    /// Takes a code back.
    pub async fn delete_enrollment(&mut self, id: &str) -> Result<()> {
        let request = v1::DeleteRequest { id: id.to_owned() };
        let v1::DeleteResponse {} = self.call(request, async |channel, request| service(channel).delete(request).await).await?;
        Ok(())
    }

    /// Trades a code for a client certificate. The same code with a CSR for the same key gives the same certificate again.
    pub async fn redeem(&mut self, code: &Secret, csr: &Csr) -> Result<Issued> {
        let x509 = Some(v1::X509Input { csr_der: csr.der().to_vec() });
        let request = v1::RedeemRequest { code: code.expose().to_owned(), x509 };
        let answer = self.call(request, async |channel, request| service(channel).redeem(request).await).await?;
        let v1::RedeemResponse { issued } = answer;
        convert::issue_response(issued.ok_or_else(|| convert::missing("issued"))?)
    }

    /// A new certificate under the caller's own enrolled lease, over a connection with the one of `generation`.
    pub async fn renew_identity(&mut self, lease_id: &str, generation: u32, csr: &Csr) -> Result<Issued> {
        let input = v1::renew_request::Input::X509(v1::X509Input { csr_der: csr.der().to_vec() });
        let request = v1::RenewRequest { lease_id: lease_id.to_owned(), ttl: None, input: Some(input), generation };
        let answer = self.call(request, async |channel, request| super::leases(channel).renew(request).await).await?;
        convert::renew_response(answer)
    }

    /// Says, over a connection with the certificate of `generation`, that it works: the server supersedes the older ones.
    pub async fn acknowledge_identity(&mut self, lease_id: &str, generation: u32) -> Result<Lease> {
        let request = v1::AcknowledgeRequest { lease_id: lease_id.to_owned(), generation, next_x509: None };
        let answer = self.call(request, async |channel, request| super::credentials(channel).acknowledge(request).await).await?;
        let v1::AcknowledgeResponse { lease } = answer;
        convert::lease(lease)
    }
}

fn service(channel: Channel) -> Service<Channel> {
    Service::new(channel).max_decoding_message_size(MAX_ANSWER)
}

fn enrollment_of(got: v1::Enrollment) -> Result<Enrollment, Error> {
    let v1::Enrollment { id, tenant, role, name, created_by, created_at, expires_at } = got;
    let at = |at: Option<prost_types::Timestamp>, name| convert::timestamp(at.ok_or_else(|| convert::missing(name))?, name);
    let (created_at, expires_at) = (at(created_at, "created_at")?, at(expires_at, "expires_at")?);
    Ok(Enrollment { id, tenant, role, name, created_by, created_at, expires_at })
}
