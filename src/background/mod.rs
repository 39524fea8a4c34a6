//! The one loop that drives the passes: on a schedule, on a signal, until the service stops. A pass that fails is told in the log and
//! tried again at its next turn; none of them needs anything but what is stored.

mod steady;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

pub use self::steady::Steady;
use crate::{
    model::{name::CaName, revocation::AwsDeny},
    vend::{Enrollments, Lane, REMOTE_AT_ONCE, SeenRevoked, Vend},
};

/// How often due leases are taken off the store.
pub const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How often uses of tokens and serials of expired certificates are forgotten.
pub const FORGET_EVERY: Duration = Duration::from_secs(60);

/// How often another server's revocations are looked for; with the signing itself this keeps a CRL within a second.
pub const CRL_EVERY: Duration = Duration::from_millis(400);

/// How long at least a CRL stays out before the next one is signed: many revocations at once share one.
const CRL_REST: Duration = Duration::from_millis(20);

/// How often keys of CAs that rotate are looked for.
const CAS_EVERY: Duration = Duration::from_millis(200);

/// How often leases of failed calls are tried again while the store is away.
const OPEN_EVERY: Duration = Duration::from_secs(1);

/// How often each deny list is compared with what the remote system has.
pub const DENY_EVERY: Duration = Duration::from_secs(15);

/// How long a deny list rests that could not be published.
const DENY_REST: Duration = Duration::from_secs(2);

/// How long one rests that has more entries than its policy has room for: writing it again frees none.
const OVERFLOW_REST: Duration = Duration::from_secs(30);

/// How long the rotation rests between two batches: what falls due meanwhile shares their steps.
const ROTATE_REST: Duration = Duration::from_millis(20);

/// How long it rests when the store or the audit log is away.
const ROTATE_PAUSE: Duration = Duration::from_secs(1);

/// How often other servers' revocations are looked for, to end streams of leases that were revoked there.
pub const REVOKED_EVERY: Duration = Duration::from_millis(500);

/// Told when the service stops.
pub type Shutdown = watch::Receiver<bool>;

/// Starts every pass of the heart. They end when `shutdown` turns true, and never before. CRLs and deny
/// lists go out only once `settled` is true.
pub fn start(vend: &Arc<Vend>, shutdown: &Shutdown, settled: &watch::Receiver<bool>) -> JoinSet<()> {
    let mut passes = JoinSet::new();
    passes.spawn(until(shutdown.clone(), sweep(vend.clone())));
    passes.spawn(until(shutdown.clone(), forget(vend.clone())));
    passes.spawn(until(shutdown.clone(), close_open(vend.clone())));
    passes.spawn(until(shutdown.clone(), rotate(vend.clone())));
    passes.spawn(until(shutdown.clone(), rotate_remote(vend.clone())));
    passes.spawn(until(shutdown.clone(), see_revoked(vend.clone())));
    passes.spawn(until(shutdown.clone(), follow_cas(vend.clone())));
    passes.spawn(until(shutdown.clone(), publish_crls(vend.clone(), settled.clone())));
    passes.spawn(until(shutdown.clone(), publish_denies(vend.clone(), settled.clone())));
    passes
}

/// Runs a loop until the service stops.
pub async fn until(mut shutdown: Shutdown, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        _ = shutdown.wait_for(|over| *over) => {}
    }
}

/// A ticker that does not hurry after what it missed.
pub fn ticker(every: Duration) -> tokio::time::Interval {
    let mut ticker = interval(every);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}

async fn sweep(vend: Arc<Vend>) {
    let mut tick = ticker(SWEEP_EVERY);
    let mut steady = Steady::new(vend.now(), Instant::now());
    loop {
        tick.tick().await;
        while steady.holds(vend.now(), Instant::now()) {
            match vend.sweep().await {
                Ok(swept) => {
                    for (what, count) in
                        [("expired", swept.expired), ("finished", swept.finished), ("closed", swept.closed), ("purged", swept.purged)]
                    {
                        metrics::counter!("daypass_swept_total", "what" => what).increment(count as u64);
                    }
                    if swept.is_idle() {
                        break;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the sweep will try again");
                    break;
                }
            }
        }
    }
}

async fn forget(vend: Arc<Vend>) {
    let mut tick = ticker(FORGET_EVERY);
    let mut steady = Steady::new(vend.now(), Instant::now());
    loop {
        tick.tick().await;
        if !steady.holds(vend.now(), Instant::now()) {
            continue;
        }
        if let Err(error) = vend.forget().await {
            tracing::warn!(%error, "what is old will be forgotten at the next turn");
        }
    }
}

/// Forgets enrolment codes that are past their time.
pub async fn forget_enrollments(enrollments: Arc<Enrollments>) {
    let mut tick = ticker(FORGET_EVERY);
    let mut steady = Steady::new(enrollments.now(), Instant::now());
    loop {
        tick.tick().await;
        if !steady.holds(enrollments.now(), Instant::now()) {
            continue;
        }
        if let Err(error) = enrollments.purge(enrollments.now()).await {
            tracing::warn!(%error, "enrolment codes that are past their time will be forgotten at the next turn");
        }
    }
}

async fn close_open(vend: Arc<Vend>) {
    let mut tick = ticker(OPEN_EVERY);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = vend.open().rung() => {}
        }
        let closed = vend.close_open().await;
        metrics::gauge!("daypass_open_leases").set(vend.open().len() as f64);
        if let Err(error) = closed {
            tracing::warn!(%error, waiting = vend.open().len(), "leases of failed calls wait to be closed");
            // The store or the log is away: every ring would only fail again.
            tick.tick().await;
        }
    }
}

