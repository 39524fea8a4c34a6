//! Wires the rooms together and runs the service until it is told to stop.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::task::TaskTracker;
use tonic_health::server::{HealthReporter, health_reporter};

use super::{
    addresses::Addresses,
    admin::AdminSocket,
    bundles::{self, Bundles},
    callers::Callers,
    clones,
    config::{Config, Limits, StoreConfig, std_duration},
    conn::Registry,
    grpc::{self, Edge},
    http::{self, Edges, Public, TokenEdge},
    keys::{self, KeyDesk, StoreShelf},
    limiters::Limiters,
    listener::Acceptor,
    own_certificate::{self, OwnCertificate},
    presence::{self, Presence},
    ready::Readiness,
    reload,
    telemetry::{self, TimedLog, TimedStore},
    tls::TlsEdge,
    trust::{self, Trust},
};
use crate::{
    audit::disk::DiskLog,
    background::{self, Shutdown, ticker, until},
    clock::{Clock, SystemClock},
    model::error::{Error, Result},
    store::{EntryStore, LeaseStore, embedded::EmbeddedStore, redis::RedisStore},
    vend::{Enrollments, Vend},
};

/// How often gauges are set and readiness is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a reload replaces parts of.
pub(super) struct Parts {
    pub vend: Arc<Vend>,
    pub authn: Arc<Callers>,
    pub trust: Arc<Trust>,
    pub own: Arc<OwnCertificate>,
    pub keys: Arc<KeyDesk>,
}

