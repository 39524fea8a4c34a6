//! The service: `serve`, `dev`, `check`, `ca`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use daypass::{
    clock::{Clock, SystemClock},
    model::error::{Code, Error, Result},
    server::{
        admin::command::{self, Ca},
        config,
        dev::{self, DevOptions},
        run,
    },
};

/// Vends short-lived credentials: X.509 certificates that expire by themselves, on record, revocable.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve with a throwaway CA, store, issuer, sample roles and policy, all in one directory
    Dev {
        /// Where everything lies; made when missing, reused when there
        #[arg(long, default_value = ".daypass")]
        dir: PathBuf,
        /// Where gRPC listens [default: 127.0.0.1:7443, or what the directory was made with]
        #[arg(long, value_name = "ADDRESS")]
        grpc: Option<std::net::SocketAddr>,
        /// Where HTTP listens [default: 127.0.0.1:7480, or what the directory was made with]
        #[arg(long, value_name = "ADDRESS")]
        http: Option<std::net::SocketAddr>,
        /// `embedded`, or the URL of a Redis [default: embedded, or what the directory was made with]
        #[arg(long, value_name = "STORE")]
        store: Option<String>,
        /// An AWS endpoint that is not the real one, for example http://127.0.0.1:4566: adds the role `deploy`
        #[arg(long, value_name = "URL")]
        aws_endpoint: Option<url::Url>,
    },
    /// Serve by a configuration file
    Serve {
        /// The file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Check configuration and policy without serving: every fault at once, with file and line
    Check {
        /// The file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// The keys of a running service (issuing CAs, and the keys that sign JWTs), by its admin socket
    ///
    /// Exit codes: 0 done, 1 not done, 2 the command is wrong, 4 not permitted, 6 the service or its store is away.
    #[command(subcommand)]
    Ca(Ca),
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Dev { dir, grpc, http, store, aws_endpoint } => block_on(dev::run(DevOptions { dir, grpc, http, store, aws_endpoint })),
        Command::Serve { config } => load(config).and_then(|(config, path)| block_on(run::serve(config, path, || {}))),
        Command::Check { config } => check(config),
        Command::Ca(what) => return ca(what),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match error.cause() {
                Some(cause) => eprintln!("daypassd: {cause}"),
                None => eprintln!("daypassd: {}", error.public()),
            }
            ExitCode::FAILURE
        }
    }
}

fn ca(what: Ca) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(command::run(what)).into(),
        Err(error) => {
            eprintln!("daypassd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Error::internal)?.block_on(work)
}

fn load(path: PathBuf) -> Result<(config::Config, PathBuf)> {
    match config::load(&path, SystemClock.now()) {
        Ok(config) => Ok((config, path)),
        Err(faults) => {
            for fault in &faults {
                eprintln!("{fault}");
            }
            let count = faults.len();
            Err(Error::new(Code::InvalidRequest, format!("{} has {count} fault{}", path.display(), if count == 1 { "" } else { "s" })))
        }
    }
}

fn check(path: PathBuf) -> Result<()> {
    let (config, path) = load(path)?;
    for warning in &config.warnings {
        eprintln!("{warning} (advice)");
    }
    let catalog = config.rules.book.catalog();
    println!(
        "{}: {} roles, {} tenants, policy version {}",
        path.display(),
        catalog.roles.len(),
        catalog.tenants.len(),
        config.rules.book.version()
    );
    Ok(())
}
