//! Registry tokens: the token endpoint of the built server, and a real registry that takes what it signs, under real clients.

mod clients;
mod edge;
mod lifetime;
mod templates;
mod tls;
mod world;
