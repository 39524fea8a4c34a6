//! `KeyService`: knows the caller by its user, calls the desk, converts.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert;
use crate::{
    clock,
    model::error::{Code, Error, Result},
    proto::admin::{
        ActivateRequest, ActivateResponse, Key, PrepareRequest, PrepareResponse, RetireRequest, RetireResponse, ShowRequest, ShowResponse,
        key_service_server::KeyService,
    },
    server::{
        grpc::{status, with_call_id},
        keys::{Act, Administrator, KeyDesk},
    },
    unix::peer::Peer,
};

/// The longest name of a ring or a key in a request, in bytes.
const MAX_NAME: usize = 128;

pub(super) struct AdminService {
    desk: Arc<KeyDesk>,
    /// Who may: root, and the user that the service acts as.
    admitted: [u32; 2],
}

impl AdminService {
    pub(super) fn new(desk: Arc<KeyDesk>) -> Self {
        Self { desk, admitted: [0, rustix::process::geteuid().as_raw()] }
    }

    /// Refuses whoever may not, on record.
    async fn admit(&self, by: &Administrator, method: &'static str) -> Result<()> {
        if self.admitted.contains(&by.uid) {
            return Ok(());
        }
        let error = Error::new(Code::Denied, "only root and the user that the service runs as may administer it");
        Err(self.desk.refused(by, method, error).await)
    }

    async fn show_keys(&self, by: &Administrator, ring: &str) -> Result<ShowResponse> {
        self.admit(by, "KeyService/Show").await?;
        let name = bounded(ring)?;
        let fixed = self.desk.fixed_cas(name);
        let keys = if name.is_some() && !fixed.is_empty() { Vec::new() } else { self.desk.show(name)? };
        Ok(ShowResponse { keys: fixed.iter().map(|ca| convert::fixed(ca)).chain(keys.iter().map(convert::key)).collect() })
    }

    async fn act(&self, by: &Administrator, name: &str, act: Act) -> Result<Key> {
        self.admit(by, act.method()).await?;
        let name = bounded(name)?.ok_or_else(|| Error::new(Code::InvalidRequest, "name a ring, or a key"))?;
        self.desk.administer(by, name, act).await.map(|key| convert::key(&key))
    }
}

#[tonic::async_trait]
impl KeyService for AdminService {
    async fn show(&self, request: Request<ShowRequest>) -> Result<Response<ShowResponse>, Status> {
        let (by, ShowRequest { ring }) = call(request);
        answer(&by, self.show_keys(&by, &ring).await)
    }

    async fn prepare(&self, request: Request<PrepareRequest>) -> Result<Response<PrepareResponse>, Status> {
        let (by, PrepareRequest { ring }) = call(request);
        answer(&by, self.act(&by, &ring, Act::Prepare).await.map(|key| PrepareResponse { key: Some(key) }))
    }

    async fn activate(&self, request: Request<ActivateRequest>) -> Result<Response<ActivateResponse>, Status> {
        let (by, ActivateRequest { ring, force }) = call(request);
        answer(&by, self.act(&by, &ring, Act::Activate { force }).await.map(|key| ActivateResponse { key: Some(key) }))
    }

    async fn retire(&self, request: Request<RetireRequest>) -> Result<Response<RetireResponse>, Status> {
        let (by, RetireRequest { name }) = call(request);
        answer(&by, self.act(&by, &name, Act::Retire).await.map(|key| RetireResponse { key: Some(key) }))
    }
}

/// Who calls, and what for. Whom the kernel does not name is nobody: `u32::MAX` is no user (chown(2)).
fn call<T>(request: Request<T>) -> (Administrator, T) {
    let call_id = uuid::Builder::from_random_bytes(clock::random()).into_uuid().simple().to_string();
    let uid = Peer::of(&request).map_or(u32::MAX, |peer| peer.uid);
    (Administrator { uid, call_id }, request.into_inner())
}

fn answer<T>(by: &Administrator, answered: Result<T>) -> Result<Response<T>, Status> {
    with_call_id(answered.map_err(|error| status(&error, &by.call_id)), &by.call_id)
}

/// A name, when it is one.
fn bounded(name: &str) -> Result<Option<&str>> {
    if name.len() > MAX_NAME {
        return Err(Error::new(Code::InvalidRequest, format!("a name is at most {MAX_NAME} bytes")));
    }
    Ok((!name.is_empty()).then_some(name))
}
