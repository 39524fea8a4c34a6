//! Where a revocation is published: the lists that a relying system reads.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    Timestamp,
    name::{AwsName, CaName},
};

/// A list of revoked credentials. The store keeps it under its text, and forgets an entry when its credential has expired.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RevocationList {
    /// The CRL of an issuing CA; entries are serials.
    Crl(CaName),
    /// A policy at an IAM role that denies; entries are lease ids (32 hex digits).
    Aws(AwsDeny),
    /// Leases that were revoked lately, whatever their kind, so that every server sees it at once; entries are lease ids (32 hex digits).
    Recent,
}

/// A policy at an IAM role that denies what was revoked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AwsDeny {
    /// The way into AWS by which the policy is written.
    pub aws: AwsName,
    /// What its conditions look at.
    pub by: DenyBy,
    /// The IAM role.
    pub role_arn: String,
}

/// What tells a revoked session from another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DenyBy {
    /// The session tag that names its lease.
    SessionTag,
    /// Its name, which holds its lease's id.
    SessionName,
    /// When it was issued: every older session of the role is denied with it.
    IssueTime,
}

impl DenyBy {
    /// Every way.
    pub const ALL: [Self; 3] = [Self::SessionTag, Self::SessionName, Self::IssueTime];

    /// Its name in the text of a list.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SessionTag => "session_tag",
            Self::SessionName => "session_name",
            Self::IssueTime => "issue_time",
        }
    }
}

/// A revoked credential on a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedSerial {
    /// What names it there, lower-case hex: a certificate's serial, or a lease's id.
    pub serial: String,
    /// When its revocation was acknowledged (millisecond resolution).
    pub revoked_at: Timestamp,
    /// When it expires; the list may forget it after that (whole seconds).
    pub not_after: Timestamp,
}

impl From<CaName> for RevocationList {
    fn from(ca: CaName) -> Self {
        Self::Crl(ca)
    }
}

/// A CA's name alone, `aws:<way into AWS>:<by>:<ARN of the role>`, or `recent:leases`: no CA's name holds a colon.
impl fmt::Display for RevocationList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crl(ca) => f.write_str(ca.as_str()),
            Self::Recent => f.write_str(RECENT),
            Self::Aws(AwsDeny { aws, by, role_arn }) => write!(f, "aws:{aws}:{}:{role_arn}", by.as_str()),
        }
    }
}

/// The text of [`RevocationList::Recent`].
const RECENT: &str = "recent:leases";

/// A text that names no list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no revocation list")]
pub struct BadRevocationList(String);

impl FromStr for RevocationList {
    type Err = BadRevocationList;

    fn from_str(text: &str) -> Result<Self, BadRevocationList> {
        let bad = || BadRevocationList(text.to_owned());
        if text == RECENT {
            return Ok(Self::Recent);
        }
        let Some(rest) = text.strip_prefix("aws:") else {
            return text.parse().map(Self::Crl).map_err(|_| bad());
        };
        let mut parts = rest.splitn(3, ':');
        let (Some(aws), Some(by), Some(role_arn)) = (parts.next(), parts.next(), parts.next()) else { return Err(bad()) };
        let by = DenyBy::ALL.into_iter().find(|known| known.as_str() == by).ok_or_else(bad)?;
        Ok(Self::Aws(AwsDeny { aws: aws.parse().map_err(|_| bad())?, by, role_arn: role_arn.to_owned() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lists_text_is_its_name() {
        let deny = AwsDeny {
            aws: "main".parse().unwrap(),
            by: DenyBy::SessionTag,
            role_arn: "arn:aws:iam::123456789012:role/ci/deploy".to_owned(),
        };
        for (list, text) in [
            (RevocationList::Crl("issuing".parse().unwrap()), "issuing"),
            (RevocationList::Recent, "recent:leases"),
            (RevocationList::Aws(deny), "aws:main:session_tag:arn:aws:iam::123456789012:role/ci/deploy"),
        ] {
            assert_eq!(list.to_string(), text);
            assert_eq!(text.parse::<RevocationList>().unwrap(), list);
        }
        for bad in
            ["", "A", "recent:", "recent:leases:", "aws:main", "aws:main:session_tag", "aws:main:nothing:arn", "aws:M:session_tag:arn"]
        {
            assert!(bad.parse::<RevocationList>().is_err(), "{bad}");
        }
    }
}
