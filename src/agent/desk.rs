//! What the agent has in its hands: one place where keepers put what is fresh, and where files, hooks and sockets follow it.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::client::{
    error::Result,
    types::{AwsCredential, Credential, JwtCredential, Lease},
};

/// A credential of a role, with what belongs to it.
pub struct Fresh {
    /// The lease.
    pub lease: Lease,
    /// The credential.
    pub credential: Credential,
    /// The certificate's key, PKCS #8 DER; empty for other kinds. It never left this machine.
    pub key_der: Zeroizing<Vec<u8>>,
}

impl Fresh {
    /// The AWS session, if it is one.
    pub fn aws(&self) -> Option<&AwsCredential> {
        match &self.credential {
            Credential::Aws(session) => Some(session),
            _ => None,
        }
    }
}

/// A credential as it is now and as it becomes; none until the first one came, and after the last one expired.
pub type Following = watch::Receiver<Option<Arc<Fresh>>>;

/// The trust bundle.
pub use crate::client::types::TrustBundle as Bundle;

/// What the agent has.
pub struct Desk {
    roles: BTreeMap<String, Following>,
    bundle: watch::Receiver<Option<Arc<Bundle>>>,
}

impl Desk {
    /// A desk over what keepers fill.
    pub fn new(roles: BTreeMap<String, Following>, bundle: watch::Receiver<Option<Arc<Bundle>>>) -> Self {
        Self { roles, bundle }
    }

    /// A role's credential, by the name that the agent's configuration gives it.
    pub fn role(&self, name: &str) -> Option<Following> {
        self.roles.get(name).cloned()
    }

    /// The names of all.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(String::as_str)
    }

    /// The trust bundle as it is now and as it becomes; none until it came.
    pub fn bundle(&self) -> watch::Receiver<Option<Arc<Bundle>>> {
        self.bundle.clone()
    }
}

/// Gives JWTs on demand: which audience a workload wants is known when it asks.
#[async_trait]
pub trait JwtSource: Send + Sync {
    /// A JWT of a role for an audience; the same one again while more than half of its life is left.
    async fn jwt(&self, role: &str, audience: &str) -> Result<JwtCredential>;
}
