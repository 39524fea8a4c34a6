//! An issuer's keys, kept: refreshed ahead of need, fetched once for many who wait, and never so often that a flood of
//! unknown key ids becomes a flood at the issuer.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use super::{
    Algorithm, IssuerConfig, KeySource,
    claims::refuse,
    fetch::{self, Fetcher},
    keys::{Key, KeySet, Selection},
};
use crate::model::{
    SignedDuration, Timestamp,
    error::{Code, Error, Result},
    name::IssuerName,
};

/// How often one issuer is asked within a minute, whatever the reason.
pub const FETCHES_PER_MINUTE: usize = 3;
/// Keys older than this are fetched anew in the background, while they serve.
pub const REFRESH_AFTER: SignedDuration = SignedDuration::from_mins(5);
/// How often a key file is looked at, at most.
pub const FILE_CHECK_INTERVAL: SignedDuration = SignedDuration::from_secs(1);

/// The keys of one issuer.
pub(super) struct KeyCache {
    issuer: IssuerName,
    algorithms: Vec<Algorithm>,
    max_age: SignedDuration,
    source: Source,
    keys: ArcSwapOption<KeySet>,
    /// When `keys` were last known to be the issuer's, in milliseconds since 1970.
    confirmed_at: AtomicI64,
    /// When the source was last asked, with success or without, in milliseconds since 1970; [`NEVER`] before that.
    asked_at: AtomicI64,
    state: Mutex<State>,
}

const NEVER: i64 = i64::MIN;

enum Source {
    Discovery(Box<Fetcher>),
    File(PathBuf),
}

#[derive(Default)]
struct State {
    /// When the source was asked of late, oldest first; at most [`FETCHES_PER_MINUTE`].
    asked: VecDeque<Timestamp>,
    /// The fetch under way; its outcome reaches all who wait.
    flight: Option<watch::Receiver<Option<Outcome>>>,
    /// How the last fetch ended.
    last: Option<Outcome>,
    /// The key file as it was when it was last read.
    file: Option<FileMark>,
}

/// How a fetch ended; the text is for the log.
type Outcome = Result<(), Arc<str>>;

/// What changes when a file does.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FileMark {
    modified: Option<SystemTime>,
    length: u64,
}

impl KeyCache {
    /// A cache; a key file is read now.
    pub fn new(config: &IssuerConfig, now: Timestamp) -> Result<Self, String> {
        let source = match &config.keys {
            KeySource::Discovery => Source::Discovery(Box::new(Fetcher::new(config)?)),
            KeySource::File(path) => Source::File(path.clone()),
        };
        let cache = Self {
            issuer: config.name.clone(),
            algorithms: config.algorithms.clone(),
            max_age: config.jwks_max_age,
            source,
            keys: ArcSwapOption::empty(),
            confirmed_at: AtomicI64::new(NEVER),
            asked_at: AtomicI64::new(NEVER),
            state: Mutex::default(),
        };
        if let Source::File(path) = &cache.source {
            cache.read_file(path, now)?;
            cache.asked_at.store(now.as_millisecond(), Ordering::Relaxed);
        }
        Ok(cache)
    }

    /// The key that a token's header names.
    ///
    /// A key that is known is given at once, even while the issuer hangs. One that is not known is looked for at the
    /// issuer, within [`FETCHES_PER_MINUTE`].
    pub async fn key(self: &Arc<Self>, kid: Option<&str>, alg: Algorithm, now: Timestamp) -> Result<Arc<Key>> {
        if let Some(keys) = self.usable(now)
            && let Some(found) = chosen(&keys, kid, alg)
        {
            self.refresh_ahead(now);
            return found;
        }
        let outcome = self.refresh(now).await;
        let Some(keys) = self.usable(now) else {
            let why = outcome.err().unwrap_or_else(|| "its keys are too old".into());
            return Err(self.unavailable(&why));
        };
        match (chosen(&keys, kid, alg), outcome) {
            (Some(found), _) => found,
            (None, Ok(())) => Err(refuse("the token is signed with a key that its issuer does not have (any more)")),
            (None, Err(why)) => Err(self.unavailable(&why)),
        }
    }

    /// Fetches the keys if there are none.
    pub async fn prefetch(self: &Arc<Self>, now: Timestamp) -> Result<(), String> {
        match self.usable(now) {
            Some(_) => Ok(()),
            None => self.refresh(now).await.map_err(|why| why.to_string()),
        }
    }

    /// How long ago the keys were last known to be the issuer's.
    pub fn age(&self, now: Timestamp) -> Option<SignedDuration> {
        match self.confirmed_at.load(Ordering::Relaxed) {
            NEVER => None,
            at => Some(SignedDuration::from_millis(now.as_millisecond().saturating_sub(at).max(0))),
        }
    }

    fn unavailable(&self, why: &str) -> Error {
        Error::new(
            Code::IssuerUnavailable,
            format!("the keys of the token's issuer ({}) cannot be had at the moment; try again shortly", self.issuer),
        )
        .because(why)
    }

    /// The keys, unless they are older than may be. A file is the operator's own and does not age.
    fn usable(&self, now: Timestamp) -> Option<Arc<KeySet>> {
        let fresh = match self.source {
            Source::File(_) => true,
            Source::Discovery(_) => self.age(now).is_some_and(|age| age <= self.max_age),
        };
        if fresh { self.keys.load_full() } else { None }
    }

