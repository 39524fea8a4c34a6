//! The service: configuration, wiring, TLS, the gRPC and HTTP edges, telemetry.

mod addresses;
pub mod admin;
mod bundles;
mod callers;
mod clones;
pub mod config;
mod conn;
pub mod dev;
mod grpc;
mod http;
pub mod keys;
mod limiters;
mod listener;
mod own_certificate;
mod presence;
mod ready;
mod reconcile;
mod reload;
pub mod run;
mod telemetry;
mod tls;
mod trust;
