//! The X.509 issuer: hostile requests, templates, the linter, chains, and the verdict of openssl and pkilint.
#![allow(clippy::unwrap_used, reason = "what fails in a helper fails its test")]
#![allow(clippy::cast_possible_truncation, reason = "lengths and digits are cut into bytes on purpose")]

mod der;
mod hostile;
mod lifecycle;
mod linter;
mod load;
mod profile;
mod roles;
mod speed;
mod tools;
mod verdicts;
mod world;
