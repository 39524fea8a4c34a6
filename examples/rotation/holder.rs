//! Holders of leases: each watches one, acknowledges what it gets, and takes its lease up elsewhere when its server is gone.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use daypass::{
    client::csr::{self, Csr},
    clock::{self, Clock, SystemClock},
    proto::v1::{
        AcknowledgeRequest, Credential, HeldLease, IssueRequest, Lease, WatchRequest, WatchResponse, X509Input, credential,
        credential_service_client::CredentialServiceClient, held_lease, issue_request, watch_request::What,
    },
};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use super::{
    Plan, Result,
    dial::connector,
    lines::{Line, Lines},
    tally::{Arrival, Start, Tally},
    world::World,
};

/// The role that is asked for.
const ROLE: &str = "web";

/// Leases that are asked for at once while the fleet starts.
const STARTING: usize = 64;

/// How long the start may take for each lease, before it is given up.
const PATIENCE: Duration = Duration::from_millis(200);

/// How long one acknowledgement may take, and how often it is tried.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
const ACK_TRIES: usize = 10;

/// The longest pause before a lease is taken up elsewhere: this part of its credential's life, and this at least. Each holder draws its
/// own below it, so that those of a dead server do not all come to the next one at once; it doubles with each stream that fails at once,
/// a few times.
const PAUSE_PART: u32 = 40;
const SHORTEST_PAUSE: Duration = Duration::from_secs(2);
const DOUBLINGS: u32 = 3;

/// Between two tries of what was refused or not answered.
const RETRY: Duration = Duration::from_millis(500);

/// All holders.
pub struct Fleet {
    shared: Arc<Shared>,
}

struct Shared {
    lines: Lines,
    life: Duration,
    tally: Mutex<Tally>,
    holding: AtomicUsize,
    starting: tokio::sync::Semaphore,
    over: CancellationToken,
}

/// Holders that run.
pub type Holders = JoinSet<Result<()>>;

/// One holder.
struct Holder {
    number: usize,
    shared: Arc<Shared>,
    held: Option<Held>,
    /// Streams in a row that were lost before their first message.
    losses: u32,
    /// The key of the next certificate, whose request the server has or gets.
    next: Csr,
}

/// What a holder has in its hands.
#[derive(Clone)]
pub struct Held {
    /// The lease.
    pub lease_id: String,
    /// The generation.
    pub generation: u32,
    /// The certificate's serial.
    pub serial: String,
    /// When it expires; seconds since the epoch, as all times here.
    pub expires: f64,
    /// When the next one is due.
    pub due: Option<f64>,
}

/// How a stream ended.
enum End {
    /// The run is over.
    Over,
    /// Not by the holder's fault: its server is gone, or going.
    Lost(Line, String),
    /// In another way, in words.
    Wrong(String),
}

impl Fleet {
    /// Dials all connections.
    pub async fn new(world: &World, plan: &Plan) -> Result<Self> {
        let lines = Lines::dial(world.addresses(), connector(world.dir(), true)?, plan.connections).await?;
        let (tally, holding) = (Mutex::default(), AtomicUsize::new(0));
        let starting = tokio::sync::Semaphore::new(STARTING);
        Ok(Self { shared: Arc::new(Shared { lines, life: plan.life, tally, holding, starting, over: CancellationToken::new() }) })
    }

    /// Starts the holders of these numbers.
    pub fn start(&self, holders: &mut Holders, numbers: Range<usize>) {
        for number in numbers {
            let shared = self.shared.clone();
            holders.spawn(async move { Holder { number, next: key()?, held: None, losses: 0, shared }.hold().await });
        }
    }

