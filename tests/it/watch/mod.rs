//! Rotation: streams, claims, acknowledgements.

mod clock;
mod clones;
mod ends;
mod faults;
mod holder;
mod kinds;
mod rotation;
mod servers;
mod tokens;
mod turns;
