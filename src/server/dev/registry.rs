//! The throwaway registry: a token CA, and a configuration with which `docker-registry serve` starts and trusts it.

use std::{fs, net::SocketAddr, path::Path};

use toml_edit::{DocumentMut, Item};

use super::{at, write, write_new};
use crate::{
    issuer::x509::bootstrap,
    model::{
        SignedDuration, Timestamp,
        error::{Error, Result},
    },
};

/// The `[[registry]]` of the template.
const NAME: &str = "dev";

/// Where the throwaway registry listens, and its `host` in the template.
pub(super) const ADDRESS: &str = "127.0.0.1:5000";

const CA_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365 * 5);

/// Makes what is missing of it, and keeps the address of our token endpoint. Does nothing where `daypass.toml` has no such registry: it was
/// written before there was one, or it was taken out. Answers whether there is one.
pub(super) fn make(dir: &Path, http: SocketAddr, now: Timestamp) -> Result<bool> {
    let path = dir.join("daypass.toml");
    let text = fs::read_to_string(&path).map_err(|error| at(&path, &error))?;
    let document: DocumentMut = text.parse().map_err(Error::internal)?;
    let Some((service, issuer)) = service_and_issuer(&document) else { return Ok(false) };
    if !dir.join("pki/registry.pem").exists() {
        let ca = bootstrap::create_root("Daypass dev registry tokens", now, CA_LIFE)?;
        write(&dir.join("pki/registry.key"), ca.key_pem.as_bytes(), 0o600)?;
        // Last: its presence says that both are there.
        write(&dir.join("pki/registry.pem"), ca.certificate_pem.as_bytes(), 0o644)?;
    }
    let path = dir.join("registry.yml");
    write_new(&path, registry_yml(dir, http, &service, &issuer).as_bytes(), 0o644)?;
    let before = fs::read_to_string(&path).map_err(|error| at(&path, &error))?;
    let after = with_realm(&before, http);
    if after != before {
        write(&path, after.as_bytes(), 0o644)?;
    }
    Ok(true)
}

fn service_and_issuer(document: &DocumentMut) -> Option<(String, String)> {
    let registries = document.get("registry").and_then(Item::as_array_of_tables)?;
    let text = |key: &str, table: &toml_edit::Table| table.get(key).and_then(Item::as_str).map(str::to_owned);
    let table = registries.iter().find(|table| text("name", table).as_deref() == Some(NAME))?;
    Some((text("service", table)?, text("issuer", table)?))
}

fn registry_yml(dir: &Path, http: SocketAddr, service: &str, issuer: &str) -> String {
    let file = |name: &str| yaml_text(&dir.join(name).display().to_string());
    format!(
        "# A throwaway registry that trusts the tokens of this Daypass: docker-registry serve registry.yml\n\
         version: 0.1\n\
         log:\n  level: warn\n\
         storage:\n  filesystem:\n    rootdirectory: {data}\n  delete:\n    enabled: true\n\
         http:\n  addr: {ADDRESS}\n\
         auth:\n  token:\n{realm}\n    service: {service}\n    issuer: {issuer}\n    rootcertbundle: {bundle}\n",
        data = file("registry-data"),
        realm = realm(http),
        service = yaml_text(service),
        issuer = yaml_text(issuer),
        bundle = file("pki/registry.pem"),
    )
}

fn realm(http: SocketAddr) -> String {
    format!("    realm: {}", yaml_text(&format!("http://{http}/token")))
}

/// The same file with the address of our token endpoint as it is now.
fn with_realm(yml: &str, http: SocketAddr) -> String {
    let line = |line: &str| if line.trim_start().starts_with("realm:") { realm(http) } else { line.to_owned() };
    yml.lines().map(|text| line(text) + "\n").collect()
}

/// A text as a scalar of YAML: JSON's form of a string is one (YAML 1.2.2 section 1.1).
fn yaml_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_a_registry_is_left_alone_and_the_realm_follows() {
        let dir = tempfile::tempdir().unwrap();
        let (now, http) = (Timestamp::UNIX_EPOCH, |port: u16| SocketAddr::from(([127, 0, 0, 1], port)));
        fs::create_dir(dir.path().join("pki")).unwrap();
        fs::write(dir.path().join("daypass.toml"), "[server]\n").unwrap();
        assert!(!make(dir.path(), http(1), now).unwrap());
        assert!(!dir.path().join("registry.yml").exists() && !dir.path().join("pki/registry.pem").exists());

        fs::write(dir.path().join("daypass.toml"), include_str!("daypass.toml")).unwrap();
        assert!(make(dir.path(), http(1), now).unwrap());
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let (yml, ca) = (read("registry.yml"), read("pki/registry.pem"));
        assert!(yml.contains("realm: \"http://127.0.0.1:1/token\"\n") && yml.contains("service: \"registry.dev.daypass.test\"\n"), "{yml}");
        assert!(make(dir.path(), http(2), now).unwrap());
        assert_eq!(read("registry.yml"), yml.replace("127.0.0.1:1/", "127.0.0.1:2/"), "nothing else changes");
        assert_eq!(read("pki/registry.pem"), ca, "a registry that runs trusts the old one");
    }
}
