//! For how long what was made with the agent's identity may be used.

use std::sync::Arc;

use tokio::sync::watch;

use super::{identity::Identity, keeper::Connect};

/// How long a client may be used: until the agent has another identity. A handshake with the one before, once the new one is acknowledged,
/// would be taken for a clone's, and cost the agent its identity.
pub struct Standing(Option<(watch::Receiver<Arc<Identity>>, u32)>);

impl Standing {
    /// Of a client that is made after this.
    pub fn of(server: &dyn Connect) -> Self {
        Self(server.identity().map(|identity| {
            let generation = identity.borrow().kept.generation;
            (identity, generation)
        }))
    }

    /// Whether the client may still be used.
    pub fn holds(&self) -> bool {
        self.0.as_ref().is_none_or(|(identity, generation)| identity.borrow().kept.generation == *generation)
    }

    /// Resolves when it may not any more.
    pub async fn ends(&mut self) {
        match &mut self.0 {
            Some((identity, generation)) => {
                let generation = *generation;
                if identity.wait_for(|identity| identity.kept.generation != generation).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            None => std::future::pending().await,
        }
    }
}
