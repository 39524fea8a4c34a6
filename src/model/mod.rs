//! The words of the house: who asks, for what, under which rules, and what is on record of it.
//!
//! Nothing here does IO, awaits, or reads a clock; time is a parameter everywhere.

pub mod catalog;
pub mod claim;
pub mod credential;
pub mod enrollment;
pub mod error;
pub mod event;
pub mod fault;
pub mod hex;
pub mod host;
pub mod identity;
pub mod jws;
pub mod lease;
pub mod name;
pub mod pem;
pub mod policy_template;
pub mod request;
pub mod revocation;
pub mod role;
pub mod secret;
pub mod spiffe;
pub mod template;
pub mod tenant;
pub mod time;

pub use jiff::{SignedDuration, Timestamp};
