//! Wires the agent together and runs it until it is told to end.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, watch},
    task::{JoinError, JoinSet},
    time::{Instant, Interval, MissedTickBehavior, interval, timeout},
};
use tracing_subscriber::EnvFilter;

use super::{
    bundle,
    config::{Config, LogConfig, LogFormat, RoleConfig},
    desk::{Bundle, Desk},
    health::{self, Board},
    hook::{KILL_AFTER, STOP_GRACE},
    identity::{self, SETTLE},
    jwts::Jwts,
    keeper::{Connect, Keeper, KeeperStatus, RoleToKeep},
    kept::StateDir,
    notify::Notifier,
    outlet::{self, Deliveries},
    server::{Enrolled, Server},
    sockets::Sockets,
};
use crate::{
    client::error::{Error, Kind, Result},
    clock::{Clock, SystemClock},
    model::fault::Fault,
    unix::open_files,
};

/// How long everything may take to end when the agent is told to: more than a hook may.
pub const STOP_TIMEOUT: Duration = STOP_GRACE.saturating_add(KILL_AFTER).saturating_add(Duration::from_secs(3));

/// How long after a reload systemd hears that it is over though a role has no credential yet: one that is denied never has one.
pub const RELOAD_GRACE: Duration = Duration::from_secs(10);

/// How often systemd is told what changed while nothing rotates: something may have expired.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Bounds of the histogram of hooks, in seconds.
const SECONDS: [f64; 8] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0];

/// What came of running.
enum Ended {
    /// It was told to end.
    Stopped,
    /// There is another configuration.
    Changed(Box<Config>),
}

/// Runs the agent by a configuration file until SIGTERM or SIGINT. SIGHUP reads the file again: one with a fault changes nothing.
///
/// # Errors
/// When something that it needs cannot be had at its start, or ends by itself.
pub async fn run(config: Config, path: &Path) -> Result<()> {
    start_log(&config.log)?;
    let metrics = start_metrics()?;
    let open_files = open_files::raise();
    let mut signals = Signals::new()?;
    let notifier = Notifier::from_env(&|name| std::env::var_os(name), std::process::id());
    let (mut config, mut before) = (config, None);
    let mut told = Told::default();
    loop {
        let running = match Running::start(&config, &metrics, open_files).await {
            Ok(running) => running,
            // What ran until a moment ago runs again.
            Err(error) => match before.take() {
                Some(earlier) => {
                    tracing::error!(code = error.code(), %error, "the new configuration cannot be run; the one before is in force again");
                    config = earlier;
                    continue;
                }
                None => return Err(error),
            },
        };
        match running.until_told(&mut signals, &notifier, &mut told, &config, path).await? {
            Ended::Stopped => return Ok(()),
            Ended::Changed(next) => before = Some(std::mem::replace(&mut config, *next)),
        }
    }
}

/// Sees whether the agent could run by a configuration, without the server being asked: what is advice comes back.
///
/// # Errors
/// The first thing that it could not do.
pub fn trial(config: &Config) -> Result<Vec<String>> {
    let enrolled = Enrolled::load(config)?;
    Ok(Server::new(config, enrolled.as_ref()).settings()?.warnings)
}

/// The agent by one configuration.
struct Running {
    tasks: JoinSet<Result<()>>,
    board: Arc<Board>,
    /// The same, to wait at.
    changes: Board,
    stop: watch::Sender<bool>,
    deliveries: Deliveries,
    /// Rung when somebody may have enrolled the agent anew.
    doubts: Option<Arc<Notify>>,
}

impl Running {
    async fn start(config: &Config, metrics: &PrometheusHandle, open_files: u64) -> Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        // First: no two agents write into the same places.
        let state = StateDir::open(&config.state_dir)?;
        let enrolled = Enrolled::load(config)?;
        let server = Arc::new(Server::new(config, enrolled.as_ref()));
        for warning in server.settings()?.warnings {
            tracing::warn!(%warning, "configuration");
        }
        let deliveries = Deliveries::default();
        let outlets = outlet::open(config, &deliveries)?;
        let sockets = Sockets::bind(config.sockets.clone())?.within(open_files);
        let health = match config.health {
            Some(address) => Some(health::bind(address).await?),
            None => None,
        };

