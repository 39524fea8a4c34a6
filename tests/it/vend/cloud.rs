//! A remote system that makes sessions and denies them by policy, as AWS does: it counts what exists, and fails when told.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use daypass::{
    issuer::{Again, DenyDesk, Issuer, Minted, NotMinted, Order, Reservation},
    model::{
        SignedDuration, Timestamp,
        credential::{AwsCredential, Credential},
        error::{Code, Error, Result},
        lease::{AWS_CALL_MARGIN, AWS_LEEWAY, AWS_SHORTEST_SESSION, Handle, Lease, LeaseId, Reach},
        name::RoleName,
        revocation::{AwsDeny, DenyBy, RevokedSerial},
        role::RoleSpec,
        secret::Secret,
    },
};

use tokio::sync::Notify;

use super::faulty::{Faults, When};

/// How long a policy takes to hold everywhere.
pub const SETTLES_IN: SignedDuration = SignedDuration::from_secs(10);

/// A session that exists.
#[derive(Debug, Clone)]
pub struct Session {
    pub lease: LeaseId,
    pub role: RoleName,
    pub key_id: String,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
}

/// The remote system, and the way to it. Roles are denied by what their names say.
pub struct Cloud {
    faults: Faults,
    sessions: Mutex<Vec<Session>>,
    policies: Mutex<BTreeMap<AwsDeny, Vec<RevokedSerial>>>,
    publications: AtomicUsize,
    /// How many entries a policy by tag has room for.
    pub room: AtomicUsize,
    /// Whether a session is made only once [`Cloud::go`] is told.
    pub slow: AtomicBool,
    /// Told when a session is asked for while it is slow.
    pub asked: Notify,
    pub go: Notify,
    /// Whether the next policy is written only once [`Cloud::go`] is told.
    pub slow_publication: AtomicBool,
}

/// How sessions of a role of these tests are denied: `deploy` by tag, `batch` by time, `fixed` not at all.
fn denial(role: &RoleName) -> (Reach, Option<AwsDeny>) {
    match role.as_str() {
        "deploy" => (Reach::Lease, Some(list(DenyBy::SessionTag))),
        "batch" => (Reach::RoleSessions, Some(list(DenyBy::IssueTime))),
        _ => (Reach::Expiry, None),
    }
}

/// The list of a way of denying.
pub fn list(by: DenyBy) -> AwsDeny {
    AwsDeny { aws: "main".parse().unwrap(), by, role_arn: format!("arn:aws:iam::123456789012:role/{}", by.as_str()) }
}

impl Cloud {
    pub fn new(faults: Faults) -> Arc<Self> {
        Arc::new(Self {
            faults,
            sessions: Mutex::default(),
            policies: Mutex::default(),
            publications: AtomicUsize::new(0),
            room: AtomicUsize::new(usize::MAX / 4),
            slow: AtomicBool::new(false),
            asked: Notify::new(),
            go: Notify::new(),
            slow_publication: AtomicBool::new(false),
        })
    }

    /// Every session that was ever made.
    pub fn sessions(&self) -> Vec<Session> {
        self.sessions.lock().unwrap().clone()
    }

    /// Whether a call with a session is refused.
    pub fn denies(&self, session: &Session, now: Timestamp) -> bool {
        let policies = self.policies.lock().unwrap();
        let (_, Some(deny)) = denial(&session.role) else { return session.expires_at <= now };
        let entries = policies.get(&deny).map(Vec::as_slice).unwrap_or_default();
        let named = match deny.by {
            DenyBy::SessionTag | DenyBy::SessionName => entries.iter().any(|entry| entry.serial == session.lease.to_hex()),
            DenyBy::IssueTime => entries.iter().any(|entry| session.issued_at <= entry.revoked_at),
        };
        named || session.expires_at <= now
    }

    /// What a policy says.
    pub fn policy(&self, by: DenyBy) -> Vec<RevokedSerial> {
        self.policies.lock().unwrap().get(&list(by)).cloned().unwrap_or_default()
    }

    /// Somebody changes a policy by hand.
    pub fn tamper(&self, by: DenyBy, revoked: Vec<RevokedSerial>) {
        self.policies.lock().unwrap().insert(list(by), revoked);
    }

    /// How often a policy was written.
    pub fn publications(&self) -> usize {
        self.publications.load(Ordering::SeqCst)
    }

    fn fault() -> Error {
        Error::new(Code::IssuerUnavailable, "injected at the remote system")
    }
}

#[async_trait]
impl Issuer for Cloud {
    fn reserve(&self, order: &Order<'_>) -> Result<Option<Reservation>> {
        let (reach, deny) = denial(&order.grant.role().name);
        let (RoleSpec::Aws(spec) | RoleSpec::Ecr(spec)) = &order.grant.role().spec else { panic!("no role of AWS") };
        let handle = Handle::Aws { deny, role_arn: spec.role_arn.clone(), session: order.lease.to_hex(), key_id: None };
        Ok(Some(Reservation { handle, expires_at: ends_at(order, &spec.role_arn)? + AWS_CALL_MARGIN, reach }))
    }

