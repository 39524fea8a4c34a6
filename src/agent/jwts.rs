//! JWTs on demand: each is had once and given again until half of its life is over.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::time::{Instant, timeout};

use super::{desk::JwtSource, keeper::Connect, sockets::FETCH_TIMEOUT};
use crate::{
    client::{
        error::{Error, Kind, Result},
        types::{Credential, IssueOrder, Issued, JwtCredential, OrderInput},
    },
    clock::{self, Clock},
    model::hex,
};

/// The most JWTs that are kept; past it the one that ends first gives way.
pub const MAX_JWTS: usize = 1024;

/// How long a fresh token is waited for while one that is still valid can be given: less than a workload waits in all.
pub const REFRESH_TIMEOUT: Duration = Duration::from_secs(5);
const _: () = assert!(REFRESH_TIMEOUT.as_secs() * 2 < FETCH_TIMEOUT.as_secs());

/// How long after a server that did not give one no other is asked for, while those that are valid can be given.
pub const REFRESH_PAUSE: Duration = Duration::from_secs(10);

type Wanted = (String, String);

/// Has JWTs from the server.
pub struct Jwts {
    server: Arc<dyn Connect>,
    clock: Arc<dyn Clock>,
    held: Mutex<HashMap<Wanted, Held>>,
    /// When the server did not give a fresh one last.
    failed_at: Mutex<Option<Instant>>,
}

#[derive(Clone)]
struct Held {
    jwt: JwtCredential,
    /// From when on another one is asked for.
    stale_at: Timestamp,
}

impl Jwts {
    /// None yet.
    pub fn new(server: Arc<dyn Connect>, clock: Arc<dyn Clock>) -> Self {
        Self { server, clock, held: Mutex::default(), failed_at: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Wanted, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, wanted: Wanted, jwt: &JwtCredential, now: Timestamp) {
        let stale_at = now + now.duration_until(jwt.expires_at) / 2;
        let mut held = self.held();
        held.retain(|_, held| held.jwt.expires_at > now);
        if held.len() >= MAX_JWTS
            && let Some(first) = held.iter().min_by_key(|(_, held)| held.jwt.expires_at).map(|(wanted, _)| wanted.clone())
        {
            held.remove(&first);
        }
        held.insert(wanted, Held { jwt: jwt.clone(), stale_at });
    }

    /// Whether the server is left alone for a while.
    fn rests(&self) -> bool {
        let failed_at = self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        failed_at.is_some_and(|at| at.elapsed() < REFRESH_PAUSE)
    }

    async fn issue(&self, role: &str, audience: &str) -> Result<Issued> {
        let order = IssueOrder {
            role: role.to_owned(),
            ttl: None,
            request_id: format!("agent-{}", hex::encode(&clock::random::<16>())),
            input: OrderInput::Audience(audience.to_owned()),
        };
        self.server.client()?.issue(order).await
    }

    /// A fresh one in place of one that is valid still; none where the server does not give one now.
    async fn refresh(&self, role: &str, audience: &str) -> Result<Option<Issued>> {
        if self.rests() {
            return Ok(None);
        }
        let late = || Error::timed_out("the server did not answer in time");
        let error = match timeout(REFRESH_TIMEOUT, self.issue(role, audience)).await.unwrap_or_else(|_| Err(late())) {
            Ok(issued) => return Ok(Some(issued)),
            Err(error) if is_refusal(&error) => return Err(error),
            Err(error) => error,
        };
        tracing::warn!(role, code = error.code(), %error, "a fresh JWT could not be had; the one before is still valid");
        *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Ok(None)
    }
}

/// The server has answered that there is to be none: what it gave before is not given any more either.
fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), Kind::Denied | Kind::NotFound | Kind::Usage) || error.code() == "INVALID_REQUEST"
}

