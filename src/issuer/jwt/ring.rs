//! The keys of a directory, in memory: which one signs, which are published. What a pass reads and changes is on disk; this is its copy.

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;

use super::{
    files::{self, Found, MAX_KEYS},
    key::{SigningAlgorithm, SigningKey},
    schedule::{self, PUBLISH_AHEAD, Phase, ROTATE_EVERY, Schedule, Times},
};
use crate::model::{
    SignedDuration, Timestamp,
    error::{Code, Error, Result},
};

/// How often a server must look at the directory ([`KeyRing::refresh`]).
pub const REFRESH_EVERY: SignedDuration = SignedDuration::from_secs(5);

/// The default of [`KeyRingOptions::rotate_every`].
pub const DEFAULT_ROTATE_EVERY: SignedDuration = SignedDuration::from_hours(24 * 30);

/// The default of [`KeyRingOptions::publish_ahead`].
pub const DEFAULT_PUBLISH_AHEAD: SignedDuration = SignedDuration::from_hours(1);

/// Where keys lie and how they follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRingOptions {
    /// The directory; its parent must exist.
    pub dir: PathBuf,
    /// What new keys sign with.
    pub algorithm: SigningAlgorithm,
    /// How long one key signs; see [`ROTATE_EVERY`].
    pub rotate_every: SignedDuration,
    /// How long a key is published before it signs; see [`PUBLISH_AHEAD`]. A cache may keep the key set for half of it.
    pub publish_ahead: SignedDuration,
}

impl KeyRingOptions {
    /// The defaults over a directory.
    pub fn new(dir: PathBuf) -> Self {
        let (rotate_every, publish_ahead) = (DEFAULT_ROTATE_EVERY, DEFAULT_PUBLISH_AHEAD);
        Self { dir, algorithm: SigningAlgorithm::default(), rotate_every, publish_ahead }
    }

    /// What is wrong with them.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (name, span, [least, most]) in
            [("rotate_every", self.rotate_every, ROTATE_EVERY), ("publish_ahead", self.publish_ahead, PUBLISH_AHEAD)]
        {
            if !(least..=most).contains(&span) {
                faults.push(format!("{name} is {least:#} to {most:#}"));
            }
        }
        if self.rotate_every < self.publish_ahead.saturating_mul(2) {
            faults.push("rotate_every is at least twice publish_ahead".to_owned());
        }
        faults
    }
}

/// What a pass did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rotated {
    /// Whether this server made a key.
    pub created: bool,
    /// How many keys are gone.
    pub deleted: usize,
}

/// The keys.
pub struct KeyRing {
    options: KeyRingOptions,
    keys: ArcSwap<Keys>,
}

/// The keys as they were read, in the order in which they sign.
struct Keys {
    held: Vec<Held>,
    times: Vec<Times>,
    read_at: Timestamp,
}

#[derive(Clone)]
struct Held {
    times: Times,
    found: Arc<Found>,
    key: Arc<SigningKey>,
}

impl KeyRing {
    /// Reads the directory, and changes nothing there: a ring over an empty one cannot sign before its first [`Self::rotate`].
    ///
    /// # Errors
    /// What cannot be read, in words.
    pub fn open(options: KeyRingOptions, now: Timestamp) -> Result<Self, String> {
        let keys = Keys::read(&options, &[], now)?;
        Ok(Self { options, keys: ArcSwap::from_pointee(keys) })
    }

    /// Looks at the directory again: takes up keys of other servers, lets go of deleted ones. Blocks on files.
    pub fn refresh(&self, now: Timestamp) -> Result<()> {
        let keys = Keys::read(&self.options, &self.keys.load().held, now);
        self.keys.store(Arc::new(keys.map_err(unusable)?));
        Ok(())
    }

    /// Makes the key that is due, if one is, and takes it up. Idempotent, and safe beside other servers. Blocks on files.
    pub fn rotate(&self, now: Timestamp) -> Result<Rotated> {
        self.refresh(now)?;
        let keys = self.keys.load_full();
        let schedule = Schedule { rotate_every: self.options.rotate_every, publish_ahead: self.options.publish_ahead };
        let hurry = keys.held.last().is_some_and(|newest| newest.key.algorithm() != self.options.algorithm);
        let Some(times) = schedule.due(&keys.times, now, hurry) else { return Ok(Rotated::default()) };
        if keys.held.len() >= MAX_KEYS {
            return Err(unusable(format!("{}: there are {MAX_KEYS} keys, and no more are made", self.options.dir.display())));
        }
        let next = keys.held.iter().map(|held| held.found.sequence).max().unwrap_or(0).saturating_add(1);
        let created = files::create(&self.options.dir, next, times, self.options.algorithm).map_err(unusable)?;
        self.refresh(now)?;
        Ok(Rotated { created, deleted: 0 })
    }