    async fn mint(&self, order: &Order<'_>) -> Result<Minted, NotMinted> {
        if self.slow.load(Ordering::SeqCst) {
            self.asked.notify_one();
            self.go.notified().await;
        }
        // Who crashes while it is asked leaves it to finish or not.
        tokio::task::yield_now().await;
        let fault = self.faults.due("mint");
        if fault == Some(When::Before) {
            return Err(NotMinted { error: Self::fault(), maybe_made: false });
        }
        if self.faults.due("mint_unheard").is_some() {
            return Err(NotMinted { error: Self::fault(), maybe_made: true });
        }
        let reservation = self.reserve(order)?.expect("it always reserves");
        let expires_at = reservation.expires_at - AWS_CALL_MARGIN + SignedDuration::from_secs(1);
        let key_id = {
            let mut sessions = self.sessions.lock().unwrap();
            let key_id = format!("ASIA{}", sessions.len());
            let role = order.grant.role().name.clone();
            sessions.push(Session { lease: order.lease, role, key_id: key_id.clone(), issued_at: order.now, expires_at });
            key_id
        };
        tokio::task::yield_now().await;
        if fault == Some(When::After) {
            return Err(NotMinted { error: Self::fault(), maybe_made: true });
        }
        let Handle::Aws { deny, role_arn, session, .. } = reservation.handle else { unreachable!() };
        Ok(Minted {
            credential: Credential::Aws(AwsCredential {
                access_key_id: key_id.clone(),
                secret_access_key: Secret::new("secret".to_owned()),
                session_token: Secret::new("token".to_owned()),
                expires_at,
                region: "eu-central-1".to_owned(),
            }),
            handle: Handle::Aws { deny, role_arn, session, key_id: Some(key_id) },
            expires_at,
            reach: reservation.reach,
        })
    }

    async fn remint(&self, _order: &Order<'_>, _lease: &Lease) -> Result<Again> {
        Ok(Again::Never)
    }
}

#[async_trait]
impl DenyDesk for Cloud {
    fn lists(&self) -> Vec<AwsDeny> {
        vec![list(DenyBy::SessionTag), list(DenyBy::IssueTime)]
    }

    fn knows(&self, list: &AwsDeny) -> bool {
        list.aws.as_str() == "main"
    }

    async fn publish(&self, list: &AwsDeny, revoked: &[RevokedSerial], _now: Timestamp) -> Result<()> {
        tokio::task::yield_now().await;
        let fault = self.faults.due("publish");
        if self.slow_publication.swap(false, Ordering::SeqCst) {
            self.asked.notify_one();
            self.go.notified().await;
        }
        let fit = self.room(list).unwrap_or(usize::MAX).min(revoked.len());
        if fault != Some(When::Before) {
            self.policies.lock().unwrap().insert(list.clone(), revoked[..fit].to_vec());
            self.publications.fetch_add(1, Ordering::SeqCst);
        }
        if fit < revoked.len() {
            return Err(Self::fault());
        }
        tokio::task::yield_now().await;
        fault.map_or(Ok(()), |_| Err(Self::fault()))
    }

    async fn agrees(&self, list: &AwsDeny, revoked: &[RevokedSerial], _now: Timestamp) -> Result<bool> {
        if self.faults.due("agrees").is_some() {
            return Err(Self::fault());
        }
        let serials =
            |entries: &[RevokedSerial]| entries.iter().map(|entry| entry.serial.clone()).collect::<std::collections::BTreeSet<_>>();
        Ok(serials(self.policies.lock().unwrap().get(list).map(Vec::as_slice).unwrap_or_default()) == serials(revoked))
    }

    fn room(&self, list: &AwsDeny) -> Option<usize> {
        (list.by != DenyBy::IssueTime).then(|| self.room.load(Ordering::SeqCst))
    }

    fn settled_at(&self, _list: &AwsDeny, published_at: Timestamp) -> Timestamp {
        published_at + SETTLES_IN
    }
}

/// When a session ends if the call takes no time. One that is renewed is bound by its lease's end, is for the same IAM role, and not short.
fn ends_at(order: &Order<'_>, role_arn: &str) -> Result<Timestamp> {
    let Some(earlier) = order.earlier else { return Ok(order.grant.expires_at()) };
    let latest = order.grant.renew_until() - AWS_CALL_MARGIN;
    let ends_at = order.grant.expires_at().min(latest);
    let same_role = matches!(earlier, Handle::Aws { role_arn: before, .. } if before == role_arn);
    let short = ends_at.as_second() - order.now.as_second() < AWS_SHORTEST_SESSION.as_secs();
    if short || !same_role {
        return Err(Error::new(Code::NotRenewable, "the remote system makes no such session under this lease; issue a new one"));
    }
    Ok(ends_at)
}

/// Whether a record at a store covers a session: it says for long enough that the session may live.
pub fn covers(lease: &Lease, session: &Session) -> bool {
    lease.id == session.lease && lease.expires_at + AWS_LEEWAY >= session.expires_at
}
