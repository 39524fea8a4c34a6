//! The directory in which the command finds its files: the caller's alone, and gone afterwards.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, Metadata},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::{
    cli::{material::NewFile, output},
    client::{
        error::{Error, Kind, Result},
        settings::{Env, plain},
    },
    clock,
    model::hex,
    unix::files,
};

/// How many times another name is tried when one is taken.
const TRIES: usize = 4;

/// The directory, with mode 0700; removed with this value.
#[derive(Debug)]
pub struct PrivateDir {
    path: PathBuf,
    generation: u64,
}

impl PrivateDir {
    /// Makes it under `$XDG_RUNTIME_DIR`, which is in memory and the user's own, or else under the temporary directory.
    ///
    /// # Errors
    /// When it cannot be made, or in neither is safe from other users.
    pub fn make(env: Env<'_>) -> Result<Self> {
        let parents = [runtime_dir(env("XDG_RUNTIME_DIR")), temporary_dir(&std::env::temp_dir())];
        let mut last = None;
        for parent in parents.into_iter().flatten() {
            for _ in 0..TRIES {
                let path = parent.join(format!("daypass-{}", random()));
                match DirBuilder::new().mode(0o700).create(&path) {
                    Ok(()) if path.to_str().is_some() => return Ok(Self { path, generation: 0 }),
                    Ok(()) => drop(fs::remove_dir(&path)),
                    Err(error) => last = Some(fault(&path, &error)),
                }
            }
        }
        Err(last.unwrap_or_else(|| {
            let text = "must be a path of UTF-8 text, and a directory of yours or with the sticky bit: set TMPDIR, or XDG_RUNTIME_DIR";
            Error::usage(format!("the temporary directory {text}"))
        }))
    }

    /// Where it is; UTF-8 text.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes one file, in place of the one before: whoever reads it sees the whole of either.
    pub fn put(&self, file: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.path.join(file);
        let folder = path.parent().unwrap_or(&self.path);
        make_folder(folder)?;
        let temporary = folder.join(format!(".{}.tmp", random()));
        let written = write(&temporary, 0o600, content).and_then(|()| fs::rename(&temporary, &path));
        written.map_err(|error| {
            // What cannot be removed now goes with the directory.
            let _ = fs::remove_file(&temporary);
            fault(&path, &error)
        })?;
        Ok(path)
    }

    /// Writes files that belong together into the folder `name`, in place of those before, all at one moment: the folder is a link to
    /// the newest generation. The one before stays, for who has resolved the link and not opened all its files.
    pub fn swap(&mut self, name: &str, files: &[NewFile]) -> Result<PathBuf> {
        let link = self.path.join(name);
        let older = fs::read_link(&link).ok();
        self.generation += 1;
        let folder = format!(".{name}.{}", self.generation);
        let path = self.path.join(&folder);
        let swapped = make_folder(&path).and_then(|()| {
            let fill = files.iter().try_for_each(|file| write(&path.join(file.name), file.mode, &file.content));
            let temporary = self.path.join(format!(".{}.tmp", random()));
            fill.and_then(|()| files::replace_link(&link, Path::new(&folder), &temporary)).map_err(|error| fault(&link, &error))
        });
        match swapped {
            Ok(()) => self.remove_generations(name, &[Some(folder.into()), older]),
            Err(_) => drop(fs::remove_dir_all(&path)),
        }
        swapped.map(|()| link)
    }

    /// Removes the generations of a folder, but for these.
    fn remove_generations(&self, name: &str, kept: &[Option<PathBuf>; 2]) {
        let prefix = format!(".{name}.");
        let names = fs::read_dir(&self.path).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let ours = names
            .filter(|found| found.to_str().and_then(|text| text.strip_prefix(&prefix)).is_some_and(|rest| rest.parse::<u64>().is_ok()));
        for old in ours.filter(|found| !kept.iter().flatten().any(|kept| kept.as_os_str() == found)) {
            // What cannot be removed now goes with the directory.
            let _ = fs::remove_dir_all(self.path.join(old));
        }
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes such a directory; the watcher may have been quicker.
pub fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        output::note(&format!("warning: {} cannot be removed: {}", path.display(), plain(&error)), false);
    }
}

/// An absolute path that is a directory of the user's own which nobody else can enter, as the XDG Base Directory Specification demands of
/// it. After `su` it can be another user's, who could then put anything in the place of ours.
fn runtime_dir(value: Option<OsString>) -> Option<PathBuf> {
    let path = value.map(PathBuf::from).filter(|path| path.is_absolute())?;
    let found = fs::metadata(&path).ok()?;
    (found.is_dir() && is_ours(&found) && found.mode() & 0o077 == 0).then_some(path)
}

