//! What so many live leases cost: memory, a restart, and the revocation of all of them.

use std::time::{Duration, Instant};

use daypass::proto::v1::{self, lease_service_client::LeaseServiceClient, revoke_matching_response::Step};
use tonic::Streaming;
use x509_parser::{prelude::FromDer, revocation_list::CertificateRevocationList};

use super::{
    Result,
    caller::{Caller, ROLE},
    world::World,
};

/// How long the CRL may lag behind the summary before it is called missing.
const CRL_PATIENCE: Duration = Duration::from_secs(30);

/// What was measured.
pub struct Upkeep {
    /// Redis' memory for each lease, in bytes.
    pub redis_bytes_per_lease: Option<f64>,
    /// From the server's start until it was ready, with the leases there.
    pub restart: Duration,
    /// The server's resident memory once it was ready again, in bytes.
    pub rss_after_restart: u64,
    /// The revocation of all of them, if it was asked for.
    pub revocation: Option<Revocation>,
}

/// One revocation by query.
pub struct Revocation {
    pub revoked: u64,
    pub failed: u64,
    /// Until the summary.
    pub summary: Duration,
    /// Until the CRL at the HTTP port held them all.
    pub crl: Duration,
    /// CPU time, in seconds.
    pub server_cpu: f64,
    pub redis_cpu: Option<f64>,
}

/// Measures with `leases` live ones there; Redis used `memory_before` bytes before the first of them.
pub async fn measure(world: &mut World, memory_before: Option<u64>, leases: u64, revoke: bool) -> Result<Upkeep> {
    let memory = world.redis_info().await?.map(|info| info.memory);
    let grown = memory.zip(memory_before).map(|(after, before)| after.saturating_sub(before));
    let restart = world.restart().await?;
    let rss_after_restart = world.server_rss()?;
    let revocation = if revoke { Some(revoke_all(world, leases).await?) } else { None };
    Ok(Upkeep { redis_bytes_per_lease: grown.map(|bytes| bytes as f64 / leases as f64), restart, rss_after_restart, revocation })
}

async fn revoke_all(world: &World, leases: u64) -> Result<Revocation> {
    let mut client = LeaseServiceClient::new(Caller::operator(world)?.connect().await?);
    let filter = Some(v1::LeaseFilter { role: ROLE.to_owned(), ..Default::default() });
    let request = v1::RevokeMatchingRequest { filter, dry_run: false, reason: "load".to_owned() };
    let (cpu, redis_cpu) = cpu(world).await?;
    let begun = Instant::now();
    let summary = summary_of(client.revoke_matching(request).await?.into_inner()).await?;
    let summary_after = begun.elapsed();
    while revoked_in_crl(world).await? < leases {
        if begun.elapsed() > summary_after + CRL_PATIENCE {
            return Err("the CRL does not hold every revoked certificate".into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let crl = begun.elapsed();
    let (cpu_after, redis_cpu_after) = self::cpu(world).await?;
    Ok(Revocation {
        revoked: summary.revoked,
        failed: summary.failed,
        summary: summary_after,
        crl,
        server_cpu: cpu_after - cpu,
        redis_cpu: redis_cpu_after.zip(redis_cpu).map(|(after, before)| after - before),
    })
}

async fn cpu(world: &World) -> Result<(f64, Option<f64>)> {
    Ok((world.server_cpu()?, world.redis_info().await?.map(|info| info.cpu)))
}

async fn summary_of(mut steps: Streaming<v1::RevokeMatchingResponse>) -> Result<v1::RevokeSummary> {
    while let Some(step) = steps.message().await? {
        if let Some(Step::Summary(summary)) = step.step {
            return Ok(summary);
        }
    }
    Err("the revocation ended without a summary".into())
}

async fn revoked_in_crl(world: &World) -> Result<u64> {
    let (status, der) = world.get("/crl/issuing.crl").await?;
    if status != 200 {
        return Ok(0);
    }
    let (_, crl) = CertificateRevocationList::from_der(&der)?;
    Ok(crl.iter_revoked_certificates().count() as u64)
}
