//! The rules of who may know whom.

use crate::paths::{self, Used};

/// Files under `rooms` use no path that begins with one of `forbidden`. A name without `crate::` is a crate; `aws_*` is
/// every crate whose name begins so.
struct Wall {
    rooms: &'static [&'static str],
    forbidden: &'static [&'static str],
    why: &'static str,
}

const WALLS: [Wall; 8] = [
    Wall {
        rooms: &["src/model/", "src/policy/"],
        forbidden: &["tonic*", "prost*", "tokio*", "redis", "rusqlite", "aws_*", "rustls*", "rcgen", "axum", "hyper*", "reqwest"],
        why: "the words and the policy are pure: no transport, no storage, no cryptography",
    },
    Wall {
        rooms: &["src/model/", "src/policy/"],
        forbidden: &[
            "crate::proto",
            "crate::store",
            "crate::audit",
            "crate::issuer",
            "crate::authn",
            "crate::vend",
            "crate::background",
            "crate::server",
            "crate::client",
            "crate::cli",
            "crate::clock",
        ],
        why: "the words and the policy know no other room",
    },
    Wall {
        rooms: &["src/issuer/"],
        forbidden: &[
            "crate::store",
            "crate::audit",
            "crate::authn",
            "crate::vend",
            "crate::background",
            "crate::server",
            "crate::proto",
            "tonic*",
            "prost*",
        ],
        why: "an issuer makes credentials: no store, no audit log, no gRPC",
    },
    Wall {
        rooms: &["src/server/grpc", "src/server/http"],
        forbidden: &["crate::issuer", "crate::store", "crate::audit"],
        why: "the edges call vend; what they could do behind its back would be on no record",
    },
    Wall {
        rooms: &["src/client", "src/cli", "src/agent"],
        forbidden: &["crate::server", "crate::vend", "crate::background", "crate::store", "crate::issuer", "crate::keys"],
        why: "the client's wing runs beside a job and holds nothing of the service",
    },
    Wall {
        rooms: &["src/keys"],
        forbidden: &[
            "crate::store",
            "crate::audit",
            "crate::issuer",
            "crate::authn",
            "crate::vend",
            "crate::server",
            "crate::proto",
            "tonic*",
        ],
        why: "keys know when they sign and how they are sealed; where they lie is a port",
    },
    Wall {
        rooms: &["src/unix", "src/clock"],
        forbidden: &[
            "crate::store",
            "crate::audit",
            "crate::issuer",
            "crate::authn",
            "crate::vend",
            "crate::background",
            "crate::server",
            "crate::client",
            "crate::cli",
            "crate::agent",
            "crate::keys",
            "crate::policy",
            "crate::proto",
        ],
        why: "what every room may use knows none of them",
    },
    Wall { rooms: &["src/"], forbidden: &["tempfile", "proptest", "crate::testing"], why: "production code imports no test support" },
];

/// What is used in few places: a path that begins with `what` stands only under `homes`.
struct Home {
    what: &'static str,
    homes: &'static [&'static str],
    why: &'static str,
}

const HOMES: [Home; 13] = [
    Home { what: "redis", homes: &["src/store/redis"], why: "the rest knows the port LeaseStore" },
    Home { what: "rusqlite", homes: &["src/store/embedded"], why: "the rest knows the port LeaseStore" },
    Home { what: "rcgen", homes: &["src/issuer/x509", "src/client/csr.rs"], why: "one place builds certificates, one a request" },
    Home { what: "cedar_policy*", homes: &["src/policy"], why: "one place decides" },
    Home { what: "aws_config", homes: &["src/issuer/aws"], why: "one place speaks to AWS" },
    Home { what: "aws_sdk_*", homes: &["src/issuer/aws"], why: "one place speaks to AWS" },
    Home { what: "aws_smithy_*", homes: &["src/issuer/aws"], why: "one place speaks to AWS" },
    Home { what: "aws_credential_types", homes: &["src/issuer/aws"], why: "one place speaks to AWS" },
    Home {
        what: "crate::proto",
        homes: &["src/server/grpc", "src/server/admin", "src/client", "src/agent/sockets", "src/proto.rs"],
        why: "the wire's types are converted at the edge, in one place",
    },
    Home { what: "crate::issuer::x509::Ask", homes: &["src/issuer/x509"], why: "elsewhere nothing is minted without a Grant" },
    Home {
        what: "crate::issuer::x509::bootstrap",
        homes: &["src/issuer/x509", "src/server/dev"],
        why: "it signs without a Grant, for the throwaway world only",
    },
    Home { what: "tonic_reflection", homes: &["src/server"], why: "it is an edge" },
    Home { what: "axum", homes: &["src/server/http"], why: "it is an edge" },
];

/// Reads of the wall clock: time is a parameter elsewhere.
const CLOCK: &str = "src/clock.rs";
const NOW: [&str; 4] = ["Timestamp::now", "SystemTime::now", "Zoned::now", "OffsetDateTime::now_utc"];

/// Every breach in a file: `file` is its path from the repository's root.
pub fn breaches(file: &str, source: &str) -> Vec<String> {
    if is_test(file) {
        return Vec::new();
    }
    paths::used(file, source)
        .iter()
        .flat_map(|used| broken(file, used).into_iter().map(|why| format!("{file}:{}: {}: {why}", used.line, used.path.join("::"))))
        .collect()
}

/// A test module in a file of its own.
fn is_test(file: &str) -> bool {
    file.ends_with("/tests.rs") || file.contains("/tests/")
}

