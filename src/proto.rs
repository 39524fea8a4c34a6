//! The contract, generated from `proto/` by `build.rs`. Stays inside `server::grpc` and `client`.

#![allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications)]

/// `daypass.v1`.
pub mod v1 {
    tonic::include_proto!("daypass.v1");
}

/// What the messages that hold a secret print: what names it, and no more.
mod debug {
    use std::fmt::{Debug, Formatter, Result};

    use super::v1::{AwsCredential, JwtCredential, RegistryCredential};

    impl Debug for AwsCredential {
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            f.debug_struct("AwsCredential").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
        }
    }

    impl Debug for RegistryCredential {
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            f.debug_struct("RegistryCredential").field("registry", &self.registry).finish_non_exhaustive()
        }
    }

    impl Debug for JwtCredential {
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            f.debug_struct("JwtCredential").finish_non_exhaustive()
        }
    }
}

/// The encoded `FileDescriptorSet`, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/daypass.v1.bin"));
