//! The flags that say where the server is and who asks. Names and values are a contract.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, ValueHint};

use super::values::timeout;
use crate::client::{
    ci::{self, Identity},
    settings::{Env, Flags, variable},
};

/// Flags that every command takes.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// The server, as host:port [env: DAYPASS_ADDR]
    #[arg(long, alias = "server", global = true, value_name = "HOST:PORT")]
    addr: Option<String>,
    /// The CAs to trust for the server, PEM [env: DAYPASS_CA; default: the system's]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    ca: Option<PathBuf>,
    /// Your client certificate, PEM, leaf first [env: DAYPASS_CERT]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    cert: Option<PathBuf>,
    /// Its private key, PEM [env: DAYPASS_KEY]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    key: Option<PathBuf>,
    /// The file that holds your OIDC token [env: DAYPASS_TOKEN_FILE, or the token itself in DAYPASS_TOKEN]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    token_file: Option<PathBuf>,
    /// Whose identity to use when none of these is set: auto, github, gitlab, buildkite, circleci, kubernetes or none [env: DAYPASS_IDENTITY; default: auto]
    #[arg(long, global = true, value_name = "NAME")]
    identity: Option<Identity>,
    /// The audience to ask for that identity's token with [env: DAYPASS_AUDIENCE; default: daypass]
    #[arg(long, global = true, value_name = "AUDIENCE", value_parser = ci::audience)]
    token_audience: Option<String>,
    /// Do not say which identity was found [env: DAYPASS_QUIET]
    #[arg(short, long, global = true)]
    quiet: bool,
    /// How long a call may take, its retries included
    #[arg(long, global = true, value_name = "SPAN", default_value = "10s", value_parser = timeout)]
    timeout: Duration,
}

impl Connection {
    /// Whether the identity that was found is not told.
    pub fn is_quiet(&self, env: Env<'_>) -> bool {
        self.quiet || variable("DAYPASS_QUIET", env).is_some()
    }

    /// Whether a flag says where the server is, or who asks.
    pub fn is_given(&self) -> bool {
        let Self { addr, ca, cert, key, token_file, identity, token_audience, quiet: _, timeout: _ } = self;
        let files = [ca, cert, key, token_file].into_iter().any(Option::is_some);
        files || addr.is_some() || identity.is_some() || token_audience.is_some()
    }

    /// As words, for another process of ours.
    pub fn words(&self) -> Vec<OsString> {
        let Self { addr, ca, cert, key, token_file, identity, token_audience, quiet, timeout } = self;
        let paths = [("--ca", ca), ("--cert", cert), ("--key", key), ("--token-file", token_file)];
        let paths = paths.into_iter().filter_map(|(name, path)| Some((name, path.as_ref()?.clone().into_os_string())));
        let addr = addr.iter().map(|addr| ("--addr", OsString::from(addr)));
        let identity = identity.iter().map(|identity| ("--identity", OsString::from(identity.as_str())));
        let audience = token_audience.iter().map(|audience| ("--token-audience", OsString::from(audience)));
        let timeout = ("--timeout", OsString::from(format!("{}ms", timeout.as_millis())));
        let valued = addr.chain(paths).chain(identity).chain(audience).chain([timeout]);
        valued.flat_map(|(name, value)| [name.into(), value]).chain(quiet.then(|| "--quiet".into())).collect()
    }
}

impl From<Connection> for Flags {
    fn from(flags: Connection) -> Self {
        let Connection { addr, ca, cert, key, token_file, identity, token_audience, quiet: _, timeout } = flags;
        Self { addr, ca, cert, key, token_file, identity, token_audience, timeout: Some(timeout) }
    }
}
