//! Keepers of roles against a real daypassd: what they hand out, when they say so, and what they do when the server is away, the lease is
//! revoked, or their state is an old copy.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use daypass::{
    agent::{
        desk::{Bundle, Fresh},
        keeper::{Connect, Deliver, Keeper, KeeperStatus, RoleToKeep},
        kept::StateDir,
    },
    client::{
        Client,
        error::{Error, Kind, Result},
        settings::{Flags, Settings},
        types::{Credential, X509Credential},
    },
    clock::{Clock, SystemClock},
    model::SignedDuration,
};
use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::{runtime::Runtime, sync::watch, task::JoinHandle};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    e2e::world::World,
    support::{
        parts::{openssl::Pair, wait_until},
        redis::Redis,
    },
};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What readers were given.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Delivered {
    lease: String,
    generation: u32,
    leaf: Vec<u8>,
}

/// Connects as the operator of the throwaway world.
struct Operator {
    port: u16,
    ca: PathBuf,
    pair: Pair,
}

impl Operator {
    fn of(world: &World) -> Arc<Self> {
        Arc::new(Self { port: world.grpc, ca: world.file("ca.pem"), pair: world.operator().pair.unwrap() })
    }
}

impl Connect for Operator {
    fn client(&self) -> Result<Client> {
        let flags = Flags {
            addr: Some(format!("127.0.0.1:{}", self.port)),
            ca: Some(self.ca.clone()),
            cert: Some(self.pair.cert.clone()),
            key: Some(self.pair.key.clone()),
            timeout: Some(Duration::from_secs(5)),
            ..Flags::default()
        };
        Client::new(Settings::load(flags, &|_| None)?)
    }
}

/// Readers that look closely at what they get, and may be out of order.
struct Readers {
    server: Arc<Operator>,
    /// Whether there is a state of before, which is handed out again.
    restarted: bool,
    got: Mutex<Vec<Delivered>>,
    broken: Mutex<bool>,
    /// Generations that the server had as acknowledged before they were here.
    told_too_early: Mutex<Vec<u32>>,
}

#[async_trait]
impl Deliver for Readers {
    async fn deliver(&self, fresh: &Arc<Fresh>, _bundle: Option<&Arc<Bundle>>) -> Result<()> {
        if *self.broken.lock().unwrap() {
            return Err(Error::new(Kind::Other, "FILE", "the disk is full"));
        }
        assert!(SystemClock.now().as_second() <= validity(leaf(fresh)).1, "it has expired");
        let delivered = looked_at(fresh);
        let again = self.restarted && self.got.lock().unwrap().is_empty();
        // What the server cannot say now, it cannot have been told either.
        let known = async { self.server.client()?.lease(&delivered.lease).await }.await;
        if !again && known.is_ok_and(|lease| lease.acknowledged_generation >= delivered.generation) {
            self.told_too_early.lock().unwrap().push(delivered.generation);
        }
        self.got.lock().unwrap().push(delivered);
        Ok(())
    }
}

fn leaf(fresh: &Fresh) -> &[u8] {
    let Credential::X509(X509Credential { chain_der, .. }) = &fresh.credential else { panic!("it is a certificate") };
    &chain_der[0]
}

/// A credential whose key fits its certificate.
fn looked_at(fresh: &Fresh) -> Delivered {
    let leaf_der = leaf(fresh);
    let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(fresh.key_der.to_vec())).unwrap();
    let (_, leaf) = X509Certificate::from_der(leaf_der).unwrap();
    assert_eq!(leaf.public_key().raw, key.subject_public_key_info(), "the key is not the certificate's");
    Delivered { lease: fresh.lease.id.clone(), generation: fresh.lease.generation, leaf: leaf_der.to_vec() }
}

/// A keeper of `web`; it stops with this value.
struct Running {
    readers: Arc<Readers>,
    desk: watch::Receiver<Option<Arc<Fresh>>>,
    status: watch::Receiver<KeeperStatus>,
    stop: watch::Sender<bool>,
    keeping: Option<JoinHandle<Result<()>>>,
    runtime: Runtime,
}

impl Running {
    fn start(world: &World, state: &Path, life: Option<i64>) -> Self {
        Self::with_readers(world, state, life, false)
    }

    fn with_readers(world: &World, state: &Path, life: Option<i64>, broken: bool) -> Self {
        let server = Operator::of(world);
        let readers = Arc::new(Readers {
            server: server.clone(),
            restarted: state.exists(),
            got: Mutex::default(),
            broken: broken.into(),
            told_too_early: Mutex::default(),
        });
        let kept = RoleToKeep { name: "web".to_owned(), role: "web".to_owned(), ttl: life.map(SignedDuration::from_secs), audience: None };
        let (desk_sender, desk) = watch::channel(None);
        let (status_sender, status) = watch::channel(KeeperStatus::default());
        let (_, bundle) = watch::channel(None);
        let (stop, stopped) = watch::channel(false);
        let state = StateDir::open(state).unwrap();
        let keeper = Keeper::new(kept, state, server, readers.clone(), bundle, desk_sender, status_sender);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let keeping = Some(runtime.spawn(keeper.run(stopped)));
        Self { readers, desk, status, stop, keeping, runtime }
    }

