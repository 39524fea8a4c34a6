//! A program of the CI system that prints an ID token.

use std::{
    io::{self, Read},
    process::{Child, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use zeroize::Zeroizing;

use crate::client::{
    error::{Error, Kind, Result},
    fingerprint::Fingerprint,
    text::one_line,
    token::{MAX_TOKEN, identity_unavailable, no_identity},
};

/// How long it may take.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// How often its end is looked for.
const POLL: Duration = Duration::from_millis(5);

/// How much of what it says of a failure is passed on, in characters.
const MAX_COMPLAINT: usize = 300;

/// A program with its arguments. It runs with our environment, and without a shell.
pub struct Command {
    program: &'static str,
    words: Vec<String>,
    /// What tells this job from others.
    job: Vec<String>,
}

impl Command {
    pub fn new<'a>(program: &'static str, words: impl IntoIterator<Item = &'a str>, job: Vec<String>) -> Self {
        Self { program, words: words.into_iter().map(str::to_owned).collect(), job }
    }

    /// The program, what it is asked, and the job.
    pub fn caller(&self) -> String {
        let begun = Fingerprint::of("daypass caller command").field(self.program);
        let all = self.words.iter().chain(&self.job);
        all.fold(begun, Fingerprint::field).hex()
    }

    /// What it prints.
    pub async fn run(&self) -> Result<Zeroizing<String>> {
        let mut command = std::process::Command::new(self.program);
        command.args(&self.words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let program = self.program;
        let child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => no_identity(format!("this job's identity comes from `{program}`, which is not on PATH")),
            _ => no_identity(format!("this job's identity comes from `{program}`, which cannot be run: {error}")),
        })?;
        let waited = tokio::task::spawn_blocking(move || wait(Killed(child))).await;
        let ended = waited.map_err(|_| Error::new(Kind::Other, "SYSTEM", format!("`{program}` could not be waited for")))?;
        let ended = ended.map_err(|error| no_identity(format!("`{program}` cannot be read: {error}")))?;
        self.judge(ended)
    }

    fn judge(&self, ended: Option<Ended>) -> Result<Zeroizing<String>> {
        let (program, limit) = (self.program, COMMAND_TIMEOUT.as_secs());
        let Some(Ended { status, stdout, stderr }) = ended else {
            return Err(identity_unavailable(format!("`{program}` gives no ID token within {limit} s; try again")));
        };
        if !status.success() {
            let why = complaint(&stderr);
            return Err(no_identity(format!("`{program}` gives this job no ID token ({status}){why}")));
        }
        match std::str::from_utf8(&stdout).map(str::trim) {
            Ok(token) if !token.is_empty() && token.len() <= MAX_TOKEN => Ok(Zeroizing::new(token.to_owned())),
            _ => Err(no_identity(format!("`{program}` printed no ID token"))),
        }
    }
}

struct Ended {
    status: ExitStatus,
    stdout: Zeroizing<Vec<u8>>,
    stderr: Zeroizing<Vec<u8>>,
}

/// A child that is killed unless it has ended.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // One that has ended is not there to be killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for its end, [`COMMAND_TIMEOUT`] at most. Its output is read beside, so that a full pipe does not hold it up.
fn wait(mut child: Killed) -> io::Result<Option<Ended>> {
    let stdout = child.0.stdout.take().map(|pipe| std::thread::spawn(move || bounded(pipe)));
    let stderr = child.0.stderr.take().map(|pipe| std::thread::spawn(move || bounded(pipe)));
    let deadline = Instant::now() + COMMAND_TIMEOUT;
    let status = loop {
        if let Some(status) = child.0.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(POLL);
    };
    // What it started may hold the pipes open: then there is no end to read.
    while [&stdout, &stderr].into_iter().flatten().any(|reader| !reader.is_finished()) {
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
    let read = |reader: Option<std::thread::JoinHandle<io::Result<Zeroizing<Vec<u8>>>>>| {
        reader.map_or_else(|| Ok(Zeroizing::default()), |reader| reader.join().unwrap_or_else(|_| Ok(Zeroizing::default())))
    };
    Ok(Some(Ended { status, stdout: read(stdout)?, stderr: read(stderr)? }))
}

/// What a pipe gives, one byte more than a token at most; the rest is read and dropped.
fn bounded(mut pipe: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_TOKEN + 2));
    pipe.by_ref().take(MAX_TOKEN as u64 + 2).read_to_end(&mut bytes)?;
    io::copy(&mut pipe, &mut io::sink())?;
    Ok(bytes)
}

/// What it said, unless a token could be in it (in base64url every JWT begins with `eyJ`).
fn complaint(stderr: &[u8]) -> String {
    let text = one_line(&String::from_utf8_lossy(stderr));
    if text.is_empty() || text.contains("eyJ") {
        return String::new();
    }
    format!(": {}", text.chars().take(MAX_COMPLAINT).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(script: &str) -> Result<Zeroizing<String>> {
        Command::new("sh", ["-c", script], Vec::new()).run().await
    }

    #[tokio::test]
    async fn what_it_prints_is_the_token() {
        assert_eq!(shell("echo a.b.c").await.unwrap().as_str(), "a.b.c");
    }

    #[tokio::test]
    async fn what_goes_wrong_is_not_authenticated_and_shows_no_token() {
        let refused = shell("echo 'no permission' >&2; exit 1").await.unwrap_err();
        assert_eq!((refused.kind(), refused.code()), (Kind::NotAuthenticated, "NO_IDENTITY"));
        assert!(refused.message().contains("no permission"), "{refused}");
        let leaky = shell("echo 'DEBUG eyJhbGciOi.canary.x' >&2; exit 1").await.unwrap_err();
        assert!(!leaky.message().contains("canary"), "{leaky}");
        assert!(shell("true").await.unwrap_err().message().contains("printed no ID token"));
        let long = shell("yes | head -c 1000000").await.unwrap_err();
        assert!(long.message().contains("printed no ID token"), "{long}");
        let absent = Command::new("daypass-no-such-program", [], Vec::new()).run().await.unwrap_err();
        assert!(absent.message().contains("not on PATH"), "{absent}");
    }

    #[test]
    fn the_job_tells_callers_apart() {
        let caller = |word, job: &str| Command::new("p", [word], vec![job.to_owned()]).caller();
        assert_eq!(caller("a", "1"), caller("a", "1"));
        assert_ne!(caller("a", "1"), caller("a", "2"));
        assert_ne!(caller("a", "1"), caller("b", "1"));
    }
}
