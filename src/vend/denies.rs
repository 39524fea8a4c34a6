//! The published deny lists of remote systems: stated anew when a revocation asks for it, when another server changed the list, when
//! somebody else changed the policy there, and when an entry has lapsed.
//!
//! Several servers may publish one list at once, each from its own reading. So who has published reads the list's revision again, and
//! publishes again when it grew: whoever publishes last has read all that was acknowledged before. A server that crashes between the two
//! is made up for by the next look of any other.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, watch};

use super::{Vend, crl::PUBLISH_TIMEOUT};
use crate::model::{
    Timestamp,
    error::{Code, Error, Result},
    revocation::{AwsDeny, RevocationList, RevokedSerial},
};

/// How often in a row a list is published that keeps growing meanwhile; then its loop begins anew.
pub const MAX_ROUNDS: usize = 5;

/// How long a remote system may take to read or to write a policy.
pub const DENY_TIMEOUT: Duration = Duration::from_secs(30);

/// Of the room of a list: from this part on it is kept for revocations of others' sessions, see [`DenyLists::is_crowded`].
pub const CROWDED_PART: (usize, usize) = (1, 2);

/// Of the room of a list: from this part on there are no new sessions that it would have to deny.
pub const LAST_PART: (usize, usize) = (3, 4);

/// The deny lists that this server has to do with.
#[derive(Default)]
pub struct DenyLists {
    slots: Mutex<BTreeMap<AwsDeny, Arc<Slot>>>,
    grown: Notify,
}

#[derive(Default)]
struct Slot {
    /// Publications asked for so far; one publication serves all that asked before it began.
    wanted: AtomicU64,
    ring: Notify,
    served: watch::Sender<Served>,
    /// The list as it was read last, whether it could be published or not.
    listed: Mutex<Arc<Vec<RevokedSerial>>>,
}

impl Slot {
    fn listed(&self) -> MutexGuard<'_, Arc<Vec<RevokedSerial>>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the newest publication was.
#[derive(Debug, Clone, Default)]
struct Served {
    /// The newest `wanted` that it served.
    ticket: u64,
    published: Option<Arc<Published>>,
}

/// A list as the remote system acknowledged it.
#[derive(Debug)]
struct Published {
    /// The revision of the list.
    revision: u64,
    revoked: Arc<Vec<RevokedSerial>>,
    at: Timestamp,
}

impl DenyLists {
    /// Every list that has been met, by [`Vend::find_denies`] or by a revocation.
    pub fn known(&self) -> Vec<AwsDeny> {
        self.slots().keys().cloned().collect()
    }

    /// Resolves when a list was met for the first time.
    pub async fn grown(&self) {
        self.grown.notified().await;
    }

    /// Resolves when somebody asked for a publication of this list.
    pub async fn rung(&self, list: &AwsDeny) {
        self.slot(list).ring.notified().await;
    }

    /// Refuses a new session that could not be denied alone once it is revoked.
    pub(super) fn admit(&self, list: &AwsDeny, room: usize, now: Timestamp) -> Result<()> {
        let listed = self.listed(list, now);
        if !reaches(listed, room, LAST_PART) {
            return Ok(());
        }
        let why = format!(
            "{listed} sessions of {} were revoked and have not expired, and its policy has room for {room}: there are no new ones until some \
             have expired",
            list.role_arn
        );
        Err(Error::new(Code::LeaseCap, why))
    }

    /// Whether a list has only the room left that is kept for who must end sessions of others. What a holder gives back itself, or replaces,
    /// is not named there any more: else one caller could fill it, and put everybody else's sessions past revocation.
    pub(super) fn is_crowded(&self, list: &AwsDeny, room: usize, now: Timestamp) -> bool {
        reaches(self.listed(list, now), room, CROWDED_PART)
    }

    /// Whether a list, as it was read last, has more entries than its policy has room for.
    fn overflows(&self, list: &AwsDeny, room: usize, now: Timestamp) -> bool {
        self.listed(list, now) > room
    }

    /// Entries of a list that have not expired, as it was read last: another server's count within
    /// [`DENY_EVERY`](crate::background::DENY_EVERY).
    fn listed(&self, list: &AwsDeny, now: Timestamp) -> usize {
        self.slot(list).listed().iter().filter(|entry| entry.not_after > now).count()
    }

