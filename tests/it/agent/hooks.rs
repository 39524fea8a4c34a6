//! Hooks: run once for many changes, bounded in time and output, never lost.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use daypass::{
    agent::{
        config::{DEFAULT_FILE_MODE, DEFAULT_HOOK_TIMEOUT, FileNames, OnChange, Place},
        hook::{Hook, MAX_OUTPUT, TRIES},
        keeper::Deliver,
        outlet::{Deliveries, Outlet},
        publish::Publisher,
    },
    model::SignedDuration,
};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle};

use super::socket_world::{PATIENCE, aws};
use crate::support::parts::{Process, wait_until};

/// A hook that is kept; it ends with this value.
struct World {
    folder: TempDir,
    hook: Arc<Hook>,
    stop: watch::Sender<bool>,
    keeping: JoinHandle<()>,
}

impl World {
    fn new(make: impl FnOnce(&Path) -> OnChange) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), make)
    }

    fn in_folder(folder: TempDir, make: impl FnOnce(&Path) -> OnChange) -> Self {
        let on_change = make(folder.path());
        let hook = Hook::new("web", on_change, Some("/files".into()), &folder.path().join("due")).unwrap();
        let (hook, (stop, shutdown)) = (Arc::new(hook), watch::channel(false));
        let keeping = tokio::spawn({
            let hook = hook.clone();
            async move { hook.keep(shutdown).await }
        });
        Self { folder, hook, stop, keeping }
    }

    fn change(&self) {
        self.hook.mark().unwrap();
        self.hook.ring();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn is_due(&self) -> bool {
        self.file("due/web").exists()
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(self.file("log")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Waits without holding the runtime up.
    async fn until(&self, what: &str, ask: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !ask(self) {
            assert!(begun.elapsed() < PATIENCE, "in vain for: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn stop(self) -> TempDir {
        self.stop.send_replace(true);
        tokio::time::timeout(PATIENCE, self.keeping).await.expect("it ends").unwrap();
        self.folder
    }
}

/// A shell script over the world's folder, which it finds in `$F`.
fn script(text: &str, timeout: Duration) -> impl FnOnce(&Path) -> OnChange {
    let words = ["/bin/sh", "-c", text].map(str::to_owned).into();
    move |folder| OnChange::Command { words, timeout, env: BTreeMap::from([("F".to_owned(), folder.display().to_string())]) }
}

/// A delivery of a certificate with a hook whose marker cannot be set before the test reads from it; to whom it is of no use any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_under_way_is_waited_for_by_whoever_ends_the_agent() {
    let world = World::new(script("echo run >> $F/log", DEFAULT_HOOK_TIMEOUT));
    let marker = world.file("due/web");
    rustix::fs::mknodat(rustix::fs::CWD, &marker, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR, 0).unwrap();
    let place = Place { dir: world.file("web"), owner: None, group: None, mode: DEFAULT_FILE_MODE, names: FileNames::default() };
    let publisher = Arc::new(Publisher::open(&place).unwrap());
    let (deliveries, fresh) = (Deliveries::default(), Arc::new(aws("web", "ASIAEXAMPLE", SignedDuration::from_hours(1))));
    let outlet = Outlet::new(Some(publisher), Some(world.hook.clone()), deliveries.clone());
    let delivering = tokio::spawn(async move { outlet.deliver(&fresh, None).await });
    let staged = |world: &World| fs::read_dir(world.file("web")).is_ok_and(|found| found.count() > 0);
    world.until("it writes", staged).await;
    delivering.abort();
    assert!(delivering.await.unwrap_err().is_cancelled());
    let early = tokio::time::timeout(Duration::from_millis(300), deliveries.over()).await;
    // Lets go of the thread.
    let reader = fs::OpenOptions::new().read(true).write(true).open(&marker).unwrap();
    assert!(early.is_err(), "its thread goes on");
    tokio::time::timeout(PATIENCE, deliveries.over()).await.expect("it is over");
    drop(reader);
    world.stop().await;
}

/// As a commit that fails at its last step leaves it: the files are in force, and nobody was told.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_force_already_is_told_where_a_run_is_due() {
    let world = World::new(script("echo run >> $F/log", DEFAULT_HOOK_TIMEOUT));
    let place = Place { dir: world.file("web"), owner: None, group: None, mode: DEFAULT_FILE_MODE, names: FileNames::default() };
    let publisher = Arc::new(Publisher::open(&place).unwrap());
    let fresh = Arc::new(aws("web", "ASIAEXAMPLE", SignedDuration::from_hours(1)));
    publisher.stage(&fresh, None).unwrap().unwrap().commit().unwrap();
    let outlet = Outlet::new(Some(publisher), Some(world.hook.clone()), Deliveries::default());
    outlet.deliver(&fresh, None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(world.lines(), [""; 0], "nothing has changed, and no run is due");
    world.hook.mark().unwrap();
    outlet.deliver(&fresh, None).await.unwrap();
    world.until("it was told", |world| world.lines() == ["run"] && !world.is_due()).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_while_it_runs_are_one_more_run() {
    let world = World::new(script(
        "echo \"$DAYPASS_AGENT_ROLE $DAYPASS_AGENT_DIR ${NOTIFY_SOCKET-none}\" >> $F/log; while [ ! -e $F/go ]; do sleep 0.02; done",
        DEFAULT_HOOK_TIMEOUT,
    ));
    assert!(!world.is_due());
    world.change();
    world.until("the first run", |world| world.lines().len() == 1).await;
    for _ in 0..50 {
        world.change();
    }
    fs::write(world.file("go"), "").unwrap();
    world.until("nothing is due", |world| !world.is_due()).await;
    assert_eq!(world.lines(), ["web /files none"; 2]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_takes_too_long_is_killed_with_what_it_started() {
    let world = World::new(script("echo run >> $F/log; (trap '' TERM; sleep 600) & echo $! > $F/child; wait", Duration::from_millis(300)));
    world.change();
    world.until("every try", |world| world.lines().len() == TRIES as usize).await;
    world
        .until("its last child is gone", |world| {
            let child = fs::read_to_string(world.file("child")).unwrap_or_default();
            // A zombie that nobody reaps yet has gone too.
            fs::read_to_string(format!("/proc/{}/stat", child.trim())).map_or(true, |stat| stat.contains(") Z "))
        })
        .await;
    assert!(world.is_due(), "no run succeeded");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_tried_again_and_what_never_succeeded_runs_at_the_next_start() {
    let fail = "echo run >> $F/log; [ -e $F/good ] || exit 7";
    let world = World::new(script(fail, DEFAULT_HOOK_TIMEOUT));
    world.change();
    world.until("every try", |world| world.lines().len() == TRIES as usize).await;
    assert!(world.is_due());
    let folder = world.stop().await;
    fs::write(folder.path().join("good"), "").unwrap();
    let world = World::in_folder(folder, script(fail, DEFAULT_HOOK_TIMEOUT));
    world.until("it is done without another change", |world| !world.is_due()).await;
    assert_eq!(world.lines().len(), TRIES as usize + 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_output_neither_blocks_it_nor_fills_memory() {
    let world = World::new(script(
        &format!("head -c {} /dev/zero; head -c 3000000 /dev/zero >&2; echo run >> $F/log", 100 * MAX_OUTPUT),
        DEFAULT_HOOK_TIMEOUT,
    ));
    world.change();
    world.until("it is done", |world| !world.is_due() && world.lines().len() == 1).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_keeps_the_output_open_does_not_hold_it_up() {
    let world = World::new(script("sleep 30 & echo $! > $F/child; echo run >> $F/log", DEFAULT_HOOK_TIMEOUT));
    let begun = Instant::now();
    world.change();
    world.until("it is done", |world| !world.is_due() && world.lines().len() == 1).await;
    assert!(begun.elapsed() < Duration::from_secs(15));
    let child = fs::read_to_string(world.file("child")).unwrap();
    assert!(Command::new("kill").arg(child.trim()).status().unwrap().success());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_missing_is_no_success() {
    let words = vec!["/nonexistent/program".to_owned()];
    let world = World::new(|_| OnChange::Command { words, timeout: DEFAULT_HOOK_TIMEOUT, env: BTreeMap::new() });
    world.change();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(world.is_due());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_goes_to_the_process_of_the_pid_file_once_it_is_there() {
    let world = World::new(|folder| OnChange::Signal { signal: Signal::HUP, pid_file: folder.join("pid") });
    let log = fs::File::create(world.file("log")).unwrap();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "trap 'echo hup' HUP; echo up; while :; do sleep 0.02; done"]).stdout(Stdio::from(log));
    let mut process = Process::start(&mut command);
    wait_until(PATIENCE, "it listens", || (world.lines() == ["up"]).then_some(()));
    world.change();
    // The pid file comes late: a later try finds it.
    fs::write(world.file("pid"), format!("{}\n", process.child().id())).unwrap();
    world.until("it got the signal", |world| world.lines().len() >= 2 && !world.is_due()).await;
    assert_eq!(world.lines()[1], "hup");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pid_file_that_names_no_process_of_its_own_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    for (content, mode) in [("", 0o644), ("0", 0o644), ("1", 0o644), ("-1", 0o644), ("12x", 0o644), ("{own}", 0o666)] {
        let world = World::new(|folder| OnChange::Signal { signal: Signal::HUP, pid_file: folder.join("pid") });
        // Were it sent to us, this test would end.
        fs::write(world.file("pid"), content.replace("{own}", &std::process::id().to_string())).unwrap();
        fs::set_permissions(world.file("pid"), fs::Permissions::from_mode(mode)).unwrap();
        world.change();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(world.is_due(), "{content:?}");
        world.stop().await;
    }
}

/// What a pid file names must be for root and the agent alone to say.
#[tokio::test(flavor = "multi_thread")]
async fn a_pid_file_that_another_could_have_written_signals_nobody() {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    let mut process = Process::start(Command::new("/bin/sleep").arg("600"));
    let pid = process.child().id().to_string();
    let is_root = rustix::process::geteuid().is_root();
    type Make<'a> = &'a dyn Fn(&Path);
    let makers: [(&str, Make<'_>); 3] = [
        ("a link", &|path| {
            fs::write(path.with_extension("other"), &pid).unwrap();
            symlink(path.with_extension("other"), path).unwrap();
        }),
        ("its group's", &|path| {
            fs::write(path, &pid).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o664)).unwrap();
        }),
        // Only root can make one.
        ("another user's", &|path| {
            fs::write(path, if is_root { &pid } else { "" }).unwrap();
            if is_root {
                chown(path, Some(4_000_001), None).unwrap();
            }
        }),
    ];
    for (what, make) in makers {
        let world = World::new(|folder| OnChange::Signal { signal: Signal::TERM, pid_file: folder.join("pid") });
        make(&world.file("pid"));
        world.change();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(world.is_due(), "{what}");
        assert!(process.child().try_wait().unwrap().is_none(), "{what}: it was sent");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_in_the_place_of_a_pid_file_holds_nothing_up() {
    let world = World::new(|folder| OnChange::Signal { signal: Signal::HUP, pid_file: folder.join("pid") });
    let pipe = world.file("pid");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR, 0).unwrap();
    world.change();
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.stop.send_replace(true);
    let World { keeping, folder, .. } = world;
    let ended = tokio::time::timeout(PATIENCE, keeping).await;
    // Lets go of a thread that waits for a writer, or this test would never end.
    drop(fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap());
    assert!(ended.is_ok(), "it waits for whoever opens the other end");
    drop(folder);
}
