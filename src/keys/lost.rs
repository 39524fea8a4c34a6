//! What a store has lost: whoever has the keys in memory gives them back, and what was made in the belief that they are gone steps behind them.
//!
//! | the store is emptied, and … | what follows |
//! |---|---|
//! | a server that knows the keys looks first | it gives them back |
//! | a server that knows none looks first | it waits for [`FIRST_KEY_WAIT`](super::FIRST_KEY_WAIT), and the first case comes to pass |
//! | who knows the keys looks after that | it gives them back; the key that was made meanwhile is published, and signs when its time comes |
//! | nobody knows them any more | the next number's key is published, and signs after [`POLLED_AFTER`](super::schedule::POLLED_AFTER) |
//!
//! A number that a newer key was given meanwhile goes back to the older one, under which more lives. The newer one moves on to a free number, where
//! its purpose allows that: a certificate says its authority's number, and cannot.

use super::{
    KeyMaker, KeyRing, Times, Vault, key_name,
    record::{Kept, context},
    shelf::Slot,
    turn::TAKEN_OUT_KEPT,
    view::{MAX_KEYS, Row, Stored, View},
};
use crate::model::{
    Timestamp,
    error::{Error, Result},
};

impl<M: KeyMaker> KeyRing<M> {
    /// The times of the first key on a shelf that has none; none while another server may know some.
    pub(super) fn first_due(&self, vault: &Vault, view: &View<M::Key>, now: Timestamp) -> Option<Times> {
        if vault.shared && !view.is_settled_empty() {
            if view.empty_since == view.read_at {
                tracing::warn!(
                    ring = self.name,
                    "the store has no key of this ring; the first is made unless another server gives some back"
                );
            }
            return None;
        }
        if !view.past.had_keys() && view.out.is_empty() {
            return Some(self.schedule.first(now));
        }
        let times = self.schedule.after_loss(now);
        tracing::error!(
            ring = self.name,
            signs_from = %times.signs_from,
            "the store has lost every key of this ring, and no server knows them: what lives under them is not verified any more; the next key is \
             published now, and signs once relying parties have it, or at once by daypassd ca activate --force"
        );
        Some(times)
    }

    /// Takes out once more what was taken out and is there again. Answers whether anything was written.
    pub(super) async fn take_out_again(&self, vault: &Vault, before: &View<M::Key>, found: &[Stored], now: Timestamp) -> Result<bool> {
        let mut written = false;
        for stored in found.iter().filter(|stored| before.is_back(stored)) {
            tracing::error!(key = stored.slot.name, "a key that was taken out was put back into the store; it is taken out again");
            written |= vault.shelf.write(&stored.changed(|record| record.take_out(now)).slot).await?;
        }
        Ok(written)
    }

    /// Gives back the keys that the store lost. Answers whether anything was written.
    ///
    /// A key that was taken out leaves its number there for longer than this server was away; the newest number stays for ever. So a server that
    /// was away for longer knows that a key was lost, and not taken out, when nothing there is as new as what it knew.
    pub(super) async fn give_back(&self, vault: &Vault, before: &View<M::Key>, found: &[Stored], now: Timestamp) -> Result<bool> {
        let lost: Vec<&Row<M::Key>> = before.rows.iter().filter(|row| is_lost(row, found, &before.rows)).collect();
        let away = before.read_at.is_none_or(|read_at| now.duration_since(read_at) > TAKEN_OUT_KEPT / 2);
        let newest = before.rows.iter().map(|row| row.stored.number).chain(before.out.iter().map(|out| out.number)).max();
        if lost.is_empty() || away && found.iter().any(|stored| Some(stored.number) >= newest) {
            return Ok(false);
        }
        let mut written = false;
        for row in lost {
            written |= match found.iter().find(|stored| stored.number == row.stored.number) {
                // Over none: when another server has been faster, what it wrote stays.
                None => vault.shelf.write(&Slot { version: 1, ..row.stored.slot.clone() }).await?,
                Some(other) => self.settle_number(vault, before, found, [&row.stored, other], now).await?,
            };
            tracing::warn!(key = row.stored.slot.name, "the store has lost a key of the service; it was given back");
        }
        for stranger in
            found.iter().filter(|stored| stored.out_since().is_none() && before.rows.iter().all(|row| !row.stored.is_of(stored)))
        {
            let (times, is_displaced) = (stranger.record.times(), before.rows.iter().any(|row| row.stored.number == stranger.number));
            let behind = self.schedule.put_back(times, now);
            if behind != times && !is_displaced {
                written |= vault.shelf.write(&stranger.changed(|record| record.sign_from(behind.signs_from)).slot).await?;
            }
        }
        Ok(written)
    }

