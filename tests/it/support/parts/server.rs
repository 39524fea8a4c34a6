//! A server that is not ours: a free port of 127.0.0.1, a folder, a log, and an end.

use std::{
    fmt::{Debug, Formatter},
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use super::{Process, START_TIMEOUT, free_port, wait_until};

/// A running server; it ends with this value. When a test fails while it holds one, the server's log goes to standard error.
pub struct Server {
    name: &'static str,
    port: u16,
    folder: TempDir,
    process: Process,
}

impl Server {
    /// Starts it: `command` for a port and the server's own folder, and again with another port when another process was quicker.
    /// Waits until it is ready by `is_ready`, [`START_TIMEOUT`] at most.
    pub fn start(name: &'static str, command: impl Fn(u16, &Path) -> Command, is_ready: impl Fn(u16) -> bool) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        for _ in 0..5 {
            let port = free_port();
            let mut command = command(port, folder.path());
            let log = File::create(log_of(folder.path())).expect("a temporary file can be made");
            command.stdout(log.try_clone().expect("a file can be opened twice")).stderr(log).current_dir(folder.path());
            let mut process = Process::start(command.stdin(Stdio::null()));
            let ready = wait_until(START_TIMEOUT, name, || match process.has_ended() {
                true => Some(false),
                false => is_ready(port).then_some(true),
            });
            if ready && !process.has_ended() {
                return Self { name, port, folder, process };
            }
        }
        panic!("{name} does not start: {}", fs::read_to_string(log_of(folder.path())).unwrap_or_default());
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(log_of(self.folder())).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let ended = if self.process.has_ended() { ", which has ended by itself" } else { "" };
            let log = self.log();
            let last: Vec<_> = log.lines().rev().take(20).collect();
            eprintln!("--- the end of the log of {}{ended}:", self.name);
            last.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

impl Debug for Server {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on port {}", self.name, self.port)
    }
}

/// The status that a plain GET on 127.0.0.1 is answered with; none when nothing answers.
pub fn http_status(port: u16, path: &str) -> Option<u16> {
    let patience = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), patience).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n").ok()?;
    let mut start = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut start).ok()?;
    str::from_utf8(&start).ok()?.rsplit(' ').next()?.parse().ok()
}

fn log_of(folder: &Path) -> std::path::PathBuf {
    folder.join("server.log")
}
