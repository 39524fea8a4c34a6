//! What a run found, for people and for machines.

use std::{fmt, time::Duration};

use serde_json::{Value, json};

use super::{
    Args, Result,
    drive::Load,
    process::load_average,
    upkeep::{Revocation, Upkeep},
    world::World,
};

/// A mebibyte.
const MIB: f64 = 1024.0 * 1024.0;

/// Everything that is told.
pub struct Report {
    setting: String,
    load_average: f64,
    rss_at_start: u64,
    /// The requests.
    pub load: Load,
    /// The server's resident memory after them, in bytes.
    pub server_rss: u64,
    /// What the leases cost, when they were counted.
    pub upkeep: Option<Upkeep>,
}

impl Report {
    /// What is known before the first request.
    pub fn new(world: &World, args: &Args) -> Result<Self> {
        let who = if args.oidc { "a CI token for each request" } else { "mTLS" };
        let connections = match (args.reconnect, args.connections.min(args.concurrency)) {
            (true, _) => "a new connection for each request".to_owned(),
            (false, n) => format!("{n} connections"),
        };
        let (store, concurrency, policies) = (&args.store, args.concurrency, args.policies);
        Ok(Self {
            setting: format!("store {store}, {who}, {connections}, {concurrency} in flight, {policies} further policies"),
            load_average: load_average()?,
            rss_at_start: world.server_rss()?,
            load: Load::default(),
            server_rss: 0,
            upkeep: None,
        })
    }

    /// One object; times in seconds, sizes in bytes, CPU in microseconds for each request.
    pub fn to_json(&self) -> Value {
        let load = &self.load;
        json!({
            "setting": self.setting, "load_average": self.load_average,
            "requests": load.done, "errors": load.errors, "first_error": load.first_error,
            "seconds": load.elapsed.as_secs_f64(), "rate": load.rate(),
            "p50_us": load.percentile(50), "p99_us": load.percentile(99),
            "server_cpu_us": load.per_request(load.server_cpu),
            "redis_cpu_us": load.redis_cpu.map(|cpu| load.per_request(cpu)),
            "client_cpu_us": load.per_request(load.client_cpu),
            "server_rss_at_start": self.rss_at_start, "server_rss": self.server_rss,
            "upkeep": self.upkeep.as_ref().map(upkeep_json),
        })
    }
}

fn upkeep_json(upkeep: &Upkeep) -> Value {
    json!({
        "redis_bytes_per_lease": upkeep.redis_bytes_per_lease,
        "restart_seconds": upkeep.restart.as_secs_f64(), "server_rss_after_restart": upkeep.rss_after_restart,
        "revocation": upkeep.revocation.as_ref().map(|revocation| json!({
            "revoked": revocation.revoked, "failed": revocation.failed,
            "summary_seconds": revocation.summary.as_secs_f64(), "crl_seconds": revocation.crl.as_secs_f64(),
            "server_cpu_seconds": revocation.server_cpu, "redis_cpu_seconds": revocation.redis_cpu,
        })),
    })
}

impl Load {
    fn rate(&self) -> f64 {
        self.done as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }

    /// Microseconds; 0 when nothing was answered.
    fn percentile(&self, percent: usize) -> u32 {
        let at = (self.micros.len() * percent / 100).min(self.micros.len().saturating_sub(1));
        self.micros.get(at).copied().unwrap_or(0)
    }

    /// Microseconds for each request, which is milliseconds for each 1,000.
    fn per_request(&self, cpu_seconds: f64) -> f64 {
        cpu_seconds * 1e6 / (self.done.max(1) as f64)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let load = &self.load;
        let millis = |micros: u32| f64::from(micros) / 1000.0;
        writeln!(f, "{} (load average {:.1})", self.setting, self.load_average)?;
        writeln!(
            f,
            "  requests        {} in {:.2} s: {:.0}/s, {} errors",
            load.done,
            load.elapsed.as_secs_f64(),
            load.rate(),
            load.errors
        )?;
        if let Some(error) = &load.first_error {
            writeln!(f, "  first error     {error}")?;
        }
        writeln!(f, "  latency         p50 {:.2} ms, p99 {:.2} ms", millis(load.percentile(50)), millis(load.percentile(99)))?;
        let redis = load.redis_cpu.map(|cpu| format!("Redis {:.1}, ", load.per_request(cpu))).unwrap_or_default();
        let (server, client) = (load.per_request(load.server_cpu), load.per_request(load.client_cpu));
        writeln!(f, "  CPU for 1,000   server {server:.1}, {redis}this client {client:.1} ms")?;
        writeln!(f, "  server's RSS    {:.1} MiB, at its start {:.1}", self.server_rss as f64 / MIB, self.rss_at_start as f64 / MIB)?;
        match &self.upkeep {
            Some(upkeep) => write!(f, "{upkeep}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Upkeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(bytes) = self.redis_bytes_per_lease {
            writeln!(f, "  Redis           {bytes:.0} bytes for each lease")?;
        }
        let rss = self.rss_after_restart as f64 / MIB;
        writeln!(f, "  restart         ready after {}, RSS {rss:.1} MiB", seconds(self.restart))?;
        match &self.revocation {
            Some(revocation) => write!(f, "{revocation}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let redis = self.redis_cpu.map(|cpu| format!(", Redis {cpu:.2} s")).unwrap_or_default();
        writeln!(f, "  revoke          {} revoked, {} failed: summary after {}", self.revoked, self.failed, seconds(self.summary))?;
        writeln!(f, "                  all in the CRL after {}; CPU server {:.2} s{redis}", seconds(self.crl), self.server_cpu)
    }
}

fn seconds(span: Duration) -> String {
    format!("{:.2} s", span.as_secs_f64())
}
