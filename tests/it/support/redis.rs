//! Real Redis servers: standalone, with TLS and an ACL user, and a cluster of six.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread::sleep,
    time::{Duration, Instant},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// The longest that a server may take until it answers.
const READY: Duration = Duration::from_secs(30);

/// The ACL user of [`Redis::start_tls`].
pub const USER: &str = "daypass";

/// Its password.
pub const PASSWORD: &str = "a test's own password";

/// A standalone server; it ends with this value.
pub struct Redis {
    /// Its port on 127.0.0.1.
    pub port: u16,
    arguments: Vec<String>,
    tls: bool,
    folder: TempDir,
    child: Option<Child>,
}

impl Redis {
    /// A plain server without persistence.
    pub fn start() -> Self {
        Self::start_with(&["--save", "", "--appendonly", "no"])
    }

    /// A plain server with more arguments.
    pub fn start_with(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut all = vec!["--port".to_owned(), port.to_string()];
        all.extend(arguments.iter().map(ToString::to_string));
        Self { port, arguments: all, tls: false, folder, child: None }.started()
    }

    /// A server that speaks TLS only, and knows one user, who may do what the ACL of `deploy/` grants.
    pub fn start_tls() -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_certificates(folder.path());
        let acl = include_str!("../../../deploy/redis/users.acl.example").replace("PASSWORD_SHA256", &sha256_hex(PASSWORD));
        fs::write(folder.path().join("users.acl"), acl).unwrap();
        let port = free_port();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let arguments = [
            ["--port", "0"].map(str::to_owned),
            ["--tls-port".into(), port.to_string()],
            ["--tls-cert-file".into(), path("server.pem")],
            ["--tls-key-file".into(), path("server.key")],
            ["--tls-ca-cert-file".into(), path("ca.pem")],
            ["--tls-auth-clients", "no"].map(str::to_owned),
            ["--aclfile".into(), path("users.acl")],
            ["--save", ""].map(str::to_owned),
        ];
        Self { port, arguments: arguments.into_iter().flatten().collect(), tls: true, folder, child: None }.started()
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "rediss" } else { "redis" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The CA of a TLS server.
    pub fn ca_pem(&self) -> Vec<u8> {
        fs::read(self.folder.path().join("ca.pem")).unwrap()
    }

    /// Ends the server; its port stays its own.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again after [`Self::stop`].
    pub fn start_again(&mut self) {
        assert!(self.child.is_none());
        self.child = Some(spawn(self.folder.path(), &self.arguments));
        let port = self.port;
        if self.tls {
            wait_until("the TLS port is open", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        } else {
            wait_until("Redis answers", || cli(port, &["PING"]).is_some_and(|answer| answer == "PONG"));
        }
    }

    /// Sends it a signal, by the name that `kill` knows.
    pub fn signal(&self, name: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    /// Runs a command with `redis-cli` on a plain server.
    pub fn cli(&self, arguments: &[&str]) -> String {
        cli(self.port, arguments).unwrap()
    }

    fn started(mut self) -> Self {
        self.start_again();
        self
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Six servers: three primaries, each with a replica.
pub struct Cluster {
    ports: Vec<u16>,
    children: Vec<Child>,
    _folders: Vec<TempDir>,
}

impl Cluster {
    /// Starts it, and waits until it is whole.
    pub fn start() -> Self {
        let folders: Vec<TempDir> = (0..6).map(|_| tempfile::tempdir().unwrap()).collect();
        let ports: Vec<u16> = folders.iter().map(|_| free_port_with_bus()).collect();
        let start = |(folder, port): (&TempDir, &u16)| {
            let arguments =
                format!("--port {port} --cluster-enabled yes --cluster-node-timeout 2000 --repl-diskless-sync-delay 0 --appendonly no");
            let mut arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
            arguments.extend(["--save".into(), String::new()]);
            spawn(folder.path(), &arguments)
        };
        let children = folders.iter().zip(&ports).map(start).collect();
        let cluster = Self { ports, children, _folders: folders };
        for port in &cluster.ports {
            wait_until("a cluster node answers", || cli(*port, &["PING"]).is_some_and(|answer| answer == "PONG"));
        }
        cluster.join();
        cluster
    }

    /// Where to ask for the nodes.
    pub fn urls(&self) -> Vec<String> {
        self.ports.iter().take(3).map(|port| format!("redis://127.0.0.1:{port}")).collect()
    }

    /// Kills a primary, without a word to the others.
    pub fn kill_a_primary(&mut self) {
        let is_primary = |port: &u16| cli(*port, &["INFO", "replication"]).is_some_and(|info| info.contains("role:master"));
        let place = self.ports.iter().position(is_primary).unwrap();
        self.children[place].kill().unwrap();
        self.children[place].wait().unwrap();
    }

    fn join(&self) {
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]);
        create.args(self.ports.iter().map(|port| format!("127.0.0.1:{port}")));
        create.args(["--cluster-replicas", "1", "--cluster-yes"]);
        let output = create.output().unwrap();
        assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        for port in &self.ports {
            wait_until("a cluster node sees every slot", || {
                cli(*port, &["CLUSTER", "INFO"])
                    .is_some_and(|info| info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:6"))
            });
            wait_until("a replica is in step", || {
                cli(*port, &["INFO", "replication"])
                    .is_some_and(|info| info.contains("role:master") || info.contains("master_link_status:up"))
            });
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// A free port whose cluster bus port (10000 above) is free too.
fn free_port_with_bus() -> u16 {
    static TAKEN: OnceLock<std::sync::Mutex<Vec<u16>>> = OnceLock::new();
    let mut taken = TAKEN.get_or_init(Default::default).lock().unwrap();
    loop {
        let port = 20_000 + free_port() % 20_000;
        let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if !taken.contains(&port) && free(port) && free(port + 10_000) {
            taken.push(port);
            return port;
        }
    }
}

fn spawn(folder: &Path, arguments: &[String]) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--daemonize", "no", "--dir"]).arg(folder).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("these tests need redis-server and redis-cli (Debian: redis-server, redis-tools)")
}

fn cli(port: u16, arguments: &[&str]) -> Option<String> {
    let output = Command::new("redis-cli").args(["-h", "127.0.0.1", "-p", &port.to_string()]).args(arguments).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let began = Instant::now();
    while !ready() {
        assert!(began.elapsed() < READY, "after {READY:?} it is not so that {what}");
        sleep(Duration::from_millis(20));
    }
}

fn write_certificates(folder: &Path) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "test redis ca");
    fs::write(folder.join("ca.pem"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    fs::write(folder.join("server.pem"), leaf.pem()).unwrap();
    fs::write(folder.join("server.key"), key.serialize_pem()).unwrap();
}

fn sha256_hex(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
