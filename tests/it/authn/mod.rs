//! Bad tokens, bad issuers, bad certificates: each named, each refused.

// Helpers of tests are tests too; clippy's allowance sees only the functions marked #[test].

mod bad_tokens;
mod certs;
mod collisions;
mod fake_issuer;
mod faults;
mod fetching;
mod jose;
mod key_files;
mod mtls;
mod tls;
mod tokens;
