//! What goes on record of the service's own keys.

use super::{Origin, Vend, record::event_from};
use crate::{
    keys::{KeyShown, News, Stage},
    model::{
        error::{Code, Error, Result},
        event::{Actor, Event, Outcome},
    },
};

/// The pass that keeps the keys.
const PASS: &str = "keys";

impl Vend {
    /// Records what came to pass of keys: each stage is an event of its own.
    pub async fn record_keys(&self, news: &[News]) -> Result<()> {
        let now = self.clock.now();
        let events = news.iter().flat_map(|one| {
            one.stages.iter().map(move |stage| Event {
                actor: Some(Actor::service(PASS)),
                detail: detail(one),
                ..Event::new(now, method(*stage), Outcome::Done)
            })
        });
        self.record(events.collect()).await
    }

    /// Whether something that must go on record may begin.
    pub fn can_record(&self) -> Result<()> {
        match self.audit.health().fault {
            None => Ok(()),
            Some(fault) => Err(Error::new(Code::AuditUnavailable, "the audit log cannot be written; nothing was changed").because(fault)),
        }
    }

    /// Records what an administrator on this machine did to a key.
    pub async fn administered_key(&self, uid: u32, call_id: &str, method: &'static str, key: &KeyShown) -> Result<()> {
        let detail = vec![format!("key {}", key.name()), format!("signs from {}", key.times.signs_from)];
        self.record(vec![Event { detail, ..self.by_administrator(uid, call_id, method, Outcome::Done) }]).await
    }

    /// Records what an administrator on this machine asked for and did not get: what it was about, and why not. Gives the error for the
    /// caller.
    pub async fn administered(&self, uid: u32, call_id: &str, method: &'static str, refused: (&str, Error)) -> Error {
        let (about, error) = refused;
        let outcome = if error.code().is_refusal() { Outcome::Denied } else { Outcome::Failed };
        let mut event = self.by_administrator(uid, call_id, method, outcome);
        event.reason = Some(error.code().as_str().into());
        event.detail = [about, error.public()].iter().filter(|text| !text.is_empty()).map(|text| (*text).to_owned()).collect();
        self.put_on_record(event, error).await
    }

    fn by_administrator(&self, uid: u32, call_id: &str, method: &'static str, outcome: Outcome) -> Event {
        let origin = Origin { method, peer_address: None, call_id: call_id.to_owned() };
        Event { actor: Some(Actor::local(uid)), ..event_from(&origin, outcome, self.clock.now()) }
    }
}

fn method(stage: Stage) -> &'static str {
    match stage {
        Stage::Made => "keys/made",
        Stage::Active => "keys/active",
        Stage::Retired => "keys/retired",
        Stage::Gone => "keys/gone",
    }
}

fn detail(news: &News) -> Vec<String> {
    let mut detail = vec![
        format!("key {}", news.name),
        format!("published at {}", news.times.published_at),
        format!("signs from {}", news.times.signs_from),
        format!("made by server {}", news.made_by),
    ];
    if let Some((algorithm, id)) = &news.known_by {
        detail.extend([format!("algorithm {algorithm}"), format!("id {id}")]);
    }
    detail
}
