//! What a run has besides the server: the program, a Redis, free ports, and a look at an HTTP port.

use std::{
    env, fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Result, process::Server};

/// How long a server may take until it serves.
pub const START: Duration = Duration::from_secs(20);

/// How often a server that starts is asked.
pub const ASK_EVERY: Duration = Duration::from_millis(2);

/// The largest HTTP answer that is read: a CRL of a million entries is below it.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

/// A Redis, of this run or of somebody else.
pub struct Redis {
    /// Where it listens.
    pub address: SocketAddr,
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

impl Redis {
    /// `redis` starts one, `appendfsync always`; a URL is somebody else's; none for `embedded`.
    pub async fn start(store: &str, dir: &Path) -> Result<Option<Self>> {
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

    /// What it says of itself.
    pub async fn info(&self) -> Result<RedisInfo> {
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

/// The service beside this very program: `target/release/daypassd` for `target/release/examples/…`.
pub fn daypassd() -> Result<PathBuf> {
    let own = env::current_exe()?;
    let program = own.parent().and_then(Path::parent).ok_or("this program has no directory")?.join("daypassd");
    if program.is_file() {
        return Ok(program);
    }
    Err(format!("{} is not built: cargo build --release --bin daypassd", program.display()).into())
}

/// An address of 127.0.0.1 that was free a moment ago.
pub fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A GET at an HTTP port: the status and the body.
pub async fn get(address: SocketAddr, path: &str) -> Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    let head = answer.windows(4).position(|at| at == b"\r\n\r\n").ok_or("no HTTP answer")?;
    let body = answer.split_off(head + 4);
    let status = String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("no HTTP status")?;
    Ok((status, body))
}