#[async_trait]
impl JwtSource for Jwts {
    async fn jwt(&self, role: &str, audience: &str) -> Result<JwtCredential> {
        let (wanted, now) = ((role.to_owned(), audience.to_owned()), self.clock.now());
        let known = self.held().get(&wanted).cloned();
        let issued = match known {
            Some(known) if now < known.stale_at => return Ok(known.jwt),
            Some(known) if now < known.jwt.expires_at => match self.refresh(role, audience).await? {
                Some(issued) => issued,
                None if self.clock.now() < known.jwt.expires_at => return Ok(known.jwt),
                None => return Err(Error::unavailable("the server gives no fresh token, and the one before has expired")),
            },
            _ => self.issue(role, audience).await?,
        };
        let Credential::Jwt(jwt) = issued.credential else {
            return Err(Error::usage(format!("the role {role} gives no JWT")));
        };
        self.keep(wanted, &jwt, now);
        Ok(jwt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        client::{
            Client,
            settings::{Roots, Settings},
        },
        clock::SystemClock,
        model::{SignedDuration, secret::Secret},
    };

    /// A server that is away.
    struct Away;

    impl Connect for Away {
        fn client(&self) -> Result<Client> {
            Err(Error::new(Kind::Unavailable, "UNAVAILABLE", "it is away"))
        }
    }

    #[test]
    fn so_many_are_kept_and_the_first_to_end_gives_way() {
        let jwts = Jwts::new(Arc::new(Away), Arc::new(SystemClock));
        let now: Timestamp = "2027-01-15T08:00:00Z".parse().unwrap();
        let keep = |n: usize, at: Timestamp| {
            let expires_at = at + SignedDuration::from_secs(60 + i64::try_from(n).unwrap());
            let jwt = JwtCredential { token: Secret::new(n.to_string()), expires_at };
            jwts.keep(("role".to_owned(), n.to_string()), &jwt, at);
        };
        let has = |n: usize| jwts.held().contains_key(&("role".to_owned(), n.to_string()));
        (0..MAX_JWTS).for_each(|n| keep(n, now));
        assert!(jwts.held().len() == MAX_JWTS && has(0));
        keep(MAX_JWTS, now);
        assert!(jwts.held().len() == MAX_JWTS && !has(0) && has(1) && has(MAX_JWTS));
        // What has ended makes room by itself.
        keep(7, now + SignedDuration::from_secs(60 + 100));
        assert_eq!(jwts.held().len(), MAX_JWTS - 100 + 1);
    }

    /// A server that takes connections, and says nothing.
    struct Silent(std::net::TcpListener);

    impl Connect for Silent {
        fn client(&self) -> Result<Client> {
            Client::new(Settings {
                address: self.0.local_addr().unwrap().to_string().parse().unwrap(),
                roots: Roots::System,
                identity: None,
                token: None,
                timeout: FETCH_TIMEOUT * 2,
                found_identity: None,
                warnings: Vec::new(),
            })
        }
    }

    #[tokio::test]
    async fn what_is_valid_still_serves_while_the_server_says_nothing() {
        let jwts = Jwts::new(Arc::new(Silent(std::net::TcpListener::bind("127.0.0.1:0").unwrap())), Arc::new(SystemClock));
        let now = SystemClock.now();
        let jwt = JwtCredential { token: Secret::new("valid".to_owned()), expires_at: now + SignedDuration::from_mins(5) };
        for audience in ["db", "queue"] {
            // Past half of its life.
            jwts.keep(("web".to_owned(), audience.to_owned()), &jwt, now - SignedDuration::from_mins(10));
        }
        let begun = Instant::now();
        for audience in ["db", "queue", "db"] {
            assert_eq!(jwts.jwt("web", audience).await.unwrap().token.expose(), "valid", "{audience}");
        }
        assert!(begun.elapsed() < 2 * REFRESH_TIMEOUT, "the server is asked once for all of them: {:?}", begun.elapsed());
    }

    #[test]
    fn what_the_server_refuses_is_not_given_any_more() {
        let error = |kind, code: &'static str| Error::new(kind, code, "x");
        assert!(is_refusal(&error(Kind::Denied, "DENIED")) && is_refusal(&error(Kind::NotFound, "NOT_FOUND")));
        assert!(is_refusal(&Error::usage("x")) && is_refusal(&error(Kind::Other, "INVALID_REQUEST")));
        assert!(!is_refusal(&Error::timed_out("x")) && !is_refusal(&Error::unavailable("x")));
        assert!(!is_refusal(&error(Kind::NotAuthenticated, "CERTIFICATE_REVOKED")) && !is_refusal(&error(Kind::Other, "INTERNAL")));
    }
}
