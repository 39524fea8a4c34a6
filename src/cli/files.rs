//! Writes the files of a credential into a directory: all of them or none, never half of one.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    client::{
        error::{Error, Kind, Result},
        settings::plain,
    },
    unix::files,
};

pub use crate::client::material::files::*;

/// A directory that was found fit to be written to.
#[derive(Debug)]
pub struct OutDir {
    path: PathBuf,
    staged: Vec<Staged>,
}

/// A complete file under a temporary name; removed when it is dropped before it got its own.
#[derive(Debug)]
struct Staged {
    temporary: PathBuf,
    target: PathBuf,
    renamed: bool,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.renamed {
            // What cannot be removed now is a stray file with mode 0600; there is nobody left to tell.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

impl OutDir {
    /// Makes the directory (mode 0700) when it is missing, and sees that each of `names` in it can be replaced, before
    /// the server is asked for anything.
    ///
    /// # Errors
    /// Usage, when a target is a symbolic link or no plain file, or the path is no directory; else what the disk says.
    pub fn prepare(path: &Path, names: &[&str]) -> Result<Self> {
        let absolute = std::path::absolute(path).map_err(|error| fault(path, &error))?;
        files::make_private_dir(&absolute).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::usage(format!("--out {} is no directory; name another one", path.display())),
            _ => fault(path, &error),
        })?;
        for name in names {
            refuse_odd_target(&absolute.join(name))?;
        }
        Ok(Self { path: absolute, staged: Vec::new() })
    }

    /// Where a file of ours will lie.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file under a temporary name, on disk when this returns.
    ///
    /// # Errors
    /// What the disk says; then nothing remains of it.
    pub fn stage(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        let target = self.path.join(name);
        let temporary = files::beside(&target);
        self.staged.push(Staged { temporary: temporary.clone(), target, renamed: false });
        files::create(&temporary, mode, content).map_err(|error| fault(&temporary, &error))
    }

    /// Gives every staged file its own name, in the order in which they were staged: stage the key first, so that whoever
    /// sees the certificate finds its key.
    ///
    /// # Errors
    /// What the disk says, or usage when a target has become a link meanwhile.
    pub fn commit(mut self) -> Result<()> {
        for staged in &self.staged {
            refuse_odd_target(&staged.target)?;
        }
        for staged in &mut self.staged {
            fs::rename(&staged.temporary, &staged.target).map_err(|error| fault(&staged.target, &error))?;
            staged.renamed = true;
        }
        files::sync_dir(&self.path).map_err(|error| fault(&self.path, &error))
    }
}

/// A target must be a plain file, or not there.
fn refuse_odd_target(target: &Path) -> Result<()> {
    match fs::symlink_metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(fault(target, &error)),
        Ok(found) if found.is_file() => Ok(()),
        Ok(found) if found.is_symlink() => Err(Error::usage(format!(
            "{} is a symbolic link, and a key must not go where a link leads; remove it or name another --out",
            target.display()
        ))),
        Ok(_) => Err(Error::usage(format!("{} is no plain file; remove it or name another --out", target.display()))),
    }
}

fn fault(path: &Path, error: &io::Error) -> Error {
    Error::new(Kind::Other, "FILE", format!("{} cannot be written: {}", path.display(), plain(error)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_new_directory_and_its_key_are_for_the_owner_only() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("a/b");
        let mut out = OutDir::prepare(&dir, ALL).unwrap();
        out.stage(KEY, 0o600, b"key").unwrap();
        out.stage(CERTIFICATE, 0o644, b"certificate").unwrap();
        assert_eq!(names(&dir).len(), 2);
        assert!(names(&dir).iter().all(|name| name.ends_with(".tmp")), "nothing has its name before the commit");
        out.commit().unwrap();
        assert_eq!(names(&dir), [CERTIFICATE, KEY]);
        assert_eq!((mode(&dir), mode(&dir.join(KEY))), (0o700, 0o600));
        assert_eq!(fs::read(dir.join(KEY)).unwrap(), b"key");
    }

    #[test]
    fn an_older_open_key_is_replaced_by_a_closed_one() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join(KEY);
        fs::write(&key, "old").unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        let mut out = OutDir::prepare(dir.path(), ALL).unwrap();
        out.stage(KEY, 0o600, b"new").unwrap();
        assert_eq!(fs::read(&key).unwrap(), b"old");
        out.commit().unwrap();
        assert_eq!((fs::read(&key).unwrap().as_slice(), mode(&key)), (b"new".as_slice(), 0o600));
    }

    #[test]
    fn what_is_not_committed_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CERTIFICATE), "old").unwrap();
        let mut out = OutDir::prepare(dir.path(), ALL).unwrap();
        out.stage(KEY, 0o600, b"key").unwrap();
        out.stage(CERTIFICATE, 0o644, b"new").unwrap();
        drop(out);
        assert_eq!(names(dir.path()), [CERTIFICATE]);
        assert_eq!(fs::read(dir.path().join(CERTIFICATE)).unwrap(), b"old");
    }

    #[test]
    fn a_link_is_refused_before_and_after_staging() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, "precious").unwrap();
        let out = dir.path().join("out");
        let mut prepared = OutDir::prepare(&out, ALL).unwrap();
        prepared.stage(KEY, 0o600, b"key").unwrap();
        symlink(&elsewhere, out.join(KEY)).unwrap();
        assert_eq!(prepared.commit().unwrap_err().kind(), Kind::Usage);
        assert_eq!(names(&out), [KEY]);
        assert!(OutDir::prepare(&out, ALL).unwrap_err().message().contains("symbolic link"));
        assert_eq!(fs::read(&elsewhere).unwrap(), b"precious");
    }

    #[test]
    fn a_directory_in_the_way_and_a_file_as_directory_are_usage() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(CERTIFICATE)).unwrap();
        assert_eq!(OutDir::prepare(dir.path(), ALL).unwrap_err().kind(), Kind::Usage);
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(OutDir::prepare(&file, ALL).unwrap_err().kind(), Kind::Usage);
    }

    #[test]
    fn paths_are_absolute() {
        let dir = tempfile::tempdir().unwrap();
        assert!(OutDir::prepare(dir.path(), ALL).unwrap().file(KEY).is_absolute());
    }
}
