//! Health, readiness and metrics, over HTTP on the loopback interface.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};

use super::{identity::Identity, keeper::KeeperStatus, over};
use crate::{
    client::{
        error::{Error, Kind, Result},
        settings::plain,
        text::one_line,
    },
    clock::Clock,
};

/// Connections at once; others wait.
pub const MAX_CONNECTIONS: usize = 32;

/// How long a client may take to send its request's head.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may last in all.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest head of a request, in bytes.
pub const MAX_HEAD: usize = 16 * 1024;

/// How everything that the agent keeps stands.
pub struct Board {
    roles: Vec<(String, watch::Receiver<KeeperStatus>)>,
    identity: Option<watch::Receiver<Arc<Identity>>>,
    /// Why the identity cannot be kept.
    lost: Option<watch::Receiver<Option<Error>>>,
    clock: Arc<dyn Clock>,
    metrics: PrometheusHandle,
}

impl Board {
    /// A board over what keepers say.
    pub fn new(roles: Vec<(String, watch::Receiver<KeeperStatus>)>, clock: Arc<dyn Clock>, metrics: PrometheusHandle) -> Self {
        Self { roles, identity: None, lost: None, clock, metrics }
    }

    /// With an identity that is kept too.
    #[must_use]
    pub fn with_identity(mut self, identity: watch::Receiver<Arc<Identity>>, lost: watch::Receiver<Option<Error>>) -> Self {
        (self.identity, self.lost) = (Some(identity), Some(lost));
        self
    }

    /// What keeps the agent from being ready, a line each; ready when there is none: every role has a valid credential where its readers
    /// find it. That the server is away does not matter until one expires.
    pub fn missing(&self) -> Vec<String> {
        let now = self.clock.now();
        let missing = self.roles.iter().filter_map(|(name, status)| {
            let status = status.borrow();
            let why = match status.valid_until {
                Some(until) if until > now => return None,
                Some(until) => format!("its credential expired at {until}"),
                None => "it has no credential yet".to_owned(),
            };
            let last = status.last_error.as_ref().map(|error| format!(" ({})", one_line(error))).unwrap_or_default();
            Some(format!("role {name}: {why}{last}"))
        });
        let lost = self.lost.as_ref().and_then(|lost| lost.borrow().clone()).map(|why| format!("identity: {}", one_line(why.message())));
        missing.chain(lost).collect()
    }

    /// How many roles have a valid credential, and how many there are.
    pub fn fresh(&self) -> (usize, usize) {
        let now = self.clock.now();
        let fresh = self.roles.iter().filter(|(_, status)| status.borrow().valid_until.is_some_and(|until| until > now));
        (fresh.count(), self.roles.len())
    }

    /// Resolves when something about a role changed.
    pub async fn changed(&mut self) {
        let mut changes: Vec<_> = self.roles.iter_mut().map(|(_, status)| Box::pin(status.changed())).collect();
        if changes.is_empty() {
            return std::future::pending().await;
        }
        let (ended, _, _) = futures::future::select_all(changes.drain(..)).await;
        if ended.is_err() {
            // A keeper has ended; whoever waits for it sees to that.
            std::future::pending::<()>().await;
        }
    }

    /// Folds what histograms have gathered, which would grow until somebody scrapes.
    pub fn fold(&self) {
        self.metrics.run_upkeep();
    }

    fn set_gauges(&self) {
        for (role, status) in &self.roles {
            let status = status.borrow();
            let role = || role.clone();
            metrics::gauge!("daypass_agent_connected", "role" => role()).set(f64::from(u8::from(status.connected)));
            metrics::gauge!("daypass_agent_generation", "role" => role()).set(f64::from(status.generation));
            metrics::gauge!("daypass_agent_valid_until_timestamp_seconds", "role" => role()).set(seconds(status.valid_until));
            metrics::counter!("daypass_agent_rotations_total", "role" => role()).absolute(status.rotations);
            metrics::counter!("daypass_agent_failures_total", "role" => role()).absolute(status.failures);
        }
        if let Some(identity) = &self.identity {
            let kept = identity.borrow().kept.clone();
            metrics::gauge!("daypass_agent_identity_valid_until_timestamp_seconds").set(seconds(Some(kept.expires_at)));
            metrics::gauge!("daypass_agent_identity_generation").set(f64::from(kept.generation));
        }
        metrics::gauge!("daypass_agent_ready").set(f64::from(u8::from(self.missing().is_empty())));
    }

