//! `daypassd dev`: a whole throwaway world in one directory, made at the first run and reused by the next.

mod aws;
mod config_file;
mod issuer;
mod registry;
mod world;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tokio::task::JoinSet;

use crate::{
    clock::{Clock, SystemClock},
    keys::FileKek,
    model::error::{Error, Result},
    unix::files,
};

/// Where gRPC listens unless told otherwise.
pub const DEFAULT_GRPC: &str = "127.0.0.1:7443";

/// Where HTTP listens unless told otherwise.
pub const DEFAULT_HTTP: &str = "127.0.0.1:7480";

/// What `daypassd dev` is told. What is absent keeps its value from the run before, or gets its default.
#[derive(Debug, Clone)]
pub struct DevOptions {
    /// The directory.
    pub dir: PathBuf,
    /// Where gRPC listens.
    pub grpc: Option<SocketAddr>,
    /// Where HTTP listens.
    pub http: Option<SocketAddr>,
    /// `embedded`, or the URL of a Redis.
    pub store: Option<String>,
    /// An AWS endpoint that is not the real one: adds the role `deploy`.
    pub aws_endpoint: Option<url::Url>,
}

/// Makes what is missing in the directory and serves from it.
pub async fn run(options: DevOptions) -> Result<()> {
    let dir = prepare(&options)?;
    let made = match &options.aws_endpoint {
        Some(endpoint) => Some(aws::make(&dir, endpoint).await?),
        None => None,
    };
    let path = dir.join("daypass.toml");
    let config = super::config::load(&path, SystemClock.now()).map_err(|faults| {
        let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
        Error::new(crate::model::error::Code::InvalidRequest, lines.join("\n"))
    })?;
    let (grpc, http) = (config.grpc, config.http);
    config_file::write_agent(&dir, grpc)?;
    fs::write(dir.join("env.sh"), env_sh(&dir, grpc)).map_err(|error| at(&dir.join("env.sh"), &error))?;
    let job = issuer::JobTokens::open(&dir)?;
    job.write(SystemClock.now())?;
    let mut beside = JoinSet::new();
    beside.spawn(job.keep_fresh());
    let endpoint = made.as_ref().and_then(|made| made.way.endpoint.clone());
    if let Some(made) = made.filter(|made| made.lacks_role) {
        beside.spawn(aws::keep_role(dir.clone(), made.way));
    }
    let shown = options.dir.clone();
    let served = super::run::serve(config, path, move || greet(&shown, grpc, http, endpoint.as_deref())).await;
    beside.shutdown().await;
    served
}

fn prepare(options: &DevOptions) -> Result<PathBuf> {
    make_dir(&options.dir)?;
    let dir = options.dir.canonicalize().map_err(|error| at(&options.dir, &error))?;
    for sub in ["pki", "store", "issuer"] {
        make_dir(&dir.join(sub))?;
    }
    let http = config_file::write(&dir, options)?;
    world::make(&dir, http, SystemClock.now())?;
    issuer::make(&dir)?;
    registry::make(&dir, http, SystemClock.now())?;
    write_new(&dir.join("wrap.key"), FileKek::generate().as_bytes(), 0o600)?;
    write_new(&dir.join("policy.cedar"), include_bytes!("policy.cedar"), 0o644)?;
    Ok(dir)
}

fn make_dir(dir: &Path) -> Result<()> {
    files::make_private_dir(dir).map_err(|error| at(dir, &error))
}

/// Writes a file that is not there yet; leaves one that is.
fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    write(path, content, mode)
}

/// Writes a file, in place of the one before.
fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    files::replace(path, mode, content).map_err(|error| at(path, &error))
}

fn at(path: &Path, error: &std::io::Error) -> Error {
    Error::new(crate::model::error::Code::InvalidRequest, format!("{}: {error}", path.display()))
}

/// A text as one word of a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn env_sh(dir: &Path, grpc: SocketAddr) -> String {
    let file = |name: &str| quoted(&dir.join(name).display().to_string());
    format!(
        "# What the client `daypass` needs to speak as the operator: . {}\n\
         export DAYPASS_ADDR={}\nexport DAYPASS_CA={}\nexport DAYPASS_CERT={}\nexport DAYPASS_KEY={}\nunset DAYPASS_TOKEN DAYPASS_TOKEN_FILE\n",
        file("env.sh"),
        quoted(&grpc.to_string()),
        file("ca.pem"),
        file("operator.pem"),
        file("operator.key"),
    )
}

fn greet(dir: &Path, grpc: SocketAddr, http: SocketAddr, aws_endpoint: Option<&str>) {
    let env = dir.join("env.sh");
    let env = quoted(&env.display().to_string());
    let job = quoted(&dir.join("job.jwt").display().to_string());
    println!("daypassd dev: gRPC on {grpc}, HTTP on http://{http}, everything in {}", dir.display());
    println!();
    println!("In another terminal, as the operator, then as a CI job:");
    println!();
    println!("  . {env}");
    println!("  daypass issue web --out web");
    println!("  DAYPASS_CERT= DAYPASS_KEY= DAYPASS_TOKEN_FILE={job} daypass issue web --out job");
    println!();
    let registry = dir.join("registry.yml");
    if registry.exists() {
        println!("A registry on {} that takes its tokens, and what docker login takes there:", registry::ADDRESS);
        println!();
        println!("  docker-registry serve {}", quoted(&registry.display().to_string()));
        println!("  daypass issue push -o json");
        println!("  daypass registry login push");
        println!();
    }
    println!("An agent, which keeps web fresh in {0}/agent and serves it on sockets there:", dir.display());
    println!();
    println!("  daypass agent run --config {}", quoted(&dir.join("agent.toml").display().to_string()));
    println!();
    println!("An agent's first identity: a code, and what it is traded for:");
    println!();
    println!("  daypass enroll create --tenant fleet --role agent | daypass agent enroll --state-dir agent-state");
    println!();
    println!("A JWT of this service, and who verifies it: http://{http}/.well-known/openid-configuration");
    println!();
    println!("  daypass issue federate -o json");
    println!();
    println!("The service's own keys:");
    println!();
    println!("  daypassd ca show --config {}", quoted(&dir.join("daypass.toml").display().to_string()));
    println!();
    if let Some(endpoint) = aws_endpoint {
        println!("An AWS session, for a command and as long as it runs:");
        println!();
        println!("  AWS_ENDPOINT_URL={} daypass exec deploy -- aws sts get-caller-identity", quoted(endpoint));
        println!("  daypass issue deploy -o json");
        println!();
    }
}
