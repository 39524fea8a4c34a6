//! Whether somebody else could put something in the place of what this process writes, or lead it elsewhere.

use std::{
    ffi::OsString,
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

/// The most symbolic links on one way (path_resolution(7)).
const MAX_LINKS: usize = 40;

const ROOT: u32 = 0;

/// In a folder with this bit who owns neither a file nor the folder cannot replace the file (inode(7)).
const STICKY: u32 = 0o1000;

/// Sees that a folder is root's or this user's own, and that nobody else can replace what lies there. For a process that runs as root the
/// same holds for each folder on the way to it: else whoever has one of them could put a link there, and have root write where it leads,
/// and give that away. What is not there yet is its own to make.
///
/// # Errors
/// In words, with the folder that is at fault.
pub fn check(folder: &Path) -> Result<(), String> {
    let folder = std::path::absolute(folder).map_err(|error| fault(folder, &error))?;
    check_as(&folder, rustix::process::geteuid().as_raw())
}

/// As the user `own`.
fn check_as(folder: &Path, own: u32) -> Result<(), String> {
    if own != ROOT {
        return match fs::metadata(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(fault(folder, &error)),
            Ok(found) => check_folder(folder, &found, own),
        };
    }
    let (mut at, mut links) = (PathBuf::from("/"), 0);
    let mut ahead: Vec<OsString> = Vec::new();
    push(&mut ahead, folder);
    while let Some(step) = ahead.pop() {
        let next = at.join(&step);
        let found = match fs::symlink_metadata(&next) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found.map_err(|error| fault(&next, &error))?,
        };
        if found.is_symlink() {
            links += 1;
            if links > MAX_LINKS {
                return Err(format!("{}: there are too many links on the way", folder.display()));
            }
            check_owner(&next, &found, own)?;
            push(&mut ahead, &fs::read_link(&next).map_err(|error| fault(&next, &error))?);
            continue;
        }
        check_folder(&next, &found, own)?;
        // `..` is where the kernel finds it, also behind a link.
        at = next;
    }
    Ok(())
}

/// Puts a path's steps onto the stack, the first one on top. One that begins at the root goes back there.
fn push(ahead: &mut Vec<OsString>, path: &Path) {
    ahead.extend(path.components().rev().filter(|step| *step != Component::CurDir).map(|step| step.as_os_str().to_owned()));
}

fn check_folder(path: &Path, found: &Metadata, own: u32) -> Result<(), String> {
    if !found.is_dir() {
        return Err(format!("{} is no directory", path.display()));
    }
    check_owner(path, found, own)?;
    if found.mode() & 0o022 != 0 && found.mode() & STICKY == 0 {
        return Err(format!("others may replace what lies in {}; run: chmod go-w {0}, or name another place", path.display()));
    }
    Ok(())
}

fn check_owner(path: &Path, found: &Metadata, own: u32) -> Result<(), String> {
    if [ROOT, own].contains(&found.uid()) {
        return Ok(());
    }
    Err(format!("{} is user {}'s, who could replace what lies there; name another place", path.display(), found.uid()))
}

fn fault(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    const SOMEBODY: u32 = 4_000_001;

    /// `a/b/c`, and `link` to `a/b`.
    fn folders() -> (tempfile::TempDir, PathBuf) {
        let top = tempfile::tempdir().unwrap();
        let deepest = top.path().join("a/b/c");
        fs::create_dir_all(&deepest).unwrap();
        symlink("a/./b", top.path().join("link")).unwrap();
        (top, deepest)
    }

    fn open(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_folder_in_which_others_may_replace_files_is_refused() {
        let (top, deepest) = folders();
        let own = fs::metadata(top.path()).unwrap().uid();
        for (mode, fits) in [(0o755, true), (0o775, false), (0o757, false), (0o1777, true), (0o1775, true), (0o700, true)] {
            open(&deepest, mode);
            assert_eq!(check(&deepest).is_ok(), fits, "{mode:o}");
            assert_eq!(check_as(&deepest, own).is_ok(), fits, "{mode:o}");
        }
        assert_eq!(check_as(&deepest, SOMEBODY).is_ok(), own == ROOT, "another's");
        assert!(check(&top.path().join("a/new/one")).is_ok(), "what is not there yet will be ours");
        fs::write(top.path().join("file"), "").unwrap();
        assert!(check(&top.path().join("file")).is_err());
    }

    /// For root alone: whoever runs these tests otherwise sees that nobody else's way is looked at.
    #[test]
    fn root_looks_at_the_whole_way_and_at_what_links_lead_through() {
        let (top, deepest) = folders();
        let is_root = fs::metadata(top.path()).unwrap().uid() == ROOT;
        let by_link = top.path().join("link/c");
        assert!(check(&deepest).is_ok() && check(&by_link).is_ok());
        open(&top.path().join("a"), 0o775);
        assert_eq!((check(&deepest).is_ok(), check(&by_link).is_ok()), (!is_root, !is_root));
        assert!(check(&top.path().join("a/b/new")).is_ok() != is_root, "it would be made there");
        open(&top.path().join("a"), 0o755);
        if is_root {
            chown(top.path().join("a/b"), Some(SOMEBODY), None).unwrap();
            let refused = check(&by_link).unwrap_err();
            assert!(refused.contains("is user 4000001's"), "{refused:?}");
            chown(top.path().join("a/b"), Some(ROOT), None).unwrap();
            std::os::unix::fs::lchown(top.path().join("link"), Some(SOMEBODY), None).unwrap();
            assert!(check(&by_link).is_err(), "its owner may point it elsewhere");
            assert!(check(&deepest).is_ok());
            symlink("round", top.path().join("round")).unwrap();
            assert!(check(&top.path().join("round")).unwrap_err().contains("too many links"));
        }
    }
}
