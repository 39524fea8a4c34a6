//! Gives back to a store what it lost: at each start the revocations that were on record and not in the store yet; when it is another data
//! set than the one that this server knew, all that the audit log knows.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    background::ticker,
    model::error::{Error, Result},
    store::{LeaseStore, MAX_BATCH},
    vend::{LONGEST_LIFE, Vend},
};

/// How often the store is asked which data set it is.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Where the data set that was last reconciled is remembered, beside the audit log.
const REMEMBERED: &str = "store-incarnation";

/// Watches the store's incarnation and reconciles when it changed. `settled` turns true when the store is known to have all that the audit
/// log knows for the first time: until then its revocation lists may lack something, and no CRL is signed from them.
pub(super) async fn watch(vend: Arc<Vend>, store: Arc<dyn LeaseStore>, audit_dir: PathBuf, settled: watch::Sender<bool>) {
    match vend.take_up().await {
        Ok(revocations) => tracing::debug!(revocations, "the newest records were looked through for revocations that a crash left open"),
        Err(error) => tracing::warn!(%error, "revocations that a crash may have left open were not looked for"),
    }
    let file = audit_dir.join(REMEMBERED);
    let mut known = tokio::fs::read_to_string(&file).await.ok();
    let mut tick = ticker(LOOK_EVERY);
    loop {
        tick.tick().await;
        let Ok(incarnation) = store.incarnation().await else { continue };
        if known.as_deref() == Some(&incarnation) {
            settled.send_replace(true);
            continue;
        }
        match reconcile(&vend, &audit_dir).await {
            Ok(restored) => {
                match known {
                    None if restored == 0 => tracing::debug!("the lease store is new, and so is the audit log"),
                    _ => tracing::info!(restored, "the lease store is another data set than before; it was reconciled with the audit log"),
                }
                if let Err(error) = tokio::fs::write(&file, &incarnation).await {
                    tracing::warn!(%error, "the store's incarnation cannot be remembered; the next start reconciles again");
                }
                known = Some(incarnation);
                settled.send_replace(true);
            }
            Err(error) => tracing::warn!(%error, "the store could not be reconciled yet"),
        }
    }
}

async fn reconcile(vend: &Arc<Vend>, audit_dir: &Path) -> Result<usize> {
    let since = vend.now().checked_sub(LONGEST_LIFE).map_err(Error::internal)?;
    let dir = audit_dir.to_owned();
    let open = move || crate::audit::read::leases_since(&dir, since);
    let mut leases = tokio::task::spawn_blocking(open).await.map_err(Error::internal)??;
    let mut restored = 0;
    loop {
        let (read_on, batch) = tokio::task::spawn_blocking(move || {
            let batch = leases.by_ref().take(MAX_BATCH).collect::<Result<Vec<_>>>();
            (leases, batch)
        })
        .await
        .map_err(Error::internal)?;
        leases = read_on;
        let batch = batch?;
        if batch.is_empty() {
            return Ok(restored);
        }
        restored += vend.reconcile(batch).await?;
    }
}
