//! The audit logs of all servers: each generation of a lease was made once, whoever made it.

use std::{
    collections::{HashMap, HashSet},
    fs,
};

use serde::Deserialize;

use super::{Result, world::World};

/// The certificates on record, by lease and generation.
pub type Records = HashMap<(String, u32), HashSet<String>>;

#[derive(Deserialize)]
struct Record {
    outcome: String,
    lease: Option<Lease>,
}

#[derive(Deserialize)]
struct Lease {
    id: String,
    generation: u32,
    handle: Handle,
}

#[derive(Deserialize)]
struct Handle {
    x509: Certificates,
}

#[derive(Deserialize)]
struct Certificates {
    serials: Vec<LiveSerial>,
}

#[derive(Deserialize)]
struct LiveSerial {
    s: String,
}

/// Reads them.
pub fn read(world: &World) -> Result<Records> {
    let mut records = Records::new();
    for dir in world.audit_dirs() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "jsonl") {
                continue;
            }
            // A server that was killed may have left half a line at the end.
            for line in fs::read_to_string(&path)?.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                let record: Record = serde_json::from_str(line).map_err(|error| format!("{}: {error}: {line}", path.display()))?;
                if let (Some(lease), "done") = (record.lease, record.outcome.as_str())
                    && let Some(newest) = lease.handle.x509.serials.last()
                {
                    records.entry((lease.id, lease.generation)).or_default().insert(newest.s.clone());
                }
            }
        }
    }
    Ok(records)
}
