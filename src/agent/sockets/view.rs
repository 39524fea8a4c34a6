//! What of the agent's desk a socket shows to a process, as it is now and as it becomes.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    sync::Arc,
};

use futures::{FutureExt, future::select_all};
use tokio::sync::watch;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use super::config::Access;
use crate::{
    agent::desk::{Bundle, Desk, Following, Fresh},
    client::types::{Credential, X509Credential},
    model::{name::TrustDomain, spiffe::SpiffeId},
    unix::peer::Peer,
};

/// What one socket serves, and to whom.
pub(super) struct Shown {
    pub desk: Arc<Desk>,
    /// The roles that the socket serves, in order; none for all.
    pub roles: Option<Vec<String>>,
    pub access: BTreeMap<String, Access>,
    /// As configured.
    pub trust_domain: Option<TrustDomain>,
}

impl Shown {
    /// Whether a process may have what a role gives.
    pub fn allows(&self, role: &str, peer: &Peer) -> bool {
        self.access.get(role).is_none_or(|access| access.allows(peer))
    }

    /// Whether the socket serves a role.
    pub fn serves(&self, role: &str) -> bool {
        self.roles.as_ref().is_none_or(|roles| roles.iter().any(|served| served == role))
    }

    /// What a process sees.
    pub fn view(&self, peer: &Peer) -> View {
        let served: Vec<&str> = match &self.roles {
            Some(roles) => roles.iter().map(String::as_str).collect(),
            None => self.desk.roles().collect(),
        };
        let may = served.into_iter().filter(|role| self.allows(role, peer));
        let roles = may.filter_map(|role| Some((role.to_owned(), self.desk.role(role)?))).collect();
        let all = self.desk.roles().filter_map(|role| self.desk.role(role)).collect();
        View { roles, all, bundle: self.desk.bundle(), trust_domain: self.trust_domain.clone() }
    }
}

/// What a process sees.
pub(super) struct View {
    /// The roles that it may have.
    roles: Vec<(String, Following)>,
    /// Every role of the agent: their certificates say of which trust domains the bundle is.
    all: Vec<Following>,
    bundle: watch::Receiver<Option<Arc<Bundle>>>,
    trust_domain: Option<TrustDomain>,
}

/// A certificate that it may have.
pub(super) struct Certificate {
    pub role: String,
    /// What its one URI says, when that is a SPIFFE ID.
    pub id: Option<SpiffeId>,
    fresh: Arc<Fresh>,
}

impl Certificate {
    /// Of this credential, if it is one.
    fn of(role: &str, fresh: Arc<Fresh>) -> Option<Self> {
        let leaf = x509(&fresh)?.chain_der.first()?;
        Some(Self { role: role.to_owned(), id: spiffe_id(leaf), fresh })
    }

    /// The leaf first, then what lies between it and the root, each DER.
    pub fn chain(&self) -> &[Vec<u8>] {
        x509(&self.fresh).map_or(&[], |found| &found.chain_der)
    }

    /// The roots that came with it, each DER.
    pub fn roots(&self) -> &[Vec<u8>] {
        roots(Some(&self.fresh))
    }

    /// Its key, PKCS #8 DER.
    pub fn key(&self) -> &[u8] {
        &self.fresh.key_der
    }
}

impl View {
    /// Whether a role of this name is still to come.
    pub fn is_waiting_for(&self, name: &str) -> bool {
        self.roles.iter().any(|(role, following)| role == name && following.borrow().is_none())
    }

    /// The first role that gives a certificate; none while one before it may still turn out to.
    pub fn default_role(&self) -> Option<&str> {
        for (role, following) in &self.roles {
            match following.borrow().as_deref() {
                None => return None,
                Some(fresh) if x509(fresh).is_some() => return Some(role),
                Some(_) => {}
            }
        }
        None
    }

