//! What servers tell each other of who watches the trust bundle, so that a key can sign as soon as everybody has it.
//!
//! Each server has an entry in the store. A key is everybody's when every entry has it, somebody watches at all, and it is published for so long
//! that who polls has it, too, for anybody may watch: a server that is gone
//! without a word holds its rings up until it is forgotten, or until the key's own time comes.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    bundles::{Bundles, Reached},
    keys::KeyDesk,
};
use crate::{
    background::ticker,
    keys::{Activation, KeyState, Ring, Times},
    model::{
        SignedDuration, Timestamp,
        error::{Code, Error, Result},
        lease::ServerId,
        name::CaName,
    },
    store::{Collection, Entry, EntryStore, MAX_ENTRY},
    vend::Vend,
};

/// How often a server looks whether everybody has a key.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How often it says that it is there, when nothing else has changed.
pub const SAY_EVERY: SignedDuration = SignedDuration::from_secs(60);

/// How long one that says nothing is remembered.
pub const FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Said {
    /// When.
    at: Timestamp,
    /// How many watch the trust bundle there.
    watchers: usize,
    /// The keys that all of them have.
    keys: BTreeSet<CaName>,
}

/// This server among those that share a store.
pub(super) struct Presence {
    vend: Arc<Vend>,
    entries: Arc<dyn EntryStore>,
    desk: Arc<KeyDesk>,
    bundles: Arc<Bundles>,
    server: ServerId,
    /// What this server said last, and the version of its entry.
    last: Mutex<Option<(Said, u64)>>,
    /// When it read last what the others say.
    heard_at: Mutex<Option<Timestamp>>,
}

impl Presence {
    pub(super) fn new(
        vend: Arc<Vend>,
        entries: Arc<dyn EntryStore>,
        desk: Arc<KeyDesk>,
        bundles: Arc<Bundles>,
        server: ServerId,
    ) -> Arc<Self> {
        Arc::new(Self { vend, entries, desk, bundles, server, last: Mutex::default(), heard_at: Mutex::default() })
    }

    /// Says what is new here, forgets who is gone, and has keys sign that everybody has.
    async fn look(&self) -> Result<()> {
        if self.vend.rules().issuers.x509.cas().rings().next().is_none() {
            return Ok(());
        }
        let now = self.vend.now();
        self.say(now).await?;
        let waiting = self.waiting(now);
        if waiting.is_empty() && !self.listening_is_due(now) {
            return Ok(());
        }
        let said = self.listen(now).await?;
        for (ring, number, key) in waiting {
            if everybody_has(&said, &key) {
                self.activate(&*ring, number, &key, now).await?;
            }
        }
        Ok(())
    }

    /// The rings with a key that signs as soon as everybody has it.
    fn waiting(&self, now: Timestamp) -> Vec<(Arc<dyn Ring>, u32, CaName)> {
        let rules = self.vend.rules();
        let waiting = rules.issuers.x509.cas().rings().filter_map(|(_, ring)| Some((ring, ring.maker().acknowledged_after?)));
        let prepared = |(ring, floor): (&Arc<crate::keys::KeyRing<_>>, SignedDuration)| {
            let ring: Arc<dyn Ring> = ring.clone();
            let key = ring.show(now).into_iter().find(|key| key.state == KeyState::Prepared && key.fault.is_none())?;
            if !is_out(key.times, floor, now) {
                return None;
            }
            Some((ring, key.number, key.name().parse().ok()?))
        };
        waiting.filter_map(prepared).collect()
    }