/// Runs the service until SIGTERM or SIGINT, then finishes what is in flight. `listening` is called once both ports are open.
pub async fn serve(config: Config, path: PathBuf, listening: impl FnOnce()) -> Result<()> {
    // Before anything is open: a signal that comes early must find us listening for it.
    let (told, hangup) = (terminated()?, signal(SignalKind::hangup()).map_err(Error::internal)?);
    telemetry::start_log(config.log_format, &config.log_filter)?;
    let metrics = telemetry::start_metrics()?;
    for warning in &config.warnings {
        tracing::warn!(%warning, "configuration");
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let shared = matches!(config.store, StoreConfig::Redis(_));
    let Stores { leases: store, entries } = open_stores(config.store)?;
    let audit_dir = config.audit.dir.clone();
    let log = Arc::new(DiskLog::open(config.audit)?);
    let place = keys::Place { shelf: Arc::new(StoreShelf(entries.clone())), shared, memory: keys::Memory::open(&audit_dir) };
    let edge = Arc::new(TlsEdge::new(clock.clone())?);
    let own = Arc::new(OwnCertificate::new(edge.clone()));
    own.want(config.identity)?;
    let vend = Vend::new(Arc::new(TimedStore(store.clone())), Arc::new(TimedLog(log)), clock.clone(), config.rules);
    let vend = Arc::new(vend.with_watch_limits(config.limits.of_watches()));
    let server = vend.watches().server();
    let desk = Arc::new(KeyDesk::new(vend.clone(), place, server, config.wrapper.clone()));
    desk.prepare(&vend.rules(), config.wrapper).await?;
    vend.follow_cas();
    let parts = Arc::new(Parts {
        keys: desk.clone(),
        authn: Arc::new(Callers::new(config.issuers, clock.now())?),
        trust: Arc::new(Trust::new(edge.clone(), config.trust_domains)?),
        own,
        vend: vend.clone(),
    });

    let listeners = Listeners::open(config.grpc, config.http, config.https, config.admin.as_deref()).await?;
    // A shutdown has two parts: first no new work, and when what is in flight has ended, no more passes and no more HTTP.
    let (drain, draining) = watch::channel(false);
    let (stop, shutdown) = watch::channel(false);
    let (settle, settled) = watch::channel(false);
    let (reporter, health) = health_reporter();
    let health = health.max_decoding_message_size(grpc::MAX_PUBLIC_MESSAGE);
    let limits = config.limits;
    let wiring = Wiring::new(parts.clone(), entries, edge, metrics, reporter, &limits);

    let mut passes = background::start(&vend, &shutdown, &settled);
    wiring.spawn_passes(&mut passes, &shutdown, draining.clone());
    passes.spawn(until(shutdown.clone(), reload::watch(parts.clone(), path, config.watched, hangup)));
    passes.spawn(until(shutdown.clone(), super::reconcile::watch(vend.clone(), store, audit_dir, settle)));
    let (suspects, shown) = mpsc::channel(clones::SUSPECTS);
    passes.spawn(until(shutdown.clone(), clones::look(vend.clone(), wiring.limiters.clone(), shown)));
    if let Some(admin) = listeners.admin {
        passes.spawn(serve_admin(admin, desk, shutdown.clone()));
    }
    tokio::spawn(until(shutdown.clone(), prefetch(parts)));
    let mut web = wiring.serve_web(listeners.http, listeners.https, config.root_crls, &limits, &shutdown);

    let in_flight = TaskTracker::new();
    let grpc_edge = wiring.grpc_edge(&limits, in_flight.clone(), draining.clone());
    let acceptor = Acceptor { edge: wiring.edge, registry: wiring.registry, clock, limits: limits.clone(), suspects };
    let incoming = acceptor.serve(listeners.grpc);
    let serving = async { grpc::serve(grpc_edge, &limits, health, incoming, stopped(draining)).await };
    listening();
    let served = tokio::select! {
        served = run_until_told(serving, told, &wiring.readiness, &drain, &limits) => served,
        ended = passes.join_next() => Err(Error::internal(format_args!("one of the service's passes has ended: {ended:?}"))),
    };
    finish_work(&in_flight, &limits, &vend).await;
    stop.send_replace(true);
    while passes.join_next().await.is_some() {}
    while web.join_next().await.is_some() {}
    wiring.presence.leave().await;
    tracing::info!("stopped");
    served
}

/// The sockets, open and not served yet.
struct Listeners {
    grpc: TcpListener,
    http: TcpListener,
    https: Option<TcpListener>,
    admin: Option<AdminSocket>,
}

impl Listeners {
    async fn open(grpc: SocketAddr, http: SocketAddr, https: Option<SocketAddr>, admin: Option<&Path>) -> Result<Self> {
        Ok(Self {
            grpc: listen(grpc, "grpc").await?,
            http: listen(http, "http").await?,
            https: match https {
                Some(address) => Some(listen(address, "https").await?),
                None => None,
            },
            admin: admin.map(AdminSocket::open).transpose()?,
        })
    }
}

/// What the passes and the edges share.
struct Wiring {
    parts: Arc<Parts>,
    edge: Arc<TlsEdge>,
    registry: Arc<Registry>,
    readiness: Arc<Readiness>,
    limiters: Arc<Limiters>,
    bundles: Arc<Bundles>,
    presence: Arc<Presence>,
    enrollments: Arc<Enrollments>,
    metrics: PrometheusHandle,
}

impl Wiring {
    fn new(
        parts: Arc<Parts>,
        entries: Arc<dyn EntryStore>,
        edge: Arc<TlsEdge>,
        metrics: PrometheusHandle,
        reporter: HealthReporter,
        limits: &Limits,
    ) -> Self {
        let Parts { vend, trust, keys: desk, .. } = &*parts;
        let bundles = Bundles::new(vend, limits.bundle_watches, limits.bundle_watches_per_address);
        let server = vend.watches().server();
        Self {
            readiness: Arc::new(Readiness::new(vend.clone(), trust.clone(), edge.clone(), desk.clone(), reporter)),
            presence: Presence::new(vend.clone(), entries.clone(), desk.clone(), bundles.clone(), server),
            enrollments: Arc::new(Enrollments::new(vend.clone(), entries)),
            limiters: Arc::new(Limiters::new(limits)),
            registry: Arc::new(Registry::default()),
            bundles,
            edge,
            metrics,
            parts,
        }
    }

    fn spawn_passes(&self, passes: &mut JoinSet<()>, shutdown: &Shutdown, draining: Shutdown) {
        let Parts { vend, trust, own, keys: desk, .. } = &*self.parts;
        passes.spawn(until(shutdown.clone(), trust::follow(trust.clone(), vend.clone())));
        passes.spawn(until(shutdown.clone(), bundles::keep(self.bundles.clone(), vend.clone())));
        passes.spawn(until(shutdown.clone(), presence::keep(self.presence.clone())));
        passes.spawn(until(shutdown.clone(), own_certificate::keep(own.clone(), vend.clone())));
        passes.spawn(until(shutdown.clone(), trust::cut_untrusted(self.edge.clone(), self.registry.clone(), vend.clone())));
        passes.spawn(until(shutdown.clone(), end_watches(draining, vend.clone())));
        let look = look(self.readiness.clone(), self.parts.clone(), self.limiters.clone(), self.metrics.clone());
        passes.spawn(until(shutdown.clone(), look));
        passes.spawn(until(shutdown.clone(), keys::keep(desk.clone())));
        passes.spawn(until(shutdown.clone(), background::forget_enrollments(self.enrollments.clone())));
    }

    fn serve_web(
        &self,
        http: TcpListener,
        https: Option<TcpListener>,
        root_crls: Vec<(String, Vec<u8>)>,
        limits: &Limits,
        shutdown: &Shutdown,
    ) -> JoinSet<()> {
        let vend = &self.parts.vend;
        let public = Public { vend: vend.clone(), readiness: self.readiness.clone(), metrics: self.metrics.clone(), root_crls };
        let public = Arc::new(public);
        let request_timeout = std_duration(limits.request_timeout);
        let tokens = Arc::new(TokenEdge { vend: vend.clone(), limiters: self.limiters.clone(), request_timeout });
        // With TLS at hand the secrets of leases do not travel without.
        let open = Edges { public: public.clone(), tokens: https.is_none().then(|| tokens.clone()) };
        let addresses = || Addresses::new(limits.http_connections_per_address, limits.handshakes_per_address);
        let mut web = JoinSet::new();
        web.spawn(http::serve(http, None, open, addresses(), stopped(shutdown.clone())));
        if let Some(listener) = https {
            let closed = Edges { public, tokens: Some(tokens) };
            web.spawn(http::serve(listener, Some(self.edge.clone()), closed, addresses(), stopped(shutdown.clone())));
        }
        web
    }

    fn grpc_edge(&self, limits: &Limits, in_flight: TaskTracker, draining: Shutdown) -> Arc<Edge> {
        Arc::new(Edge {
            vend: self.parts.vend.clone(),
            enrollments: self.enrollments.clone(),
            authn: self.parts.authn.clone(),
            trust: self.parts.trust.clone(),
            bundles: self.bundles.clone(),
            limiters: self.limiters.clone(),
            request_timeout: std_duration(limits.request_timeout),
            in_flight,
            streams: Arc::new(grpc::Streams::default()),
            connection_age: std_duration(limits.connection_age),
            shutdown: draining,
        })
    }
}

/// Serves until a signal, then drains within the configured time.
async fn run_until_told(
    serving: impl Future<Output = Result<()>>,
    told: impl Future<Output = ()>,
    readiness: &Readiness,
    drain: &watch::Sender<bool>,
    limits: &Limits,
) -> Result<()> {
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended,
        () = told => {}
    }
    tracing::info!("shutting down: no new work, finishing what is in flight");
    readiness.drain().await;
    drain.send_replace(true);
    match tokio::time::timeout(std_duration(limits.drain_timeout), serving).await {
        Ok(ended) => ended,
        Err(_) => {
            tracing::warn!("some connections did not end in time");
            Ok(())
        }
    }
}

