//! Compiles the contracts in `proto/` with a pure-Rust compiler, so that no `protoc` has to be installed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

/// What we serve to everybody.
const OURS: [&str; 6] = [
    "daypass/v1/common.proto",
    "daypass/v1/credential.proto",
    "daypass/v1/lease.proto",
    "daypass/v1/trust.proto",
    "daypass/v1/audit.proto",
    "daypass/v1/enrollment.proto",
];

/// What is served on sockets of the machine: to its administrator, and by the agent to workloads.
const LOCAL: [&str; 4] = [
    "daypass/admin/v1/keys.proto",
    "spiffe/workload.proto",
    "envoy/service/secret/v3/sds.proto",
    "envoy/extensions/transport_sockets/tls/v3/secret.proto",
];

/// Messages that must not print; `src/proto.rs` says what they print instead.
const SECRET: [&str; 10] = [
    "daypass.v1.AwsCredential",
    "daypass.v1.RegistryCredential",
    "daypass.v1.JwtCredential",
    "daypass.v1.CreateResponse",
    "daypass.v1.RedeemRequest",
    ".X509SVID",
    ".JWTSVID",
    ".ValidateJWTSVIDRequest",
    "envoy.config.core.v3.DataSource",
    "envoy.service.discovery.v3.DiscoveryResponse",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(OURS, ["proto"])?;
    // Server reflection serves this very set.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("daypass.v1.bin"), descriptors.encode_to_vec())?;
    let all = protox::compile(OURS.iter().chain(&LOCAL), ["proto"])?;
    tonic_prost_build::configure().codec_path("crate::proto::codec::SmallBuffers").skip_debug(SECRET).compile_fds(all)?;
    Ok(())
}
