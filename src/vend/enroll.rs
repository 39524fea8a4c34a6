//! First identities: single-use codes for agents that have no certificate yet. A code is answered once and kept as a hash only.

use std::{collections::HashMap, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::{sync::Semaphore, time::timeout};
use zeroize::Zeroizing;

use super::{
    Call, Issued, Origin, Vend, defect,
    record::{About, event_from, event_of},
    watch::LONGEST_TURN,
};
use crate::{
    clock,
    model::{
        SignedDuration, Timestamp,
        enrollment::{DEFAULT_ENROLLMENT_TTL, Enrolled, Enrollment, EnrollmentId, MAX_ENROLLMENT_TTL, MIN_ENROLLMENT_TTL},
        error::{Code, Error, Result},
        event::{Event, Outcome},
        hex,
        identity::{Identity, MAX_LEEWAY, Proof},
        lease::LeaseState,
        name::{AgentName, RoleName, TenantName},
        request::Input,
        secret::Secret,
    },
    policy::Denial,
    store::{Collection, Entry, EntryStore, TokenUseKey},
};

/// The most codes of one tenant that may wait to be redeemed. Two servers that count at the same moment may let one more pass.
pub const MAX_OPEN_ENROLLMENTS: usize = 1_000;

/// The most that a list answers.
pub const MAX_LISTED_ENROLLMENTS: usize = 1_000;

/// What every code begins with, so that scanners for secrets find one that went astray.
pub const CODE_PREFIX: &str = "dpe_";

/// Codes that are redeemed at one server at once. Whoever asks need not be known yet: what they ask of the store must not keep it from others.
pub const REDEEMED_AT_ONCE: usize = 32;

/// How many random bytes a code has.
const CODE_BYTES: usize = 32;

/// The one answer to a code that gives nothing, whatever the reason.
pub const ENROLLMENT_REFUSED: &str =
    "the enrolment code is unknown, was redeemed with another key, or is past its time; ask the operators for a new one";

/// What a code is to be made for.
pub struct NewEnrollment {
    /// The tenant that the agent will belong to.
    pub tenant: TenantName,
    /// The role.
    pub role: RoleName,
    /// The agent's name; the enrolment's id when absent.
    pub name: Option<AgentName>,
    /// How long the code can be redeemed; [`DEFAULT_ENROLLMENT_TTL`] when absent.
    pub ttl: Option<SignedDuration>,
}

/// A code that was made.
pub struct CreatedEnrollment {
    /// What it stands for.
    pub enrollment: Enrollment,
    /// The code.
    pub code: Secret,
}

/// The codes, over the store that all servers share.
pub struct Enrollments {
    vend: Arc<Vend>,
    entries: Arc<dyn EntryStore>,
    turns: Semaphore,
}

impl Enrollments {
    /// The codes of a heart, over the same store.
    pub fn new(vend: Arc<Vend>, entries: Arc<dyn EntryStore>) -> Self {
        Self { vend, entries, turns: Semaphore::new(REDEEMED_AT_ONCE) }
    }

    /// Makes a code, if policy lets the caller, and what it gives would be taken here.
    ///
    /// # Errors
    /// `InvalidRequest` for the ttl; as [`crate::policy::PolicyBook::decide_enroll`]; `LeaseCap` when as many codes of the tenant wait as
    /// may; `StoreUnavailable`, `AuditUnavailable`.
    pub async fn create(&self, call: &Call, new: NewEnrollment) -> Result<CreatedEnrollment> {
        let now = self.vend.now();
        let role = new.role.clone();
        match self.try_create(call, new, now).await {
            Ok(created) => Ok(created),
            Err(NotCreated::Denied(denial)) => Err(self.vend.denied(call, about(&role), *denial, now).await),
            Err(NotCreated::Failed(error)) => Err(self.vend.ended(call, about(&role), error, now).await),
        }
    }

    async fn try_create(&self, call: &Call, new: NewEnrollment, now: Timestamp) -> Result<CreatedEnrollment, NotCreated> {
        // 1. Decide.
        let rules = self.vend.rules();
        let code = new_code();
        let key = Key::of(&code);
        let enrollment = enrollment(call, new, now)?;
        let wanted = identity(&enrollment, &key)?;
        let policies = rules.book.decide_enroll(&call.identity, &wanted, call.origin.peer_address, now).map_err(NotCreated::Denied)?;

        // 2. Keep what it stands for, under its hash.
        let others = self.all().await?;
        if others.iter().filter(|(_, other)| other.tenant == enrollment.tenant && other.is_open(now)).count() >= MAX_OPEN_ENROLLMENTS {
            return Err(full(&enrollment.tenant).into());
        }
        if !self.entries.write_entry(Collection::Enrollments, &entry(&key, 1, &enrollment)?).await? {
            return Err(
                Error::new(Code::LeaseCap, "no more enrolment codes can be kept now; try again when some are past their time").into()
            );
        }

        // 3. On record, then answer. A code that is not on record reached nobody.
        let event = Event {
            policy_version: Some(rules.book.version().to_string()),
            policies,
            ..about_enrollment(event_of(call, Outcome::Done, now), &enrollment)
        };
        self.vend.record(vec![event]).await?;
        Ok(CreatedEnrollment { enrollment, code })
    }

    /// The codes that wait to be redeemed, of a tenant or of all, oldest first: those that the caller might have made.
    pub async fn list(&self, call: &Call, tenant: Option<&TenantName>) -> Result<Vec<Enrollment>> {
        let now = self.vend.now();
        let found = match self.all().await {
            Ok(found) => found,
            Err(error) => return Err(self.vend.ended(call, About::default(), error, now).await),
        };
        let open = found.into_iter().map(|(_, enrollment)| enrollment).filter(|one| one.is_open(now));
        let mut listed: Vec<_> = open.filter(|one| tenant.is_none_or(|tenant| one.tenant == *tenant)).collect();
        let mut may = HashMap::new();
        listed.retain(|one| {
            *may.entry((one.tenant.clone(), one.role.clone())).or_insert_with(|| self.may(call, &one.tenant, &one.role, now).is_ok())
        });
        listed.sort_by_key(|one| one.id);
        listed.truncate(MAX_LISTED_ENROLLMENTS);
        let detail = vec![format!("{} enrolments", listed.len())];
        self.vend.record(vec![Event { detail, ..event_of(call, Outcome::Done, now) }]).await?;
        Ok(listed)
    }

    /// Takes a code back: once this has answered, nobody redeems it any more.
    ///
    /// # Errors
    /// `EnrollmentNotFound` when there is none that waits, or the caller may make none like it.
    pub async fn delete(&self, call: &Call, id: EnrollmentId) -> Result<()> {
        let now = self.vend.now();
        let error = match self.try_delete(call, id, now).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        Err(self.vend.ended(call, About::default(), error, now).await)
    }

    async fn try_delete(&self, call: &Call, id: EnrollmentId, now: Timestamp) -> Result<()> {
        let found = self.all().await?.into_iter().find(|(_, one)| one.id == id && one.is_open(now));
        let (entry, enrollment) = found.ok_or_else(|| not_found(format_args!("no open enrolment {id}")))?;
        if let Err(denial) = self.may(call, &enrollment.tenant, &enrollment.role, now) {
            return Err(not_found(&denial.error));
        }
        // Used up first: whoever redeems it at this moment is either before this, and then it is not open, or finds it used.
        let key = Key::from_hex(&entry.key).ok_or_else(|| defect("an enrolment without a hash as its key"))?;
        if !self.vend.store.use_token(&enrollment.tenant, &key.taken_back(&enrollment)).await? {
            return Err(not_found("it was redeemed"));
        }
        self.vend.record(vec![about_enrollment(event_of(call, Outcome::Done, now), &enrollment)]).await?;
        self.entries.delete_entry(Collection::Enrollments, &entry.key, entry.version).await?;
        Ok(())
    }

    /// Trades a code for a client certificate. The same code with a CSR for the same key gives the same certificate again while the code
    /// lives.
    ///
    /// # Errors
    /// `EnrollmentCode` with [`ENROLLMENT_REFUSED`], whatever is wrong with the code. That is not on record yet: guesses are bounded at the
    /// edge, and those within its bound go on record by [`Enrollments::refused`]. `Unavailable` when others redeem theirs for longer than
    /// [`LONGEST_TURN`]. Else what an issue can end with; then the code is as good as it was.
    pub async fn redeem(&self, origin: &Origin, code: &Secret, input: Input) -> Result<Issued> {
        let busy = |_| Error::new(Code::Unavailable, "too many codes are being redeemed here; try again, or another server");
        let _turn = timeout(LONGEST_TURN, self.turns.acquire()).await.map_err(busy)?.map_err(Error::internal)?;
        let now = self.vend.now();

        // 1. Find what it stands for.
        let key = Key::of(code);
        let found = self.entries.entry(Collection::Enrollments, &key.hex()).await?;
        let stored = found.ok_or_else(|| refused("there is no such code"))?;
        let enrollment = parse(&stored)?;
        if now >= enrollment.expires_at {
            return Err(refused(format_args!("enrolment {} is past its time", enrollment.id)));
        }
        if let Some(lease) = enrollment.redeemed
            && self.vend.find(lease).await.ok().is_none_or(|lease| lease.state != LeaseState::Active)
        {
            return Err(refused(format_args!("enrolment {} was redeemed, and its lease has ended", enrollment.id)));
        }

        // 2. Decide, make, put on record: as any issue, but that the code is used up with the lease, in one step.
        let call = Call { identity: Arc::new(identity(&enrollment, &key)?), origin: origin.clone() };
        let issued = self.vend.issue_first(&call, input).await?;

        // 3. Remember the lease with the code, so that it gives nothing once that has ended. Before the answer: who misses it asks again.
        if enrollment.redeemed.is_none() {
            self.redeemed(&stored, &Enrollment { redeemed: Some(issued.lease.id), ..enrollment }).await?;
        }
        Ok(issued)
    }

    async fn redeemed(&self, before: &Entry, enrollment: &Enrollment) -> Result<()> {
        let body = serde_json::to_vec(enrollment).map_err(Error::internal)?;
        let after = Entry { key: before.key.clone(), version: before.version + 1, body };
        if self.entries.write_entry(Collection::Enrollments, &after).await? {
            return Ok(());
        }
        // Another answer to the same request has written the same; or it was swept at this moment, and then nobody redeems it again.
        match self.entries.entry(Collection::Enrollments, &before.key).await? {
            Some(now) if parse(&now)?.redeemed != enrollment.redeemed => Err(defect("an enrolment was redeemed for two leases")),
            _ => Ok(()),
        }
    }

    /// Puts a refused code on record, and gives the error for the caller. The record says what was wrong, and never the code.
    pub async fn refused(&self, origin: &Origin, error: Error) -> Error {
        let outcome = if error.code().is_refusal() { Outcome::Denied } else { Outcome::Failed };
        let event = Event {
            reason: Some(error.code().as_str().into()),
            detail: vec![error.cause().unwrap_or(error.public()).to_owned()],
            ..event_from(origin, outcome, self.vend.now())
        };
        self.vend.put_on_record(event, error).await
    }

    /// Forgets the codes that are past their time at `now`. Answers how many.
    pub async fn purge(&self, now: Timestamp) -> Result<usize> {
        let is_over = |one: &Enrollment| one.expires_at.checked_add(MAX_LEEWAY).is_ok_and(|end| end < now);
        let over: Vec<_> = self.all().await?.into_iter().filter(|(_, one)| is_over(one)).collect();
        for (entry, _) in &over {
            self.entries.delete_entry(Collection::Enrollments, &entry.key, entry.version).await?;
        }
        Ok(over.len())
    }

    /// The time by the clock that decisions use.
    pub fn now(&self) -> Timestamp {
        self.vend.now()
    }

    fn may(&self, call: &Call, tenant: &TenantName, role: &RoleName, now: Timestamp) -> Result<(), Box<Denial>> {
        self.vend.rules().book.may_enroll(&call.identity, tenant, role, call.origin.peer_address, now).map(drop)
    }

    async fn all(&self) -> Result<Vec<(Entry, Enrollment)>> {
        let entries = self.entries.entries(Collection::Enrollments).await?;
        entries.into_iter().map(|entry| Ok((parse(&entry)?, entry))).map(|read: Result<_>| read.map(|(one, entry)| (entry, one))).collect()
    }
}

/// Why no code was made.
enum NotCreated {
    Denied(Box<Denial>),
    Failed(Error),
}

impl From<Error> for NotCreated {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// SHA-256 of a code: all that is kept of it.
struct Key([u8; 32]);

impl Key {
    fn of(code: &Secret) -> Self {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, code.expose().as_bytes()).as_ref());
        Self(key)
    }

    fn from_hex(text: &str) -> Option<Self> {
        hex::decode(text)?.try_into().ok().map(Self)
    }

    fn hex(&self) -> String {
        hex::encode(&self.0)
    }

    /// Names the code among the uses of tokens.
    fn token_id(&self) -> [u8; 16] {
        first_16(&[b"enrollment", &self.0])
    }

    /// The use of the code by which it is taken back, which can be repeated.
    fn taken_back(&self, enrollment: &Enrollment) -> TokenUseKey {
        let retry = Some(first_16(&[b"enrollment-taken-back", &self.0]));
        let until = enrollment.expires_at.checked_add(MAX_LEEWAY).unwrap_or(Timestamp::MAX);
        TokenUseKey { key: self.token_id(), retry, until }
    }
}

