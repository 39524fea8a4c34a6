//! JWTs: what they say, which keys sign them and when, and who verifies them.

mod config;
mod keys;
mod relying;
mod tokens;
mod world;
