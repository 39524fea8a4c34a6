//! What runs beside jobs and workloads for as long as the machine does: keeps roles fresh on disk, and serves the interfaces that Envoy,
//! SPIFFE libraries and AWS SDKs already speak.
//!
//! | file | what it does |
//! |---|---|
//! | [`run`] | wires all of it together until the agent is told to end |
//! | [`config`] | `agent.toml` |
//! | [`server`] | who the agent is at the server, at that moment |
//! | [`keeper`] | keeps one role: watches its lease, hands out what is fresh, acknowledges |
//! | [`kept`] | the state directory |
//! | [`outlet`] | where a role's credential goes: its files, then its hook |
//! | [`publish`] | a role's files: all of one making at one moment |
//! | [`hook`] | what is told after a change |
//! | [`desk`] | what the agent has in its hands, as it is and as it becomes |
//! | [`sockets`] | the interfaces that workloads already speak |
//! | `bundle` | follows the trust bundle |
//! | `standing` | for how long a connection of the agent's own may be used |
//! | `jwts` | JWTs on demand |
//! | [`identity`] | the agent's own client certificate |
//! | [`health`] | health, readiness, metrics |
//! | [`notify`] | tells systemd |
//! | [`accounts`] | users and groups of this machine |

pub mod accounts;
mod bundle;
pub mod config;
pub mod desk;
pub mod health;
pub mod hook;
pub mod identity;
mod jwts;
pub mod keeper;
pub mod kept;
pub mod notify;
pub mod outlet;
pub mod publish;
pub mod run;
pub mod server;
pub mod sockets;
mod standing;

use tokio::sync::watch;

/// Ends when the agent does.
async fn over(shutdown: &mut watch::Receiver<bool>) {
    // A sender that has gone says so too.
    let _ = shutdown.wait_for(|over| *over).await;
}