fn first_16(parts: &[&[u8]]) -> [u8; 16] {
    let mut first = [0; 16];
    first.copy_from_slice(&digest(&SHA256, &parts.concat()).as_ref()[..16]);
    first
}

fn new_code() -> Secret {
    let random: Zeroizing<[u8; CODE_BYTES]> = Zeroizing::new(clock::random());
    let encoded = Zeroizing::new(URL_SAFE_NO_PAD.encode(*random));
    Secret::new(format!("{CODE_PREFIX}{}", *encoded))
}

fn enrollment(call: &Call, new: NewEnrollment, now: Timestamp) -> Result<Enrollment> {
    let NewEnrollment { tenant, role, name, ttl } = new;
    let ttl = ttl.unwrap_or(DEFAULT_ENROLLMENT_TTL);
    if ttl < MIN_ENROLLMENT_TTL || ttl > MAX_ENROLLMENT_TTL {
        let (low, high) = (MIN_ENROLLMENT_TTL.as_secs(), MAX_ENROLLMENT_TTL.as_secs());
        return Err(Error::new(Code::InvalidRequest, format!("a code can be redeemed for {low}s to {high}s, and {ttl:?} was asked for")));
    }
    let id = EnrollmentId::new(now, clock::random());
    let name = match name {
        Some(name) => name,
        None => id.to_string().parse().map_err(Error::internal)?,
    };
    let expires_at = now.checked_add(ttl).map_err(Error::internal)?;
    let created_by = call.identity.subject().clone();
    Ok(Enrollment { id, tenant, role, name, created_by, created_at: now, expires_at, redeemed: None })
}

