//! AWS sessions: STS makes them, a policy at the IAM role denies what was revoked.
//!
//! A session is worked out and checked ([`plan`]), then asked for ([`session`]); what is revoked becomes a policy ([`deny`]), which is
//! written ([`desk`]). A [`connection`] holds clients and credentials.

pub mod bootstrap;
mod config;
mod connection;
mod deny;
mod desk;
mod ecr;
mod failure;
mod identity;
pub mod limits;
mod plan;
mod role_check;
mod session;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use tokio::time::Instant;

pub use self::{
    config::{
        AwsConfig, AwsIdentity, DEFAULT_CONCURRENCY, DEFAULT_DENY_SIZE, DEFAULT_PROPAGATION, DEFAULT_SUBJECT, DEFAULT_TIMEOUT,
        MAX_CONCURRENCY, MAX_PROPAGATION, MAX_TIMEOUT, MIN_DENY_SIZE,
    },
    connection::Connection,
    deny::ISSUE_TIME_SLACK,
    plan::{CALL_MARGIN, LEASE_TAG},
    role_check::{Asked, AwsReport, check_role},
    session::JWT_LIFE,
};
use self::{plan::SessionPlan, session::Session};
use super::{Again, DenyDesk, Issuer, Minted, NotMinted, Order, Reservation, TokenSigner};
use crate::model::{
    SignedDuration, Timestamp,
    credential::{AwsCredential, Credential},
    error::{Code, Error, Result},
    lease::{Handle, Lease},
    name::AwsName,
    revocation::{AwsDeny, RevokedSerial},
    role::{AwsMode, AwsOverflow, AwsRole, RoleSpec},
};

/// Issues AWS sessions by any number of ways into AWS.
#[derive(Default)]
pub struct AwsIssuer {
    connections: BTreeMap<AwsName, Arc<Connection>>,
    lists: BTreeMap<AwsDeny, AwsOverflow>,
}

impl AwsIssuer {
    /// An issuer by these ways, whose roles deny what is revoked. A way that is configured as before keeps its credentials and its sockets.
    pub fn new<'a>(
        ways: impl IntoIterator<Item = AwsConfig>,
        roles: impl IntoIterator<Item = &'a AwsRole>,
        signer: Option<&Arc<dyn TokenSigner>>,
    ) -> Self {
        let connections: BTreeMap<_, _> = ways.into_iter().map(|way| (way.name.clone(), Connection::of(way))).collect();
        connections.values().for_each(|connection| connection.sign_with(signer));
        let lists = roles.into_iter().filter_map(|role| Some((plan::deny_of(role)?, role.overflow)));
        Self { connections, lists: lists.collect() }
    }

    fn connection(&self, name: &AwsName) -> Result<&Arc<Connection>> {
        self.connections.get(name).ok_or_else(|| Error::internal(format!("aws {name} is not configured")))
    }

    fn overflow(&self, list: &AwsDeny) -> AwsOverflow {
        self.lists.get(list).copied().unwrap_or_default()
    }
}

#[async_trait]
impl Issuer for AwsIssuer {
    fn reserve(&self, order: &Order<'_>) -> Result<Option<Reservation>> {
        let (role, for_registry) = role_of(order)?;
        let connection = self.connection(&role.aws)?;
        let known_session = connection.known_caller().is_some_and(|caller| caller.is_session);
        let plan = SessionPlan::render(order, role, for_registry, longest(role, known_session))?;
        same_place(order, &plan)?;
        let key_id = order.earlier.map(|earlier| earlier.credential_id().to_owned()).filter(|id| !id.is_empty());
        Ok(Some(Reservation { handle: plan.handle(key_id), expires_at: plan.ends_by(), reach: plan.reach }))
    }