/// Waits for what runs on without its caller, while the passes still do their part of it, and closes what calls left open.
async fn finish_work(in_flight: &TaskTracker, limits: &Limits, vend: &Vend) {
    in_flight.close();
    if tokio::time::timeout(std_duration(limits.drain_timeout), in_flight.wait()).await.is_err() {
        tracing::warn!(tasks = in_flight.len(), "some work did not end in time; what it left open is closed after the next start");
    }
    if let Err(error) = vend.close_open().await {
        tracing::warn!(%error, waiting = vend.open().len(), "leases of failed calls were not closed; they run to their expiry");
    }
}

/// One store, by its two ports.
struct Stores {
    leases: Arc<dyn LeaseStore>,
    entries: Arc<dyn EntryStore>,
}

fn open_stores(config: StoreConfig) -> Result<Stores> {
    fn both<S: LeaseStore + EntryStore + 'static>(store: S) -> Stores {
        let store = Arc::new(store);
        Stores { leases: store.clone(), entries: store }
    }
    Ok(match config {
        StoreConfig::Embedded { path, retention } => both(EmbeddedStore::open(&path, retention)?),
        StoreConfig::Redis(options) => both(RedisStore::new(options)?),
    })
}

/// Serves the admin socket until the end. What it cannot do is told: the service itself goes on.
async fn serve_admin(admin: AdminSocket, desk: Arc<KeyDesk>, shutdown: Shutdown) {
    if let Err(error) = admin.serve(desk, stopped(shutdown.clone())).await {
        tracing::error!(%error, "the admin socket is not served any more");
    }
    stopped(shutdown).await;
}

