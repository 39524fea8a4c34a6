//! Issue: decide, mint, put on record, answer.

use aws_lc_rs::digest::{Context, SHA256};

use super::{
    Call, Rules, Vend,
    open::Why,
    record::About,
    steps::{measured, measured_async},
};
use crate::{
    clock,
    issuer::{Again, Minted, Order},
    model::{
        Timestamp,
        credential::Credential,
        error::{Code, Error, Result},
        identity::{Identity, MAX_LEEWAY, Proof, TokenUse, VerifiedToken},
        lease::{Change, Lease, LeaseId, LeaseState},
        name::RoleName,
        request::{IssueRequest, RequestId},
    },
    policy::Grant,
    store::{NewLease, Put, Swap, TokenUseKey},
};

/// A lease with its credential, on the way to the caller.
pub struct Issued {
    /// The lease, durable in the store and in the audit log.
    pub lease: Lease,
    /// The credential.
    pub credential: Credential,
    /// When it was answered, for what the answer says of renewability.
    pub now: Timestamp,
}

impl Vend {
    /// Vends one credential.
    ///
    /// Nothing leaves unless both the lease and its audit record are durable; when either fails the lease is closed again and
    /// the caller has nothing.
    pub async fn issue(&self, call: &Call, request: IssueRequest) -> Result<Issued> {
        let now = self.clock.now();
        let rules = self.rules.load_full();
        let about = || About { role: Some(&request.role), request_id: request.request_id.as_ref(), lease: None };

        // 1. Decide. Only policy makes a grant.
        let decided =
            measured("decide", || rules.book.decide_issue(&call.identity, &request.role, request.ttl, call.origin.peer_address, now));
        let grant = match decided {
            Ok(grant) => grant,
            Err(denial) => return Err(self.denied(call, about(), *denial, now).await),
        };

        // 2. Mint. Nothing of it is known outside this function yet.
        let issuer = rules.issuers.of(&grant.role().spec);
        let id = LeaseId::new(now, clock::random(), &grant.identity().tenant);
        let order = Order { grant: &grant, lease: id, input: &request.input, earlier: None, now };
        let minted = match measured_async("mint", issuer.mint(&order)).await {
            Ok(minted) => minted,
            Err(failed) => return Err(self.ended(call, about(), failed.error, now).await),
        };

        // 3. Make it durable: the lease, then the record. Replays, caps and repeated requests are settled inside the one step.
        let (lease, credential) = new_lease(&grant, id, minted, now);
        match self.store.put(&conditions(&grant, &lease, &request)).await {
            Ok(Put::Stored) => {}
            Ok(Put::Existing(earlier)) => return self.issue_again(call, &rules, &grant, &request, *earlier, now).await,
            Ok(refused) => return Err(self.ended(call, about(), refusal(&refused, &grant), now).await),
            Err(error) => {
                // The outcome is unknown: it may have been stored.
                self.open.add(lease.id, Why::NeverHandedOut);
                return Err(self.ended(call, about(), error, now).await);
            }
        }
        let event = Self::done_by(call, &grant, &lease, request.request_id.as_ref(), now);
        if let Err(error) = self.record(vec![event]).await {
            self.open.add(lease.id, Why::NeverHandedOut);
            return Err(error);
        }

        // 4. Answer.
        Ok(Issued { lease, credential, now })
    }

    /// Answers a repeated request with the lease that it got before, and with the same certificate for the same key.
    async fn issue_again(
        &self,
        call: &Call,
        rules: &Rules,
        grant: &Grant,
        request: &IssueRequest,
        lease: Lease,
        now: Timestamp,
    ) -> Result<Issued> {
        let id = lease.id;
        let about = || About { role: Some(&request.role), request_id: request.request_id.as_ref(), lease: Some(id) };
        let again = async {
            same_request(&lease, &request.role, now)?;
            if self.open.holds(lease.id) {
                return Err(being_closed());
            }
            let order = Order { grant, lease: lease.id, input: &request.input, earlier: None, now };
            let Again::Same(credential) = rules.issuers.of(&grant.role().spec).remint(&order, &lease).await? else {
                return Err(being_closed());
            };
            let mut event = Self::done_by(call, grant, &lease, request.request_id.as_ref(), now);
            event.detail.push("the same request id: the same lease".to_owned());
            // On record before it is taken over: were that the other way round, a lease could stay that no record knows.
            self.record(vec![event]).await?;
            Ok((self.take_over(lease).await?, credential))
        };
        let (lease, credential) = match again.await {
            Ok(again) => again,
            Err(error) => return Err(self.ended(call, about(), error, now).await),
        };
        Ok(Issued { lease, credential, now })
    }

