//! `[keys]`: how the keys of the service are sealed where servers share them; and the socket of who administers them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;

use super::file::{At, Reader, read_bounded};
use crate::{keys::FileKek, model::fault::Fault, unix::place::MAX_SOCKET_PATH};

/// `[keys]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeysSection {
    /// Files of 32 random bytes in base64. The first seals; all open.
    pub wrapping_keys: Vec<PathBuf>,
}

impl Reader {
    /// What seals the service's keys; none without the section, or when it is faulty.
    pub(super) fn wrapper(&mut self, section: Option<&At<KeysSection>>) -> Option<Arc<FileKek>> {
        let At { line, value } = section?;
        let paths: Vec<PathBuf> = value.wrapping_keys.iter().map(|path| self.path(path)).collect();
        FileKek::load(&paths).map(Arc::new).map_err(|fault| self.fault(*line, format!("keys: wrapping_keys: {fault}"))).ok()
    }

    /// Notes a fault when keys that `what` wants kept could not be sealed: there is no `[keys]`. A faulty one was told of itself.
    pub(super) fn needs_wrapper(&mut self, line: usize, what: &str, seen: bool) {
        if !seen {
            self.fault(line, format!("{what}: its keys are stored, and sealed there: name a file that seals them in [keys] wrapping_keys"));
        }
    }

    /// Where the admin socket will be.
    pub(super) fn admin(&mut self, line: usize, path: Option<&PathBuf>) -> Option<PathBuf> {
        let path = self.path(path?);
        if let Some(fault) = socket_fault(&path) {
            self.fault(line, format!("server.admin: {fault}"));
        }
        Some(path)
    }
}

fn socket_fault(path: &Path) -> Option<String> {
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        return Some(format!("{} is longer than {MAX_SOCKET_PATH} bytes, the most that a socket's path may have", path.display()));
    }
    match path.parent() {
        Some(dir) if dir.is_dir() => None,
        _ => Some(format!("there is no directory in which {} could be made", path.display())),
    }
}

/// Where the admin socket of a configuration is, without a look at the rest of it: who administers may not be able to read the keys.
///
/// # Errors
/// What is wrong with the file.
pub fn admin_socket(path: &Path) -> Result<PathBuf, Fault> {
    #[derive(Deserialize)]
    struct File {
        server: Server,
    }
    #[derive(Deserialize)]
    struct Server {
        admin: Option<PathBuf>,
    }
    let fault = |message: String| Fault { file: path.display().to_string(), line: 0, message };
    let text = read_bounded(path).map_err(|error| fault(format!("cannot be read: {error}")))?;
    let file: File = toml::from_str(&text).map_err(|error| fault(error.message().replace('\n', " ")))?;
    let admin = file.server.admin.ok_or_else(|| fault("server.admin is not set: this service has no admin socket".to_owned()))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(dir.join(admin))
}
