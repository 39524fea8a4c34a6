//! What goes on record of each action. The only file of this room that writes the audit log.

use super::{Call, Origin, Vend};
use crate::model::{
    Timestamp,
    error::{Error, Result},
    event::{Actor, Event, Outcome},
    fault::Fault,
    lease::{Lease, LeaseId},
    name::RoleName,
    request::RequestId,
};
use crate::policy::{Denial, Grant};

/// Faults of a refused configuration that go on record; the log has all of them.
const MAX_FAULTS: usize = 20;

/// An event of a caller's action, half filled.
pub(super) fn event_of(call: &Call, outcome: Outcome, now: Timestamp) -> Event {
    Event {
        actor: Some(Actor::from(&*call.identity)),
        tenant: Some(call.identity.tenant.clone()),
        ..event_from(&call.origin, outcome, now)
    }
}

/// An event of a call whose caller has no identity here.
pub(super) fn event_from(origin: &Origin, outcome: Outcome, now: Timestamp) -> Event {
    Event { peer_address: origin.peer_address, call_id: Some(origin.call_id.clone()), ..Event::new(now, origin.method, outcome) }
}

/// An event of one of the server's own passes on a lease.
pub(super) fn event_of_pass(pass: &'static str, lease: &Lease, now: Timestamp) -> Event {
    Event {
        actor: Some(Actor::service(pass)),
        tenant: Some(lease.tenant.clone()),
        role: Some(lease.role.clone()),
        lease_id: Some(lease.id),
        ..Event::new(now, pass, Outcome::Done)
    }
}

/// What an action was about, as far as it was known when it ended.
#[derive(Default, Clone, Copy)]
pub(super) struct About<'a> {
    pub role: Option<&'a RoleName>,
    pub lease: Option<LeaseId>,
    pub request_id: Option<&'a RequestId>,
}

impl Vend {
    /// Records that a lease was vended, renewed or revoked, with the lease as it is afterwards.
    pub(super) fn done(call: &Call, lease: &Lease, now: Timestamp) -> Event {
        Event {
            tenant: Some(lease.tenant.clone()),
            role: Some(lease.role.clone()),
            lease_id: Some(lease.id),
            lease: Some(lease.clone()),
            ..event_of(call, Outcome::Done, now)
        }
    }

    /// The same with the grant that allowed it.
    pub(super) fn done_by(call: &Call, grant: &Grant, lease: &Lease, request_id: Option<&RequestId>, now: Timestamp) -> Event {
        Event {
            request_id: request_id.map(|id| id.as_str().to_owned()),
            policy_version: Some(grant.policy_version().to_string()),
            policies: grant.policies().to_vec(),
            ..Self::done(call, lease, now)
        }
    }

    /// Records a denial, and gives the error for the caller. When the record cannot be written the caller learns that instead.
    pub(super) async fn denied(&self, call: &Call, about: About<'_>, denial: Denial, now: Timestamp) -> Error {
        let event = Self::denial(call, about, &denial, now);
        self.put_on_record(event, denial.error).await
    }

    /// The record of a denial.
    pub(super) fn denial(call: &Call, about: About<'_>, denial: &Denial, now: Timestamp) -> Event {
        Event {
            reason: Some(denial.error.code().as_str().into()),
            policy_version: Some(denial.explanation.policy_version.clone()),
            detail: denial.explanation.lines(),
            ..Self::about(event_of(call, Outcome::Denied, now), about)
        }
    }

    /// Records that an action was refused or failed for a reason that no policy gave, and gives the error for the caller.
    pub(super) async fn ended(&self, call: &Call, about: About<'_>, error: Error, now: Timestamp) -> Error {
        let outcome = if error.code().is_refusal() { Outcome::Denied } else { Outcome::Failed };
        let event = Event { reason: Some(error.code().as_str().into()), ..Self::about(event_of(call, outcome, now), about) };
        self.put_on_record(event, error).await
    }

    /// Records a call whose caller could not be authenticated.
    pub async fn unauthenticated(&self, origin: &Origin, error: Error) -> Error {
        let outcome = if error.code().is_refusal() { Outcome::Denied } else { Outcome::Failed };
        let event = Event {
            reason: Some(error.code().as_str().into()),
            detail: vec![error.public().to_owned()],
            ..event_from(origin, outcome, self.clock.now())
        };
        self.put_on_record(event, error).await
    }

    /// Records a call of a known caller that was refused at the edge (its form, its rate).
    pub async fn refused(&self, call: &Call, error: Error) -> Error {
        self.ended(call, About::default(), error, self.clock.now()).await
    }

    /// Records that a new configuration was taken into force, but for the sections that need a restart, or that it was refused.
    pub async fn reloaded(&self, outcome: Result<&[&str], &[Fault]>) {
        let (outcome, detail) = match outcome {
            Ok([]) => (Outcome::Done, Vec::new()),
            Ok(sections) => (Outcome::Done, vec![format!("needs a restart: {}", sections.join(", "))]),
            Err(faults) => (Outcome::Failed, faults.iter().take(MAX_FAULTS).map(ToString::to_string).collect()),
        };
        let event = Event {
            actor: Some(Actor::service("config/reload")),
            policy_version: Some(self.rules.load().book.version().to_string()),
            detail,
            ..Event::new(self.clock.now(), "config/reload", outcome)
        };
        if let Err(error) = self.record(vec![event]).await {
            tracing::warn!(%error, "a reload is not on record");
        }
    }

    fn about(event: Event, about: About<'_>) -> Event {
        Event { role: about.role.cloned(), lease_id: about.lease, request_id: about.request_id.map(|id| id.as_str().to_owned()), ..event }
    }

    pub(super) async fn put_on_record(&self, event: Event, error: Error) -> Error {
        match self.audit.append(vec![event]).await {
            Ok(_) => error,
            // A refusal that is not on record does not leave; a failure is told as it is, whatever the log does.
            Err(unrecorded) if error.code().is_refusal() => unrecorded.because(format_args!("while recording {error}")),
            Err(_) => error,
        }
    }

    /// Makes events durable. Nothing that they speak of leaves before this returns.
    pub(super) async fn record(&self, events: Vec<Event>) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        self.audit.append(events).await.map(|_| ())
    }
}
