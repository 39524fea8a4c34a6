//! Ports that fail when told: before a call has had its effect, or after, so that the caller cannot know.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use daypass::{
    audit::{AuditLog, AuditReader, Health, Receipt},
    model::{
        Timestamp,
        error::{Code, Error, Result},
        event::Event,
        lease::{Change, Lease, LeaseFilter, LeaseId},
        name::{CaName, TenantName},
        revocation::{RevocationList, RevokedSerial},
    },
    store::{LeaseStore, NewLease, Page, Put, Stats, Swap, TokenUseKey},
};
use tokio::sync::Semaphore;

/// Whether a failing call has its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Before,
    After,
}

#[derive(Default)]
struct State {
    planned: Option<(&'static str, usize, When)>,
    forever: bool,
    calls: HashMap<&'static str, usize>,
    races: usize,
    log_away: bool,
    gate: Option<(&'static str, Arc<Gate>)>,
}

/// Where calls of an operation wait until they are let through.
pub struct Gate {
    open: Semaphore,
    waiting: AtomicUsize,
}

impl Gate {
    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Lets all through, from now on.
    pub fn open(&self) {
        self.open.close();
    }

    async fn pass(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        // It is closed when it is open to all.
        let _opened = self.open.acquire().await;
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Which call fails.
#[derive(Default, Clone)]
pub struct Faults(Arc<Mutex<State>>);

impl Faults {
    /// From now on the `nth` call (from 0) of `operation` fails, once.
    pub fn plan(&self, operation: &'static str, nth: usize, when: When) {
        *self.0.lock().unwrap() = State { planned: Some((operation, nth, when)), ..State::default() };
    }

    /// From now on every call of `operation` fails.
    pub fn plan_forever(&self, operation: &'static str, when: When) {
        *self.0.lock().unwrap() = State { planned: Some((operation, 0, when)), forever: true, ..State::default() };
    }

    /// From now on the audit log takes nothing, and says so.
    pub fn log_away(&self) {
        self.0.lock().unwrap().log_away = true;
    }

    fn is_log_away(&self) -> bool {
        self.0.lock().unwrap().log_away
    }

    /// Before each of the next `count` swaps somebody else changes the leases.
    pub fn race(&self, count: usize) {
        self.0.lock().unwrap().races = count;
    }

    /// From now on every call of `operation` waits at a gate.
    pub fn hold(&self, operation: &'static str) -> Arc<Gate> {
        let gate = Arc::new(Gate { open: Semaphore::new(0), waiting: AtomicUsize::new(0) });
        self.0.lock().unwrap().gate = Some((operation, gate.clone()));
        gate
    }

    fn gate(&self, operation: &str) -> Option<Arc<Gate>> {
        self.0.lock().unwrap().gate.as_ref().filter(|(held, _)| *held == operation).map(|(_, gate)| gate.clone())
    }

    fn loses_race(&self) -> bool {
        let mut state = self.0.lock().unwrap();
        let lost = state.races > 0;
        state.races = state.races.saturating_sub(1);
        lost
    }

    /// Nothing fails any more. Answers how often each operation was called since the plan.
    pub fn heal(&self) -> HashMap<&'static str, usize> {
        std::mem::take(&mut *self.0.lock().unwrap()).calls
    }

    pub fn due(&self, operation: &'static str) -> Option<When> {
        let mut state = self.0.lock().unwrap();
        let count = state.calls.entry(operation).or_default();
        let nth = *count;
        *count += 1;
        match state.planned {
            Some((planned, at, when)) if planned == operation && (at == nth || (state.forever && nth >= at)) => Some(when),
            _ => None,
        }
    }

    async fn run<T>(&self, operation: &'static str, code: Code, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
        if let Some(gate) = self.gate(operation) {
            gate.pass().await;
        }
        let fault = || Error::new(code, format!("injected at {operation}"));
        match self.due(operation) {
            None => work.await,
            Some(When::Before) => Err(fault()),
            Some(When::After) => work.await.and_then(|_| Err(fault())),
        }
    }

    async fn store<T>(&self, operation: &'static str, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
        self.run(operation, Code::StoreUnavailable, work).await
    }
}

pub struct FaultyStore(pub Arc<dyn LeaseStore>, pub Faults);

#[async_trait]
impl LeaseStore for FaultyStore {
    async fn put(&self, new: &NewLease) -> Result<Put> {
        self.1.store("put", self.0.put(new)).await
    }
    async fn use_token(&self, tenant: &TenantName, token: &TokenUseKey) -> Result<bool> {
        self.1.store("use_token", self.0.use_token(tenant, token)).await
    }
    async fn get(&self, ids: &[LeaseId]) -> Result<Vec<Option<Lease>>> {
        self.1.store("get", self.0.get(ids)).await
    }
    async fn list(&self, filter: &LeaseFilter, after: Option<LeaseId>, limit: usize) -> Result<Page> {
        self.1.store("list", self.0.list(filter, after, limit)).await
    }
    async fn swap(&self, leases: &[Lease]) -> Result<Vec<Swap>> {
        if self.1.loses_race() {
            let ids: Vec<LeaseId> = leases.iter().map(|lease| lease.id).collect();
            let renewed = self.0.get(&ids).await?.into_iter().flatten().map(|lease| {
                let change = Change::Renew { at: lease.issued_at, expires_at: lease.expires_at, handle: lease.handle.clone(), shown: None };
                lease.apply(change).unwrap()
            });
            self.0.swap(&renewed.collect::<Vec<_>>()).await?;
        }
        self.1.store("swap", self.0.swap(leases)).await
    }
    async fn restore(&self, leases: &[Lease]) -> Result<usize> {
        self.1.store("restore", self.0.restore(leases)).await
    }
    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<Lease>> {
        self.1.store("due", self.0.due(now, limit)).await
    }
    async fn purge(&self, leases: &[Lease], now: Timestamp) -> Result<()> {
        self.1.store("purge", self.0.purge(leases, now)).await
    }
    async fn add_revoked(&self, list: &RevocationList, serials: &[RevokedSerial]) -> Result<()> {
        self.1.store("add_revoked", self.0.add_revoked(list, serials)).await
    }
    async fn revocation_revision(&self, list: &RevocationList) -> Result<u64> {
        self.0.revocation_revision(list).await
    }
    async fn revoked(&self, list: &RevocationList, now: Timestamp) -> Result<(u64, Vec<RevokedSerial>)> {
        self.1.store("revoked", self.0.revoked(list, now)).await
    }
    async fn revocation_lists(&self) -> Result<Vec<RevocationList>> {
        self.0.revocation_lists().await
    }
    async fn next_crl_number(&self, ca: &CaName, floor: u64) -> Result<u64> {
        self.1.store("next_crl_number", self.0.next_crl_number(ca, floor)).await
    }
    async fn stats(&self) -> Result<Stats> {
        self.0.stats().await
    }
    async fn incarnation(&self) -> Result<String> {
        self.0.incarnation().await
    }
}

pub struct FaultyLog(pub Arc<dyn AuditLog>, pub Faults);

#[async_trait]
impl AuditLog for FaultyLog {
    async fn append(&self, events: Vec<Event>) -> Result<Receipt> {
        let append = async {
            if self.1.is_log_away() {
                return Err(Error::new(Code::AuditUnavailable, "the log is away"));
            }
            self.0.append(events).await
        };
        self.1.run("append", Code::AuditUnavailable, append).await
    }
    fn health(&self) -> Health {
        let away = self.1.is_log_away().then(|| "injected".to_owned());
        let health = self.0.health();
        Health { fault: away.or(health.fault), ..health }
    }
    fn reader(&self) -> AuditReader {
        self.0.reader()
    }
}
