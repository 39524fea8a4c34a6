//! Keeps one role: watches its lease, takes each credential into state, to its readers, and only then acknowledges it. What is valid stays
//! where it is whatever becomes of the server.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use zeroize::Zeroizing;

use super::{
    desk::{Bundle, Fresh},
    identity::Identity,
    kept::{Asked, Held, KeptRole, StateDir},
    standing::Standing,
};
use crate::{
    client::{
        Client,
        csr::{self, Csr, PrivateKey},
        error::{Error, Kind, Result},
        types::{Credential, IssueOrder, OrderInput},
        watch::{WatchOrder, Watched, Watching},
    },
    clock::{self, Backoff, Clock, SystemClock},
    model::hex,
};

/// The pause after a first failure; the next one doubles it.
pub const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest pause between two attempts.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How much of a credential's life is left when another lease is asked for, where no renewal can move its end: a third of it.
const LAST_PART: i32 = 3;

/// How long past the window of its rotation a credential is waited for at least, before another stream is opened: the server may be busy.
pub const SHORTEST_SILENCE: SignedDuration = SignedDuration::from_secs(5);

/// How long it is waited for at most.
pub const LONGEST_SILENCE: SignedDuration = SignedDuration::from_mins(5);

/// Makes clients that say who the agent is at that moment.
pub trait Connect: Send + Sync {
    /// A client.
    ///
    /// # Errors
    /// When the agent has no identity now.
    fn client(&self) -> Result<Client>;

    /// The agent's own identity, where it is one that renews itself.
    fn identity(&self) -> Option<watch::Receiver<Arc<Identity>>> {
        None
    }

    /// Says that the server did not take the agent's identity: whoever keeps it has a look.
    fn was_refused(&self) {}
}

/// Puts a fresh credential where its readers find it.
#[async_trait]
pub trait Deliver: Send + Sync {
    /// Answers once it is durable there. The same one may come again, with another bundle or after a restart.
    async fn deliver(&self, fresh: &Arc<Fresh>, bundle: Option<&Arc<Bundle>>) -> Result<()>;
}

/// A role to keep.
#[derive(Debug, Clone)]
pub struct RoleToKeep {
    /// What the agent's configuration calls it; also a file name.
    pub name: String,
    /// The role at the service.
    pub role: String,
    /// The life of each credential; none means the role's default.
    pub ttl: Option<SignedDuration>,
    /// The audience, for a role of kind jwt.
    pub audience: Option<String>,
}

/// How a role stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeeperStatus {
    /// Whether its stream is open.
    pub connected: bool,
    /// Until when its credential is valid; none when there is none.
    pub valid_until: Option<Timestamp>,
    /// The generation of its credential; 0 when there is none.
    pub generation: u32,
    /// The version of the bundle that was delivered with it.
    pub bundle_version: Option<String>,
    /// Credentials that came so far, the first included.
    pub rotations: u64,
    /// Attempts that failed so far.
    pub failures: u64,
    /// Why the last one failed, unless one succeeded since.
    pub last_error: Option<String>,
}

/// Keeps one role.
pub struct Keeper {
    kept: RoleToKeep,
    state: StateDir,
    server: Arc<dyn Connect>,
    deliver: Arc<dyn Deliver>,
    bundle: watch::Receiver<Option<Arc<Bundle>>>,
    desk: watch::Sender<Option<Arc<Fresh>>>,
    status: watch::Sender<KeeperStatus>,
    role: KeptRole,
    clock: Arc<dyn Clock>,
}

/// What a session ends with.
enum Ended {
    /// The stream is over, or the credential has ended: look again.
    Again,
    /// The lease is of no use any more: another one.
    Anew,
}

/// One stream, and the keys that it may certify.
struct Session {
    standing: Standing,
    client: Client,
    watching: Watching,
    /// Of the request that came first, then of the one given ahead.
    keys: Vec<(PrivateKey, Csr)>,
}

