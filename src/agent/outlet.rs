//! Where a role's credential goes: to disk, and then its hook is told.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use tokio::{sync::RwLock, task::spawn_blocking};

use super::{
    config::{Config, RoleConfig},
    desk::{Bundle, Fresh},
    hook::Hook,
    keeper::Deliver,
    publish::Publisher,
};
use crate::client::error::{Error, Kind, Result};

/// Where it stands in the state directory which hooks are due.
const DUE: &str = "due";

/// Deliveries under way: each runs on a thread of its own, and goes on when nobody waits for it any more.
#[derive(Default, Clone)]
pub struct Deliveries(Arc<RwLock<()>>);

impl Deliveries {
    /// Resolves when there is none. Whoever opens the same places earlier would see files come and go.
    pub async fn over(&self) {
        drop(self.0.write().await);
    }
}

/// Where a credential of one role goes: to disk, and then its hook is told.
pub struct Outlet {
    publisher: Option<Arc<Publisher>>,
    hook: Option<Arc<Hook>>,
    deliveries: Deliveries,
}

impl Outlet {
    /// Both are as the role's configuration has them; what is under way is counted among `deliveries`.
    pub fn new(publisher: Option<Arc<Publisher>>, hook: Option<Arc<Hook>>, deliveries: Deliveries) -> Self {
        Self { publisher, hook, deliveries }
    }

    /// What is told after a change, for whoever keeps it running.
    pub fn hook(&self) -> Option<Arc<Hook>> {
        self.hook.clone()
    }
}

#[async_trait]
impl Deliver for Outlet {
    async fn deliver(&self, fresh: &Arc<Fresh>, bundle: Option<&Arc<Bundle>>) -> Result<()> {
        let (publisher, hook) = (self.publisher.clone(), self.hook.clone());
        let (fresh, bundle) = (fresh.clone(), bundle.cloned());
        let under_way = self.deliveries.0.clone().read_owned().await;
        // The disk may be slow.
        let put = spawn_blocking(move || {
            let put = put(publisher.as_deref(), hook.as_deref(), &fresh, bundle.as_deref());
            drop(under_way);
            put
        });
        put.await.map_err(|error| Error::new(Kind::Other, "FILE", format!("publishing failed: {error}")))?
    }
}

fn put(publisher: Option<&Publisher>, hook: Option<&Hook>, fresh: &Fresh, bundle: Option<&Bundle>) -> Result<()> {
    let Some(publisher) = publisher else { return Ok(()) };
    let Some(staged) = publisher.stage(fresh, bundle)? else {
        // In force already, perhaps by a try that failed after that: who was to be told of it was not.
        if let Some(hook) = hook {
            hook.ring_if_due();
        }
        return Ok(());
    };
    if let Some(hook) = hook {
        hook.mark()?;
    }
    staged.commit()?;
    tracing::info!(dir = %publisher.dir().display(), generation = fresh.lease.generation, lease = fresh.lease.id, "fresh files");
    if let Some(hook) = hook {
        hook.ring();
    }
    Ok(())
}

/// One for each role.
///
/// # Errors
/// As [`Publisher::open`] and [`Hook::new`].
pub fn open(config: &Config, deliveries: &Deliveries) -> Result<Vec<Outlet>> {
    let due = config.state_dir.join(DUE);
    config.roles.iter().map(|role| outlet(role, &due, deliveries.clone())).collect()
}

fn outlet(role: &RoleConfig, due: &Path, deliveries: Deliveries) -> Result<Outlet> {
    let publisher = role.place.as_ref().map(Publisher::open).transpose()?.map(Arc::new);
    let dir: Option<PathBuf> = role.place.as_ref().map(|place| place.dir.clone());
    let hook = role.on_change.clone().map(|on_change| Hook::new(&role.name, on_change, dir, due)).transpose()?;
    Ok(Outlet::new(publisher, hook.map(Arc::new), deliveries))
}
