//! Keeps a credential fresh while the command runs.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::sleep;

use super::server::Server;
use crate::{
    cli::{issue, material::Material, output},
    client::{
        csr,
        error::{Error, Kind, Result},
        types::{IssueOrder, Issued, Lease, OrderInput, RenewOrder},
    },
    clock::{self, Backoff, Clock, SystemClock},
};

/// The wait before a renewal is tried again, at first; it doubles.
pub const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest wait before a renewal is tried again, after one that failed or one that could not be handed over.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The role.
    pub role: String,
    /// The life of each credential; none means the role's default.
    pub ttl: Option<SignedDuration>,
    /// The audience, for a role of kind jwt.
    pub audience: Option<String>,
}

/// A credential that is out, and its lease.
#[derive(Debug, Clone)]
pub struct Held {
    /// How it was asked for.
    pub wish: Wish,
    /// The lease.
    pub lease: Lease,
    /// When the credential that the command has was received, by this machine's clock.
    since: Timestamp,
    /// When it ends.
    until: Timestamp,
    /// How many newer ones in a row could not be handed over.
    undelivered: u32,
}

impl Wish {
    /// A lease, with its credential.
    pub async fn issue(self, server: &Server) -> Result<(Held, Material)> {
        let (own, input) = self.input()?;
        let order = IssueOrder { role: self.role.clone(), ttl: self.ttl, request_id: issue::new_request_id(), input };
        let mut client = server.client()?;
        let Issued { lease, credential } = client.issue(order).await?;
        let (csr, key) = own.unzip();
        match Material::take(credential, csr.as_ref(), key) {
            Ok(material) => {
                let held = Held { wish: self, lease, since: SystemClock.now(), until: material.expires_at(), undelivered: 0 };
                Ok((held, material))
            }
            Err(error) => Err(match client.revoke(&lease.id, issue::UNDELIVERED).await {
                Ok(_) => error.hint(&format!("its lease {} is revoked", lease.id)),
                Err(why) => error.hint(&format!("its lease {} could not be revoked: {why}", lease.id)),
            }),
        }
    }

    /// A key and a request for it, made in memory, unless only a token can come of it.
    fn input(&self) -> Result<(Option<(csr::Csr, csr::PrivateKey)>, OrderInput)> {
        match &self.audience {
            Some(audience) => Ok((None, OrderInput::Audience(audience.clone()))),
            None => {
                let (key, csr) = csr::make()?;
                let input = OrderInput::Csr(csr.der().to_vec());
                Ok((Some((csr, key)), input))
            }
        }
    }
}

impl Held {
    /// Waits until the next credential is due, then renews, and tries again until the credential ends. None when there is
    /// no use in it any more; why has been said.
    pub async fn renewed(self, server: Server) -> Option<(Self, Material)> {
        let role = self.wish.role.clone();
        if !self.lease.renewable {
            clock::until(&SystemClock, self.until).await;
            warn(&role, "its credential has ended, and it cannot be renewed");
            return None;
        }
        clock::until(&SystemClock, self.due()).await;
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut told = false;
        loop {
            let error = match self.renew(&server).await {
                Ok((held, material)) => {
                    if told {
                        output::note(&format!("role {role}: renewed after all, until {}", held.until), false);
                    }
                    return Some((held, material));
                }
                Err(error) => error,
            };
            let left = Duration::try_from(SystemClock.now().duration_until(self.until)).unwrap_or(Duration::ZERO);
            if left.is_zero() {
                warn(&role, &format!("its credential has ended, and it could not be renewed: {error}"));
                return None;
            }
            if !may_pass(&error) {
                warn(&role, &format!("it is not renewed any more, and ends at {}: {error}", self.until));
                return None;
            }
            if !told {
                warn(&role, &format!("it could not be renewed yet; this is tried again until {}: {error}", self.until));
                told = true;
            }
            sleep(backoff.pause().min(left)).await;
        }
    }

    /// The same credential as long as the newer one could not be handed over.
    pub fn undelivered(self, newer: &Self) -> Self {
        // Half of what is left, so that it is tried again before the command has nothing.
        let lease = Lease { rotation: None, ..newer.lease.clone() };
        Self { lease, since: SystemClock.now(), undelivered: self.undelivered.saturating_add(1), ..self }
    }

