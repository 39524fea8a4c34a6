//! One multiplexed connection to Redis, made on first use and made anew when it is of no more use.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisConnectionInfo, RedisError,
    RedisResult, ServerErrorKind, TlsCertificates, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo},
};
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep, timeout_at},
};

use super::{RedisOptions, scripts::Text};
use crate::{
    clock::Backoff,
    model::error::{Code, Error},
    store::unavailable,
};

/// The first wait before a command is tried again; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// After a failed attempt to connect nobody tries for so long, doubling from one to the other: a stopped Redis is not hammered by every
/// waiting call, and each attempt over TLS reads the system's roots.
const CONNECT_PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(400)];

/// How many attempts, each with its own view of a cluster, fit into the time limit of a call at least.
const CLUSTER_ATTEMPTS: u32 = 3;

/// The most that one of them takes.
const LONGEST_CLUSTER_ATTEMPT: Duration = Duration::from_secs(1);

/// How often the library itself tries again within one attempt.
const CLUSTER_RETRIES: u32 = 3;

/// Makes, shares and replaces the connection.
pub struct Connector {
    nodes: Vec<ConnectionInfo>,
    tls: Option<TlsCertificates>,
    cluster: bool,
    timeout: Duration,
    slot: Mutex<Slot>,
}

/// The connection that is in use, and the last failure to make one.
struct Slot {
    link: Arc<OnceCell<Link>>,
    failed: Option<Failed>,
    pauses: Backoff,
}

struct Failed {
    cause: String,
    /// When the next attempt may be made.
    until: Instant,
}

