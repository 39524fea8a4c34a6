//! The state directory: what the agent must find again after a restart. One directory, its owner's alone; each file is written whole.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::keeper::RoleToKeep;
use crate::{
    client::{
        error::{Error, Kind, Result},
        settings::{plain, read_bounded},
        watch::Watched,
    },
    unix::{files, folder},
};

/// Where roles are kept, in the state directory.
const ROLES: &str = "roles";

/// Held while an agent runs, in the state directory.
const LOCK: &str = "lock";

/// The state directory, held by this process alone.
#[derive(Clone)]
pub struct StateDir {
    path: PathBuf,
    _lock: Arc<File>,
}

/// What is kept of a role.
#[derive(Default)]
pub struct KeptRole {
    /// A request for a lease whose answer did not come yet.
    pub asked: Option<Asked>,
    /// What the holder has.
    pub held: Option<Held>,
    /// Whether the lease of what is held is of no use any more: what is held stays until another lease gives something.
    pub over: bool,
}

/// A request for a lease: repeated with the same id and key it gives the same one.
#[derive(Clone)]
pub struct Asked {
    /// Its id.
    pub request_id: String,
    /// The key of its CSR, PKCS #8 PEM.
    pub key_pem: Zeroizing<String>,
}

/// A credential with its lease and key.
pub struct Held {
    /// The lease, and the credential, which is always there.
    pub watched: Watched,
    /// The certificate's key, PKCS #8 PEM; empty for other kinds.
    pub key_pem: Zeroizing<String>,
}

/// The file's form. Secrets stand in it: its mode is 0600 from the first byte.
#[derive(Default, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct Form {
    /// Of another role, or for another audience, the lease is not taken up.
    role: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    audience: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asked_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    over: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