        let (stop, shutdown) = watch::channel(false);
        let (bundle_sender, bundle) = watch::channel(None);
        let mut parts = Parts { tasks: JoinSet::new(), shutdown, server: server.clone(), clock };
        let (mut roles, mut statuses) = (BTreeMap::new(), Vec::new());
        for (role, outlet) in config.roles.iter().zip(outlets) {
            let (desk, following) = watch::channel(None);
            let (status, shown) = watch::channel(KeeperStatus::default());
            if let Some(hook) = outlet.hook() {
                let shutdown = parts.shutdown.clone();
                parts.tasks.spawn(async move {
                    hook.keep(shutdown).await;
                    Ok(())
                });
            }
            let keeper = Keeper::new(kept(role), state.clone(), server.clone(), Arc::new(outlet), bundle.clone(), desk, status);
            parts.tasks.spawn(keeper.run(parts.shutdown.clone()));
            roles.insert(role.name.clone(), following);
            statuses.push((role.name.clone(), shown));
        }
        let readers = statuses.iter().map(|(_, status)| status.clone()).collect();
        parts.follow_bundle(bundle_sender, readers);
        let board = || Board::new(statuses.clone(), parts.clock.clone(), metrics.clone());
        let (mut shown, changes) = (board(), board());
        let doubts = enrolled.as_ref().map(|enrolled| enrolled.doubts.clone());
        if let Some(enrolled) = enrolled {
            shown = parts.keep_identity(config, enrolled, shown)?;
        }
        let board = Arc::new(shown);
        parts.serve(sockets, Arc::new(Desk::new(roles, bundle)), health, &board);
        Ok(Self { tasks: parts.tasks, board, changes, stop, deliveries, doubts })
    }

    /// Runs until a signal says otherwise, or something ends by itself.
    async fn until_told(
        mut self,
        signals: &mut Signals,
        notifier: &Notifier,
        told: &mut Told,
        config: &Config,
        path: &Path,
    ) -> Result<Ended> {
        let mut alive = ticks(notifier.alive_every().unwrap_or(LOOK_EVERY));
        let mut look = ticks(LOOK_EVERY);
        told.parts_run();
        let ended = loop {
            tokio::select! {
                said = signals.next() => match said {
                    Said::End => break Ok(Ended::Stopped),
                    Said::Reload => {
                        told.reloading(notifier);
                        match reload(config, path) {
                            Some(next) => break Ok(Ended::Changed(Box::new(next))),
                            None => told.reloaded(notifier),
                        }
                        if let Some(doubts) = &self.doubts {
                            doubts.notify_one();
                        }
                    }
                },
                _ = alive.tick() => notifier.alive(),
                _ = look.tick() => {
                    self.board.fold();
                    told.tell(&self.board, notifier);
                }
                () = self.changes.changed() => told.tell(&self.board, notifier),
                Some(ended) = self.tasks.join_next() => break Err(by_itself(ended)),
            }
        };
        if !matches!(ended, Ok(Ended::Changed(_))) {
            tracing::info!("ending");
            notifier.stopping();
        }
        self.stop().await;
        ended
    }

    /// Ends everything; what does not end in time is cut, but for files on their way to disk.
    async fn stop(mut self) {
        self.stop.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(STOP_TIMEOUT, all).await.is_err() {
            tracing::warn!("some parts of the agent did not end in time and are cut");
        }
        self.tasks.shutdown().await;
        self.deliveries.over().await;
    }
}

/// What starts the parts of a running agent.
struct Parts {
    tasks: JoinSet<Result<()>>,
    shutdown: watch::Receiver<bool>,
    server: Arc<Server>,
    clock: Arc<dyn Clock>,
}

impl Parts {
    fn follow_bundle(&mut self, sender: watch::Sender<Option<Arc<Bundle>>>, readers: Vec<watch::Receiver<KeeperStatus>>) {
        let (server, shutdown): (Arc<dyn Connect>, _) = (self.server.clone(), self.shutdown.clone());
        self.tasks.spawn(async move {
            bundle::follow(server, sender, readers, shutdown).await;
            Ok(())
        });
    }

    /// Renews the identity. While that cannot be done, the agent goes on with what is valid, and says that it is not ready.
    fn keep_identity(&mut self, config: &Config, enrolled: Enrolled, board: Board) -> Result<Board> {
        let Enrolled { dir, current, doubts } = enrolled;
        let (address, roots, timeout) = (config.server.address.clone(), self.server.roots()?, config.server.timeout);
        let keeper = identity::Keeper { dir, address, roots, timeout, settle: SETTLE, doubts, clock: self.clock.clone() };
        let (lost, why) = watch::channel(None);
        let board = board.with_identity(current.subscribe(), why);
        let mut shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = keeper.run(&current, &lost) => {}
                () = super::over(&mut shutdown) => {}
            }
            Ok(())
        });
        Ok(board)
    }

    fn serve(&mut self, sockets: Sockets, desk: Arc<Desk>, health: Option<TcpListener>, board: &Arc<Board>) {
        let jwts = Arc::new(Jwts::new(self.server.clone(), self.clock.clone()));
        self.tasks.spawn(sockets.serve(desk, jwts, self.shutdown.clone()));
        if let Some(listener) = health {
            let (board, shutdown) = (board.clone(), self.shutdown.clone());
            self.tasks.spawn(async move {
                health::serve(listener, board, shutdown).await;
                Ok(())
            });
        }
    }
}

fn kept(role: &RoleConfig) -> RoleToKeep {
    RoleToKeep { name: role.name.clone(), role: role.role.clone(), ttl: role.ttl, audience: role.audience.clone() }
}

/// The next configuration; none when it is the same, or has faults.
fn reload(config: &Config, path: &Path) -> Option<Config> {
    let refuse = |faults: Vec<Fault>| {
        for fault in faults {
            tracing::error!(%fault, "the configuration is refused; the one before stays in force");
        }
    };
    let next = Config::load(path).map_err(refuse).ok()?;
    if next == *config {
        tracing::info!("the configuration is the same");
        return None;
    }
    if let Err(error) = trial(&next) {
        tracing::error!(code = error.code(), %error, "the configuration is refused; the one before stays in force");
        return None;
    }
    if next.log != config.log {
        tracing::warn!("a change of [log] is in force after a restart");
    }
    tracing::info!("another configuration is taken up");
    Some(next)
}

