//! The directory of cached credentials: for its owner only, one file for each credential, and locks.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::entry::Entry;
use crate::{
    client::{
        error::{Error, Kind, Result},
        settings::{Env, plain, variable},
    },
    clock,
    model::hex,
    unix::files,
};

/// The largest file that is read, in bytes.
pub const MAX_ENTRY: usize = 64 * 1024;

/// How many files one sweep looks at.
pub const MAX_SWEPT: usize = 1_000;

/// How often a lock that another process holds is tried.
const LOCK_POLL: Duration = Duration::from_millis(20);

const NAME: &str = "DAYPASS_CACHE_DIR";

/// A directory of ours that nobody else can enter.
pub struct CacheDir {
    path: PathBuf,
    owner: u32,
}

/// Held until it is dropped, or its process ends.
pub struct Lock(#[allow(dead_code, reason = "the lock lives as long as its open file")] File);

impl CacheDir {
    /// `DAYPASS_CACHE_DIR`, else `daypass` in `$XDG_CACHE_HOME`, else `~/.cache/daypass`; made with mode 0700 when it is missing.
    ///
    /// # Errors
    /// Usage, when it is another user's, or others can enter it.
    pub fn open(env: Env<'_>) -> Result<Self> {
        let path = user_dir(NAME, "XDG_CACHE_HOME", ".cache", env)?;
        files::make_private_dir(&path).map_err(|error| fault(&path, &error))?;
        let found = fs::metadata(&path).map_err(|error| fault(&path, &error))?;
        let owner = own_uid(&path).map_err(|error| fault(&path, &error))?;
        let refuse = |why: String| Err(Error::usage(format!("the cache {} {why}; name another one with {NAME}", path.display())));
        if found.uid() != owner {
            return refuse("belongs to another user".to_owned());
        }
        if found.mode() & 0o077 != 0 {
            return refuse(format!("can be entered by others (mode {:04o}): run chmod 700 on it", found.mode() & 0o7777));
        }
        Ok(Self { path, owner })
    }

    /// What is cached; none when nothing is. The error says why what is there is not to be used.
    pub fn read(&self, key: &str) -> Result<Option<Entry>, String> {
        let path = self.file(key);
        let shown = path.display();
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{shown} cannot be read: {}", plain(&error))),
            // Nobody but us can put a link into our directory, and we put none: it was brought there.
            Ok(found) if !found.is_file() => return Err(format!("{shown} is no plain file")),
            Ok(found) if found.uid() != self.owner => return Err(format!("{shown} belongs to another user")),
            Ok(found) if found.mode() & 0o077 != 0 => {
                return Err(format!("others can read {shown} (mode {:04o})", found.mode() & 0o7777));
            }
            Ok(found) if found.len() > MAX_ENTRY as u64 => return Err(format!("{shown} is larger than {MAX_ENTRY} bytes")),
            Ok(_) => {}
        }
        let mut text = Zeroizing::new(Vec::with_capacity(MAX_ENTRY));
        let read = File::open(&path).and_then(|file| file.take(MAX_ENTRY as u64).read_to_end(&mut text));
        read.map_err(|error| format!("{shown} cannot be read: {}", plain(&error)))?;
        let entry = serde_json::from_slice::<Entry>(&text).ok().filter(Entry::is_known);
        entry.map(Some).ok_or_else(|| format!("{shown} is damaged"))
    }

    /// Puts an entry in the place of the one before, if there is one, in one step; and takes away what has expired.
    ///
    /// # Errors
    /// What the disk says; the one before is then as it was.
    pub fn write(&self, key: &str, entry: &Entry, now: Timestamp) -> Result<()> {
        let target = self.file(key);
        let mut text = Zeroizing::new(Vec::with_capacity(MAX_ENTRY));
        serde_json::to_writer(&mut *text, entry).map_err(|error| Error::new(Kind::Other, "INTERNAL", error.to_string()))?;
        // A directory in its place is nothing of ours, and a rename would not replace it.
        if fs::symlink_metadata(&target).is_ok_and(|found| found.is_dir()) {
            return Err(fault(&target, &io::ErrorKind::IsADirectory.into()));
        }
        files::replace(&target, 0o600, &text).map_err(|error| fault(&target, &error))?;
        self.sweep(now);
        Ok(())
    }

    /// Takes an entry away, if it is there.
    pub fn forget(&self, key: &str) {
        // One that cannot be removed expires by itself.
        let _ = fs::remove_file(self.file(key));
    }

    /// Waits until no other process makes the same credential, no longer than `patience`.
    ///
    /// # Errors
    /// Timed out; or what the disk says.
    pub async fn lock(&self, key: &str, patience: Duration) -> Result<Lock> {
        let path = self.lock_file(key);
        let file = open_lock(&path).map_err(|error| fault(&path, &error))?;
        let deadline = Instant::now() + patience;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock(file)),
                Err(TryLockError::Error(error)) => return Err(fault(&path, &error)),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(LOCK_POLL).await,
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::timed_out(format!(
                        "another daypass process has been asking for this credential for {patience:?}; try again"
                    )));
                }
            }
        }
    }

    /// Takes away what has expired, but not what another process is about to replace.
    fn sweep(&self, now: Timestamp) {
        let Ok(entries) = fs::read_dir(&self.path) else { return };
        for entry in entries.flatten().take(MAX_SWEPT) {
            let name = entry.file_name();
            let Some(key) = name.to_str().and_then(|name| name.strip_suffix(".json")) else { continue };
            let has_expired = || matches!(self.read(key), Ok(Some(entry)) if !entry.is_alive(now));
            if has_expired() && open_lock(&self.lock_file(key)).is_ok_and(|file| file.try_lock().is_ok() && has_expired()) {
                self.forget(key);
            }
        }
    }

    fn file(&self, key: &str) -> PathBuf {
        self.path.join(format!("{key}.json"))
    }

    /// Shared by all keys that begin alike: a lock file cannot be removed safely, and so there are 256 at most.
    fn lock_file(&self, key: &str) -> PathBuf {
        self.path.join(format!("{}.lock", key.get(..2).unwrap_or("xx")))
    }
}

/// A directory of the user for daypass: named by a variable, else `daypass` in the XDG base directory of its sort.
///
/// # Errors
/// Usage, when there is no home either.
pub fn user_dir(name: &str, xdg: &str, in_home: &str, env: Env<'_>) -> Result<PathBuf> {
    if let Some(path) = variable(name, env) {
        return Ok(path.into());
    }
    // The XDG Base Directory Specification has relative paths ignored.
    let base = variable(xdg, env).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = base.or_else(|| variable("HOME", env).map(|home| Path::new(&home).join(in_home)));
    base.map(|base| base.join("daypass")).ok_or_else(|| Error::usage(format!("there is no home directory here: set {name}")))
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Our own user id: that of a file that we make.
fn own_uid(dir: &Path) -> io::Result<u32> {
    let random = hex::encode(&clock::random::<8>());
    let probe = dir.join(format!(".{random}.tmp"));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&probe)?;
    let uid = file.metadata().map(|found| found.uid());
    fs::remove_file(&probe)?;
    uid
}

fn fault(path: &Path, error: &io::Error) -> Error {
    Error::new(Kind::Other, "CACHE", format!("the cache's {} cannot be used: {}", path.display(), plain(error)))
}

#[cfg(test)]
mod tests;