    /// Settles whose a number is that two keys have: the older one's. Answers whether anything was written.
    async fn settle_number(
        &self,
        vault: &Vault,
        before: &View<M::Key>,
        found: &[Stored],
        [own, other]: [&Stored; 2],
        now: Timestamp,
    ) -> Result<bool> {
        // What was signed under the other one for long is not given up for what has not signed since.
        let young = now.duration_since(other.published_at()) <= TAKEN_OUT_KEPT / 2;
        let own_is_older = own.published_at() < other.published_at() && other.out_since().is_none() && young;
        let newer = if own_is_older { other } else { own };
        let free = found.iter().map(|stored| stored.number).max().unwrap_or(0).saturating_add(1).max(before.next_number());
        let moved = if found.len() < MAX_KEYS { self.moved(vault, newer, free, now).await? } else { None };
        match moved {
            // What took the free number may be anything: the next look sees it.
            Some(slot) if !vault.shelf.write(&slot).await? => return Ok(true),
            Some(slot) => {
                tracing::warn!(key = newer.slot.name, moved_to = slot.name, "two keys had one number; the newer one has another now");
            }
            None => tracing::error!(
                key = newer.slot.name,
                published_at = %newer.published_at(),
                "two keys had one number, and the newer one can have no other: it is gone, and what it signed is not verified any more"
            ),
        }
        if own_is_older {
            let slot = Slot { version: other.slot.version.saturating_add(1), ..own.slot.clone() };
            return vault.shelf.write(&slot).await;
        }
        Ok(true)
    }

    /// A key under another number; none when it cannot have one. It is told anew, and signs no sooner than any successor.
    async fn moved(&self, vault: &Vault, stored: &Stored, number: u32, now: Timestamp) -> Result<Option<Slot>> {
        let Kept::Sealed(sealed) = &stored.record.key else { return Ok(None) };
        let (public, published_at, name) = (stored.record.public.clone(), stored.published_at(), key_name(&self.name, number));
        let Ok(secret) = vault.wrapper.unwrap(&context(&stored.slot.name, published_at, &public), sealed).await else { return Ok(None) };
        let sealed = vault.wrapper.wrap(&context(&name, published_at, &public), &secret).await?;
        let maker = self.maker.clone();
        let fits = tokio::task::spawn_blocking(move || maker.load(number, &public, &secret, now).is_ok()).await.map_err(Error::internal)?;
        let times = self.schedule.put_back(stored.record.times(), now);
        let moved = stored.changed(|record| {
            record.key = Kept::Sealed(sealed);
            record.sign_from(times.signs_from);
            (record.told, record.claim) = (None, None);
        });
        Ok(fits.then_some(Slot { name, version: 1, ..moved.slot }))
    }
}

/// Whether a key in memory is nowhere on the shelf, under another number neither.
fn is_lost<K>(row: &Row<K>, found: &[Stored], known: &[Row<K>]) -> bool {
    let same_maker = |stored: &Stored| {
        stored.published_at() == row.stored.published_at()
            && stored.record.made_by == row.stored.record.made_by
            && known.iter().all(|known| !known.stored.is_of(stored))
    };
    found.iter().all(|stored| !stored.is_of(&row.stored) && !same_maker(stored))
}
