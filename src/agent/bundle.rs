//! Follows the trust bundle, and says that it is in use once every role's readers have it.

use std::sync::Arc;

use tokio::{sync::watch, time::sleep};

use super::{
    desk::Bundle,
    keeper::{Connect, FIRST_PAUSE, KeeperStatus, LONGEST_PAUSE},
    standing::Standing,
};
use crate::{client::error::Result, clock::Backoff};

/// Follows the bundle until `shutdown` is true. The last one stays in use while the server is away.
pub async fn follow(
    server: Arc<dyn Connect>,
    bundle: watch::Sender<Option<Arc<Bundle>>>,
    mut readers: Vec<watch::Receiver<KeeperStatus>>,
    mut shutdown: watch::Receiver<bool>,
) {
    let work = async {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let mut standing = Standing::of(&*server);
            let ended = tokio::select! {
                ended = session(&*server, &bundle, &mut readers, &mut backoff) => ended,
                () = standing.ends() => Ok(()),
            };
            match ended {
                Ok(()) => {}
                Err(error) => tracing::warn!(code = error.code(), %error, "the trust bundle is not followed at the moment; tried again"),
            }
            sleep(backoff.pause()).await;
        }
    };
    tokio::select! {
        () = work => {}
        _ = shutdown.wait_for(|over| *over) => {}
    }
}

async fn session(
    server: &dyn Connect,
    bundle: &watch::Sender<Option<Arc<Bundle>>>,
    readers: &mut [watch::Receiver<KeeperStatus>],
    backoff: &mut Backoff,
) -> Result<()> {
    let mut client = server.client()?;
    let mut stream = client.watch_trust_bundle().await?;
    let mut next = stream.next().await?;
    while let Some((fresh, watch_id)) = next.take() {
        backoff.reset();
        let version = fresh.version.clone();
        bundle.send_if_modified(|current| {
            let differs = current.as_deref() != Some(&fresh);
            if differs {
                *current = Some(Arc::new(fresh));
            }
            differs
        });
        // Another bundle may come before this one is everywhere: then only that one is acknowledged.
        tokio::select! {
            message = stream.next() => next = message?,
            () = in_use(readers, &version) => {
                client.acknowledge_trust_bundle(&watch_id, &version).await?;
                next = stream.next().await?;
            }
        }
    }
    Ok(())
}

/// Resolves when every role that has a credential was delivered with this bundle.
async fn in_use(readers: &mut [watch::Receiver<KeeperStatus>], version: &str) {
    for reader in readers {
        let has_it = |status: &KeeperStatus| status.valid_until.is_none() || status.bundle_version.as_deref() == Some(version);
        // A keeper that has ended has no readers.
        let _ended = reader.wait_for(has_it).await;
    }
}
