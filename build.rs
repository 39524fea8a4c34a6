//! Compiles the contract in `proto/` with a pure-Rust compiler, so that no `protoc` has to be installed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: [&str; 5] = [
    "daypass/v1/common.proto",
    "daypass/v1/credential.proto",
    "daypass/v1/lease.proto",
    "daypass/v1/trust.proto",
    "daypass/v1/audit.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    // Server reflection serves this very set.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("daypass.v1.bin"), descriptors.encode_to_vec())?;
    // A credential must not print; `src/proto.rs` says what its messages print instead.
    tonic_prost_build::configure()
        .skip_debug(["daypass.v1.AwsCredential", "daypass.v1.RegistryCredential", "daypass.v1.JwtCredential"])
        .compile_fds(descriptors)?;
    Ok(())
}
