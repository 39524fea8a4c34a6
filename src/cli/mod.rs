//! The command line: parse, call, print, exit code.

mod agent;
pub mod args;
mod audit;
mod aws;
mod cache;
mod connection;
mod enroll;
pub mod exec;
pub mod exit;
mod files;
mod issue;
mod lease;
mod output;
pub mod registry;
mod usage;
mod values;

use std::{
    env,
    ffi::OsString,
    io::{self, BufWriter, Write},
};

use clap::{CommandFactory, Parser};
use tokio::signal::unix::{SignalKind, signal};

use self::{
    args::{Args, Audit, Command, Lease, List, Revoke, TableFormat, TextFormat},
    connection::Connection,
    exit::{Exit, Outcome, Stop},
    issue::args::{Issue, IssueFormat, Making},
};
use crate::{
    client::{
        Client,
        error::{Error, Kind, Result},
        material,
        settings::Settings,
    },
    clock::{Clock, SystemClock},
};

/// Runs one command with the process's own arguments, environment and streams.
pub fn run(words: Vec<OsString>) -> Exit {
    if registry::helper::is_name(words.first()) {
        return registry::helper::run(&words);
    }
    let wants_json = usage::wants_json(&words);
    let args = match Args::try_parse_from(exec::args::with_escape(words)) {
        Ok(args) => args,
        Err(error) => return usage::tell(&error, wants_json),
    };
    let as_json = args.command.is_json();
    let mut out = BufWriter::new(io::stdout());
    let outcome = dispatch(args, &mut out).and_then(|exit| Ok(out.flush().map(|()| exit)?));
    match outcome {
        Ok(exit) => exit,
        Err(Stop::ClosedPipe) => Exit::Done,
        Err(Stop::Signal(exit)) => exit,
        Err(Stop::Error(error)) => {
            output::error(&error, as_json);
            error.kind().into()
        }
    }
}

fn dispatch(args: Args, out: &mut dyn Write) -> Outcome {
    let Args { connection, command } = args;
    match command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "daypass", &mut script);
            out.write_all(&script)?;
            Ok(Exit::Done)
        }
        Command::Audit(Audit::Verify { path, output }) => audit::verify(&path, output, out),
        Command::Exec(args) => exec::run(connection, args),
        Command::ExecWatch => exec::watch(connection),
        // It sees to signals itself.
        Command::Agent(agent::Agent::Run(args)) => block_on(agent::serve(&connection, args))?,
        command => block_on(async {
            tokio::select! {
                outcome = call(connection, command, out) => outcome,
                stop = signalled() => Err(stop),
            }
        })?,
    }
}

/// Runs to the end of a future. One thread is enough for one caller; a name that does not resolve must not hold up the exit.
fn block_on<T>(future: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::new(Kind::Other, "SYSTEM", format!("this system gives no event loop: {error}")))?;
    let outcome = runtime.block_on(future);
    runtime.shutdown_background();
    Ok(outcome)
}

/// Ends when the process is told to: then what the call began is dropped, and with it the files that are not done.
async fn signalled() -> Stop {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        // Without handlers a signal ends the process as it always did.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => Stop::Signal(Exit::Interrupted),
        _ = terminate.recv() => Stop::Signal(Exit::Terminated),
    }
}

async fn call(connection: Connection, command: Command, out: &mut dyn Write) -> Outcome {
    let now = SystemClock.now();
    let as_json = command.is_json();
    let env = |name: &str| env::var_os(name);
    let quiet = connection.is_quiet(&env);
    let command = match command {
        Command::AwsCredentialProcess(args) => {
            let mut settings = Settings::load(connection.into(), &env)?;
            settings.found_identity.take_if(|_| quiet);
            return aws::credential_process(settings, args, &env, out).await;
        }
        Command::Agent(command) => return agent::run(connection, command, &env, out).await,
        Command::Registry(command) => return registry::run(connection.into(), quiet, command, &env, out).await,
        command => command,
    };
    let connect = || client(connection, quiet, as_json);
    match command {
        Command::Whoami { output } => {
            let who = connect()?.who_am_i().await?;
            match output {
                TextFormat::Text => output::who_am_i(out, &who)?,
                TextFormat::Json => output::json(out, &who)?,
            }
            Ok(Exit::Done)
        }
        Command::Explain { role, output } => {
            issue::check_role(&role)?;
            let explanation = connect()?.explain(&role).await?;
            match output {
                TextFormat::Text => output::explanation(out, &role, &explanation)?,
                TextFormat::Json => output::json(out, &explanation)?,
            }
            Ok(Exit::Done)
        }
        Command::Issue(args) => issue::issue(&mut connect()?, args, out).await,
        Command::Lease(Lease::Renew { id, making }) => issue::renew(&mut connect()?, id, making, out).await,
        Command::Lease(Lease::List(args)) => lease::list(&mut connect()?, args, now, out).await,
        Command::Lease(Lease::Get { id, output }) => lease::get(&mut connect()?, &id, output, out).await,
        Command::Lease(Lease::Revoke(args)) => {
            if args.ids.is_empty() && args.filter.is_empty() {
                return Err(Error::usage("say which leases: by id, or by --role, --tenant, --subject or --issued-before").into());
            }
            lease::revoke(&mut connect()?, args, now, out).await
        }
        Command::Enroll(command) => enroll::run(&mut connect()?, command, out).await,
        Command::Audit(Audit::Tail { follow, last, after_seq, output }) => {
            audit::tail(&mut connect()?, follow, last, after_seq, output, out).await
        }
        Command::Audit(Audit::Verify { .. })
        | Command::Completions { .. }
        | Command::AwsCredentialProcess(_)
        | Command::Registry(_)
        | Command::Agent(_)
        | Command::Exec(_)
        | Command::ExecWatch => Err(Error::new(Kind::Other, "INTERNAL", "this command needs no server").into()),
    }
}

/// A client by the flags and the environment.
fn client(connection: Connection, quiet: bool, as_json: bool) -> Result<Client> {
    let settings = Settings::load(connection.into(), &|name| env::var_os(name))?;
    tell(&settings, quiet, as_json);
    Client::new(settings)
}

/// Tells on standard error what the user should know of the settings: whose identity was found, and what is wrong with files.
fn tell(settings: &Settings, quiet: bool, as_json: bool) {
    if let Some(name) = settings.found_identity.as_ref().filter(|_| !quiet) {
        output::note(&format!("identity: {name}"), as_json);
    }
    for warning in &settings.warnings {
        output::note(&format!("warning: {warning}"), as_json);
    }
}

impl Command {
    /// Whether its output, and so its error, is JSON.
    fn is_json(&self) -> bool {
        match self {
            Self::Whoami { output }
            | Self::Explain { output, .. }
            | Self::Lease(Lease::Get { output, .. } | Lease::Revoke(Revoke { output, .. }))
            | Self::Audit(Audit::Tail { output, .. } | Audit::Verify { output, .. }) => *output == TextFormat::Json,
            Self::Issue(Issue { making: Making { output, .. }, .. }) | Self::Lease(Lease::Renew { making: Making { output, .. }, .. }) => {
                *output == IssueFormat::Json
            }
            Self::Lease(Lease::List(List { output, .. })) => *output == TableFormat::Json,
            Self::Enroll(command) => command.is_json(),
            Self::Agent(command) => command.is_json(),
            Self::AwsCredentialProcess(_) | Self::Registry(_) | Self::Completions { .. } | Self::Exec(_) | Self::ExecWatch => false,
        }
    }
}
