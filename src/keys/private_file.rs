//! Files that hold a key: bounded, and nobody else's to read or to write.

use std::{
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use zeroize::Zeroizing;

/// The longest file, in bytes.
pub const MAX_FILE: u64 = 16 * 1024;

/// Reads a file that holds a key.
///
/// # Errors
/// Why it cannot be used, in words that hold nothing of it: it is not there, too long, or others may touch it.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let at = |error: &io::Error| format!("{}: {error}", path.display());
    let file = File::open(path).map_err(|error| at(&error))?;
    // Of the file that is open: what has its name may be another one by now.
    let meta = file.metadata().map_err(|error| at(&error))?;
    if !meta.is_file() {
        return Err(format!("{}: it is no file", path.display()));
    }
    if let Some(fault) = fault(&meta, us()) {
        return Err(format!("{}: {fault}", path.display()));
    }
    // Room for all of it, so that no copy is left behind by growing.
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_FILE).unwrap_or(usize::MAX) + 1));
    file.take(MAX_FILE + 1).read_to_end(&mut content).map_err(|error| at(&error))?;
    if content.len() as u64 > MAX_FILE {
        return Err(format!("{}: it is larger than {MAX_FILE} bytes", path.display()));
    }
    Ok(content)
}

/// Who could have read a key could use it, and who could have written one knows it.
fn fault(meta: &Metadata, us: u32) -> Option<&'static str> {
    let mode = meta.mode();
    if mode & 0o007 != 0 {
        return Some("everybody on this machine may touch it; chmod 600 it, and replace the key");
    }
    if mode & 0o020 != 0 {
        return Some("its group may write it; chmod 600 it, and replace the key");
    }
    (!is_trusted(meta, us)).then_some("it is neither this service's user's nor root's; whoever owns it knows the key: replace it")
}

fn is_trusted(meta: &Metadata, us: u32) -> bool {
    [us, 0].contains(&meta.uid())
}

/// The user that this process acts as.
fn us() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_key_is_ours_alone_by_mode_and_by_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "k").unwrap();
        let meta = |mode: u32| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            fs::metadata(&path).unwrap()
        };
        let file = |mode, us| fault(&meta(mode), us).unwrap_or_default();
        // A group that may read is how some platforms hand secrets to a service.
        assert_eq!([0o600, 0o400, 0o640].map(|mode| file(mode, us())), [""; 3]);
        assert!([0o604, 0o602, 0o601, 0o644].iter().all(|mode| file(*mode, us()).contains("everybody")));
        assert!(file(0o660, us()).contains("its group may write it"));
        // Root's are taken whoever we are; these are not root's unless root runs this.
        let other = us().wrapping_add(1);
        let is_root = us() == 0;
        assert_eq!(file(0o600, other).contains("neither"), !is_root);
        if is_root {
            std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
            assert!(file(0o600, 0).contains("neither"));
            assert_eq!(file(0o600, 12_345), "");
        }
    }

    #[test]
    fn what_is_read_is_bounded_and_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let write = |content: &[u8]| {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        };
        let longest = usize::try_from(MAX_FILE).unwrap();
        write(&vec![b'x'; longest]);
        assert_eq!(read(&path).unwrap().len(), longest);
        write(&vec![b'x'; longest + 1]);
        assert!(read(&path).unwrap_err().contains("larger than 16384 bytes"));
        assert!(read(dir.path()).unwrap_err().contains("it is no file"));
        assert!(read(&dir.path().join("none")).unwrap_err().contains("No such file"));
    }
}
