//! The agent: real Envoy, SPIFFE libraries, nginx and SDKs against it.

mod away;
mod aws;
mod config;
mod hooks;
mod identity;
mod keeper;
mod limits;
mod notify;
mod publish;
mod reload;
mod run;
mod sds;
mod socket_limits;
mod socket_world;
mod workload;
