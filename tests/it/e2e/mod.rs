//! The whole product: `daypassd dev` and `daypass` as they are built, as a newcomer would use them.

mod audit_log;
pub mod aws;
mod aws_dev;
mod aws_proxy;
mod canary;
mod ci;
mod crash;
mod denied;
mod exec;
mod limits;
mod matrix;
mod outage;
mod registry;
mod registry_access;
mod registry_faults;
mod reload;
mod revoked_client;
mod token;
mod tour;
mod two_servers;
mod wire;
pub mod world;
mod x509;
