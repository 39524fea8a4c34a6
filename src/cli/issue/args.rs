//! The command lines of `issue` and `lease renew`. Names, flags and values are a contract.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum, ValueHint};
use jiff::SignedDuration;

use crate::{
    cli::values::{request_id, ttl},
    client::ci,
};

/// `issue`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Without --out the credential goes to stdout. With --out, DIR gets, by the kind
of the role, each secret with mode 0600:
  x509           tls.crt (with its chain), tls.key, ca.crt (the CAs that verify it);
                 the key is made here and never leaves this machine
  aws            credentials, for AWS_SHARED_CREDENTIALS_FILE
  registry, ecr  config.json, for DOCKER_CONFIG=DIR or skopeo --authfile DIR/config.json
  jwt            token, for AWS_WEB_IDENTITY_TOKEN_FILE and the like

-o env prints lines for a shell's eval; with --out they name the files, without
it they hold the secrets (a certificate needs --out). When the credential cannot
be delivered, its lease is revoked.

Examples:
  daypass issue web --out tls
  daypass issue web --ttl 15m --out tls -o json
  eval \"$(daypass issue web --out tls -o env)\"   sets DAYPASS_TLS_CERT and more
  eval \"$(daypass issue deploy -o env)\"          sets AWS_ACCESS_KEY_ID and more
  daypass issue push --out cfg && skopeo copy --authfile cfg/config.json ...
  daypass issue federate --audience demo         a token on stdout
  daypass issue web --csr mine.csr --out tls     for a key that you keep elsewhere

To run one command with credentials that are renewed and revoked, see
`daypass exec --help`.")]
pub struct Issue {
    /// The role; `daypass whoami` lists those you may have
    pub role: String,
    /// What the credential is like and where it goes.
    #[command(flatten)]
    pub making: Making,
    /// Repeating a request with the same id and the same --csr gives the same lease, never a second one;
    /// with another key it is refused (REQUEST_ID_REUSED) [default: a random one]
    #[arg(long, value_name = "ID", value_parser = request_id)]
    pub request_id: Option<String>,
}

/// What `issue` and `lease renew` have in common.
#[derive(Debug, ClapArgs)]
pub struct Making {
    /// How long it shall live, for example 15m or 1h30m [default: the role's]
    #[arg(long, value_name = "SPAN", value_parser = ttl)]
    pub ttl: Option<SignedDuration>,
    /// Write the credential's files into this directory
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub out: Option<PathBuf>,
    /// A certificate request (PKCS #10, PEM or DER) of your own; then no key is made
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub csr: Option<PathBuf>,
    /// For a role of kind jwt: one of its audiences [default: the role's only one]
    #[arg(long, value_name = "AUD", value_parser = ci::audience, conflicts_with = "csr")]
    pub audience: Option<String>,
    /// How to print it: text, json or env
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT", hide_possible_values = true)]
    pub output: IssueFormat,
}

/// How a credential is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum IssueFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
    /// For a shell's eval; a certificate needs --out.
    Env,
}
