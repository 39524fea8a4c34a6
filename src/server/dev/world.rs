//! The throwaway PKI: a root, an issuing CA, the server's certificate, and certificates for an operator and a vendor.

use std::{net::SocketAddr, path::Path, sync::Arc};

use super::{at, write_new};
use crate::{
    issuer::x509::{
        Authority, CaConfig, DEFAULT_CRL_LIFE,
        bootstrap::{self, Made, MadeLeaf},
        plan::San,
    },
    model::{
        SignedDuration, Timestamp,
        error::{Error, Result},
    },
};

/// The trust domain of the throwaway world.
pub(super) const TRUST_DOMAIN: &str = "dev.daypass.test";

const ROOT_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365 * 10);
const ISSUING_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365 * 5);
const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365);

/// Makes the PKI unless it is there.
pub(super) fn make(dir: &Path, http: SocketAddr, now: Timestamp) -> Result<()> {
    if dir.join("pki/server.pem").exists() {
        return Ok(());
    }
    let root = bootstrap::create_root("Daypass dev root", now, ROOT_LIFE)?;
    let root_crl_url = format!("http://{http}/crl/root-issuing.crl");
    let issuing = bootstrap::create_issuing(&root, "Daypass dev issuing", Some(&root_crl_url), now, ISSUING_LIFE)?;
    let root_crl = bootstrap::create_empty_root_crl(&root, 1, now, ISSUING_LIFE)?;
    let authority = Authority::load(
        CaConfig {
            name: "issuing".parse().map_err(Error::internal)?,
            chain_pem: issuing.certificate_pem.clone().into_bytes(),
            root_pem: root.certificate_pem.clone().into_bytes(),
            key: bootstrap::file_key(&issuing)? as Arc<_>,
            crl_url: format!("http://{http}/crl/issuing.crl"),
            crl_life: DEFAULT_CRL_LIFE,
        },
        now,
    )
    .map_err(|faults| Error::internal(faults.join("; ")))?;
    let names = vec![San::Dns("localhost".to_owned()), San::Ip([127, 0, 0, 1].into()), San::Ip(std::net::Ipv6Addr::LOCALHOST.into())];
    let server = bootstrap::create_server_certificate(&authority, names, now, LEAF_LIFE)?;
    let client = |path: &str| bootstrap::create_client_certificate(&authority, &format!("spiffe://{TRUST_DOMAIN}/{path}"), now, LEAF_LIFE);

    write_ca(dir, "pki/root.key", "ca.pem", &root)?;
    write_ca(dir, "pki/issuing.key", "pki/issuing.pem", &issuing)?;
    write_new(&dir.join("pki/root.crl"), &root_crl.der, 0o644)?;
    write_leaf(dir, "operator", &client("operator")?)?;
    write_leaf(dir, "vendor", &client("vendor/acme-scan")?)?;
    // Last: its presence says that the PKI is whole.
    write_leaf(dir, "pki/server", &server)
}

fn write_ca(dir: &Path, key: &str, certificate: &str, made: &Made) -> Result<()> {
    write(dir, key, made.key_pem.as_bytes(), 0o600)?;
    write(dir, certificate, made.certificate_pem.as_bytes(), 0o644)
}

fn write_leaf(dir: &Path, name: &str, made: &MadeLeaf) -> Result<()> {
    write(dir, &format!("{name}.key"), made.key_pem.as_bytes(), 0o600)?;
    write(dir, &format!("{name}.pem"), made.chain_pem.as_bytes(), 0o644)
}

/// Replaces what an earlier run that did not finish has left: keys and certificates must be of one making.
fn write(dir: &Path, name: &str, content: &[u8], mode: u32) -> Result<()> {
    let path = dir.join(name);
    if path.exists() {
        std::fs::remove_file(&path).map_err(|error| at(&path, &error))?;
    }
    write_new(&path, content, mode)
}
