//! Rotations that a remote system makes: each by itself, so that a slow one holds up few others and none that is made here.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::{
    Lane,
    registry::Due,
    rotate::{NotMade, Ready, count},
};
use crate::{
    model::{
        Timestamp,
        error::{Code, Error, Result},
        event::Event,
        request::Input,
    },
    vend::Vend,
};

/// Rotations that are under way at remote systems at once.
pub const REMOTE_AT_ONCE: usize = 64;

impl Vend {
    /// Takes up to `limit` streams that are due and whose credentials a remote system makes, and gives the work of each.
    pub fn take_remote(self: &Arc<Self>, limit: usize) -> Vec<BoxFuture<'static, ()>> {
        let now = self.clock.now();
        let due = self.watches.take_due(Lane::Remote, now, limit);
        due.into_iter()
            .map(|due| -> BoxFuture<'static, ()> {
                let vend = self.clone();
                Box::pin(async move {
                    if let Err(error) = vend.rotate_remote(due, now).await {
                        tracing::warn!(%error, "a watched lease will be looked at again");
                    }
                })
            })
            .collect()
    }

    /// Makes the next credential of one lease. It is covered before the remote system is asked, as a renewal is.
    async fn rotate_remote(&self, due: Due, now: Timestamp) -> Result<()> {
        if let Err(away) = self.can_record() {
            self.put_off(&due, now);
            return Err(away);
        }
        let rules = self.rules.load_full();
        let ready = self.look(&rules, vec![due], now).await?;
        let Some(Ready { due, lease, grant }) = self.claim(ready, now).await?.pop() else { return Ok(()) };
        let call = &due.stream.call;
        match self.make_next(call, &rules, &grant, &lease, &Input::None, now).await {
            Ok((lease, credential)) => {
                let event = Event { method: "watch/rotate".into(), ..Self::done_by(call, &grant, &lease, None, now) };
                if let Err(error) = self.record(vec![event]).await {
                    count("failed", 1);
                    self.watches.end(&due.stream, error);
                } else {
                    self.send_rotated(&due, lease, credential, now);
                }
            }
            Err(error) if error.code() == Code::StoreUnavailable => {
                // Something may have been stored: the holder comes back with what it has.
                count("failed", 1);
                self.watches.end(&due.stream, error);
            }
            Err(error) => {
                let error = retried(error);
                self.not_rotated(vec![NotMade { due, error }], now).await;
            }
        }
        Ok(())
    }
}

/// A remote system that refuses what the role asks for may be mended, and the lease lives on meanwhile.
fn retried(error: Error) -> Error {
    match error.code() {
        Code::InvalidRequest | Code::ClaimNotUsable => Error::new(Code::IssuerRefused, error.public()).because(&error),
        _ => error,
    }
}
