//! The contract, generated from `proto/` by `build.rs`. Stays inside the rooms that speak it: `server`, `client`, and `agent` for what others wrote.

#![allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications)]

pub mod codec;

/// `daypass.v1`.
pub mod v1 {
    tonic::include_proto!("daypass.v1");
}

/// `daypass.admin.v1`.
pub mod admin {
    tonic::include_proto!("daypass.admin.v1");
}

/// The SPIFFE Workload API, which has no package.
pub mod workload {
    tonic::include_proto!("_");
}

/// Envoy's secret discovery.
pub mod envoy {
    pub mod config {
        pub mod core {
            pub mod v3 {
                tonic::include_proto!("envoy.config.core.v3");
            }
        }
    }
    pub mod extensions {
        pub mod transport_sockets {
            pub mod tls {
                pub mod v3 {
                    tonic::include_proto!("envoy.extensions.transport_sockets.tls.v3");
                }
            }
        }
    }
    pub mod service {
        pub mod discovery {
            pub mod v3 {
                tonic::include_proto!("envoy.service.discovery.v3");
            }
        }
        pub mod secret {
            pub mod v3 {
                tonic::include_proto!("envoy.service.secret.v3");
            }
        }
    }
}

/// `google.rpc`.
pub mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

/// What the messages that hold a secret print: what names it, and no more.
mod debug {
    use std::fmt::{Debug, Formatter, Result};

    use super::{
        envoy::{config::core::v3::DataSource, service::discovery::v3::DiscoveryResponse},
        v1::{AwsCredential, CreateResponse, JwtCredential, RedeemRequest, RegistryCredential},
        workload::{Jwtsvid, ValidateJwtsvidRequest, X509svid},
    };

    impl Debug for CreateResponse {
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            f.debug_struct("CreateResponse").field("enrollment", &self.enrollment).finish_non_exhaustive()
        }
    }

    impl Debug for RedeemRequest {
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            f.debug_struct("RedeemRequest").finish_non_exhaustive()
        }
    }

    impl Debug for X509svid {
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            f.debug_struct("X509svid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
        }
    }

    impl Debug for Jwtsvid {
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            f.debug_struct("Jwtsvid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
        }
    }

    impl Debug for ValidateJwtsvidRequest {
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            f.debug_struct("ValidateJwtsvidRequest").finish_non_exhaustive()
        }
    }

    impl Debug for DiscoveryResponse {
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            f.debug_struct("DiscoveryResponse")
                .field("version_info", &self.version_info)
                .field("nonce", &self.nonce)
                .finish_non_exhaustive()
        }
    }

    impl Debug for DataSource {
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            f.debug_struct("DataSource").finish_non_exhaustive()
        }
    }

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
