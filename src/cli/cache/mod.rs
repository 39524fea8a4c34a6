//! Credentials kept beside a job, for programs that ask far too often: botocore runs a `credential_process` on every call while less
//! than 15 minutes remain, docker its helper several times for one push. One lease serves them all until its last quarter.

mod dir;
mod entry;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use self::dir::CacheDir;
pub use self::{
    dir::user_dir,
    entry::{Entry, Held, Wanted},
};
use super::{output, tell};
use crate::{
    client::{
        Client,
        error::{Error, Kind, Result},
        fingerprint::Fingerprint,
        settings::{Env, Settings},
        text::one_line,
        types::{IssueOrder, Issued, OrderInput},
    },
    clock::{self, Clock, SystemClock},
};

/// How much longer than for the server a process waits for the one that asks it.
const LOCK_MARGIN: Duration = Duration::from_secs(2);

/// Why a lease is revoked whose credential nobody can use here.
const WRONG_KIND: &str = "the client wanted another kind of credential";

/// What is wanted from the cache, or else from the server.
#[derive(Debug, Clone)]
pub struct Order {
    /// The role.
    pub role: String,
    /// The wanted life; none means the role's default.
    pub ttl: Option<SignedDuration>,
    /// The kind.
    pub wanted: Wanted,
}

impl Order {
    fn key(&self, settings: &Settings) -> Result<String> {
        let ttl = self.ttl.map(|ttl| ttl.as_secs().to_string()).unwrap_or_default();
        let print = Fingerprint::of("daypass cache").field(settings.caller()?).field(&self.role).field(ttl);
        Ok(print.field(self.wanted.as_str()).hex())
    }
}

/// A credential with life left: the cached one, or a new one that takes its place. Of processes that ask at once, one asks the server and
/// the others wait for its answer. With `anew` the cached one is not taken.
///
/// # Errors
/// Usage, when the cache's directory is not ours alone; what the server says. When the server is away and the cached credential still
/// works, that is given, with a warning.
pub async fn obtain(settings: Settings, order: &Order, anew: bool, env: Env<'_>) -> Result<Entry> {
    let key = order.key(&settings)?;
    let dir = match CacheDir::open(env) {
        Err(error) if anew => {
            warn(&format!("{error}; nothing is cached"));
            return issue(settings, order).await;
        }
        dir => dir?,
    };
    if !anew && let Some(entry) = found(&dir, &key, order.wanted, false).filter(|entry| entry.is_fresh(now())) {
        return Ok(entry);
    }
    let locked = dir.lock(&key, settings.timeout + LOCK_MARGIN).await;
    // Whoever had the lock may have made it; and only who has the lock tells what is wrong with the file.
    let cached = found(&dir, &key, order.wanted, locked.is_ok());
    if !anew && let Some(entry) = cached.clone().filter(|entry| entry.is_fresh(now())) {
        return Ok(entry);
    }
    let made = match locked {
        Ok(lock) => issue(settings, order).await.map(|entry| (entry, lock)),
        Err(error) => Err(error),
    };
    match (made, cached.filter(|entry| entry.is_alive(now()))) {
        (Ok((entry, _lock)), _) => {
            if let Err(error) = dir.write(&key, &entry, now()) {
                warn(&format!("{error}; nothing is cached"));
            }
            Ok(entry)
        }
        (Err(error), Some(cached)) if error.kind() == Kind::Unavailable && !anew => {
            warn(&format!("{}; the cached credential is used, which expires at {}", error.message(), cached.expires_at));
            Ok(cached)
        }
        (Err(error), _) => Err(error),
    }
}

/// Forgets the cached credential and revokes its lease. Gives the lease's id; none when nothing was cached.
///
/// # Errors
/// What the server says; the credential is forgotten all the same.
pub async fn revoke(settings: Settings, order: &Order, reason: &str, env: Env<'_>) -> Result<Option<String>> {
    let key = order.key(&settings)?;
    let dir = CacheDir::open(env)?;
    let cached = found(&dir, &key, order.wanted, false);
    dir.forget(&key);
    let Some(cached) = cached.filter(|entry| entry.is_alive(now())) else { return Ok(None) };
    Client::new(settings)?.revoke(&cached.lease_id, reason).await?;
    Ok(Some(cached.lease_id))
}

fn found(dir: &CacheDir, key: &str, wanted: Wanted, tell: bool) -> Option<Entry> {
    match dir.read(key) {
        Ok(entry) => entry.filter(|entry| entry.is_of(wanted)),
        Err(why) => {
            if tell {
                warn(&format!("a cached credential is not used, and a new one takes its place: {why}"));
            }
            None
        }
    }
}

async fn issue(settings: Settings, order: &Order) -> Result<Entry> {
    tell(&settings, false, false);
    let mut client = Client::new(settings)?;
    let request_id = uuid::Builder::from_random_bytes(clock::random()).into_uuid().to_string();
    let Order { role, ttl, wanted } = order.clone();
    let issued = client.issue(IssueOrder { role, ttl, request_id, input: OrderInput::Nothing }).await.map_err(|error| {
        // The server would speak of a certificate request, of which the user of this command knows nothing.
        if error.code() == "INVALID_CSR" { error.hint(&format!("is it a role of kind {}?", wanted.as_str())) } else { error }
    })?;
    let Issued { lease, credential } = issued;
    let kind = lease.kind;
    let (id, expires_at) = (lease.id.clone(), lease.expires_at);
    if let Some(entry) = Entry::new(lease, credential, wanted, now()) {
        return Ok(entry);
    }
    let fault = Error::usage(format!("{} is a role of kind {}, and this needs one of kind {}", order.role, kind.as_str(), wanted.as_str()));
    Err(match client.revoke(&id, WRONG_KIND).await {
        Ok(_) => fault,
        Err(error) => fault.hint(&format!("its lease {} ends at {expires_at}, as it could not be revoked: {error}", one_line(&id))),
    })
}

fn warn(text: &str) {
    output::note(&format!("warning: {text}"), false);
}

fn now() -> Timestamp {
    SystemClock.now()
}
