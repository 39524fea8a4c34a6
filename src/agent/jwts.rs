//! JWTs on demand: each is had once and given again until half of its life is over.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use jiff::Timestamp;

use super::{desk::JwtSource, keeper::Connect};
use crate::{
    client::{
        error::{Error, Result},
        types::{Credential, IssueOrder, JwtCredential, OrderInput},
    },
    clock::{self, Clock},
    model::hex,
};

/// The most JWTs that are kept; past it the one that ends first gives way.
pub const MAX_JWTS: usize = 1024;

type Wanted = (String, String);

/// Has JWTs from the server.
pub struct Jwts {
    server: Arc<dyn Connect>,
    clock: Arc<dyn Clock>,
    held: Mutex<HashMap<Wanted, Held>>,
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
        Self { server, clock, held: Mutex::default() }
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
}

#[async_trait]
impl JwtSource for Jwts {
    async fn jwt(&self, role: &str, audience: &str) -> Result<JwtCredential> {
        let (wanted, now) = ((role.to_owned(), audience.to_owned()), self.clock.now());
        let known = self.held().get(&wanted).cloned();
        if let Some(known) = known.as_ref().filter(|known| now < known.stale_at) {
            return Ok(known.jwt.clone());
        }
        let order = IssueOrder {
            role: role.to_owned(),
            ttl: None,
            request_id: format!("agent-{}", hex::encode(&clock::random::<16>())),
            input: OrderInput::Audience(audience.to_owned()),
        };
        let issued = async { self.server.client()?.issue(order).await };
        match issued.await {
            Ok(issued) => match issued.credential {
                Credential::Jwt(jwt) => {
                    self.keep(wanted, &jwt, now);
                    Ok(jwt)
                }
                _ => Err(Error::usage(format!("the role {role} gives no JWT"))),
            },
            // What is valid still serves while the server is away.
            Err(error) if error.is_retryable() => {
                known.filter(|known| known.jwt.expires_at > self.clock.now()).map(|known| known.jwt).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        client::{Client, error::Kind},
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
}
