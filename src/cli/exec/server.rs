//! The server, asked anew each time: a caller's identity may be a token that is good for one use.

use std::env;

use crate::{
    cli::{connection::Connection, tell},
    client::{
        Client,
        error::{Error, Result},
        settings::Settings,
        types::Lease,
    },
};

/// Why a lease is revoked at the end, for the record.
const ENDED: &str = "the command of daypass exec ended";

/// Where the server is and who asks.
#[derive(Debug, Clone)]
pub struct Server {
    connection: Connection,
}

impl Server {
    /// By the flags; the environment is read with each use.
    pub fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// The flags.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// A client with an identity that is read now.
    pub fn client(&self) -> Result<Client> {
        Client::new(self.settings()?)
    }

    /// Tells what the user should know about the settings, once.
    pub fn warn(&self) -> Result<()> {
        tell(&self.settings()?, self.connection.is_quiet(&|name| env::var_os(name)), false);
        Ok(())
    }

    /// Revokes leases one by one; those that could not be come back, each with the reason.
    pub async fn revoke(&self, leases: &[String], client: &mut Client) -> Vec<(String, Error)> {
        let mut failed = Vec::new();
        for id in leases {
            if let Err(error) = client.revoke(id, ENDED).await {
                failed.push((id.clone(), error));
            }
        }
        failed
    }

    fn settings(&self) -> Result<Settings> {
        Settings::load(self.connection.clone().into(), &|name| env::var_os(name))
    }
}

/// What to tell of a lease that could not be revoked.
pub fn not_revoked(lease: &Lease, error: &Error) -> String {
    format!(
        "warning: lease {} (role {}) is not revoked: {error}; its credential may be accepted until {}; `daypass lease revoke {}` tries again",
        lease.id,
        lease.role,
        lease.revocation.live_until.max(lease.expires_at),
        lease.id
    )
}
