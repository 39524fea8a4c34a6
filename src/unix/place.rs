//! Gives a file or a socket its place: with its mode and group from the first moment on, in one step, in place of what a dead agent left.

use std::{
    fs::{self, DirBuilder, Metadata, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

use super::{files, folder};
use crate::{clock, model::hex};

/// The longest path of a socket, in bytes: what `sun_path` holds (unix(7): 107 and a NUL), less what the folder's name takes in which it is
/// made before it gets its place.
pub const MAX_SOCKET_PATH: usize = 96;

/// A socket, bound. Who connects waits.
#[derive(Debug)]
pub struct BoundSocket {
    /// What accepts.
    pub listener: UnixListener,
    /// It goes with this value.
    pub file: Placed,
}

impl BoundSocket {
    /// Binds a socket, with its mode and group from the first moment on; must be called in a runtime. What a dead process left is replaced,
    /// what a living one serves is not.
    ///
    /// # Errors
    /// As [`place`], or when something else has the path.
    pub fn bind(path: &Path, mode: u32, group: Option<u32>) -> io::Result<Self> {
        check_free_for_socket(path)?;
        let (listener, file) = place(path, mode, group, |path| UnixListener::bind(path))?;
        Ok(Self { listener, file })
    }
}

/// What lies at a path and is ours; it goes with this value, unless another has taken its place.
#[derive(Debug)]
pub struct Placed {
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
pub fn place<T>(path: &Path, mode: u32, group: Option<u32>, make: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<(T, Placed)> {
    let folder = files::folder(path);
    // Whoever may replace files there could give workloads a false identity, and have root give away what a link leads to.
    folder::check(folder).map_err(io::Error::other)?;
    let workshop = Workshop::make(folder)?;
    let made = workshop.0.join("s");
    let value = make(&made)?;
    // Last the mode: a change of the group may take bits of it away.
    chown(&made, None, group)?;
    fs::set_permissions(&made, Permissions::from_mode(mode))?;
    let found = fs::symlink_metadata(&made)?;
    fs::rename(&made, path)?;
    Ok((value, Placed { path: path.to_owned(), device: found.dev(), inode: found.ino() }))
}

/// Whether a socket may take this path: nothing is there, or a socket that nobody serves.
fn check_free_for_socket(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            Err(io::Error::other("there is something that is no socket: remove it, or take another path"))
        }
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Ok(_) => Err(io::Error::other("another process serves it already")),
            Err(error) => Err(io::Error::other(format!("it cannot be seen whether another process serves it: {error}"))),
        },
    }
}

/// Whether a plain file may take this path: nothing is there, or a plain file.
pub fn check_free_for_file(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if found.is_file() => Ok(()),
        Ok(_) => Err(io::Error::other("there is something that is no plain file: remove it, or take another path")),
    }
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::{super::files::create, *};

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
        let (first, placed) = place(&path, 0o666, Some(own), |path| UnixListener::bind(path)).unwrap();
        assert_eq!((mode(&path), fs::metadata(&path).unwrap().gid()), (0o666, own));
        assert_eq!(names(folder.path()), ["x.sock"]);
        assert!(UnixStream::connect(&path).is_ok());
        let (_second, newer) = place(&path, 0o600, None, |path| UnixListener::bind(path)).unwrap();
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
        assert!(check_free_for_socket(&path).unwrap_err().to_string().contains("another process"));
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
            assert!(check_free_for_socket(&path).unwrap_err().to_string().contains("no socket"), "{name}");
            assert_eq!(check_free_for_file(&path).is_ok(), name == "file");
        }
    }

    #[test]
    fn a_failure_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert!(place(&path, 0o600, None, |_| Err::<(), _>(io::Error::other("no"))).is_err());
        assert_eq!(names(folder.path()), [""; 0]);
        for open in [0o777, 0o775] {
            fs::set_permissions(folder.path(), Permissions::from_mode(open)).unwrap();
            let refused = place(&path, 0o600, None, |path| create(path, 0o600, b"x")).unwrap_err();
            assert!(refused.to_string().contains("others may replace"), "{refused:?}");
        }
        fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
        place(&path, 0o640, None, |path| create(path, 0o600, b"x")).map(|(_, placed)| assert_eq!(mode(placed.path()), 0o640)).unwrap();
    }
}