impl Keeper {
    /// A keeper. It does nothing before it runs.
    pub fn new(
        kept: RoleToKeep,
        state: StateDir,
        server: Arc<dyn Connect>,
        deliver: Arc<dyn Deliver>,
        bundle: watch::Receiver<Option<Arc<Bundle>>>,
        desk: watch::Sender<Option<Arc<Fresh>>>,
        status: watch::Sender<KeeperStatus>,
    ) -> Self {
        Self { kept, state, server, deliver, bundle, desk, status, role: KeptRole::default(), clock: Arc::new(SystemClock) }
    }

    /// Keeps the role until `shutdown` is true. A file of its state that is damaged is an error at once, and nothing is asked for.
    ///
    /// # Errors
    /// As [`StateDir::load`].
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) -> Result<()> {
        self.role = self.state.load(&self.kept)?;
        tokio::select! {
            () = self.keep() => {}
            _ = shutdown.wait_for(|over| *over) => {}
        }
        Ok(())
    }

    async fn keep(&mut self) {
        self.show_kept().await;
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let (rotations, begun) = (self.status.borrow().rotations, Instant::now());
            let ended = self.session().await;
            self.status.send_modify(|status| status.connected = false);
            // A session that brought something or lasted went well: what ended it is new. One that only began did not, or two agents
            // with one identity would take a lease from each other without a pause.
            if self.status.borrow().rotations > rotations || begun.elapsed() >= LONGEST_PAUSE {
                backoff.reset();
            }
            match ended {
                Ok(Ended::Again) => {}
                Ok(Ended::Anew) => self.forget(),
                Err(error) => {
                    tracing::warn!(role = self.kept.name, code = error.code(), %error, "a role is not kept at the moment; tried again");
                    self.failed(&error);
                    if error.kind() == Kind::NotAuthenticated || error.code() == "GENERATION_SUPERSEDED" {
                        self.server.was_refused();
                    }
                    if is_over(&error) {
                        self.forget();
                    }
                }
            }
            self.let_go_of_the_dead();
            self.rest(backoff.pause()).await;
        }
    }

    /// What a restart finds is delivered again before anything is asked: its readers may have lost it.
    async fn show_kept(&mut self) {
        let Some(fresh) = self.role.held.as_ref().and_then(fresh) else { return };
        if expiry(&fresh.credential) <= self.clock.now() {
            return;
        }
        self.hand_out(&Arc::new(fresh)).await;
    }

    /// Opens a stream and takes what comes, until it ends.
    async fn session(&mut self) -> Result<Ended> {
        let mut session = self.open().await?;
        self.status.send_modify(|status| status.connected = true);
        let opened_at = self.clock.now();
        loop {
            let (anew_at, overdue_at) = (self.anew_at(), self.overdue_at(opened_at));
            let (expires_at, mut bundle) = (self.valid_until(), self.bundle.clone());
            tokio::select! {
                message = session.watching.next() => match message? {
                    Some(watched) => {
                        self.take(&mut session, watched).await?;
                        self.status.send_modify(|status| status.last_error = None);
                    }
                    None => return Ok(Ended::Again),
                },
                () = session.standing.ends() => return Ok(Ended::Again),
                () = self.until(anew_at) => return Ok(Ended::Anew),
                // The stream stands, and its server does not rotate: it may have lost its store, and another one not.
                () = self.until(overdue_at) => {
                    tracing::warn!(role = self.kept.name, "the next credential is overdue; the lease is watched over a new connection");
                    return Ok(Ended::Again);
                }
                () = self.until(expires_at) => return Ok(Ended::Anew),
                Ok(()) = bundle.changed() => self.hand_out_again().await,
            }
        }
    }

    async fn open(&mut self) -> Result<Session> {
        let standing = Standing::of(&*self.server);
        let mut client = self.server.client()?;
        let (order, mut keys) = self.order()?;
        let ahead = match &self.kept.audience {
            None => Some(csr::make()?),
            Some(_) => None,
        };
        let watching = client.watch(order, ahead.as_ref().map(|(_, csr)| csr)).await?;
        keys.extend(ahead);
        Ok(Session { standing, client, watching, keys })
    }

    /// A lease that is held is taken up; else one is asked for, with an id and a key that a restart finds again.
    fn order(&mut self) -> Result<(WatchOrder, Vec<(PrivateKey, Csr)>)> {
        if let Some(held) = self.role.held.as_ref().filter(|_| !self.role.over) {
            let (input, keys) = self.input(None)?;
            let lease = &held.watched.lease;
            return Ok((WatchOrder::Held { lease_id: lease.id.clone(), generation: lease.generation, ttl: self.kept.ttl, input }, keys));
        }
        let asked = match &self.role.asked {
            Some(asked) => asked.clone(),
            None => {
                let (key, _) = csr::make()?;
                let request_id = format!("agent-{}", hex::encode(&clock::random::<16>()));
                let asked = Asked { request_id, key_pem: Zeroizing::new(key.pem().to_owned()) };
                self.role.asked = Some(asked.clone());
                self.state.store(&self.kept, &self.role)?;
                asked
            }
        };
        let (input, keys) = self.input(Some(&asked.key_pem))?;
        let Asked { request_id, .. } = asked;
        Ok((WatchOrder::Issue(IssueOrder { role: self.kept.role.clone(), ttl: self.kept.ttl, request_id, input }), keys))
    }

    /// What the role's kind needs: a CSR always does, unless only a token can come of it.
    fn input(&self, key_pem: Option<&str>) -> Result<(OrderInput, Vec<(PrivateKey, Csr)>)> {
        if let Some(audience) = &self.kept.audience {
            return Ok((OrderInput::Audience(audience.clone()), Vec::new()));
        }
        let (key, csr) = match key_pem {
            Some(pem) => csr::again(pem)?,
            None => csr::make()?,
        };
        Ok((OrderInput::Csr(csr.der().to_vec()), vec![(key, csr)]))
    }

    /// Takes a message: a credential goes to the state, then to its readers, then it is acknowledged with the next key.
    async fn take(&mut self, session: &mut Session, watched: Watched) -> Result<()> {
        let Some(credential) = &watched.credential else {
            return self.take_lease(session, &watched).await;
        };
        let key_pem = match credential {
            Credential::X509(certificate) => {
                let leaf = certificate.chain_der.first().ok_or_else(|| Error::bad_answer("lacks a certificate"))?;
                let key = session.keys.iter().find(|(_, csr)| csr.serial_of(leaf).is_ok());
                let (key, _) = key.ok_or_else(|| Error::new(Kind::Other, "WRONG_KEY", "the certificate is for a key that was not sent"))?;
                Zeroizing::new(key.pem().to_owned())
            }
            Credential::Aws(_) | Credential::Registry(_) | Credential::Jwt(_) => Zeroizing::default(),
        };
        let (id, generation) = (watched.lease.id.clone(), watched.lease.generation);
        self.role = KeptRole { asked: None, held: Some(Held { watched, key_pem }), over: false };
        let Some(fresh) = self.role.held.as_ref().and_then(fresh) else {
            return Err(Error::bad_answer("holds a key or a credential that cannot be read"));
        };
        self.keep_on_disk().await;
        if !self.hand_out(&Arc::new(fresh)).await {
            return Err(Error::new(Kind::Other, "EXPIRED", "the credential expired before it could be put into its place"));
        }
        self.status.send_modify(|status| status.rotations += 1);
        self.acknowledge(session, &id, generation).await
    }

    /// The lease has moved, or the first message says that nothing has: the next key is at the server already, by the request to watch.
    async fn take_lease(&mut self, session: &mut Session, watched: &Watched) -> Result<()> {
        let Some(held) = &self.role.held else {
            return Err(Error::bad_answer("holds no credential, and none was there before"));
        };
        let (kept, lease) = (&held.watched.lease, &watched.lease);
        if lease.id != kept.id || lease.generation != kept.generation {
            return Err(Error::bad_answer("speaks of another credential than is held here"));
        }
        if lease.acknowledged_generation < lease.generation {
            let (id, generation) = (lease.id.clone(), lease.generation);
            return self.acknowledge(session, &id, generation).await;
        }
        Ok(())
    }

    async fn acknowledge(&mut self, session: &mut Session, id: &str, generation: u32) -> Result<()> {
        let ahead = match &self.kept.audience {
            None => Some(csr::make()?),
            Some(_) => None,
        };
        // What went before may have taken long.
        if !session.standing.holds() {
            return Err(Error::unavailable("the agent has another identity meanwhile; it is acknowledged over a new connection"));
        }
        session.client.acknowledge(id, generation, ahead.as_ref().map(|(_, csr)| csr)).await?;
        // A rotation that began before this one was told may still use the key before.
        if let Some(ahead) = ahead {
            session.keys.push(ahead);
            let spare = session.keys.len().saturating_sub(2);
            session.keys.drain(..spare);
        }
        Ok(())
    }

    /// Writes the state, until it is written: a full disk must not cost the credential that came.
    async fn keep_on_disk(&self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        while let Err(error) = self.state.store(&self.kept, &self.role) {
            tracing::error!(role = self.kept.name, %error, "a credential cannot be kept in the state directory; tried again");
            self.failed(&error);
            self.pause(backoff.pause()).await;
        }
    }

    /// Hands a credential to its files, until it is there, and then to the sockets. Answers whether it was there before it expired.
    async fn hand_out(&mut self, fresh: &Arc<Fresh>) -> bool {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let bundle = loop {
            if expiry(&fresh.credential) <= self.clock.now() {
                return false;
            }
            let bundle = self.bundle.borrow_and_update().clone();
            match self.deliver.deliver(fresh, bundle.as_ref()).await {
                Ok(()) => break bundle,
                Err(error) => {
                    tracing::error!(role = self.kept.name, %error, "a credential cannot be put into its place; tried again");
                    self.failed(&error);
                    self.pause(backoff.pause()).await;
                }
            }
        };
        self.desk.send_replace(Some(fresh.clone()));
        self.status.send_modify(|status| {
            status.valid_until = Some(expiry(&fresh.credential));
            status.generation = fresh.lease.generation;
            status.bundle_version = bundle.map(|bundle| bundle.version.clone());
        });
        true
    }

    /// The bundle has changed: what is valid goes to its files with the new one.
    async fn hand_out_again(&mut self) {
        self.bundle.mark_unchanged();
        let fresh = self.desk.borrow().clone();
        if let Some(fresh) = fresh {
            self.hand_out(&fresh).await;
        }
    }

    /// When another lease is to be asked for: this one cannot be renewed further.
    fn anew_at(&self) -> Option<Timestamp> {
        let Watched { lease, credential, .. } = &self.role.held.as_ref()?.watched;
        if lease.rotation.is_some() || self.role.over {
            return None;
        }
        let (until, made_at) = match credential.as_ref()? {
            Credential::X509(certificate) => (certificate.not_after, certificate.not_before),
            // When it was made is not said; the lease's whole life is longer, so this is early rather than late.
            other => (expiry(other), lease.issued_at),
        };
        let left = (until.duration_since(made_at) / LAST_PART).min(SignedDuration::from_hours(1));
        Some(until - left)
    }

    /// When a stream that was opened then has been silent for too long: the window of the rotation is over, and some time more. A new one
    /// has that time too.
    fn overdue_at(&self, opened_at: Timestamp) -> Option<Timestamp> {
        let held = self.role.held.as_ref().filter(|_| !self.role.over)?;
        let window = held.watched.lease.rotation?;
        let silence = window.end.duration_since(window.start).clamp(SHORTEST_SILENCE, LONGEST_SILENCE);
        window.end.max(opened_at).checked_add(silence).ok()
    }

    fn valid_until(&self) -> Option<Timestamp> {
        let held = self.role.held.as_ref().filter(|_| !self.role.over)?;
        held.watched.credential.as_ref().map(expiry)
    }

    /// The lease is of no use; its credential stays with its readers for as long as it is valid.
    fn forget(&mut self) {
        (self.role.asked, self.role.over) = (None, true);
        if let Err(error) = self.state.store(&self.kept, &self.role) {
            tracing::warn!(role = self.kept.name, %error, "a lease that is over stays in the state directory for now");
        }
    }

    fn let_go_of_the_dead(&self) {
        let now = self.clock.now();
        let dead = self.desk.borrow().as_ref().is_some_and(|fresh| expiry(&fresh.credential) <= now);
        if dead {
            tracing::error!(role = self.kept.name, "its credential has expired, and no other came");
            self.desk.send_replace(None);
            self.status.send_modify(|status| {
                status.valid_until = None;
                status.generation = 0;
            });
        }
    }

    /// A pause, in which what expires is still let go of.
    async fn pause(&self, pause: Duration) {
        let over = Instant::now() + pause;
        loop {
            let expires_at = self.desk.borrow().as_ref().map(|fresh| expiry(&fresh.credential));
            tokio::select! {
                () = sleep_until(over) => return,
                () = self.until(expires_at) => self.let_go_of_the_dead(),
            }
        }
    }

    /// The same, in which what expires is still let go of, and a new bundle still reaches the files.
    async fn rest(&mut self, pause: Duration) {
        let over = Instant::now() + pause;
        loop {
            let expires_at = self.desk.borrow().as_ref().map(|fresh| expiry(&fresh.credential));
            let mut bundle = self.bundle.clone();
            tokio::select! {
                () = sleep_until(over) => return,
                () = self.until(expires_at) => self.let_go_of_the_dead(),
                Ok(()) = bundle.changed() => self.hand_out_again().await,
            }
        }
    }

    fn failed(&self, error: &Error) {
        self.status.send_modify(|status| {
            status.failures += 1;
            status.last_error = Some(format!("{}: {}", error.code(), error.message()));
        });
    }

    /// Resolves when a time has come; never when there is none.
    async fn until(&self, at: Option<Timestamp>) {
        match at {
            Some(at) => clock::until(&*self.clock, at).await,
            None => std::future::pending().await,
        }
    }
}

/// The lease has ended, or is another's now: only a new one helps.
fn is_over(error: &Error) -> bool {
    ["LEASE_STATE", "LEASE_NOT_FOUND", "NOT_RENEWABLE", "GENERATION_SUPERSEDED", "REQUEST_ID_REUSED"].contains(&error.code())
}

/// What readers get of what is held; none when it cannot be read.
fn fresh(held: &Held) -> Option<Fresh> {
    let credential = held.watched.credential.clone()?;
    let key_der = match &credential {
        Credential::X509(_) => Zeroizing::new(PrivateKeyDer::from_pem_slice(held.key_pem.as_bytes()).ok()?.secret_der().to_vec()),
        Credential::Aws(_) | Credential::Registry(_) | Credential::Jwt(_) => Zeroizing::default(),
    };
    Some(Fresh { lease: held.watched.lease.clone(), credential, key_der })
}

/// When a credential ceases to be valid.
pub fn expiry(credential: &Credential) -> Timestamp {
    match credential {
        Credential::X509(certificate) => certificate.not_after,
        Credential::Aws(session) => session.expires_at,
        Credential::Registry(login) => login.expires_at,
        Credential::Jwt(token) => token.expires_at,
    }
}
