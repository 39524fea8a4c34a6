//! The command: how it is started, what reaches it, how it ended.

use std::{ffi::OsString, fs::File, io, os::unix::process::ExitStatusExt, process::ExitStatus};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use zeroize::Zeroizing;

use super::signals::Caught;
use crate::{
    cli::{exit::Exit, output},
    client::settings::plain,
};

/// The exit code when there is no such command (env(1)).
pub const NOT_FOUND: u8 = 127;

/// The exit code when it is there and cannot be run (env(1)).
pub const CANNOT_RUN: u8 = 126;

/// The running command.
pub struct Running {
    child: Child,
    pid: Pid,
    /// Whether it leads a process group of its own. With a terminal it does not: the terminal's job is all of us, so that it is
    /// stopped, continued and interrupted as a whole, by the kernel. Without one a signal to our group reaches it only through us.
    own_group: bool,
}

/// Starts it with our own standard streams; or says why not, and gives the exit code.
pub fn start(words: &[OsString], set: &[(String, Zeroizing<String>)], unset: &[&str]) -> Result<Running, Exit> {
    let (program, arguments) = words.split_first().ok_or(Exit::Usage)?;
    let own_group = !has_terminal();
    let mut command = Command::new(program);
    command.args(arguments);
    for name in unset {
        command.env_remove(name);
    }
    command.envs(set.iter().map(|(name, value)| (name, value.as_str())));
    if own_group {
        command.process_group(0);
    }
    let refuse = |error: &io::Error| {
        output::note(&format!("{}: {}", program.to_string_lossy(), why(error)), false);
        Exit::Command(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN })
    };
    let child = command.spawn().map_err(|error| refuse(&error))?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    match pid {
        Some(pid) => Ok(Running { child, pid, own_group }),
        None => Err(refuse(&io::Error::other("it has no process id"))),
    }
}

impl Running {
    /// Its process, and whether that leads a group of its own.
    pub fn process(&self) -> (Pid, bool) {
        (self.pid, self.own_group)
    }

    /// Passes a signal on, unless it has it already. What asks to end goes to its whole group, as it came to ours; what only tells
    /// something goes to the command alone.
    pub fn pass_on(&self, caught: Caught) {
        let has_it = !self.own_group && caught.sender.is_none();
        let sent_it = caught.sender == Some(self.pid.as_raw_pid());
        // Once it has been waited for, the number may be another's.
        if has_it || sent_it || self.child.id().is_none() {
            return;
        }
        signal(self.pid, self.own_group && caught.ends(), caught.signal);
    }

    /// Waits for its end. Dropping the future loses nothing.
    pub async fn end(&mut self) -> Exit {
        match self.child.wait().await {
            Ok(status) => exit_of(status),
            Err(error) => {
                output::note(&format!("the command's end cannot be seen: {error}"), false);
                Exit::Failed
            }
        }
    }
}

/// Sends a signal to a process or to the group that it leads. That it has gone meanwhile is no fault.
pub fn signal(pid: Pid, group: bool, signal: Signal) {
    let _gone = if group { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
}

/// Whether there is a controlling terminal.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

fn exit_of(status: ExitStatus) -> Exit {
    match (status.code().map(u8::try_from), status.signal()) {
        (Some(Ok(0)), _) => Exit::Done,
        (Some(Ok(code)), _) => Exit::Command(code),
        (None, Some(signal)) => Exit::signal(signal),
        _ => Exit::Failed,
    }
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such command".to_owned(),
        _ => format!("it cannot be run: {}", plain(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_is_the_commands() {
        assert_eq!(exit_of(ExitStatus::from_raw(0)), Exit::Done);
        assert_eq!(exit_of(ExitStatus::from_raw(7 << 8)).code(), 7);
        assert_eq!(exit_of(ExitStatus::from_raw(255 << 8)).code(), 255);
        assert_eq!(exit_of(ExitStatus::from_raw(15)).code(), 143);
        assert_eq!(exit_of(ExitStatus::from_raw(9)).code(), 137);
    }
}
