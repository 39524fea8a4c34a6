//! The heart over its real ports (SQLite, the log on disk, a real CA), with time and faults injected.

mod attacks;
pub mod cloud;
mod crashes;
mod denies;
mod faults;
pub mod faulty;
mod flows;
mod jwt;
mod registry;
mod remote;
pub mod world;
