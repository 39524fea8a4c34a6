//! Every step of a redeem fails, before and after it has had its effect: one code never has two leases that live, and the machine that has
//! it gets its certificate.

use std::sync::Arc;

use async_trait::async_trait;
use daypass::{
    clock::Clock,
    model::{
        SignedDuration,
        error::{Code, Error, Result},
        lease::{Handle, Lease, MAX_LIVE_SERIALS, MAX_LIVE_SERIALS_ENROLLED},
        secret::Secret,
    },
    store::{Collection, Entry, EntryStore},
    vend::{Issued, MAX_REPEATED_REDEEMS},
};

use super::world::{Key, World, failed, leaf, operator, origin};
use crate::vend::faulty::{Faults, When};

/// Entries that fail when told.
pub struct FaultyEntries(pub Arc<dyn EntryStore>, pub Faults);

impl FaultyEntries {
    async fn run<T>(&self, operation: &'static str, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let fault = || Error::new(Code::StoreUnavailable, format!("injected at {operation}"));
        match self.1.due(operation) {
            None => work.await,
            Some(When::Before) => Err(fault()),
            Some(When::After) => work.await.and_then(|_| Err(fault())),
        }
    }
}

#[async_trait]
impl EntryStore for FaultyEntries {
    async fn entries_revision(&self, collection: Collection) -> Result<u64> {
        self.0.entries_revision(collection).await
    }
    async fn entries(&self, collection: Collection) -> Result<Vec<Entry>> {
        self.0.entries(collection).await
    }
    async fn entry(&self, collection: Collection, key: &str) -> Result<Option<Entry>> {
        self.run("entry", self.0.entry(collection, key)).await
    }
    async fn write_entry(&self, collection: Collection, entry: &Entry) -> Result<bool> {
        self.run("write_entry", self.0.write_entry(collection, entry)).await
    }
    async fn delete_entry(&self, collection: Collection, key: &str, version: u64) -> Result<bool> {
        self.0.delete_entry(collection, key, version).await
    }
}

/// What a redeem asks of others, in order.
const STEPS: [&str; 4] = ["entry", "put", "append", "write_entry"];

/// A redeem at the first server that failed at one step; the key that it was for.
struct Cut {
    world: World,
    code: Secret,
    key: Key,
    at: String,
}

impl Cut {
    async fn each() -> Vec<Self> {
        let mut cuts = Vec::new();
        for step in STEPS {
            for when in [When::Before, When::After] {
                let faults = Faults::default();
                let (world, key) = (World::faulty(&faults), Key::new());
                let code = world.create("acme").await.code;
                faults.plan_forever(step, when);
                let error = failed(world.redeem(&code, &key).await);
                assert!(!error.code().is_refusal(), "{step} {when:?}: {error}");
                assert!(faults.heal()[step] > 0, "the fault was never met");
                cuts.push(Self { world, code, key, at: format!("{step} {when:?}") });
            }
        }
        cuts
    }

    /// At the second server, which knows nothing of what the first one had begun.
    async fn redeem_elsewhere(&self, key: &Key) -> Result<Issued> {
        let server = &self.world.servers[1];
        server.enrollments.redeem(&origin("EnrollmentService/Redeem"), &self.code, key.csr()).await
    }

    /// The leases that live, at most one.
    async fn living(&self) -> Option<Lease> {
        let mut active = self.world.active().await;
        assert!(active.len() < 2, "{}: one code has {} leases that live", self.at, active.len());
        active.pop()
    }

    /// What the first server could not finish, it finishes.
    async fn settle(&self) {
        let vend = &self.world.servers[0].vend;
        for _ in 0..20 {
            let (waiting, swept) = (vend.close_open().await.unwrap(), vend.sweep().await.unwrap());
            if waiting == 0 && swept.is_idle() {
                return;
            }
            self.world.clock.forward(SignedDuration::from_secs(11));
        }
        panic!("{}: the passes do not come to rest", self.at);
    }
}

/// The first server dies at the step, and takes with it what it had to close.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_leaves_one_lease_to_the_key_that_asked() {
    for cut in Cut::each().await {
        let before = cut.living().await;
        if let Some(before) = &before {
            assert_eq!(failed(cut.redeem_elsewhere(&Key::new()).await).code(), Code::EnrollmentCode, "{}: another key", cut.at);
            assert_eq!(cut.living().await.unwrap().id, before.id);
        }
        let issued = cut.redeem_elsewhere(&cut.key).await.unwrap_or_else(|error| panic!("{}: {error}", cut.at));
        let living = cut.living().await.unwrap_or_else(|| panic!("{}: it does not live", cut.at));
        assert_eq!(issued.lease.id, living.id, "{}", cut.at);
        assert!(before.is_none_or(|before| before.id == living.id), "{}: it is the one that was made before", cut.at);
        assert_eq!(leaf(&cut.redeem_elsewhere(&cut.key).await.unwrap()), leaf(&issued), "{}", cut.at);
        assert_eq!(failed(cut.redeem_elsewhere(&Key::new()).await).code(), Code::EnrollmentCode, "{}", cut.at);
    }
}

