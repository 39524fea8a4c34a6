//! What a session will be, worked out and checked against AWS' limits before AWS is asked. Pure.

use serde_json::{Map, Value, json};

use super::limits;
pub use crate::model::lease::AWS_CALL_MARGIN as CALL_MARGIN;
use crate::{
    issuer::Order,
    model::{
        SignedDuration, Timestamp,
        error::{Code, Error, Result},
        lease::{Handle, Reach},
        revocation::{AwsDeny, DenyBy},
        role::{AwsMode, AwsRevocation, AwsRole},
        template::{Place, Template},
    },
};

/// The session tag that names the lease. It is transitive: whoever is assumed from the session carries it too, and can be denied by it.
pub const LEASE_TAG: &str = "daypass:lease";

/// A session as it will be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SessionPlan {
    pub role_arn: String,
    pub session_name: String,
    /// One line of JSON.
    pub policy: Option<String>,
    pub policy_arns: Vec<String>,
    /// With the one that names the lease; sorted by key.
    pub tags: Vec<(String, String)>,
    pub transitive_tags: Vec<String>,
    pub source_identity: Option<String>,
    pub how: How,
    /// Whole seconds.
    pub duration: SignedDuration,
    /// When it ends if the call takes no time, in whole seconds.
    pub ends_at: Timestamp,
    pub deny: Option<AwsDeny>,
    pub reach: Reach,
}

/// How the role is assumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum How {
    AssumeRole { external_id: Option<String> },
    WebIdentity { audience: String, subject: String },
}

impl SessionPlan {
    /// Renders a role for an order, for a session of at most `longest`. `for_registry`: the session is only a step to what Amazon ECR hands
    /// out.
    pub fn render(order: &Order<'_>, role: &AwsRole, for_registry: bool, longest: SignedDuration) -> Result<Self> {
        let (duration, ends_at) = life(order, longest)?;
        let fill =
            |template: &Template, place| template.render_with_lease(place, order.grant.identity(), &order.grant.role().name, order.lease);
        let session_name = fill(&role.session_name, Place::SessionName)?;
        checked(limits::session_name(&session_name))?;
        let source_identity = role.source_identity.as_ref().map(|template| fill(template, Place::SessionName)).transpose()?;
        source_identity.as_deref().map_or(Ok(()), |text| checked(limits::source_identity(text)))?;
        let mut tags = Vec::new();
        for (key, template) in &role.tags {
            let value = fill(template, Place::TagValue)?;
            checked(limits::tag_value(key, &value))?;
            tags.push((key.clone(), value));
        }
        let mut transitive_tags = role.transitive_tags.clone();
        if role.revocation == AwsRevocation::SessionTag {
            tags.push((LEASE_TAG.to_owned(), order.lease.to_string()));
            transitive_tags.push(LEASE_TAG.to_owned());
        }
        tags.sort();
        let policy = Self::policy(order, role, for_registry.then_some(ends_at))?;
        Ok(Self {
            role_arn: role.role_arn.clone(),
            session_name,
            policy,
            policy_arns: role.policy_arns.clone(),
            tags,
            transitive_tags,
            source_identity,
            how: how(role, &fill)?,
            duration,
            ends_at,
            deny: deny_of(role),
            reach: reach_of(role.revocation),
        })
    }

    /// When it ends at the latest, in whole seconds.
    pub fn ends_by(&self) -> Timestamp {
        self.ends_at.checked_add(CALL_MARGIN).unwrap_or(Timestamp::MAX)
    }

    /// When it ends at the earliest: it is asked for after it was planned.
    pub fn ends_at_least(&self) -> Timestamp {
        self.ends_at.checked_sub(CALL_MARGIN).unwrap_or(Timestamp::MIN)
    }

    /// What finds it again.
    pub fn handle(&self, key_id: Option<String>) -> Handle {
        Handle::Aws { deny: self.deny.clone(), role_arn: self.role_arn.clone(), session: self.session_name.clone(), key_id }
    }

    fn policy(order: &Order<'_>, role: &AwsRole, ends_at: Option<Timestamp>) -> Result<Option<String>> {
        let grant = order.grant;
        let rendered = role.session_policy.as_ref().map(|policy| policy.render(grant.identity(), &grant.role().name, order.lease));
        let document = match (rendered.transpose()?, ends_at) {
            (document, None) => document,
            (document, Some(ends_at)) => Some(ending(document, !role.policy_arns.is_empty(), ends_at)),
        };
        let text = document.map(|document| document.to_string());
        text.as_deref().map_or(Ok(()), |text| checked(limits::session_policy(text)))?;
        Ok(text)
    }
}

fn how(role: &AwsRole, fill: &dyn Fn(&Template, Place) -> Result<String>) -> Result<How> {
    match &role.mode {
        AwsMode::AssumeRole => {
            let external_id = role.external_id.as_ref().map(|template| fill(template, Place::ExternalId)).transpose()?;
            external_id.as_deref().map_or(Ok(()), |text| checked(limits::external_id(text)))?;
            Ok(How::AssumeRole { external_id })
        }
        AwsMode::WebIdentity { audience, subject } => {
            Ok(How::WebIdentity { audience: audience.clone(), subject: fill(subject, Place::ClaimText)? })
        }
    }
}

