//! Configuration: one TOML file. Unknown keys are refused, secrets are paths, and every fault is told at once with its line.

mod build;
mod catalog;
mod file;
mod issuers;
mod limits;
mod sections;

pub use build::{Config, StoreConfig};
pub use file::load;
pub use limits::Limits;
pub(super) use limits::std_duration;
pub use sections::LogFormat;
