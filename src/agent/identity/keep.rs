//! Keeps the agent's identity fresh: renews it in its window with a new key, stores it, lets everybody take it up, and only then tells the
//! server, which refuses the one before from that moment on.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{Identity, IdentityDir, acknowledge, renewed};
use crate::{
    client::{
        Client,
        error::{Error, Kind, Result},
        settings::{Address, DEFAULT_TIMEOUT, Roots, Settings},
    },
    clock::{self, Backoff, Clock},
};

/// How long after a new identity was given out the server is told that it is in use. Whoever connects reads the identity at that moment, so
/// that past this no handshake with the one before is under way: one that came later would be taken for a clone's.
pub const SETTLE: Duration = Duration::from_secs(30);
const _: () = assert!(SETTLE.as_secs() > DEFAULT_TIMEOUT.as_secs());

/// The pause after a first failure; the next one doubles it, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Its time is over, by this machine's clock.
const IDENTITY_EXPIRED: &str = "IDENTITY_EXPIRED";
/// How often it is looked for another enrolment once the identity is lost.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long a doubt waits after the look that the one before brought about.
pub const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Keeps one identity.
pub struct Keeper {
    /// Where it lies.
    pub dir: IdentityDir,
    /// The server.
    pub address: Address,
    /// Whom to trust for the server.
    pub roots: Roots,
    /// How long a call may take; less than `settle`.
    pub timeout: Duration,
    /// [`SETTLE`], or less in a test.
    pub settle: Duration,
    /// Whoever was refused with the identity says so here, and whoever enrolled the agent anew.
    pub doubts: Arc<Notify>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Keeper {
    /// Keeps what `current` holds fresh, there and on disk; never returns. `lost` has why that cannot be done now: the identity has expired by
    /// this machine's clock, its lease or tenant is not known there, or it is revoked, or superseded by another holder's. Of these the last two
    /// stay so, and the others may pass: a clock is mended, a store is given back what it lost. An identity of another enrolment that is found
    /// on disk is taken up in its place.
    pub async fn run(&self, current: &watch::Sender<Arc<Identity>>, lost: &watch::Sender<Option<Error>>) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut looked_at = None;
        loop {
            if self.take_up(current) {
                lost.send_replace(None);
            }
            self.tell_expiry(current, lost);
            let is_lost = lost.borrow().is_some();
            match self.turn(current, &mut looked_at, is_lost).await {
                Ok(was_taken) => {
                    lost.send_if_modified(|lost| was_taken && lost.take().is_some());
                    backoff.reset();
                }
                Err(error) if is_final(&error) => {
                    tracing::error!(code = error.code(), %error, "the agent's identity is lost: get a code and enrol it anew");
                    lost.send_replace(Some(error));
                    while !self.take_up(current) {
                        sleep(LOOK_EVERY).await;
                    }
                    lost.send_replace(None);
                }
                Err(error) => {
                    tracing::warn!(%error, code = error.code(), "the agent's identity will be looked after again");
                    if is_unknown(&error) {
                        lost.send_replace(Some(error));
                    }
                    sleep(backoff.pause()).await;
                }
            }
        }
    }

    /// Takes up what somebody enrolled the agent for anew. Answers whether there was something.
    fn take_up(&self, current: &watch::Sender<Arc<Identity>>) -> bool {
        let Ok(found) = self.dir.load() else { return false };
        let is_another = found.kept.lease_id != current.borrow().kept.lease_id;
        if is_another {
            tracing::info!(lease = found.kept.lease_id, subject = found.kept.subject, "the agent was enrolled anew, and takes that up");
            current.send_replace(Arc::new(found));
        }
        is_another
    }

    /// The clock may be wrong, and right again later: what has expired by it is not given up.
    fn tell_expiry(&self, current: &watch::Sender<Arc<Identity>>, lost: &watch::Sender<Option<Error>>) {
        let expires_at = current.borrow().kept.expires_at;
        let expired = (self.clock.now() >= expires_at).then(|| expired(expires_at));
        lost.send_if_modified(|lost| {
            let was_told = lost.as_ref().is_some_and(|error| error.code() == IDENTITY_EXPIRED);
            if let Some(error) = expired.as_ref().filter(|_| !was_told) {
                tracing::error!(code = error.code(), %error, "the agent's identity is lost");
            }
            let differs = was_told != expired.is_some();
            if differs {
                *lost = expired;
            }
            differs
        });
    }

