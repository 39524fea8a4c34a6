//! The sections of `agent.toml`, as they are written. Nothing here is checked beyond its form; `build` does that.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use jiff::SignedDuration;
use serde::Deserialize;

use super::LogFormat;
use crate::agent::{
    accounts::User,
    sockets::config::{Group, Mode},
};

/// `[server]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServerSection {
    pub address: String,
    pub ca: Option<PathBuf>,
    pub timeout: Option<SignedDuration>,
}

/// `[identity]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct IdentitySection {
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub token_file: Option<PathBuf>,
    pub platform: Option<String>,
    pub audience: Option<String>,
}

/// `[log]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LogSection {
    pub format: LogFormat,
    pub filter: String,
}

impl Default for LogSection {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

/// `[health]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HealthSection {
    pub listen: SocketAddr,
}

/// `[[role]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RoleSection {
    pub name: String,
    pub role: Option<String>,
    pub ttl: Option<SignedDuration>,
    pub audience: Option<String>,
    pub dir: Option<PathBuf>,
    pub owner: Option<User>,
    pub group: Option<Group>,
    pub mode: Option<Mode>,
    #[serde(default)]
    pub files: FilesSection,
    pub on_change: Option<OnChangeSection>,
}

/// `[role.files]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FilesSection {
    pub certificate: Option<String>,
    pub key: Option<String>,
    pub ca: Option<String>,
    pub combined: Option<String>,
    pub credentials: Option<String>,
    pub config: Option<String>,
    pub token: Option<String>,
}

/// `[role.on_change]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OnChangeSection {
    pub command: Option<Vec<String>>,
    pub timeout: Option<SignedDuration>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    pub signal: Option<String>,
    pub pid_file: Option<PathBuf>,
}