impl StateDir {
    /// Opens the directory, which is made (mode 0700) when it is missing, and holds it until every copy of this is dropped.
    ///
    /// # Errors
    /// Usage, when others may write into it, when it is another user's, or when another agent holds it; else what the disk says.
    pub fn open(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).map_err(|error| fault(path, &error))?;
        folder::check(&path).map_err(Error::usage)?;
        make_own_dir(&path)?;
        make_own_dir(&path.join(ROLES))?;
        let at = path.join(LOCK);
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&at).map_err(|error| fault(&at, &error))?;
        match lock.try_lock() {
            Ok(()) => {
                let state = Self { path, _lock: Arc::new(lock) };
                state.remove_leftovers();
                Ok(state)
            }
            Err(TryLockError::WouldBlock) => Err(Error::usage(format!("another agent runs with {}", path.display()))),
            Err(TryLockError::Error(error)) => Err(fault(&at, &error)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is kept of a role under its name; nothing when it is of another role of the service, or for another audience.
    ///
    /// # Errors
    /// `FILE`, when it cannot be read or is damaged.
    pub fn load(&self, wanted: &RoleToKeep) -> Result<KeptRole> {
        let path = self.file(&wanted.name);
        if !path.exists() {
            return Ok(KeptRole::default());
        }
        let damaged = |why: String| Error::new(Kind::Other, "FILE", format!("{}: {why}; remove it to begin anew", path.display()));
        let text = read_bounded(&path).map_err(|why| damaged(why.clone()))?;
        let mut form: Form = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if form.role != wanted.role || form.audience != wanted.audience {
            return Ok(KeptRole::default());
        }
        let asked = form.request_id.take().zip(form.asked_key.take());
        let asked = asked.map(|(request_id, key)| Asked { request_id, key_pem: Zeroizing::new(key) });
        let key_pem = Zeroizing::new(form.key.take().unwrap_or_default());
        let held = form.held.as_ref().map(|held| {
            let bytes = Zeroizing::new(STANDARD.decode(held.as_bytes()).map_err(|error| damaged(error.to_string()))?);
            let watched = Watched::from_bytes(&bytes)?;
            if watched.credential.is_none() {
                return Err(damaged("it holds no credential".to_owned()));
            }
            Ok(Held { watched, key_pem })
        });
        Ok(KeptRole { asked, held: held.transpose()?, over: form.over })
    }

    /// Keeps a role under its name: whole, and on disk when this returns.
    ///
    /// # Errors
    /// What the disk says; then what was kept before still is.
    pub fn store(&self, wanted: &RoleToKeep, kept: &KeptRole) -> Result<()> {
        let held = kept.held.as_ref();
        let form = Form {
            role: wanted.role.clone(),
            audience: wanted.audience.clone(),
            request_id: kept.asked.as_ref().map(|asked| asked.request_id.clone()),
            asked_key: kept.asked.as_ref().map(|asked| asked.key_pem.to_string()),
            held: held.map(|held| STANDARD.encode(held.watched.as_bytes())),
            over: kept.over,
            key: held.map(|held| held.key_pem.to_string()),
        };
        let text = Zeroizing::new(serde_json::to_vec(&form).map_err(|error| Error::new(Kind::Other, "FILE", error.to_string()))?);
        let path = self.file(&wanted.name);
        files::replace(&path, 0o600, &text).map_err(|error| fault(&path, &error))
    }

    /// What a crash left half-written holds a key. Nobody but the holder of the lock writes here.
    fn remove_leftovers(&self) {
        for entry in fs::read_dir(self.path.join(ROLES)).into_iter().flatten().flatten() {
            if entry.path().extension().is_none_or(|extension| extension != "json")
                && let Err(error) = fs::remove_file(entry.path())
            {
                tracing::warn!(%error, path = %entry.path().display(), "a leftover in the state directory was not removed");
            }
        }
    }

    /// A role's name in the agent's configuration is a file name: `[a-z0-9-]`.
    fn file(&self, name: &str) -> PathBuf {
        self.path.join(ROLES).join(format!("{name}.json"))
    }
}

/// Makes a directory (mode 0700) when it is missing.
///
/// # Errors
/// Usage, when others may write into it, or it is another user's; else what the disk says.
pub(super) fn make_own_dir(dir: &Path) -> Result<()> {
    let found = files::make_private_dir(dir).and_then(|()| fs::metadata(dir)).map_err(|error| fault(dir, &error))?;
    if found.mode() & 0o022 != 0 {
        return Err(Error::usage(format!("others may write into {}; run: chmod go-w {0}", dir.display())));
    }
    if ![rustix::process::geteuid().as_raw(), 0].contains(&found.uid()) {
        return Err(Error::usage(format!("{} is neither this user's nor root's", dir.display())));
    }
    Ok(())
}

fn fault(path: &Path, error: &io::Error) -> Error {
    Error::new(Kind::Other, "FILE", format!("{}: {}", path.display(), plain(error)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn web() -> RoleToKeep {
        RoleToKeep { name: "web".to_owned(), role: "web".to_owned(), ttl: None, audience: None }
    }

    fn asked() -> Asked {
        Asked { request_id: "r1".to_owned(), key_pem: Zeroizing::new("canary".to_owned()) }
    }

    #[test]
    fn what_a_crash_left_half_written_goes_with_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        state.store(&web(), &KeptRole { asked: Some(asked()), ..KeptRole::default() }).unwrap();
        drop(state);
        let left = files::beside(&dir.path().join("roles/web.json"));
        fs::write(&left, "canary").unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        assert!(!left.exists());
        assert!(state.load(&web()).unwrap().asked.is_some());
    }

    #[test]
    fn what_was_kept_is_found_again_by_the_same_role_alone() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("state")).unwrap();
        assert!(state.load(&web()).unwrap().asked.is_none());
        state.store(&web(), &KeptRole { asked: Some(asked()), ..KeptRole::default() }).unwrap();
        state.store(&web(), &KeptRole { asked: Some(asked()), ..KeptRole::default() }).unwrap();
        assert_eq!(state.load(&web()).unwrap().asked.unwrap().request_id, "r1");
        let is_kept_for = |wanted: RoleToKeep| state.load(&wanted).unwrap().asked.is_some();
        let audience = |text: &str| Some(text.to_owned());
        assert!(!is_kept_for(RoleToKeep { role: "other".to_owned(), ..web() }));
        assert!(!is_kept_for(RoleToKeep { audience: audience("https://a.example"), ..web() }));
        assert!(is_kept_for(RoleToKeep { ttl: Some(jiff::SignedDuration::from_mins(5)), ..web() }), "a life is the next credential's");
        let job = RoleToKeep { audience: audience("https://a.example"), ..web() };
        state.store(&job, &KeptRole { asked: Some(asked()), ..KeptRole::default() }).unwrap();
        assert!(is_kept_for(job));
        assert!(!is_kept_for(RoleToKeep { audience: audience("https://b.example"), ..web() }), "a token is for the audience it names");
        let mode = |name: &str| fs::metadata(state.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("roles/web.json"), mode("roles"), mode(".")), (0o600, 0o700, 0o700));
    }

    #[test]
    fn one_agent_at_a_time_and_nobody_else_writes() {
        let dir = tempfile::tempdir().unwrap();
        let held = StateDir::open(dir.path()).unwrap();
        let error = StateDir::open(dir.path()).err().unwrap();
        assert!(error.message().contains("another agent"), "{error}");
        drop(held);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = StateDir::open(dir.path()).err().unwrap();
        assert!(error.message().contains("chmod go-w"), "{error}");
    }

    #[test]
    fn a_damaged_file_is_told_and_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        for text in ["", "{", r#"{"role":"web","held":"!"}"#, r#"{"role":"web","held":"AAAA"}"#, r#"{"role":"web","held":""}"#] {
            fs::write(state.file("web"), text).unwrap();
            assert!(state.load(&web()).is_err(), "{text}");
        }
    }
}
