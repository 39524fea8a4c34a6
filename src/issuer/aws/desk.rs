//! Writes the policies that deny what was revoked.

use std::borrow::Cow;

use serde_json::Value;
use tokio::time::Instant;
use url::form_urlencoded;

use super::{
    connection::{Connection, within},
    deny::{self, Stated},
    failure::{Failed, Sent, failed},
    limits,
};
use crate::model::{
    Timestamp,
    error::{Code, Error, Result},
    revocation::{AwsDeny, DenyBy, RevokedSerial},
    role::AwsOverflow,
};

/// Makes the policy deny exactly what is on the list.
pub(super) async fn publish(
    connection: &Connection,
    list: &AwsDeny,
    revoked: &[RevokedSerial],
    overflow: AwsOverflow,
    now: Timestamp,
) -> Result<()> {
    let stated = deny::state(list.by, revoked, overflow, connection.config.deny_size, now)?;
    let deadline = connection.deadline();
    let _slot = connection.slot(deadline, "iam:PutRolePolicy").await?;
    same_account(connection, list, deadline).await?;
    let statements = match list.by {
        DenyBy::SessionTag | DenyBy::SessionName => stated.statements.clone(),
        // Who pressed "revoke active sessions" in AWS' console wrote a policy of the same name: that stays.
        DenyBy::IssueTime => {
            let there = read(connection, list, deadline).await?.unwrap_or(Value::Null);
            [deny::parted(&there).1, stated.statements.clone()].concat()
        }
    };
    match statements.is_empty() {
        true => delete(connection, list, deadline).await?,
        false => put(connection, list, deny::document(&statements).to_string(), deadline).await?,
    }
    if stated.by_time > 0 {
        tracing::warn!(
            role_arn = list.role_arn,
            leases = stated.by_time,
            "the list of revoked sessions is full: its oldest leases are denied by time of issue, and with them every session of the role that is as old"
        );
    }
    complete(list, &stated)
}

/// Whether the policy says what the list says. As [`publish`] it fails where there is room for a part of the list only: a policy that says
/// no more than that part does not deny the rest, whoever wrote it.
pub(super) async fn agrees(
    connection: &Connection,
    list: &AwsDeny,
    revoked: &[RevokedSerial],
    overflow: AwsOverflow,
    now: Timestamp,
) -> Result<bool> {
    let stated = deny::state(list.by, revoked, overflow, connection.config.deny_size, now)?;
    let deadline = connection.deadline();
    let _slot = connection.slot(deadline, "iam:GetRolePolicy").await?;
    same_account(connection, list, deadline).await?;
    let agrees = match read(connection, list, deadline).await? {
        None => stated.statements.is_empty(),
        Some(there) => {
            let (ours, foreign) = deny::parted(&there);
            // A policy of our own name is ours as a whole; one that is there must say something.
            let clean = list.by == DenyBy::IssueTime || (foreign.is_empty() && !ours.is_empty());
            clean && deny::mean_the_same(&ours, &stated.statements)
        }
    };
    if agrees {
        complete(list, &stated)?;
    }
    Ok(agrees)
}

/// Fails when the statements leave leases out.
fn complete(list: &AwsDeny, stated: &Stated) -> Result<()> {
    let left_out = stated.left_out;
    if left_out == 0 {
        return Ok(());
    }
    Err(Error::new(
        Code::IssuerUnavailable,
        format!(
            "the list of revoked sessions at {} is full: {left_out} of its leases wait until others have lapsed; shorter sessions or overflow = \"role_sessions\" would help",
            list.role_arn
        ),
    ))
}

/// IAM's calls name a role without its account: in another one they would meet a role that only has the same name.
async fn same_account(connection: &Connection, list: &AwsDeny, deadline: Instant) -> Result<()> {
    let own = &connection.caller(deadline).await?.account;
    if own == limits::account_of(&list.role_arn) {
        return Ok(());
    }
    Err(Error::new(
        Code::IssuerRefused,
        format!("{} lies in another AWS account than the identity of aws {}, which cannot write its policies", list.role_arn, list.aws),
    )
    .because(format!("the identity's account is {own}")))
}

async fn put(connection: &Connection, list: &AwsDeny, document: String, deadline: Instant) -> Result<(), Failed> {
    let asked = "iam:PutRolePolicy";
    let sent = Sent::default();
    let call = connection.iam.put_role_policy().role_name(limits::role_name_of(&list.role_arn));
    let call = call.policy_name(deny::policy_name(list.by)).policy_document(document);
    let answer = within(deadline, asked, &sent, call.customize().interceptor(sent.clone()).send()).await?;
    answer.map(drop).map_err(|error| failed(&error, asked, &sent)).map_err(|failed| no_room(failed, list))
}

/// A policy that is not there is as good as deleted.
async fn delete(connection: &Connection, list: &AwsDeny, deadline: Instant) -> Result<(), Failed> {
    let asked = "iam:DeleteRolePolicy";
    let sent = Sent::default();
    let call = connection.iam.delete_role_policy().role_name(limits::role_name_of(&list.role_arn));
    let call = call.policy_name(deny::policy_name(list.by)).customize().interceptor(sent.clone()).send();
    match within(deadline, asked, &sent, call).await?.map_err(|error| failed(&error, asked, &sent)) {
        Err(failed) if !failed.is("NoSuchEntity") => Err(failed),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The policy as it is; none when there is none, or no such role.
async fn read(connection: &Connection, list: &AwsDeny, deadline: Instant) -> Result<Option<Value>, Failed> {
    let asked = "iam:GetRolePolicy";
    let sent = Sent::default();
    let call = connection.iam.get_role_policy().role_name(limits::role_name_of(&list.role_arn));
    let call = call.policy_name(deny::policy_name(list.by)).customize().interceptor(sent.clone()).send();
    match within(deadline, asked, &sent, call).await?.map_err(|error| failed(&error, asked, &sent)) {
        // A text that is no JSON is a policy all the same, and not ours.
        Ok(there) => Ok(Some(serde_json::from_str(&decoded(there.policy_document())).unwrap_or(Value::Null))),
        Err(failed) if failed.is("NoSuchEntity") => Ok(None),
        Err(failed) => Err(failed),
    }
}

fn no_room(failed: Failed, list: &AwsDeny) -> Failed {
    if !failed.is("LimitExceeded") {
        return failed;
    }
    let text = format!(
        "the inline policies of {} leave no room for the list of revoked sessions (LimitExceeded): make them smaller, or deny_size of aws {}",
        list.role_arn, list.aws
    );
    Failed { error: Error::new(Code::IssuerUnavailable, text), ..failed }
}

/// IAM gives documents percent-encoded (RFC 3986): a `+` is a plus sign, not a blank.
fn decoded(text: &str) -> String {
    let query = format!("d={}", text.replace('+', "%2B"));
    form_urlencoded::parse(query.as_bytes()).next().map_or_else(String::new, |(_, value): (Cow<'_, str>, Cow<'_, str>)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_percent_encoded() {
        assert_eq!(decoded("%7B%22a%22%3A%22b+c%26d%3De%20f%22%7D"), r#"{"a":"b+c&d=e f"}"#);
        assert_eq!(decoded(r#"{"plain":1}"#), r#"{"plain":1}"#);
    }
}
