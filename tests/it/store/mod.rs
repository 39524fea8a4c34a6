//! One conformance suite for every store, then what is particular to each.

#![allow(clippy::unwrap_used)] // A test fails by panicking, helpers included.

mod conformance;
mod embedded;
mod leases;
mod measure;
mod redis;
mod reference;
