//! The X.509 issuer: hostile requests, templates, the linter, chains, and the verdict of openssl and pkilint.

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
