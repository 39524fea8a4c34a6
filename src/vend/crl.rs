//! The published CRLs: made again when a revocation asks for it, when another server changed the list, and before they lapse.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, watch};

use super::Vend;
use crate::{
    issuer::x509::Standing,
    model::{
        SignedDuration, Timestamp,
        error::{Code, Error, Result},
        name::CaName,
        revocation::RevokedSerial,
    },
};

/// How long a revoke waits for its CRL before it answers that the revocation is still on its way.
pub const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);

/// A CRL as served.
#[derive(Debug, Clone)]
pub struct PublishedCrl {
    /// The CRL, DER.
    pub der: Vec<u8>,
    /// The certificate of the authority that signed it, DER.
    pub issuer: Vec<u8>,
    /// The certificates that it names.
    pub revoked: Vec<RevokedSerial>,
    /// Its number.
    pub number: u64,
    /// The revision of the revocation list that it shows.
    pub revision: u64,
    /// When it was made.
    pub this_update: Timestamp,
    /// When it lapses.
    pub next_update: Timestamp,
}

/// The CRLs of every issuing CA that is published: of a CA that rotates each key has its own.
pub struct CrlDesk {
    slots: Mutex<BTreeMap<CaName, Arc<Slot>>>,
    /// Counts how often the CAs changed.
    changed: watch::Sender<u64>,
}

struct Slot {
    /// Publications asked for so far; one publication serves all that asked before it began.
    wanted: AtomicU64,
    ring: Notify,
    /// The newest `wanted` that a publication has served.
    served: watch::Sender<u64>,
    published: watch::Sender<Option<Arc<PublishedCrl>>>,
}

impl Slot {
    fn new() -> Self {
        Self { wanted: AtomicU64::new(0), ring: Notify::new(), served: watch::Sender::new(0), published: watch::Sender::new(None) }
    }
}

impl CrlDesk {
    pub(super) fn new() -> Self {
        Self { slots: Mutex::default(), changed: watch::Sender::new(0) }
    }

    /// The CAs, by their own names.
    pub fn cas(&self) -> Vec<CaName> {
        self.slots().keys().cloned().collect()
    }

    /// Ticks when a CA was met for the first time, or is gone.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A CA's CRL as it is now, and as it becomes; none for a CA that is not ours. It ends when the CA is gone.
    pub fn subscribe(&self, ca: &CaName) -> Option<watch::Receiver<Option<Arc<PublishedCrl>>>> {
        self.slots().get(ca).map(|slot| slot.published.subscribe())
    }

    /// A CA's CRL as it is now.
    pub fn published(&self, ca: &CaName) -> Option<Arc<PublishedCrl>> {
        self.slots().get(ca).and_then(|slot| slot.published.borrow().clone())
    }

