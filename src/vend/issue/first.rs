//! Issue a first identity for a code: as any other credential that is made here, but that no policy is asked again, that its holder is who
//! the certificate shows, and that the code is used up in the step that stores the lease.

use super::{
    Granted, Issued, NotIssued, Order,
    conditions::{digest, repeat, token_use_by},
};
use crate::{
    clock,
    model::{
        error::{Code, Error, Result},
        hex,
        lease::LeaseId,
        request::{Input, IssueRequest, RequestId},
    },
    policy::Grant,
    vend::{Call, Rules, Vend, defect, enroll::refused, record::About},
};

/// How often what a code gave is given again, to who asks with the same key: answers get lost, and each one goes on record.
pub const MAX_REPEATED_REDEEMS: u8 = 16;

impl Vend {
    /// Vends the first identity of an agent; the caller is a code. What is wrong with the code itself is not on record when this returns.
    pub(in crate::vend) async fn issue_first(&self, call: &Call, input: Input) -> Result<Issued> {
        let now = self.clock.now();
        let rules = self.rules.load_full();

        // 1. Decide.
        let enrolled = call.identity.enrolled().ok_or_else(|| defect("a first identity for who has no code"))?;
        let role = &enrolled.enrollment.role;
        let about = About { role: Some(role), ..About::default() };
        let grant = match rules.book.decide_redeem(&call.identity, now) {
            Ok(grant) => grant,
            Err(denial) => return Err(self.denied(call, about, *denial, now).await),
        };
        let request = match request(&rules, &grant, input) {
            Ok(request) => request,
            Err(error) => return Err(self.ended(call, about, error, now).await),
        };

        if enrolled.enrollment.redeemed.is_some() {
            self.count_repeat(call, &request).await?;
        }

        // 2. to 4. Make it, make it durable, answer.
        let id = LeaseId::new(now, clock::random(), &grant.identity().tenant);
        let order = Order { grant: &grant, lease: id, input: &request.input, generation: 1, earlier: None, now };
        let granted = Granted { call, rules: &rules, grant: &grant, request: &request, order };
        match self.issue_here(&granted).await {
            Ok(issued) => Ok(issued),
            Err(NotIssued { error, .. }) if matches!(error.code(), Code::TokenReplayed | Code::RequestIdReused) => {
                Err(refused(format_args!("enrolment {} was redeemed before: {error}", enrolled.enrollment.id)))
            }
            Err(failed) => Err(self.not_issued(&granted, failed).await),
        }
    }

    /// Counts one more answer to a code that was redeemed. Who has another key uses none of them up.
    async fn count_repeat(&self, call: &Call, request: &IssueRequest) -> Result<()> {
        let code = token_use_by(&call.identity, request).ok_or_else(|| defect("a code that may be used freely"))?;
        let tenant = &call.identity.tenant;
        if !self.store.use_token(tenant, &code).await? {
            return Err(refused("it was redeemed before, with another key"));
        }
        for nth in 1..=MAX_REPEATED_REDEEMS {
            if self.store.use_token(tenant, &repeat(&code, nth)).await? {
                return Ok(());
            }
        }
        Err(refused(format_args!("it was redeemed, and its answer repeated {MAX_REPEATED_REDEEMS} times")))
    }
}

/// The request is the same one when its key is: a signature, and with it a CSR, comes out another way each time.
fn request(rules: &Rules, grant: &Grant, input: Input) -> Result<IssueRequest> {
    let Input::X509 { csr_der } = &input else {
        return Err(Error::new(Code::InvalidRequest, "a first identity is a certificate; send a PKCS #10 request (CSR)"));
    };
    let key = rules.issuers.x509.key_ahead(grant.role(), csr_der)?;
    let id = hex::encode(&digest([b"enrollment-key", key.as_bytes(), b""]));
    let request_id = RequestId::try_from(id).map_err(Error::internal)?;
    Ok(IssueRequest { role: grant.role().name.clone(), ttl: None, request_id: Some(request_id), input })
}
