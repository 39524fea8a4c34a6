//! What this server remembers of the rings across its own restarts, in a file beside its audit log: the store may forget, and who starts anew
//! over an emptied one must not take it for a new one.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use crate::{
    keys::Past,
    model::error::{Error, Result},
    unix::files,
};

/// The file, in the directory of the audit log.
const REMEMBERED: &str = "store-keys";

/// The longest file that is read, in bytes: it holds some 40 for each key that was taken out lately.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// What is known of each ring, by its name.
pub struct Memory {
    file: PathBuf,
    rings: Mutex<BTreeMap<String, Past>>,
}

impl Memory {
    /// What an earlier run has left in `dir`; nothing when it left nothing, or nothing readable, which is told in the log. Blocks on the disk.
    pub fn open(dir: &std::path::Path) -> Self {
        let file = dir.join(REMEMBERED);
        let read = || -> std::io::Result<BTreeMap<String, Past>> {
            if std::fs::metadata(&file)?.len() > MAX_FILE {
                return Err(std::io::Error::other("it is too long"));
            }
            Ok(serde_json::from_slice(&std::fs::read(&file)?)?)
        };
        let rings = match read() {
            Ok(rings) => rings,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "what was remembered of the keys cannot be read, and is forgotten");
                BTreeMap::new()
            }
        };
        Self { file, rings: Mutex::new(rings) }
    }

    /// What is known of a ring.
    pub fn of(&self, ring: &str) -> Past {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner).get(ring).cloned().unwrap_or_default()
    }

    /// Remembers what is known of a ring; writes the file only when that is new.
    ///
    /// # Errors
    /// The file cannot be written; what was to be remembered is written with what comes next.
    pub async fn keep(&self, ring: &str, past: &Past) -> Result<()> {
        let before = self.of(ring);
        let now = before.clone().and(past);
        if now == before {
            return Ok(());
        }
        let all = {
            let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
            let mut all = rings.clone();
            all.insert(ring.to_owned(), now);
            all
        };
        let body = serde_json::to_vec(&all).map_err(Error::internal)?;
        let file = self.file.clone();
        let written = tokio::task::spawn_blocking(move || files::replace(&file, 0o600, &body)).await.map_err(Error::internal)?;
        written.map_err(Error::internal)?;
        *self.rings.lock().unwrap_or_else(PoisonError::into_inner) = all;
        Ok(())
    }
}
