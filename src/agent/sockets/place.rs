//! Gives a file or a socket its place: with its mode and group from the first moment on, in one step, in place of what a dead agent left.

use std::{
    fs::{self, DirBuilder, Metadata, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use super::config::{Group, Mode};
use crate::{
    agent::{accounts::gid, folder},
    client::{
        error::{Error, Kind, Result},
        settings::plain,
    },
    clock,
    model::hex,
};

/// What lies at a path and is ours; it goes with this value, unless another has taken its place.
#[derive(Debug)]
pub(super) struct Placed {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Placed {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        let ours = |found: Metadata| (found.dev(), found.ino()) == (self.device, self.inode);
        if fs::symlink_metadata(&self.path).is_ok_and(ours) {
            // What cannot be removed now is replaced at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes what `make` makes at a path that nobody else can reach, gives it mode and group, and moves it to `path`.
///
/// # Errors
/// When others may replace files in the folder, when the path holds what is no stale thing of ours, or what the disk says.
pub(super) fn place<T>(path: &Path, mode: Mode, group: Option<&Group>, make: impl FnOnce(&Path) -> io::Result<T>) -> Result<(T, Placed)> {
    let fault = |error: io::Error| fault(path, &plain(&error));
    let group = group.map(gid).transpose()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Whoever may replace files there could give workloads a false identity, and have root give away what a link leads to.
    folder::check(folder)?;
    let workshop = Workshop::make(folder).map_err(fault)?;
    let made = workshop.0.join("s");
    let value = make(&made).map_err(fault)?;
    // Last the mode: a change of the group may take bits of it away.
    chown(&made, None, group).and_then(|()| fs::set_permissions(&made, Permissions::from_mode(mode.0))).map_err(fault)?;
    let found = fs::symlink_metadata(&made).map_err(fault)?;
    fs::rename(&made, path).map_err(fault)?;
    Ok((value, Placed { path: path.to_owned(), device: found.dev(), inode: found.ino() }))
}

/// Whether a socket may take this path: nothing is there, or a socket that nobody serves.
pub(super) fn check_free_for_socket(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(fault(path, &plain(&error))),
        Ok(found) if !found.file_type().is_socket() => {
            Err(fault(path, "there is something that is no socket: remove it, or take another path"))
        }
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Ok(_) => Err(fault(path, "another process serves it: is an agent running already?")),
            Err(error) => Err(fault(path, &format!("it cannot be seen whether another process serves it: {}", plain(&error)))),
        },
    }
}

/// Whether a plain file may take this path: nothing is there, or a plain file.
pub(super) fn check_free_for_file(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(fault(path, &plain(&error))),
        Ok(found) if found.is_file() => Ok(()),
        Ok(_) => Err(fault(path, "there is something that is no plain file: remove it, or take another path")),
    }
}

/// Writes a new file that only its owner can read.
pub(super) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(content)
}

/// A folder that only its owner can enter; it goes with this value.
struct Workshop(PathBuf);

impl Workshop {
    fn make(folder: &Path) -> io::Result<Self> {
        let path = folder.join(format!(".{}", hex::encode(&clock::random::<4>())));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // At most an empty folder stays, or a socket that nobody serves.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn fault(path: &Path, why: &str) -> Error {
    Error::new(Kind::Other, "SOCKET", format!("{}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn it_has_its_mode_and_group_replaces_what_is_there_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let own = rustix::process::getegid().as_raw();
        let (first, placed) = place(&path, Mode(0o666), Some(&Group::Id(own)), |path| UnixListener::bind(path)).unwrap();
        assert_eq!((mode(&path), fs::metadata(&path).unwrap().gid()), (0o666, own));
        assert_eq!(names(folder.path()), ["x.sock"]);
        assert!(UnixStream::connect(&path).is_ok());
        let (_second, newer) = place(&path, Mode(0o600), None, |path| UnixListener::bind(path)).unwrap();
        drop((first, placed));
        assert!(UnixStream::connect(newer.path()).is_ok(), "the older one removes only its own");
        assert_eq!(mode(&path), 0o600);
        drop(newer);
        assert!(!path.exists());
    }

    #[test]
    fn only_a_stale_socket_is_free_for_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        check_free_for_socket(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        assert!(check_free_for_socket(&path).unwrap_err().message().contains("another process"));
        drop(listener);
        assert!(path.exists());
        check_free_for_socket(&path).unwrap();
        assert!(check_free_for_file(&path).is_err());
        for (name, make) in [
            ("file", (|path| fs::write(path, "mine")) as fn(&Path) -> io::Result<()>),
            ("folder", |path| fs::create_dir(path)),
            ("link", |path| std::os::unix::fs::symlink("elsewhere", path)),
        ] {
            let path = folder.path().join(name);
            make(&path).unwrap();
            assert!(check_free_for_socket(&path).unwrap_err().message().contains("no socket"), "{name}");
            assert_eq!(check_free_for_file(&path).is_ok(), name == "file");
        }
    }

    #[test]
    fn a_failure_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert!(place(&path, Mode(0o600), None, |_| Err::<(), _>(io::Error::other("no"))).is_err());
        assert!(place(&path, Mode(0o600), Some(&Group::Name("no such group".to_owned())), |path| write_private(path, b"x")).is_err());
        assert_eq!(names(folder.path()), [""; 0]);
        for open in [0o777, 0o775] {
            fs::set_permissions(folder.path(), Permissions::from_mode(open)).unwrap();
            let refused = place(&path, Mode(0o600), None, |path| write_private(path, b"x")).unwrap_err();
            assert!(refused.message().contains("others may replace"), "{refused:?}");
        }
        fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
        place(&path, Mode(0o640), None, |path| write_private(path, b"x"))
            .map(|(_, placed)| assert_eq!(mode(placed.path()), 0o640))
            .unwrap();
    }
}
