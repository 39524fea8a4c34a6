//! The command line, as a type. Names, flags and values are a contract.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum, ValueHint};
use jiff::Timestamp;

use super::{
    agent::Agent,
    aws::CredentialProcess,
    connection::Connection,
    enroll::Enroll,
    exec,
    issue::args::{Issue, Making},
    registry::Registry,
    values::{Before, lease_id, name, reason},
};
use crate::{
    client::types,
    model::name::{RoleName, TenantName},
};

/// How many leases `lease list` shows when nothing else is said.
pub const DEFAULT_LIST: u32 = 100;

/// The most leases that `lease list` shows.
pub const MAX_LIST: u32 = 100_000;

/// How many records `audit tail` shows when nothing else is said.
pub const DEFAULT_TAIL: u32 = 100;

/// The most records that `audit tail --last` shows.
pub const MAX_TAIL: u32 = 10_000;

const EXAMPLES: &str = "\
Examples:
  daypass whoami                          who you are, and which roles you may have
  daypass issue web --out tls             a key and a certificate into tls/
  daypass issue web --ttl 15m -o json     the same as one JSON object on stdout
  daypass exec deploy -- aws s3 ls        a command with a credential that is revoked at its end
  daypass lease list --state active       what is out
  daypass lease revoke --role web --dry-run

Environment (a flag wins over it):
  DAYPASS_ADDR                            host:port of daypassd
  DAYPASS_CA                              CAs to trust for the server, PEM; else the system's
  DAYPASS_CERT, DAYPASS_KEY               your client certificate and its key, PEM
  DAYPASS_TOKEN or DAYPASS_TOKEN_FILE     your OIDC token, or the file that holds it
  Inside GitHub Actions, GitLab, Buildkite, CircleCI and Kubernetes the job's own
  identity is found when none of these is set.

Exit codes:
  0 done, 2 usage, 3 not authenticated, 4 denied, 5 not found,
  6 unavailable or timed out, 1 anything else; `exec` passes its command's on";

/// Short-lived credentials from daypassd: scoped, on record, revocable.
#[derive(Debug, Parser)]
#[command(name = "daypass", version, after_help = EXAMPLES, max_term_width = 100, propagate_version = false)]
pub struct Args {
    /// Where the server is and who asks.
    #[command(flatten)]
    pub connection: Connection,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Who the server says you are, and which roles you may have
    Whoami {
        /// How to print it: text or json
        #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT", hide_possible_values = true)]
        output: TextFormat,
    },
    /// Get a credential for a role
    Issue(Issue),
    /// Run a command with credentials that are renewed while it runs and revoked when it ends
    Exec(exec::args::Exec),
    /// Revokes what `exec` leaves behind when it is killed; `exec` starts it by itself
    #[command(name = exec::WATCH, hide = true)]
    ExecWatch,
    /// Why you may, or may not, have a role
    Explain {
        /// The role
        role: String,
        /// How to print it: text or json
        #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT", hide_possible_values = true)]
        output: TextFormat,
    },
    /// See, renew and revoke what is out
    #[command(subcommand)]
    Lease(Lease),
    /// Read and verify the record
    #[command(subcommand)]
    Audit(Audit),
    /// Make single-use codes for agents that have no certificate yet
    #[command(subcommand)]
    Enroll(Enroll),
    /// Enrol, check and run the agent that keeps credentials fresh beside workloads
    #[command(subcommand)]
    Agent(Agent),
    /// Print an AWS session as a `credential_process` of the AWS SDKs
    AwsCredentialProcess(CredentialProcess),
    /// Let docker, skopeo and podman take credentials for a registry by themselves
    #[command(subcommand)]
    Registry(Registry),
    /// Print a completion script for a shell
    #[command(after_help = "Example, for bash:\n  daypass completions bash > ~/.local/share/bash-completion/completions/daypass")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// `lease`.
#[derive(Debug, Subcommand)]
pub enum Lease {
    /// List leases, oldest first
    #[command(after_help = "\
Examples:
  daypass lease list --state active --role web
  daypass lease list --issued-before 2h -o json | jq -r '.[].id'")]
    List(List),
    /// Show one lease
    Get {
        /// The lease's id
        #[arg(value_parser = lease_id)]
        id: String,
        /// How to print it: text or json
        #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT", hide_possible_values = true)]
        output: TextFormat,
    },
    /// Get a new credential under your own lease
    #[command(after_help = "Example:\n  daypass lease renew 0192f0c1-7b5a-7000-8000-000000000000 --out tls")]
    Renew {
        /// The lease's id
        #[arg(value_parser = lease_id)]
        id: String,
        /// What the credential is like and where it goes.
        #[command(flatten)]
        making: Making,
    },
    /// Revoke leases, by id or by what they have in common
    #[command(after_help = "\
By id they are revoked one by one. By a filter they are counted first; without
--yes nothing is revoked. One failure never stops the rest; then the exit code
is 1, or, when no id was revoked and all failed for one reason, that reason's.
4: some match the filter, and you may revoke none of them.

Examples:
  daypass lease revoke 0192f0c1-7b5a-7000-8000-000000000000 --reason 'key lost'
  daypass lease revoke --tenant acme --dry-run
  daypass lease revoke --role web --issued-before 2h --yes")]
    Revoke(Revoke),
}

/// `lease list`.
#[derive(Debug, ClapArgs)]
pub struct List {
    /// Which.
    #[command(flatten)]
    pub filter: Filter,
    /// Only those in this state
    #[arg(long, value_enum)]
    pub state: Option<State>,
    /// Show at most this many
    #[arg(long, value_name = "N", default_value_t = DEFAULT_LIST, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_LIST)))]
    pub limit: u32,
    /// How to print them: table, or json (an array)
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT", hide_possible_values = true)]
    pub output: TableFormat,
}

/// Which leases.
#[derive(Debug, ClapArgs)]
pub struct Filter {
    /// Only those of this role
    #[arg(long, value_parser = name::<RoleName>)]
    pub role: Option<String>,
    /// Only those of this tenant
    #[arg(long, value_parser = name::<TenantName>)]
    pub tenant: Option<String>,
    /// Only those of this holder, exactly as `lease list` shows it
    #[arg(long)]
    pub subject: Option<String>,
    /// Only those issued before this time (2026-01-31T12:00:00Z) or longer ago than this span (2h)
    #[arg(long, value_name = "TIME")]
    pub issued_before: Option<Before>,
}

impl Filter {
    /// Whether any flag is set.
    pub fn is_empty(&self) -> bool {
        let Self { role, tenant, subject, issued_before } = self;
        role.is_none() && tenant.is_none() && subject.is_none() && issued_before.is_none()
    }