fn broken(file: &str, used: &Used) -> Vec<String> {
    let mut found = Vec::new();
    let under = |rooms: &[&str]| rooms.iter().any(|room| file.starts_with(room));
    let walls = WALLS.iter().filter(|wall| under(wall.rooms) && wall.forbidden.iter().any(|path| begins(&used.path, path)));
    found.extend(walls.map(|wall| wall.why.to_owned()));
    let homes = HOMES.iter().filter(|home| begins(&used.path, home.what) && !under(home.homes));
    found.extend(homes.map(|home| format!("it stays in {}: {}", home.homes.join(" and "), home.why)));
    if let (Some(mine), Some(other)) = (issuer_of_file(file), issuer_of_path(&used.path))
        && mine != other
    {
        found.push("an issuer knows no other issuer".into());
    }
    let text = used.path.join("::");
    if file != CLOCK && NOW.iter().any(|now| text.ends_with(now)) {
        found.push(format!("only {CLOCK} reads the clock: take the time as a parameter"));
    }
    if used.reaches_up {
        found.push("name it from crate:: instead of climbing".into());
    }
    found
}

/// Whether a path begins with `crate::store`, `redis` or `aws_*`, segment by segment.
fn begins(path: &[String], with: &str) -> bool {
    let wanted: Vec<&str> = with.split("::").collect();
    path.len() >= wanted.len()
        && wanted
            .iter()
            .zip(path)
            .all(|(wanted, segment)| wanted.strip_suffix('*').map_or(wanted == segment, |start| segment.starts_with(start)))
}

/// `x509` for `src/issuer/x509/ca.rs` and `src/issuer/x509.rs`; none for `src/issuer/mod.rs`.
fn issuer_of_file(file: &str) -> Option<&str> {
    let inner = file.strip_prefix("src/issuer/")?.trim_end_matches(".rs").split('/').next()?;
    (inner != "mod").then_some(inner)
}

/// The issuer's module that a path enters; a type of the port itself is none.
fn issuer_of_path(path: &[String]) -> Option<&str> {
    let inner = path.get(2).filter(|_| begins(path, "crate::issuer"))?;
    inner.starts_with(char::is_lowercase).then_some(inner)
}

#[test]
fn breaches_are_found() {
    for (file, source) in [
        ("src/model/lease.rs", "use tokio::sync::Mutex;"),
        ("src/model/lease.rs", "use tokio_stream::Stream;"),
        ("src/policy/mod.rs", "fn f() { rustls_pki_types::f() }"),
        ("src/policy/mod.rs", "use crate::{model::Name, store::LeaseStore};"),
        ("src/issuer/x509/mod.rs", "use crate::audit::AuditLog;"),
        ("src/issuer/x509/mod.rs", "fn f() -> tonic::Status {}"),
        ("src/issuer/x509/mod.rs", "use crate::issuer::aws::Sts;"),
        ("src/issuer/x509/ca.rs", "use super::super::jwt::Key;"),
        ("src/server/grpc/lease.rs", "use crate::{vend::Vend, store};"),
        ("src/server/http/public.rs", "fn f() { crate::audit::open() }"),
        ("src/client/mod.rs", "use crate::server::config::Config;"),
        ("src/unix/files.rs", "use crate::client::error::Error;"),
        ("src/bin/daypass.rs", "fn main() { redis::Client::open() }"),
        ("src/vend/mod.rs", "use redis::AsyncCommands;"),
        ("src/store/mod.rs", "use redis::AsyncCommands;"),
        ("src/store/redis/mod.rs", "use rusqlite::Connection;"),
        ("src/server/dev.rs", "use rcgen as gen;"),
        ("src/vend/mod.rs", "use cedar_policy::Entities;"),
        ("src/vend/mod.rs", "use crate::proto::v1::Lease;"),
        ("src/vend/mod.rs", "use jiff::Timestamp; fn f() { Timestamp::now() }"),
        ("src/vend/mod.rs", "use std::time; fn f() { time::SystemTime::now() }"),
        ("src/vend/mod.rs", "use proptest::prelude::*;"),
        ("src/vend/issue/mod.rs", "fn f() { super::super::audit() }"),
    ] {
        let found = breaches(file, source);
        assert!(!found.is_empty(), "no breach found in {file}: {source}");
        assert!(found[0].starts_with(&format!("{file}:1: ")), "{}", found[0]);
    }
}

#[test]
fn what_is_allowed_passes() {
    for (file, source) in [
        ("src/model/lease.rs", "use jiff::Timestamp; // as tokio::time does\n const WHY: &str = \"redis::Client\";"),
        ("src/store/redis/mod.rs", "use redis::Script; use crate::store::LeaseStore;"),
        ("src/store/mod.rs", "pub mod redis; pub use redis::RedisStore;"),
        ("src/server/wiring.rs", "use crate::store::redis; fn f() { redis::RedisStore::connect() }"),
        ("src/issuer/x509/mod.rs", "use crate::{issuer::Issuer, policy::Grant}; use rcgen::KeyPair;"),
        ("src/issuer/x509/ca.rs", "use super::profile; use crate::issuer::x509::crl;"),
        ("src/server/grpc/mod.rs", "use crate::{authn, model::Name, proto::v1, vend::Vend};"),
        ("src/clock.rs", "fn f() { Timestamp::now() }"),
        ("src/vend/mod.rs", "#[cfg(test)] mod tests { use proptest::prelude::*; use redis::Client; }"),
        ("src/vend/tests.rs", "use proptest::prelude::*;"),
    ] {
        assert_eq!(breaches(file, source), [""; 0], "{file}: {source}");
    }
}
