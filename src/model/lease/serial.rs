//! The serial number of a certificate: one that was made under a lease names it, so that the certificate alone tells which lease it is of.

use std::{collections::BTreeMap, fmt};

use super::{Handle, Lease, LeaseId};
use crate::model::{
    hex,
    revocation::{RevocationList, RevokedSerial},
};

/// How many bytes a serial has: the most that RFC 5280 section 4.1.2.2 allows.
pub const SERIAL_BYTES: usize = 20;

/// In the first byte: the serial names a lease. The bit above is the sign, and never set.
const OF_LEASE: u8 = 0x40;

/// A certificate's serial number: positive, the first byte not zero, so that DER, hex and every other spelling of it have one length.
///
/// One that names a lease is `01xxxxxx` (six random bits), the lease's id (16 bytes), the low 16 bits of the generation, and another random
/// byte. What signatures over SHA-256 need is that it is unique; at the first certificate 70 bits of the id are unforeseen besides.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Serial([u8; SERIAL_BYTES]);

impl Serial {
    /// The serial of the certificate of a generation under a lease, from two random bytes.
    pub fn of_lease(lease: LeaseId, generation: u32, random: [u8; 2]) -> Self {
        let [a, b] = random;
        let [.., high, low] = generation.to_be_bytes();
        let mut bytes = [0; SERIAL_BYTES];
        bytes[0] = OF_LEASE | (a & 0x3f);
        bytes[1..17].copy_from_slice(lease.as_bytes());
        bytes[17..].copy_from_slice(&[high, low, b]);
        Self(bytes)
    }

    /// A serial that names no lease, from random bytes.
    pub fn from_random(mut bytes: [u8; SERIAL_BYTES]) -> Self {
        bytes[0] = (bytes[0] & 0x3f).max(1);
        Self(bytes)
    }

    /// The serial from a handle's or a certificate's hex; none if it is of another length, which is none of ours.
    pub fn from_hex(text: &str) -> Option<Self> {
        let bytes: [u8; SERIAL_BYTES] = hex::decode(text)?.try_into().ok()?;
        (1..0x80).contains(&bytes[0]).then_some(Self(bytes))
    }

    /// The lease that it names. Whoever has a CA of its own can write any serial: what a certificate of a foreign CA names means nothing.
    pub fn lease(&self) -> Option<LeaseId> {
        if self.0[0] & OF_LEASE == 0 {
            return None;
        }
        let mut id = [0; 16];
        id.copy_from_slice(&self.0[1..17]);
        Some(LeaseId::from_bytes(id))
    }

    /// The generation of the lease whose certificate it is, given the newest one: the serial has its low bits only.
    pub fn generation(&self, newest: u32) -> u32 {
        let low = u32::from(u16::from_be_bytes([self.0[17], self.0[18]]));
        let same_high = (newest & !0xffff) | low;
        if same_high > newest { same_high.saturating_sub(0x1_0000) } else { same_high }
    }

    /// Its bytes, big-endian.
    pub fn as_bytes(&self) -> &[u8; SERIAL_BYTES] {
        &self.0
    }

    /// Lower-case hex, 40 characters.
    pub fn to_hex(self) -> String {
        hex::encode(&self.0)
    }
}

impl Lease {
    /// The certificates of an enrolled agent that a newer acknowledged one has superseded, and the list that names them: its holder shows
    /// them no more, so whoever does is another one. None of any other lease.
    pub fn superseded(&self) -> BTreeMap<RevocationList, Vec<RevokedSerial>> {
        if !self.enrolled {
            return BTreeMap::new();
        }
        let is_older = |entry: &RevokedSerial| {
            Serial::from_hex(&entry.serial).is_some_and(|serial| serial.generation(self.generation) < self.acknowledged)
        };
        let mut lists = self.revocation();
        for entries in lists.values_mut() {
            entries.retain(is_older);
            entries.iter_mut().for_each(|entry| entry.revoked_at = self.made_at());
        }
        lists.retain(|_, entries| !entries.is_empty());
        lists
    }

    /// Whether the holder of an enrolled lease may show the certificate of this generation: the newest, or the one that it acknowledged.
    ///
    /// A renewal acknowledges the generation that it was asked for with, and no other can be acknowledged than the newest. So each one that is
    /// newer than what was acknowledged was made for who showed just that, and had none of the others: it comes back for another one when an
    /// answer was lost. Who shows one in between got an answer that the other one never had, and is another holder.
    pub fn may_be_shown(&self, generation: u32) -> bool {
        generation == self.generation || generation == self.acknowledged
    }

    /// The generation of the certificate with this serial (lower-case hex), if it is one of those that live under this lease.
    pub fn generation_of(&self, serial: &str) -> Option<u32> {
        let Handle::X509 { serials, .. } = &self.handle else { return None };
        let live = serials.iter().find(|live| live.serial == serial)?;
        Some(Serial::from_hex(&live.serial)?.generation(self.generation))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_serial_names_its_lease_and_its_generation(id: [u8; 16], generation: u32, later in 0_u32..0xffff, random: [u8; 2]) {
            let lease = LeaseId::from_bytes(id);
            let serial = Serial::of_lease(lease, generation, random);
            prop_assert!((0x40..0x80).contains(&serial.as_bytes()[0]), "positive, and of one length");
            prop_assert_eq!(Serial::from_hex(&serial.to_hex()), Some(serial));
            prop_assert_eq!(serial.lease(), Some(lease));
            prop_assert_eq!(serial.generation(generation.saturating_add(later)), generation);
        }

        #[test]
        fn a_random_one_names_none(random: [u8; SERIAL_BYTES]) {
            let serial = Serial::from_random(random);
            prop_assert_eq!(serial.lease(), None);
            prop_assert!((1..0x40).contains(&serial.as_bytes()[0]));
            prop_assert_eq!(Serial::from_hex(&serial.to_hex()), Some(serial));
        }
    }

    #[test]
    fn what_is_no_serial_of_ours() {
        for bad in ["", "00", &"0".repeat(40), &"f".repeat(40), &"A1".repeat(20), &"1".repeat(39), &"1".repeat(32), &"1".repeat(42)] {
            assert_eq!(Serial::from_hex(bad), None, "{bad}");
        }
    }
}
