//! A running `daypassd dev` in a folder of its own, and the client as its callers use it.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Mutex,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::parts::{START_TIMEOUT, free_port, openssl::Pair, run, wait_until};

/// How long a change of the configuration may take until it is in force.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A `daypassd dev`; it ends with this value.
pub struct World {
    folder: TempDir,
    /// Where gRPC listens, on 127.0.0.1.
    pub grpc: u16,
    /// Where HTTP listens, on 127.0.0.1.
    pub http: u16,
    store: Option<String>,
    /// What it is given besides, from its next start on.
    pub given: Given,
    daemon: Option<Child>,
    /// The token of the sample job that was taken last.
    taken: Mutex<String>,
}

/// What `daypassd dev` is given besides its folder, its ports and its store.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// Arguments.
    pub args: Vec<String>,
    /// Its environment.
    pub env: Vec<(&'static str, String)>,
}

/// Who speaks.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// A client certificate and its key.
    pub pair: Option<Pair>,
    /// A token.
    pub token: Option<String>,
}

/// What the client said, and how it ended.
#[derive(Debug)]
pub struct Said {
    /// Its exit code.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Said {
    /// Its answer as JSON; it must have succeeded.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The code and the message of an error that was asked for as JSON.
    pub fn error(&self) -> (String, String) {
        let json: Value = serde_json::from_str(&self.stderr).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"));
        let error = json["error"].as_object().unwrap_or_else(|| panic!("no error in {self:?}"));
        assert_eq!((json.as_object().unwrap().len(), error.len()), (1, 2), "{self:?}");
        let text = |name: &str| error[name].as_str().unwrap_or_else(|| panic!("no {name} in {self:?}")).to_owned();
        (text("code"), text("message"))
    }

    /// Its error for people: one line.
    pub fn line(&self) -> &str {
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        self.stderr.trim_end()
    }
}

impl World {
    /// With the embedded store.
    pub fn start() -> Self {
        Self::with_store(None)
    }

    /// With a Redis.
    pub fn on_redis(url: &str) -> Self {
        Self::with_store(Some(url.to_owned()))
    }

    /// With arguments and an environment, and the URL of a Redis or the embedded store.
    pub fn with(given: Given, store: Option<String>) -> Self {
        Self::new(tempfile::tempdir().expect("a temporary folder can be made"), store, given)
    }

    fn with_store(store: Option<String>) -> Self {
        Self::in_folder(tempfile::tempdir().expect("a temporary folder can be made"), store)
    }

    /// In a folder that may hold something already.
    pub fn in_folder(folder: TempDir, store: Option<String>) -> Self {
        Self::new(folder, store, Given::default())
    }

    fn new(folder: TempDir, store: Option<String>, given: Given) -> Self {
        let mut world = Self { folder, grpc: 0, http: 0, store, given, daemon: None, taken: Mutex::default() };
        // Another process may take a port between our look and the server's: then it ends, and others are tried.
        for _ in 0..5 {
            (world.grpc, world.http) = (free_port(), free_port());
            if world.try_start("/readyz") {
                return world;
            }
        }
        panic!("daypassd does not start: {}", world.log());
    }

