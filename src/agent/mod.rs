//! `daypass agent`: what runs beside a workload and keeps its credentials fresh.

pub mod accounts;
pub mod desk;
pub mod identity;
pub mod sockets;