/// What was made and not handed out is closed, at once or when it can be; the code is as good as it was for its key, and for no other once it
/// was used.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lives_on_closes_what_it_did_not_hand_out() {
    for cut in Cut::each().await {
        let used = cut.living().await.is_some();
        cut.settle().await;
        if used {
            assert_eq!(failed(cut.redeem_elsewhere(&Key::new()).await).code(), Code::EnrollmentCode, "{}: another key", cut.at);
        }
        let issued = cut.redeem_elsewhere(&cut.key).await.unwrap_or_else(|error| panic!("{}: {error}", cut.at));
        assert_eq!(cut.living().await.map(|lease| lease.id), Some(issued.lease.id), "{}", cut.at);
        cut.settle().await;
        assert_eq!(cut.living().await.map(|lease| lease.id), Some(issued.lease.id), "{}: what was handed out stays", cut.at);
    }
}

/// An operator revokes what the crash left. Nobody had it; whatever the code gives then, no two live, and once one was answered and revoked
/// nothing more comes of the code.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_after_a_crash_leaves_no_two_leases() {
    for cut in Cut::each().await {
        let vend = &cut.world.servers[1].vend;
        if let Some(lease) = cut.living().await {
            vend.revoke(&operator(), lease.id, "what is this?").await.unwrap();
            assert!(cut.living().await.is_none());
        }
        let Ok(issued) = cut.redeem_elsewhere(&cut.key).await else {
            assert!(cut.living().await.is_none());
            continue;
        };
        assert_eq!(cut.living().await.map(|lease| lease.id), Some(issued.lease.id), "{}", cut.at);
        vend.revoke(&operator(), issued.lease.id, "").await.unwrap();
        assert_eq!(failed(cut.redeem_elsewhere(&cut.key).await).code(), Code::EnrollmentCode, "{}", cut.at);
        assert!(cut.living().await.is_none());
    }
}

/// An agent tries again and again; its identity must not run out of room for the certificate that it gets in the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_minute_without_the_log_costs_an_agent_nothing() {
    let faults = Faults::default();
    let world = World::faulty(&faults);
    let (lease, call) = world.agent("acme").await;
    faults.log_away();
    for _ in 0..2 * MAX_LIVE_SERIALS {
        world.clock.forward(SignedDuration::from_secs(4));
        assert_eq!(failed(world.renew(&call, lease.id, Some(1)).await).code(), Code::AuditUnavailable);
    }
    assert_eq!(world.stored(lease.id).await, lease, "nothing was made");
    faults.heal();
    let (renewed, _) = world.renew(&call, lease.id, Some(1)).await.unwrap();
    assert_eq!(renewed.generation, 2);
}

/// The way back from the service is broken for an hour: each certificate that was made and lost is one more that lives, up to a bound.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_lost_cost_an_agent_nothing_for_long() {
    let world = World::on_sqlite();
    let (lease, first) = world.agent("acme").await;
    for _ in 0..MAX_LIVE_SERIALS_ENROLLED - 2 {
        world.renew(&first, lease.id, Some(1)).await.unwrap();
    }
    let (renewed, newest) = world.renew(&first, lease.id, Some(1)).await.unwrap();
    let Handle::X509 { serials, .. } = &renewed.handle else { panic!("no certificate") };
    assert_eq!(serials.len(), MAX_LIVE_SERIALS_ENROLLED, "a revoke reaches each of them");
    assert_eq!(failed(world.renew(&first, lease.id, Some(1)).await).code(), Code::NotRenewable, "bounded");
    world.clock.forward(renewed.expires_at.duration_since(world.clock.now()) - SignedDuration::from_secs(1));
    assert_eq!(
        world.servers[0].vend.acknowledge(&newest, lease.id, renewed.generation, None).await.unwrap().acknowledged,
        renewed.generation
    );
    assert_eq!(world.revoked().await.len(), MAX_LIVE_SERIALS_ENROLLED - 1, "what nobody uses any more");
}

/// Each answer costs a signature and a record: who has a code and its key gets so many.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_repeated_so_often_and_by_its_key_alone() {
    for world in [World::on_sqlite(), World::on_redis()] {
        let (created, key) = (world.create("acme").await, Key::new());
        let first = world.redeem(&created.code, &key).await.unwrap();
        for _ in 0..2 * u32::from(MAX_REPEATED_REDEEMS) {
            assert_eq!(failed(world.redeem(&created.code, &Key::new()).await).code(), Code::EnrollmentCode);
        }
        for nth in 0..usize::from(MAX_REPEATED_REDEEMS) {
            let server = &world.servers[nth % 2].enrollments;
            let again = server.redeem(&origin("EnrollmentService/Redeem"), &created.code, key.csr()).await.unwrap();
            assert_eq!(leaf(&again), leaf(&first), "{nth}");
        }
        let recorded = world.lines().len();
        let refused = failed(world.redeem(&created.code, &key).await);
        assert_eq!(refused.code(), Code::EnrollmentCode);
        assert!(refused.cause().unwrap().contains("repeated"), "{refused}");
        assert_eq!(world.lines().len(), recorded, "and no more records, but those that the edge bounds");
        assert_eq!(world.active().await.len(), 1, "its lease lives on");
    }
}