    /// One thing that is to be done: acknowledge, wait, or renew. Answers whether the server has taken the identity.
    async fn turn(&self, current: &watch::Sender<Arc<Identity>>, looked_at: &mut Option<Instant>, is_lost: bool) -> Result<bool> {
        let identity = current.borrow().clone();
        self.dir.check_in_force(&identity.kept)?;
        if !identity.kept.acknowledged {
            // Also after a restart: whoever was started before may still be at a handshake with the one before.
            sleep(self.settle).await;
            match self.acknowledge(&identity).await {
                Ok(told) => {
                    current.send_replace(Arc::new(told));
                    return Ok(true);
                }
                // A server that cannot be told must not keep the identity from its renewal.
                Err(error) if !is_final(&error) && self.is_due(&identity) => {
                    tracing::warn!(%error, code = error.code(), "the agent's identity is not acknowledged, and is renewed all the same");
                }
                Err(error) => return Err(error),
            }
        }
        let Some(from) = identity.kept.renew_from else {
            let expires_at = identity.kept.expires_at;
            return if self.clock.now() < expires_at {
                self.wait(expires_at, &identity, looked_at, is_lost).await
            } else {
                Err(expired(expires_at))
            };
        };
        let due = drawn_between(from, identity.kept.renew_before.unwrap_or(from), &identity.kept.lease_id);
        if self.clock.now() < due {
            return self.wait(due, &identity, looked_at, is_lost).await;
        }
        let next = renewed(&mut self.client(&identity)?, &identity).await?;
        self.dir.replace(&identity, &next)?;
        tracing::info!(generation = next.kept.generation, expires_at = %next.kept.expires_at, "the agent's identity is renewed");
        current.send_replace(Arc::new(next));
        Ok(true)
    }

    /// Waits for a time. A doubt ends that, with a look whether the server still takes the identity; one that is lost is in doubt. Answers
    /// whether it was looked, and is taken.
    async fn wait(&self, at: Timestamp, identity: &Identity, looked_at: &mut Option<Instant>, is_lost: bool) -> Result<bool> {
        let (last, doubts) = (*looked_at, &self.doubts);
        let doubted = async {
            if let Some(last) = last {
                sleep_until(last + LOOK_AGAIN).await;
            }
            if !is_lost {
                doubts.notified().await;
            }
        };
        tokio::select! {
            () = clock::until(&*self.clock, at) => return Ok(false),
            () = doubted => {}
        }
        self.dir.check_in_force(&identity.kept)?;
        *looked_at = Some(Instant::now());
        self.client(identity)?.who_am_i().await.map(|_| true)
    }

    async fn acknowledge(&self, identity: &Identity) -> Result<Identity> {
        let told = acknowledge(&self.dir, &mut self.client(identity)?, identity).await?;
        tracing::info!(generation = identity.kept.generation, "the agent's new identity is acknowledged");
        Ok(told)
    }

    fn is_due(&self, identity: &Identity) -> bool {
        identity.kept.renew_before.is_some_and(|before| before <= self.clock.now())
    }

    /// A client that shows this very identity: its connections are of no use to another.
    fn client(&self, identity: &Identity) -> Result<Client> {
        Client::new(Settings {
            address: self.address.clone(),
            roots: self.roots.clone(),
            identity: Some(identity.certificate()?),
            token: None,
            timeout: self.timeout,
            found_identity: None,
            warnings: Vec::new(),
        })
    }
}

fn expired(at: Timestamp) -> Error {
    let text = format!("the agent's identity expired at {at}; get a code and enrol anew");
    Error::new(Kind::NotAuthenticated, IDENTITY_EXPIRED, text)
}

/// Nothing that time would change: the certificate is refused, or its lease is not this holder's.
fn is_final(error: &Error) -> bool {
    matches!(error.code(), "GENERATION_SUPERSEDED" | "CERTIFICATE_REVOKED")
}

/// The server does not know it. A store that lost its leases is given them back within seconds, and a tenant may be configured again.
fn is_unknown(error: &Error) -> bool {
    matches!(error.code(), "LEASE_NOT_FOUND" | "NO_TENANT")
}

/// A time between two, the same one at each look.
fn drawn_between(from: Timestamp, before: Timestamp, lease: &str) -> Timestamp {
    let span = before.duration_since(from);
    let drawn = lease.bytes().fold(0_i32, |sum, byte| (sum * 31 + i32::from(byte)) % 1000);
    from.checked_add(span / 1000 * drawn).unwrap_or(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_drawn_within_its_window_and_stays() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let leases: Vec<String> = (0..200).map(|n| format!("0192f0c1-7b5a-7000-8000-{n:012x}")).collect();
        let drawn: Vec<_> = leases.iter().map(|lease| drawn_between(at(100), at(200), lease)).collect();
        assert!(drawn.iter().all(|time| (at(100)..at(200)).contains(time)));
        assert!(drawn.iter().any(|time| *time < at(130)) && drawn.iter().any(|time| *time > at(170)), "they are spread");
        assert_eq!(drawn[7], drawn_between(at(100), at(200), &leases[7]));
        assert_eq!(drawn_between(at(100), at(100), "x"), at(100));
    }
}
