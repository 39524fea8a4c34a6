//! `daypassd ca`: asks a running service by its admin socket.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};

use super::{
    CALL_TIMEOUT,
    convert::{from_timestamp, state_text},
};
use crate::{
    cli::exit::Exit,
    client::{
        error::{Error, Kind},
        text::one_line,
    },
    proto::admin::{ActivateRequest, Key, PrepareRequest, RetireRequest, ShowRequest, key_service_client::KeyServiceClient},
    server::config,
};

/// The configuration that is asked for the socket unless told otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/daypass/daypass.toml";

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What is to be done with the service's keys.
#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Show the service's keys: which are prepared, active, retired, and until when they are published
    Show {
        /// A CA, or `jwt` [default: all]
        ring: Option<String>,
        /// Where, and how the answer is written.
        #[command(flatten)]
        at: At,
    },
    /// Make the next key and publish it; it signs when its turn comes, or when it is activated
    Prepare {
        /// A CA, or `jwt`
        ring: String,
        /// Where, and how the answer is written.
        #[command(flatten)]
        at: At,
    },
    /// Have the prepared key sign from now on; the one before it stays published for what lives under it
    Activate {
        /// A CA, or `jwt`
        ring: String,
        /// Even though it was not published for long enough: some relying parties may not know it yet
        #[arg(long)]
        force: bool,
        /// Where, and how the answer is written.
        #[command(flatten)]
        at: At,
    },
    /// Take a key out at once: what lives under it is not verified any more
    Retire {
        /// Its name, for example jwt-1
        key: String,
        /// Where, and how the answer is written.
        #[command(flatten)]
        at: At,
    },
}

/// Where the service is, and how the answer is written.
#[derive(Debug, Args)]
pub struct At {
    /// The service's configuration, for its server.admin [default: /etc/daypass/daypass.toml]
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    config: Option<PathBuf>,
    /// The admin socket itself
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// How the answer is written
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON value; errors too.
    Json,
}

/// Does it, and tells how that went: 0 done, 1 not done, 4 not permitted, 6 the service or its store is away.
pub async fn run(what: Ca) -> Exit {
    let output = match &what {
        Ca::Show { at, .. } | Ca::Prepare { at, .. } | Ca::Activate { at, .. } | Ca::Retire { at, .. } => at.output,
    };
    let told = match ask(what).await {
        Ok(keys) => write_keys(&mut io::stdout().lock(), &keys, output).map(|()| Exit::Done),
        Err(error) => {
            let line = error_line(&error, output);
            writeln!(io::stderr(), "{line}").map(|()| Exit::from(error.kind()))
        }
    };
    // Whoever read our output may have gone.
    told.unwrap_or(Exit::Failed)
}

async fn ask(what: Ca) -> Result<Vec<Key>, Error> {
    let failed = |status: tonic::Status| Error::from_status(&status);
    Ok(match what {
        Ca::Show { ring, at } => {
            let request = ShowRequest { ring: ring.unwrap_or_default() };
            connect(&at).await?.show(request).await.map_err(failed)?.into_inner().keys
        }
        Ca::Prepare { ring, at } => {
            let answer = connect(&at).await?.prepare(PrepareRequest { ring }).await.map_err(failed)?;
            answer.into_inner().key.into_iter().collect()
        }
        Ca::Activate { ring, force, at } => {
            let answer = connect(&at).await?.activate(ActivateRequest { ring, force }).await.map_err(failed)?;
            answer.into_inner().key.into_iter().collect()
        }
        Ca::Retire { key, at } => {
            let answer = connect(&at).await?.retire(RetireRequest { name: key }).await.map_err(failed)?;
            answer.into_inner().key.into_iter().collect()
        }
    })
}

async fn connect(at: &At) -> Result<KeyServiceClient<Channel>, Error> {
    let socket = socket(at)?;
    let absolute = std::path::absolute(&socket).map_err(|error| Error::usage(format!("{}: {error}", socket.display())))?;
    let channel = Endpoint::from_shared(format!("unix://{}", absolute.display()))
        .map_err(|error| Error::usage(format!("{}: {error}", absolute.display())))?
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(CALL_TIMEOUT + CONNECT_TIMEOUT);
    let channel = channel.connect().await.map_err(|error| unreachable_at(&absolute, &error))?;
    Ok(KeyServiceClient::new(channel))
}

fn socket(At { config, socket, output: _ }: &At) -> Result<PathBuf, Error> {
    match (socket, config) {
        (Some(socket), _) => Ok(socket.clone()),
        (None, config) => {
            let file = config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG));
            config::admin_socket(file).map_err(|fault| Error::usage(fault.to_string()))
        }
    }
}

fn unreachable_at(socket: &Path, error: &tonic::transport::Error) -> Error {
    let mut why: &dyn std::error::Error = error;
    while let Some(source) = why.source() {
        why = source;
    }
    let denied = why.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    let (kind, code) = if denied { (Kind::Denied, "DENIED") } else { (Kind::Unavailable, "UNAVAILABLE") };
    let hint = if denied { "root and the user that the service runs as may" } else { "is the service running?" };
    Error::new(kind, code, format!("the admin socket {} cannot be opened: {why}; {hint}", socket.display()))
}

fn error_line(error: &Error, output: Output) -> String {
    match output {
        Output::Json => json!({"error": {"code": error.code(), "message": error.message()}}).to_string(),
        Output::Text => format!("daypassd: {}", one_line(error.message())),
    }
}

fn write_keys(out: &mut dyn Write, keys: &[Key], output: Output) -> io::Result<()> {
    if output == Output::Json {
        let keys: Vec<Value> = keys.iter().map(as_json).collect();
        return writeln!(out, "{:#}", json!({ "keys": keys }));
    }
    let width = keys.iter().map(|key| key.name.len()).max().unwrap_or(0).max(4);
    writeln!(out, "{:width$}  {:8}  {:9}  {:20}  {:20}  PUBLISHED UNTIL", "KEY", "STATE", "ALGORITHM", "PUBLISHED", "SIGNS FROM")?;
    for key in keys {
        let at = |at: &Option<prost_types::Timestamp>| from_timestamp(at.as_ref()).map_or_else(|| "-".to_owned(), |at| at.to_string());
        let algorithm = if key.algorithm.is_empty() { "UNREADABLE" } else { &key.algorithm };
        let (published, signs, until) = (at(&key.published_at), at(&key.signs_from), at(&key.published_until));
        let state = state_text(key.state);
        writeln!(out, "{:width$}  {state:8}  {algorithm:9}  {published:20}  {signs:20}  {until}", one_line(&key.name))?;
    }
    Ok(())
}

fn as_json(key: &Key) -> Value {
    let Key { name, ring, state, published_at, signs_from, published_until, rotates, algorithm } = key;
    let at = |at: &Option<prost_types::Timestamp>| from_timestamp(at.as_ref()).map(|at| at.to_string());
    json!({
        "name": name, "ring": ring, "state": state_text(*state), "published_at": at(published_at), "signs_from": at(signs_from),
        "published_until": at(published_until), "rotates": rotates, "algorithm": algorithm,
    })
}
