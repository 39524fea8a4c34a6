//! The watcher: a second process of ours that outlives the first.
//!
//! `exec` tells it of each lease before the command sees it. When `exec` ends without having said that all is done, because it was
//! killed, the socket between them closes, and the watcher ends the command, revokes the leases and removes the directory. It sits
//! in a session of its own, so that what is sent to the group of `exec`, or typed at its terminal, does not reach it.

use std::{
    ffi::OsString,
    io::{self, BufRead, BufReader, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use super::{command, dir, server::Server};
use crate::{
    cli::{
        block_on,
        exit::{Exit, Outcome},
        output,
    },
    client::{
        Client,
        error::{Error, Kind, Result},
        types::Lease,
    },
};

/// The hidden command.
pub const WATCH: &str = "exec-watch";

/// How long the watcher may take to say that it knows.
const ACKNOWLEDGED: Duration = Duration::from_secs(10);

/// How long the watcher may take to end.
const ENDED: Duration = Duration::from_secs(2);

/// How long the watcher tries to revoke what is left.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The wait between its tries.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest note, in bytes.
const MAX_NOTE: u64 = 16 * 1024;

/// What the watcher is told.
#[derive(Debug, Serialize, Deserialize)]
enum Note {
    /// The directory to remove.
    Dir(PathBuf),
    /// A lease to revoke.
    Lease(String),
    /// The command, by its process id, and whether it leads a group of its own.
    Command { pid: i32, group: bool },
    /// Nothing is left to do.
    Done,
}

/// The watcher, as `exec` holds it.
pub struct Watcher {
    process: Child,
    socket: UnixStream,
}

impl Watcher {
    /// Starts it, and tells it of the directory.
    pub async fn start(server: &Server, dir: &std::path::Path) -> Result<Self> {
        let (ours, theirs) = StdStream::pair().map_err(|error| fault(&error))?;
        ours.set_nonblocking(true).map_err(|error| fault(&error))?;
        let program = std::env::current_exe().map_err(|error| fault(&error))?;
        let words = server.connection().words().into_iter().chain([OsString::from(WATCH)]);
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null());
        let process = command.spawn().map_err(|error| fault(&error))?;
        // The command holds the other end too: with it the socket would never close.
        drop(command);
        let socket = UnixStream::from_std(ours).map_err(|error| fault(&error))?;
        let mut watcher = Self { process, socket };
        watcher.tell(&Note::Dir(dir.to_owned())).await?;
        Ok(watcher)
    }

    /// Tells it of a lease.
    pub async fn lease(&mut self, lease: &Lease) -> Result<()> {
        self.tell(&Note::Lease(lease.id.clone())).await
    }

    /// Tells it of the command. It must not have been waited for yet, so that the number is still its own.
    pub async fn command(&mut self, pid: Pid, group: bool) -> Result<()> {
        self.tell(&Note::Command { pid: pid.as_raw_pid(), group }).await
    }

    /// Tells it that all is done, and sees it end.
    pub async fn dismiss(mut self) {
        // When it does not end it has died or hangs: the one is well, and of the other init takes care.
        if self.tell(&Note::Done).await.is_ok() {
            drop(timeout(ENDED, self.process.wait()).await);
        }
    }

    async fn tell(&mut self, note: &Note) -> Result<()> {
        let mut line = serde_json::to_vec(note).map_err(|error| fault(&error.into()))?;
        line.push(b'\n');
        let told = timeout(ACKNOWLEDGED, async {
            self.socket.write_all(&line).await?;
            self.socket.read_exact(&mut [0]).await
        });
        match told.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(fault(&error)),
            Err(_) => Err(fault(&io::ErrorKind::TimedOut.into())),
        }
    }
}

fn fault(error: &io::Error) -> Error {
    Error::new(Kind::Other, "SYSTEM", format!("the process that would revoke the leases if this one is killed does not work: {error}"))
}