    async fn mint(&self, order: &Order<'_>) -> Result<Minted, NotMinted> {
        let (role, for_registry) = role_of(order)?;
        let connection = self.connection(&role.aws)?;
        let deadline = connection.deadline();
        let _slot = connection.slot(deadline, "sts:AssumeRole").await?;
        let plan = planned(connection, order, role, for_registry, deadline).await?;
        same_place(order, &plan)?;
        let session = session::make(connection, &plan, order.now, deadline).await?;
        let handle = plan.handle(Some(session.access_key_id.clone()));
        let (credential, expires_at) = if for_registry {
            let login = ecr::login(connection, &session, plan.ends_at, deadline).await?;
            (Credential::Registry(login), plan.ends_at)
        } else {
            let expires_at = session.expires_at;
            (Credential::Aws(handed_out(session, connection)), expires_at)
        };
        Ok(Minted { credential, handle, expires_at, reach: plan.reach })
    }

    async fn remint(&self, _order: &Order<'_>, _lease: &Lease) -> Result<Again> {
        Ok(Again::Never)
    }
}

#[async_trait]
impl DenyDesk for AwsIssuer {
    fn lists(&self) -> Vec<AwsDeny> {
        self.lists.keys().cloned().collect()
    }

    fn knows(&self, list: &AwsDeny) -> bool {
        self.connections.contains_key(&list.aws)
    }

    async fn publish(&self, list: &AwsDeny, revoked: &[RevokedSerial], now: Timestamp) -> Result<()> {
        desk::publish(self.connection(&list.aws)?, list, revoked, self.overflow(list), now).await
    }

    async fn agrees(&self, list: &AwsDeny, revoked: &[RevokedSerial], now: Timestamp) -> Result<bool> {
        desk::agrees(self.connection(&list.aws)?, list, revoked, self.overflow(list), now).await
    }

    fn room(&self, list: &AwsDeny) -> Option<usize> {
        let connection = self.connections.get(&list.aws)?;
        deny::capacity(list.by, connection.config.deny_size)
    }

    fn settled_at(&self, list: &AwsDeny, published_at: Timestamp) -> Timestamp {
        let span = self.connections.get(&list.aws).map_or(MAX_PROPAGATION, |connection| connection.config.propagation);
        published_at.checked_add(span).unwrap_or(Timestamp::MAX)
    }
}

/// The role of an order, and whether its session is only a step to ECR.
fn role_of<'a>(order: &Order<'a>) -> Result<(&'a AwsRole, bool)> {
    match &order.grant.role().spec {
        RoleSpec::Aws(role) => Ok((role, false)),
        RoleSpec::Ecr(role) => Ok((role, true)),
        _ => Err(Error::internal("a role of another kind came to the issuer of AWS sessions")),
    }
}

/// The longest session of a role. AWS bounds a role that is assumed from another role's session to an hour.
fn longest(role: &AwsRole, from_session: bool) -> SignedDuration {
    if from_session && role.mode == AwsMode::AssumeRole { limits::MAX_CHAINED } else { limits::MAX_DURATION }
}

/// The plan, for which AWS is asked who this service is there when that matters: for sessions longer than an hour.
async fn planned(
    connection: &Connection,
    order: &Order<'_>,
    role: &AwsRole,
    for_registry: bool,
    deadline: Instant,
) -> Result<SessionPlan, NotMinted> {
    let plan = SessionPlan::render(order, role, for_registry, longest(role, false))?;
    if role.mode != AwsMode::AssumeRole || plan.duration <= limits::MAX_CHAINED {
        return Ok(plan);
    }
    // Nothing was made by asking.
    let caller = connection.caller(deadline).await.map_err(|failed| NotMinted { error: failed.error, maybe_made: false })?;
    Ok(SessionPlan::render(order, role, for_registry, longest(role, caller.is_session))?)
}

/// A renewed session must be denied where the earlier ones of its lease are.
fn same_place(order: &Order<'_>, plan: &SessionPlan) -> Result<()> {
    match order.earlier {
        Some(Handle::Aws { deny, role_arn, .. }) if *deny == plan.deny && *role_arn == plan.role_arn => Ok(()),
        None => Ok(()),
        Some(_) => Err(Error::new(
            Code::NotRenewable,
            "the role has another IAM role, or another way of revocation, since this lease was issued; issue a new one",
        )),
    }
}

fn handed_out(session: Session, connection: &Connection) -> AwsCredential {
    let Session { access_key_id, secret_access_key, session_token, expires_at } = session;
    let region = connection.config.region.clone();
    AwsCredential { access_key_id, secret_access_key, session_token, expires_at, region }
}
