//! `agent enroll`.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use clap::{Args as ClapArgs, ValueHint};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{
    agent::identity::{IdentityDir, KeptIdentity, enroll},
    cli::{
        args::TextFormat,
        connection::Connection,
        exit::{Exit, Outcome},
        output,
    },
    client::{
        Client,
        ci::Identity,
        error::{Error, Result},
        settings::{Env, Flags, Settings, read_bounded},
        text::one_line,
    },
    model::secret::Secret,
};

pub(super) const EXAMPLES: &str = "\
The key is made here and never leaves this machine. A run that was cut short can be repeated with the same code.

Examples:
  daypass agent enroll --addr vend.example:7443 --ca ca.pem --code-file code --state-dir /var/lib/daypass-agent
  ssh ops daypass enroll create --tenant acme --role agent | daypass agent enroll --state-dir state";

/// The longest code that is read, in bytes.
const MAX_CODE: u64 = 256;

/// `agent enroll`.
#[derive(Debug, ClapArgs)]
pub struct Enroll {
    /// The code; others on this machine can see it in the list of processes: prefer a file, or standard input
    #[arg(long, value_name = "CODE", value_parser = |text: &str| Ok::<_, std::convert::Infallible>(Secret::new(text.to_owned())))]
    pub code: Option<Secret>,
    /// The file that holds it; without one, and without --code, it is read from standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "code")]
    pub code_file: Option<PathBuf>,
    /// Where the identity goes, and later all that the agent keeps
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state_dir: PathBuf,
    /// How to print it: text or json
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT", hide_possible_values = true)]
    pub output: TextFormat,
}

/// The JSON of an enrolment: a contract.
#[derive(Serialize)]
struct EnrolledJson<'a> {
    identity: &'a KeptIdentity,
    directory: String,
}

pub(super) async fn run(connection: Connection, args: Enroll, env: Env<'_>, out: &mut dyn Write) -> Outcome {
    let Enroll { code, code_file, state_dir, output } = args;
    let dir = IdentityDir::open(&state_dir)?;
    let mut client = Client::new(nobody(connection, env)?)?;
    let code = match (code, code_file) {
        (Some(code), _) => trimmed(code.expose())?,
        (None, Some(file)) => from_file(&file)?,
        (None, None) => from_stdin()?,
    };
    let identity = enroll(&dir, &mut client, &code).await?;
    let (kept, path) = (&identity.kept, dir.path().display().to_string());
    match output {
        TextFormat::Text => {
            writeln!(out, "enrolled  {}", one_line(&kept.subject))?;
            writeln!(out, "tenant    {}", one_line(&kept.tenant))?;
            writeln!(out, "lease     {}", kept.lease_id)?;
            writeln!(out, "expires   {}", kept.expires_at)?;
            writeln!(out, "identity  {path}")?;
        }
        TextFormat::Json => output::json(out, &EnrolledJson { identity: kept, directory: path })?,
    }
    Ok(Exit::Done)
}

/// Where the server is; the code is all that says who asks.
fn nobody(connection: Connection, env: Env<'_>) -> Result<Settings> {
    let flags = Flags { cert: None, key: None, token_file: None, identity: Some(Identity::None), ..connection.into() };
    let only_where = |name: &str| -> Option<OsString> { if matches!(name, "DAYPASS_ADDR" | "DAYPASS_CA") { env(name) } else { None } };
    Settings::load(flags, &only_where)
}

fn from_file(path: &Path) -> Result<Secret> {
    let bytes = read_bounded(path).map_err(|why| Error::usage(format!("--code-file {} cannot be read: {why}", path.display())))?;
    trimmed(std::str::from_utf8(&bytes).unwrap_or_default())
}

fn from_stdin() -> Result<Secret> {
    let mut text = Zeroizing::new(String::with_capacity(512));
    let read = io::stdin().lock().take(MAX_CODE + 1).read_to_string(&mut text);
    read.map_err(|error| Error::usage(format!("the code cannot be read from standard input: {error}")))?;
    trimmed(&text)
}

fn trimmed(text: &str) -> Result<Secret> {
    let code = text.trim();
    if code.is_empty() || code.len() as u64 > MAX_CODE || !code.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Error::usage("there is no code: give it with --code-file, --code, or on standard input"));
    }
    Ok(Secret::new(code.to_owned()))
}
