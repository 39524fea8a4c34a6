//! The lists on which a revocation of a lease stands.

use std::collections::BTreeMap;

use super::{AWS_LEEWAY, Handle, Lease, LiveSerial, Serial};
use crate::model::{
    Timestamp,
    revocation::{RevocationList, RevokedSerial},
};

impl Lease {
    /// Where its revocation is published, and what stands there: a list for each CA under which a certificate of it lives. Empty where
    /// the store alone is asked, or nothing can be done.
    pub fn revocation(&self) -> BTreeMap<RevocationList, Vec<RevokedSerial>> {
        let revoked_at = self.revoked_at.unwrap_or(self.issued_at);
        let mut lists = BTreeMap::new();
        match &self.handle {
            Handle::X509 { ca, serials, .. } => {
                for LiveSerial { serial, not_after, ca: issued_by } in serials {
                    let list = RevocationList::Crl(issued_by.as_ref().unwrap_or(ca).clone());
                    let entry = RevokedSerial { serial: serial.clone(), revoked_at, not_after: *not_after };
                    lists.entry(list).or_insert_with(Vec::new).push(entry);
                }
            }
            Handle::Aws { deny: Some(deny), .. } => {
                let not_after = self.expires_at.checked_add(AWS_LEEWAY).unwrap_or(Timestamp::MAX);
                let entry = RevokedSerial { serial: self.id.to_hex(), revoked_at, not_after };
                lists.insert(RevocationList::Aws(deny.clone()), vec![entry]);
            }
            Handle::Aws { deny: None, .. } | Handle::Registry { .. } | Handle::Jwt { .. } => {}
        }
        lists
    }

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
}
