//! nginx as a relying party: it admits clients by certificate, and refuses those on a CRL.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
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
        // Another process may take the port first: then nginx ends, and the next port is tried.
        for _ in 0..5 {
            let port = free_port();
            fs::write(dir.path().join("nginx.conf"), configuration(port, &server, crls.is_some()))
                .expect("a temporary file can be written");
            if let Some(process) = serve(dir.path()) {
                return Self { port, server_ca, dir, _process: process };
            }
        }
        panic!("nginx does not start: {}", error_log(dir.path()));
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

/// Runs curl without any proxy, for at most 10 s; `--show-error` is on.
pub fn curl(args: &[&str]) -> Ran {
    run(Command::new("curl").args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "10"]).args(args))
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

fn configuration(port: u16, server: &Pair, with_crls: bool) -> String {
    let crl = if with_crls { "ssl_crl crls.pem;" } else { "" };
    let (cert, key) = (server.cert.display(), server.key.display());
    // One process, no worker: killing it leaves nothing behind.
    format!(
        "daemon off;
        master_process off;
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
                ssl_certificate {cert};
                ssl_certificate_key {key};
                ssl_client_certificate trusted.pem;
                ssl_verify_client on;
                ssl_verify_depth 4;
                {crl}
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