    /// Waits until each has its lease.
    pub async fn wait_until_all_hold(&self, count: usize, world: &mut World) -> Result<()> {
        let waiting = async {
            while self.shared.holding.load(Ordering::Relaxed) < count {
                world.check()?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        };
        let patience = PATIENCE * u32::try_from(count)? + Duration::from_secs(30);
        timeout(patience, waiting).await.unwrap_or_else(|_| {
            let why = self.shared.tally().first_wrong().unwrap_or("no holder says why").to_owned();
            let held = self.shared.holding.load(Ordering::Relaxed);
            Err(format!("after {patience:?} only {held} of {count} leases are held: {why}").into())
        })
    }

    /// Tells all to end, and waits.
    pub async fn end(&self, mut holders: Holders, patience: Duration) -> Result<()> {
        self.shared.over.cancel();
        let ending = async {
            while let Some(ended) = holders.join_next().await {
                ended??;
            }
            Ok(())
        };
        timeout(patience, ending).await.map_err(|_| "holders do not end")?
    }

    /// What they saw.
    pub fn into_tally(self) -> Tally {
        std::mem::take(&mut *self.shared.tally())
    }

    /// Now, as tallies count.
    pub fn now(&self) -> f64 {
        now()
    }
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        // A holder that panicked ends the run.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holder {
    async fn hold(mut self) -> Result<()> {
        let mut line = self.shared.lines.get(self.number).await;
        loop {
            let over = self.shared.over.clone();
            let end = tokio::select! {
                end = self.watch(&line) => end?,
                () = over.cancelled() => End::Over,
            };
            match end {
                End::Over => return Ok(()),
                End::Lost(lost, why) => {
                    *self.shared.tally().lost_streams.entry(why).or_default() += 1;
                    tokio::time::sleep(self.pause()).await;
                    self.losses += 1;
                    line = self.shared.lines.get_anew(self.number, &lost).await?;
                }
                End::Wrong(why) => {
                    self.shared.tally().wrong(self.number, why);
                    tokio::time::sleep(RETRY).await;
                    line = self.shared.lines.get(self.number).await;
                }
            }
        }
    }

    /// One stream, to its end.
    async fn watch(&mut self, line: &Line) -> Result<End> {
        let first_key = key()?;
        let ahead = self.gives_keys_ahead().then(|| input(&self.next));
        let request = WatchRequest { what: Some(self.what(&first_key)), next_x509: ahead };
        let mut stream = match self.open(line, request).await {
            Ok(stream) => stream,
            Err(status) => return Ok(ended(&status, line)),
        };
        let mut start = Start::of(self.held.as_ref());
        loop {
            match stream.message().await {
                Ok(Some(message)) => {
                    if let Err(why) = self.take(message, start, &first_key).await? {
                        return Ok(End::Wrong(why));
                    }
                    (start, self.losses) = (Start::Under, 0);
                }
                Ok(None) => return Ok(End::Wrong("the stream ended without a status".to_owned())),
                Err(status) => return Ok(ended(&status, line)),
            }
        }
    }

    async fn open(&self, line: &Line, request: WatchRequest) -> std::result::Result<Streaming<WatchResponse>, Status> {
        // Only the first stream of each is counted: it makes a lease.
        let permit = match self.held {
            None => self.shared.starting.acquire().await.ok(),
            Some(_) => None,
        };
        let stream = CredentialServiceClient::new(line.channel.clone()).watch(request).await?.into_inner();
        drop(permit);
        Ok(stream)
    }

    fn what(&self, first_key: &Csr) -> What {
        match &self.held {
            None => What::Issue(IssueRequest {
                role: ROLE.to_owned(),
                ttl: self.life(),
                request_id: String::new(),
                input: Some(issue_request::Input::X509(input(first_key))),
            }),
            Some(held) => What::Held(HeldLease {
                lease_id: held.lease_id.clone(),
                generation: held.generation,
                ttl: self.life(),
                input: Some(held_lease::Input::X509(input(first_key))),
            }),
        }
    }

    fn pause(&self) -> Duration {
        let drawn = f64::from(u16::from_be_bytes(clock::random())) / 65_536.0;
        (self.shared.life / PAUSE_PART).max(SHORTEST_PAUSE).mul_f64(drawn) * (1 << self.losses.min(DOUBLINGS))
    }

    fn life(&self) -> Option<prost_types::Duration> {
        prost_types::Duration::try_from(self.shared.life).ok()
    }

    /// Half of them give the next key with the request to watch, half of them with each acknowledgement alone.
    fn gives_keys_ahead(&self) -> bool {
        self.number.is_multiple_of(2)
    }

    /// Takes a message; says what is wrong with it.
    async fn take(&mut self, message: WatchResponse, start: Start, first_key: &Csr) -> Result<std::result::Result<(), String>> {
        let Some(lease) = message.lease else { return Ok(Err("a message without a lease".to_owned())) };
        let had = self.held.as_ref().map_or(0, |held| held.generation);
        let Some(credential) = message.credential else {
            if lease.generation != had {
                return Ok(Err(format!("generation {} without a credential, after {had}", lease.generation)));
            }
            if start == Start::Held {
                self.acknowledge(lease.generation).await?;
            }
            return Ok(Ok(()));
        };
        let over = if start == Start::Under { &self.next } else { first_key };
        let held = match held_of(&lease, &credential, over) {
            Ok(held) => held,
            Err(why) => return Ok(Err(why)),
        };
        let arrival = Arrival { at: now(), start, before: self.held.replace(held.clone()), now: held };
        self.shared.tally().arrived(self.number, arrival);
        if start == Start::New {
            self.shared.holding.fetch_add(1, Ordering::Relaxed);
        }
        if start == Start::Under {
            self.next = key()?;
        }
        self.acknowledge(lease.generation).await?;
        Ok(Ok(()))
    }

    /// Says what is in hand and gives the next key, at whatever server: the store has it then.
    async fn acknowledge(&self, generation: u32) -> Result<()> {
        let Some(held) = &self.held else { return Ok(()) };
        let request = AcknowledgeRequest { lease_id: held.lease_id.clone(), generation, next_x509: Some(input(&self.next)) };
        let mut why = String::new();
        for attempt in 0..ACK_TRIES {
            let place = self.number + usize::try_from(generation)? + attempt;
            let line = self.shared.lines.get(place).await;
            let mut client = CredentialServiceClient::new(line.channel.clone());
            match timeout(ACK_TIMEOUT, client.acknowledge(request.clone())).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(status)) if is_lost(&status) => why = status.to_string(),
                Ok(Err(status)) => {
                    why = status.to_string();
                    break;
                }
                Err(_) => why = "no answer".to_owned(),
            }
            tokio::time::sleep(RETRY).await;
        }
        self.shared.tally().wrong(self.number, format!("acknowledging generation {generation}: {why}"));
        Ok(())
    }
}

