//! First identities: codes, redeems, clones.

mod agent;
mod clones;
mod codes;
mod config;
mod decisions;
mod race;
mod world;
