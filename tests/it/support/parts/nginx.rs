//! nginx as a relying party, which admits clients by certificate and refuses those on a CRL; and as what shows a certificate out of
//! files that somebody else keeps fresh.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{
    Process, Ran, START_TIMEOUT, free_port,
    openssl::{Ca, Pair},
    run, wait_until,
};

/// A running nginx with `ssl_verify_client on`.
#[derive(Debug)]
pub struct Nginx {
    port: u16,
    server_ca: Ca,
    dir: TempDir,
    _process: Process,
}

impl Nginx {
    /// Starts it. `trusted` has the CA certificates of the clients up to the root, `crls` a CRL of each of these CAs when clients
    /// may be revoked; both PEM. It reads them once: start another for a newer CRL.
    pub fn start(trusted: &str, crls: Option<&str>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let server_ca = Ca::new(dir.path(), "server");
        let server = server_ca.leaf("localhost", &["DNS:localhost", "IP:127.0.0.1"], "serverAuth", 1);
        fs::write(dir.path().join("trusted.pem"), trusted).expect("a temporary file can be written");
        if let Some(crls) = crls {
            fs::write(dir.path().join("crls.pem"), crls).expect("a temporary file can be written");
        }
        let crl = if crls.is_some() { "ssl_crl crls.pem;" } else { "" };
        let shows = shows(&server.cert, &server.key);
        let tls = format!("{shows} ssl_client_certificate trusted.pem; ssl_verify_client on; ssl_verify_depth 4; {crl}");
        // One process, no worker: killing it leaves nothing behind.
        let (port, process) = start(dir.path(), |port| configuration("master_process off;", port, &tls));
        Self { port, server_ca, dir, _process: process }
    }

    /// The HTTP status that a client with this certificate (PEM: leaf and chain) and key gets: 200 when it is admitted, 400 when
    /// its certificate is refused.
    pub fn get_with_client_cert(&self, cert: &Path, key: &Path) -> u16 {
        let url = format!("https://localhost:{}/", self.port);
        let (cert, key, ca) = (cert.display().to_string(), key.display().to_string(), self.server_ca.cert.display().to_string());
        let ran = curl(&["--cacert", &ca, "--cert", &cert, "--key", &key, "-o", "/dev/null", "-w", "%{http_code}", &url]);
        let status = ran.text().parse().unwrap_or(0);
        assert_ne!(status, 0, "no answer from nginx: {}{}", ran.all(), error_log(self.dir.path()));
        status
    }
}

/// A running nginx that shows the certificate of files which it reads at its start and at each reload.
#[derive(Debug)]
pub struct NginxServer {
    port: u16,
    dir: TempDir,
    process: Process,
}

