//! The contract, generated from `proto/` by `build.rs`. Stays inside `server::grpc` and `client`.

#![allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications)]

/// `daypass.v1`.
pub mod v1 {
    tonic::include_proto!("daypass.v1");
}

/// The encoded `FileDescriptorSet`, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/daypass.v1.bin"));