    /// Starts a refresh when one is due, and waits for nothing. Costs two loads when none is.
    fn refresh_ahead(self: &Arc<Self>, now: Timestamp) {
        let (last, interval) = match self.source {
            Source::File(_) => (&self.asked_at, FILE_CHECK_INTERVAL),
            Source::Discovery(_) => (&self.confirmed_at, REFRESH_AFTER),
        };
        let passed = i128::from(now.as_millisecond()) - i128::from(last.load(Ordering::Relaxed));
        if passed >= interval.as_millis() {
            drop(self.flight(now));
        }
    }

    /// Waits for the fetch under way, or starts one; an error also when none may be started now.
    async fn refresh(self: &Arc<Self>, now: Timestamp) -> Outcome {
        let mut flight = match self.flight(now) {
            Ok(flight) => flight,
            Err(last) => return last,
        };
        match flight.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            _ => Err("the fetch was given up".into()),
        }
    }

    /// Joins the fetch under way, or starts one. It runs on its own, so that a caller who goes away ends nobody's wait.
    /// When none may be started: how the last one ended.
    fn flight(self: &Arc<Self>, now: Timestamp) -> Result<watch::Receiver<Option<Outcome>>, Outcome> {
        let mut state = self.state();
        if let Some(flight) = &state.flight {
            return Ok(flight.clone());
        }
        if !self.may_ask(&mut state, now) {
            return Err(state.last.clone().unwrap_or(Ok(())));
        }
        let (sender, receiver) = watch::channel(None);
        state.flight = Some(receiver.clone());
        drop(state);
        let landing = Landing { cache: self.clone(), sender, outcome: Err("the fetch was given up".into()) };
        tokio::spawn(async move {
            let outcome = landing.cache.load(now).await;
            landing.land(outcome);
        });
        Ok(receiver)
    }

    /// Ends the fetch under way. A fault is logged when it is a new one.
    fn land(&self, outcome: &Outcome) {
        let mut state = self.state();
        state.flight = None;
        let before = state.last.replace(outcome.clone());
        drop(state);
        if let Err(why) = outcome
            && before.as_ref() != Some(outcome)
        {
            tracing::warn!(issuer = %self.issuer, %why, "the keys of an issuer could not be refreshed");
        }
    }

    /// Whether the source may be asked now; takes note when it may. A clock that jumps back does not lock the issuer out.
    fn may_ask(&self, state: &mut State, now: Timestamp) -> bool {
        let (times, window) = match self.source {
            Source::Discovery(_) => (FETCHES_PER_MINUTE, SignedDuration::from_mins(1)),
            Source::File(_) => (1, FILE_CHECK_INTERVAL),
        };
        state.asked.retain(|at| now.duration_since(*at).abs() < window);
        if state.asked.len() >= times {
            return false;
        }
        state.asked.push_back(now);
        self.asked_at.store(now.as_millisecond(), Ordering::Relaxed);
        true
    }

    async fn load(self: &Arc<Self>, now: Timestamp) -> Outcome {
        match &self.source {
            Source::Discovery(fetcher) => {
                let body = fetcher.key_set().await?;
                self.publish(&body, now)?;
                Ok(())
            }
            Source::File(path) => {
                let (cache, path) = (self.clone(), path.clone());
                let read = tokio::task::spawn_blocking(move || cache.read_file(&path, now)).await;
                read.map_err(|_| "the reader of the key file ended early")?.map_err(Into::into)
            }
        }
    }

    /// Puts a fetched set in place. One that does not parse leaves the old one.
    fn publish(&self, body: &[u8], now: Timestamp) -> Result<(), String> {
        let keys = KeySet::parse(body, &self.algorithms)?;
        self.keys.store(Some(Arc::new(keys)));
        self.confirmed_at.store(now.as_millisecond(), Ordering::Relaxed);
        Ok(())
    }

    fn read_file(&self, path: &std::path::Path, now: Timestamp) -> Result<(), String> {
        let fault = |fault: std::io::Error| format!("the key file {} cannot be read: {fault}", path.display());
        let found = std::fs::metadata(path).map_err(fault)?;
        let mark = FileMark { modified: found.modified().ok(), length: found.len() };
        if self.state().file == Some(mark) {
            self.confirmed_at.store(now.as_millisecond(), Ordering::Relaxed);
            return Ok(());
        }
        if !found.is_file() || found.len() > fetch::MAX_BODY as u64 {
            return Err(format!("the key file {} is no file, or longer than {} bytes", path.display(), fetch::MAX_BODY));
        }
        let body = std::fs::read(path).map_err(fault)?;
        self.publish(&body, now).map_err(|fault| format!("the key file {}: {fault}", path.display()))?;
        self.state().file = Some(mark);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete in itself, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a fetch under way when it is dropped: at its end, or when its task is ended before that. Nobody waits for ever.
struct Landing {
    cache: Arc<KeyCache>,
    sender: watch::Sender<Option<Outcome>>,
    outcome: Outcome,
}

impl Landing {
    fn land(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.cache.land(&self.outcome);
        self.sender.send_replace(Some(self.outcome.clone()));
    }
}

/// What a set says to a header; none when a newer set may say more.
fn chosen(keys: &KeySet, kid: Option<&str>, alg: Algorithm) -> Option<Result<Arc<Key>>> {
    match keys.select(kid, alg) {
        Selection::Found(key) => Some(Ok(key)),
        Selection::Unknown => None,
        Selection::OtherAlgorithm => Some(Err(refuse("the token's key is not for the token's alg"))),
        Selection::Ambiguous => Some(Err(refuse("the token names no key (kid), and its issuer has more than one that fits"))),
    }
}
