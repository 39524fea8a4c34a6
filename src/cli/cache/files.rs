//! The user's directories, and files that are replaced in one step.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::{
    client::{
        error::{Error, Result},
        settings::{Env, variable},
    },
    clock,
    model::hex,
};

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

/// Makes a directory that only its owner can enter; one that is there stays as it is.
pub fn make_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file beside its target and gives it the target's name.
pub fn replace(target: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let random = hex::encode(&clock::random::<8>());
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let temporary = target.with_file_name(format!(".{name}.{random}.tmp"));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, target)
    };
    write().inspect_err(|_| {
        // What is left of it is for the owner only.
        let _ = fs::remove_file(&temporary);
    })
}
