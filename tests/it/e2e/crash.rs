//! `kill -9` at random moments of a load: nothing that was acknowledged is ever lost, on either store.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use daypass::{
    audit::verify::verify,
    client::{Client, csr, types::IssueOrder},
    clock,
    proto::v1::{GetRequest, LeaseState},
};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::SignedDuration;
use tokio::task::JoinSet;
use x509_parser::{extensions::ParsedExtension, prelude::FromDer, revocation_list::CertificateRevocationList};

use super::{
    wire::{block_on, client, leases},
    world::World,
};
use crate::support::{parts::wait_until, redis::Redis};

/// How often the server is killed in all, for each store; [`ROUNDS`] says otherwise.
const DEFAULT_ROUNDS: usize = 200;

/// The environment's word for it.
const ROUNDS: &str = "DAYPASS_CRASH_ROUNDS";

/// Servers that are killed side by side.
const LANES: usize = 2;

/// Clients at once for each server.
const CLIENTS: usize = 8;

/// The server lives so long under load, in milliseconds.
const LIFE: std::ops::Range<u64> = 50..350;

/// After a restart every revoked certificate is back in the CRL within this.
const CRL_TIME: Duration = Duration::from_secs(2);

/// Rounds between two readings of the whole audit log.
const WHOLE_LOG_EVERY: usize = 10;

#[test]
fn kill_9_loses_nothing_on_the_embedded_store() {
    kill_again_and_again(|| (World::start(), None));
}

#[test]
fn kill_9_loses_nothing_on_redis() {
    kill_again_and_again(|| {
        let redis = Redis::start();
        (World::on_redis(&redis.url()), Some(redis))
    });
}

fn kill_again_and_again(make: impl Fn() -> (World, Option<Redis>) + Sync) {
    let rounds = std::env::var(ROUNDS).map_or(DEFAULT_ROUNDS, |text| text.parse().expect("a number of rounds"));
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                let (mut world, _redis) = make();
                raise_caps(&mut world);
                let mut all = Acknowledged::default();
                for round in 0..rounds.div_ceil(LANES) {
                    let new = load_until_killed(&mut world);
                    world.start_again();
                    check_leases(&world, &new);
                    all.merge(new);
                    check_crl(&world, &all);
                    if round % WHOLE_LOG_EVERY == 0 {
                        verify(&world.file("audit")).unwrap();
                    }
                }
                check_leases(&world, &all);
                assert!(world.stop().success());
                let whole = verify(&world.file("audit")).unwrap();
                assert!(whole.records >= (all.leases.len() + all.revoked().count()) as u64);
                // Else nothing was proved.
                assert!(
                    all.leases.len() > rounds && all.revoked().count() >= rounds / LANES,
                    "{} leases, {} revoked",
                    all.leases.len(),
                    all.revoked().count()
                );
            });
        }
    });
}

fn raise_caps(world: &mut World) {
    world.stop();
    let caps = "name = \"platform\"\nmax_live_leases = 1000000\nmax_live_leases_per_caller = 1000000";
    world.edit("daypass.toml", "name = \"platform\"", caps);
    world.limit("requests_per_caller_per_second = 100000\nrequest_burst_per_caller = 100000");
    world.start_again();
}

/// What a lease's holder knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    /// It was issued, and nobody asked to revoke it.
    Issued,
    /// Its revocation was asked for, and no answer came.
    Asked,
    /// Its revocation was acknowledged.
    Revoked,
}

/// What the server acknowledged: each lease with its serial.
#[derive(Debug, Default)]
struct Acknowledged {
    leases: BTreeMap<String, (String, Known)>,
}

impl Acknowledged {
    fn merge(&mut self, new: Self) {
        self.leases.extend(new.leases);
    }

    fn revoked(&self) -> impl Iterator<Item = &str> {
        self.leases.values().filter(|(_, known)| *known == Known::Revoked).map(|(serial, _)| serial.as_str())
    }
}

/// Issues and revokes with several clients until the server is killed at a random moment.
fn load_until_killed(world: &mut World) -> Acknowledged {
    let acknowledged = Arc::new(Mutex::new(Acknowledged::default()));
    let life = LIFE.start + u64::from_be_bytes(clock::random()) % (LIFE.end - LIFE.start);
    block_on(async {
        let (_, csr) = csr::make().unwrap();
        let mut workers = JoinSet::new();
        for _ in 0..CLIENTS {
            workers.spawn(issue_and_revoke(client(world, &world.operator()), csr.der().to_vec(), acknowledged.clone()));
        }
        tokio::time::sleep(Duration::from_millis(life)).await;
        world.kill();
        workers.shutdown().await;
    });
    std::mem::take(&mut acknowledged.lock().unwrap())
}

async fn issue_and_revoke(mut client: Client, csr_der: Vec<u8>, acknowledged: Arc<Mutex<Acknowledged>>) {
    let note = |id: &str, serial: &str, known| acknowledged.lock().unwrap().leases.insert(id.to_owned(), (serial.to_owned(), known));
    for number in 0_u64.. {
        let request_id = format!("{number}-{:032x}", u128::from_be_bytes(clock::random()));
        // Long enough to stay in the CRL to the end of the test.
        let order = IssueOrder {
            role: "web".to_owned(),
            ttl: Some(SignedDuration::from_hours(1)),
            request_id,
            input: daypass::client::types::OrderInput::Csr(csr_der.clone()),
        };
        let Ok(issued) = client.issue(order).await else { return };
        let (id, serial) = (issued.lease.id, issued.lease.serial);
        note(&id, &serial, Known::Issued);
        if number % 2 == 0 {
            note(&id, &serial, Known::Asked);
            let Ok(_) = client.revoke(&id, "load").await else { return };
            note(&id, &serial, Known::Revoked);
        }
    }
}

