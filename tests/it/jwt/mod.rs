//! JWTs: what they say, which keys sign them and when, and who verifies them.

mod config;
mod relying;
mod tokens;
pub mod world;
