//! A desk that the test fills by hand, and the agent's sockets over it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use daypass::{
    agent::{
        desk::{Bundle, Desk, Fresh, JwtSource},
        sockets::{Sockets, SocketsSection},
    },
    client::{
        error::{Error, Kind, Result},
        types::{AwsCredential, Credential, CredentialKind, JwtCredential, Lease, LeaseState, Reach, Revocation, X509Credential},
    },
    clock::{Clock, SystemClock},
    model::{SignedDuration, Timestamp, secret::Secret},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::json;
use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::watch, task::JoinHandle};
use tonic::transport::{Channel, Endpoint};
use zeroize::Zeroizing;

use crate::support::parts::openssl::{Ca, Pair};

/// The audience that the service's roles do not take.
pub const FORBIDDEN: &str = "forbidden";

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The sockets over a desk; they end with this value.
pub struct World {
    pub folder: TempDir,
    pub ca: Ca,
    pub jwts: Arc<Signer>,
    roles: BTreeMap<String, watch::Sender<Option<Arc<Fresh>>>>,
    bundle: watch::Sender<Option<Arc<Bundle>>>,
    section: SocketsSection,
    desk: Arc<Desk>,
    serving: Mutex<Option<Serving>>,
    runtime: Runtime,
}

/// The sockets as they are served.
struct Serving {
    stop: watch::Sender<bool>,
    ended: JoinHandle<Result<()>>,
    aws_port: u16,
}

impl World {
    /// With these roles, which have nothing yet, and this `[sockets]`; its paths begin in [`Self::folder`].
    pub fn new(roles: &[&str], section: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::new(folder.path(), "ca");
        let (roles, followings): (BTreeMap<_, _>, BTreeMap<_, _>) = roles
            .iter()
            .map(|&role| {
                let (sender, receiver) = watch::channel(None);
                ((role.to_owned(), sender), (role.to_owned(), receiver))
            })
            .unzip();
        let (bundle, bundle_seen) = watch::channel(None);
        let desk = Arc::new(Desk::new(followings, bundle_seen));
        let jwts = Arc::new(Signer::new());
        let mut section: SocketsSection = toml::from_str(section).unwrap();
        section.resolve(folder.path());
        let names = roles.keys().map(String::as_str).collect();
        assert_eq!(section.faults(&names), [""; 0]);
        let runtime = Runtime::new().unwrap();
        let world = Self { folder, ca, jwts, roles, bundle, section, desk, serving: Mutex::default(), runtime };
        world.start();
        world
    }

    /// Starts the agent, again when it was stopped.
    pub fn start(&self) {
        let sockets = self.runtime.block_on(async { Sockets::bind(self.section.clone()) }).unwrap();
        let aws_port = sockets.aws_address().map_or(0, |address| address.port());
        let (stop, shutdown) = watch::channel(false);
        let ended = self.runtime.spawn(sockets.serve(self.desk.clone(), self.jwts.clone(), shutdown));
        *self.serving.lock().unwrap() = Some(Serving { stop, ended, aws_port });
    }

    /// A path in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where a role's AWS session is.
    pub fn aws_uri(&self, role: &str) -> String {
        format!("http://127.0.0.1:{}/creds/{role}", self.aws_port())
    }

    /// The port of the AWS endpoint.
    pub fn aws_port(&self) -> u16 {
        self.serving.lock().unwrap().as_ref().expect("it runs").aws_port
    }

    /// A certificate of the CA for `spiffe://example.org/<id>` and `localhost`.
    pub fn pair(&self, name: &str, id: &str) -> Pair {
        self.ca.leaf(name, &[&format!("URI:spiffe://example.org/{id}"), "DNS:localhost"], "serverAuth,clientAuth", 1)
    }

    /// Puts a certificate into a role's place.
    pub fn put_pair(&self, role: &str, pair: &Pair) {
        self.put(role, Some(x509(role, &pair.cert, &pair.key)));
    }

    /// Puts a credential, or none, into a role's place.
    pub fn put(&self, role: &str, fresh: Option<Fresh>) {
        self.roles[role].send_replace(fresh.map(Arc::new));
    }

    /// Puts the bundle: these roots, and the key that signs JWTs.
    pub fn put_bundle(&self, roots: &[&Path]) {
        let roots_der = roots.iter().map(|root| der(root)).collect();
        self.bundle.send_replace(Some(Arc::new(Bundle {
            version: "1".to_owned(),
            roots_der,
            jwks: self.jwts.jwks(),
            ..Bundle::default()
        })));
    }

    /// Puts a bundle of these CAs, each with one root.
    pub fn put_cas(&self, cas: &[(&str, &Path)]) {
        let roots_der = cas.iter().map(|(_, root)| der(root)).collect();
        let cas = cas.iter().map(|(name, root)| ((*name).to_owned(), vec![der(root)])).collect();
        self.bundle.send_replace(Some(Arc::new(Bundle { version: "1".to_owned(), roots_der, jwks: self.jwts.jwks(), cas })));
    }

    /// Puts a certificate of `spiffe://<id>` into a role's place, with the root of its CA.
    pub fn put_of_ca(&self, role: &str, ca: &Ca, id: &str) {
        let pair = ca.leaf(role, &[&format!("URI:spiffe://{id}")], "clientAuth", 1);
        let Fresh { lease, mut credential, key_der } = x509(role, &pair.cert, &pair.key);
        if let Credential::X509(certificate) = &mut credential {
            certificate.root_der = vec![der(&ca.cert)];
        }
        self.put(role, Some(Fresh { lease, credential, key_der }));
    }

