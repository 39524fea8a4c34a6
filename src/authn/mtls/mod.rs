//! Client certificates of configured trust domains.
//!
//! | file | what it does |
//! |---|---|
//! | `store` | the trust domains: whose CA, which CRLs, how to read an identity; verifies a chain |
//! | `identity` | one identity out of a verified leaf |
//! | `server` | the TLS of the server: version, key exchange, no resumption, replaceable trust |
//! | `verdict` | what a chain proved, and until when that stands |

mod identity;
mod server;
mod store;
mod verdict;

pub use crate::model::spiffe::{BadSpiffeId, MAX_SPIFFE_ID, SpiffeId};
pub use identity::MAX_COMMON_NAME;
pub use server::{ClientVerifier, server_config};
pub use store::{ExpiredCrl, MAX_CERTIFICATE, MAX_CHAIN, RotatingCa, TrustDomainConfig, TrustStore};
pub use verdict::{Heard, Verdict, with_verdict};
