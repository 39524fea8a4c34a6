//! Files that are there whole, or not at all.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink},
    path::{Path, PathBuf},
};

use crate::{clock, model::hex};

/// Makes a directory that only its owner can enter, and those above it; one that is there stays as it is.
pub fn make_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a new file, on disk when this returns. It neither follows a link nor takes over a file, and the mode holds from the first byte.
pub fn create(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Writes a file beside its place and gives it its name in one step: whoever reads sees the whole of either. On disk when this returns.
pub fn replace(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let beside = beside(path);
    create(&beside, mode, content).and_then(|()| fs::rename(&beside, path)).inspect_err(|_| {
        // What is left of it is for the owner only.
        let _ = fs::remove_file(&beside);
    })?;
    sync_dir(folder(path))
}

/// Makes a link at `beside` and gives it its name in one step. The folder is the caller's to sync.
pub fn replace_link(path: &Path, target: &Path, beside: &Path) -> io::Result<()> {
    symlink(target, beside)?;
    fs::rename(beside, path).inspect_err(|_| {
        // A dangling link is no secret.
        let _ = fs::remove_file(beside);
    })
}

/// A hidden name in the same folder that nobody has.
pub fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.tmp", hex::encode(&clock::random::<8>())))
}

/// Has on disk which names a folder holds.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Where a path lies.
pub fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_and_nothing_stays_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "old and longer").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        replace(&path, 0o600, b"new").unwrap();
        assert_eq!((fs::read(&path).unwrap().as_slice(), names(dir.path())), (b"new".as_slice(), vec!["key".to_owned()]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::create_dir(dir.path().join("taken")).unwrap();
        assert!(replace(&dir.path().join("taken"), 0o600, b"x").is_err());
        assert_eq!(names(dir.path()).len(), 2);
    }

    #[test]
    fn what_is_there_is_never_written_into() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("precious"), dir.path().join("link"));
        fs::write(&path, "mine").unwrap();
        symlink(&path, &link).unwrap();
        for taken in [&path, &link] {
            assert_eq!(create(taken, 0o600, b"x").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        }
        replace(&link, 0o600, b"x").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"mine", "a link is replaced and not followed");
    }

    #[test]
    fn a_link_points_elsewhere_in_one_step() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        for target in ["a", "b"] {
            replace_link(&link, Path::new(target), &beside(&link)).unwrap();
            assert_eq!(fs::read_link(&link).unwrap(), Path::new(target));
        }
        assert_eq!(names(dir.path()), ["link"]);
    }
}
