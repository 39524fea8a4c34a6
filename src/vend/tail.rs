//! Tail: the record, as far as the caller may read it.

use std::collections::HashMap;

use serde::Deserialize;
use tokio::sync::mpsc;

use super::{Call, Vend};
use crate::{
    audit::read::Records,
    model::{
        error::{Error, Result},
        name::TenantName,
    },
};

/// Records read from disk at a time.
const CHUNK: usize = 256;

/// Where a tail begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailFrom {
    /// After a sequence number; 0 is the beginning.
    After(u64),
    /// With this many of the newest.
    Newest(usize),
}

#[derive(Deserialize)]
struct Concern {
    #[serde(default)]
    tenant: Option<TenantName>,
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(Error::internal)?
}

fn read_chunk(mut reading: Records) -> Result<(Records, Vec<(u64, String)>)> {
    let chunk = reading.by_ref().take(CHUNK).collect::<Result<Vec<_>>>()?;
    Ok((reading, chunk))
}

impl Vend {
    /// Sends records in order, leaving out those that the caller may not read, until the receiver is dropped or, without `follow`, until the
    /// newest durable one. Every record that is sent is durable.
    pub async fn tail(&self, call: &Call, from: TailFrom, follow: bool, records: mpsc::Sender<(u64, String)>) -> Result<()> {
        let reader = self.audit.reader();
        let mut durable = reader.durable();
        let after = match from {
            TailFrom::After(seq) => seq,
            TailFrom::Newest(count) => durable.borrow().saturating_sub(count as u64),
        };
        let mut reading = blocking(move || reader.after(after)).await?;
        loop {
            durable.mark_unchanged();
            loop {
                let (read_on, chunk) = blocking(move || read_chunk(reading)).await?;
                reading = read_on;
                if chunk.is_empty() {
                    break;
                }
                // Asked for each chunk anew: a policy may change while somebody follows.
                let mut may: HashMap<Option<TenantName>, bool> = HashMap::new();
                for (seq, record) in chunk {
                    let concern: Concern = serde_json::from_str(&record).map_err(Error::internal)?;
                    let allowed = *may.entry(concern.tenant).or_insert_with_key(|tenant| self.may_audit(call, tenant.as_ref()));
                    if allowed && records.send((seq, record)).await.is_err() {
                        return Ok(());
                    }
                }
            }
            if !follow {
                return Ok(());
            }
            tokio::select! {
                changed = durable.changed() => if changed.is_err() { return Ok(()) },
                () = records.closed() => return Ok(()),
            }
        }
    }
}
