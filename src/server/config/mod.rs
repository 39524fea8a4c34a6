//! Configuration: one TOML file. Unknown keys are refused, secrets are paths, and every fault is told at once with its line.

mod aws;
mod build;
mod cas;
mod catalog;
mod file;
mod issuers;
mod keys;
mod limits;
mod oidc;
mod registry;
mod roles;
mod sections;
mod trial;
mod watched;

pub use build::{Config, StoreConfig};
pub use cas::{CA_ROTATE_EVERY, DEFAULT_PUBLISH_AHEAD, MAX_AUTHORITIES, MAX_OWN_NAMES, OWN_LIFE, OwnCertificateConfig, ServerIdentity};
pub use file::load;
pub use keys::admin_socket;
pub use limits::Limits;
pub(super) use limits::std_duration;
pub use sections::LogFormat;
pub use trial::{RETENTION, SEGMENT_BYTES, STORE_TIMEOUT};
pub use watched::Watched;