    /// A channel to a socket.
    pub fn channel(&self, socket: &str) -> Channel {
        let endpoint = Endpoint::try_from(format!("unix://{}", self.path(socket).display())).unwrap();
        self.block_on(endpoint.connect()).unwrap()
    }

    /// Runs a future to its end, which must come in time.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await }).expect("it ends in time")
    }

    /// Ends the agent; what its servers ended with.
    pub fn stop(&self) -> Result<()> {
        let serving = self.serving.lock().unwrap().take().expect("it runs");
        serving.stop.send_replace(true);
        self.block_on(serving.ended).unwrap()
    }

    /// Ends the agent, which it does without an error.
    pub fn stop_ok(&self) {
        self.stop().expect("it ends without an error");
    }

    /// Drops what serves, without a word.
    pub fn abort(&self) {
        let serving = self.serving.lock().unwrap().take().expect("it runs");
        serving.ended.abort();
        assert!(self.block_on(serving.ended).unwrap_err().is_cancelled());
    }

    /// Its `[sockets]`.
    pub fn section(&self) -> SocketsSection {
        self.section.clone()
    }
}

/// The certificate of a PEM file.
pub fn der(pem: &Path) -> Vec<u8> {
    CertificateDer::from_pem_file(pem).unwrap().to_vec()
}

/// A certificate with a key, its own or another's.
pub fn x509(role: &str, cert: &Path, key: &Path) -> Fresh {
    let key_der = PrivateKeyDer::from_pem_file(key).unwrap().secret_der().to_vec();
    let credential = X509Credential { chain_der: vec![der(cert)], root_der: vec![], not_before: now(), not_after: in_an_hour() };
    Fresh { lease: lease(role, CredentialKind::X509), credential: Credential::X509(credential), key_der: Zeroizing::new(key_der) }
}

/// An AWS session.
pub fn aws(role: &str, key: &str, life: SignedDuration) -> Fresh {
    let session = AwsCredential {
        access_key_id: key.to_owned(),
        secret_access_key: Secret::new(format!("secret-of-{key}")),
        session_token: Secret::new(format!("token-of-{key}")),
        expires_at: now() + life,
        region: "eu-central-1".to_owned(),
    };
    Fresh { lease: lease(role, CredentialKind::Aws), credential: Credential::Aws(session), key_der: Zeroizing::default() }
}

fn lease(role: &str, kind: CredentialKind) -> Lease {
    Lease {
        id: "0198d2f3-0000-7000-8000-000000000001".to_owned(),
        role: role.to_owned(),
        kind,
        tenant: "acme".to_owned(),
        subject: "spiffe://example.org/agent".to_owned(),
        state: LeaseState::Active,
        issued_at: now(),
        expires_at: in_an_hour(),
        renewable: true,
        revocation: Revocation { reach: Reach::Crl, live_until: in_an_hour() },
        generation: 1,
        renew_until: None,
        revoked_at: None,
        serial: String::new(),
        credential_id: String::new(),
        rotation: None,
        acknowledged_generation: 1,
        enrolled: false,
    }
}

pub fn now() -> Timestamp {
    SystemClock.now()
}

fn in_an_hour() -> Timestamp {
    now() + SignedDuration::from_hours(1)
}

/// Signs JWTs as the service does: role `x-jwt` says `spiffe://example.org/x`.
pub struct Signer {
    key: EcdsaKeyPair,
    asked: AtomicUsize,
    /// What it says instead, if it fails.
    pub fails: Mutex<Option<Error>>,
    hangs: watch::Sender<bool>,
}

impl Signer {
    fn new() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { key, asked: AtomicUsize::new(0), fails: Mutex::default(), hangs: watch::Sender::new(false) }
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Does not answer from now on.
    pub fn hang(&self) {
        self.hangs.send_replace(true);
    }

    /// Answers again, also what it was asked meanwhile.
    pub fn go_on(&self) {
        self.hangs.send_replace(false);
    }

    fn jwks(&self) -> String {
        let point = self.key.public_key().as_ref();
        let (x, y) = (B64.encode(&point[1..33]), B64.encode(&point[33..]));
        json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "key-1", "use": "sig", "alg": "ES256", "x": x, "y": y}]}).to_string()
    }

    /// A token that lives so long.
    pub fn sign(&self, sub: &str, audience: &str, life: SignedDuration) -> String {
        let (now, expires_at) = (now(), now() + life);
        let header = json!({"alg": "ES256", "kid": "key-1", "typ": "JWT"}).to_string();
        let claims = json!({"sub": sub, "aud": audience, "iat": now.as_second(), "exp": expires_at.as_second(), "n": {"deep": [1, true]}});
        let signed = format!("{}.{}", B64.encode(header), B64.encode(claims.to_string()));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", B64.encode(signature))
    }
}

#[tonic::async_trait]
impl JwtSource for Signer {
    async fn jwt(&self, role: &str, audience: &str) -> Result<JwtCredential> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.hangs.subscribe().wait_for(|hangs| !hangs).await.expect("its sender is ours");
        if let Some(error) = self.fails.lock().unwrap().clone() {
            return Err(error);
        }
        if audience == FORBIDDEN {
            return Err(Error::new(Kind::Denied, "DENIED", "no policy permits it"));
        }
        let sub = format!("spiffe://example.org/{}", role.trim_end_matches("-jwt"));
        let token = Secret::new(self.sign(&sub, audience, SignedDuration::from_hours(1)));
        Ok(JwtCredential { token, expires_at: in_an_hour() })
    }
}