/// The life of the session, and when it ends. It ends no later than the grant says, but for the call's own time; where not even that may be
/// (a tenant's end, the end of a lease that is renewed), it is the margin shorter.
fn life(order: &Order<'_>, longest: SignedDuration) -> Result<(SignedDuration, Timestamp)> {
    let grant = order.grant;
    let last = [grant.tenant().ends_at, order.earlier.map(|_| grant.renew_until())].into_iter().flatten().min();
    let latest = last.and_then(|last| last.checked_sub(CALL_MARGIN).ok()).unwrap_or(Timestamp::MAX);
    let wanted = grant.expires_at().min(latest);
    // From the whole second on, as the grant counts: else a ttl of 15 minutes would be a part of a second too short.
    let whole = Timestamp::from_second(order.now.as_second()).unwrap_or(order.now);
    let seconds = wanted.duration_since(whole).as_secs().min(longest.as_secs());
    let duration = SignedDuration::from_secs(seconds);
    if duration < limits::MIN_DURATION {
        return Err(too_short(order, seconds));
    }
    Ok((duration, whole.checked_add(duration).unwrap_or(Timestamp::MAX)))
}

fn too_short(order: &Order<'_>, seconds: i64) -> Error {
    let least = limits::MIN_DURATION.as_secs();
    match order.earlier {
        Some(_) => Error::new(
            Code::NotRenewable,
            format!("an AWS session lives at least {least} seconds, and this lease has only {} left; issue a new one", seconds.max(0)),
        ),
        None => Error::new(
            Code::InvalidRequest,
            format!("an AWS session lives at least {least} seconds, and only {} can be had; ask for a ttl of 15m or more", seconds.max(0)),
        ),
    }
}

/// Where a revocation denies sessions of a role; none where nothing can.
pub(super) fn deny_of(role: &AwsRole) -> Option<AwsDeny> {
    let by = match role.revocation {
        AwsRevocation::None => return None,
        AwsRevocation::RoleSessions => DenyBy::IssueTime,
        AwsRevocation::SessionTag => DenyBy::SessionTag,
        AwsRevocation::SessionName => DenyBy::SessionName,
    };
    Some(AwsDeny { aws: role.aws.clone(), by, role_arn: role.role_arn.clone() })
}

fn reach_of(revocation: AwsRevocation) -> Reach {
    match revocation {
        AwsRevocation::None => Reach::Expiry,
        AwsRevocation::RoleSessions => Reach::RoleSessions,
        AwsRevocation::SessionTag | AwsRevocation::SessionName => Reach::Lease,
    }
}

/// A document under which nothing is allowed after `ends_at`: what ECR hands out says 12 hours, whatever the session's own life is.
///
/// A session policy allows nothing by itself, so where the role has none, neither inline nor by ARN, this one allows what there is to do at
/// ECR; where it bounds the session by ARNs alone, a statement that allows would widen them.
fn ending(document: Option<Value>, by_arns: bool, ends_at: Timestamp) -> Value {
    let mut document = document.unwrap_or_else(|| {
        let allow = if by_arns { json!([]) } else { json!([{ "Effect": "Allow", "Action": "ecr:*", "Resource": "*" }]) };
        json!({ "Version": "2012-10-17", "Statement": allow })
    });
    let end = json!({
        "Effect": "Deny", "Action": "*", "Resource": "*",
        "Condition": { "DateGreaterThan": { "aws:CurrentTime": ends_at.to_string() } },
    });
    if let Some(fields) = document.as_object_mut() {
        let statements = match fields.remove("Statement") {
            Some(Value::Array(statements)) => statements,
            Some(one) => vec![one],
            None => Vec::new(),
        };
        fields.insert("Statement".to_owned(), Value::Array(statements.into_iter().chain([end]).collect()));
    }
    document
}

/// The claims of the JWT by which AWS lets a role be assumed, without `iss` ("Passing session tags using AssumeRoleWithWebIdentity" in the
/// IAM user guide).
pub(super) fn web_identity_claims(
    plan: &SessionPlan,
    audience: &str,
    subject: &str,
    (from, to): (i64, i64),
    jti: &str,
) -> Map<String, Value> {
    let mut claims = plain_claims(audience, subject, (from, to), jti);
    if !plan.tags.is_empty() {
        let tags: Map<String, Value> = plan.tags.iter().map(|(key, value)| (key.clone(), json!([value]))).collect();
        claims.insert(
            "https://aws.amazon.com/tags".to_owned(),
            json!({ "principal_tags": tags, "transitive_tag_keys": plan.transitive_tags }),
        );
    }
    if let Some(source_identity) = &plan.source_identity {
        claims.insert("https://aws.amazon.com/source_identity".to_owned(), json!(source_identity));
    }
    claims
}

/// The same for a session without tags.
pub(super) fn plain_claims(audience: &str, subject: &str, (from, to): (i64, i64), jti: &str) -> Map<String, Value> {
    let claims = [("sub", json!(subject)), ("aud", json!(audience)), ("iat", json!(from)), ("exp", json!(to)), ("jti", json!(jti))];
    claims.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A role whose values are too long for AWS is usable by others: it is the caller's claims that do not fit.
fn checked(found: std::result::Result<(), limits::Fault>) -> Result<()> {
    found.map_err(|fault| Error::new(Code::ClaimNotUsable, format!("this role cannot be had with your claims: {fault}")))
}
