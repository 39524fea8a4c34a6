//! The service: configuration, wiring, TLS, the gRPC and HTTP edges, telemetry.

mod addresses;
mod bundles;
mod callers;
pub mod config;
mod conn;
pub mod dev;
mod grpc;
mod http;
mod limiters;
mod listener;
mod own_certificate;
mod ready;
mod reconcile;
mod reload;
pub mod run;
mod signing_keys;
mod telemetry;
mod tls;
mod trust;
