//! What a pass does to a ring: looks at the shelf, makes the key that is due, takes out what nothing lives under, seals anew.

use std::sync::Arc;

use super::{
    Held, KeyMaker, KeyRing, Stage, Times, Vault, key_name,
    record::{Kept, Record, context},
    shelf::Slot,
    view::{MAX_KEYS, Row, Stored, View},
};
use crate::model::{
    SignedDuration, Timestamp,
    error::{Error, Result},
    hex,
};

/// For how long the number of a key that was taken out is kept, and longer while no later number was given. A server that misses a key
/// within half of it, and no such mark, knows that the store has lost it.
pub const TAKEN_OUT_KEPT: SignedDuration = SignedDuration::from_hours(1);

/// Of so many looks one reads the whole shelf although its revision is as before: a store that lost writes may count the same number twice.
const READ_WHOLE_EVERY: u64 = 12;

/// The longest public part of a key, in bytes.
pub const MAX_PUBLIC: usize = 16 * 1024;

/// The longest key, in bytes of PKCS #8.
pub const MAX_SECRET: usize = 8 * 1024;

impl<M: KeyMaker> KeyRing<M> {
    /// Looks at the shelf; opens only what is new there.
    pub(super) async fn look(&self, vault: &Vault, now: Timestamp) -> Result<()> {
        let (look, before) = (self.begin_look(), self.view.load_full());
        // Before the list: a change in between is seen at the next look.
        let revision = vault.shelf.revision().await?;
        let unchanged = before.revision == Some(revision) && !look.is_multiple_of(READ_WHOLE_EVERY);
        if unchanged && before.rows.iter().all(|row| row.held.is_ok()) {
            self.take_up(before.seen_again(look, now), now);
            return Ok(());
        }
        let mut found = self.list(vault).await?;
        if self.take_out_again(vault, &before, &found, now).await? | self.give_back(vault, &before, &found, now).await? {
            found = self.list(vault).await?;
        }
        if found.len() > MAX_KEYS {
            return Err(self.unusable(format_args!("there are {} keys; at most {MAX_KEYS} are taken", found.len())));
        }
        // One that was taken out is published no more, whether or not it could be taken out again.
        let (out, living): (Vec<_>, Vec<_>) =
            found.into_iter().filter(|stored| !before.is_back(stored)).partition(|stored| stored.out_since().is_some());
        let mut rows = Vec::with_capacity(living.len());
        for stored in living {
            let held = self.hold(vault, &before, &stored, now).await?;
            rows.push(Row { stored, held });
        }
        self.take_up(View::after(&before, rows, out, look, revision, now), now);
        Ok(())
    }

    pub(super) async fn list(&self, vault: &Vault) -> Result<Vec<Stored>> {
        let slots = vault.shelf.list().await?;
        let own = slots.into_iter().filter_map(|slot| Stored::parse(&self.name, slot));
        own.collect::<std::result::Result<_, _>>().map_err(|why| self.unusable(why))
    }

    /// A key: the one in memory, where only its times differ, or else opened. The inner error says why it cannot be read.
    async fn hold(
        &self,
        vault: &Vault,
        before: &View<M::Key>,
        stored: &Stored,
        now: Timestamp,
    ) -> Result<std::result::Result<Arc<Held<M::Key>>, String>> {
        let (number, times) = (stored.number, stored.record.times());
        let known = before.rows.iter().find(|row| row.stored.same_key(stored)).and_then(|row| row.held.as_ref().ok());
        if let Some(known) = known {
            let held = if known.times == times { known.clone() } else { Arc::new(Held { number, times, key: known.key.clone() }) };
            return Ok(Ok(held));
        }
        Ok(self.open(vault, stored, now).await?.map(|key| Arc::new(Held { number, times, key: Arc::new(key) })))
    }

    async fn open(&self, vault: &Vault, stored: &Stored, now: Timestamp) -> Result<std::result::Result<M::Key, String>> {
        let Kept::Sealed(sealed) = &stored.record.key else { return Ok(Err("it was taken out".to_owned())) };
        let (number, public) = (stored.number, stored.record.public.clone());
        let context = context(&stored.slot.name, stored.record.times().published_at, &public);
        let secret = match vault.wrapper.unwrap(&context, sealed).await {
            Ok(secret) => secret,
            Err(error) => return Ok(Err(error.cause().unwrap_or(error.public()).to_owned())),
        };
        let maker = self.maker.clone();
        // Checking an RSA key takes a while.
        tokio::task::spawn_blocking(move || maker.load(number, &public, &secret, now)).await.map_err(Error::internal)
    }