    /// Resolves when somebody asked for a publication.
    pub async fn rung(&self, ca: &CaName) {
        let slot = self.slots().get(ca).cloned();
        match slot {
            Some(slot) => slot.ring.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Whether we sign for this CA.
    pub fn is_ours(&self, ca: &CaName) -> bool {
        self.slots().contains_key(ca)
    }

    /// From now on these are the CAs. Those that stay keep their CRLs.
    pub(super) fn take_note_of(&self, published: &[Standing]) {
        for Standing { authority, .. } in published {
            // It was read anew, by a reload for example; what is out stays out.
            if !authority.has_crl() && self.published(authority.name()).is_some() {
                authority.crl_is_out();
            }
        }
        self.keep(published.iter().map(|standing| standing.authority.name().clone()).collect());
    }

    fn keep(&self, cas: BTreeSet<CaName>) {
        let mut slots = self.slots();
        let before = slots.len();
        slots.retain(|ca, _| cas.contains(ca));
        let mut changed = slots.len() != before;
        for ca in cas {
            slots.entry(ca).or_insert_with(|| {
                changed = true;
                Arc::new(Slot::new())
            });
        }
        drop(slots);
        if changed {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<CaName, Arc<Slot>>> {
        // Each change under the lock is complete in itself.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, ca: &CaName) -> Result<Arc<Slot>> {
        // A lease whose CA was removed: nobody can sign its CRL here.
        let slot = self.slots().get(ca).cloned();
        slot.ok_or_else(|| Error::new(Code::Internal, "the lease's CA is not here any more; its CRL cannot be published").because(ca))
    }

    /// Asks for a publication and waits until one that began afterwards is out.
    pub(super) async fn publish(&self, ca: &CaName) -> Result<()> {
        let slot = self.slot(ca)?;
        let mut served = slot.served.subscribe();
        let ticket = slot.wanted.fetch_add(1, Ordering::AcqRel) + 1;
        slot.ring.notify_one();
        let late = || Error::new(Code::Unavailable, "the revocation is recorded and on its way; its CRL is not out yet");
        tokio::time::timeout(PUBLISH_TIMEOUT, served.wait_for(|served| *served >= ticket))
            .await
            .map_err(|_| late())?
            .map_err(|_| late())?;
        Ok(())
    }
}

impl Vend {
    /// Meets the CAs that are published now, and lets go of those that are not any more.
    pub fn follow_cas(&self) {
        self.crls.take_note_of(&self.rules.load().issuers.x509.published(self.clock.now()));
    }

    /// Publishes a CA's CRL when its list changed, when somebody waits for it, or when a third of its life has passed.
    /// Answers whether it did.
    pub async fn publish_crl(&self, ca: &CaName) -> Result<bool> {
        let slot = self.crls.slot(ca)?;
        let ticket = slot.wanted.load(Ordering::Acquire);
        let now = self.clock.now();
        let current = slot.published.borrow().clone();
        let rules = self.rules.load_full();
        let Some(authority) = rules.issuers.x509.authority(ca, now) else { return Ok(false) };
        // One from the future was made before the clock was set back: it may lack what had expired by that time only. One of another issuer
        // was made before a reload.
        let lasts = |crl: &Arc<PublishedCrl>| crl.this_update <= now && now < refresh_at(crl) && crl.issuer == authority.certificate_der();
        let waited_for = ticket > *slot.served.borrow();
        let fresh = current.as_ref().is_some_and(lasts);
        if fresh && !waited_for && self.store.revocation_revision(&ca.clone().into()).await? == self.published_revision(ca) {
            return Ok(false);
        }
        let signer = authority.clone();
        let (revision, mut revoked) = self.store.revoked(&ca.clone().into(), now).await?;
        // What was revoked once stays so until it expires, also when the store lost it and was not reconciled yet.
        let named: HashSet<String> = revoked.iter().map(|entry| entry.serial.clone()).collect();
        let before = current.iter().flat_map(|crl| &crl.revoked);
        revoked.extend(before.filter(|entry| entry.not_after > now && !named.contains(&entry.serial)).cloned());
        // At least the time: so it grows also over a store that was emptied.
        let floor = u64::try_from(now.as_millisecond()).unwrap_or(0);
        let number = self.store.next_crl_number(ca, floor).await?;
        // Signing a long list takes milliseconds: not on a thread that serves callers.
        let sign = move || signer.sign_crl(number, &revoked, now).map(|crl| (crl, revoked));
        let signed = tokio::task::spawn_blocking(sign).await;
        let (crl, revoked) = signed.map_err(|panic| super::defect(&panic.to_string()))??;
        slot.published.send_replace(Some(Arc::new(PublishedCrl {
            der: crl.der,
            issuer: authority.certificate_der().to_vec(),
            revoked,
            number,
            revision,
            this_update: crl.this_update,
            next_update: crl.next_update,
        })));
        slot.served.send_replace(ticket);
        authority.crl_is_out();
        metrics::gauge!("daypass_crl_number", "ca" => ca.to_string()).set(number as f64);
        Ok(true)
    }

    fn published_revision(&self, ca: &CaName) -> u64 {
        self.crls.published(ca).map_or(0, |crl| crl.revision)
    }

    /// Until when a certificate may be taken by who honours CRLs, when the first CRL with it came out at `at`: the last one without it was
    /// made, here or at another server, at most a second after.
    pub(super) fn crl_live_until(&self, ca: &CaName, at: Timestamp) -> Timestamp {
        let authority = self.rules.load().issuers.x509.authority(ca, at);
        let life = authority.map_or(SignedDuration::MAX, |authority| authority.crl_life());
        at.checked_add(life).and_then(|lapse| lapse.checked_add(SignedDuration::from_secs(1))).unwrap_or(Timestamp::MAX)
    }
}

fn refresh_at(crl: &PublishedCrl) -> Timestamp {
    let life = crl.next_update.duration_since(crl.this_update);
    crl.this_update.checked_add(life / 3).unwrap_or(crl.next_update)
}
