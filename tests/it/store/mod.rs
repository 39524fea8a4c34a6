//! One conformance suite for every store, then what is particular to each.

mod conformance;
mod embedded;
mod entries;
mod leases;
mod measure;
mod redis;
mod reference;
