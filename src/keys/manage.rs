//! What an administrator does to a ring: prepares a key, has it sign, takes one out.

use super::{
    Activation, FIRST_KEY_WAIT, KeyMaker, KeyRing, KeyShown, KeyState, Vault, key_name, schedule,
    view::{Row, View},
};
use crate::model::{
    Timestamp,
    error::{Code, Error, Result},
};

impl<M: KeyMaker> KeyRing<M> {
    pub(super) fn shown(&self, view: &View<M::Key>, place: usize, now: Timestamp) -> KeyShown {
        let Row { stored, held } = &view.rows[place];
        KeyShown {
            ring: self.name.clone(),
            number: stored.number,
            state: view.state(place, now),
            times: stored.record.times(),
            until: view.dead_at(place, self.schedule, &*self.maker),
            algorithm: held.as_ref().map(|held| self.maker.algorithm(&held.key)).unwrap_or_default(),
            fault: held.as_ref().err().cloned(),
        }
    }

    pub(super) async fn prepare_next(&self, vault: &Vault, now: Timestamp) -> Result<KeyShown> {
        self.look(vault, now).await?;
        let view = self.view.load_full();
        if let Some(prepared) = prepared(&view, now) {
            let name = &view.rows[prepared].stored.slot.name;
            return Err(refuse(format!("{name} is prepared already; activate it, or retire it, before the next one is made")));
        }
        let times = if view.rows.is_empty() {
            let wait =
                || refuse(format!("the store has no key of {}, and another server may know some; wait {FIRST_KEY_WAIT:#}", self.name));
            self.first_due(vault, &view, now).ok_or_else(wait)?
        } else {
            self.schedule.ahead_of_turn(&view.times, now)
        };
        let number = view.next_number();
        if !self.make(vault, &view, times, now).await? {
            return Err(changed(&self.name));
        }
        self.shown_by_number(number, now)
    }

    pub(super) async fn activate_prepared(&self, vault: &Vault, how: Activation, now: Timestamp) -> Result<KeyShown> {
        self.look(vault, now).await?;
        let view = self.view.load_full();
        let Some(place) = prepared(&view, now) else {
            return Err(refuse(format!("no key of {} is prepared; prepare one first", self.name)));
        };
        let Row { stored, held } = &view.rows[place];
        let name = &stored.slot.name;
        if held.is_err() {
            return Err(refuse(format!("{name} cannot be read and would sign nothing; retire it, and prepare another")));
        }
        if let Activation::Acknowledged(number) = how
            && number != stored.number
        {
            return Err(refuse(format!("{name} is prepared meanwhile, and not {}", key_name(&self.name, number))));
        }
        let times = stored.record.times();
        if how == Activation::PublishedLongEnough && !self.schedule.is_out(times, now) {
            let (since, ahead) = (times.published_at, self.schedule.publish_ahead);
            return Err(refuse(format!(
                "{name} is published since {since} only, less than {ahead:#}: some relying parties may not know it yet; wait, or force it"
            )));
        }
        let active = schedule::active(&view.times, now).map(|active| view.times[active]);
        let times = schedule::activated(times, active, now);
        let signing = stored.changed(|record| record.sign_from(times.signs_from));
        if !vault.shelf.write(&signing.slot).await? {
            return Err(changed(&self.name));
        }
        self.look(vault, now).await?;
        self.shown_by_number(stored.number, now)
    }

    pub(super) async fn take_out(&self, vault: &Vault, number: u32, now: Timestamp) -> Result<KeyShown> {
        self.look(vault, now).await?;
        let view = self.view.load_full();
        let name = key_name(&self.name, number);
        let Some(place) = view.rows.iter().position(|row| row.stored.number == number) else {
            return Err(refuse(format!("there is no key {name}")));
        };
        let shown = self.shown(&view, place, now);
        if shown.state == KeyState::Active {
            return Err(refuse(format!("{name} is the one that signs; prepare and activate another, then retire it")));
        }
        let out = view.rows[place].stored.changed(|record| record.take_out(now));
        if !vault.shelf.write(&out.slot).await? {
            return Err(changed(&self.name));
        }
        self.look(vault, now).await?;
        Ok(shown)
    }

    fn shown_by_number(&self, number: u32, now: Timestamp) -> Result<KeyShown> {
        let view = self.view.load_full();
        let place = view.rows.iter().position(|row| row.stored.number == number);
        place.map(|place| self.shown(&view, place, now)).ok_or_else(|| changed(&self.name))
    }
}

/// The place of the key that signs next.
fn prepared<K>(view: &View<K>, now: Timestamp) -> Option<usize> {
    (0..view.rows.len()).find(|place| view.state(*place, now) == KeyState::Prepared)
}

fn refuse(why: String) -> Error {
    Error::new(Code::KeyState, why)
}

fn changed(ring: &str) -> Error {
    refuse(format!("another server has changed the keys of {ring} at this moment; look at them, and try again"))
}
