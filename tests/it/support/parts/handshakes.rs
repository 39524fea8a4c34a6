//! TLS handshakes by rustls with a server that speaks HTTP/1.1: one, or without a pause for as long as a test runs.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, client::Resumption, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};

use super::openssl::Pair;

/// How long the server may keep silent.
const PATIENCE: Duration = Duration::from_secs(5);

/// Failures that a [`Tally`] keeps in words.
const KEPT_FAILURES: usize = 20;

/// Whom to shake hands with.
#[derive(Debug, Clone)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its name: what SNI says, and what its certificate must be for unless the client's verifier looks at something else.
    pub name: ServerName<'static>,
}

/// What came of one handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shaken {
    /// The server's leaf, DER.
    pub leaf: Vec<u8>,
    /// The HTTP status of an answer to `GET /`: in TLS 1.3 the server looks at the client's certificate after the client is done.
    pub status: u16,
}

/// What came of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// How often an answer with status 200 came over a certificate of the server, by its leaf, DER.
    pub done: BTreeMap<Vec<u8>, u64>,
    /// How many handshakes failed, other statuses among them.
    pub failed: u64,
    /// The first of them, in words.
    pub failures: Vec<String>,
}

/// Threads that shake hands without a pause; they end with this value.
pub struct Handshakes {
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Tally>>,
}

impl Server {
    /// `localhost` on a port of 127.0.0.1.
    pub fn localhost(port: u16) -> Self {
        let name = ServerName::try_from("localhost").expect("a DNS name");
        Self { address: ([127, 0, 0, 1], port).into(), name }
    }

    /// One handshake on a connection of its own, and a request over it.
    pub fn shake(&self, client: Arc<ClientConfig>) -> Result<Shaken, String> {
        let words = |error: &dyn std::error::Error| error.to_string();
        let tcp = TcpStream::connect_timeout(&self.address, PATIENCE).map_err(|error| words(&error))?;
        tcp.set_read_timeout(Some(PATIENCE)).map_err(|error| words(&error))?;
        let tls = ClientConnection::new(client, self.name.clone()).map_err(|error| words(&error))?;
        let mut stream = StreamOwned::new(tls, tcp);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").map_err(|error| words(&error))?;
        let mut start = [0; "HTTP/1.1 200".len()];
        stream.read_exact(&mut start).map_err(|error| words(&error))?;
        let start = String::from_utf8_lossy(&start);
        let status = start.rsplit(' ').next().and_then(|status| status.parse().ok()).ok_or(format!("no HTTP: {start}"))?;
        let leaf = stream.conn.peer_certificates().and_then(<[_]>::first).ok_or("no certificate")?.to_vec();
        Ok(Shaken { leaf, status })
    }
}

impl Handshakes {
    /// Starts so many threads; each handshake asks `client` anew what to trust and what to show.
    pub fn start(server: &Server, threads: usize, client: impl Fn() -> Arc<ClientConfig> + Send + Sync + 'static) -> Self {
        let (ends, client) = (Arc::new(AtomicBool::new(false)), Arc::new(client));
        let work = |_| {
            let (server, ends, client) = (server.clone(), ends.clone(), client.clone());
            thread::spawn(move || {
                let mut tally = Tally::default();
                while !ends.load(Ordering::Relaxed) {
                    tally.count(server.shake(client()));
                }
                tally
            })
        };
        let threads = (0..threads).map(work).collect();
        Self { ends, threads }
    }

    /// Ends them; each finishes what it began.
    pub fn end(mut self) -> Tally {
        self.ends.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for thread in self.threads.drain(..) {
            all.add(thread.join().expect("a thread that shakes hands does not panic"));
        }
        all
    }
}

impl Drop for Handshakes {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

impl Tally {
    fn count(&mut self, outcome: Result<Shaken, String>) {
        let why = match outcome {
            Ok(Shaken { leaf, status: 200 }) => {
                *self.done.entry(leaf).or_default() += 1;
                return;
            }
            Ok(Shaken { status, .. }) => format!("status {status}"),
            Err(why) => why,
        };
        self.failed += 1;
        if self.failures.len() < KEPT_FAILURES {
            self.failures.push(why);
        }
    }

    fn add(&mut self, other: Self) {
        for (leaf, times) in other.done {
            *self.done.entry(leaf).or_default() += times;
        }
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.failures.truncate(KEPT_FAILURES);
    }
}

/// A client that trusts the CAs in a PEM file, and shows a certificate if it has one; it resumes no session.
pub fn client(roots: &Path, pair: Option<&Pair>) -> Arc<ClientConfig> {
    let read = |path: &Path| fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&read(roots)) {
        store.add(root.expect("PEM")).expect("a CA certificate");
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("the provider has TLS 1.2 and 1.3").with_root_certificates(store);
    let mut config = match pair {
        Some(Pair { cert, key }) => {
            let chain = CertificateDer::pem_slice_iter(&read(cert)).collect::<Result<_, _>>().expect("PEM");
            let key = PrivateKeyDer::from_pem_slice(&read(key)).expect("PEM");
            builder.with_client_auth_cert(chain, key).expect("the key is the certificate's")
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Arc::new(config)
}
