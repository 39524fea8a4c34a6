//! Checks a role when the configuration is loaded, so that nothing is found out at the first call that could be known before.

use std::collections::BTreeSet;

use super::{
    config::{AwsConfig, AwsIdentity},
    limits::{self, Fault},
    plan::LEASE_TAG,
};
use crate::model::{
    SignedDuration,
    role::{AwsMode, AwsOverflow, AwsRevocation, AwsRole},
    template::Template,
};

/// What a check found, in words.
#[derive(Debug, Default)]
pub struct AwsReport {
    /// What keeps the role from working.
    pub faults: Vec<String>,
    /// Advice.
    pub warnings: Vec<String>,
}

/// A role, and what it stands in.
pub struct Asked<'a> {
    /// The role.
    pub role: &'a AwsRole,
    /// The way that it names.
    pub way: &'a AwsConfig,
    /// Its `default_ttl`.
    pub default_ttl: SignedDuration,
    /// Its `max_ttl`.
    pub max_ttl: SignedDuration,
    /// Whether this service signs JWTs.
    pub signs: bool,
}

/// Checks a role.
pub fn check_role(asked: &Asked<'_>) -> AwsReport {
    let role = asked.role;
    let mut faults: Vec<Fault> = Vec::new();
    faults.extend(limits::role_arn(&role.role_arn).err());
    faults.extend(life(asked));
    faults.extend(texts(role));
    faults.extend(policies(role));
    faults.extend(tags(role));
    faults.extend(revocation(asked));
    if matches!(role.mode, AwsMode::WebIdentity { .. }) {
        if role.external_id.is_some() {
            faults.push("external_id has no place in mode web_identity: AWS takes it with assume_role only".to_owned());
        }
        if !asked.signs {
            faults.push("mode web_identity needs [oidc]: this service must be able to sign JWTs".to_owned());
        }
    }
    let mut warnings = Vec::new();
    if role.revocation == AwsRevocation::None {
        warnings.push("revocation is none: a session that was handed out lives until it expires, whatever is revoked".to_owned());
    }
    AwsReport { faults, warnings }
}

fn life(asked: &Asked<'_>) -> Vec<Fault> {
    let mut faults = Vec::new();
    if asked.default_ttl < limits::MIN_DURATION || asked.max_ttl > limits::MAX_DURATION {
        faults.push(format!(
            "AWS sessions live {} minutes to {} hours: default_ttl and max_ttl must be within",
            limits::MIN_DURATION.as_mins(),
            limits::MAX_DURATION.as_hours()
        ));
    }
    let from_session = matches!(asked.way.identity, AwsIdentity::WebIdentity { .. }) && asked.role.mode == AwsMode::AssumeRole;
    if from_session && asked.max_ttl > limits::MAX_CHAINED {
        faults.push(format!(
            "aws {} is itself a role's session, and what is assumed from one lives an hour at most: max_ttl must be 1h or less",
            asked.way.name
        ));
    }
    faults
}

/// Names and ids: the characters between placeholders, and the least length.
fn texts(role: &AwsRole) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut check = |template: &Template, takes: &dyn Fn(&str) -> Result<(), Fault>| faults.extend(takes(&shortest(template)).err());
    check(&role.session_name, &limits::session_name);
    if let Some(template) = &role.source_identity {
        check(template, &limits::source_identity);
    }
    if let Some(template) = &role.external_id {
        check(template, &limits::external_id);
    }
    for (key, template) in &role.tags {
        check(template, &|text| limits::tag_value(key, text));
    }
    faults
}

/// The shortest text that a template can render to, with `x` for what is not known yet. One placeholder alone may be longer than that: a
/// name of one character can still be filled with two.
fn shortest(template: &Template) -> String {
    let mut text = String::new();
    let mut rest = template.source();
    let mut alone = false;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        text.push_str(before);
        text.push_str(if name == "lease" { "00000000-0000-0000-0000-000000000000" } else { "x" });
        alone |= name != "lease";
        rest = after;
    }
    text.push_str(rest);
    if alone && text.len() < limits::SESSION_NAME.0 {
        text.push('x');
    }
    text
}

fn policies(role: &AwsRole) -> Vec<Fault> {
    let mut faults: Vec<Fault> = role.policy_arns.iter().filter_map(|arn| limits::policy_arn(arn).err()).collect();
    if role.policy_arns.len() > limits::POLICY_ARNS {
        faults.push(format!("there are {} policy_arns; AWS takes {} at most", role.policy_arns.len(), limits::POLICY_ARNS));
    }
    if role.policy_arns.iter().collect::<BTreeSet<_>>().len() < role.policy_arns.len() {
        faults.push("policy_arns names one policy twice".to_owned());
    }
    if let Some(policy) = &role.session_policy {
        faults.extend(policy.faults().into_iter().map(|fault| format!("session_policy: {fault}")));
        faults.extend(limits::session_policy(&policy.shortest().to_string()).err());
    }
    faults
}

fn tags(role: &AwsRole) -> Vec<Fault> {
    let mut faults: Vec<Fault> = role.tags.keys().filter_map(|key| limits::tag_key(key).err()).collect();
    let own = usize::from(role.revocation == AwsRevocation::SessionTag);
    if role.tags.len() + own > limits::TAGS {
        let with = if own == 1 { format!(", with {LEASE_TAG}") } else { String::new() };
        faults.push(format!("there are {} tags{with}; AWS takes {} at most", role.tags.len() + own, limits::TAGS));
    }
    // AWS takes keys that differ in case alone for the same.
    let folded: BTreeSet<String> = role.tags.keys().map(|key| key.to_ascii_lowercase()).collect();
    if folded.len() < role.tags.len() {
        faults.push("two tags differ in the case of their keys alone, which AWS refuses".to_owned());
    }
    if folded.contains(LEASE_TAG) {
        faults.push(format!("the tag {LEASE_TAG} is this service's own"));
    }
    let unknown = role.transitive_tags.iter().filter(|key| !role.tags.contains_key(*key));
    faults.extend(unknown.map(|key| format!("transitive_tags names {key:?}, which is not among the tags")));
    if role.transitive_tags.iter().collect::<BTreeSet<_>>().len() < role.transitive_tags.len() {
        faults.push("transitive_tags names one tag twice".to_owned());
    }
    faults
}

fn revocation(asked: &Asked<'_>) -> Vec<Fault> {
    let role = asked.role;
    let mut faults = Vec::new();
    if role.revocation == AwsRevocation::SessionName && !role.session_name.names_lease() {
        faults.push("revocation = \"session_name\" needs {lease} in the session_name: it is what tells the sessions apart".to_owned());
    }
    let one_by_one = matches!(role.revocation, AwsRevocation::SessionTag | AwsRevocation::SessionName);
    if role.overflow == AwsOverflow::RoleSessions && !one_by_one {
        faults.push("overflow has no meaning without revocation by session_tag or session_name".to_owned());
    }
    if let AwsIdentity::WebIdentity { role_arn, .. } = &asked.way.identity {
        let (own, other) = (limits::account_of(role_arn), limits::account_of(&role.role_arn));
        if role.revocation != AwsRevocation::None && own != other {
            faults.push(format!(
                "aws {} is in the account {own} and cannot write policies in {other}: name a way into that account, or revocation = \"none\"",
                asked.way.name
            ));
        }
    }
    faults
}
