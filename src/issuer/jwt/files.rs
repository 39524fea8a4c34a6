//! The directory of key files. `000001.pem`, `000002.pem`, …: each holds a key and its two times, is written whole, and never changes.
//!
//! Several servers may share it: a number is taken by linking a finished file to its name, which one of them alone can do. Whoever deletes
//! a file has found that no token lives under its key, and so would every other.

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use zeroize::{Zeroize, Zeroizing};

use super::{
    key::{SigningAlgorithm, SigningKey},
    schedule::{PUBLISH_AHEAD, Times},
};
use crate::{
    clock,
    model::{Timestamp, pem},
};

/// The most keys in a directory: four times what the fastest rotation leaves there.
pub const MAX_KEYS: usize = 128;

/// The longest key file, in bytes.
const MAX_FILE: u64 = 16 * 1024;

/// What tells a changed file from an unchanged one: its inode, when that was changed, its length.
pub(super) type Stamp = (u64, i64, i64, u64);

/// A key file that was found.
pub(super) struct Found {
    /// Its number.
    pub sequence: u32,
    /// Where it lies.
    pub path: PathBuf,
    /// What it was when it was found.
    pub stamp: Stamp,
}

/// The key files of a directory, in order of their numbers. A directory that is not there yet has none.
pub(super) fn list(dir: &Path) -> Result<Vec<Found>, String> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at(dir, &error)),
    };
    directory_is_ours(dir)?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| at(dir, &error))?.path();
        let Some(sequence) = path.file_name().and_then(|name| number(name.to_str()?)) else { continue };
        let meta = match fs::metadata(&path) {
            Ok(meta) => meta,
            // Another server has just deleted it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(at(&path, &error)),
        };
        found.push(Found { sequence, path, stamp: (meta.ino(), meta.ctime(), meta.ctime_nsec(), meta.len()) });
    }
    if found.len() > MAX_KEYS {
        return Err(format!("{}: there are {} key files; at most {MAX_KEYS} are taken", dir.display(), found.len()));
    }
    found.sort_by_key(|found| found.sequence);
    Ok(found)
}

/// Reads a key file; none when another server has just deleted it.
pub(super) fn read(path: &Path) -> Result<Option<(Times, SigningKey)>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(path, &error)),
    };
    // Of the file that is open: what has its name may be another one by now.
    let meta = file.metadata().map_err(|error| at(path, &error))?;
    if let Some(fault) = key_file_fault(&meta, us()) {
        return Err(format!("{}: {fault}", path.display()));
    }
    // Room for all of it, so that no copy is left behind by growing.
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_FILE).unwrap_or(usize::MAX) + 1));
    file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(|error| at(path, &error))?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("{}: it is larger than {MAX_FILE} bytes", path.display()));
    }
    parse(&text).map(Some).map_err(|fault| format!("{}: {fault}", path.display()))
}

/// Who could have written a key could sign with it, and whoever may write into the directory could put one there.
fn key_file_fault(meta: &Metadata, us: u32) -> Option<&'static str> {
    let mode = meta.mode();
    if mode & 0o007 != 0 {
        return Some("everybody on this machine may touch it; chmod 600 it, and rotate the key");
    }
    if mode & 0o020 != 0 {
        return Some("its group may write it; chmod 600 it, and rotate the key");
    }
    (!is_trusted(meta, us)).then_some("it is neither this service's user's nor root's; whoever owns it knows the key: rotate it")
}

fn directory_is_ours(dir: &Path) -> Result<(), String> {
    let meta = fs::metadata(dir).map_err(|error| at(dir, &error))?;
    directory_fault(&meta, us()).map_or(Ok(()), |fault| Err(format!("{}: {fault}", dir.display())))
}

fn directory_fault(meta: &Metadata, us: u32) -> Option<&'static str> {
    if meta.mode() & 0o022 != 0 {
        return Some("others than its owner may put keys there; chmod 700 it");
    }
    (!is_trusted(meta, us)).then_some("it is neither this service's user's nor root's; chown it")
}

fn is_trusted(meta: &Metadata, us: u32) -> bool {
    [us, 0].contains(&meta.uid())
}

/// The user that this process acts as.
fn us() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Writes a key under the next number. False when another server has taken that number.
pub(super) fn create(dir: &Path, sequence: u32, times: Times, algorithm: SigningAlgorithm) -> Result<bool, String> {
    let text = write_text(times, &SigningKey::generate(algorithm)?);
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at(dir, &error)),
        _ => {}
    }
    directory_is_ours(dir)?;
    let path = dir.join(name(sequence));
    let beside = dir.join(format!(".{}.{:016x}.tmp", name(sequence), u64::from_be_bytes(clock::random())));
    let written = write_whole(&beside, text.as_bytes()).and_then(|()| fs::hard_link(&beside, &path));
    let taken = path.exists();
    let tidied = remove_unfinished(dir, sequence).and_then(|()| File::open(dir)?.sync_all());
    match written {
        Ok(()) => tidied.map(|()| true).map_err(|error| at(dir, &error)),
        // Another server has the number; it may have tidied our file away, too.
        Err(_) if taken => Ok(false),
        Err(error) => Err(at(&path, &error)),
    }
}

