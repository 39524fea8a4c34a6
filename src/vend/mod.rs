//! The heart: issue, renew, revoke, read. It knows the ports below it, and no transport.
//!
//! Each action is one linear function in a file of its own; [`record`] is the only place that writes the audit log.

mod acknowledge;
mod bundle;
mod carry_out;
mod clones;
mod crl;
mod denies;
mod enroll;
mod exchange;
mod first;
mod issue;
mod keys;
mod open;
mod own;
mod passes;
mod read;
mod record;
mod renew;
mod revoke;
mod steps;
mod tail;
mod watch;

use std::{net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;

pub use bundle::{PublicCa, TrustBundle};
pub use crl::{CrlDesk, PublishedCrl};
pub use denies::{CROWDED_PART, DenyLists, LAST_PART, MAX_ROUNDS};
pub use enroll::{
    CODE_PREFIX, CreatedEnrollment, ENROLLMENT_REFUSED, Enrollments, MAX_LISTED_ENROLLMENTS, MAX_OPEN_ENROLLMENTS, NewEnrollment,
};
pub use exchange::{EXCHANGE_REFUSED, Exchanged, username_in};
pub use issue::{Issued, MAX_REPEATED_REDEEMS, MAX_REPLACED, MAX_REPLACEMENTS, REMOTE_TIMEOUT};
use open::Why;
pub use open::{MAX_OPEN, Open};
pub use passes::{LONGEST_LIFE, RECENT, SWEEP_BATCH, Swept};
pub use read::WhoAmI;
pub use renew::Renewal;
pub use revoke::{MAX_REASON, RevokeStep};
pub use tail::TailFrom;
pub use watch::{
    HeldLease, LONGEST_PAUSE, Lane, Opened, RECENT_KEPT, REMOTE_AT_ONCE, ROTATE_BATCH, SeenRevoked, TAKEN_UP_AT_ONCE_PER_CALLER,
    WATCH_PENDING, WatchLimits, WatchRequest, WatchStream, WatchWhat, Watched, Watches,
};

pub use crate::issuer::{jwt::Document, registry::RegistryToken};

use crate::{
    audit::AuditLog,
    clock::Clock,
    issuer::Issuers,
    model::{
        error::{Code, Error},
        identity::Identity,
    },
    policy::PolicyBook,
    store::LeaseStore,
};

/// The most leases in a page.
pub const MAX_PAGE: usize = crate::store::MAX_BATCH;

/// Everything that decisions look at, replaced as a whole on a reload.
pub struct Rules {
    /// Policies, with the catalog that they were checked against.
    pub book: PolicyBook,
    /// The issuers, by kind.
    pub issuers: Issuers,
}

/// One call: who, from where, and the id that ties logs, audit record and answer together.
#[derive(Clone)]
pub struct Call {
    /// The caller.
    pub identity: Arc<Identity>,
    /// Where from, how, and under which id.
    pub origin: Origin,
}

/// Where a call came from, before anybody was authenticated.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The method, for the record: "CredentialService/Issue".
    pub method: &'static str,
    /// The address of the peer.
    pub peer_address: Option<IpAddr>,
    /// The id of this call.
    pub call_id: String,
}

/// The heart, with its ports.
pub struct Vend {
    store: Arc<dyn LeaseStore>,
    audit: Arc<dyn AuditLog>,
    clock: Arc<dyn Clock>,
    rules: ArcSwap<Rules>,
    crls: CrlDesk,
    denies: DenyLists,
    open: Open,
    watches: Arc<Watches>,
}

impl Vend {
    /// A heart over its ports.
    pub fn new(store: Arc<dyn LeaseStore>, audit: Arc<dyn AuditLog>, clock: Arc<dyn Clock>, rules: Rules) -> Self {
        let crls = CrlDesk::new();
        let watches = Arc::new(Watches::new(WatchLimits::default()));
        let (rules, denies, open) = (ArcSwap::from_pointee(rules), DenyLists::default(), Open::default());
        let vend = Self { store, audit, clock, rules, crls, denies, open, watches };
        vend.follow_cas();
        vend
    }

    /// The same under other limits of its streams.
    #[must_use]
    pub fn with_watch_limits(mut self, limits: WatchLimits) -> Self {
        self.watches = Arc::new(Watches::new(limits));
        self
    }

    /// The rules in force.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// Puts new rules in force for every call that begins after it.
    pub fn replace_rules(&self, rules: Rules) {
        // Before they are in force: the authorities of rings were read anew, and must be known to have CRLs when they sign.
        self.crls.take_note_of(&rules.issuers.x509.published(self.clock.now()));
        self.rules.store(Arc::new(rules));
    }

    /// The CRLs as published.
    pub fn crls(&self) -> &CrlDesk {
        &self.crls
    }

    /// The deny lists of remote systems.
    pub fn denies(&self) -> &DenyLists {
        &self.denies
    }

    /// What a revocation or a failed call left to be closed.
    pub fn open(&self) -> &Open {
        &self.open
    }

    /// The streams of watched leases.
    pub fn watches(&self) -> &Watches {
        &self.watches
    }

    /// Live leases by kind of role, for the start of metrics; see [`LeaseStore::stats`].
    pub async fn stats(&self) -> Result<crate::store::Stats, Error> {
        self.store.stats().await
    }

    /// Whether the audit log can be written.
    pub fn audit_health(&self) -> crate::audit::Health {
        self.audit.health()
    }

    /// Closes a lease whose credential reached nobody.
    pub fn abandon(&self, lease: &crate::model::lease::Lease) {
        self.open.add(lease.id, Why::not_handed_out(lease));
    }
}

fn defect(what: &str) -> Error {
    Error::new(Code::Internal, "something is wrong at the server; its log says what").because(what)
}
