//! The service: configuration, wiring, TLS, the gRPC and HTTP edges, telemetry.

mod addresses;
pub mod admin;
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
mod ready;
mod reconcile;
mod reload;
pub mod run;
mod telemetry;
mod tls;
mod trust;
