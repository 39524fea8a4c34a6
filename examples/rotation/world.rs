//! Servers over one Redis: the first is a `daypassd dev`, the others take its keys, roles and policy.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use toml_edit::{DocumentMut, Item, Table, value};

use super::{
    Result,
    parts::{ASK_EVERY, Redis, START, free_port, get},
    process::Server,
};

const CONFIG: &str = include_str!("../../src/server/dev/daypass.toml");

/// Rates and caps that no run reaches.
const LIFTED: i64 = 1_000_000;

/// Watches of a server, and of a caller: the most that can be configured.
const WATCHES: i64 = 100_000;

/// Lines of a server's log that are shown when it does not start, or ends.
const LOG_LINES: usize = 10;

/// Everything of one run. The fields end in this order: the servers before their store, the directory last.
pub struct World {
    servers: Vec<Running>,
    redis: Redis,
    dir: TempDir,
}

/// One server; none after it was killed or stopped.
struct Running {
    server: Option<Server>,
    grpc: SocketAddr,
    http: SocketAddr,
    audit: PathBuf,
    log: PathBuf,
}

/// What a server has used.
pub struct Usage {
    /// CPU time, in seconds.
    pub cpu: f64,
    /// Resident memory, in bytes.
    pub rss: u64,
}

impl World {
    /// Starts so many servers over a Redis of their own, and waits until all are ready.
    pub async fn start(daypassd: &Path, servers: usize) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("daypass-rotation-").tempdir()?;
        let redis = Redis::start("redis", dir.path()).await?.ok_or("no Redis")?;
        fs::write(dir.path().join("daypass.toml"), lifted()?)?;
        let store = format!("redis://{}", redis.address);
        let mut world = Self { servers: Vec::new(), redis, dir };
        for number in 0..servers {
            let running = world.serve(daypassd, number, &store)?;
            world.servers.push(running);
            world.wait_until_ready(number).await?;
        }
        Ok(world)
    }

    /// Where everything lies.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where each server listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.grpc).collect()
    }

    /// Where each server's audit log lies.
    pub fn audit_dirs(&self) -> Vec<PathBuf> {
        self.servers.iter().map(|server| server.audit.clone()).collect()
    }

    /// A metric of a server, summed over its labels; 0 when there is none.
    pub async fn metric(&self, number: usize, name: &str) -> Result<f64> {
        let (_, body) = get(self.servers[number].http, "/metrics").await?;
        let text = String::from_utf8(body)?;
        let lines = text.lines().filter_map(|line| line.strip_prefix(name)).filter(|rest| rest.starts_with([' ', '{']));
        Ok(lines.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// What Redis has used so far: CPU time, in seconds.
    pub async fn redis_cpu(&self) -> Result<f64> {
        Ok(self.redis.info().await?.cpu)
    }

    /// Ends a server as a power cut would.
    pub fn kill(&mut self, number: usize) {
        self.servers[number].server = None;
    }

    /// Whether every server that was not killed runs.
    pub fn check(&mut self) -> Result<()> {
        for running in &mut self.servers {
            if running.server.as_mut().is_some_and(Server::has_ended) {
                return Err(format!("a server has ended; it says:\n{}", running.said()).into());
            }
        }
        Ok(())
    }

    /// What each server that runs has used so far.
    pub fn usage(&mut self) -> Result<Vec<Usage>> {
        self.check()?;
        self.servers
            .iter()
            .filter_map(|running| running.server.as_ref())
            .map(|server| Ok(Usage { cpu: server.cpu()?, rss: server.rss()? }))
            .collect()
    }

    /// Stops every server in good order.
    pub async fn stop(&mut self) -> Result<()> {
        for running in &mut self.servers {
            if let Some(mut server) = running.server.take() {
                server.stop().await?;
            }
        }
        Ok(())
    }

    fn serve(&self, daypassd: &Path, number: usize, store: &str) -> Result<Running> {
        let (grpc, http) = (free_port()?, free_port()?);
        let mut command = Command::new(daypassd);
        let audit = match number {
            0 => {
                command.arg("dev").arg("--dir").arg(self.dir()).args(["--store", store]);
                command.args(["--grpc", &grpc.to_string(), "--http", &http.to_string()]);
                "audit".to_owned()
            }
            _ => {
                let (config, audit) = (self.dir().join(format!("server-{number}.toml")), format!("audit-{number}"));
                let like: DocumentMut = fs::read_to_string(self.dir().join("daypass.toml"))?.parse()?;
                fs::write(&config, another(like, number, (grpc, http), &audit).to_string())?;
                command.arg("serve").arg("--config").arg(config);
                audit
            }
        };
        let log = self.dir().join(format!("daypassd-{number}.log"));
        let server = Some(Server::start(&mut command, &log)?);
        Ok(Running { server, grpc, http, audit: self.dir().join(audit), log })
    }

    async fn wait_until_ready(&mut self, number: usize) -> Result<()> {
        let begun = Instant::now();
        loop {
            // Until it listens, there is nothing to read.
            if let Ok((200, _)) = get(self.servers[number].http, "/readyz").await {
                return Ok(());
            }
            self.check()?;
            if begun.elapsed() > START {
                return Err(format!("daypassd is not ready; it says:\n{}", self.servers[number].said()).into());
            }
            tokio::time::sleep(ASK_EVERY.max(Duration::from_millis(10))).await;
        }
    }
}

impl Running {
    fn said(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

/// The sample configuration without rates and caps.
fn lifted() -> Result<String> {
    let mut document: DocumentMut = CONFIG.parse()?;
    let mut limits = Table::new();
    for name in ["requests_per_caller_per_second", "request_burst_per_caller", "failed_logins_per_address_per_minute"] {
        limits[name] = value(LIFTED);
    }
    limits["streams_per_connection"] = value(10_000);
    limits["watches"] = value(WATCHES);
    limits["watches_per_caller"] = value(WATCHES);
    document["server"]["limits"] = Item::Table(limits);
    for tenant in document["tenant"].as_array_of_tables_mut().into_iter().flat_map(|tenants| tenants.iter_mut()) {
        tenant["max_live_leases"] = value(LIFTED);
        tenant["max_live_leases_per_caller"] = value(LIFTED);
    }
    let roles = document["role"].as_array_of_tables_mut().ok_or("the sample configuration has no roles")?;
    let web = roles.get_mut(0).ok_or("the sample configuration has no role")?;
    (web["max_ttl"], web["max_life"]) = (value("24h"), value("72h"));
    Ok(document.to_string())
}

/// A further server's configuration: its own addresses, audit log and admin socket, and all else shared.
fn another(mut like: DocumentMut, number: usize, (grpc, http): (SocketAddr, SocketAddr), audit: &str) -> DocumentMut {
    like["server"]["grpc"] = value(grpc.to_string());
    like["server"]["http"] = value(http.to_string());
    if like["server"].get("admin").is_some() {
        like["server"]["admin"] = value(format!("admin-{number}.sock"));
    }
    like["audit"]["dir"] = value(audit);
    like
}
