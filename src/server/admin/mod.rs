//! The admin socket: what an administrator on the server's own machine may do, on a Unix socket that root and the service's own user alone
//! may open. Who opens it is known by the kernel's word (`SO_PEERCRED`, unix(7)).

pub mod command;
mod convert;
mod service;

use std::{path::Path, sync::Arc, time::Duration};

use tonic::transport::Server;

use self::service::AdminService;
use super::keys::KeyDesk;
use crate::{
    model::error::{Error, Result},
    proto::admin::key_service_server::KeyServiceServer,
    unix::{
        peer::{Most, incoming},
        place::BoundSocket,
    },
};

/// Connections at once; more wait.
pub const MAX_CONNECTIONS: usize = 16;

/// The largest message, in bytes: names.
pub const MAX_MESSAGE: usize = 4 * 1024;

/// How long a call may take. A key of RSA takes seconds to make on a small machine.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection may live.
const CONNECTION_AGE: Duration = Duration::from_secs(120);

/// Calls in flight on one connection.
const MAX_CALLS: u32 = 4;

/// Who may open the socket by the file's mode; the peer's user is asked for all the same.
const MODE: u32 = 0o600;

/// The admin socket, open and not served yet. Its file goes with it.
pub(super) struct AdminSocket(BoundSocket);

impl AdminSocket {
    /// Opens the socket, for its owner alone. One that a server which is gone left behind is replaced.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let bound = BoundSocket::bind(path, MODE, None).map(Self);
        bound.map_err(|error| Error::internal(format_args!("server.admin: {}: {error}", path.display())))
    }

    /// Serves until `shutdown` resolves.
    pub(super) async fn serve(self, desk: Arc<KeyDesk>, shutdown: impl Future<Output = ()>) -> Result<()> {
        let keys = KeyServiceServer::new(AdminService::new(desk)).max_decoding_message_size(MAX_MESSAGE);
        let mut server = Server::builder()
            .timeout(CALL_TIMEOUT)
            .max_concurrent_streams(MAX_CALLS)
            .max_connection_age(CONNECTION_AGE)
            .max_connection_age_grace(CALL_TIMEOUT);
        let BoundSocket { listener, file } = self.0;
        // Whoever may call has all of them.
        let connections = incoming(listener, Most { connections: MAX_CONNECTIONS, per_user: MAX_CONNECTIONS }, |_| {});
        let served = server.add_service(keys).serve_with_incoming_shutdown(connections, shutdown).await;
        drop(file);
        served.map_err(Error::internal)
    }
}