    /// When the server says that it is due, which differs from lease to lease; half of the life where it says nothing. Never in the first
    /// quarter, whatever this machine's clock shows. Where the one before could not be handed over, not before a pause that grows: halves of
    /// what is left would come ever closer, and each is a credential that was made for nothing.
    fn due(&self) -> Timestamp {
        if self.undelivered > 0 {
            let doubled = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(self.undelivered));
            let pause = SignedDuration::try_from(doubled.min(LONGEST_PAUSE)).unwrap_or(SignedDuration::MAX);
            return half(self.since, self.until).max(self.since.saturating_add(pause).unwrap_or(Timestamp::MAX));
        }
        let quarter = self.since + self.since.duration_until(self.until) / 4;
        match self.lease.rotation {
            Some(window) => window.start.clamp(quarter.min(self.until), self.until),
            None => half(self.since, self.until),
        }
    }

    async fn renew(&self, server: &Server) -> Result<(Self, Material)> {
        let (own, input) = self.wish.input()?;
        let order = RenewOrder { lease_id: self.lease.id.clone(), ttl: self.wish.ttl, input };
        let Issued { lease, credential } = server.client()?.renew(order).await?;
        let (csr, key) = own.unzip();
        let material = Material::take(credential, csr.as_ref(), key)?;
        Ok((Self { wish: self.wish.clone(), lease, since: SystemClock.now(), until: material.expires_at(), undelivered: 0 }, material))
    }
}

/// Whether a failed renewal may succeed later: the server is away, or our token will be replaced by a fresh one.
fn may_pass(error: &Error) -> bool {
    let code = ["INTERNAL", "UNKNOWN", "RESOURCE_EXHAUSTED", "RATE_LIMITED", "ABORTED"].contains(&error.code());
    code || matches!(error.kind(), Kind::Unavailable | Kind::NotAuthenticated | Kind::Usage)
}

fn half(since: Timestamp, until: Timestamp) -> Timestamp {
    since + since.duration_until(until) / 2
}

fn warn(role: &str, text: &str) {
    output::note(&format!("warning: role {role}: {text}"), false);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_life() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(half(at("2026-01-01T00:00:00Z"), at("2026-01-01T00:15:00Z")), at("2026-01-01T00:07:30Z"));
        // It has ended: it is due at once.
        assert!(half(at("2026-01-01T00:15:00Z"), at("2026-01-01T00:00:00Z")) < at("2026-01-01T00:15:00Z"));
    }

    #[test]
    fn it_is_due_when_the_server_says_within_reason() {
        for (start, due) in [(None, 10), (Some(8), 8), (Some(12), 12), (Some(-30), 5), (Some(90), 20)] {
            assert_eq!(held(start).due(), at(due), "{start:?}");
        }
    }

    /// A full disk: what cannot be handed over is not renewed ever faster.
    #[test]
    fn what_cannot_be_handed_over_is_tried_again_after_a_pause_that_grows() {
        let (now, newer) = (SystemClock.now(), held(None));
        let mut before = Held { until: now + SignedDuration::from_secs(300), ..held(None) };
        let mut pauses = Vec::new();
        for _ in 0..12 {
            before = before.undelivered(&newer);
            pauses.push(before.due().duration_since(before.since));
            // As if that time had passed.
            before.until = before.until.checked_sub(pauses[pauses.len() - 1]).unwrap();
        }
        assert!(pauses[0] >= SignedDuration::from_secs(149), "half of what is left: {pauses:?}");
        assert!(pauses.iter().all(|pause| *pause >= SignedDuration::from_secs(1)), "{pauses:?}");
        assert!(pauses[8..].iter().all(|pause| *pause == SignedDuration::try_from(LONGEST_PAUSE).unwrap()), "{pauses:?}");
    }

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + minute * 60).unwrap()
    }

    fn held(start: Option<i64>) -> Held {
        use crate::client::types::{CredentialKind, LeaseState, Reach, Revocation, RotationWindow};
        Held {
            wish: Wish { role: "web".to_owned(), ttl: None, audience: None },
            lease: Lease {
                id: "0192f0c1-7b5a-7000-8000-000000000001".to_owned(),
                role: "web".to_owned(),
                kind: CredentialKind::X509,
                tenant: "acme".to_owned(),
                subject: "spiffe://acme/a".to_owned(),
                state: LeaseState::Active,
                issued_at: at(0),
                expires_at: at(20),
                renewable: true,
                revocation: Revocation { reach: Reach::Crl, live_until: at(20) },
                generation: 1,
                renew_until: None,
                revoked_at: None,
                serial: String::new(),
                credential_id: String::new(),
                rotation: start.map(|start| RotationWindow { start: at(start), end: at(start + 1) }),
                acknowledged_generation: 0,
                enrolled: false,
            },
            since: at(0),
            until: at(20),
            undelivered: 0,
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let error = |kind, code: &'static str| Error::new(kind, code, "x");
        assert!(may_pass(&Error::unavailable("x")) && may_pass(&error(Kind::NotAuthenticated, "TOKEN_EXPIRED")));
        assert!(may_pass(&error(Kind::Other, "INTERNAL")));
        assert!(!may_pass(&error(Kind::Denied, "DENIED")) && !may_pass(&error(Kind::Other, "NOT_RENEWABLE")));
    }
}