    /// As the client takes it, with spans counted back from `now`.
    pub fn resolve(self, state: Option<State>, now: Timestamp) -> Result<types::LeaseFilter, jiff::Error> {
        let Self { role, tenant, subject, issued_before } = self;
        let issued_before = issued_before.map(|before| before.resolve(now)).transpose()?;
        Ok(types::LeaseFilter { role, tenant, subject, state: state.map(Into::into), issued_before })
    }
}

/// `lease revoke`.
#[derive(Debug, ClapArgs)]
pub struct Revoke {
    /// The leases' ids
    #[arg(value_name = "ID", value_parser = lease_id, conflicts_with_all = ["role", "tenant", "subject", "issued_before", "dry_run"])]
    pub ids: Vec<String>,
    /// Which.
    #[command(flatten)]
    pub filter: Filter,
    /// Only count
    #[arg(long)]
    pub dry_run: bool,
    /// Really revoke all that match
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, value_parser = reason)]
    pub reason: String,
    /// How to print the outcome: text or json
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT", hide_possible_values = true)]
    pub output: TextFormat,
}

/// `audit`.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Show the newest records, or follow them
    #[command(after_help = "\
With -o json each line is one record, exactly as the log has it.

Examples:
  daypass audit tail --last 20
  daypass audit tail --follow -o json | jq 'select(.outcome == \"denied\")'")]
    Tail {
        /// Go on with new records
        #[arg(long, short)]
        follow: bool,
        /// Start with the newest records: this many [default: 100]
        #[arg(long, value_name = "N", conflicts_with = "after_seq", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_TAIL)))]
        last: Option<u32>,
        /// Start after this sequence number; 0 means from the oldest
        #[arg(long, value_name = "SEQ")]
        after_seq: Option<u64>,
        /// How to print them: text or json
        #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT", hide_possible_values = true)]
        output: TextFormat,
    },
    /// Verify the hash chain of an audit log, offline
    #[command(
        after_help = "Exits with 1 and names the record when anything was changed.\n\nExample:\n  daypass audit verify .daypass/audit"
    )]
    Verify {
        /// The log's directory, or one file of it
        #[arg(value_hint = ValueHint::AnyPath)]
        path: PathBuf,
        /// How to print the outcome: text or json
        #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT", hide_possible_values = true)]
        output: TextFormat,
    },
}

/// Text or JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum TextFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// A table or JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum TableFormat {
    /// For people.
    #[default]
    #[value(alias = "text")]
    Table,
    /// For programs: an array.
    Json,
}

