//! The agent: real Envoy, SPIFFE libraries, nginx and SDKs against it.

mod aws;
mod keeper;
mod sds;
mod socket_limits;
mod socket_world;
mod workload;
