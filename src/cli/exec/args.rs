//! The command line of `exec`. Names, flags and values are a contract.

use std::{collections::BTreeSet, ffi::OsString};

use clap::{Args as ClapArgs, CommandFactory};
use jiff::SignedDuration;

use crate::{
    cli::{args::Args, values::ttl},
    client::ci,
};

const HELP: &str = "\
What CMD finds, by the kind of the role:
  x509           DAYPASS_TLS_CERT, DAYPASS_TLS_KEY, DAYPASS_TLS_CA: files
  aws            AWS_CONTAINER_CREDENTIALS_FULL_URI: the aws CLI and the SDKs ask this
                 process for the session, again and again, and never hold an old one;
                 AWS_REGION. Your own profiles and keys are out of sight.
  registry, ecr  DOCKER_CONFIG and REGISTRY_AUTH_FILE, for docker, skopeo, podman, with
                 nothing of your own in it; DAYPASS_REGISTRY: its host
  jwt            DAYPASS_JWT_FILE: a file. Where an AWS SDK shall use it, set
                 AWS_WEB_IDENTITY_TOKEN_FILE to it yourself, with AWS_ROLE_ARN.
Always DAYPASS_LEASE_ID. DAYPASS_* and the AWS endpoint are also there under the
role's name, as DAYPASS_<ROLE>_TLS_CERT (capitals, _ for -); when two roles have
one kind, only so. --env adds the secrets themselves, for what knows no file
(AWS_ACCESS_KEY_ID and more, instead of the endpoint; DAYPASS_JWT;
DAYPASS_REGISTRY_USERNAME and DAYPASS_REGISTRY_SECRET): no renewal reaches those.

Credentials are renewed in place, near half of their life, when the server says.
A renewal that fails is a warning, and CMD goes on. When CMD ends its leases are
revoked, also when this process is killed: then CMD is told to end (SIGTERM) too. Files lie in a directory
that only you can read, under $XDG_RUNTIME_DIR or the temporary one, and go too.

The exit code is CMD's, or 128 and the number of the signal that ended it; 127
when there is no CMD, 126 when it cannot be run. Signals are passed on to CMD.

With several roles, or when CMD has a -- of its own, write the --.

Examples:
  daypass exec deploy aws s3 ls
  daypass exec push -- skopeo copy oci:image docker://registry.example/demo/app
  daypass exec web -- sh -c 'curl --cert $DAYPASS_TLS_CERT --key $DAYPASS_TLS_KEY ...'
  daypass exec deploy push --ttl 30m -- make release";

/// `exec`.
#[derive(Debug, ClapArgs)]
#[command(override_usage = "daypass exec [OPTIONS] ROLE... [--] CMD [ARG]...", after_help = HELP)]
pub struct Exec {
    /// The roles, at most 16; `daypass whoami` lists those you may have
    #[arg(required = true, value_name = "ROLE")]
    pub roles: Vec<String>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
    /// How long each credential shall live; it is renewed for as long [default: the role's]
    #[arg(long, value_name = "SPAN", value_parser = ttl)]
    pub ttl: Option<SignedDuration>,
    /// For a role of kind jwt: one of its audiences; with several roles say which: ROLE=AUD
    #[arg(long = "audience", value_name = "[ROLE=]AUD", value_parser = ci::audience)]
    pub audiences: Vec<String>,
    /// Also put secrets into variables, which are not renewed
    #[arg(long)]
    pub env: bool,
}

/// Puts `--` before the command of `exec` where the caller left it out: after the one role and the flags that are known.
/// Without it, clap would read the command's own flags.
pub fn with_escape(mut words: Vec<OsString>) -> Vec<OsString> {
    if words.iter().any(|word| word == "--") {
        return words;
    }
    if let Some(at) = command_at(&words) {
        words.insert(at, "--".into());
    }
    words
}

/// Where the command begins, when this is `exec` with one role.
fn command_at(words: &[OsString]) -> Option<usize> {
    let flags = Flags::known();
    let mut positionals = 0;
    let mut at = 1;
    while let Some(word) = words.get(at) {
        let text = word.to_str().unwrap_or_default();
        match (text.starts_with('-').then(|| flags.words(text)).flatten(), positionals) {
            (Some(skip), _) => at += skip,
            // `exec` itself, before it flags that every command takes.
            (None, 0) if text == "exec" => (positionals, at) = (1, at + 1),
            (None, 1) if !text.starts_with('-') => (positionals, at) = (2, at + 1),
            (None, 2) => return Some(at),
            _ => return None,
        }
    }
    None
}

/// The long flags that may stand around a role.
struct Flags {
    with_value: BTreeSet<String>,
    alone: BTreeSet<String>,
}

impl Flags {
    fn known() -> Self {
        let root = Args::command();
        let exec = root.find_subcommand("exec").into_iter().flat_map(clap::Command::get_arguments);
        let mut known = Self { with_value: BTreeSet::new(), alone: ["--help".to_owned()].into() };
        for arg in root.get_arguments().chain(exec) {
            if let Some(long) = arg.get_long() {
                let kind = if arg.get_action().takes_values() { &mut known.with_value } else { &mut known.alone };
                kind.insert(format!("--{long}"));
            }
        }
        known
    }

    /// How many words a known flag takes; none for any other word.
    fn words(&self, text: &str) -> Option<usize> {
        match text.split_once('=') {
            Some((name, _)) if self.with_value.contains(name) => Some(1),
            Some(_) => None,
            None if self.with_value.contains(text) => Some(2),
            None => (text == "-h" || self.alone.contains(text)).then_some(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::Command;

    fn parse(line: &str) -> (Vec<String>, Vec<String>) {
        let words = with_escape(line.split(' ').map(OsString::from).collect());
        match Args::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}")).command {
            Command::Exec(Exec { roles, command, .. }) => (roles, command.into_iter().map(|word| word.into_string().unwrap()).collect()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_role_needs_no_escape_and_several_do() {
        let cases = [
            ("daypass exec web ls", "web", "ls"),
            ("daypass exec web ls -l --ttl x", "web", "ls -l --ttl x"),
            ("daypass exec web --ttl 5m --env ls -l", "web", "ls -l"),
            ("daypass exec --ttl=5m web ls", "web", "ls"),
            ("daypass --addr h:1 exec --timeout 3s web ls -o json", "web", "ls -o json"),
            ("daypass exec web -- ls -l", "web", "ls -l"),
            ("daypass exec web push --ttl 5m -- ls -- -l", "web push", "ls -- -l"),
            ("daypass exec web -- -odd", "web", "-odd"),
        ];
        for (line, roles, command) in cases {
            let (got_roles, got_command) = parse(line);
            assert_eq!((got_roles.join(" ").as_str(), got_command.join(" ").as_str()), (roles, command), "{line}");
        }
    }

    #[test]
    fn other_commands_are_left_alone() {
        for line in ["daypass", "daypass issue exec web x", "daypass whoami", "daypass exec web", "daypass --help"] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(with_escape(words.clone()), words, "{line}");
        }
    }
}
