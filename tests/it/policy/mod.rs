//! Policy: what loads, what is refused and where, who may do what, and why not.

mod decisions;
mod deployed;
mod equivalence;
mod explain;
mod load;
mod matrix;
mod world;
