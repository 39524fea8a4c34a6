//! The heart over its real ports (SQLite, the log on disk, a real CA), with time and faults injected.

mod attacks;
mod cloud;
mod crashes;
mod denies;
mod faults;
mod faulty;
mod flows;
mod jwt;
mod registry;
mod remote;
mod world;