/// Every acknowledged lease is in the store, in a state that fits what its holder knows.
fn check_leases(world: &World, acknowledged: &Acknowledged) {
    let states: BTreeMap<String, LeaseState> = block_on(async {
        let client = leases(world, &world.operator()).await;
        let get = |id: String| {
            let mut client = client.clone();
            async move {
                let answer = client.get(GetRequest { lease_id: id.clone() }).await.map_err(|status| format!("{id}: {status}"))?;
                Ok::<_, String>((id, answer.into_inner().lease.unwrap().state()))
            }
        };
        stream::iter(acknowledged.leases.keys().cloned().map(get)).buffer_unordered(32).try_collect().await
    })
    .unwrap_or_else(|lost| panic!("an acknowledged lease is lost: {lost}"));
    for (id, (_, known)) in &acknowledged.leases {
        let state = states[id];
        let fits = match known {
            Known::Issued => state == LeaseState::Active,
            Known::Asked => matches!(state, LeaseState::Active | LeaseState::Revoking | LeaseState::Revoked),
            Known::Revoked => matches!(state, LeaseState::Revoking | LeaseState::Revoked),
        };
        assert!(fits, "{id} is {state:?}, and its holder knows that it is {known:?}");
    }
}

/// Every certificate whose revocation was acknowledged is in the CRL.
fn check_crl(world: &World, acknowledged: &Acknowledged) {
    let revoked: BTreeSet<&str> = acknowledged.revoked().collect();
    wait_until(CRL_TIME, "every revoked certificate is in the CRL", || {
        let (serials, _) = crl(world)?;
        revoked.iter().all(|serial| serials.contains(*serial)).then_some(())
    });
}

/// The serials (lower-case hex) and the number of the CRL; none while there is no CRL.
fn crl(world: &World) -> Option<(BTreeSet<String>, u64)> {
    let (status, der) = world.get("/crl/issuing.crl")?;
    if status != 200 {
        return None;
    }
    let (_, crl) = CertificateRevocationList::from_der(&der).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    // The client shows sixteen bytes; DER leaves out what comes first and is zero, and puts one before a high bit.
    let serials = crl.iter_revoked_certificates().map(|entry| format!("{:0>32}", hex(&entry.serial().to_bytes_be()))).collect();
    let number = crl.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::CRLNumber(number) => u64::try_from(number.clone()).ok(),
        _ => None,
    });
    Some((serials, number.expect("a CRL has a number")))
}

#[test]
fn a_redis_that_comes_back_empty_is_filled_from_the_audit_log() {
    let mut redis = Redis::start();
    let world = World::on_redis(&redis.url());
    let operator = world.operator();
    let kept: Vec<String> = (0..3).map(|_| world.lease(&operator, "web")).collect();
    let revoked: Vec<serde_json::Value> = (0..3).map(|n| world.issue(&operator, "web", &format!("r{n}")).0["lease"].clone()).collect();
    for lease in &revoked {
        assert_eq!(world.cli(&operator, ["lease", "revoke", lease["id"].as_str().unwrap()]).code, 0);
    }
    let (before, _) = crl(&world).unwrap();
    let serials: BTreeSet<String> = revoked.iter().map(|lease| lease["serial"].as_str().unwrap().to_owned()).collect();
    assert!(serials.is_subset(&before));

    redis.stop();
    redis.start_again();
    let leases = |state: &str| world.cli(&operator, ["lease", "list", "--state", state, "-o", "json"]).json().as_array().unwrap().len();
    wait_until(Duration::from_secs(10), "the leases are back", || {
        (world.is_ready() && leases("active") == kept.len() && leases("revoked") + leases("revoking") == serials.len()).then_some(())
    });
    wait_until(Duration::from_secs(5), "the revocations are back in the CRL", || {
        crl(&world).and_then(|(now, _)| serials.is_subset(&now).then_some(()))
    });
    for id in &kept {
        assert_eq!(world.cli(&operator, ["lease", "revoke", id]).code, 0, "a lease that is back can be revoked");
    }
}

/// RFC 5280 section 5.2.3: a relying party that has seen a number takes no CRL with a smaller one.
#[test]
fn the_number_of_the_crl_never_falls() {
    let mut redis = Redis::start();
    let world = World::on_redis(&redis.url());
    let operator = world.operator();
    for _ in 0..4 {
        assert_eq!(world.cli(&operator, ["lease", "revoke", &world.lease(&operator, "web")]).code, 0);
    }
    let (serials, number) = crl(&world).unwrap();
    redis.stop();
    redis.start_again();
    wait_until(Duration::from_secs(10), "the revocations are back in a CRL with a greater number", || {
        crl(&world).and_then(|(now, next)| (serials.is_subset(&now) && next > number).then_some(()))
    });
}
