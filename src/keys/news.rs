//! What of a key is not on record yet. Several servers see it; one of them tells it.
//!
//! Who is about to tell claims it first, then writes the record, then notes that it is told. A server that crashes in between leaves a
//! claim that lapses, and the next one tells it again: rather twice than never.

use serde::{Deserialize, Serialize};

use super::{KeyMaker, KeyRing, KeyState, Times, Vault, view::Stored};
use crate::model::{SignedDuration, Timestamp, error::Result, lease::Claim};

/// How long a claim to tell something lasts.
pub const NEWS_CLAIM: SignedDuration = SignedDuration::from_secs(10);

/// How often noting that something is told is tried, while others change the key.
const NOTE_TRIES: usize = 3;

/// What comes to pass of a key, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It was made and is published.
    Made,
    /// It signs.
    Active,
    /// Another one signs.
    Retired,
    /// It is published no more.
    Gone,
}

/// What has come to pass of a key and is to be put on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// The key's name: `jwt-3`.
    pub name: String,
    /// What came to pass, in order.
    pub stages: Vec<Stage>,
    /// The key's times.
    pub times: Times,
    /// Its algorithm and what others know it by; none when it is gone or cannot be read.
    pub known_by: Option<(String, String)>,
    /// The server that made it.
    pub made_by: String,
    number: u32,
}

impl<M: KeyMaker> KeyRing<M> {
    pub(super) async fn claim(&self, vault: &Vault, now: Timestamp) -> Result<Vec<News>> {
        let view = self.view.load_full();
        let mut news = Vec::new();
        let living =
            view.rows.iter().enumerate().map(|(place, row)| (&row.stored, reached(view.state(place, now)), row.held.as_ref().ok()));
        let out = view.out.iter().map(|stored| (stored, Stage::Gone, None));
        for (stored, reached, held) in living.chain(out) {
            let stages = untold(stored.record.told, reached);
            let kept_out = stored.record.claim.is_some_and(|claim| claim.by != vault.server && holds(claim, now));
            if stages.is_empty() || kept_out {
                continue;
            }
            let until = now.checked_add(NEWS_CLAIM).unwrap_or(now);
            let claimed = stored.changed(|record| record.claim = Some(Claim { by: vault.server, until }));
            if vault.shelf.write(&claimed.slot).await? {
                let known_by = held.map(|held| (self.maker.algorithm(&held.key), self.maker.id(&held.key)));
                let Stored { number, slot, record } = claimed;
                news.push(News { name: slot.name, stages, times: record.times(), known_by, made_by: record.made_by, number });
            }
        }
        if !news.is_empty() {
            self.look(vault, now).await?;
        }
        Ok(news)
    }

    pub(super) async fn note_told(&self, vault: &Vault, news: &[News], now: Timestamp) -> Result<()> {
        for News { number, stages, .. } in news {
            let Some(last) = stages.last() else { continue };
            for _ in 0..NOTE_TRIES {
                self.look(vault, now).await?;
                let view = self.view.load_full();
                let mut stored = view.rows.iter().map(|row| &row.stored).chain(&view.out);
                let Some(stored) = stored.find(|stored| stored.number == *number && stored.record.told < Some(*last)) else { break };
                let noted = stored.changed(|record| (record.told, record.claim) = (Some(*last), None));
                if vault.shelf.write(&noted.slot).await? {
                    break;
                }
            }
        }
        self.look(vault, now).await
    }
}

/// Whether another server's claim keeps this one from telling. A clock that is ahead by as long as a claim lasts is believed; one that is further
/// ahead must not hold up what goes on record.
fn holds(claim: Claim, now: Timestamp) -> bool {
    claim.is_live(now) && claim.until.duration_since(now) <= NEWS_CLAIM * 2
}

fn reached(state: KeyState) -> Stage {
    match state {
        KeyState::Prepared => Stage::Made,
        KeyState::Active => Stage::Active,
        KeyState::Retired => Stage::Retired,
    }
}

/// What lies between what is told and what is reached. A key that is taken out need not have signed.
fn untold(told: Option<Stage>, reached: Stage) -> Vec<Stage> {
    let all = [Stage::Made, Stage::Active, Stage::Retired, Stage::Gone];
    let passed = |stage: Stage| stage <= reached && (reached != Stage::Gone || matches!(stage, Stage::Made | Stage::Gone));
    all.into_iter().filter(|stage| Some(*stage) > told && passed(*stage)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Stage::*, *};
    use crate::model::lease::ServerId;

    #[test]
    fn a_claim_from_the_future_is_believed_for_a_moment_only() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let held = |ahead: i64| holds(Claim { by: ServerId(1), until: now + SignedDuration::from_secs(ahead) + NEWS_CLAIM }, now);
        assert_eq!([-11, -10, -9, 0, 3, 10, 11, 3600].map(held), [false, false, true, true, true, true, false, false]);
    }

    #[test]
    fn each_stage_is_told_once_and_in_order() {
        assert_eq!(untold(None, Made), [Made]);
        assert_eq!(untold(None, Active), [Made, Active]);
        assert_eq!(untold(Some(Made), Retired), [Active, Retired]);
        assert_eq!(untold(Some(Retired), Gone), [Gone]);
        assert_eq!(untold(Some(Made), Gone), [Gone]);
        assert_eq!(untold(None, Gone), [Made, Gone]);
        // A clock that went back takes nothing back.
        assert_eq!(untold(Some(Active), Made), []);
        assert_eq!(untold(Some(Gone), Gone), []);
    }
}
