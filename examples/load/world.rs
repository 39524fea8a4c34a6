//! A throwaway `daypassd dev` with lifted limits, and its Redis.

use std::{
    env,
    fmt::Write as _,
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use toml_edit::{DocumentMut, Table, value};

use super::{Result, process::Server};

const CONFIG: &str = include_str!("../../src/server/dev/daypass.toml");
const POLICY: &str = include_str!("../../src/server/dev/policy.cedar");

/// How long a server may take until it serves.
const START: Duration = Duration::from_secs(20);

/// How often a server that starts is asked.
const ASK_EVERY: Duration = Duration::from_millis(2);

/// Lines of the server's log that are shown when it does not start.
const LOG_LINES: usize = 10;

/// Rates and caps that no run reaches.
const LIFTED: i64 = 1_000_000;

/// The largest HTTP answer that is read: a CRL of a million entries is below it.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

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

struct Redis {
    address: SocketAddr,
    _own: Option<Server>,
}

/// What Redis says of itself.
#[derive(Clone, Copy)]
pub struct RedisInfo {
    /// CPU time so far, in seconds: all threads and children.
    pub cpu: f64,
    /// Memory in use, in bytes.
    pub memory: u64,
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
        let mut stream = TcpStream::connect(self.http).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {}\r\nConnection: close\r\n\r\n", self.http).as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        let head = answer.windows(4).position(|at| at == b"\r\n\r\n").ok_or("no HTTP answer")?;
        let body = answer.split_off(head + 4);
        let status = String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("no HTTP status")?;
        Ok((status, body))
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

impl Redis {
    /// None for the embedded store.
    async fn start(store: &str, dir: &Path) -> Result<Option<Self>> {
        let (address, own) = match store {
            "embedded" => return Ok(None),
            "redis" => {
                let (address, dir) = (free_port()?, dir.join("redis"));
                fs::create_dir(&dir)?;
                let mut command = Command::new("redis-server");
                command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string(), "--save", "", "--appendonly", "yes"]);
                command.args(["--appendfsync", "always", "--dir"]).arg(&dir);
                (address, Some(Server::start(&mut command, &dir.join("redis.log"))?))
            }
            url => {
                let host = url.strip_prefix("redis://").ok_or("--store is embedded, redis, or redis://ADDRESS:PORT")?;
                (tokio::net::lookup_host(host.trim_end_matches('/')).await?.next().ok_or("the Redis has no address")?, None)
            }
        };
        let redis = Self { address, _own: own };
        let begun = Instant::now();
        while let Err(error) = redis.info().await {
            if begun.elapsed() > START {
                return Err(format!("Redis at {address} does not answer: {error}").into());
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        Ok(Some(redis))
    }

    async fn info(&self) -> Result<RedisInfo> {
        let mut stream = TcpStream::connect(self.address).await?;
        // QUIT makes Redis close, so that everything can be read to its end.
        stream.write_all(b"INFO\r\nQUIT\r\n").await?;
        let mut text = String::new();
        stream.take(MAX_ANSWER).read_to_string(&mut text).await?;
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).ok_or(format!("Redis' INFO lacks {name}"));
        let names = ["used_cpu_sys:", "used_cpu_user:", "used_cpu_sys_children:", "used_cpu_user_children:"];
        let mut cpu = 0.0;
        for name in names {
            cpu += field(name)?.parse::<f64>()?;
        }
        Ok(RedisInfo { cpu, memory: field("used_memory:")?.parse()? })
    }
}

/// The service beside this very program: `target/release/daypassd` for `target/release/examples/load`.
fn daypassd() -> Result<PathBuf> {
    let own = env::current_exe()?;
    let program = own.parent().and_then(Path::parent).ok_or("this program has no directory")?.join("daypassd");
    if program.is_file() {
        return Ok(program);
    }
    Err(format!("{} is not built: cargo build --release --bin daypassd", program.display()).into())
}

fn serve(program: &Path, dir: &Path, store: &str, (grpc, http): (SocketAddr, SocketAddr)) -> Result<Server> {
    let mut command = Command::new(program);
    command.arg("dev").arg("--dir").arg(dir).args(["--store", store]);
    command.args(["--grpc", &grpc.to_string(), "--http", &http.to_string()]);
    Server::start(&mut command, &dir.join("daypassd.log"))
}

fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
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