/// A directory in which no other user can replace what we made: ours, or one where everybody removes their own only.
fn temporary_dir(path: &Path) -> Option<PathBuf> {
    const STICKY: u32 = 0o1000;
    let found = fs::metadata(path).ok()?;
    let safe = found.mode() & STICKY != 0 || is_ours(&found) && found.mode() & 0o002 == 0;
    (found.is_dir() && safe).then(|| path.to_owned())
}

fn is_ours(found: &Metadata) -> bool {
    found.uid() == rustix::process::geteuid().as_raw()
}

fn make_folder(path: &Path) -> Result<()> {
    files::make_private_dir(path).map_err(|error| fault(path, &error))
}

fn write(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    // It is not synced: after a crash of the machine nobody would look for it.
    fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?.write_all(content)
}

fn random() -> String {
    hex::encode(&clock::random::<8>())
}

fn fault(path: &Path, error: &io::Error) -> Error {
    Error::new(Kind::Other, "FILE", format!("{} cannot be written: {}", path.display(), plain(error)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use zeroize::Zeroizing;

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn private() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        chmod(dir.path(), 0o700);
        dir
    }

    fn make(parent: &Path) -> PrivateDir {
        PrivateDir::make(&|_| Some(parent.into())).unwrap()
    }

    fn file(name: &'static str, text: &str) -> NewFile {
        NewFile { name, mode: 0o600, content: Zeroizing::new(text.as_bytes().to_vec()) }
    }

    #[test]
    fn it_is_the_callers_alone_and_goes() {
        let parent = private();
        let dir = make(parent.path());
        assert!(dir.path().starts_with(parent.path()));
        let token = dir.put("job/token", b"one").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(dir.path()), mode(&token)), (0o700, 0o600));
        dir.put("job/token", b"two").unwrap();
        assert_eq!(fs::read(&token).unwrap(), b"two");
        assert_eq!(fs::read_dir(token.parent().unwrap()).unwrap().count(), 1);
        drop(dir);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_swap_shows_old_or_new_and_keeps_one_generation() {
        let parent = private();
        let mut dir = make(parent.path());
        for generation in 1..=5 {
            let text = generation.to_string();
            let folder = dir.swap("web", &[file("a", &text), file("b", &text)]).unwrap();
            assert_eq!(
                (fs::read_to_string(folder.join("a")).unwrap(), fs::read_to_string(folder.join("b")).unwrap()),
                (text.clone(), text)
            );
        }
        dir.swap("web-2", &[file("a", "x")]).unwrap();
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, [".web-2.6", ".web.4", ".web.5", "web", "web-2"]);
    }

    #[test]
    fn a_swap_that_fails_changes_nothing() {
        let parent = private();
        let mut dir = make(parent.path());
        let folder = dir.swap("web", &[file("a", "old")]).unwrap();
        assert!(dir.swap("web", &[file("a", "new"), file("no/such", "x")]).is_err());
        assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_runtime_directory_that_is_none_is_passed_over() {
        assert_eq!(runtime_dir(Some("relative".into())), None);
        assert_eq!(runtime_dir(Some("/nonexistent/dir".into())), None);
        assert_eq!(runtime_dir(None), None);
        let parent = private();
        let path = parent.path().to_owned();
        let found = || runtime_dir(Some(path.clone().into()));
        assert_eq!(found(), Some(path.clone()));
        for mode in [0o701, 0o750, 0o1777] {
            chmod(&path, mode);
            assert_eq!(found(), None, "{mode:o}");
        }
        assert!(!make(&path).path().starts_with(&path), "the next parent is taken");
    }

    #[test]
    fn a_parent_where_others_could_replace_ours_is_none() {
        let parent = private();
        let path = parent.path();
        for (mode, safe) in [(0o700, true), (0o755, true), (0o775, true), (0o777, false), (0o1777, true)] {
            chmod(path, mode);
            assert_eq!(temporary_dir(path).is_some(), safe, "{mode:o}");
        }
        assert_eq!(temporary_dir(&path.join("none")), None);
        chmod(path, 0o700);
        // Only root can give a directory away, and then is not its owner.
        if std::os::unix::fs::chown(path, Some(65_534), None).is_ok() {
            assert_eq!((runtime_dir(Some(path.into())), temporary_dir(path)), (None, None));
        }
    }
}