    /// The folder of `daypassd dev`.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// One of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// A file's text.
    pub fn read(&self, name: &str) -> String {
        let path = self.file(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// What the server wrote to standard error since the folder was made.
    pub fn log(&self) -> String {
        fs::read_to_string(self.file("daypassd.stderr")).unwrap_or_default()
    }

    /// What it wrote to standard output.
    pub fn greeting(&self) -> String {
        self.read("daypassd.stdout")
    }

    /// Starts it again after [`Self::stop`] or [`Self::kill`], on the same ports.
    pub fn start_again(&mut self) {
        self.start_until("/readyz");
    }

    /// The same while something that it needs is away: it lives, and is not ready.
    pub fn start_unready(&mut self) {
        self.start_until("/healthz");
    }

    fn start_until(&mut self, path: &str) {
        for _ in 0..5 {
            if self.try_start(path) {
                return;
            }
        }
        panic!("daypassd does not start again: {}", self.log());
    }

    /// Whether it runs and answers with 200 at a path of its HTTP port; it may also end by itself.
    fn try_start(&mut self, path: &str) -> bool {
        assert!(self.daemon.is_none(), "it runs already");
        let address = |port: u16| format!("127.0.0.1:{port}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_daypassd"));
        command.arg("dev").arg("--dir").arg(self.dir());
        command.args(["--grpc", &address(self.grpc), "--http", &address(self.http)]);
        if let Some(store) = &self.store {
            command.args(["--store", store]);
        }
        let log = |name: &str| {
            let open = File::options().create(true).append(true).open(self.file(name));
            Stdio::from(open.expect("the test's folder can be written"))
        };
        command.args(&self.given.args).env_clear().envs(self.given.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log("daypassd.stdout")).stderr(log("daypassd.stderr"));
        // In its place before it is waited for: a test that gives up takes it along.
        self.daemon = Some(command.spawn().expect("cargo has built daypassd"));
        let up = wait_until(START_TIMEOUT, "daypassd starts", || match self.daemon.as_mut()?.try_wait() {
            Ok(None) => self.get(path).is_some_and(|(status, _)| status == 200).then_some(true),
            _ => Some(false),
        });
        if !up {
            self.daemon = None;
        }
        up
    }

    /// Whether it says that it can do its work.
    pub fn is_ready(&self) -> bool {
        self.get("/readyz").is_some_and(|(status, _)| status == 200)
    }

    /// Waits until readiness is as wanted, and tells what `/readyz` says then.
    pub fn wait_ready(&self, ready: bool, patience: Duration) -> String {
        wait_until(patience, &format!("/readyz says {ready}"), || {
            let (status, body) = self.get("/readyz")?;
            ((status == 200) == ready).then(|| String::from_utf8_lossy(&body).into_owned())
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("it runs").id()
    }

    /// Sends it a signal, by the name that `kill` knows.
    pub fn signal(&self, name: &str) {
        let ran = run(Command::new("kill").args([format!("-{name}"), self.pid().to_string()]));
        assert!(ran.ok, "{}", ran.all());
    }

    /// Tells it to stop, and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait_end(Duration::from_secs(30))
    }

    /// Waits until it has ended by itself.
    pub fn wait_end(&mut self, patience: Duration) -> ExitStatus {
        let mut child = self.daemon.take().expect("it runs");
        wait_until(patience, "daypassd ends", || child.try_wait().expect("its end can be awaited"))
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks the HTTP port; none when it does not answer.
    pub fn get(&self, path: &str) -> Option<(u16, Vec<u8>)> {
        let mut tcp = TcpStream::connect(("127.0.0.1", self.http)).ok()?;
        tcp.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(tcp, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = Vec::new();
        tcp.read_to_end(&mut answer).ok()?;
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
        let status = String::from_utf8_lossy(&answer[..head]).split(' ').nth(1)?.parse().ok()?;
        Some((status, answer.split_off(head + 4)))
    }

    /// What the HTTP port serves there.
    pub fn fetch(&self, path: &str) -> Vec<u8> {
        let (status, body) = self.get(path).unwrap_or_else(|| panic!("no answer to {path}: {}", self.log()));
        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
        body
    }

    /// Its metrics.
    pub fn metrics(&self) -> String {
        String::from_utf8(self.fetch("/metrics")).expect("metrics are text")
    }

    /// Changes one of its files; `from` must stand there.
    pub fn edit(&self, name: &str, from: &str, to: &str) {
        let before = self.read(name);
        assert!(before.contains(from), "{name} has no {from:?}:\n{before}");
        self.write(name, &before.replacen(from, to, 1));
    }

    /// Adds to the end of one of its files.
    pub fn append(&self, name: &str, text: &str) {
        self.write(name, &format!("{}\n{text}", self.read(name)));
    }

    /// Sets limits of the server, for its next start.
    pub fn limit(&self, lines: &str) {
        self.edit("daypass.toml", "key = \"pki/server.key\"\n", &format!("key = \"pki/server.key\"\n\n[server.limits]\n{lines}\n"));
    }

    /// Replaces one of its files.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).expect("the test's folder can be written");
    }

    /// Changes its files while it stands still, so that it sees all of it or nothing, and waits until it has taken the change
    /// up by itself (`done`) or refused it (`failed`); gives the record.
    pub fn reload(&self, outcome: &str, change: impl FnOnce(&Self)) -> Value {
        let records = || self.reloads().into_iter().filter(|record| record["outcome"] == outcome);
        let before = records().count();
        self.signal("STOP");
        change(self);
        self.signal("CONT");
        wait_until(RELOAD_TIMEOUT, &format!("a reload that is {outcome}"), || records().nth(before))
    }

    /// The same when nothing but success makes sense.
    pub fn reconfigure(&self, change: impl FnOnce(&Self)) {
        self.reload("done", change);
    }

    /// The records of reloads.
    pub fn reloads(&self) -> Vec<Value> {
        self.records().into_iter().filter(|record| record["method"] == "config/reload").collect()
    }

    /// Every whole record of the audit log, as it lies on disk.
    pub fn records(&self) -> Vec<Value> {
        let lines: Vec<String> = self.segments().iter().map(|path| fs::read_to_string(path).expect("the audit log is text")).collect();
        let parse = |line: &str| serde_json::from_str(line).ok();
        lines.iter().flat_map(|text| text.split_inclusive('\n').filter(|line| line.ends_with('\n')).filter_map(parse)).collect()
    }

    /// The files of the audit log, oldest first.
    pub fn segments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.file("audit")).expect("there is an audit log");
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder can be listed").path()).collect();
        paths.retain(|path| path.extension() == Some(OsStr::new("jsonl")));
        paths.sort();
        paths
    }

    /// The operator of the throwaway world.
    pub fn operator(&self) -> Caller {
        Caller::files(self.file("operator.pem"), self.file("operator.key"))
    }

    /// Its vendor.
    pub fn vendor(&self) -> Caller {
        Caller::files(self.file("vendor.pem"), self.file("vendor.key"))
    }

    /// Its sample job, with a token that nobody had before.
    pub fn job(&self) -> Caller {
        Caller::token(self.job_token())
    }

    /// A token of the sample job that nobody had before.
    pub fn job_token(&self) -> String {
        let mut taken = self.taken.lock().expect("a test that panicked has failed already");
        *taken = wait_until(RELOAD_TIMEOUT, "job.jwt is fresh", || {
            let token = self.read("job.jwt").trim().to_owned();
            (token != *taken).then_some(token)
        });
        taken.clone()
    }

    /// Runs the client.
    pub fn cli<S: AsRef<OsStr>>(&self, caller: &Caller, args: impl IntoIterator<Item = S>) -> Said {
        let ran = run(self.command(caller).args(args));
        Said { code: ran.code.expect("the client is not killed"), stdout: ran.text(), stderr: ran.stderr }
    }

    /// The client, about to be run.
    pub fn command(&self, caller: &Caller) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_daypass"));
        command.env_clear().current_dir(self.dir());
        command.env("DAYPASS_ADDR", format!("127.0.0.1:{}", self.grpc)).env("DAYPASS_CA", self.file("ca.pem"));
        if let Some(Pair { cert, key }) = &caller.pair {
            command.env("DAYPASS_CERT", cert).env("DAYPASS_KEY", key);
        }
        if let Some(token) = &caller.token {
            command.env("DAYPASS_TOKEN", token);
        }
        command
    }