/// What systemd knows, through all reloads.
#[derive(Default)]
struct Told {
    ready: bool,
    /// Until when a reload may take; none while there is none.
    reloading_until: Option<Instant>,
    status: String,
}

impl Told {
    /// A reload begins. Before it was ready, that is no news: it still starts.
    fn reloading(&mut self, notifier: &Notifier) {
        if self.ready {
            notifier.reloading();
            self.reloading_until = Some(Instant::now() + RELOAD_GRACE);
        }
    }

    /// The parts run: from here on they have their time, however long those before took to end.
    fn parts_run(&mut self) {
        if let Some(until) = &mut self.reloading_until {
            *until = Instant::now() + RELOAD_GRACE;
        }
    }

    /// A reload is over.
    fn reloaded(&mut self, notifier: &Notifier) {
        if self.reloading_until.take().is_some() {
            notifier.ready();
        }
    }

    /// Ready once every role has a credential where its readers find it; it is said once, and after each reload.
    fn tell(&mut self, board: &Board, notifier: &Notifier) {
        let (fresh, all) = board.fresh();
        let status = format!("{fresh} of {all} roles fresh");
        if self.status != status {
            notifier.status(&status);
            self.status = status;
        }
        if fresh == all || self.reloading_until.is_some_and(|until| until <= Instant::now()) {
            self.reloaded(notifier);
        }
        if !self.ready && fresh == all {
            self.ready = true;
            tracing::info!("ready: every role has a valid credential");
            notifier.ready();
        }
    }
}

/// What the agent is told by.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(|error| Error::new(Kind::Other, "SYSTEM", format!("signals cannot be had: {error}")));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Said {
        tokio::select! {
            _ = self.terminate.recv() => Said::End,
            _ = self.interrupt.recv() => Said::End,
            _ = self.hangup.recv() => Said::Reload,
        }
    }
}

/// What a signal says.
enum Said {
    End,
    Reload,
}

fn by_itself(ended: Result<Result<()>, JoinError>) -> Error {
    match ended {
        Ok(Err(error)) => error,
        Ok(Ok(())) => Error::new(Kind::Other, "AGENT", "a part of the agent ended by itself"),
        Err(error) => Error::new(Kind::Other, "AGENT", format!("a part of the agent failed: {error}")),
    }
}

fn ticks(every: Duration) -> Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Starts the log on standard error. Called once for each process.
fn start_log(config: &LogConfig) -> Result<()> {
    let fault = |error: &dyn std::fmt::Display| Error::usage(format!("log: {error}"));
    let filter = EnvFilter::try_new(&config.filter).map_err(|error| fault(&error))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.compact().with_ansi(false).try_init(),
    };
    started.map_err(|error| fault(&error))
}

/// Installs the recorder of metrics.
fn start_metrics() -> Result<PrometheusHandle> {
    let fault = |error: &dyn std::fmt::Display| Error::new(Kind::Other, "METRICS", format!("metrics cannot be kept: {error}"));
    let builder = PrometheusBuilder::new().set_buckets(&SECONDS).map_err(|error| fault(&error))?;
    let handle = builder.install_recorder().map_err(|error| fault(&error))?;
    describe();
    Ok(handle)
}

fn describe() {
    metrics::describe_gauge!("daypass_agent_ready", "1 when every role has a valid credential, else 0");
    metrics::describe_gauge!("daypass_agent_connected", "1 when the role's stream is open, else 0");
    metrics::describe_gauge!("daypass_agent_generation", "Generation of the role's credential; 0 when there is none");
    metrics::describe_gauge!("daypass_agent_valid_until_timestamp_seconds", "When the role's credential expires; 0 when there is none");
    metrics::describe_counter!("daypass_agent_rotations_total", "Credentials that came, the first included");
    metrics::describe_counter!("daypass_agent_failures_total", "Attempts to keep the role that failed");
    metrics::describe_gauge!("daypass_agent_identity_valid_until_timestamp_seconds", "When the agent's own certificate expires");
    metrics::describe_gauge!("daypass_agent_identity_generation", "Generation of the agent's own certificate");
    metrics::describe_counter!("daypass_agent_hook_runs_total", "Runs of the role's hook, by outcome");
    metrics::describe_gauge!("daypass_agent_hook_exit_code", "How the last run ended, as shells have it; 124 after its timeout");
    metrics::describe_histogram!("daypass_agent_hook_seconds", "How long a run of the role's hook took");
    metrics::describe_counter!(
        "daypass_agent_connections_refused_total",
        "Connections of users who have as many as one may have, by socket"
    );
    metrics::describe_counter!("daypass_agent_sds_responses_total", "Answers of secret discovery");
    metrics::describe_counter!("daypass_agent_sds_rejected_total", "Answers of secret discovery that a proxy rejected");
}
