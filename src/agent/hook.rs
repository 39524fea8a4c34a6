//! What is told after a change: a command that is run, or a process that gets a signal. It never holds a rotation up.
//!
//! Changes that come while a hook runs are one more run after it. That one is due is on disk before the files change, and until a run
//! succeeded: an agent that was killed in between runs it at its next start.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    os::unix::{fs::MetadataExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    fs::OFlags,
    io::Errno,
    process::{Pid, Signal, kill_process, kill_process_group},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    sync::watch,
    time::{sleep, timeout},
};

use super::{config::OnChange, over};
use crate::{
    client::{
        error::{Error, Kind, Result},
        settings::plain,
    },
    unix::files,
};

/// How much of each of a hook's two outputs is logged, in bytes; the rest is read and forgotten.
pub const MAX_OUTPUT: usize = 8 * 1024;

/// How often a hook is run for one change until it succeeds.
pub const TRIES: u32 = 3;

/// The pause before a hook is run again after a failure; it doubles.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// How long a hook that is told to end may take before it is killed.
pub const KILL_AFTER: Duration = Duration::from_secs(2);

/// How long a running hook may go on when the agent ends.
pub const STOP_GRACE: Duration = Duration::from_secs(5);

/// How long its output is waited for when it has ended: a child of its own may hold the other end.
const OUTPUT_GRACE: Duration = Duration::from_millis(500);

/// The largest pid file, in bytes.
const MAX_PID_FILE: u64 = 64;

/// What a hook must not inherit: it would speak for the agent (sd_notify(3)).
const NOT_INHERITED: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// The hook of one role.
#[derive(Debug)]
pub struct Hook {
    role: String,
    on_change: OnChange,
    /// Where the role's files are, for the command's environment.
    dir: Option<PathBuf>,
    marker: Marker,
    due: watch::Sender<u64>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With exit code 0, or the signal was sent.
    Done,
    /// With another exit code.
    Exit(i32),
    /// By a signal.
    Signal(i32),
    /// It took too long and was killed.
    TimedOut,
    /// It could not be started, or the signal not be sent: why.
    NotRun(String),
}

impl Outcome {
    /// As metrics have it.
    fn name(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Exit(_) | Self::Signal(_) => "failed",
            Self::TimedOut => "timeout",
            Self::NotRun(_) => "not_run",
        }
    }

    /// As shells have it.
    fn exit_code(&self) -> i32 {
        match self {
            Self::Done => 0,
            Self::Exit(code) => *code,
            Self::Signal(signal) => 128 + signal,
            Self::TimedOut => 124,
            Self::NotRun(_) => 127,
        }
    }
}

impl Hook {
    /// The hook of a role. `markers` is a directory of the agent's own, where it stands that a run is due.
    ///
    /// # Errors
    /// What the disk says.
    pub fn new(role: &str, on_change: OnChange, dir: Option<PathBuf>, markers: &Path) -> Result<Self> {
        let marker = Marker::open(markers, role)?;
        let due = watch::Sender::new(u64::from(marker.is_set()));
        Ok(Self { role: role.to_owned(), on_change, dir, marker, due })
    }

    /// Says on disk that a run is due: before what it tells of is in force.
    ///
    /// # Errors
    /// What the disk says.
    pub fn mark(&self) -> Result<()> {
        self.marker.set()
    }

    /// Lets it run, now or after the run that is under way.
    pub fn ring(&self) {
        self.due.send_modify(|due| *due += 1);
    }

    /// The same where a run is due by the disk: whoever marked it may not have come to [`Self::ring`].
    pub fn ring_if_due(&self) {
        if self.marker.is_set() {
            self.ring();
        }
    }

    /// Runs it whenever it is due, until the agent ends.
    pub async fn keep(&self, mut shutdown: watch::Receiver<bool>) {
        let mut due = self.due.subscribe();
        // What an agent before us did not come to.
        if *due.borrow_and_update() > 0 {
            self.run(&mut shutdown).await;
        }
        loop {
            tokio::select! {
                changed = due.changed() => if changed.is_err() { return },
                () = over(&mut shutdown) => return,
            }
            due.borrow_and_update();
            self.run(&mut shutdown).await;
        }
    }

