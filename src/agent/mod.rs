//! What runs beside jobs and workloads for as long as the machine does: keeps roles fresh on disk, and serves the interfaces that Envoy,
//! SPIFFE libraries and AWS SDKs already speak.
//!
//! | file | what it does |
//! |---|---|
//! | [`keeper`] | keeps one role: watches its lease, hands out what is fresh, acknowledges |
//! | [`kept`] | the state directory |
//! | [`desk`] | what the agent has in its hands, as it is and as it becomes |
//! | [`bundle`] | follows the trust bundle |
//! | [`jwts`] | JWTs on demand |
//! | [`identity`] | the agent's own client certificate |

pub mod bundle;
pub mod desk;
pub mod identity;
pub mod jwts;
pub mod keeper;
pub mod kept;
pub mod sockets;