    /// Takes a lease over for a retry. The first call may be failing at this moment, here or at another server: it closes the lease only as
    /// it made it, and from now on it is another version.
    async fn take_over(&self, lease: Lease) -> Result<Lease> {
        if lease.version > 1 {
            return Ok(lease);
        }
        let taken = lease.apply(Change::TakeOver).map_err(|illegal| super::defect(&illegal.to_string()))?;
        if self.store.swap(std::slice::from_ref(&taken)).await?.first() == Some(&Swap::Done) {
            return Ok(taken);
        }
        let now_stored = self.find(lease.id).await?;
        if now_stored.state == LeaseState::Active { Ok(now_stored) } else { Err(being_closed()) }
    }
}

fn new_lease(grant: &Grant, id: LeaseId, minted: Minted, now: Timestamp) -> (Lease, Credential) {
    let identity = grant.identity();
    let lease = Lease {
        id,
        version: 1,
        role: grant.role().name.clone(),
        kind: grant.role().kind(),
        tenant: identity.tenant.clone(),
        subject: identity.subject().clone(),
        state: LeaseState::Active,
        issued_at: now,
        expires_at: minted.expires_at,
        renew_until: grant.renew_until().max(minted.expires_at),
        generation: 1,
        reach: minted.reach,
        live_until: minted.expires_at,
        revoked_at: None,
        handle: minted.handle,
    };
    (lease, minted.credential)
}

fn conditions(grant: &Grant, lease: &Lease, request: &IssueRequest) -> NewLease {
    let identity = grant.identity();
    let request_id = request.request_id.as_ref();
    // The id alone would let the token serve again, for any key, once the lease that it gave has ended.
    let same = request_id.map(|id| digest([b"issue", id.as_str().as_bytes(), request.input.bytes()]));
    NewLease {
        lease: lease.clone(),
        request_key: request_id.map(|id| request_key(identity, id)),
        token_use: token_use(identity, &lease.role, same.as_ref().map(<[u8; 16]>::as_slice)),
        tenant_cap: grant.tenant().max_live_leases,
        caller_cap: grant.tenant().max_live_leases_per_caller,
    }
}

/// The use of the caller's token for a role, when its issuer's tokens are not free to be used again. `same` is what makes a request
/// the same one, so that a retry after a failure is no replay.
pub(super) fn token_use(identity: &Identity, role: &RoleName, same: Option<&[u8]>) -> Option<TokenUseKey> {
    let Proof::Token { token, .. } = &identity.proof else { return None };
    let key = match token.token_use {
        TokenUse::Any => return None,
        TokenUse::Once => token.token_id,
        TokenUse::OncePerRole => digest([b"token-use", &token.token_id[..], role.as_str().as_bytes()]),
    };
    let retry = same.map(|same| digest([b"token-retry", &key, same]));
    Some(TokenUseKey { key, retry, until: remembered_until(token) })
}

/// Past its expiry and the largest leeway that an issuer may be configured with, no verifier takes the token any more.
fn remembered_until(token: &VerifiedToken) -> Timestamp {
    token.expires_at.checked_add(MAX_LEEWAY).unwrap_or(Timestamp::MAX)
}

/// The same for the same caller and request id only; lengths go in first so that no two pairs run together.
fn request_key(identity: &Identity, id: &RequestId) -> [u8; 16] {
    let (tenant, subject) = (identity.tenant.as_str().as_bytes(), identity.subject().as_str().as_bytes());
    digest([tenant, subject, id.as_str().as_bytes()])
}

fn digest(parts: [&[u8]; 3]) -> [u8; 16] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut key = [0; 16];
    key.copy_from_slice(&context.finish().as_ref()[..16]);
    key
}

fn same_request(lease: &Lease, role: &RoleName, now: Timestamp) -> Result<()> {
    if lease.role != *role {
        return Err(Error::new(
            Code::RequestIdReused,
            format!("this request id was used for the role {:?}; use a new request id", lease.role.as_str()),
        ));
    }
    match lease.state {
        LeaseState::Active if lease.expires_at > now => Ok(()),
        LeaseState::Pending => Err(Error::new(Code::Unavailable, "the first request with this id is still in work; try again")),
        _ => Err(being_closed()),
    }
}

fn being_closed() -> Error {
    Error::new(Code::Unavailable, "the lease of this request id is being closed; try again in a moment, or use a new request id")
}

fn refusal(put: &Put, grant: &Grant) -> Error {
    let tenant = grant.tenant();
    match put {
        Put::TokenReplayed => Error::new(
            Code::TokenReplayed,
            "this token was used before; get a fresh one from your CI for each request (a retry with the same request id is free)",
        ),
        Put::TenantCap => Error::new(
            Code::LeaseCap,
            format!(
                "the tenant {:?} has {} live leases, as many as it may have; revoke some or wait for them to end",
                tenant.name.as_str(),
                tenant.max_live_leases
            ),
        ),
        Put::CallerCap => Error::new(
            Code::LeaseCap,
            format!(
                "you have {} live leases, as many as one caller may have; revoke some or wait for them to end",
                tenant.max_live_leases_per_caller
            ),
        ),
        Put::Stored | Put::Existing(_) => super::defect("a stored lease taken for a refusal"),
    }
}
