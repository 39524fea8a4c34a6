//! Closed-loop workers: each has one request in flight, and the next one follows its answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use daypass::proto::v1::credential_service_client::CredentialServiceClient;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::{
    MAX_REQUESTS, Result,
    caller::{Ask, Caller},
    process::own_cpu,
    world::World,
};

/// A run with more errors than this ends: it measures nothing any more.
const MAX_ERRORS: u64 = 1_000;

/// How long a run that counts may take for each lease, before it is given up.
const PATIENCE: Duration = Duration::from_millis(50);

/// What is measured.
#[derive(Clone, Copy)]
pub enum Window {
    /// Exactly so many requests.
    Count(u64),
    /// Everything that is answered within a time, after a warm-up.
    Time { warm_up: Duration, measured: Duration },
}

/// Drives requests.
pub struct Driver {
    pub caller: Caller,
    pub connections: u32,
    pub concurrency: u32,
    pub reconnect: bool,
    pub exchange: bool,
}

/// What came of it.
#[derive(Default)]
pub struct Load {
    /// Requests answered with a certificate, within the window.
    pub done: u64,
    /// Requests that failed.
    pub errors: u64,
    /// The first failure, in words.
    pub first_error: Option<String>,
    /// How long the window was.
    pub elapsed: Duration,
    /// Latencies of the requests answered within it, sorted, in microseconds.
    pub micros: Vec<u32>,
    /// CPU time in it, in seconds: of the server, of Redis (if there is one), of this client.
    pub server_cpu: f64,
    pub redis_cpu: Option<f64>,
    pub client_cpu: f64,
}

/// What the workers share.
struct Shared {
    caller: Caller,
    reconnect: bool,
    exchange: bool,
    opens: Instant,
    closes: Instant,
    left: AtomicU64,
    errors: AtomicU64,
}

#[derive(Default)]
struct Tally {
    micros: Vec<u32>,
    first_error: Option<String>,
}

/// CPU times at one moment.
struct Cpu {
    at: Instant,
    server: f64,
    redis: Option<f64>,
    client: f64,
}

impl Cpu {
    async fn read(world: &World) -> Result<Self> {
        let redis = world.redis_info().await?.map(|info| info.cpu);
        Ok(Self { at: Instant::now(), server: world.server_cpu()?, redis, client: own_cpu()? })
    }
}

impl Driver {
    /// Runs to the end of the window.
    pub async fn run(self, world: &World, window: Window) -> Result<Load> {
        let connections = self.connections.min(self.concurrency);
        let mut channels = Vec::new();
        for _ in 0..if self.reconnect { 0 } else { connections } {
            channels.push(self.caller.connect().await?);
        }
        let begun = Instant::now();
        let (opens, closes, left) = match window {
            Window::Count(count) => (begun, begun + PATIENCE * u32::try_from(count)? + Duration::from_secs(10), count),
            Window::Time { warm_up, measured } => (begun + warm_up, begun + warm_up + measured, MAX_REQUESTS),
        };
        let (left, errors) = (AtomicU64::new(left), AtomicU64::new(0));
        let shared =
            Arc::new(Shared { caller: self.caller, reconnect: self.reconnect, exchange: self.exchange, opens, closes, left, errors });
        let mut workers = JoinSet::new();
        for n in 0..self.concurrency {
            let channel = channels.get((n % connections) as usize).cloned();
            workers.spawn(work(shared.clone(), channel, Ask::new()?));
        }
        tokio::time::sleep_until(opens.into()).await;
        let before = Cpu::read(world).await?;
        let mut tallies = Vec::new();
        let mut after = None;
        loop {
            tokio::select! {
                ended = workers.join_next() => match ended {
                    Some(tally) => tallies.push(tally?),
                    None => break,
                },
                () = tokio::time::sleep_until(closes.into()), if after.is_none() => after = Some(Cpu::read(world).await?),
            }
        }
        let after = match after {
            Some(after) => after,
            None => Cpu::read(world).await?,
        };
        Ok(sum(tallies, shared.errors.load(Ordering::Relaxed), &before, &after))
    }
}

async fn work(shared: Arc<Shared>, channel: Option<Channel>, ask: Ask) -> Tally {
    let mut tally = Tally::default();
    let mut kept = channel.map(CredentialServiceClient::new);
    let login = match &mut kept {
        Some(client) if shared.exchange => match shared.caller.log_in(client).await {
            Ok(login) => Some(login),
            Err(error) => return Tally { first_error: Some(error.to_string()), ..tally },
        },
        _ => None,
    };
    while Instant::now() < shared.closes && shared.take() {
        let begun = Instant::now();
        let asked = async {
            match &mut kept {
                _ if let Some(login) = &login => shared.caller.exchange(login).await,
                Some(client) => shared.caller.issue(client, &ask).await,
                None => shared.caller.issue(&mut CredentialServiceClient::new(shared.caller.connect().await?), &ask).await,
            }
        };
        let ended = asked.await;
        let now = Instant::now();
        match ended {
            Ok(true) if now >= shared.opens && now < shared.closes => {
                tally.micros.push(u32::try_from(now.duration_since(begun).as_micros()).unwrap_or(u32::MAX));
            }
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                tally.first_error.get_or_insert_with(|| error.to_string());
                if shared.errors.fetch_add(1, Ordering::Relaxed) >= MAX_ERRORS || !shared.reconnect {
                    break;
                }
            }
        }
    }
    tally
}

impl Shared {
    /// Takes one of the requests that are left.
    fn take(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

fn sum(tallies: Vec<Tally>, errors: u64, before: &Cpu, after: &Cpu) -> Load {
    let first_error = tallies.iter().find_map(|tally| tally.first_error.clone());
    let mut micros: Vec<u32> = tallies.into_iter().flat_map(|tally| tally.micros).collect();
    micros.sort_unstable();
    Load {
        done: micros.len() as u64,
        errors,
        first_error,
        elapsed: after.at.duration_since(before.at),
        micros,
        server_cpu: after.server - before.server,
        redis_cpu: after.redis.zip(before.redis).map(|(after, before)| after - before),
        client_cpu: after.client - before.client,
    }
}