async fn listen(address: SocketAddr, what: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| Error::internal(format_args!("server.{what}: cannot listen on {address}: {error}")))
}

fn terminated() -> Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate()).map_err(Error::internal)?;
    let mut int = signal(SignalKind::interrupt()).map_err(Error::internal)?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

/// A first caller should not wait for its issuer's keys.
async fn prefetch(parts: Arc<Parts>) {
    parts.authn.prefetch(parts.vend.now()).await;
}

/// Ends the streams of watched leases when a shutdown begins: it would wait for each of them.
async fn end_watches(draining: Shutdown, vend: Arc<Vend>) {
    stopped(draining).await;
    vend.watches().close();
    std::future::pending::<()>().await;
}

async fn stopped(mut shutdown: Shutdown) {
    let _sender_gone = shutdown.wait_for(|over| *over).await;
}

/// Sets gauges, looks at readiness, forgets quiet callers, and folds what histograms have gathered, which would grow until somebody scrapes.
async fn look(readiness: Arc<Readiness>, parts: Arc<Parts>, limiters: Arc<Limiters>, recorder: PrometheusHandle) {
    let mut tick = ticker(LOOK_EVERY);
    loop {
        tick.tick().await;
        readiness.look().await;
        let now = parts.vend.now();
        if let Ok(stats) = parts.vend.stats().await {
            metrics::gauge!("daypass_live_leases").set(stats.live as f64);
            let lag = stats.oldest_due.map_or(0.0, |due| now.duration_since(due).as_secs_f64().max(0.0));
            metrics::gauge!("daypass_sweep_lag_seconds").set(lag);
        }
        metrics::gauge!("daypass_watches").set(parts.vend.watches().len() as f64);
        metrics::gauge!("daypass_rotation_lag_seconds").set(parts.vend.watches().lag(now));
        let audit = parts.vend.audit_health();
        metrics::gauge!("daypass_audit_waiting").set(audit.waiting as f64);
        metrics::gauge!("daypass_audit_lag_seconds").set(audit.lag.as_secs_f64());
        metrics::gauge!("daypass_audit_up").set(if audit.fault.is_none() { 1.0 } else { 0.0 });
        for (issuer, age) in parts.authn.key_age(now) {
            if let Some(age) = age {
                metrics::gauge!("daypass_jwks_age_seconds", "issuer" => issuer.to_string()).set(age.as_secs_f64());
            }
        }
        limiters.tidy();
        recorder.run_upkeep();
    }
}
