//! `daypass.toml` of the throwaway world: written once with its comments, and changed only where a flag says so.

use std::{fs, net::SocketAddr, path::Path};

use toml_edit::{Array, DocumentMut, Item, Table, value};

use super::{DEFAULT_GRPC, DEFAULT_HTTP, DevOptions, at};
use crate::{
    model::error::{Code, Error, Result},
    unix::place::MAX_SOCKET_PATH,
};

const TEMPLATE: &str = include_str!("daypass.toml");

const AGENT: &str = include_str!("agent.toml");

/// Writes the file, or changes it where the options differ. Answers where HTTP listens.
pub(super) fn write(dir: &Path, options: &DevOptions) -> Result<SocketAddr> {
    let path = dir.join("daypass.toml");
    let before = if path.exists() { Some(fs::read_to_string(&path).map_err(|error| at(&path, &error))?) } else { None };
    let mut document: DocumentMut = before.as_deref().unwrap_or(TEMPLATE).parse().map_err(|error| refuse(&path, &error))?;
    keep_keys_in_store(&mut document);
    if dir.join("admin.sock").as_os_str().len() > MAX_SOCKET_PATH
        && let Some(server) = document.get_mut("server").and_then(Item::as_table_mut)
    {
        // The world is as good without it.
        server.remove("admin");
    }
    if before.is_none() {
        set_addresses(&mut document, DEFAULT_GRPC, DEFAULT_HTTP);
    }
    if let Some(grpc) = options.grpc {
        document["server"]["grpc"] = value(grpc.to_string());
    }
    if let Some(http) = options.http {
        set_http(&mut document, &http.to_string());
    }
    if let Some(store) = &options.store {
        set_store(&mut document, store)?;
    }
    let after = document.to_string();
    if before.as_deref() != Some(&after) {
        super::write(&path, after.as_bytes(), 0o644)?;
    }
    let http = document.get("server").and_then(|server| server.get("http")).and_then(Item::as_str).unwrap_or(DEFAULT_HTTP);
    http.parse().map_err(|error| refuse(&path, &format_args!("server.http: {error}")))
}

/// Writes the sample agent's file, or changes where its server is.
pub(super) fn write_agent(dir: &Path, grpc: SocketAddr) -> Result<()> {
    let path = dir.join("agent.toml");
    let before = if path.exists() { Some(fs::read_to_string(&path).map_err(|error| at(&path, &error))?) } else { None };
    let mut document: DocumentMut = before.as_deref().unwrap_or(AGENT).parse().map_err(|error| refuse(&path, &error))?;
    document["server"]["address"] = value(grpc.to_string());
    let too_long = dir.join("agent/workload.sock").as_os_str().len() > MAX_SOCKET_PATH;
    if too_long && before.is_none() {
        // The files are as good without them.
        document.remove("sockets");
    }
    let after = document.to_string();
    if before.as_deref() != Some(&after) {
        super::write(&path, after.as_bytes(), 0o644)?;
    }
    Ok(())
}

fn refuse(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::new(Code::InvalidRequest, format!("{}: {error}", path.display()))
}

fn set_addresses(document: &mut DocumentMut, grpc: &str, http: &str) {
    document["server"]["grpc"] = value(grpc);
    set_http(document, http);
}

/// A file from before keys were kept in the store names a directory for them, which nothing reads any more.
fn keep_keys_in_store(document: &mut DocumentMut) {
    let of_directory = document.get_mut("oidc").and_then(Item::as_table_mut).and_then(|oidc| oidc.remove("keys"));
    if of_directory.is_some() && !document.contains_key("keys") {
        let mut keys = Table::new();
        keys["wrapping_keys"] = value(Array::from_iter(["wrap.key"]));
        document["keys"] = Item::Table(keys);
    }
}

/// The HTTP address stands in the CRL's URL too, and so in every certificate; and it is the issuer of JWTs, where there is one: a file that
/// was written before there was has none.
fn set_http(document: &mut DocumentMut, http: &str) {
    document["server"]["http"] = value(http);
    if document.contains_key("oidc") {
        document["oidc"]["issuer"] = value(format!("http://{http}"));
    }
    for ca in document["ca"].as_array_of_tables_mut().into_iter().flat_map(|cas| cas.iter_mut()) {
        let name = if ca.contains_key("rotation") { "{ca}" } else { ca["name"].as_str().unwrap_or_default() }.to_owned();
        ca["crl_url"] = value(format!("http://{http}/crl/{name}.crl"));
    }
}

fn set_store(document: &mut DocumentMut, store: &str) -> Result<()> {
    let mut table = Table::new();
    if store == "embedded" {
        table["kind"] = value("embedded");
        table["path"] = value("store/leases.db");
    } else if store.starts_with("redis://") || store.starts_with("rediss://") {
        table["kind"] = value("redis");
        table["urls"] = value(Array::from_iter([store]));
    } else {
        return Err(Error::new(Code::InvalidRequest, "--store is \"embedded\" or the URL of a Redis (redis://127.0.0.1:6379)"));
    }
    let same = document.get("store").is_some_and(|now| now.get("kind").and_then(Item::as_str) == table["kind"].as_str())
        && table.get("urls").is_none_or(|urls| document["store"].get("urls").map(ToString::to_string) == Some(urls.to_string()));
    if !same {
        document["store"] = Item::Table(table);
    }
    Ok(())
}