/// Who redeems it.
fn identity(enrollment: &Enrollment, key: &Key) -> Result<Identity> {
    let enrolled = Enrolled::new(enrollment.clone(), key.token_id()).map_err(Error::internal)?;
    Ok(Identity { tenant: enrollment.tenant.clone(), proof: Proof::Enrollment(Box::new(enrolled)) })
}

fn entry(key: &Key, version: u64, enrollment: &Enrollment) -> Result<Entry> {
    Ok(Entry { key: key.hex(), version, body: serde_json::to_vec(enrollment).map_err(Error::internal)? })
}

fn parse(entry: &Entry) -> Result<Enrollment> {
    serde_json::from_slice(&entry.body)
        .map_err(|error| Error::internal(format_args!("the enrolment {} does not parse: {error}", entry.key)))
}

fn about(role: &RoleName) -> About<'_> {
    About { role: Some(role), ..About::default() }
}

fn about_enrollment(event: Event, enrollment: &Enrollment) -> Event {
    let Enrollment { id, tenant, role, name, expires_at, .. } = enrollment;
    Event {
        tenant: Some(tenant.clone()),
        role: Some(role.clone()),
        detail: vec![format!("enrolment {id}"), format!("agent {name}"), format!("until {expires_at}")],
        ..event
    }
}

pub(super) fn refused(why: impl std::fmt::Display) -> Error {
    Error::new(Code::EnrollmentCode, ENROLLMENT_REFUSED).because(why)
}

fn not_found(why: impl std::fmt::Display) -> Error {
    let text = "there is no such enrolment that waits to be redeemed, or you may not make one like it; `daypass enroll list` shows yours";
    Error::new(Code::EnrollmentNotFound, text).because(why)
}

fn full(tenant: &TenantName) -> Error {
    Error::new(
        Code::LeaseCap,
        format!("{MAX_OPEN_ENROLLMENTS} codes of the tenant {:?} wait to be redeemed, as many as may; take some back", tenant.as_str()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_has_its_form_and_is_another_one_each_time() {
        let (one, other) = (new_code(), new_code());
        let rest = one.expose().strip_prefix(CODE_PREFIX).unwrap();
        assert!(rest.len() == 43 && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)), "{rest}");
        assert!(one != other);
        assert_eq!(Key::from_hex(&Key::of(&one).hex()).unwrap().0, Key::of(&one).0);
        assert_ne!(Key::of(&one).token_id(), Key::of(&other).token_id());
    }
}