    async fn activate(&self, ring: &dyn Ring, number: u32, key: &CaName, now: Timestamp) -> Result<()> {
        match ring.activate(&self.desk.vault()?, Activation::Acknowledged(number), now).await {
            Ok(_) => tracing::info!(%key, "everybody who watches the trust bundle has the key; it signs from now on"),
            // Another server was quicker, or an administrator has put another key into its place.
            Err(error) if error.code() == Code::KeyState => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn say(&self, now: Timestamp) -> Result<()> {
        let Reached { watchers, keys } = self.bundles.reached();
        let mut said = Said { at: now, watchers, keys };
        let last = self.last().clone();
        if let Some((before, _)) = &last
            && (before.watchers, &before.keys) == (said.watchers, &said.keys)
            && now.duration_since(before.at).abs() < SAY_EVERY
        {
            return Ok(());
        }
        let mut body = serde_json::to_vec(&said).map_err(Error::internal)?;
        if body.len() > MAX_ENTRY {
            // It says less than is true, which holds keys back and harms nobody.
            said.keys.clear();
            body = serde_json::to_vec(&said).map_err(Error::internal)?;
        }
        let before = match last {
            Some((_, version)) => version,
            None => self.entries.entry(Collection::Servers, &self.key()).await?.map_or(0, |entry| entry.version),
        };
        let entry = Entry { key: self.key(), version: before + 1, body };
        let written = self.entries.write_entry(Collection::Servers, &entry).await?;
        // It was forgotten by another server: the next look begins anew.
        *self.last() = written.then_some((said, entry.version));
        Ok(())
    }

    /// Whether it is time to forget who is gone, though no key waits: nobody else would.
    fn listening_is_due(&self, now: Timestamp) -> bool {
        let heard_at = *self.heard_at.lock().unwrap_or_else(PoisonError::into_inner);
        heard_at.is_none_or(|at| now.duration_since(at).abs() >= SAY_EVERY)
    }

    /// What every server said last.
    async fn listen(&self, now: Timestamp) -> Result<Vec<Said>> {
        let mut all = Vec::new();
        for Entry { key, version, body } in self.entries.entries(Collection::Servers).await? {
            match serde_json::from_slice::<Said>(&body) {
                Ok(said) if now.duration_since(said.at) > FORGOTTEN_AFTER && key != self.key() => {
                    self.entries.delete_entry(Collection::Servers, &key, version).await?;
                }
                Ok(said) => all.push(said),
                // Of a newer version of this service, perhaps: it has nothing that is sure.
                Err(_) => all.push(Said { at: now, watchers: 0, keys: BTreeSet::new() }),
            }
        }
        *self.heard_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        Ok(all)
    }

    /// Says good-bye.
    pub(super) async fn leave(&self) {
        let last = self.last().take();
        if let Some((_, version)) = last
            && let Err(error) = self.entries.delete_entry(Collection::Servers, &self.key(), version).await
        {
            tracing::warn!(%error, "other servers will take this one for alive for a while");
        }
    }

    fn key(&self) -> String {
        format!("{:016x}", self.server.0)
    }

    fn last(&self) -> MutexGuard<'_, Option<(Said, u64)>> {
        // Each change under the lock is complete in itself.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a key is published for so long that it need not be asked who polls: one who watches must not be enough to have it sign at once.
fn is_out(times: Times, floor: SignedDuration, now: Timestamp) -> bool {
    now.duration_since(times.published_at) >= floor
}

/// Whether every server says that all who watch there have a key, and at least one watches anywhere.
fn everybody_has(said: &[Said], key: &CaName) -> bool {
    said.iter().all(|said| said.keys.contains(key)) && said.iter().any(|said| said.watchers > 0)
}

/// Looks for ever.
pub(super) async fn keep(presence: Arc<Presence>) {
    let mut tick = ticker(LOOK_EVERY);
    loop {
        tick.tick().await;
        if let Err(error) = presence.look().await {
            tracing::warn!(%error, "it cannot be seen who has which keys; they sign when their own time comes");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::schedule::{POLLED_AFTER, REFRESH_AFTER};

    fn said(watchers: usize, keys: &[&str]) -> Said {
        Said { at: Timestamp::UNIX_EPOCH, watchers, keys: keys.iter().map(|key| key.parse().unwrap()).collect() }
    }

    #[test]
    fn a_key_is_everybodys_when_each_server_has_it_and_somebody_watches() {
        let key: CaName = "a-2".parse().unwrap();
        let has = |all: &[Said]| everybody_has(all, &key);
        assert!(!has(&[]), "nobody watches");
        assert!(!has(&[said(0, &["a-2"])]), "nobody watches");
        assert!(has(&[said(1, &["a-1", "a-2"])]));
        assert!(has(&[said(1, &["a-2"]), said(0, &["a-2"])]));
        assert!(!has(&[said(1, &["a-2"]), said(0, &["a-1"])]), "a server that does not have it yet would not publish its CRL");
        assert!(!has(&[said(1, &["a-2"]), said(7, &["a-1"])]));
    }

    #[test]
    fn nobodys_word_counts_before_who_polls_has_the_key() {
        let times = Times { published_at: Timestamp::UNIX_EPOCH, signs_from: Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24) };
        let out = |seconds: i64| is_out(times, POLLED_AFTER, Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds));
        assert_eq!([-1, 0, 359, 360, 86_400].map(out), [false, false, false, true, true]);
        assert!(POLLED_AFTER > REFRESH_AFTER + LOOK_EVERY.try_into().unwrap(), "who polled just before it was there has asked again");
    }

    #[test]
    fn what_is_said_comes_back() {
        let said = said(3, &["a-1", "a-2"]);
        assert_eq!(serde_json::from_slice::<Said>(&serde_json::to_vec(&said).unwrap()).unwrap(), said);
    }
}
