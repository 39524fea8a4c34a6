//! The names of keys. The hash tag (the part in braces) is what Redis Cluster places a key by, so everything with one tag
//! lies on one node and can change in one script.

use aws_lc_rs::digest::{SHA256, digest};

use crate::{
    model::{
        error::{Code, Error},
        identity::Subject,
        lease::{LeaseId, PARTITIONS},
        name::TenantName,
        revocation::RevocationList,
    },
    store::Collection,
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

    /// The stem of a revocation list.
    pub fn list(&self, list: &RevocationList) -> String {
        format!("{}:{{crl:{list}}}:", self.prefix)
    }

    /// The revision of a revocation list.
    pub fn list_revision(&self, list: &RevocationList) -> String {
        format!("{}rev", self.list(list))
    }

    /// The stem of a collection.
    pub fn collection(&self, collection: Collection) -> String {
        format!("{}:{{shared:{}}}:", self.prefix, collection.as_str())
    }

    /// The hash of a collection's entries.
    pub fn entries(&self, collection: Collection) -> String {
        format!("{}e", self.collection(collection))
    }

    /// The revision of a collection.
    pub fn collection_revision(&self, collection: Collection) -> String {
        format!("{}rev", self.collection(collection))
    }

    /// The set of revocation lists.
    pub fn lists(&self) -> String {
        format!("{}:{{crl}}:cas", self.prefix)
    }
}

/// An id as its partition keeps it: what a UUID of version 7 fixes (version, variant), what the partition says, and the six
/// highest bits of the time, zero until 2109, are left out. Packed ids have the order of ids. Redis rounds each
/// copy of 14 bytes up to 16, and of 16 to 32.
pub type PackedId = [u8; 14];

const VERSION_AND_VARIANT: u128 = 0x7 << 76 | 0b10 << 62;

/// The packed form; none for an id that no lease can have.
pub fn pack(id: LeaseId) -> Option<PackedId> {
    let packed = pack_bound(id);
    (unpack(packed, id.partition()) == id).then_some(packed)
}

/// The packed form of an id that only marks a place in their order.
pub fn pack_bound(id: LeaseId) -> PackedId {
    let id = u128::from_be_bytes(*id.as_bytes());
    let (time, high, low) = (id >> 80, (id >> 64) & 0xfff, (id >> 4) & ((1 << 58) - 1));
    let packed = if time >> 42 == 0 { time << 70 | high << 58 | low } else { (1 << 112) - 1 };
    let mut bytes = PackedId::default();
    bytes.copy_from_slice(&packed.to_be_bytes()[2..]);
    bytes
}

/// The id of a packed one.
pub fn unpack(packed: PackedId, partition: u8) -> LeaseId {
    let mut bytes = [0; 16];
    bytes[2..].copy_from_slice(&packed);
    let packed = u128::from_be_bytes(bytes);
    let (time, high, low) = (packed >> 70, (packed >> 58) & 0xfff, packed & ((1 << 58) - 1));
    LeaseId::from_bytes((time << 80 | high << 64 | low << 4 | VERSION_AND_VARIANT | u128::from(partition & 0x0f)).to_be_bytes())
}

/// What stands for a subject in an index.
pub fn subject_digest(subject: &Subject) -> [u8; 11] {
    first(subject.as_str())
}

/// What stands for a caller (tenant and subject) in an index: the subject's digest, then the tenant's.
pub fn caller_digest(tenant: &TenantName, subject: &Subject) -> [u8; 14] {
    let mut caller = [0; 14];
    caller[..11].copy_from_slice(&subject_digest(subject));
    caller[11..].copy_from_slice(&first::<3>(tenant.as_str()));
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
    use proptest::prelude::*;

    use super::*;
    use crate::model::Timestamp;

    fn id(millis: i64, random: [u8; 10], tenant: &str) -> LeaseId {
        LeaseId::new(Timestamp::from_millisecond(millis).unwrap(), random, &tenant.parse().unwrap())
    }

    proptest! {
        #[test]
        fn packed_ids_are_the_ids_in_their_order(
            a in (0..(1_i64 << 42), any::<[u8; 10]>()), b in (0..(1_i64 << 42), any::<[u8; 10]>()), tenant in "[a-z]{1,9}"
        ) {
            let (a, b) = (id(a.0, a.1, &tenant), id(b.0, b.1, &tenant));
            let (packed_a, packed_b) = (pack(a).unwrap(), pack(b).unwrap());
            prop_assert_eq!(unpack(packed_a, a.partition()), a);
            prop_assert_eq!(packed_a.cmp(&packed_b), a.cmp(&b));
        }

        #[test]
        fn a_bound_in_time_parts_the_packed_ids_as_it_parts_the_ids(millis in 0..(1_i64 << 42), random in any::<[u8; 10]>(), bound in 0..(1_i64 << 47)) {
            let (id, floor) = (id(millis, random, "acme"), LeaseId::floor(Timestamp::from_millisecond(bound).unwrap()));
            prop_assert_eq!(pack(id).unwrap() < pack_bound(floor), id < floor);
        }
    }

    #[test]
    fn an_id_that_no_lease_can_have_does_not_pack() {
        for bytes in [[0; 16], [0xff; 16], *b"0123456789abcdef"] {
            assert_eq!(pack(LeaseId::from_bytes(bytes)), None);
        }
        assert_eq!(pack(id(1 << 42, [7; 10], "acme")), None);
    }

    #[test]
    fn a_prefix_that_would_move_the_hash_tag_is_refused() {
        for bad in ["", "a{b}", "a}", "a b", "ä", &"a".repeat(MAX_PREFIX + 1)] {
            assert!(Keys::new(bad).is_err(), "{bad:?} was taken");
        }
        let keys = Keys::new("daypass").unwrap();
        assert_eq!(keys.partition(7), "daypass:{07}:");
        assert_eq!(keys.list(&RevocationList::Crl("main".parse().unwrap())), "daypass:{crl:main}:");
    }
}
