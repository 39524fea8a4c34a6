//! The docker CLI and skopeo, as a user runs them: with a home, a configuration and credential helpers of their own.
//!
//! No Docker daemon is there, and none is needed: the CLI logs in and out by itself, and `docker manifest` reads and pushes. skopeo
//! pushes and pulls whole images.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::json;
use tempfile::TempDir;

use super::{Ran, run, tool};

/// A user of container tools.
#[derive(Debug)]
pub struct ContainerUser {
    home: TempDir,
    environment: Vec<(String, String)>,
}

impl ContainerUser {
    /// One who is logged in nowhere.
    pub fn new() -> Self {
        let home = tempfile::tempdir().expect("a temporary folder can be made");
        for folder in ["bin", "docker"] {
            fs::create_dir(home.path().join(folder)).expect("the test's folder can be written");
        }
        Self { home, environment: Vec::new() }
    }

    /// Where credential helpers are found: first on `PATH`.
    pub fn bin(&self) -> PathBuf {
        self.home.path().join("bin")
    }

    /// `config.json`: logins and credential helpers, for both tools.
    pub fn configuration(&self) -> PathBuf {
        self.home.path().join("docker/config.json")
    }

    /// Sets a variable of all that run from now on, the credential helpers included.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.push((name.into(), value.into()));
    }

    /// `docker ARGUMENTS…`
    pub fn docker(&self, arguments: &[&str]) -> Ran {
        run(self.command(tool("docker")).args(arguments))
    }

    /// `docker login`, the secret on standard input.
    pub fn docker_login(&self, host: &str, user: &str, secret: &str) -> Ran {
        let mut command = self.command(tool("docker"));
        command.args(["login", "--username", user, "--password-stdin", host]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("docker runs");
        let mut input = child.stdin.take().expect("its standard input is piped");
        input.write_all(secret.as_bytes()).expect("docker reads its standard input");
        drop(input);
        child.wait_with_output().expect("docker ends").into()
    }

    /// Pushes a manifest list called `list` that holds an image of the registry: a push that needs no daemon.
    pub fn docker_push_list(&self, list: &str, image: &str) -> Ran {
        let made = self.docker(&["manifest", "create", "--insecure", list, image]);
        if made.ok { self.docker(&["manifest", "push", "--purge", "--insecure", list]) } else { made }
    }

    /// `skopeo ARGUMENTS…`
    pub fn skopeo(&self, arguments: &[&str]) -> Ran {
        run(self.command("skopeo".into()).args(arguments))
    }

    /// Pushes an image by skopeo, with a user and a secret or with what the configuration says.
    pub fn skopeo_push(&self, image: &Image, reference: &str, login: Option<(&str, &str)>) -> Ran {
        let (source, target) = (format!("dir:{}", image.folder().display()), format!("docker://{reference}"));
        let login = login.map(|(user, secret)| format!("--dest-creds={user}:{secret}"));
        let mut arguments = vec!["copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"];
        arguments.extend(login.as_deref());
        arguments.extend([source.as_str(), &target]);
        self.skopeo(&arguments)
    }

    /// Pulls an image by skopeo.
    pub fn skopeo_pull(&self, reference: &str, login: Option<(&str, &str)>) -> Ran {
        let target = tempfile::tempdir_in(self.home.path()).expect("the test's folder can be written");
        let (source, target) = (format!("docker://{reference}"), format!("dir:{}", target.path().display()));
        let login = login.map(|(user, secret)| format!("--src-creds={user}:{secret}"));
        let mut arguments = vec!["copy", "--quiet", "--src-tls-verify=false"];
        arguments.extend(login.as_deref());
        arguments.extend([source.as_str(), &target]);
        self.skopeo(&arguments)
    }

    /// Any program in this user's environment.
    pub fn command(&self, program: PathBuf) -> Command {
        let home = self.home.path();
        let mut command = Command::new(program);
        command.env_clear().env("PATH", format!("{}:/usr/bin:/bin", self.bin().display())).env("HOME", home);
        command.env("DOCKER_CONFIG", home.join("docker")).env("DOCKER_HOST", "unix:///nonexistent");
        // As root, skopeo would share a cache in /var/lib with all others.
        command.env("_CONTAINERS_ROOTLESS_UID", "1000").env("XDG_DATA_HOME", home).env("XDG_RUNTIME_DIR", home);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// A tiny image that no other is like, in the folder layout (`dir:`) of skopeo.
///
/// Its manifest is Docker's own, down to the blanks: the docker CLI writes a manifest anew before it pushes it, and the digest must
/// stay the same.
#[derive(Debug)]
pub struct Image(TempDir);

impl Image {
    /// Makes one.
    pub fn new() -> Self {
        let image = Self(tempfile::tempdir().expect("a temporary folder can be made"));
        let layer = tar("hello.txt", image.folder().as_os_str().as_encoded_bytes());
        let (layer_digest, layer_size) = image.put(&layer);
        let rootfs = json!({"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]});
        let configuration = json!({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).to_string();
        let (configuration_digest, configuration_size) = image.put(configuration.as_bytes());
        let manifest = format!(
            r#"{{
   "schemaVersion": 2,
   "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
   "config": {{
      "mediaType": "application/vnd.docker.container.image.v1+json",
      "size": {configuration_size},
      "digest": "sha256:{configuration_digest}"
   }},
   "layers": [
      {{
         "mediaType": "application/vnd.docker.image.rootfs.diff.tar",
         "size": {layer_size},
         "digest": "sha256:{layer_digest}"
      }}
   ]
}}"#
        );
        image.write("manifest.json", manifest.as_bytes());
        image.write("version", b"Directory Transport Version: 1.1\n");
        image
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    fn put(&self, blob: &[u8]) -> (String, usize) {
        let name: String = digest(&SHA256, blob).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        self.write(&name, blob);
        (name, blob.len())
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.folder().join(name), content).expect("the test's folder can be written");
    }
}

/// A tar archive (POSIX ustar) of one small file.
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 512;
    assert!(content.len() <= BLOCK && name.len() < 100);
    let mut header = [0_u8; BLOCK];
    let mut set = |at: usize, field: &[u8]| header[at..at + field.len()].copy_from_slice(field);
    set(0, name.as_bytes());
    set(100, b"0000644\0");
    set(108, b"0000000\0");
    set(116, b"0000000\0");
    set(124, format!("{:011o}\0", content.len()).as_bytes());
    set(136, b"00000000000\0");
    set(148, b"        "); // The checksum is taken with blanks in its own place.
    set(156, b"0");
    set(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend(content);
    archive.resize(4 * BLOCK, 0);
    archive
}
