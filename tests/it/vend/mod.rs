//! The heart over its real ports (SQLite, the log on disk, a real CA), with time and faults injected.

mod attacks;
mod faults;
mod faulty;
mod flows;
mod world;