/// Rotates watched leases whose credentials are made here. It deletes and ends nothing, so it goes by the wall clock as requests do, even by
/// one that has jumped: their holders go by the time that they have.
async fn rotate(vend: Arc<Vend>) {
    loop {
        vend.watches().due(Lane::Here, || vend.now()).await;
        match vend.rotate_due().await {
            Ok(_) => tokio::time::sleep(ROTATE_REST).await,
            Err(error) => {
                tracing::warn!(%error, "what is due for rotation will be tried again");
                tokio::time::sleep(ROTATE_PAUSE).await;
            }
        }
    }
}

/// Rotates those whose credentials a remote system makes, some at once, by the same clock.
async fn rotate_remote(vend: Arc<Vend>) {
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = vend.watches().due(Lane::Remote, || vend.now()), if under_way.len() < REMOTE_AT_ONCE => {
                under_way.extend(vend.take_remote(REMOTE_AT_ONCE - under_way.len()));
            }
            Some(()) = under_way.next() => {}
        }
    }
}

async fn see_revoked(vend: Arc<Vend>) {
    let mut tick = ticker(REVOKED_EVERY);
    let mut seen = SeenRevoked::default();
    loop {
        tick.tick().await;
        if let Err(error) = vend.see_revoked(&mut seen).await {
            tracing::warn!(%error, "revocations at other servers will be looked for at the next turn");
        }
    }
}

/// Meets the keys of CAs that rotate, wherever they were made: a look costs no IO.
async fn follow_cas(vend: Arc<Vend>) {
    let mut tick = ticker(CAS_EVERY);
    loop {
        tick.tick().await;
        vend.follow_cas();
    }
}

/// A loop for each CA, from its first look to its last: one whose key does not answer holds up no other.
async fn publish_crls(vend: Arc<Vend>, mut settled: watch::Receiver<bool>) {
    if settled.wait_for(|settled| *settled).await.is_err() {
        std::future::pending::<()>().await;
    }
    let mut changed = vend.crls().changed();
    let mut begun = BTreeSet::new();
    let mut loops = FuturesUnordered::new();
    loop {
        changed.mark_unchanged();
        for ca in vend.crls().cas() {
            if begun.insert(ca.clone()) {
                loops.push(publish_crl(vend.clone(), ca));
            }
        }
        tokio::select! {
            changed = changed.changed() => if changed.is_err() { return },
            Some(gone) = loops.next() => drop(begun.remove(&gone)),
        }
    }
}

/// Publishes the CRL of a CA for as long as it is ours.
async fn publish_crl(vend: Arc<Vend>, ca: CaName) -> CaName {
    let mut tick = ticker(CRL_EVERY);
    while vend.crls().is_ours(&ca) {
        tokio::select! {
            _ = tick.tick() => {}
            () = vend.crls().rung(&ca) => {}
        }
        match vend.publish_crl(&ca).await {
            Ok(true) => tokio::time::sleep(CRL_REST).await,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, %ca, "the CRL will be tried again");
                tick.tick().await;
            }
        }
    }
    metrics::gauge!("daypass_crl_number", "ca" => ca.to_string()).set(0.0);
    ca
}

/// A loop for each deny list, as they are met: one whose remote system is away holds up no other. There are as many as IAM roles that were
/// configured since the store began.
async fn publish_denies(vend: Arc<Vend>, mut settled: watch::Receiver<bool>) {
    if settled.wait_for(|settled| *settled).await.is_err() {
        std::future::pending::<()>().await;
    }
    let mut tick = ticker(DENY_EVERY);
    let mut begun = BTreeSet::new();
    let mut loops = FuturesUnordered::new();
    loop {
        tokio::select! {
            _ = tick.tick() => if let Err(error) = vend.find_denies().await {
                tracing::warn!(%error, "deny lists of earlier roles will be looked for at the next turn");
            },
            () = vend.denies().grown() => {}
            Some(()) = loops.next() => {}
        }
        for list in vend.denies().known() {
            if begun.insert(list.clone()) {
                loops.push(publish_deny(vend.clone(), list));
            }
        }
    }
}

async fn publish_deny(vend: Arc<Vend>, list: AwsDeny) {
    let mut tick = ticker(DENY_EVERY);
    let mut trusted = vend.now();
    let mut steady = Steady::new(trusted, Instant::now());
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = vend.denies().rung(&list) => {}
        }
        if steady.holds(vend.now(), Instant::now()) {
            trusted = vend.now();
        }
        let published = vend.publish_deny(&list, trusted).await;
        let up = if published.is_ok() { 1.0 } else { 0.0 };
        metrics::gauge!("daypass_deny_list_up", "aws" => list.aws.to_string(), "role_arn" => list.role_arn.clone()).set(up);
        if let Err(error) = published {
            tracing::warn!(%error, aws = %list.aws, role = list.role_arn, "the deny list will be tried again");
            let rest = if vend.deny_overflows(&list, vend.now()) { OVERFLOW_REST } else { DENY_REST };
            tokio::time::sleep(rest).await;
            tick.reset_immediately();
        }
    }
}
