//! Random operations on a store and on the simplest thing that does the same, which must agree at every step.

use std::collections::BTreeMap;

use daypass::{
    model::{
        SignedDuration, Timestamp,
        lease::{Change, Claim, Lease, LeaseFilter, LeaseId, LeaseState, ServerId},
        revocation::RevokedSerial,
    },
    store::{LeaseStore, NewLease, OPEN_GRACE, Put, Stats, Swap, TokenUseKey},
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::Index,
    test_runner::{Config, TestRunner},
};

use super::{
    conformance::pages,
    leases::{RETENTION, at, lease_at, list, new},
};

/// A step.
#[derive(Debug, Clone)]
enum Step {
    Put { tenant: usize, role: usize, subject: usize, request: Option<u8>, token: Option<(u8, i64)>, caps: (u32, u32) },
    PutAgain(Index),
    Change { which: Vec<(Index, Kind)> },
    Restore { which: Vec<(Index, Kind)>, lost: bool },
    Due { after: i64, limit: usize },
    PurgeDue { after: i64 },
    List { filter: [Option<usize>; 4], before: Option<Index>, limit: usize },
    Revoke { serials: Vec<(u8, i64)> },
    Crl { now: i64 },
}

/// What happens to a lease; what its state does not allow is tried as a renewal of a wrong version.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Renew,
    Claim,
    Acknowledge,
    Revoke,
    Finish,
    Expire,
    SkipAVersion,
    Repeat,
}

const TENANTS: [&str; 4] = ["acme", "acme-2", "globex", "initech"];
const ROLES: [&str; 2] = ["web", "db"];
const SUBJECTS: [&str; 3] = ["spiffe://x/a", "oidc:ci:b", "dns:x/c"];

