//! `agent.toml`: where the server is, who the agent is, which roles it keeps, where their credentials go, and what is told then.

mod build;
mod file;
mod sections;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::SignedDuration;
use rustix::process::Signal;
use serde::Deserialize;

use super::{
    accounts::User,
    sockets::{
        SocketsSection,
        config::{Group, Mode},
    },
};
use crate::{
    client::{ci, material::files, settings::Address},
    model::fault::Fault,
};

/// The most roles of one agent.
pub const MAX_ROLES: usize = 256;

/// The most words of a hook's command, and the most variables that it is given.
pub const MAX_WORDS: usize = 64;

/// How long a hook may take unless something else is configured.
pub const DEFAULT_HOOK_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest time that a hook can be given.
pub const MAX_HOOK_TIMEOUT: Duration = Duration::from_secs(600);

/// The mode of files that hold a secret, unless another is configured.
pub const DEFAULT_FILE_MODE: Mode = Mode(0o600);

/// What a file that holds a secret may be for others: its group may read it, and nobody else may do anything.
pub const ALLOWED_FILE_MODE: u32 = 0o640;

/// The longest name of a role in this file, in bytes.
pub const MAX_NAME: usize = 63;

/// A file that was read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where the agent keeps what is its own.
    pub state_dir: PathBuf,
    /// Where the server is, and whom to trust for it.
    pub server: ServerConfig,
    /// Who the agent is.
    pub identity: IdentityWay,
    /// How it logs.
    pub log: LogConfig,
    /// Where health and metrics are served; none when they are not.
    pub health: Option<SocketAddr>,
    /// The roles that it keeps, at least one.
    pub roles: Vec<RoleConfig>,
    /// What it serves.
    pub sockets: SocketsSection,
}

/// `[server]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Where it is.
    pub address: Address,
    /// The CAs to trust for it; none means the system's.
    pub ca: Option<PathBuf>,
    /// How long a call may take.
    pub timeout: Duration,
}

/// Who the agent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityWay {
    /// By the certificate that it enrolled for, which it keeps renewing.
    Enrolled,
    /// By a certificate that somebody else keeps fresh; it is read anew for each connection.
    Certificate {
        /// The leaf first.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// By a token in a file that somebody else keeps fresh.
    TokenFile(PathBuf),
    /// By the token of the platform that it runs on.
    Platform {
        /// Which one.
        platform: ci::Identity,
        /// The audience to ask for.
        audience: String,
    },
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// In which form.
    pub format: LogFormat,
    /// What is logged, as `tracing`'s filters have it.
    pub filter: String,
}

/// How the log is written, to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// `[[role]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleConfig {
    /// What it is called here: sockets, logs and metrics have it.
    pub name: String,
    /// The service's role.
    pub role: String,
    /// The life to ask for; none means the role's default.
    pub ttl: Option<SignedDuration>,
    /// The audience, for a role of kind jwt.
    pub audience: Option<String>,
    /// Where its files go; none when only sockets serve it.
    pub place: Option<Place>,
    /// What is told after a change.
    pub on_change: Option<OnChange>,
}

/// Where a role's files go, and whose they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The directory.
    pub dir: PathBuf,
    /// Whose the files are; the agent's own unless it is said.
    pub owner: Option<User>,
    /// Their group; the agent's own unless it is said.
    pub group: Option<Group>,
    /// The mode of the files that hold a secret. What is public, a certificate or a CA, can be read by all who can enter the directory.
    pub mode: Mode,
    /// How the files are called.
    pub names: FileNames,
}

/// How the files of a credential are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileNames {
    /// The names, by those that [`files`] has.
    pub names: BTreeMap<&'static str, String>,
    /// One file with the key, the certificate and its chain, for programs that want it so; none when it is not wanted.
    pub combined: Option<String>,
}

/// What is told after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnChange {
    /// A command is run.
    Command {
        /// The program and its arguments; no shell is between.
        words: Vec<String>,
        /// How long it may take.
        timeout: Duration,
        /// What its environment has beside the agent's own.
        env: BTreeMap<String, String>,
    },
    /// A process is sent a signal.
    Signal {
        /// Which one.
        signal: Signal,
        /// The file that holds its process id.
        pid_file: PathBuf,
    },
}

impl Config {
    /// Reads and checks a file. Relative paths begin at its folder.
    ///
    /// # Errors
    /// Every fault at once, each with its line.
    pub fn load(path: &Path) -> Result<Self, Vec<Fault>> {
        file::load(path)
    }
}

impl FileNames {
    /// The name of a file by what [`files`] calls it.
    pub fn of<'a>(&'a self, name: &'a str) -> &'a str {
        self.names.get(name).map_or(name, String::as_str)
    }

    /// Every name that a file of this role can have.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        files::ALL.iter().map(|name| self.of(name)).chain(self.combined.as_deref())
    }
}

impl Default for FileNames {
    fn default() -> Self {
        Self { names: files::ALL.iter().map(|name| (*name, (*name).to_owned())).collect(), combined: None }
    }
}
