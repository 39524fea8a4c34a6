//! What runs beside jobs and workloads for as long as the machine does: keeps roles fresh on disk, and serves the interfaces that Envoy,
//! SPIFFE libraries and AWS SDKs already speak.

pub mod desk;
pub mod sockets;