/// Where a lease stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the names say it, and doc comments would become help")]
pub enum State {
    Pending,
    Active,
    Revoking,
    Revoked,
    Expired,
}

impl From<State> for types::LeaseState {
    fn from(state: State) -> Self {
        match state {
            State::Pending => Self::Pending,
            State::Active => Self::Active,
            State::Revoking => Self::Revoking,
            State::Revoked => Self::Revoked,
            State::Expired => Self::Expired,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    const ID: &str = "0192f0c1-7b5a-7000-8000-000000000000";

    fn parses(line: &str) -> bool {
        Args::try_parse_from(line.split(' ')).is_ok()
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_words_of_a_connection_parse_back() {
        let line =
            "daypass --addr h:1 --ca a --cert b --key c --token-file d --identity auto --token-audience x -q --timeout 1500ms whoami";
        let first = Args::try_parse_from(line.split(' ')).unwrap().connection;
        let words = first.words().into_iter().chain(["whoami".into()]);
        let again = Args::try_parse_from([std::ffi::OsString::from("daypass")].into_iter().chain(words)).unwrap().connection;
        assert_eq!(format!("{first:?}"), format!("{again:?}"));
    }

    #[test]
    fn the_contracts_commands_parse() {
        for line in [
            "daypass whoami",
            "daypass whoami -o json",
            "daypass issue web --ttl 15m --out d --csr f -o env --request-id a-1",
            "daypass --addr h:1 issue web --timeout 3s",
            "daypass issue federate --audience sts.amazonaws.com",
            "daypass exec web -- ls -l",
            "daypass aws-credential-process deploy --ttl 1h --no-cache",
            "daypass registry login push 127.0.0.1:5000 --ttl 15m",
            "daypass registry logout",
            "daypass whoami --identity github --token-audience vend -q",
            "daypass exec web deploy --ttl 15m --env --audience web=x -- ls -l",
            "daypass issue web --addr h:1 --ca a --cert b --key c --token-file d",
            "daypass explain web -o json",
            "daypass lease list --role web --tenant a --subject s --state active --issued-before 2h --limit 5 -o table",
            "daypass audit tail --follow --last 5 -o json",
            "daypass audit tail --after-seq 0",
            "daypass audit verify p",
            "daypass completions bash",
            "daypass enroll create --tenant acme --role agent --name a-1 --ttl 30m -o json",
            "daypass enroll list --tenant acme -o table",
            &format!("daypass enroll delete {ID}"),
            "daypass agent enroll --code dpe_x --addr h:1 --ca f --state-dir d -o json",
            "daypass agent enroll --code-file f --state-dir d",
            "daypass agent run --config f",
            "daypass agent check --config f",
            &format!("daypass lease get {ID} -o json"),
            &format!("daypass lease renew {ID} --ttl 1h30m --out d --csr f -o json"),
            &format!("daypass lease revoke {ID} {ID} --reason x -o json"),
            "daypass lease revoke --role web --tenant a --subject s --issued-before 2026-01-31T12:00:00Z --dry-run --yes",
        ] {
            assert!(parses(line), "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_does_not_parse() {
        for line in [
            "daypass issue",
            "daypass whoami --identity travis",
            "daypass registry login push user@host",
            "daypass issue web --token x",
            "daypass issue web --ttl 0s",
            "daypass issue web --ttl -5m",
            "daypass issue web --ttl 1500ms",
            "daypass issue web -o yaml",
            "daypass issue web --audience a --csr f",
            "daypass issue web --audience a\tb",
            "daypass exec web",
            "daypass exec -- ls",
            "daypass lease get nonsense",
            "daypass enroll create --role agent",
            "daypass enroll create --tenant Acme --role agent",
            "daypass enroll create --tenant acme --role agent --ttl 0s",
            "daypass enroll delete nonsense",
            "daypass agent enroll --code x",
            "daypass agent run",
            "daypass agent enroll --code x --code-file f --state-dir d",
            "daypass lease list --limit 0",
            "daypass lease list --limit 100001",
            "daypass lease list --state gone",
            "daypass lease list --role No_Such",
            "daypass audit tail --last 5 --after-seq 3",
            "daypass audit tail --last 10001",
            "daypass whoami --timeout 0s",
            &format!("daypass lease revoke {ID} --role web"),
            &format!("daypass lease revoke {ID} --dry-run"),
            &format!("daypass issue web --request-id {}", "x".repeat(129)),
            &format!("daypass lease revoke {ID} --reason {}", "x".repeat(257)),
        ] {
            assert!(!parses(line), "{line}");
        }
    }
}