    /// Deletes keys under which no token lives. Not to be called while the clock may be ahead. Blocks on files.
    pub fn prune(&self, now: Timestamp) -> Result<Rotated> {
        let keys = self.keys.load_full();
        let gone: Vec<&Held> = (0..keys.held.len()).filter(|at| keys.phase(*at, now) == Phase::Gone).map(|at| &keys.held[at]).collect();
        for held in &gone {
            files::delete(&held.found.path).map_err(unusable)?;
        }
        if !gone.is_empty() {
            self.refresh(now)?;
        }
        Ok(Rotated { created: false, deleted: gone.len() })
    }

    /// The key that signs now.
    ///
    /// # Errors
    /// `ISSUER_UNAVAILABLE` when there is none, or when the directory was not read for so long that another server's key may be the one.
    pub(super) fn active(&self, now: Timestamp) -> Result<Arc<SigningKey>> {
        let keys = self.keys.load();
        if now.duration_since(keys.read_at) > self.max_age() {
            return Err(unusable(format!("{}: it was last read at {}", self.options.dir.display(), keys.read_at)));
        }
        match schedule::active(&keys.times, now) {
            Some(at) => Ok(keys.held[at].key.clone()),
            None => Err(unusable(format!("{}: there is no key yet", self.options.dir.display()))),
        }
    }

    /// The keys under which a token may live or will, and for how long a cache may believe that these are all.
    pub(super) fn published(&self, now: Timestamp) -> (Vec<Arc<SigningKey>>, SignedDuration) {
        let keys = self.keys.load();
        let published = (0..keys.held.len()).filter(|at| keys.phase(*at, now) != Phase::Gone);
        // A key that is not known here was published after the last look: it signs `publish_ahead` later at the earliest.
        let sure = self.options.publish_ahead.saturating_sub(now.duration_since(keys.read_at).max(SignedDuration::ZERO));
        (published.map(|at| keys.held[at].key.clone()).collect(), self.max_age().min(sure).max(SignedDuration::ZERO))
    }

    /// What the published keys and the next ones sign with.
    pub(super) fn algorithms(&self) -> Vec<SigningAlgorithm> {
        let mut algorithms: Vec<_> = self.keys.load().held.iter().map(|held| held.key.algorithm()).collect();
        algorithms.push(self.options.algorithm);
        algorithms.sort_unstable();
        algorithms.dedup();
        algorithms
    }

    /// How long a cache may keep the key set, at most: the other half of `publish_ahead` is for this server's own look at the directory.
    pub(super) fn max_age(&self) -> SignedDuration {
        self.options.publish_ahead / 2
    }
}

impl Keys {
    /// Reads what changed since `known`.
    fn read(options: &KeyRingOptions, known: &[Held], now: Timestamp) -> Result<Self, String> {
        let mut held = Vec::new();
        for found in files::list(&options.dir)? {
            let same = |held: &&Held| held.found.sequence == found.sequence && held.found.stamp == found.stamp;
            if let Some(known) = known.iter().find(same) {
                held.push(known.clone());
            } else if let Some((times, key)) = files::read(&found.path)? {
                held.push(Held { times, found: Arc::new(found), key: Arc::new(key) });
            }
        }
        held.sort_by_key(|held| (held.times, held.found.sequence));
        if let Some(twice) = held.iter().enumerate().find(|(at, one)| held[..*at].iter().any(|other| other.key.kid() == one.key.kid())) {
            return Err(format!("{}: another file holds the same key", twice.1.found.path.display()));
        }
        let times = held.iter().map(|held| held.times).collect();
        Ok(Self { held, times, read_at: now })
    }

    fn phase(&self, at: usize, now: Timestamp) -> Phase {
        schedule::phase(&self.times, at, now)
    }
}

fn unusable(why: String) -> Error {
    Error::new(Code::IssuerUnavailable, "the keys that sign tokens cannot be used at the moment; try again").because(why)
}
