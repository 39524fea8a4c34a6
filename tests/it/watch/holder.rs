//! A holder of a lease, who reads its stream.

use std::{sync::Arc, time::Duration};

use daypass::{
    model::{
        SignedDuration,
        credential::Credential,
        error::{Error, Result},
        lease::{Lease, LeaseId},
        request::{Input, IssueRequest, RequestId},
        role::Role,
    },
    vend::{Call, HeldLease, Opened, Vend, WatchRequest, WatchStream, WatchWhat, Watched},
};
use futures::{FutureExt, StreamExt};
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use x509_parser::prelude::FromDer;

use crate::vend::world::{ManualClock, World};

/// How long a message may take that is under way.
const PATIENCE: Duration = Duration::from_secs(10);

/// A key that nobody had before, and a request for it.
pub struct Fresh {
    pub key: KeyPair,
    pub csr: Vec<u8>,
}

pub fn fresh() -> Fresh {
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
    Fresh { key, csr }
}

impl Fresh {
    pub fn input(&self) -> Input {
        Input::X509 { csr_der: self.csr.clone() }
    }

    /// Whether a credential is a certificate for this key.
    pub fn fits(&self, credential: &Credential) -> bool {
        let Credential::X509(x509) = credential else { panic!("no certificate") };
        let (_, leaf) = x509_parser::certificate::X509Certificate::from_der(&x509.chain_der[0]).unwrap();
        leaf.public_key().raw == self.key.subject_public_key_info()
    }
}

/// Asks for a new lease of a role, with the key of the first certificate and that of the next.
pub fn new_lease(role: &str, first: &Fresh, next: Option<&Fresh>) -> WatchRequest {
    timed_lease(role, first, next, None)
}

pub fn timed_lease(role: &str, first: &Fresh, next: Option<&Fresh>, ttl: Option<SignedDuration>) -> WatchRequest {
    let issue = IssueRequest { role: role.parse().unwrap(), ttl, request_id: None, input: first.input() };
    WatchRequest { what: WatchWhat::Issue(issue), next_csr: next.map(|next| next.csr.clone()) }
}

/// The same under a request id.
pub fn named_lease(role: &str, first: &Fresh, id: &str) -> WatchRequest {
    let request_id = Some(RequestId::try_from(id.to_owned()).unwrap());
    let issue = IssueRequest { role: role.parse().unwrap(), ttl: None, request_id, input: first.input() };
    WatchRequest { what: WatchWhat::Issue(issue), next_csr: None }
}

/// Asks for a lease that its holder has.
pub fn held(id: LeaseId, generation: u32, first: &Fresh, next: Option<&Fresh>) -> WatchRequest {
    let what = WatchWhat::Held(HeldLease { id, generation, ttl: None, input: first.input() });
    WatchRequest { what, next_csr: next.map(|next| next.csr.clone()) }
}

/// A lease with its stream.
pub struct Holder {
    pub call: Call,
    pub stream: WatchStream,
    pub lease: Lease,
    /// The credentials that came, in order.
    pub credentials: Vec<Credential>,
}

impl Holder {
    pub async fn open(vend: &Arc<Vend>, call: Call, request: WatchRequest) -> Result<Self> {
        let Opened { mut stream, .. } = vend.watch(&call, request).await?;
        let Watched { lease, credential, .. } = soon(&mut stream).await?;
        Ok(Self { call, stream, lease, credentials: credential.into_iter().collect() })
    }

    /// The next message, which must be under way.
    pub async fn read(&mut self) -> Result<Watched> {
        let watched = soon(&mut self.stream).await?;
        self.lease = watched.lease.clone();
        Ok(watched)
    }

    /// The next credential.
    pub async fn next(&mut self) -> &Credential {
        let watched = self.read().await.unwrap();
        self.credentials.push(watched.credential.expect("a credential comes"));
        self.credentials.last().unwrap()
    }

    /// The end of the stream, which must be under way.
    pub async fn end(&mut self) -> Error {
        let error = soon(&mut self.stream).await.err().expect("the stream ends");
        assert!(self.stream.next().await.is_none(), "the end is told once");
        error
    }

    /// That nothing has come.
    pub fn hears_nothing(&mut self) {
        if let Some(heard) = self.stream.next().now_or_never() {
            let heard = heard.expect("it has not ended");
            panic!("{:?}", heard.map(|watched| watched.lease));
        }
    }

    pub async fn acknowledge(&mut self, vend: &Vend, next: Option<&Fresh>) {
        let csr = next.map(|next| next.csr.as_slice());
        self.lease = vend.acknowledge(&self.call, self.lease.id, self.lease.generation, csr).await.unwrap();
    }
}

async fn soon(stream: &mut WatchStream) -> Result<Watched> {
    tokio::time::timeout(PATIENCE, stream.next()).await.expect("a message comes").expect("the stream has not ended")
}

/// Lets the time come at which a lease is due.
pub fn until_due(clock: &ManualClock, lease: &Lease) {
    use daypass::clock::Clock;
    let due = lease.rotation().expect("it rotates").start;
    let now = clock.now();
    if due > now {
        clock.forward(due.duration_since(now));
    }
}

/// A reload that changes a role.
pub fn change_role(world: &World, name: &str, change: impl FnOnce(&mut Role)) {
    world.reload(|catalog| {
        let role = catalog.roles.get_mut(&name.parse().unwrap()).expect("there is that role");
        change(Arc::make_mut(role));
    });
}

/// Rotates what is due, in turns of the pass.
pub async fn rotate(vend: &Arc<Vend>) {
    while vend.rotate_due().await.unwrap() > 0 {}
    for work in vend.take_remote(64) {
        work.await;
    }
}