    /// Whether something is still to come: what kind of credential a role gives is known when it is there.
    pub fn is_waiting(&self) -> bool {
        self.roles.iter().any(|(_, following)| following.borrow().is_none())
    }

    /// The certificates that it may have now, in order.
    pub fn certificates(&self) -> Vec<Certificate> {
        self.roles.iter().filter_map(|(role, following)| Certificate::of(role, following.borrow().clone()?)).collect()
    }

    /// The trust bundle, when it came: of the CAs that issued the agent's certificates. All of it where the agent has none.
    pub fn bundle(&self) -> Option<Arc<Bundle>> {
        let bundle = self.bundle.borrow().clone()?;
        let own = self.roots_where(|_| true);
        if own.is_empty() || bundle.cas.len() < 2 {
            return Some(bundle);
        }
        Some(Arc::new(bundle.of_the_cas_of(&own)))
    }

    /// The same of one trust domain, which is not trusted by way of another CA of the same service: of the CAs that issued its certificates.
    /// Where the agent has none now: of those that issued certificates without a SPIFFE ID, or else of all that issued for no other domain.
    pub fn bundle_of(&self, domain: &TrustDomain) -> Option<Arc<Bundle>> {
        let bundle = self.bundle.borrow().clone()?;
        if bundle.cas.len() < 2 {
            return Some(bundle);
        }
        let mut own = self.roots_where(|of| of == Some(domain));
        if own.is_empty() {
            own = self.roots_where(|of| of.is_none());
        }
        if own.is_empty() {
            let others = bundle.of_the_cas_of(&self.roots_where(|of| of.is_some())).roots_der;
            own = bundle.roots_der.iter().filter(|root| !others.contains(root)).cloned().collect();
        }
        Some(Arc::new(bundle.of_the_cas_of(&own)))
    }

    /// The roots that came with the agent's certificates, going by the trust domain of each one's SPIFFE ID.
    fn roots_where(&self, counts: impl Fn(Option<&TrustDomain>) -> bool) -> Vec<Vec<u8>> {
        let found = self.all.iter().filter_map(|role| role.borrow().clone());
        found.filter(|fresh| counts(trust_domain(fresh).as_ref())).flat_map(|fresh| roots(Some(&fresh)).to_vec()).collect()
    }

    /// The trust domains that the bundle is of: the configured one, and those of the agent's certificates, which the same service issued.
    pub fn trust_domains(&self) -> BTreeSet<TrustDomain> {
        let found = self.all.iter().filter_map(|following| trust_domain(following.borrow().as_deref()?));
        found.chain(self.trust_domain.clone()).collect()
    }

    /// Waits until something may have changed since the last time.
    pub async fn changed(&mut self) {
        let roles = self.all.iter_mut().map(|following| changed(following).boxed());
        select_all(roles.chain([changed(&mut self.bundle).boxed()])).await;
    }
}

/// Waits for a change; for ever once nobody is there to make one.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        pending::<()>().await;
    }
}

/// The roots that came with a certificate, each DER; none with another kind.
fn roots(fresh: Option<&Fresh>) -> &[Vec<u8>] {
    fresh.and_then(x509).map_or(&[], |found| &found.root_der)
}

fn x509(fresh: &Fresh) -> Option<&X509Credential> {
    match &fresh.credential {
        Credential::X509(found) => Some(found),
        _ => None,
    }
}

/// The trust domain of a certificate's SPIFFE ID.
fn trust_domain(fresh: &Fresh) -> Option<TrustDomain> {
    Some(spiffe_id(x509(fresh)?.chain_der.first()?)?.trust_domain)
}

/// The SPIFFE ID of a certificate: its only URI (X.509-SVID section 2), which names a workload.
fn spiffe_id(leaf: &[u8]) -> Option<SpiffeId> {
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    let names = &leaf.subject_alternative_name().ok()??.value.general_names;
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let id: SpiffeId = uris.next()?.parse().ok()?;
    (uris.next().is_none() && !id.path.is_empty()).then_some(id)
}