/// Runs `cases` sequences, each on a new store.
pub fn agrees(cases: u32, mut store: impl FnMut() -> Box<dyn LeaseStore>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() });
    let store = std::cell::RefCell::new(&mut store);
    let outcome = runner.run(&vec(step(), 1..60), |steps| {
        let store = (store.borrow_mut())();
        runtime.block_on(run(store.as_ref(), &steps));
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop::sample::select(vec![
        Kind::Renew,
        Kind::Claim,
        Kind::Acknowledge,
        Kind::Revoke,
        Kind::Finish,
        Kind::Expire,
        Kind::SkipAVersion,
        Kind::Repeat,
    ]);
    let changes = vec((any::<Index>(), kind), 0..6);
    let put = (
        (0..TENANTS.len(), 0..ROLES.len(), 0..SUBJECTS.len()),
        prop::option::of(0..6_u8),
        prop::option::of((0..10_u8, 0..4000_i64)),
        (0..12_u32, 0..6_u32),
    );
    prop_oneof![
        8 => put.prop_map(|((tenant, role, subject), request, token, caps)| Step::Put { tenant, role, subject, request, token, caps }),
        1 => any::<Index>().prop_map(Step::PutAgain),
        6 => changes.clone().prop_map(|which| Step::Change { which }),
        2 => (changes, any::<bool>()).prop_map(|(which, lost)| Step::Restore { which, lost }),
        1 => (0..100_000_i64, 1..20_usize).prop_map(|(after, limit)| Step::Due { after, limit }),
        2 => (0..200_000_i64).prop_map(|after| Step::PurgeDue { after }),
        3 => (
            (prop::option::of(0..2_usize), prop::option::of(0..4_usize), prop::option::of(0..3_usize), prop::option::of(0..5_usize)),
            prop::option::of(any::<Index>()),
            1..9_usize,
        )
            .prop_map(|((a, b, c, d), before, limit)| Step::List { filter: [a, b, c, d], before, limit }),
        2 => vec((0..20_u8, 0..4000_i64), 0..5).prop_map(|serials| Step::Revoke { serials }),
        1 => (0..4000_i64).prop_map(|now| Step::Crl { now }),
    ]
}

/// The reference: maps, and no cleverness.
#[derive(Default)]
struct Reference {
    leases: BTreeMap<LeaseId, (Lease, Option<[u8; 16]>)>,
    tokens: BTreeMap<[u8; 16], Timestamp>,
    serials: BTreeMap<String, RevokedSerial>,
    revision: u64,
}

impl Reference {
    fn put(&mut self, new: &NewLease) -> Put {
        let lease = &new.lease;
        if self.leases.contains_key(&lease.id) {
            return Put::Stored;
        }
        let live = || self.leases.values().filter(|(lease, _)| lease.state.is_live());
        if let Some(key) = new.request_key
            && let Some((existing, _)) = live().find(|(_, other)| *other == Some(key))
        {
            return Put::Existing(Box::new(existing.clone()));
        }
        if new.token_use.is_some_and(|token| self.tokens.contains_key(&token.key)) {
            return Put::TokenReplayed;
        }
        let of_tenant = || live().filter(|(other, _)| other.tenant == lease.tenant);
        if of_tenant().count() >= new.tenant_cap as usize {
            return Put::TenantCap;
        }
        if of_tenant().filter(|(other, _)| other.subject == lease.subject).count() >= new.caller_cap as usize {
            return Put::CallerCap;
        }
        self.leases.insert(lease.id, (lease.clone(), new.request_key));
        if let Some(token) = new.token_use {
            self.tokens.insert(token.key, token.until);
        }
        Put::Stored
    }

    fn swap(&mut self, lease: &Lease) -> Swap {
        match self.leases.get_mut(&lease.id) {
            None => Swap::Missing,
            Some((stored, key)) if stored.version + 1 == lease.version => {
                *stored = lease.clone();
                *key = key.filter(|_| lease.state.is_live());
                Swap::Done
            }
            Some((stored, _)) if stored == lease => Swap::Done,
            Some(_) => Swap::Conflict,
        }
    }

    fn restore(&mut self, lease: &Lease) -> usize {
        match self.leases.get_mut(&lease.id) {
            None => drop(self.leases.insert(lease.id, (lease.clone(), None))),
            Some((stored, key)) if stored.version < lease.version => {
                *stored = lease.clone();
                // An ended lease lets go of its request key for good.
                *key = key.filter(|_| lease.state.is_live());
            }
            Some(_) => return 0,
        }
        1
    }

    fn due(&self, now: Timestamp, limit: usize) -> Vec<Lease> {
        let mut due: Vec<&Lease> = self.leases.values().map(|(lease, _)| lease).filter(|lease| due_at(lease) <= now).collect();
        due.sort_by_key(|lease| (due_at(lease), lease.id));
        due.into_iter().take(limit).cloned().collect()
    }

    fn purge(&mut self, leases: &[Lease], now: Timestamp) {
        for lease in leases {
            if self.leases.get(&lease.id).is_some_and(|(stored, _)| !stored.state.is_live() && stored.version == lease.version) {
                self.leases.remove(&lease.id);
            }
        }
        self.tokens.retain(|_, until| *until >= now);
        self.serials.retain(|_, serial| serial.not_after >= now);
    }

    fn nth(&self, index: Index) -> Option<&Lease> {
        (!self.leases.is_empty()).then(|| &self.leases.values().nth(index.index(self.leases.len())).unwrap().0)
    }

    fn stats(&self) -> Stats {
        let leases = || self.leases.values().map(|(lease, _)| lease);
        Stats { live: leases().filter(|lease| lease.state.is_live()).count() as u64, oldest_due: leases().map(due_at).min() }
    }
}

async fn run(store: &dyn LeaseStore, steps: &[Step]) {
    let mut reference = Reference::default();
    let mut puts = Vec::new();
    for (n, step) in steps.iter().enumerate() {
        let now = i64::try_from(n).unwrap();
        take(store, &mut reference, &mut puts, step, now).await;
        assert_eq!(store.stats().await.unwrap(), reference.stats(), "after {step:?}");
    }
    let all: Vec<Lease> = reference.leases.values().map(|(lease, _)| lease.clone()).collect();
    assert_eq!(pages(store, &LeaseFilter::default(), 10).await, all);
    // Once all has ended and is purged, no index holds anything.
    let ended: Vec<Lease> = all.iter().map(end).collect();
    assert_eq!(store.restore(&ended).await.unwrap(), all.iter().filter(|lease| lease.state.is_live()).count());
    store.purge(&ended, at(0)).await.unwrap();
    assert_eq!(store.stats().await.unwrap(), Stats::default());
    assert_eq!(pages(store, &LeaseFilter::default(), 10).await, []);
}

async fn take(store: &dyn LeaseStore, reference: &mut Reference, puts: &mut Vec<NewLease>, step: &Step, now: i64) {
    match step {
        Step::Put { tenant, role, subject, request, token, caps } => {
            let lease = lease_at(at(now), TENANTS[*tenant], ROLES[*role], SUBJECTS[*subject]);
            let put = NewLease {
                // Callers make the key out of tenant, subject and request id.
                request_key: request.map(|n| [n * 16 + u8::try_from(*tenant).unwrap(); 16]),
                token_use: token.map(|(n, until)| TokenUseKey {
                    key: [n * 16 + u8::try_from(*tenant).unwrap(); 16],
                    retry: None,
                    until: at(until),
                }),
                tenant_cap: caps.0,
                caller_cap: caps.1,
                ..new(&lease)
            };
            assert_eq!(store.put(&put).await.unwrap(), reference.put(&put), "{put:?}");
            puts.push(put);
        }
        Step::PutAgain(index) => {
            let Some(put) = (!puts.is_empty()).then(|| index.get(puts)) else { return };
            // One that was purged would be stored anew; that is no repeat within any caller's patience.
            if reference.leases.contains_key(&put.lease.id) {
                assert_eq!(store.put(put).await.unwrap(), reference.put(put));
            }
        }
        Step::Change { which } => {
            let batch: Vec<Lease> = which.iter().filter_map(|(index, kind)| Some(next(reference.nth(*index)?, *kind, now))).collect();
            let expected: Vec<Swap> = batch.iter().map(|lease| reference.swap(lease)).collect();
            assert_eq!(store.swap(&batch).await.unwrap(), expected, "{batch:?}");
        }
        Step::Restore { which, lost } => {
            let mut batch: Vec<Lease> = which.iter().filter_map(|(index, kind)| Some(next(reference.nth(*index)?, *kind, now))).collect();
            if *lost {
                batch.push(lease_at(at(now), TENANTS[0], ROLES[0], SUBJECTS[0]));
            }
            let expected: usize = batch.iter().map(|lease| reference.restore(lease)).sum();
            assert_eq!(store.restore(&batch).await.unwrap(), expected, "{batch:?}");
        }
        Step::Due { after, limit } => {
            assert_eq!(store.due(at(*after), *limit).await.unwrap(), reference.due(at(*after), *limit));
        }
        Step::PurgeDue { after } => {
            let due = store.due(at(*after), 1000).await.unwrap();
            store.purge(&due, at(*after)).await.unwrap();
            reference.purge(&due, at(*after));
        }
        Step::List { filter: [role, tenant, subject, state], before, limit } => {
            let filter = LeaseFilter {
                role: role.map(|n| ROLES[n].parse().unwrap()),
                tenant: tenant.map(|n| TENANTS[n].parse().unwrap()),
                subject: subject.map(|n| SUBJECTS[n].to_owned().try_into().unwrap()),
                state: state.map(|n| LeaseState::ALL[n]),
                issued_before: before.and_then(|index| Some(reference.nth(index)?.issued_at)),
            };
            let expected: Vec<Lease> =
                reference.leases.values().map(|(lease, _)| lease).filter(|lease| filter.matches(lease)).cloned().collect();
            assert_eq!(pages(store, &filter, *limit).await, expected, "{filter:?}");
        }
        Step::Revoke { serials } => {
            let serials: Vec<RevokedSerial> = serials
                .iter()
                .map(|(n, not_after)| RevokedSerial { serial: format!("{n:02x}"), revoked_at: at(now), not_after: at(*not_after) })
                .collect();
            store.add_revoked(&list(), &serials).await.unwrap();
            let before = reference.serials.len();
            for serial in &serials {
                reference.serials.entry(serial.serial.clone()).or_insert_with(|| serial.clone());
            }
            reference.revision += u64::from(reference.serials.len() > before);
        }
        Step::Crl { now } => {
            let (revision, mut serials) = store.revoked(&list(), at(*now)).await.unwrap();
            serials.sort_by(|a, b| a.serial.cmp(&b.serial));
            let expected: Vec<RevokedSerial> = reference.serials.values().filter(|serial| serial.not_after >= at(*now)).cloned().collect();
            assert_eq!((revision, serials), (reference.revision, expected));
            assert_eq!(store.revocation_revision(&list()).await.unwrap(), reference.revision);
        }
    }
}

fn next(lease: &Lease, kind: Kind, now: i64) -> Lease {
    let change = match kind {
        Kind::Renew => Change::Renew {
            at: lease.issued_at,
            expires_at: lease.expires_at + SignedDuration::from_secs(7),
            handle: lease.handle.clone(),
            shown: None,
        },
        Kind::Claim => Change::Claim(Claim { by: ServerId(now.unsigned_abs()), until: at(now) }),
        Kind::Acknowledge => Change::Acknowledge { generation: lease.generation, next_key: Some("30".repeat(91)) },
        Kind::Revoke => Change::BeginRevoke { at: at(now) },
        Kind::Finish => Change::FinishRevoke { live_until: at(now) },
        Kind::Expire => Change::Expire,
        Kind::SkipAVersion => return Lease { version: lease.version + 2, ..lease.clone() },
        Kind::Repeat => return lease.clone(),
    };
    lease.apply(change).unwrap_or_else(|_| Lease { version: lease.version + 3, ..lease.clone() })
}

fn end(lease: &Lease) -> Lease {
    let end = |lease: &Lease, change| lease.apply(change).unwrap();
    match lease.state {
        LeaseState::Pending | LeaseState::Active => end(lease, Change::Expire),
        LeaseState::Revoking => end(lease, Change::FinishRevoke { live_until: lease.live_until }),
        LeaseState::Revoked | LeaseState::Expired => lease.clone(),
    }
}

fn due_at(lease: &Lease) -> Timestamp {
    lease.due_at(OPEN_GRACE, RETENTION)
}
