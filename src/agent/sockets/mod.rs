//! The interfaces that workloads already speak, over what the agent has: the SPIFFE Workload API and Envoy's secret discovery on unix
//! sockets, the AWS container credentials endpoint on the loopback interface.
//!
//! | file | what it does |
//! |---|---|
//! | here | binds all of them, then serves them until the agent ends |
//! | `config` | `[sockets]` of `agent.toml` |
//! | `authority` | lets in clients that put a path into `:authority` |
//! | `view`, `follow` | what a process may see, as it is and as it becomes |
//! | `workload`, `jwt` | the SPIFFE Workload API |
//! | `sds` | Envoy's secret discovery |
//! | `aws`, `container` | the AWS container credentials endpoint |

pub mod authority;
mod aws;
pub mod config;
pub mod container;
mod follow;
mod jwt;
mod sds;
mod view;
mod workload;

use std::{
    io,
    net::SocketAddrV4,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use tokio::{sync::watch, task::JoinSet};
use tonic::{
    service::interceptor::InterceptedService,
    transport::{Server, server::Router},
};

pub use self::{
    authority::AnyAuthority,
    aws::PATH as AWS_PATH,
    config::SocketsSection,
    jwt::{FETCH_TIMEOUT, MAX_FETCHES, MAX_FETCHES_PER_USER},
    sds::{MAX_MESSAGE as MAX_SDS_MESSAGE, MAX_NAME as MAX_SECRET_NAME, MAX_NAMES as MAX_SECRET_NAMES, MAX_REASON},
    workload::MAX_MESSAGE as MAX_WORKLOAD_MESSAGE,
};
use self::{
    aws::BoundAws,
    config::{Group, Mode},
    jwt::JwtSvids,
    sds::Sds,
    view::Shown,
    workload::{Workload, check_header},
};
use super::{
    accounts::gid,
    desk::{Desk, JwtSource},
    over,
};
use crate::{
    client::{
        error::{Error, Kind, Result},
        settings::plain,
    },
    clock::{Clock, SystemClock},
    proto::{
        envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryServiceServer,
        workload::spiffe_workload_api_server::SpiffeWorkloadApiServer,
    },
    unix::{
        peer::{Most, Peer, incoming},
        place::BoundSocket,
        seldom::Seldom,
    },
};

/// How many connections a socket has at a time. Further ones wait to be accepted.
pub const MAX_CONNECTIONS: usize = 1024;

/// How many of them one user has. Further ones are closed.
pub const MAX_CONNECTIONS_PER_USER: usize = 256;

/// How many calls a connection may have in flight. Further ones wait at the client.
pub const STREAMS_PER_CONNECTION: u32 = 256;

/// The largest header list of a call, in bytes.
pub const MAX_HEADERS: u32 = 16 * 1024;

/// How many resets a connection may have pending (rapid reset).
pub const MAX_PENDING_RESETS: usize = 20;

/// How long connections may take to end when the agent does. Streams end at once.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// What is bound and not served yet: who connects waits.
pub struct Sockets {
    section: SocketsSection,
    most: Most,
    workload: Option<BoundSocket>,
    sds: Option<BoundSocket>,
    aws: Option<BoundAws>,
}

impl Sockets {
    /// Binds what is configured, each socket with its mode and group from the first moment on; must be called in a runtime. What a dead
    /// agent left is replaced, what a living one serves is not.
    ///
    /// # Errors
    /// When one cannot be bound; then none is.
    pub fn bind(section: SocketsSection) -> Result<Self> {
        let workload = section.workload.as_ref();
        let workload = workload.map(|found| bind_unix(&found.path, found.mode, found.group.as_ref())).transpose()?;
        let sds = section.sds.as_ref();
        let sds = sds.map(|found| bind_unix(&found.path, found.mode, found.group.as_ref())).transpose()?;
        let aws = section.aws.as_ref().map(aws::bind).transpose()?;
        let most = Most { connections: MAX_CONNECTIONS, per_user: MAX_CONNECTIONS_PER_USER };
        Ok(Self { section, most, workload, sds, aws })
    }

    /// With fewer connections where the process may have few files open: workloads must not keep the agent from its own.
    #[must_use]
    pub fn within(mut self, open_files: u64) -> Self {
        self.most = most_within(open_files);
        self
    }

    /// Where the AWS endpoint listens, if it is configured.
    pub fn aws_address(&self) -> Option<SocketAddrV4> {
        self.aws.as_ref().map(|aws| aws.address)
    }

    /// Serves until `shutdown` says true or its sender is gone, then ends every stream and removes what was bound.
    ///
    /// # Errors
    /// When a server ends by itself.
    pub async fn serve(self, desk: Arc<Desk>, jwts: Arc<dyn JwtSource>, mut shutdown: watch::Receiver<bool>) -> Result<()> {
        // Both end with this future, whoever drops it: the servers, and by `end` the streams of their connections.
        let mut servers = JoinSet::new();
        let (end, ended) = watch::channel(false);
        self.start(&mut servers, &desk, jwts, &ended);
        tokio::select! {
            () = over(&mut shutdown) => {}
            Some(failed) = servers.join_next() => {
                let by_itself = || Error::new(Kind::Other, "SOCKET", "a server of the agent's sockets ended by itself");
                return Err(failed.map_err(|_| by_itself())?.err().unwrap_or_else(by_itself));
            }
        }
        end.send_replace(true);
        while let Some(ended) = servers.join_next().await {
            ended.map_err(|error| Error::new(Kind::Other, "SOCKET", format!("a server of the agent's sockets failed: {error}")))??;
        }
        Ok(())
    }

    fn start(self, servers: &mut JoinSet<Result<()>>, desk: &Arc<Desk>, jwts: Arc<dyn JwtSource>, shutdown: &watch::Receiver<bool>) {
        let Self { section, most, workload, sds, aws } = self;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (access, trust_domain) = (section.roles, section.trust_domain);
        let shown = |roles| Shown { desk: desk.clone(), roles, access: access.clone(), trust_domain: trust_domain.clone() };
        if let (Some(bound), Some(section)) = (workload, section.workload) {
            let jwts = JwtSvids::new(jwts, section.jwt_roles);
            let service = Workload { shown: shown(section.roles), jwts, clock: clock.clone(), shutdown: shutdown.clone() };
            let service = SpiffeWorkloadApiServer::new(service).max_decoding_message_size(workload::MAX_MESSAGE);
            let service = InterceptedService::new(service, check_header);
            servers.spawn(serve_unix("workload", bound, most, server().add_service(service), shutdown.clone()));
        }
        if let (Some(bound), Some(section)) = (sds, section.sds) {
            let service = Sds { shown: shown(section.roles), shutdown: shutdown.clone(), rejections: Arc::default() };
            let service = SecretDiscoveryServiceServer::new(service).max_decoding_message_size(sds::MAX_MESSAGE);
            servers.spawn(serve_unix("sds", bound, most, server().add_service(service), shutdown.clone()));
        }
        if let (Some(bound), Some(section)) = (aws, section.aws) {
            servers.spawn(serve_aws(bound, shown(section.roles), clock, shutdown.clone()));
        }
    }
}

/// Half of the files that may be open are for the two unix sockets, and a quarter of a socket's for one user.
fn most_within(open_files: u64) -> Most {
    let connections = usize::try_from(open_files / 4).unwrap_or(usize::MAX).clamp(1, MAX_CONNECTIONS);
    if connections < MAX_CONNECTIONS {
        tracing::warn!(open_files, connections, "few files may be open (ulimit -n): each unix socket takes fewer connections");
    }
    Most { connections, per_user: connections.div_ceil(4).min(MAX_CONNECTIONS_PER_USER) }
}

fn bind_unix(path: &Path, mode: Mode, group: Option<&Group>) -> Result<BoundSocket> {
    BoundSocket::bind(path, mode.0, group.map(gid).transpose()?).map_err(|error| fault(path, &error))
}

fn fault(path: &Path, error: &io::Error) -> Error {
    Error::new(Kind::Other, "SOCKET", format!("{}: {}", path.display(), plain(error)))
}

fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
}