    /// Runs it until it succeeds, a few times at most.
    async fn run(&self, shutdown: &mut watch::Receiver<bool>) {
        let mut pause = FIRST_PAUSE;
        for again in (0..TRIES).rev() {
            let marked = self.marker.count();
            let begun = Instant::now();
            let outcome = self.run_once(shutdown).await;
            self.tell(&outcome, begun.elapsed());
            if outcome == Outcome::Done {
                self.marker.clear(marked);
                return;
            }
            if again > 0 {
                tokio::select! {
                    () = sleep(pause) => pause *= 2,
                    () = over(shutdown) => return,
                }
            }
        }
    }

    /// One run.
    async fn run_once(&self, shutdown: &mut watch::Receiver<bool>) -> Outcome {
        match &self.on_change {
            OnChange::Signal { signal, pid_file } => match send(*signal, pid_file) {
                Ok(()) => Outcome::Done,
                Err(why) => Outcome::NotRun(why),
            },
            OnChange::Command { words, timeout, env } => match self.start(words, env) {
                Ok(child) => self.attend(child, *timeout, shutdown).await,
                Err(why) => Outcome::NotRun(why),
            },
        }
    }

    fn start(&self, words: &[String], env: &BTreeMap<String, String>) -> Result<Child, String> {
        let (program, arguments) = words.split_first().ok_or("it names no program")?;
        let mut command = Command::new(program);
        command.args(arguments).env("DAYPASS_AGENT_ROLE", &self.role);
        if let Some(dir) = &self.dir {
            command.env("DAYPASS_AGENT_DIR", dir);
        }
        for name in NOT_INHERITED {
            command.env_remove(name);
        }
        command.envs(env).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, so that what it starts ends with it.
        command.process_group(0).kill_on_drop(true);
        command.spawn().map_err(|error| format!("{program} cannot be started: {}", plain(&error)))
    }

    /// Waits for its end, and sees to it.
    async fn attend(&self, mut child: Child, limit: Duration, shutdown: &mut watch::Receiver<bool>) -> Outcome {
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let outputs = [("stdout", child.stdout.take().map(boxed)), ("stderr", child.stderr.take().map(boxed))];
        let outputs = outputs.map(|(name, pipe)| (name, tokio::spawn(read(pipe))));
        let stopped = async {
            over(shutdown).await;
            sleep(STOP_GRACE).await;
        };
        let ended = tokio::select! {
            ended = timeout(limit, child.wait()) => ended.ok(),
            () = stopped => None,
        };
        let outcome = match ended {
            Some(Ok(status)) => outcome_of(status),
            Some(Err(error)) => Outcome::NotRun(format!("its end cannot be seen: {}", plain(&error))),
            None => {
                end(&mut child, group).await;
                Outcome::TimedOut
            }
        };
        for (name, mut reading) in outputs {
            match timeout(OUTPUT_GRACE, &mut reading).await {
                Ok(Ok(text)) if !text.is_empty() => tracing::info!(role = self.role, output = name, text, "the hook says"),
                Ok(_) => {}
                Err(_) => reading.abort(),
            }
        }
        outcome
    }

    fn tell(&self, outcome: &Outcome, took: Duration) {
        let role = self.role.clone();
        metrics::counter!("daypass_agent_hook_runs_total", "role" => role.clone(), "outcome" => outcome.name()).increment(1);
        metrics::gauge!("daypass_agent_hook_exit_code", "role" => role.clone()).set(f64::from(outcome.exit_code()));
        metrics::histogram!("daypass_agent_hook_seconds", "role" => role).record(took);
        match outcome {
            Outcome::Done => tracing::info!(role = self.role, ?took, "the hook is done"),
            _ => tracing::warn!(role = self.role, ?outcome, ?took, "the hook failed"),
        }
    }
}

/// On disk: a run is due.
#[derive(Debug)]
struct Marker {
    path: PathBuf,
    /// How often it was set; held while the disk is changed, so that a run that ends does not take away what was set meanwhile.
    count: Mutex<u64>,
}

