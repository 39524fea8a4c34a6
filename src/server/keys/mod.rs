//! The keys of the service, kept: the pass that looks at the rings, and what an administrator may do to them, on record.

mod administer;
mod memory;
mod pass;
mod shelf;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};

pub use administer::{Act, Administrator};
pub use memory::Memory;
pub(super) use pass::keep;
pub use shelf::StoreShelf;

use crate::{
    keys::{FileKek, KeyWrapper, Ring, Shelf, Vault},
    model::{
        SignedDuration, Timestamp,
        error::{Code, Error, Result},
        lease::ServerId,
    },
    vend::{Rules, Vend},
};

/// How often a server looks at the rings.
pub const REFRESH_EVERY: SignedDuration = SignedDuration::from_secs(5);

/// The rings of the rules in force, with what opens their keys.
pub struct KeyDesk {
    vend: Arc<Vend>,
    place: Place,
    server: ServerId,
    wrapper: ArcSwapOption<FileKek>,
    /// Counts the times that a key was made, began to sign, was taken out, or the rings became others.
    changed: watch::Sender<u64>,
    /// Asks the pass for a turn before its time.
    hurry: Notify,
    /// By ring, why its last turn failed, or which keys cannot be read.
    faults: Mutex<BTreeMap<String, String>>,
}

/// Where keys lie, and what is known of them besides.
pub struct Place {
    /// Where they lie.
    pub shelf: Arc<dyn Shelf>,
    /// Whether other servers may have the same shelf.
    pub shared: bool,
    /// What is remembered of them.
    pub memory: Memory,
}

impl KeyDesk {
    /// Over the rings of the rules that `vend` has in force.
    pub fn new(vend: Arc<Vend>, place: Place, server: ServerId, wrapper: Option<Arc<FileKek>>) -> Self {
        let (changed, hurry, faults) = (watch::Sender::new(0), Notify::new(), Mutex::default());
        Self { vend, place, server, wrapper: ArcSwapOption::new(wrapper), changed, hurry, faults }
    }

    /// The rings of the rules in force.
    pub fn rings(&self) -> Vec<Arc<dyn Ring>> {
        self.vend.rules().issuers.rings()
    }

    /// Told whenever a key of any ring was made, began to sign or was taken out, and when a reload brought other rings. A receiver looks at
    /// [`Vend::rules`] for what there is now.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Where keys lie, and what opens them.
    ///
    /// # Errors
    /// `INTERNAL` without `[keys]`; a configuration that has a ring has it.
    pub fn vault(&self) -> Result<Vault> {
        let wrapper = self.wrapper.load_full().ok_or_else(|| Error::internal("there is no [keys], and so nothing opens keys"))?;
        Ok(self.vault_of(wrapper))
    }

    /// Makes the rings of new rules ready before those are in force, and says why they may not be: a key that was readable would not be.
    /// The store may be away; then what is known goes on, and the pass makes up for it.
    pub async fn prepare(&self, rules: &Rules, wrapper: Option<Arc<FileKek>>) -> Result<()> {
        let rings = rules.issuers.rings();
        if rings.is_empty() {
            return Ok(());
        }
        let wrapper = wrapper.ok_or_else(|| Error::internal("there is no [keys], and so nothing opens keys"))?;
        let (vault, now) = (self.vault_of(wrapper), self.vend.now());
        rules.issuers.take_over_rings(&self.vend.rules().issuers);
        for ring in rings {
            ring.check(&vault).await?;
            ring.recall(&self.place.memory.of(ring.name()));
            match ring.rotate(&vault, now).await {
                Err(error) if error.code() == Code::StoreUnavailable => {
                    tracing::warn!(ring = ring.name(), %error, "keys could not be looked at; they are at the next turn");
                }
                looked => drop(looked?),
            }
        }
        Ok(())
    }

    /// Takes another wrapper into use, with the rules that [`KeyDesk::prepare`] was asked about.
    pub fn replace_wrapper(&self, wrapper: Option<Arc<FileKek>>) {
        self.wrapper.store(wrapper);
        self.tell_changed();
        self.hurry.notify_one();
    }

    /// The rings that cannot sign now, and another server's may. One whose keys the store lost and whose next one waits is none: it is so
    /// at every server, and all that needs no key of it goes on.
    pub fn silent(&self, now: Timestamp) -> Vec<String> {
        let silent = |ring: &&Arc<dyn Ring>| ring.can_sign(now).is_err() && ring.waits_until(now).is_none();
        self.rings().iter().filter(silent).map(|ring| ring.name().to_owned()).collect()
    }

    fn vault_of(&self, wrapper: Arc<FileKek>) -> Vault {
        let Place { shelf, shared, memory: _ } = &self.place;
        Vault { shelf: shelf.clone(), wrapper: wrapper as Arc<dyn KeyWrapper>, server: self.server, shared: *shared }
    }

    fn tell_changed(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Notes how a ring's turn ended. Answers what is new of it: a fault, or that the one before is over.
    fn note(&self, ring: &str, fault: Option<String>) -> Option<Option<String>> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match &fault {
            Some(fault) => faults.insert(ring.to_owned(), fault.clone()),
            None => faults.remove(ring),
        };
        (before != fault).then_some(fault)
    }
}
