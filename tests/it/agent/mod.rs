//! The agent: real Envoy, SPIFFE libraries, nginx and SDKs against it.

mod aws;
mod config;
mod hooks;
mod keeper;
mod notify;
mod publish;
mod run;
mod sds;
mod socket_limits;
mod socket_world;
mod workload;