/// The hidden command itself, on standard input.
pub fn serve(server: &Server) -> Outcome {
    // Alone in its group it cannot be, so this does not fail; if it does, the watcher works but for signals to the group.
    let _ = rustix::process::setsid();
    let socket: StdStream = io::stdin().as_fd().try_clone_to_owned().map_err(|error| fault(&error))?.into();
    // What is wrong with the settings is said by `exec`, which reads the same.
    let client = server.client()?;
    let mut charge = Charge::default();
    let mut lines = BufReader::new(&socket);
    loop {
        let mut line = String::new();
        // A broken socket is a closed one.
        let read = (&mut lines).take(MAX_NOTE).read_line(&mut line).unwrap_or(0);
        match serde_json::from_str(&line) {
            Ok(note) if read > 0 => {
                let done = matches!(note, Note::Done);
                charge.take(note);
                // Whether it is read does not matter: the note is known here.
                let _ = (&socket).write_all(b"+");
                if done {
                    return Ok(Exit::Done);
                }
            }
            _ => return charge.carry_out(server, client),
        }
    }
}

/// What the watcher answers for.
#[derive(Default)]
struct Charge {
    dir: Option<PathBuf>,
    leases: Vec<String>,
    command: Option<Watched>,
}

/// The command, by a handle that never means another process.
struct Watched {
    pid: Pid,
    group: bool,
    handle: OwnedFd,
}

impl Charge {
    fn take(&mut self, note: Note) {
        match note {
            Note::Dir(path) => self.dir = Some(path),
            Note::Lease(id) => self.leases.push(id),
            // Without a handle the command is left alone: its number may be another's one day.
            Note::Command { pid, group } => {
                self.command = Pid::from_raw(pid).and_then(|pid| Some(Watched { pid, group, handle: handle(pid)? }));
            }
            Note::Done => {}
        }
    }

    /// `exec` was killed: the command is told to end, its leases are revoked, its files go.
    fn carry_out(self, server: &Server, client: Client) -> Outcome {
        if let Some(command) = &self.command {
            command.end();
        }
        let left = block_on(revoke(self.leases.clone(), server, client))?;
        if let Some(dir) = &self.dir {
            dir::remove(dir);
        }
        match left.first() {
            None if self.leases.is_empty() => {}
            None => output::note("exec ended before its time; its leases are revoked", false),
            Some((_, error)) => {
                let ids: Vec<_> = left.iter().map(|(id, _)| id.as_str()).collect();
                output::note(&format!("warning: exec ended before its time, and these leases live on: {}: {error}", ids.join(", ")), false);
            }
        }
        Ok(if left.is_empty() { Exit::Done } else { Exit::Failed })
    }
}

impl Watched {
    /// Asks it to end; its credentials are about to.
    fn end(&self) {
        if send(&self.handle, Signal::TERM) && self.group {
            command::signal(self.pid, true, Signal::TERM);
        }
    }
}

/// Revokes what can be, again and again while it helps; gives what is left.
async fn revoke(mut leases: Vec<String>, server: &Server, mut client: Client) -> Vec<(String, Error)> {
    let deadline = Instant::now() + PATIENCE;
    // A token that was read now is fresher than that of the beginning, if it can still be read.
    if let Ok(newer) = server.client() {
        client = newer;
    }
    loop {
        let left = server.revoke(&leases, &mut client).await;
        let may_help = left.iter().any(|(_, error)| error.kind() == Kind::Unavailable);
        if !may_help || Instant::now() >= deadline {
            return left;
        }
        leases = left.into_iter().map(|(id, _)| id).collect();
        sleep(PAUSE).await;
    }
}

#[cfg(target_os = "linux")]
fn handle(pid: Pid) -> Option<OwnedFd> {
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

#[cfg(target_os = "linux")]
fn send(handle: &OwnedFd, signal: Signal) -> bool {
    rustix::process::pidfd_send_signal(handle, signal).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn handle(_: Pid) -> Option<OwnedFd> {
    None
}

#[cfg(not(target_os = "linux"))]
fn send(_: &OwnedFd, _: Signal) -> bool {
    false
}
