//! For how long what was made with the agent's identity may be used.

use std::sync::Arc;

use tokio::sync::watch;

use super::{identity::Identity, keeper::Connect};

/// How long a client may be used: until the agent has another identity. A handshake with the one before, once the new one is acknowledged,
/// would be taken for a clone's, and cost the agent its identity.
pub struct Standing(Option<(watch::Receiver<Arc<Identity>>, Which)>);

/// Which identity: its lease, which a new enrolment changes, and its generation.
type Which = (String, u32);

impl Standing {
    /// Of a client that is made after this.
    pub fn of(server: &dyn Connect) -> Self {
        Self(server.identity().map(|identity| {
            let which = which(&identity.borrow());
            (identity, which)
        }))
    }

    /// Whether the client may still be used.
    pub fn holds(&self) -> bool {
        self.0.as_ref().is_none_or(|(identity, used)| which(&identity.borrow()) == *used)
    }

    /// Resolves when it may not any more.
    pub async fn ends(&mut self) {
        match &mut self.0 {
            Some((identity, used)) => {
                if identity.wait_for(|identity| which(identity) != *used).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            None => std::future::pending().await,
        }
    }
}

fn which(identity: &Identity) -> Which {
    (identity.kept.lease_id.clone(), identity.kept.generation)
}
