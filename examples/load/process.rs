//! Child processes that end with their value, and what Linux says of them.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::Result;

/// Linux counts CPU time for user space in hundredths of a second on every architecture (proc(5), `_SC_CLK_TCK`).
const TICKS_PER_SECOND: f64 = 100.0;

/// How long a process may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(25);

/// A server of this run.
pub struct Server {
    child: Child,
}

impl Server {
    /// Starts a program; what it says goes to a file.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        let program = command.get_program().display().to_string();
        Ok(Self { child: child.map_err(|error| format!("{program} does not start: {error}"))? })
    }

    /// CPU time so far, in seconds, of all its threads, user and system.
    pub fn cpu(&self) -> Result<f64> {
        cpu_of(&self.child.id().to_string())
    }

    /// Resident memory, in bytes.
    pub fn rss(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024)
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end, and waits.
    pub async fn stop(&mut self) -> Result<()> {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        let begun = Instant::now();
        while asked.success() && begun.elapsed() < GRACE {
            if self.has_ended() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Err(format!("the server did not end within {GRACE:?} of SIGTERM").into())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of this very process, in seconds.
pub fn own_cpu() -> Result<f64> {
    cpu_of("self")
}

/// Fields 14 and 15 of proc(5)'s stat; the program's name, field 2, may hold anything and ends at the last `)`.
fn cpu_of(pid: &str) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, after_name) = stat.rsplit_once(')').ok_or("no name in /proc stat")?;
    let mut fields = after_name.split_whitespace().skip(11);
    let mut next = || fields.next().and_then(|field| field.parse::<u32>().ok()).map(f64::from).ok_or("no CPU time in /proc stat");
    Ok((next()? + next()?) / TICKS_PER_SECOND)
}

/// The load average of the last minute.
pub fn load_average() -> Result<f64> {
    Ok(fs::read_to_string("/proc/loadavg")?.split(' ').next().ok_or("no load average")?.parse()?)
}
