//! Policy: what loads, what is refused and where, who may do what, and why not.
#![allow(clippy::unwrap_used)] // the helpers below the tests are test code too

mod decisions;
mod equivalence;
mod explain;
mod load;
mod matrix;
mod world;
