//! The keys of one purpose: which one signs, which are published. What passes and administrators change lies on the shelf; this is its copy.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::sync::watch;

use super::{Activation, Held, KeyMaker, KeyShown, KeyState, News, Past, Ring, Vault, schedule, schedule::Schedule, view::View};
use crate::model::{
    SignedDuration, Timestamp,
    error::{Code, Error, Result},
};

/// A row of keys of one purpose.
///
/// It is made without looking at any shelf and cannot sign before its first [`Ring::refresh`].
pub struct KeyRing<M: KeyMaker> {
    pub(super) name: String,
    pub(super) schedule: Schedule,
    pub(super) maker: Arc<M>,
    pub(super) view: ArcSwap<View<M::Key>>,
    /// Looks at the shelf so far.
    pub(super) looks: AtomicU64,
    /// The numbers and states of its keys, told when one changes.
    outline: watch::Sender<Outline>,
}

/// The numbers and states of a ring's keys.
pub type Outline = Vec<(u32, KeyState)>;

/// A published key.
pub struct Published<K> {
    /// The key.
    pub held: Arc<Held<K>>,
    /// Where it stands.
    pub state: KeyState,
    /// Until when it is published; none while no successor is known.
    pub until: Option<Timestamp>,
}

/// The keys that are published.
pub struct PublishedKeys<K> {
    /// In the order in which they sign.
    pub keys: Vec<Published<K>>,
    /// For how long a cache may believe that these are all.
    pub sure_for: SignedDuration,
}

impl<M: KeyMaker> KeyRing<M> {
    /// A ring of this name, without keys.
    pub fn new(name: impl Into<String>, schedule: Schedule, maker: M) -> Self {
        let view = ArcSwap::from_pointee(View::empty());
        let (maker, outline) = (Arc::new(maker), watch::Sender::new(Outline::new()));
        Self { name: name.into(), schedule, maker, view, looks: AtomicU64::new(0), outline }
    }

    /// How its keys follow each other.
    pub fn schedule(&self) -> Schedule {
        self.schedule
    }

    /// What makes its keys.
    pub fn maker(&self) -> &M {
        &self.maker
    }

    /// The key that signs now.
    ///
    /// # Errors
    /// As [`Ring::can_sign`].
    pub fn active(&self, now: Timestamp) -> Result<Arc<Held<M::Key>>> {
        let view = self.view.load();
        let Some(read_at) = view.read_at else { return Err(self.unusable("its keys were not read yet")) };
        if now.duration_since(read_at) > self.schedule.stale_after() {
            return Err(self.unusable(format_args!("its keys were last read at {read_at}")));
        }
        let Some(place) = schedule::active(&view.times, now) else { return Err(self.unusable(self.why_none_signs(&view))) };
        view.rows[place].held.clone().map_err(|why| self.unusable(why))
    }

    /// The keys under which something may live, or will. One that cannot be read is not among them, and the set is not to be kept then.
    pub fn published(&self, now: Timestamp) -> PublishedKeys<M::Key> {
        let view = self.view.load();
        let of = |place: usize| {
            let held = view.rows[place].held.as_ref().ok()?.clone();
            let until = view.dead_at(place, self.schedule, &*self.maker);
            Some(Published { held, state: view.state(place, now), until })
        };
        let living = (0..view.rows.len()).filter(|place| !view.is_dead(*place, self.schedule, &*self.maker, now));
        let keys: Vec<_> = living.clone().filter_map(of).collect();
        // A key that is not known here was published after the last look: it signs `publish_ahead` later at the earliest.
        let since = view.read_at.map_or(SignedDuration::MAX, |read_at| now.duration_since(read_at).max(SignedDuration::ZERO));
        let sure = self.schedule.publish_ahead.saturating_sub(since).min(self.schedule.stale_after()).max(SignedDuration::ZERO);
        let sure_for = if keys.len() == living.count() { sure } else { SignedDuration::ZERO };
        PublishedKeys { keys, sure_for }
    }

    /// Every key that can be read, in the order in which they sign.
    pub fn held(&self) -> Vec<Arc<Held<M::Key>>> {
        self.view.load().rows.iter().filter_map(|row| row.held.as_ref().ok().cloned()).collect()
    }

    /// The numbers and states of its keys as a look at the shelf saw them; the receiver is told when one changes, that a prepared key has
    /// begun to sign included, at the next look.
    pub fn changed(&self) -> watch::Receiver<Outline> {
        self.outline.subscribe()
    }

