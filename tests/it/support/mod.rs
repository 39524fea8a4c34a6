//! Real parts that tests run against; each ends with the value that holds it.

pub mod parts;
pub mod redis;
