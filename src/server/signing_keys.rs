//! Keeps the keys that sign JWTs: takes up those of other servers, makes the next one in time, deletes what nothing lives under.

use std::{sync::Arc, time::Instant};

use super::config::std_duration;
use crate::{
    background::{Steady, ticker},
    issuer::jwt::{Rotated, ring::REFRESH_EVERY},
    model::{
        Timestamp,
        error::{Error, Result},
    },
    vend::{Rules, Vend},
};

/// Looks at the keys for ever. A look that fails is told in the log and tried again at its next turn; signing goes on until the keys in
/// memory may be too old.
pub(super) async fn keep(vend: Arc<Vend>) {
    let mut tick = ticker(std_duration(REFRESH_EVERY));
    let mut steady = Steady::new(vend.now(), Instant::now());
    loop {
        tick.tick().await;
        let (rules, now) = (vend.rules(), vend.now());
        // A clock that jumped forward makes no key and deletes none.
        let holds = steady.holds(now, Instant::now());
        let looked = tokio::task::spawn_blocking(move || if holds { turn(&rules, now) } else { refresh(&rules, now) }).await;
        match looked.map_err(Error::internal).and_then(|looked| looked) {
            Ok(rotated) => {
                metrics::gauge!("daypass_signing_keys_up").set(1.0);
                if rotated.created || rotated.deleted > 0 {
                    tracing::info!(created = rotated.created, deleted = rotated.deleted, "the keys that sign JWTs have rotated");
                }
            }
            Err(error) => {
                metrics::gauge!("daypass_signing_keys_up").set(0.0);
                tracing::error!(%error, "the keys that sign JWTs could not be kept");
            }
        }
    }
}

/// Makes the keys ready to sign before rules are in force. Blocks on files.
pub(super) fn prepare(rules: &Rules, now: Timestamp) -> Result<()> {
    rules.issuers.jwt.ring().map_or(Ok(()), |ring| ring.rotate(now).map(|_rotated| ()))
}

fn turn(rules: &Rules, now: Timestamp) -> Result<Rotated> {
    let Some(ring) = rules.issuers.jwt.ring() else { return Ok(Rotated::default()) };
    let (made, gone) = (ring.rotate(now)?, ring.prune(now)?);
    Ok(Rotated { created: made.created, deleted: gone.deleted })
}

fn refresh(rules: &Rules, now: Timestamp) -> Result<Rotated> {
    rules.issuers.jwt.ring().map_or(Ok(()), |ring| ring.refresh(now)).map(|()| Rotated::default())
}
