//! AWS sessions: what is asked for, what becomes of every answer, and what a revocation does, at MiniStack, at SeaweedFS and at an endpoint
//! that means no good.

mod config;
mod denial;
mod endpoint;
mod faults;
mod keyless;
mod sessions;
mod templates;
pub mod world;