    fn slot(&self, list: &AwsDeny) -> Arc<Slot> {
        let mut slots = self.slots();
        if let Some(slot) = slots.get(list) {
            return slot.clone();
        }
        let slot = Arc::<Slot>::default();
        slots.insert(list.clone(), slot.clone());
        drop(slots);
        self.grown.notify_one();
        slot
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<AwsDeny, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a publication and waits until one that began afterwards is acknowledged. Answers when that was.
    pub(super) async fn publish(&self, list: &AwsDeny) -> Result<Timestamp> {
        let slot = self.slot(list);
        let mut served = slot.served.subscribe();
        let ticket = slot.wanted.fetch_add(1, Ordering::AcqRel) + 1;
        slot.ring.notify_one();
        let late = || Error::new(Code::Unavailable, "the revocation is recorded and on its way; AWS has not acknowledged its denial yet");
        let served = tokio::time::timeout(PUBLISH_TIMEOUT, served.wait_for(|served| served.ticket >= ticket)).await;
        let served = served.map_err(|_| late())?.map_err(|_| late())?;
        served.published.as_ref().map(|published| published.at).ok_or_else(late)
    }

    /// When this revision of a list was acknowledged; where it was not yet, asks for it and waits for nothing.
    pub(super) fn published_at(&self, list: &AwsDeny, revision: u64) -> Option<Timestamp> {
        let slot = self.slot(list);
        let published =
            slot.served.borrow().published.as_ref().filter(|published| published.revision == revision).map(|published| published.at);
        if published.is_none() {
            slot.ring.notify_one();
        }
        published
    }
}

impl Vend {
    /// Meets the lists of the configuration, and those that the store has from roles that were there before.
    pub async fn find_denies(&self) -> Result<()> {
        let rules = self.rules.load_full();
        for list in rules.issuers.aws.lists() {
            self.denies.slot(&list);
        }
        for list in self.store.revocation_lists().await? {
            if let RevocationList::Aws(list) = list
                && rules.issuers.aws.knows(&list)
            {
                self.denies.slot(&list);
            }
        }
        Ok(())
    }

    /// Publishes a deny list when somebody waits for it, and when the remote system has something else than what it says: entries that are
    /// new, that have lapsed by `now`, or that another hand changed. Answers whether it did. After a jump of the clock `now` is a time that
    /// can be trusted yet: a session that lives by AWS's clock must not come to life again by ours.
    pub async fn publish_deny(&self, list: &AwsDeny, now: Timestamp) -> Result<bool> {
        let rules = self.rules.load_full();
        let desk = &rules.issuers.aws;
        if !desk.knows(list) {
            return Ok(false);
        }
        let slot = self.denies.slot(list);
        for _ in 0..MAX_ROUNDS {
            let ticket = slot.wanted.load(Ordering::Acquire);
            let (revision, revoked) = self.deny_entries(list, &slot, now).await?;
            let revoked = Arc::new(revoked);
            *slot.listed() = revoked.clone();
            let waited_for = ticket > slot.served.borrow().ticket;
            let agrees = !waited_for && bounded(desk.agrees(list, &revoked, now)).await?;
            if !agrees {
                bounded(desk.publish(list, &revoked, now)).await?;
            }
            let published = Published { revision, revoked, at: self.clock.now() };
            slot.served.send_modify(|served| *served = Served { ticket, published: Some(published.into()) });
            // It may have been written over a newer one of another server.
            if agrees || self.store.revocation_revision(&RevocationList::Aws(list.clone())).await? == revision {
                return Ok(!agrees);
            }
        }
        slot.ring.notify_one();
        Ok(true)
    }

    /// Whether a list has more entries than its policy has room for: to write it again before some have lapsed changes nothing.
    pub fn deny_overflows(&self, list: &AwsDeny, now: Timestamp) -> bool {
        self.rules.load().issuers.aws.room(list).is_some_and(|room| self.denies.overflows(list, room, now))
    }

    /// What a list must deny. What was denied once stays so until it lapses, also when the store lost it and was not reconciled yet.
    async fn deny_entries(&self, list: &AwsDeny, slot: &Slot, now: Timestamp) -> Result<(u64, Vec<RevokedSerial>)> {
        let (revision, mut revoked) = self.store.revoked(&RevocationList::Aws(list.clone()), now).await?;
        // The policy is one for each role and kind of condition. What was revoked by a way into AWS of another name (it was renamed, or the
        // role moved to it) stays denied by whoever writes the policy now.
        for other in self.store.revocation_lists().await? {
            if let RevocationList::Aws(other) = other
                && other.aws != list.aws
                && (other.by, &other.role_arn) == (list.by, &list.role_arn)
            {
                revoked.extend(self.store.revoked(&RevocationList::Aws(other), now).await?.1);
            }
        }
        let before = slot.served.borrow().published.clone();
        let named: HashSet<String> = revoked.iter().map(|entry| entry.serial.clone()).collect();
        let before = before.iter().flat_map(|published| published.revoked.iter());
        revoked.extend(before.filter(|entry| entry.not_after > now && !named.contains(&entry.serial)).cloned());
        Ok((revision, revoked))
    }
}

async fn bounded<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = || Error::new(Code::IssuerUnavailable, "AWS does not answer in time");
    tokio::time::timeout(DENY_TIMEOUT, work).await.unwrap_or_else(|_| Err(late()))
}

/// Whether so many fill a part of a room.
fn reaches(count: usize, room: usize, (parts, of): (usize, usize)) -> bool {
    count * of >= room * parts
}