    /// `issue ROLE --out DIR -o json`: the answer, and the files as a pair.
    pub fn issue(&self, caller: &Caller, role: &str, out: &str) -> (Value, Pair) {
        let out = self.file(out);
        let said = self.cli(caller, ["issue", role, "-o", "json", "--out", &out.display().to_string()]);
        (said.json(), Pair { cert: out.join("tls.crt"), key: out.join("tls.key") })
    }

    /// The id of a new lease.
    pub fn lease(&self, caller: &Caller, role: &str) -> String {
        let said = self.cli(caller, ["issue", role, "-o", "json"]);
        said.json()["lease"]["id"].as_str().expect("a lease has an id").to_owned()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(4000);
            eprintln!("the end of daypassd's log:\n{}", log.get(from..).unwrap_or(&log));
        }
    }
}

impl Caller {
    /// Nobody.
    pub fn nobody() -> Self {
        Self::default()
    }

    /// Who holds a certificate and its key.
    pub fn files(cert: PathBuf, key: PathBuf) -> Self {
        Self::pair(Pair { cert, key })
    }

    /// The same.
    pub fn pair(pair: Pair) -> Self {
        Self { pair: Some(pair), token: None }
    }

    /// Who holds a token.
    pub fn token(token: impl Into<String>) -> Self {
        Self { pair: None, token: Some(token.into()) }
    }

    /// The same caller with a token beside its certificate.
    pub fn beside(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }
}
