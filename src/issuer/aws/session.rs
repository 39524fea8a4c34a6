//! Asks STS for a session.

use std::time::Duration;

use aws_sdk_sts::{
    config::{Config, retry::RetryConfig},
    types::{Credentials, PolicyDescriptorType, Tag},
};
use tokio::time::Instant;

use super::{
    connection::{Connection, TRIES, within},
    failure::{Failed, Sent, failed},
    plan::{How, SessionPlan, web_identity_claims},
};
use crate::{
    clock,
    model::{
        SignedDuration, Timestamp,
        error::{Code, Error},
        hex,
        secret::Secret,
    },
};

/// How long a JWT that is shown to STS is good for; it is shown at once.
pub const JWT_LIFE: SignedDuration = SignedDuration::from_mins(5);

/// The pause before a second try.
const PAUSE: Duration = Duration::from_millis(200);

/// A session, as STS made it.
pub(super) struct Session {
    pub access_key_id: String,
    pub secret_access_key: Secret,
    pub session_token: Secret,
    /// Whole seconds.
    pub expires_at: Timestamp,
}

impl Session {
    /// For clients of the SDK.
    pub fn credentials(&self) -> aws_sdk_sts::config::Credentials {
        let keys = aws_sdk_sts::config::Credentials::builder().access_key_id(&self.access_key_id);
        let keys = keys.secret_access_key(self.secret_access_key.expose()).session_token(self.session_token.expose());
        keys.provider_name("daypass").build()
    }
}

/// A JWT's own id, never the same twice.
pub(super) fn jwt_id() -> String {
    hex::encode(&clock::random::<16>())
}

/// Makes a session. Tries again, within the deadline, what may pass: the sessions of one lease share name and tag, so that one too many is on
/// record with it and denied with it.
pub(super) async fn make(connection: &Connection, plan: &SessionPlan, now: Timestamp, deadline: Instant) -> Result<Session, Failed> {
    let mut maybe_made = false;
    let mut tried = 1;
    loop {
        let made = match &plan.how {
            How::AssumeRole { external_id } => assume_role(connection, plan, external_id.as_deref(), deadline).await,
            How::WebIdentity { audience, subject } => web_identity(connection, plan, (audience, subject), now, deadline).await,
        };
        let failed = match made.and_then(|made| session_of(made, plan, now)) {
            Ok(session) => return Ok(session),
            Err(failed) => failed,
        };
        maybe_made |= failed.maybe_made;
        if !failed.passing || tried == TRIES || deadline.saturating_duration_since(Instant::now()) < PAUSE {
            return Err(Failed { maybe_made, ..failed });
        }
        tried += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn assume_role(
    connection: &Connection,
    plan: &SessionPlan,
    external_id: Option<&str>,
    deadline: Instant,
) -> Result<Option<Credentials>, Failed> {
    let asked = "sts:AssumeRole";
    let tags = plan.tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect::<Result<Vec<_>, _>>();
    let tags = tags.map_err(|error| defect(&error))?;
    let call = connection.sts.assume_role().role_arn(&plan.role_arn).role_session_name(&plan.session_name);
    let call = call.set_policy(plan.policy.clone()).set_policy_arns(policy_arns(plan)).duration_seconds(seconds(plan));
    let call = call.set_tags(some(tags)).set_transitive_tag_keys(some(plan.transitive_tags.clone()));
    let call = call.set_source_identity(plan.source_identity.clone()).set_external_id(external_id.map(str::to_owned));
    let sent = Sent::default();
    let call = call.customize().interceptor(sent.clone()).config_override(once()).send();
    let answer = within(deadline, asked, &sent, call).await?;
    answer.map(|answer| answer.credentials).map_err(|error| failed(&error, asked, &sent))
}

/// Unsigned: the JWT is all that it needs.
async fn web_identity(
    connection: &Connection,
    plan: &SessionPlan,
    (audience, subject): (&str, &str),
    now: Timestamp,
    deadline: Instant,
) -> Result<Option<Credentials>, Failed> {
    let asked = "sts:AssumeRoleWithWebIdentity";
    let times = (now.as_second(), now.as_second() + JWT_LIFE.as_secs());
    let claims = web_identity_claims(plan, audience, subject, times, &jwt_id());
    let token = connection.signer().and_then(|signer| signer.sign(claims, now)).map_err(unsent)?;
    let call = connection.sts.assume_role_with_web_identity().role_arn(&plan.role_arn).role_session_name(&plan.session_name);
    let call = call.set_policy(plan.policy.clone()).set_policy_arns(policy_arns(plan)).duration_seconds(seconds(plan));
    let sent = Sent::default();
    let call = call.web_identity_token(token.expose()).customize().interceptor(sent.clone()).config_override(once()).send();
    let answer = within(deadline, asked, &sent, call).await?;
    answer.map(|answer| answer.credentials).map_err(|error| failed(&error, asked, &sent))
}

/// Without the SDK's own tries: each one is to be judged.
fn once() -> aws_sdk_sts::config::Builder {
    Config::builder().retry_config(RetryConfig::disabled())
}

/// What STS answered, when it is a session that ends when it should. One that seems to end early lives by a clock that is behind ours: its
/// denial would lapse, by our clock, before the session does.
fn session_of(made: Option<Credentials>, plan: &SessionPlan, now: Timestamp) -> Result<Session, Failed> {
    let unusable = |text: String| Failed { error: Error::new(Code::IssuerUnavailable, text), name: None, maybe_made: true, passing: false };
    let made = made.ok_or_else(|| unusable("AWS' answer holds no credentials; try again later".to_owned()))?;
    let expires_at = Timestamp::from_second(made.expiration.secs()).unwrap_or(Timestamp::MIN);
    if expires_at > plan.ends_by() || expires_at < plan.ends_at_least() || expires_at <= now {
        let text = format!(
            "AWS' session ends at {expires_at}, which does not fit what was asked for: the clocks of AWS and of this service differ"
        );
        return Err(unusable(text));
    }
    if made.access_key_id.is_empty() || made.secret_access_key.is_empty() || made.session_token.is_empty() {
        return Err(unusable("AWS' answer holds an empty credential; try again later".to_owned()));
    }
    Ok(Session {
        access_key_id: made.access_key_id,
        secret_access_key: Secret::new(made.secret_access_key),
        session_token: Secret::new(made.session_token),
        expires_at,
    })
}

fn policy_arns(plan: &SessionPlan) -> Option<Vec<PolicyDescriptorType>> {
    some(plan.policy_arns.iter().map(|arn| PolicyDescriptorType::builder().arn(arn).build()).collect())
}

/// An empty list is not sent.
fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}

fn seconds(plan: &SessionPlan) -> i32 {
    i32::try_from(plan.duration.as_secs()).unwrap_or(i32::MAX)
}

fn defect(error: &dyn std::fmt::Display) -> Failed {
    unsent(Error::internal(error))
}

fn unsent(error: Error) -> Failed {
    Failed { error, name: None, maybe_made: false, passing: false }
}
