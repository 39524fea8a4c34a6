//! First identities: codes, redeems, clones.

mod agent;
mod clones;
mod codes;
mod config;
mod decisions;
mod faults;
mod forks;
mod race;
mod world;