fn held_of(lease: &Lease, credential: &Credential, over: &Csr) -> std::result::Result<Held, String> {
    let Some(credential::Kind::X509(certificate)) = &credential.kind else { return Err("a credential of another kind".to_owned()) };
    let leaf = certificate.chain_der.first().ok_or("no certificate")?;
    // Certified is the key that was given for this generation, and no other.
    let serial = over.serial_of(leaf).map_err(|error| format!("generation {}: {error}", lease.generation))?;
    if serial != lease.serial {
        return Err(format!("the lease names serial {}, the certificate has {serial}", lease.serial));
    }
    let expires = certificate.not_after.ok_or("a certificate without an end")?;
    let due = lease.rotation.and_then(|window| window.start).map(seconds);
    Ok(Held { lease_id: lease.id.clone(), generation: lease.generation, serial, expires: seconds(expires), due })
}

fn ended(status: &Status, line: &Line) -> End {
    if !is_lost(status) {
        return End::Wrong(status.to_string());
    }
    let mut why = format!("{:?}: {}", status.code(), status.message());
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        why = format!("{why}: {error}");
        cause = error.source();
    }
    End::Lost(line.clone(), why)
}

/// Whether it is the connection or the server that is gone. A connection that breaks under a call is UNKNOWN or INTERNAL to tonic, and
/// has no word of the server's.
fn is_lost(status: &Status) -> bool {
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}

fn input(csr: &Csr) -> X509Input {
    X509Input { csr_der: csr.der().to_vec() }
}

/// The request of a new key; nobody uses the key itself.
fn key() -> Result<Csr> {
    let (_key, csr) = csr::make().map_err(|error| error.to_string())?;
    Ok(csr)
}

fn seconds(at: prost_types::Timestamp) -> f64 {
    #[allow(clippy::cast_precision_loss)] // Seconds of this age of the world fit.
    let whole = at.seconds as f64;
    whole + f64::from(at.nanos) / 1e9
}

fn now() -> f64 {
    SystemClock.now().as_duration().as_secs_f64()
}
