//! Keeps the rings: takes up the keys of other servers, makes the next one in time, takes out what nothing lives under, puts on record what
//! came to pass.

use std::{sync::Arc, time::Instant};

use super::{KeyDesk, REFRESH_EVERY};
use crate::{
    background::{Steady, ticker},
    keys::{KeyState, Ring, Vault},
    model::{Timestamp, error::Result},
    server::config::std_duration,
};

/// Looks at the rings for ever. A look that fails is told in the log and tried again at its next turn; signing goes on until the keys in
/// memory may be too old.
pub(in crate::server) async fn keep(desk: Arc<KeyDesk>) {
    let mut tick = ticker(std_duration(REFRESH_EVERY));
    let mut steady = Steady::new(desk.vend.now(), Instant::now());
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = desk.hurry.notified() => {}
        }
        let now = desk.vend.now();
        // A clock that jumped forward makes no key and takes none out.
        desk.turn(steady.holds(now, Instant::now()), now).await;
    }
}

impl KeyDesk {
    /// One turn over every ring. `steady` says whether the clock can be believed.
    pub async fn turn(&self, steady: bool, now: Timestamp) {
        for ring in self.rings() {
            let before = ring.outline();
            let turned = match self.vault() {
                Ok(vault) => self.turn_of(&*ring, &vault, steady, now).await,
                Err(error) => Err(error),
            };
            if ring.outline() != before {
                self.tell_changed();
            }
            if let Err(error) = self.place.memory.keep(ring.name(), &ring.past()).await {
                tracing::warn!(ring = ring.name(), %error, "what is known of the keys of a ring is not remembered over a restart");
            }
            let unreadable = ring.unreadable();
            let fault = turned.err().map(|error| error.to_string()).or_else(|| (!unreadable.is_empty()).then(|| unreadable.join("; ")));
            gauges(&*ring, fault.is_none(), now);
            match self.note(ring.name(), fault) {
                Some(Some(fault)) => tracing::error!(ring = ring.name(), fault, "the keys of a ring could not be kept"),
                Some(None) => tracing::info!(ring = ring.name(), "the keys of a ring are kept again"),
                None => {}
            }
        }
    }

    async fn turn_of(&self, ring: &dyn Ring, vault: &Vault, steady: bool, now: Timestamp) -> Result<()> {
        if !steady {
            return ring.refresh(vault, now).await;
        }
        if ring.rotate(vault, now).await? {
            tracing::info!(ring = ring.name(), "the next key was made");
        }
        let news = ring.claim_news(vault, now).await?;
        if !news.is_empty() {
            self.vend.record_keys(&news).await?;
            ring.told(vault, &news, now).await?;
        }
        ring.prune(vault, now).await?;
        let rewrapped = ring.rewrap(vault, now).await?;
        if rewrapped > 0 {
            tracing::info!(ring = ring.name(), rewrapped, "keys were sealed anew, under the first wrapping key");
        }
        Ok(())
    }
}

fn gauges(ring: &dyn Ring, kept: bool, now: Timestamp) {
    let name = ring.name().to_owned();
    let up = kept && ring.can_sign(now).is_ok();
    metrics::gauge!("daypass_keys_up", "ring" => name.clone()).set(if up { 1.0 } else { 0.0 });
    let keys = ring.show(now);
    for (state, label) in [(KeyState::Prepared, "prepared"), (KeyState::Active, "active"), (KeyState::Retired, "retired")] {
        let count = keys.iter().filter(|key| key.state == state).count();
        metrics::gauge!("daypass_keys", "ring" => name.clone(), "state" => label).set(count as f64);
    }
}
