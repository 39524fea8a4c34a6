//! Everything that runs against real servers, real TLS and real binaries, in one test binary.
#![allow(missing_docs, clippy::unwrap_used)] // A test fails by panicking, its helpers included.

mod agent;
mod attack;
mod audit;
mod authn;
mod aws;
mod cli;
mod config;
mod e2e;
mod enroll;
mod jwt;
mod keys;
mod policy;
mod readme;
mod registry;
mod store;
mod support;
mod vend;
mod watch;
mod x509;
