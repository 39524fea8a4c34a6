//! JWT-SVIDs on demand: what role gives which identity is known once it gave one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tonic::Status;

use crate::{
    agent::desk::JwtSource,
    client::error::{Error, Kind},
    model::{secret::Secret, spiffe::SpiffeId},
};

/// How many are asked for at a time. Further ones wait.
pub const MAX_FETCHES: usize = 16;

/// How many of them are for one user's processes. Further ones wait for those, and keep nobody else waiting.
pub const MAX_FETCHES_PER_USER: usize = 4;

/// How long a workload waits for its tokens, all in all.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(15);

/// The roles that give JWT-SVIDs.
pub(super) struct JwtSvids {
    source: Arc<dyn JwtSource>,
    roles: Vec<String>,
    /// What each gave last. Holds no more than the roles.
    ids: Mutex<BTreeMap<String, SpiffeId>>,
    fetches: Semaphore,
    /// By user id. Holds those for whom something is asked or waited for.
    by_user: Mutex<HashMap<u32, Arc<Semaphore>>>,
}

/// One of them.
pub(super) struct Svid {
    pub role: String,
    pub id: String,
    pub token: Secret,
}

impl JwtSvids {
    /// Of these roles.
    pub fn new(source: Arc<dyn JwtSource>, roles: Vec<String>) -> Self {
        Self { source, roles, ids: Mutex::default(), fetches: Semaphore::new(MAX_FETCHES), by_user: Mutex::default() }
    }

    /// A token for an audience, for a process of user `uid`: of each role that `may` lets have, or of the one that gives the wanted identity.
    ///
    /// # Errors
    /// As the standard has them: `PERMISSION_DENIED` where there is no such identity for the process or the service says no,
    /// `INVALID_ARGUMENT` where it does not take the audience, `UNAVAILABLE` where it cannot be asked.
    pub async fn fetch(
        &self,
        uid: u32,
        may: impl Fn(&str) -> bool,
        audience: &str,
        wanted: Option<&SpiffeId>,
    ) -> Result<Vec<Svid>, Status> {
        let roles: Vec<&str> = self.roles.iter().map(String::as_str).filter(|role| may(role)).collect();
        if roles.is_empty() {
            return Err(no_identity());
        }
        let own = self.turns_of(uid);
        let fetch = async {
            // First one of the user's own, and only then one of all. Nobody closes the semaphore.
            let _own_turn = own.acquire().await;
            // Those that have given another identity are asked last: what a role gives seldom changes.
            let (likely, others): (Vec<_>, Vec<_>) = roles.into_iter().partition(|role| wanted.is_none_or(|id| self.may_give(role, id)));
            match self.fetch_all(&likely, audience, wanted).await {
                Ok(found) if found.is_empty() => self.fetch_all(&others, audience, wanted).await,
                found => found,
            }
        };
        let found = tokio::time::timeout(FETCH_TIMEOUT, fetch).await;
        match found.map_err(|_| Status::deadline_exceeded("the service did not answer in time"))? {
            Ok(found) if found.is_empty() => Err(no_identity()),
            Ok(found) => Ok(found),
            Err(error) => Err(status(&error)),
        }
    }

    /// One after the other, until the wanted one was there. The first error counts only when nothing came.
    async fn fetch_all(&self, roles: &[&str], audience: &str, wanted: Option<&SpiffeId>) -> Result<Vec<Svid>, Error> {
        let (mut found, mut failed) = (Vec::new(), None);
        for role in roles {
            match self.fetch_one(role, audience).await {
                Ok((id, svid)) if wanted.is_none_or(|wanted| *wanted == id) => {
                    found.push(svid);
                    if wanted.is_some() {
                        break;
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(role, code = error.code(), %error, "a JWT-SVID could not be had");
                    failed.get_or_insert(error);
                }
            }
        }
        match failed {
            Some(error) if found.is_empty() => Err(error),
            _ => Ok(found),
        }
    }

    async fn fetch_one(&self, role: &str, audience: &str) -> Result<(SpiffeId, Svid), Error> {
        // Nobody closes the semaphore.
        let _turn = self.fetches.acquire().await;
        let credential = self.source.jwt(role, audience).await?;
        let no_id = || Error::usage(format!("the sub of the role {role} is no SPIFFE ID: its tokens are no JWT-SVIDs"));
        let sub = subject(credential.token.expose()).ok_or_else(no_id)?;
        let id: SpiffeId = sub.parse().map_err(|_| no_id())?;
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).insert(role.to_owned(), id.clone());
        Ok((id, Svid { role: role.to_owned(), id: sub, token: credential.token }))
    }

    fn turns_of(&self, uid: u32) -> Arc<Semaphore> {
        let mut by_user = self.by_user.lock().unwrap_or_else(PoisonError::into_inner);
        by_user.retain(|_, turns| Arc::strong_count(turns) > 1);
        by_user.entry(uid).or_insert_with(|| Arc::new(Semaphore::new(MAX_FETCHES_PER_USER))).clone()
    }

    fn may_give(&self, role: &str, id: &SpiffeId) -> bool {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).get(role).is_none_or(|given| given == id)
    }
}

/// The `sub` of a token that the service has just given us: it is not verified again.
fn subject(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Payload {
        sub: String,
    }
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    Some(serde_json::from_slice::<Payload>(&payload).ok()?.sub)
}

fn no_identity() -> Status {
    Status::permission_denied("no identity issued")
}

/// What the service's answer means to a workload. Nothing of the agent's own standing is told.
fn status(error: &Error) -> Status {
    match error.kind() {
        Kind::Unavailable | Kind::NotAuthenticated => Status::unavailable("the service cannot be asked now; the agent's log says why"),
        Kind::Denied | Kind::NotFound => Status::permission_denied(error.message()),
        Kind::Usage | Kind::Other if error.code() == "INVALID_REQUEST" => Status::invalid_argument(error.message()),
        Kind::Usage | Kind::Other => Status::internal("the token could not be had; the agent's log says why"),
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use futures::{FutureExt, future::join_all};

    use super::*;
    use crate::client::types::JwtCredential;

    /// Never answers for the role `slow`.
    struct Source;

    #[async_trait]
    impl JwtSource for Source {
        async fn jwt(&self, role: &str, _: &str) -> Result<JwtCredential, Error> {
            if role == "slow" {
                std::future::pending::<()>().await;
            }
            let payload = URL_SAFE_NO_PAD.encode(r#"{"sub":"spiffe://example.org/web"}"#);
            Ok(JwtCredential { token: Secret::new(format!("h.{payload}.s")), expires_at: jiff::Timestamp::MAX })
        }
    }

    #[tokio::test]
    async fn a_user_who_asks_for_much_keeps_nobody_else_waiting() {
        let svids = JwtSvids::new(Arc::new(Source), vec!["slow".to_owned(), "web".to_owned()]);
        let slow: Vec<_> = (0..4 * MAX_FETCHES).map(|_| svids.fetch(1, |role| role == "slow", "db", None)).collect();
        let mut slow = Box::pin(join_all(slow));
        assert!((&mut slow).now_or_never().is_none());
        assert_eq!(svids.fetches.available_permits(), MAX_FETCHES - MAX_FETCHES_PER_USER);
        let other = svids.fetch(2, |role| role == "web", "db", None).now_or_never();
        assert_eq!(other.expect("it waits for user 1").unwrap().len(), 1);
        drop(slow);
        drop(svids.turns_of(3));
        assert_eq!(svids.by_user.lock().unwrap().len(), 1, "who waits for nothing is forgotten");
    }
}
