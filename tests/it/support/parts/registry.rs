//! Debian's docker-registry 2.8.2 with token authentication: it verifies what a token server signs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;

use super::{
    nginx::curl,
    server::{Server, http_status},
};

/// Whose tokens a registry takes.
#[derive(Debug, Clone, Copy)]
pub struct TokenAuth<'a> {
    /// The URL of the token server; clients are sent there.
    pub realm: &'a str,
    /// The registry's name: the tokens' audience.
    pub service: &'a str,
    /// The tokens' issuer.
    pub issuer: &'a str,
    /// PEM of the CAs that the certificates in the tokens chain to. Read once, at the start.
    pub roots: &'a Path,
}

/// A running registry with nothing in it. Images may be deleted.
#[derive(Debug)]
pub struct Registry {
    server: Server,
    _configuration: tempfile::TempDir,
}

impl Registry {
    /// Starts one.
    pub fn start(auth: &TokenAuth<'_>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let file = folder.path().join("registry.yml");
        // JSON is YAML.
        let configuration = json!({
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": folder.path().join("storage")}, "delete": {"enabled": true}},
            "http": {"addr": "127.0.0.1:0"},
            "auth": {"token": {"realm": auth.realm, "service": auth.service, "issuer": auth.issuer, "rootcertbundle": auth.roots}},
        });
        fs::write(&file, configuration.to_string()).expect("a temporary file can be written");
        Self { server: serve(&file), _configuration: folder }
    }

    /// Starts one by a configuration file of somebody else's, but on a free port.
    pub fn from_file(file: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let copy: PathBuf = folder.path().join("registry.yml");
        fs::copy(file, &copy).expect("the configuration can be read");
        Self { server: serve(&copy), _configuration: folder }
    }

    /// `127.0.0.1:PORT`, as image references begin.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.server.port())
    }

    /// The HTTP status that a request for a path gets with a token.
    pub fn status(&self, method: &str, path: &str, token: &str) -> u16 {
        let (url, header) = (format!("http://{}{path}", self.host()), format!("Authorization: Bearer {token}"));
        let ran = curl(&["-X", method, "-H", &header, "-o", "/dev/null", "-w", "%{http_code}", &url]);
        ran.text().parse().unwrap_or_else(|_| panic!("no answer from the registry: {}", ran.all()))
    }

    /// The challenge of a request without a token.
    pub fn challenge(&self) -> String {
        let ran = curl(&["-D", "-", "-o", "/dev/null", &format!("http://{}/v2/", self.host())]);
        let challenge = ran.text().lines().find_map(|line| line.strip_prefix("Www-Authenticate: ").map(str::to_owned));
        challenge.unwrap_or_else(|| panic!("no challenge from the registry: {}", ran.all()))
    }
}

fn serve(file: &Path) -> Server {
    Server::start(
        "docker-registry",
        |port, _| {
            let mut command = Command::new("docker-registry");
            command.arg("serve").arg(file).env("REGISTRY_HTTP_ADDR", format!("127.0.0.1:{port}"));
            command.env("REGISTRY_LOG_LEVEL", "error").env("REGISTRY_LOG_ACCESSLOG_DISABLED", "true");
            command
        },
        |port| http_status(port, "/v2/") == Some(401),
    )
}