/// Removes what was written beside a number that is taken: ours, and what a crash has left.
fn remove_unfinished(dir: &Path, sequence: u32) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?.path();
        let number = entry.file_name().and_then(|file| unfinished(file.to_str()?));
        if number.is_some_and(|number| number <= sequence) {
            match fs::remove_file(&entry) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Deletes a key file; it is fine when another server has.
pub(super) fn delete(path: &Path) -> Result<(), String> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path, &error)),
        _ => Ok(()),
    }
}

fn write_whole(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

fn name(sequence: u32) -> String {
    format!("{sequence:06}.pem")
}

fn number(file: &str) -> Option<u32> {
    let digits = file.strip_suffix(".pem")?;
    let sequence = digits.parse().ok()?;
    (name(sequence) == file).then_some(sequence)
}

fn unfinished(file: &str) -> Option<u32> {
    let (name, _random) = file.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('.')?;
    number(name)
}

fn parse(text: &[u8]) -> Result<(Times, SigningKey), String> {
    let head = text.split(|byte| *byte == b'\n').take_while(|line| !line.starts_with(b"-----BEGIN"));
    let (mut published_at, mut signs_from) = (None, None);
    for line in head {
        let line = String::from_utf8_lossy(line);
        match line.split_once(": ") {
            Some(("published-at", time)) => published_at = time.trim().parse::<Timestamp>().ok(),
            Some(("signs-from", time)) => signs_from = time.trim().parse::<Timestamp>().ok(),
            _ => {}
        }
    }
    let (Some(published_at), Some(signs_from)) = (published_at, signs_from) else {
        return Err("it does not say published-at and signs-from, each a time, above the key".to_owned());
    };
    // No key is made that waits longer; one that did would keep every other from its turn.
    let longest = PUBLISH_AHEAD[1].saturating_mul(2);
    if signs_from < published_at || signs_from.duration_since(published_at) > longest {
        return Err("its signs-from is before its published-at, or more than two weeks after it".to_owned());
    }
    let mut der = PrivatePkcs8KeyDer::from_pem_slice(text).map_err(|_| "it holds no PKCS #8 key in PEM".to_owned())?;
    let key = SigningKey::from_pkcs8(der.secret_pkcs8_der());
    der.zeroize();
    Ok((Times { signs_from, published_at }, key?))
}

/// RFC 7468: what stands before the first boundary is for whoever wants it.
fn write_text(times: Times, pkcs8: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::new());
    text.push_str("A key that signs JWTs. These two times say when; never change them.\n");
    text.push_str(&format!("published-at: {}\nsigns-from: {}\n", times.published_at, times.signs_from));
    pem::push(&mut text, "PRIVATE KEY", pkcs8);
    text
}

fn at(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_ours_alone_by_mode_and_by_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "").unwrap();
        let meta = |path: &Path, mode: u32| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            fs::metadata(path).unwrap()
        };
        let file = |mode, us| key_file_fault(&meta(&path, mode), us).unwrap_or_default();
        // A group that may read is how some platforms hand secrets to a service.
        assert_eq!([0o600, 0o400, 0o640].map(|mode| file(mode, us())), [""; 3]);
        assert!([0o604, 0o602, 0o601, 0o644].iter().all(|mode| file(*mode, us()).contains("everybody")));
        assert!(file(0o660, us()).contains("its group may write it"));
        let inside = |mode, us| directory_fault(&meta(dir.path(), mode), us).unwrap_or_default();
        assert_eq!([0o700, 0o755].map(|mode| inside(mode, us())), [""; 2]);
        assert!([0o770, 0o777, 0o1777, 0o702].iter().all(|mode| inside(*mode, us()).contains("chmod 700")));
        // Root's are taken whoever we are; these are not root's unless root runs this.
        let other = us().wrapping_add(1);
        let is_root = us() == 0;
        assert_eq!((file(0o600, other).contains("neither"), inside(0o700, other).contains("neither")), (!is_root, !is_root));
        if is_root {
            for path in [path.as_path(), dir.path()] {
                std::os::unix::fs::chown(path, Some(12_345), None).unwrap();
            }
            assert!(file(0o600, 0).contains("neither") && inside(0o700, 0).contains("neither"));
            assert_eq!((file(0o600, 12_345), inside(0o700, 12_345)), ("", ""));
        }
    }
}
