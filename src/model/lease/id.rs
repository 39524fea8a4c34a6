//! A lease's id, and the partition that it names.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::{Timestamp, name::TenantName};

/// How many partitions a store spreads tenants over. All leases of a tenant lie in one, so that caps, replays and
/// indexes change in one atomic step, also where a cluster keeps partitions on different nodes. Part of the stored
/// format: it cannot change without a migration.
pub const PARTITIONS: u8 = 16;

/// A lease's id: a UUID of version 7, so that ids sort by time of issue. Its last four bits are its partition.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseId(uuid::Uuid);

impl LeaseId {
    /// A new id for a lease of `tenant` issued at `at`, from 10 random bytes.
    pub fn new(at: Timestamp, random: [u8; 10], tenant: &TenantName) -> Self {
        let millis = u64::try_from(at.as_millisecond()).unwrap_or(0);
        let mut bytes = *uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().as_bytes();
        bytes[15] = (bytes[15] & 0xf0) | partition_of(tenant);
        Self(uuid::Uuid::from_bytes(bytes))
    }

    /// The smallest id that could have been issued at `at`; every lease issued before has a smaller one.
    pub fn floor(at: Timestamp) -> Self {
        let millis = u64::try_from(at.as_millisecond()).unwrap_or(0);
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
        Self(uuid::Uuid::from_bytes(bytes))
    }

    /// Where the lease lies: 0 to `PARTITIONS - 1`.
    pub fn partition(self) -> u8 {
        self.0.as_bytes()[15] & 0x0f
    }

    /// The id as 32 lower-case hex digits.
    pub fn to_hex(self) -> String {
        self.0.as_simple().to_string()
    }

    /// The id as 16 bytes, in the order of time.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id from 16 bytes, as stored.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(uuid::Uuid::from_bytes(bytes))
    }
}

/// The partition in which all leases of a tenant lie (FNV-1a over the name, folded to four bits).
pub fn partition_of(tenant: &TenantName) -> u8 {
    let hash = tenant.as_str().bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let folded = hash ^ (hash >> 16);
    let folded = folded ^ (folded >> 8);
    ((folded ^ (folded >> 4)) & 0x0f) as u8
}

/// A text that is no lease id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a lease id is a UUID of 36 characters, for example 0192f0c1-7b5a-7000-8000-000000000000")]
pub struct BadLeaseId;

impl std::str::FromStr for LeaseId {
    type Err = BadLeaseId;
    fn from_str(text: &str) -> Result<Self, BadLeaseId> {
        if text.len() != 36 {
            return Err(BadLeaseId);
        }
        uuid::Uuid::try_parse(text).map(Self).map_err(|_| BadLeaseId)
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