/// Serves until the agent ends, and a little longer for who is slow to leave.
async fn serve_unix(name: &'static str, bound: BoundSocket, most: Most, router: Router, shutdown: watch::Receiver<bool>) -> Result<()> {
    let BoundSocket { listener, file } = bound;
    let (mut stop, mut end) = (shutdown.clone(), shutdown);
    let lines = Seldom::default();
    let connections = incoming(listener, most, move |peer| refused(name, peer, &lines)).map(|accepted| accepted.map(AnyAuthority::new));
    let served = router.serve_with_incoming_shutdown(connections, async move { over(&mut stop).await });
    let drained = async {
        over(&mut end).await;
        tokio::time::sleep(DRAIN_TIMEOUT).await;
    };
    let ended = tokio::select! {
        served = served => served.map_err(|error| Error::new(Kind::Other, "SOCKET", format!("{}: {error}", file.path().display()))),
        () = drained => Ok(()),
    };
    drop(file);
    ended
}

fn refused(socket: &'static str, peer: Peer, lines: &Seldom) {
    metrics::counter!("daypass_agent_connections_refused_total", "socket" => socket).increment(1);
    if lines.may(Instant::now()) {
        tracing::warn!(socket, uid = peer.uid, pid = peer.pid, "a user has as many connections as one may have");
    }
}

async fn serve_aws(bound: BoundAws, shown: Shown, clock: Arc<dyn Clock>, mut shutdown: watch::Receiver<bool>) -> Result<()> {
    let BoundAws { listener, token, address: _, file } = bound;
    tokio::select! {
        () = container::serve(listener, token, clock, Arc::new(shown)) => {}
        () = over(&mut shutdown) => {}
    }
    drop(file);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_files_that_may_be_open_stay_the_agents_own() {
        let most = |open_files| {
            let most = most_within(open_files);
            (most.connections, most.per_user)
        };
        assert_eq!(most(u64::MAX), (MAX_CONNECTIONS, MAX_CONNECTIONS_PER_USER));
        assert_eq!(most(4 * MAX_CONNECTIONS as u64), (MAX_CONNECTIONS, MAX_CONNECTIONS_PER_USER));
        assert_eq!(most(1024), (256, 64));
        assert_eq!(most(0), (1, 1));
    }
}
