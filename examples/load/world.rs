//! A throwaway `daypassd dev` with lifted limits, and its Redis.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use toml_edit::{DocumentMut, Table, value};

use super::{
    Result,
    parts::{ASK_EVERY, Redis, RedisInfo, START, daypassd, free_port, get},
    process::Server,
};

const CONFIG: &str = include_str!("../../src/server/dev/daypass.toml");
const POLICY: &str = include_str!("../../src/server/dev/policy.cedar");

/// Lines of the server's log that are shown when it does not start.
const LOG_LINES: usize = 10;

/// Rates and caps that no run reaches.
const LIFTED: i64 = 1_000_000;

/// Everything of one run. The fields end in this order: the server before its store, the directory last.
pub struct World {
    server: Server,
    redis: Option<Redis>,
    program: PathBuf,
    store: String,
    /// Where gRPC listens.
    pub grpc: SocketAddr,
    /// Where HTTP listens.
    pub http: SocketAddr,
    dir: TempDir,
}

impl World {
    /// Starts it with `policies` further roles, and waits until it is ready.
    pub async fn start(store: &str, policies: u32) -> Result<Self> {
        let program = daypassd()?;
        let dir = tempfile::Builder::new().prefix("daypass-load-").tempdir()?;
        let redis = Redis::start(store, dir.path()).await?;
        let store = redis.as_ref().map_or(store.to_owned(), |redis| format!("redis://{}", redis.address));
        fs::write(dir.path().join("daypass.toml"), config(policies)?)?;
        fs::write(dir.path().join("policy.cedar"), policy(policies)?)?;
        let (grpc, http) = (free_port()?, free_port()?);
        let server = serve(&program, dir.path(), &store, (grpc, http))?;
        let mut world = Self { server, redis, program, store, grpc, http, dir };
        world.wait_until_ready().await?;
        Ok(world)
    }

    /// Where everything lies.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The server's CPU time so far, in seconds.
    pub fn server_cpu(&self) -> Result<f64> {
        self.server.cpu()
    }

    /// The server's resident memory, in bytes.
    pub fn server_rss(&self) -> Result<u64> {
        self.server.rss()
    }

    /// What Redis says of itself; none without one.
    pub async fn redis_info(&self) -> Result<Option<RedisInfo>> {
        match &self.redis {
            Some(redis) => Ok(Some(redis.info().await?)),
            None => Ok(None),
        }
    }

    /// Stops the server in good order and starts it again over the same directory: from its start until it is ready.
    pub async fn restart(&mut self) -> Result<Duration> {
        // The ports are free again only once the first has ended.
        self.server.stop().await?;
        let begun = Instant::now();
        self.server = serve(&self.program, self.dir.path(), &self.store, (self.grpc, self.http))?;
        self.wait_until_ready().await?;
        Ok(begun.elapsed())
    }

    /// A GET at the HTTP port: the status and the body.
    pub async fn get(&self, path: &str) -> Result<(u16, Vec<u8>)> {
        get(self.http, path).await
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            // Until it listens, there is nothing to read.
            if let Ok((200, _)) = self.get("/readyz").await {
                return Ok(());
            }
            if self.server.has_ended() || begun.elapsed() > START {
                let log = fs::read_to_string(self.dir().join("daypassd.log")).unwrap_or_default();
                let said: Vec<_> = log.lines().take(LOG_LINES).collect();
                return Err(format!("daypassd is not ready; it says:\n{}", said.join("\n")).into());
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}

fn serve(program: &Path, dir: &Path, store: &str, (grpc, http): (SocketAddr, SocketAddr)) -> Result<Server> {
    let mut command = Command::new(program);
    command.arg("dev").arg("--dir").arg(dir).args(["--store", store]);
    command.args(["--grpc", &grpc.to_string(), "--http", &http.to_string()]);
    Server::start(&mut command, &dir.join("daypassd.log"))
}

fn config(policies: u32) -> Result<String> {
    let mut document: DocumentMut = CONFIG.parse()?;
    let mut limits = Table::new();
    for name in [
        "requests_per_caller_per_second",
        "request_burst_per_caller",
        "failed_logins_per_address_per_minute",
        "registry_exchanges_per_lease_per_minute",
    ] {
        limits[name] = value(LIFTED);
    }
    limits["streams_per_connection"] = value(10_000);
    document["server"]["limits"] = toml_edit::Item::Table(limits);
    for tenant in document["tenant"].as_array_of_tables_mut().into_iter().flat_map(|tenants| tenants.iter_mut()) {
        tenant["max_live_leases"] = value(3 * LIFTED);
        tenant["max_live_leases_per_caller"] = value(3 * LIFTED);
    }
    let roles = document["role"].as_array_of_tables_mut().ok_or("the sample configuration has no roles")?;
    let like = roles.get(0).ok_or("the sample configuration has no role")?.clone();
    for n in 0..policies {
        let mut role = like.clone();
        role["name"] = value(format!("further-{n}"));
        roles.push(role);
    }
    Ok(document.to_string())
}

fn policy(policies: u32) -> Result<String> {
    let mut text = POLICY.to_owned();
    for n in 0..policies {
        write!(
            text,
            "\n@id(\"further-{n}\")\npermit(\n  principal is Token::github in Tenant::\"widget\",\n  action == Action::\"issue\",\n  \
             resource == Role::\"further-{n}\"\n) when {{\n  principal.claims.repository_id == \"74\" &&\n  \
             principal.claims.ref == \"refs/heads/main\" &&\n  principal.claims has environment && principal.claims.environment == \"prod\"\n}};\n"
        )?;
    }
    Ok(text)
}
