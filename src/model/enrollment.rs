//! An enrolment: what a single-use code stands for, by which an agent that has no certificate gets its first one.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    SignedDuration, Timestamp,
    identity::{BadSubject, Subject},
    lease::LeaseId,
    name::{AgentName, RoleName, TenantName},
};

/// How long a code can be redeemed when nothing else is said.
pub const DEFAULT_ENROLLMENT_TTL: SignedDuration = SignedDuration::from_mins(10);

/// The shortest time that can be asked for.
pub const MIN_ENROLLMENT_TTL: SignedDuration = SignedDuration::from_secs(10);

/// The longest time that can be asked for.
pub const MAX_ENROLLMENT_TTL: SignedDuration = SignedDuration::from_hours(1);

/// Names an enrolment: a UUID of version 7, so that ids sort by the time when the code was made. It is no secret, and says nothing of the
/// code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EnrollmentId(uuid::Uuid);

impl EnrollmentId {
    /// An id from the time and 10 random bytes.
    pub fn new(at: Timestamp, random: [u8; 10]) -> Self {
        let millis = u64::try_from(at.as_millisecond()).unwrap_or(0);
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }
}

impl fmt::Display for EnrollmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that names no enrolment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an enrolment's id is a UUID of 36 characters, for example 0192f0c1-7b5a-7000-8000-000000000000")]
pub struct BadEnrollmentId;

impl FromStr for EnrollmentId {
    type Err = BadEnrollmentId;
    fn from_str(text: &str) -> Result<Self, BadEnrollmentId> {
        if text.len() != 36 {
            return Err(BadEnrollmentId);
        }
        uuid::Uuid::try_parse(text).map(Self).map_err(|_| BadEnrollmentId)
    }
}

/// What a code stands for. The code itself is not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrollment {
    /// Its id.
    pub id: EnrollmentId,
    /// The tenant that the agent will belong to.
    pub tenant: TenantName,
    /// The role whose certificate it gets.
    pub role: RoleName,
    /// The agent's name, for `{enrollment.name}`; the id where none was given.
    pub name: AgentName,
    /// Who made the code.
    pub created_by: Subject,
    /// When.
    pub created_at: Timestamp,
    /// Until when it can be redeemed.
    pub expires_at: Timestamp,
    /// The lease that it was redeemed for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redeemed: Option<LeaseId>,
}

impl Enrollment {
    /// Whether it waits to be redeemed.
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.redeemed.is_none() && now < self.expires_at
    }
}

/// Who redeems a code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// What the code stands for.
    pub enrollment: Enrollment,
    /// `enrollment:<id>`.
    pub subject: Subject,
    /// Names the code among the uses of tokens.
    pub token_id: [u8; 16],
}

impl Enrolled {
    /// Who redeems the code of this enrolment.
    ///
    /// # Errors
    /// None can happen: the form of an id is a subject's.
    pub fn new(enrollment: Enrollment, token_id: [u8; 16]) -> Result<Self, BadSubject> {
        let subject = Subject::try_from(format!("enrollment:{}", enrollment.id))?;
        Ok(Self { enrollment, subject, token_id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_and_read_back() {
        let at = |millis| EnrollmentId::new(Timestamp::from_millisecond(millis).unwrap(), [7; 10]);
        assert!(at(1_800_000_000_000) < at(1_800_000_000_001));
        assert_eq!(at(5).to_string().parse(), Ok(at(5)));
        for bad in ["", "x", &at(5).to_string().replace('-', ""), &format!("{{{}}}", at(5))] {
            assert_eq!(bad.parse::<EnrollmentId>(), Err(BadEnrollmentId), "{bad}");
        }
    }

    #[test]
    fn an_id_can_be_an_agents_name() {
        let id = EnrollmentId::new(Timestamp::UNIX_EPOCH, [0xff; 10]);
        assert_eq!(id.to_string().parse::<AgentName>().unwrap().as_str(), id.to_string());
    }
}