    /// Whether a vault opens what can be read now.
    pub(super) async fn opens(&self, vault: &Vault) -> Result<()> {
        for Row { stored, .. } in self.view.load_full().rows.iter().filter(|row| row.held.is_ok()) {
            let Kept::Sealed(sealed) = &stored.record.key else { continue };
            let context = context(&stored.slot.name, stored.record.times().published_at, &stored.record.public);
            if let Err(error) = vault.wrapper.unwrap(&context, sealed).await {
                return Err(self.unusable(format_args!("{}: {}", stored.slot.name, error.cause().unwrap_or(error.public()))));
            }
        }
        Ok(())
    }

    /// Makes the key that is due, if one is.
    pub(super) async fn make_due(&self, vault: &Vault, now: Timestamp) -> Result<bool> {
        self.look(vault, now).await?;
        let view = self.view.load_full();
        let newest = view.rows.last().and_then(|row| row.held.as_ref().ok());
        let hurry = newest.is_some_and(|held| self.maker.outdated(&held.key));
        let due = if view.rows.is_empty() { self.first_due(vault, &view, now) } else { self.schedule.due(&view.times, now, hurry) };
        let Some(times) = due else { return Ok(false) };
        self.make(vault, &view, times, now).await
    }

    /// Makes a key under the next number, and takes it up. `false` when another server has taken that number.
    pub(super) async fn make(&self, vault: &Vault, view: &View<M::Key>, times: Times, now: Timestamp) -> Result<bool> {
        if view.len() >= MAX_KEYS {
            return Err(self.unusable(format_args!("there are {MAX_KEYS} keys, and no more are made")));
        }
        let (number, maker) = (view.next_number(), self.maker.clone());
        let made = tokio::task::spawn_blocking(move || maker.make(number, times)).await.map_err(Error::internal)??;
        if made.public.len() > MAX_PUBLIC || made.secret.len() > MAX_SECRET {
            return Err(Error::internal(format_args!("ring {}: a key was made that is too long to be stored", self.name)));
        }
        let name = key_name(&self.name, number);
        let sealed = vault.wrapper.wrap(&context(&name, times.published_at, &made.public), &made.secret).await?;
        let record = Record::new(times, made.public, sealed, hex::encode(&vault.server.0.to_be_bytes()));
        let written = vault.shelf.write(&Slot { name, version: 1, body: record.body() }).await?;
        self.look(vault, now).await?;
        Ok(written)
    }

    /// Takes out the keys under which nothing lives, once their retirement is on record; forgets numbers that were kept for long enough.
    pub(super) async fn take_out_dead(&self, vault: &Vault, now: Timestamp) -> Result<usize> {
        let view = self.view.load_full();
        let mut count = 0;
        for (place, row) in view.rows.iter().enumerate() {
            let recorded = row.stored.record.told >= Some(Stage::Retired);
            if recorded && view.is_dead(place, self.schedule, &*self.maker, now) {
                let out = row.stored.changed(|record| record.take_out(now));
                count += usize::from(vault.shelf.write(&out.slot).await?);
            }
        }
        let mut forgotten = false;
        for stored in &view.out {
            let kept_for = stored.out_since().map_or(SignedDuration::ZERO, |since| now.duration_since(since));
            let newest = stored.number.saturating_add(1) >= view.next_number();
            if kept_for > TAKEN_OUT_KEPT && !newest && stored.record.told == Some(Stage::Gone) {
                forgotten |= vault.shelf.delete(&stored.slot.name, stored.slot.version).await?;
            }
        }
        if count > 0 || forgotten {
            self.look(vault, now).await?;
        }
        Ok(count)
    }

    /// Seals anew what an earlier wrapping key has sealed.
    pub(super) async fn seal_anew(&self, vault: &Vault, now: Timestamp) -> Result<usize> {
        let view = self.view.load_full();
        let mut count = 0;
        for row in view.rows.iter().filter(|row| row.held.is_ok()) {
            let Kept::Sealed(sealed) = &row.stored.record.key else { continue };
            if vault.wrapper.is_current(sealed) {
                continue;
            }
            let (record, name) = (&row.stored.record, &row.stored.slot.name);
            let context = context(name, record.times().published_at, &record.public);
            let secret = vault.wrapper.unwrap(&context, sealed).await?;
            let sealed = vault.wrapper.wrap(&context, &secret).await?;
            let anew = row.stored.changed(|record| record.key = Kept::Sealed(sealed));
            count += usize::from(vault.shelf.write(&anew.slot).await?);
        }
        if count > 0 {
            self.look(vault, now).await?;
        }
        Ok(count)
    }
}