impl NginxServer {
    /// Starts it on files that are there: PEM, the leaf and its chain, and the key.
    pub fn start(cert: &Path, key: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let tls = shows(cert, key);
        // A single process does not survive a reload whole: it forgets that its port speaks TLS.
        let (port, process) = start(dir.path(), |port| configuration("master_process on; worker_processes 1;", port, &tls));
        Self { port, dir, process }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What makes it read its files again, as a hook runs it: a program and its arguments.
    pub fn reload_command(&self) -> Vec<String> {
        let dir = self.dir.path().display().to_string();
        ["/usr/sbin/nginx", "-p", &dir, "-e", "error.log", "-c", "nginx.conf", "-s", "reload"].map(str::to_owned).into()
    }

    /// The file with its process id: SIGHUP does the same.
    pub fn pid_file(&self) -> PathBuf {
        self.dir.path().join("nginx.pid")
    }
}

impl Drop for NginxServer {
    fn drop(&mut self) {
        // Killed, it would leave its worker behind.
        run(Command::new("kill").arg(self.process.child().id().to_string()));
        let asked = Instant::now();
        while !self.process.has_ended() && asked.elapsed() < START_TIMEOUT {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Runs curl without any proxy, for at most 10 s; `--show-error` is on.
pub fn curl(args: &[&str]) -> Ran {
    run(Command::new("curl").args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "10"]).args(args))
}

/// Starts nginx on a free port. Another process may take the port first: then nginx ends, and the next port is tried.
fn start(dir: &Path, configuration: impl Fn(u16) -> String) -> (u16, Process) {
    for _ in 0..5 {
        let port = free_port();
        fs::write(dir.join("nginx.conf"), configuration(port)).expect("a temporary file can be written");
        if let Some(process) = serve(dir) {
            return (port, process);
        }
    }
    panic!("nginx does not start: {}", error_log(dir));
}

/// Starts nginx and waits until it listens; none when it ends by itself.
fn serve(dir: &Path) -> Option<Process> {
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-p").arg(dir).args(["-e", "error.log", "-c", "nginx.conf"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = Process::start(&mut command);
    let id = process.child().id().to_string();
    let listens = wait_until(START_TIMEOUT, "nginx listens", || {
        // It binds its port first, and writes its id after.
        let bound = fs::read_to_string(dir.join("nginx.pid")).is_ok_and(|pid| pid.trim() == id);
        (bound || process.has_ended()).then_some(bound)
    });
    listens.then_some(process)
}

fn error_log(dir: &Path) -> String {
    fs::read_to_string(dir.join("error.log")).unwrap_or_default()
}

fn shows(cert: &Path, key: &Path) -> String {
    format!("ssl_certificate {}; ssl_certificate_key {};", cert.display(), key.display())
}

fn configuration(processes: &str, port: u16, tls: &str) -> String {
    format!(
        "daemon off;
        {processes}
        pid nginx.pid;
        error_log error.log info;
        events {{ worker_connections 64; }}
        http {{
            access_log off;
            client_body_temp_path tmp_body;
            proxy_temp_path tmp_proxy;
            fastcgi_temp_path tmp_fastcgi;
            uwsgi_temp_path tmp_uwsgi;
            scgi_temp_path tmp_scgi;
            server {{
                listen 127.0.0.1:{port} ssl;
                {tls}
                location / {{ return 200 $ssl_client_s_dn; }}
            }}
        }}"
    )
}

#[test]
fn admits_and_refuses_by_certificate_and_crl() {
    let dir = tempfile::tempdir().expect("a folder");
    let (ca, stranger) = (Ca::new(dir.path(), "ca"), Ca::new(dir.path(), "stranger"));
    let [agent, revoked] = ["agent", "revoked"].map(|name| ca.client(name, &[]));
    let unknown = stranger.client("agent", &[]);
    ca.revoke(&revoked.cert);
    let text = |path: &Path| fs::read_to_string(path).expect("a file of the test's own can be read");

    let nginx = Nginx::start(&text(&ca.cert), Some(&text(&ca.crl())));
    let status = |pair: &Pair| nginx.get_with_client_cert(&pair.cert, &pair.key);
    assert_eq!((status(&agent), status(&revoked), status(&unknown)), (200, 400, 400));

    let without = Nginx::start(&text(&ca.cert), None);
    assert_eq!(without.get_with_client_cert(&revoked.cert, &revoked.key), 200, "it is the CRL that made the difference");
}

#[test]
fn shows_another_certificate_after_a_reload() {
    use super::handshakes::{Handshakes, Server, client};

    let dir = tempfile::tempdir().expect("a folder");
    let ca = Ca::new(dir.path(), "ca");
    let [first, second] = ["first", "second"].map(|name| ca.leaf(name, &["DNS:localhost"], "serverAuth", 1));
    let (cert, key) = (dir.path().join("shown.pem"), dir.path().join("shown.key"));
    let show = |pair: &Pair| {
        fs::copy(&pair.cert, &cert).expect("a file of the test's own can be written");
        fs::copy(&pair.key, &key).expect("a file of the test's own can be written");
    };
    show(&first);
    let nginx = NginxServer::start(&cert, &key);
    let (server, trusting) = (Server::localhost(nginx.port()), client(&ca.cert, None));
    let leaf = || server.shake(trusting.clone()).expect("a handshake").leaf;
    let before = leaf();
    show(&second);
    assert_eq!(leaf(), before, "it reads them once");

    let load = Handshakes::start(&server, 2, {
        let trusting = trusting.clone();
        move || trusting.clone()
    });
    let command = nginx.reload_command();
    let ran = run(Command::new(&command[0]).args(&command[1..]));
    assert!(ran.ok, "{}", ran.all());
    wait_until(START_TIMEOUT, "it shows the second", || (leaf() != before).then_some(()));
    show(&first);
    let pid = fs::read_to_string(nginx.pid_file()).expect("it writes its process id");
    assert!(run(Command::new("kill").args(["-HUP", pid.trim()])).ok);
    wait_until(START_TIMEOUT, "it shows the first again", || (leaf() == before).then_some(()));
    let tally = load.end();
    assert_eq!((tally.failed, tally.failures, tally.done.len()), (0, vec![], 2));
}