    fn got(&self) -> Vec<Delivered> {
        self.readers.got.lock().unwrap().clone()
    }

    /// What was handed out last, once there is as much.
    fn wait_for(&self, what: &str, wanted: impl Fn(&Delivered) -> bool) -> Delivered {
        wait_until(PATIENCE, what, || self.got().into_iter().rfind(|delivered| wanted(delivered)))
    }

    fn acknowledged(&self, delivered: &Delivered) -> Option<()> {
        let server = self.readers.server.clone();
        let id = delivered.lease.clone();
        let lease = self.runtime.block_on(async move { server.client()?.lease(&id).await }).ok()?;
        (lease.acknowledged_generation == delivered.generation).then_some(())
    }

    fn wait_acknowledged(&self, delivered: &Delivered) {
        wait_until(PATIENCE, "the server is told", || self.acknowledged(delivered));
    }

    fn stop(mut self) {
        self.stop.send_replace(true);
        let keeping = self.keeping.take().unwrap();
        self.runtime.block_on(keeping).unwrap().unwrap();
        assert_eq!(*self.readers.told_too_early.lock().unwrap(), [0; 0], "acknowledged before its readers had it");
    }
}

fn live_leases(world: &World) -> Vec<String> {
    let listed = world.cli(&world.operator(), ["lease", "list", "--state", "active", "--role", "web", "-o", "json"]).json();
    listed.as_array().unwrap().iter().map(|lease| lease["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_generation_comes_once_with_a_key_of_its_own_and_is_acknowledged_after_its_readers_have_it() {
    let (world, state) = (World::start(), tempfile::tempdir().unwrap());
    let running = Running::start(&world, state.path(), Some(6));
    let last = running.wait_for("a fourth generation", |delivered| delivered.generation >= 4);
    running.wait_acknowledged(&last);
    let got = running.got();
    let generations: Vec<_> = got.iter().map(|delivered| delivered.generation).collect();
    assert_eq!(generations, (1..=u32::try_from(got.len()).unwrap()).collect::<Vec<_>>());
    assert!(got.iter().all(|delivered| delivered.lease == last.lease), "one lease through all of them");
    let keys: std::collections::BTreeSet<_> = got.iter().map(|delivered| public_key(&delivered.leaf)).collect();
    assert_eq!(keys.len(), got.len(), "a key is used once");
    let ends = got.iter().map(|delivered| validity(&delivered.leaf).1);
    let begins = got.iter().skip(1).map(|delivered| validity(&delivered.leaf).0);
    assert!(ends.zip(begins).all(|(end, begin)| begin < end), "there was a moment without a valid one");
    assert!(running.status.borrow().connected);
    running.stop();
    assert_eq!(live_leases(&world).len(), 1);
}

fn public_key(leaf: &[u8]) -> Vec<u8> {
    X509Certificate::from_der(leaf).unwrap().1.public_key().raw.to_vec()
}

fn validity(leaf: &[u8]) -> (i64, i64) {
    let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
    (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp())
}

#[test]
fn a_restart_takes_the_lease_up_and_a_server_that_is_away_costs_nothing() {
    let (mut world, state) = (World::start(), tempfile::tempdir().unwrap());
    let running = Running::start(&world, state.path(), None);
    let first = running.wait_for("a certificate", |_| true);
    running.wait_acknowledged(&first);
    running.stop();

    // With the server away it is handed out again all the same.
    world.kill();
    let running = Running::start(&world, state.path(), None);
    assert_eq!(running.wait_for("the certificate of before", |_| true), first);
    wait_until(PATIENCE, "a failure is told", || running.status.borrow().last_error.clone());
    assert!(running.desk.borrow().is_some() && !running.status.borrow().connected);
    world.start_again();
    wait_until(PATIENCE, "it watches again", || running.status.borrow().connected.then_some(()));
    wait_until(PATIENCE, "the failure is forgotten", || running.status.borrow().last_error.is_none().then_some(()));
    assert_eq!(live_leases(&world), std::slice::from_ref(&first.lease));
    assert!(running.got().iter().all(|delivered| *delivered == first), "nothing new was made");
    running.stop();
}

#[test]
fn what_expires_while_the_server_is_away_is_let_go_of_and_another_lease_takes_its_place() {
    let (mut world, state) = (World::start(), tempfile::tempdir().unwrap());
    let running = Running::start(&world, state.path(), Some(4));
    let first = running.wait_for("a certificate", |_| true);
    world.kill();
    let until = running.got().last().map(|delivered| validity(&delivered.leaf).1).unwrap();
    wait_until(PATIENCE, "it is let go of", || running.desk.borrow().is_none().then_some(()));
    assert!(SystemClock.now().as_second() >= until, "what is valid is kept");
    assert_eq!(running.status.borrow().valid_until, None);
    world.start_again();
    let next = running.wait_for("one of another lease", |delivered| delivered.lease != first.lease);
    assert!(next.generation >= 1 && running.desk.borrow().is_some());
    running.stop();
}

/// The stream stands, its server answers, and nothing comes of it: another server may do better.
#[test]
fn a_server_that_does_not_rotate_is_left_while_the_certificate_is_valid() {
    let mut redis = Redis::start();
    let (world, state) = (World::on_redis(&redis.url()), tempfile::tempdir().unwrap());
    let running = Running::start(&world, state.path(), Some(40));
    let first = running.wait_for("a certificate", |_| true);
    running.wait_acknowledged(&first);
    redis.stop();
    assert!(running.status.borrow().connected);
    wait_until(PATIENCE, "the stream is left", || (!running.status.borrow().connected).then_some(()));
    assert!(SystemClock.now().as_second() < validity(&first.leaf).1, "only when nothing was left to save");
    assert!(running.desk.borrow().is_some());
    running.stop();
}

#[test]
fn a_revoked_lease_is_replaced() {
    let (world, state) = (World::start(), tempfile::tempdir().unwrap());
    let running = Running::start(&world, state.path(), None);
    let first = running.wait_for("a certificate", |_| true);
    let said = world.cli(&world.operator(), ["lease", "revoke", &first.lease]);
    assert_eq!(said.code, 0, "{said:?}");
    let next = running.wait_for("one of another lease", |delivered| delivered.lease != first.lease);
    running.wait_acknowledged(&next);
    assert_eq!(live_leases(&world), [next.lease]);
    running.stop();
}

#[test]
fn an_old_copy_of_the_state_is_found_out_and_begins_anew() {
    let (world, state) = (World::start(), tempfile::tempdir().unwrap());
    let running = Running::start(&world, state.path(), Some(30));
    let first = running.wait_for("a certificate", |_| true);
    running.wait_acknowledged(&first);
    let file = state.path().join("roles/web.json");
    let copy = fs::read(&file).unwrap();
    let second = running.wait_for("a rotation", |delivered| delivered.generation == 2);
    running.wait_acknowledged(&second);
    running.stop();

    fs::write(&file, copy).unwrap();
    let running = Running::start(&world, state.path(), Some(30));
    let next = running.wait_for("one of another lease", |delivered| delivered.lease != first.lease);
    assert_eq!(next.generation, 1);
    let found = world.records().into_iter().filter(|record| record["reason"] == "GENERATION_SUPERSEDED").count();
    assert!(found >= 1, "the copy is on record");
    running.stop();
}

#[test]
fn a_credential_that_cannot_be_put_into_its_place_is_neither_shown_nor_acknowledged() {
    let (world, state) = (World::start(), tempfile::tempdir().unwrap());
    let running = Running::with_readers(&world, state.path(), None, true);
    let told = wait_until(PATIENCE, "the failure is told", || running.status.borrow().last_error.clone());
    assert!(told.contains("the disk is full"), "{told}");
    assert!(running.desk.borrow().is_none());
    let server = running.readers.server.clone();
    let id = live_leases(&world).pop().unwrap();
    let lease = running.runtime.block_on(async { server.client()?.lease(&id).await }).unwrap();
    assert_eq!((lease.generation, lease.acknowledged_generation), (1, 0));
    *running.readers.broken.lock().unwrap() = false;
    let delivered = running.wait_for("it is delivered", |_| true);
    assert_eq!((delivered.lease.clone(), delivered.generation), (id, 1), "the very one that came");
    running.wait_acknowledged(&delivered);
    running.stop();
}

#[test]
fn what_expires_while_the_next_one_cannot_be_put_into_its_place_is_let_go_of() {
    let (world, state) = (World::start(), tempfile::tempdir().unwrap());
    let running = Running::start(&world, state.path(), Some(8));
    let first = running.wait_for("a certificate", |_| true);
    *running.readers.broken.lock().unwrap() = true;
    wait_until(PATIENCE, "it is let go of", || running.desk.borrow().is_none().then_some(()));
    assert!(SystemClock.now().as_second() >= validity(&first.leaf).1, "what is valid is kept");
    assert_eq!(running.status.borrow().valid_until, None);
    let told = running.status.borrow().last_error.clone().unwrap_or_default();
    assert!(told.contains("the disk is full"), "the next one was there: {told}");
    // That one has expired too when there is room again: readers see that what they get is valid.
    std::thread::sleep(Duration::from_secs(8));
    *running.readers.broken.lock().unwrap() = false;
    let next = running.wait_for("one that is valid", |delivered| delivered.leaf != first.leaf);
    assert!(running.desk.borrow().is_some() && validity(&next.leaf).1 > validity(&first.leaf).1);
    running.stop();
}
