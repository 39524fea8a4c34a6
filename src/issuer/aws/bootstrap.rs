//! What `daypassd dev` makes at an endpoint that is not AWS' own.

use aws_sdk_iam::operation::create_role::CreateRoleError;

use super::{
    AwsConfig, Connection,
    connection::within,
    failure::{Failed, Sent, failed},
};
use crate::model::error::Result;

/// A throwaway IAM role.
pub struct ThrowawayRole<'a> {
    /// Its name.
    pub name: &'a str,
    /// Who may assume it, as a policy document.
    pub trust: &'a str,
    /// What it may do, as a policy document.
    pub policy: &'a str,
}

/// The account behind an endpoint, twelve digits.
///
/// # Errors
/// `IssuerUnavailable` when nothing answers within the way's timeout, `IssuerRefused` when its identity is not taken.
pub async fn account(way: &AwsConfig) -> Result<String> {
    let connection = Connection::of(way.clone());
    let caller = connection.caller(connection.deadline()).await.map_err(|failed| failed.error)?;
    Ok(caller.account.clone())
}

/// Makes an IAM role, or gives one that is there what it may do.
///
/// # Errors
/// As [`account`].
pub async fn ensure_role(way: &AwsConfig, role: &ThrowawayRole<'_>) -> Result<()> {
    let connection = Connection::of(way.clone());
    let deadline = connection.deadline();
    let sent = Sent::default();
    let create = connection.iam.create_role().role_name(role.name).assume_role_policy_document(role.trust);
    let create = create.customize().interceptor(sent.clone()).send();
    match within(deadline, "iam:CreateRole", &sent, create).await.map_err(|failed: Failed| failed.error)? {
        Ok(_) => {}
        Err(error) if error.as_service_error().is_some_and(CreateRoleError::is_entity_already_exists_exception) => {}
        Err(error) => return Err(failed(&error, "iam:CreateRole", &sent).error),
    }
    let sent = Sent::default();
    let put = connection.iam.put_role_policy().role_name(role.name).policy_name("daypass-dev").policy_document(role.policy);
    let put = put.customize().interceptor(sent.clone()).send();
    let put = within(deadline, "iam:PutRolePolicy", &sent, put).await.map_err(|failed: Failed| failed.error)?;
    put.map(drop).map_err(|error| failed(&error, "iam:PutRolePolicy", &sent).error)
}
