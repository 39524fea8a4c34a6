//! The names of keys. The hash tag (the part in braces) is what Redis Cluster places a key by, so everything with one tag
//! lies on one node and can change in one script.

use aws_lc_rs::digest::{SHA256, digest};

use crate::model::{
    error::{Code, Error},
    identity::Subject,
    lease::PARTITIONS,
    name::{CaName, TenantName},
};

/// The longest prefix, in bytes.
pub const MAX_PREFIX: usize = 64;

/// The stems of all keys under one prefix.
pub struct Keys {
    prefix: String,
    partitions: Vec<String>,
}

impl Keys {
    /// Keys under a prefix of 1 to [`MAX_PREFIX`] characters of `[A-Za-z0-9:._-]`; a brace in it would move the hash tag.
    pub fn new(prefix: &str) -> Result<Self, Error> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'.' | b'_' | b'-');
        if prefix.is_empty() || prefix.len() > MAX_PREFIX || !prefix.bytes().all(legal) {
            let text = format!("the prefix of the Redis keys is 1 to {MAX_PREFIX} characters of [A-Za-z0-9:._-]");
            return Err(Error::new(Code::StoreUnavailable, text));
        }
        let partitions = (0..PARTITIONS).map(|partition| format!("{prefix}:{{{partition:02}}}:")).collect();
        Ok(Self { prefix: prefix.to_owned(), partitions })
    }

    /// The stem of a partition's keys.
    pub fn partition(&self, partition: u8) -> &str {
        &self.partitions[usize::from(partition % PARTITIONS)]
    }

    /// The hash of a partition's records.
    pub fn records(&self, partition: u8) -> String {
        format!("{}l", self.partition(partition))
    }

    /// What tells a partition's data from an emptied one.
    pub fn epoch(&self, partition: u8) -> String {
        format!("{}epoch", self.partition(partition))
    }

    /// The stem of a CA's revocation list.
    pub fn ca(&self, ca: &CaName) -> String {
        format!("{}:{{crl:{ca}}}:", self.prefix)
    }

    /// The revision of a CA's revocation list.
    pub fn ca_revision(&self, ca: &CaName) -> String {
        format!("{}rev", self.ca(ca))
    }

    /// The last CRL number of a CA.
    pub fn ca_number(&self, ca: &CaName) -> String {
        format!("{}num", self.ca(ca))
    }

    /// The set of CAs that have a revocation list.
    pub fn cas(&self) -> String {
        format!("{}:{{crl}}:cas", self.prefix)
    }
}

/// What stands for a subject in an index.
pub fn subject_digest(subject: &Subject) -> [u8; 12] {
    first(subject.as_str())
}

/// What stands for a caller (tenant and subject) in an index: the subject's digest, then the tenant's.
pub fn caller_digest(tenant: &TenantName, subject: &Subject) -> [u8; 16] {
    let mut caller = [0; 16];
    caller[..12].copy_from_slice(&subject_digest(subject));
    caller[12..].copy_from_slice(&first::<4>(tenant.as_str()));
    caller
}

fn first<const N: usize>(text: &str) -> [u8; N] {
    let digest = digest(&SHA256, text.as_bytes());
    let mut head = [0; N];
    head.copy_from_slice(&digest.as_ref()[..N]);
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_that_would_move_the_hash_tag_is_refused() {
        for bad in ["", "a{b}", "a}", "a b", "ä", &"a".repeat(MAX_PREFIX + 1)] {
            assert!(Keys::new(bad).is_err(), "{bad:?} was taken");
        }
        let keys = Keys::new("daypass").unwrap();
        assert_eq!(keys.partition(7), "daypass:{07}:");
        assert_eq!(keys.ca(&"main".parse().unwrap()), "daypass:{crl:main}:");
    }
}