#[derive(Clone)]
enum Link {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// What to do with a connection.
#[derive(Clone, Copy)]
enum Work<'a> {
    Command(&'a Cmd),
    Script(&'static Text, &'a Cmd),
    OnPrimaries(&'a Cmd),
}

/// Why an attempt came to nothing, and what may help.
struct Failure {
    remedy: Remedy,
    cause: String,
}

enum Remedy {
    /// Another connection, perhaps to another server.
    Reconnect,
    /// Time.
    Wait,
    /// Nothing within this call.
    None,
}

impl Slot {
    fn new() -> Self {
        Self { link: Arc::default(), failed: None, pauses: Backoff::new(CONNECT_PAUSES[0], CONNECT_PAUSES[1]) }
    }
}

impl Connector {
    /// Checks the options; speaks to nobody.
    pub fn new(options: RedisOptions) -> Result<Self, Error> {
        let wrong = |text: String| Error::new(Code::StoreUnavailable, text);
        if options.urls.is_empty() {
            return Err(wrong("the lease store needs at least one redis:// or rediss:// URL".into()));
        }
        if options.timeout.is_zero() {
            return Err(wrong("the time limit of the lease store must be more than zero".into()));
        }
        let mut nodes = Vec::with_capacity(options.urls.len());
        for (place, url) in options.urls.iter().enumerate() {
            // The URL may hold a password, so that no error repeats it.
            let form = || wrong(format!("URL {} of the lease store is no redis:// or rediss:// URL", place + 1));
            if !url.starts_with("redis://") && !url.starts_with("rediss://") {
                return Err(form());
            }
            let info = url.as_str().into_connection_info().map_err(|_| form())?;
            let login = login(info.redis_settings(), &options);
            nodes.push(info.set_redis_settings(login));
        }
        let encrypted = options.urls.iter().any(|url| url.starts_with("rediss://"));
        if encrypted {
            // The client library takes the process' default; a second call changes nothing.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        let tls = encrypted.then_some(TlsCertificates { client_tls: None, root_cert: options.ca_pem });
        Ok(Self { nodes, tls, cluster: options.cluster, timeout: options.timeout, slot: Mutex::new(Slot::new()) })
    }

    /// Runs a script that [`Text::on`] called.
    pub async fn script<T: FromRedisValue>(&self, script: &'static Text, call: &Cmd) -> Result<T, Error> {
        self.retry(Work::Script(script, call)).await
    }

    /// Runs a command.
    pub async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Error> {
        self.retry(Work::Command(command)).await
    }

    /// Runs a command whose answer is a text on every primary, and gives the answers in no order.
    pub async fn on_primaries(&self, command: &Cmd) -> Result<Vec<String>, Error> {
        self.retry(Work::OnPrimaries(command)).await
    }

    /// Tries until it is done, cannot be done, or the time is up. What is tried must be safe to repeat.
    async fn retry<T: FromRedisValue>(&self, work: Work<'_>) -> Result<T, Error> {
        let end = Instant::now() + self.timeout;
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut cause = String::from("no attempt ended");
        let mut used = None;
        let attempts = async {
            loop {
                let failure = match self.link(&mut used).await {
                    Ok(mut link) => match work.attempt(&mut link).await {
                        Ok(answer) => return Ok(answer),
                        Err(error) => Failure::from(error),
                    },
                    Err(cause) => Failure { remedy: Remedy::Wait, cause },
                };
                cause = failure.cause;
                match failure.remedy {
                    Remedy::None => return Err(unavailable(&cause)),
                    Remedy::Reconnect => self.forget(used.as_ref()),
                    Remedy::Wait => {}
                }
                sleep(backoff.pause()).await;
            }
        };
        let answer = match timeout_at(end, attempts).await {
            Ok(outcome) => outcome?,
            Err(_) => {
                // A server that hangs, or a dead peer that TCP has not noticed: the next call takes a new connection.
                self.forget(used.as_ref());
                return Err(unavailable(format!("no answer within {:?}: {cause}", self.timeout)));
            }
        };
        T::from_redis_value(answer).map_err(unavailable)
    }

    /// The shared connection; it is made when there is none, by one caller while the others wait.
    async fn link(&self, used: &mut Option<Arc<OnceCell<Link>>>) -> Result<Link, String> {
        let cell = {
            let slot = self.slot();
            if let Some(failed) = slot.failed.as_ref().filter(|failed| Instant::now() < failed.until) {
                return Err(failed.cause.clone());
            }
            slot.link.clone()
        };
        *used = Some(cell.clone());
        let link = cell.get_or_try_init(|| self.connect()).await;
        let mut slot = self.slot();
        match link {
            Ok(link) => {
                slot.failed = None;
                slot.pauses.reset();
                Ok(link.clone())
            }
            Err(error) => {
                let cause = format!("cannot connect: {error}");
                let until = Instant::now() + slot.pauses.pause();
                slot.failed = Some(Failed { cause: cause.clone(), until });
                Err(cause)
            }
        }
    }

    /// Lets go of a connection, unless another caller did.
    fn forget(&self, used: Option<&Arc<OnceCell<Link>>>) {
        let mut slot = self.slot();
        if used.is_some_and(|used| Arc::ptr_eq(used, &slot.link)) {
            slot.link = Arc::default();
        }
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Slot> {
        // What it guards is valid after any panic: it is replaced as a whole.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self) -> RedisResult<Link> {
        if self.cluster {
            return self.connect_cluster().await.map(Link::Cluster);
        }
        let nodes = self.candidates();
        let mut last = None;
        for node in nodes {
            match self.connect_single(node, nodes.len() > 1).await {
                Ok(connection) => return Ok(Link::Single(connection)),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| RedisError::from((ErrorKind::InvalidClientConfig, "no address"))))
    }

    /// Where the primary may be, the likeliest first. This is the one place to ask a Sentinel, once there is one.
    fn candidates(&self) -> &[ConnectionInfo] {
        &self.nodes
    }

    async fn connect_single(&self, node: &ConnectionInfo, check_role: bool) -> RedisResult<MultiplexedConnection> {
        let client = match &self.tls {
            Some(tls) if matches!(node.addr(), redis::ConnectionAddr::TcpTls { .. }) => Client::build_with_tls(node.clone(), tls.clone())?,
            _ => Client::open(node.clone())?,
        };
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(self.timeout)).set_response_timeout(Some(self.timeout));
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        if check_role {
            let info: String = redis::cmd("INFO").arg("replication").query_async(&mut connection).await?;
            if !info.contains("role:master") {
                return Err(RedisError::from((ErrorKind::Io, "this server is a replica")));
            }
        }
        Ok(connection)
    }

    async fn connect_cluster(&self) -> RedisResult<ClusterConnection> {
        // The library asks again where the slots are now; when that does not help, the next attempt does it from the start.
        let attempt = (self.timeout / CLUSTER_ATTEMPTS).min(LONGEST_CLUSTER_ATTEMPT);
        let mut builder = ClusterClient::builder(self.nodes.clone())
            .retries(CLUSTER_RETRIES)
            .connection_timeout(attempt)
            .response_timeout(attempt)
            .overall_response_timeout(Some(attempt));
        if let Some(tls) = &self.tls {
            builder = builder.certs(tls.clone());
        }
        builder.build()?.get_async_connection().await
    }
}

impl Work<'_> {
    async fn attempt(self, link: &mut Link) -> RedisResult<Value> {
        match self {
            Self::Command(command) => link.req_packed_command(command).await?.extract_error(),
            Self::Script(script, call) => match link.req_packed_command(call).await.and_then(Value::extract_error) {
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    link.req_packed_command(&script.with_source(call)).await?.extract_error()
                }
                outcome => outcome,
            },
            Self::OnPrimaries(command) => link.on_primaries(command).await,
        }
    }
}

impl Link {
    async fn on_primaries(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Single(connection) => Ok(Value::Array(vec![connection.req_packed_command(command).await?.extract_error()?])),
            Self::Cluster(connection) => {
                let routing = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
                match connection.route_command(command.clone(), routing).await? {
                    Value::Map(answers) => Ok(Value::Array(answers.into_iter().map(|(_, answer)| answer).collect())),
                    other => Ok(other),
                }
            }
        }
    }
}

/// The options' user and password, else the URL's.
fn login(url: &RedisConnectionInfo, options: &RedisOptions) -> RedisConnectionInfo {
    let mut login = url.clone();
    if let Some(username) = &options.username {
        login = login.set_username(username);
    }
    if let Some(password) = &options.password {
        login = login.set_password(password.as_str());
    }
    login
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        let remedy = match error.kind() {
            // After a failover the old primary comes back as a replica: the library stays with it.
            ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown) => Remedy::Reconnect,
            ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::Moved
                | ServerErrorKind::Ask,
            ) => Remedy::Wait,
            ErrorKind::Io | ErrorKind::Parse | ErrorKind::ClusterConnectionNotFound => Remedy::Reconnect,
            _ => Remedy::None,
        };
        // A script that was refused by a replica reports it in its own error's text.
        let cause = error.to_string();
        let remedy = if matches!(remedy, Remedy::None) && cause.contains("READONLY") { Remedy::Reconnect } else { remedy };
        Self { remedy, cause }
    }
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> redis::RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(command),
            Self::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a redis::Pipeline,
        offset: usize,
        count: usize,
    ) -> redis::RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}