    /// The keys that cannot be read, and why, for the log.
    pub fn unreadable(&self) -> Vec<String> {
        let fault = |(name, why): (&str, &String)| format!("{name}: {why}");
        let view = self.view.load();
        view.rows.iter().filter_map(|row| Some(fault((&row.stored.slot.name, row.held.as_ref().err()?)))).collect()
    }

    /// Has the keys that another ring of the same purpose has in memory, whose maker reads them as this one's does. For a ring that has
    /// looked at no shelf yet.
    pub fn take_over(&self, before: &Self) {
        let before = before.view.load();
        if before.read_at.is_some() && self.view.load().read_at.is_none() {
            // Its first look reads the whole shelf.
            self.view.store(Arc::new(View { look: 0, revision: None, ..(**before).clone() }));
        }
    }

    /// Takes a view into use, unless one of a later look is.
    pub(super) fn take_up(&self, view: View<M::Key>, now: Timestamp) {
        let view = Arc::new(view);
        self.view.rcu(|current| if current.look > view.look { current.clone() } else { view.clone() });
        let view = self.view.load();
        let outline: Outline = (0..view.rows.len()).map(|place| (view.rows[place].stored.number, view.state(place, now))).collect();
        self.outline.send_if_modified(|told| {
            let differs = *told != outline;
            *told = outline;
            differs
        });
    }

    fn why_none_signs(&self, view: &View<M::Key>) -> String {
        match view.rows.first() {
            None => "there is no key yet".to_owned(),
            Some(row) => format!(
                "the keys before {} were lost, and it signs from {} on, so that relying parties have it first; daypassd ca activate {} --force has \
                 it sign now",
                row.stored.slot.name,
                row.stored.record.times().signs_from,
                self.name
            ),
        }
    }

    /// The number of the look that begins.
    pub(super) fn begin_look(&self) -> u64 {
        self.looks.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn unusable(&self, why: impl std::fmt::Display) -> Error {
        Error::new(Code::IssuerUnavailable, "the keys that sign cannot be used at the moment; try again")
            .because(format_args!("ring {}: {why}", self.name))
    }
}

#[async_trait]
impl<M: KeyMaker> Ring for KeyRing<M> {
    fn name(&self) -> &str {
        &self.name
    }

    fn can_sign(&self, now: Timestamp) -> Result<()> {
        self.active(now).map(|_key| ())
    }

    fn show(&self, now: Timestamp) -> Vec<KeyShown> {
        let view = self.view.load();
        (0..view.rows.len()).map(|place| self.shown(&view, place, now)).collect()
    }

    fn unreadable(&self) -> Vec<String> {
        KeyRing::unreadable(self)
    }

    fn outline(&self) -> Outline {
        self.outline.borrow().clone()
    }

    async fn check(&self, vault: &Vault) -> Result<()> {
        self.opens(vault).await
    }

    async fn refresh(&self, vault: &Vault, now: Timestamp) -> Result<()> {
        self.look(vault, now).await
    }

    async fn rotate(&self, vault: &Vault, now: Timestamp) -> Result<bool> {
        self.make_due(vault, now).await
    }

    async fn prune(&self, vault: &Vault, now: Timestamp) -> Result<usize> {
        self.take_out_dead(vault, now).await
    }

    async fn rewrap(&self, vault: &Vault, now: Timestamp) -> Result<usize> {
        self.seal_anew(vault, now).await
    }

    async fn prepare(&self, vault: &Vault, now: Timestamp) -> Result<KeyShown> {
        self.prepare_next(vault, now).await
    }

    async fn activate(&self, vault: &Vault, how: Activation, now: Timestamp) -> Result<KeyShown> {
        self.activate_prepared(vault, how, now).await
    }

    async fn retire(&self, vault: &Vault, number: u32, now: Timestamp) -> Result<KeyShown> {
        self.take_out(vault, number, now).await
    }

    async fn claim_news(&self, vault: &Vault, now: Timestamp) -> Result<Vec<News>> {
        self.claim(vault, now).await
    }

    async fn told(&self, vault: &Vault, news: &[News], now: Timestamp) -> Result<()> {
        self.note_told(vault, news, now).await
    }

    fn past(&self) -> Past {
        self.view.load().past.clone()
    }

    fn recall(&self, past: &Past) {
        self.view.rcu(|view| View { past: view.past.clone().and(past), ..(**view).clone() });
    }

    fn waits_until(&self, now: Timestamp) -> Option<Timestamp> {
        let view = self.view.load();
        let first = view.times.first().filter(|_| schedule::active(&view.times, now).is_none());
        first.map(|first| first.signs_from)
    }
}