    /// The metrics, without those of roles that only an earlier configuration had: the recorder forgets none.
    fn page(&self) -> String {
        self.set_gauges();
        let is_kept = |line: &&str| role_of(line).is_none_or(|role| self.roles.iter().any(|(name, _)| name == role));
        self.metrics.render().lines().filter(is_kept).flat_map(|line| [line, "\n"]).collect()
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<String> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return reply(StatusCode::METHOD_NOT_ALLOWED, "only GET is known here\n".to_owned());
        }
        match request.uri().path() {
            "/healthz" => reply(StatusCode::OK, "alive\n".to_owned()),
            "/readyz" => match self.missing().as_slice() {
                [] => reply(StatusCode::OK, "ready\n".to_owned()),
                missing => reply(StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n"),
            },
            "/metrics" => {
                let mut page = reply(StatusCode::OK, self.page());
                page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
                page
            }
            _ => reply(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics\n".to_owned()),
        }
    }
}

/// Binds the address.
///
/// # Errors
/// When it cannot be had.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    let fault = |error| Error::new(Kind::Other, "HEALTH", format!("health.listen: {address}: {}", plain(&error)));
    TcpListener::bind(address).await.map_err(fault)
}

/// Serves until the agent ends.
pub async fn serve(listener: TcpListener, board: Arc<Board>, mut shutdown: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // They end with this future.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let next = async { (places.clone().acquire_owned().await, listener.accept().await) };
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = over(&mut shutdown) => return,
        };
        match (place, accepted) {
            (Ok(place), Ok((tcp, _))) => {
                let board = board.clone();
                connections.spawn(async move {
                    connection(tcp, board).await;
                    drop(place);
                });
            }
            // Too many open files, perhaps: it must not become a busy loop.
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn connection(tcp: TcpStream, board: Arc<Board>) {
    let service = service_fn(|request| {
        let board = board.clone();
        async move { Ok::<_, Infallible>(board.answer(&request)) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD);
    // Whoever broke it off has nothing to hear.
    let _ = timeout(CONNECTION_TIMEOUT, http.serve_connection(TokioIo::new(tcp), service)).await;
}

/// The role that a line of the metrics is about. Names of roles need no escape.
fn role_of(line: &str) -> Option<&str> {
    line.split_once("role=\"")?.1.split_once('"').map(|(role, _)| role)
}

fn reply(status: StatusCode, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn seconds(at: Option<Timestamp>) -> f64 {
    at.map_or(0.0, |at| at.as_duration().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct At(Timestamp);

    impl Clock for At {
        fn now(&self) -> Timestamp {
            self.0
        }
    }

    fn board(statuses: Vec<KeeperStatus>) -> Board {
        let roles = statuses.into_iter().enumerate().map(|(at, status)| (format!("r{at}"), watch::channel(status).1)).collect();
        let metrics = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle();
        Board::new(roles, Arc::new(At(Timestamp::from_second(100).unwrap())), metrics)
    }

    fn valid_until(second: i64) -> KeeperStatus {
        KeeperStatus { valid_until: Some(Timestamp::from_second(second).unwrap()), generation: 1, ..KeeperStatus::default() }
    }

    #[test]
    fn it_is_ready_when_every_role_has_what_is_valid_wherever_the_server_is() {
        let away = KeeperStatus { last_error: Some("UNAVAILABLE: gone".to_owned()), failures: 7, ..valid_until(101) };
        let ready = board(vec![valid_until(200), away]);
        assert_eq!((ready.missing(), ready.fresh()), (vec![], (2, 2)));
    }

    #[test]
    fn what_is_missing_is_said_in_a_line_each() {
        let denied = KeeperStatus { last_error: Some("DENIED: no\nway".to_owned()), ..KeeperStatus::default() };
        let board = board(vec![valid_until(200), valid_until(100), denied]);
        let missing = board.missing();
        assert_eq!(
            missing,
            ["role r1: its credential expired at 1970-01-01T00:01:40Z", "role r2: it has no credential yet (DENIED: no way)"]
        );
        assert_eq!(board.fresh(), (1, 3));
        let (_sender, lost) = watch::channel(Some(Error::new(Kind::NotAuthenticated, "CERTIFICATE_REVOKED", "revoked")));
        let board = Board { lost: Some(lost), ..board };
        assert_eq!(board.missing()[2], "identity: revoked");
    }
}