impl Marker {
    fn open(folder: &Path, role: &str) -> Result<Self> {
        files::make_private_dir(folder).map_err(|error| fault(folder, &error))?;
        Ok(Self { path: folder.join(role), count: Mutex::new(0) })
    }

    fn is_set(&self) -> bool {
        self.path.exists()
    }

    fn set(&self) -> Result<()> {
        let mut count = self.lock();
        *count += 1;
        let set = fs::File::create(&self.path).and_then(|file| file.sync_all()).and_then(|()| files::sync_dir(files::folder(&self.path)));
        set.map_err(|error| fault(&self.path, &error))
    }

    fn count(&self) -> u64 {
        *self.lock()
    }

    /// Clears it unless it was set since.
    fn clear(&self, then: u64) {
        let count = self.lock();
        if *count == then {
            // What stays makes one run too many at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends it with all that it started.
async fn end(child: &mut Child, group: Option<Pid>) {
    // That it has gone meanwhile is no fault.
    let tell = |signal| group.map(|group| kill_process_group(group, signal));
    let _ = tell(Signal::TERM);
    if timeout(KILL_AFTER, child.wait()).await.is_err() {
        let _ = tell(Signal::KILL);
        let _ = child.wait().await;
    } else {
        // What it started may be there still; the group is its own until the last of it has gone.
        let _ = tell(Signal::KILL);
    }
}

fn outcome_of(status: ExitStatus) -> Outcome {
    match (status.code(), status.signal()) {
        (Some(0), _) => Outcome::Done,
        (Some(code), _) => Outcome::Exit(code),
        (None, signal) => Outcome::Signal(signal.unwrap_or(0)),
    }
}

type Pipe = Box<dyn AsyncRead + Send + Unpin>;

fn boxed(pipe: impl AsyncRead + Send + Unpin + 'static) -> Pipe {
    Box::new(pipe)
}

/// The beginning of what it says; the rest is read, so that it does not wait for us.
async fn read(pipe: Option<Pipe>) -> String {
    let Some(mut pipe) = pipe else { return String::new() };
    let mut kept = Vec::new();
    let mut part = [0; 4096];
    while let Ok(read @ 1..) = pipe.read(&mut part).await {
        let room = MAX_OUTPUT.saturating_sub(kept.len());
        kept.extend_from_slice(&part[..read.min(room)]);
    }
    String::from_utf8_lossy(&kept)
        .chars()
        .map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c })
        .collect::<String>()
        .trim()
        .to_owned()
}

/// Sends a signal to the process that a file names. The file must be one that only root or the agent's own user writes, and no link to one:
/// else whoever writes it, or the link, could point the signal at any process.
fn send(signal: Signal, pid_file: &Path) -> Result<(), String> {
    let at = |why: &str| format!("{}: {why}", pid_file.display());
    // Without waiting, or a pipe in its place would hold a thread for ever.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(pid_file, flags, rustix::fs::Mode::empty()).map_err(|error| match error {
        Errno::LOOP => at("it is a link; name the file itself"),
        error => at(&plain(&error.into())),
    })?;
    let file = fs::File::from(file);
    let found = file.metadata().map_err(|error| at(&plain(&error)))?;
    if !found.is_file() {
        return Err(at("it is no file"));
    }
    if ![0, rustix::process::geteuid().as_raw()].contains(&found.uid()) {
        return Err(at(&format!("it is user {}'s, who could name any process; use a command instead", found.uid())));
    }
    if found.mode() & 0o022 != 0 {
        return Err(at("others may write it"));
    }
    let mut text = String::new();
    file.take(MAX_PID_FILE).read_to_string(&mut text).map_err(|error| at(&plain(&error)))?;
    let pid = text.trim().parse().ok().filter(|pid| *pid > 1).and_then(Pid::from_raw).ok_or_else(|| at("it holds no process id"))?;
    kill_process(pid, signal).map_err(|error| at(&format!("process {pid:?}: {}", io::Error::from(error))))
}

fn fault(path: &Path, error: &io::Error) -> Error {
    Error::new(Kind::Other, "FILE", format!("{} cannot be written: {}", path.display(), plain(error)))
}
