//! A TLS connection that ends when its client is no longer trusted.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, oneshot},
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::addresses::Place;
use crate::{
    authn::mtls::Verdict,
    model::{error::Result, identity::PeerCertificate},
};

/// What the handlers learn of a connection.
#[derive(Clone)]
pub(super) struct ConnInfo {
    /// The other end.
    pub address: SocketAddr,
    /// Its certificate, verified, when it showed one.
    pub peer: Option<Arc<PeerCertificate>>,
}

/// What a connection holds of what all share, as long as it lives.
pub(super) struct Held {
    /// One of all connections.
    pub _connection: OwnedSemaphorePermit,
    /// One of its address's.
    pub address: Place,
}

/// A connection in service.
pub(super) struct Conn {
    tls: TlsStream<TcpStream>,
    info: ConnInfo,
    /// Resolves when the connection must end; none for a client without a certificate.
    cut: Option<oneshot::Receiver<()>>,
    /// It was cut.
    ended: bool,
    place: Option<(Arc<Registry>, u64)>,
    _held: Held,
}

impl Conn {
    /// A connection whose handshake is done; `verdict` is of the certificates that it showed.
    pub(super) fn new(
        tls: TlsStream<TcpStream>,
        address: SocketAddr,
        verdict: Option<Verdict>,
        registry: &Arc<Registry>,
        held: Held,
    ) -> Self {
        let info = ConnInfo { address, peer: verdict.as_ref().map(|verdict| verdict.peer().clone()) };
        let chain = tls.get_ref().1.peer_certificates().map(<[_]>::to_vec);
        let (place, cut) = chain.zip(verdict).map(|(chain, verdict)| registry.enter(chain, verdict)).unzip();
        let place = place.map(|id| (registry.clone(), id));
        Self { tls, info, cut, ended: false, place, _held: held }
    }

    /// Asked before reading and before writing: a peer that does not read what it is sent must not put off its end.
    fn is_cut(&mut self, cx: &mut Context<'_>) -> bool {
        // A dropped sender cuts as well: the registry forgets a connection only when it must end.
        if self.cut.as_mut().is_some_and(|cut| Pin::new(cut).poll(cx).is_ready()) {
            self.cut = None;
            self.ended = true;
        }
        self.ended
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if let Some((registry, id)) = self.place.take() {
            registry.leave(id);
        }
    }
}

impl Connected for Conn {
    type ConnectInfo = ConnInfo;
    fn connect_info(&self) -> ConnInfo {
        self.info.clone()
    }
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the client's certificate is no longer trusted")
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_cut(cx) {
            return Poll::Ready(Err(cut_off()));
        }
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_cut(cx) {
            return Poll::Ready(Err(cut_off()));
        }
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.is_cut(cx) {
            return Poll::Ready(Err(cut_off()));
        }
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}

type Chain = Vec<CertificateDer<'static>>;

/// Whom a connection's requests are taken to come from, and the chain that said so.
#[derive(Clone)]
struct Shown {
    chain: Arc<Chain>,
    verdict: Verdict,
}

/// A connection whose client must be verified again.
pub(super) struct Doubtful {
    id: u64,
    shown: Shown,
}

/// By connection: who it is, and the sender whose end cuts it.
type Live = HashMap<u64, (Shown, oneshot::Sender<()>)>;

/// The live connections of clients with certificates.
#[derive(Default)]
pub(super) struct Registry {
    next: AtomicU64,
    live: Mutex<Live>,
}

impl Registry {
    /// Holds a connection until it leaves; what it gives resolves when the connection must end.
    pub(super) fn enter(&self, chain: Chain, verdict: Verdict) -> (u64, oneshot::Receiver<()>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(id, (Shown { chain: Arc::new(chain), verdict }, sender));
        (id, receiver)
    }

    fn leave(&self, id: u64) {
        self.lock().remove(&id);
    }

    /// The connections whose verdict does not stand any more. Costs a few comparisons for each connection, and no signature.
    pub(super) fn doubtful(&self, stands: impl Fn(&Verdict) -> bool) -> Vec<Doubtful> {
        let live = self.lock();
        let doubtful = live.iter().filter(|(_, (shown, _))| !stands(&shown.verdict));
        doubtful.map(|(id, (shown, _))| Doubtful { id: *id, shown: shown.clone() }).collect()
    }

    /// Cuts each of these connections whose chain no longer means the caller that it meant at its handshake: it is not trusted any
    /// more, or it is another's by now (a CA that moved to another trust domain, another mapping). Answers how many. The others go
    /// on under their new verdict.
    pub(super) fn cut_unless_same(&self, doubtful: &[Doubtful], judge: impl Fn(&[CertificateDer<'_>]) -> Result<Verdict>) -> usize {
        let same = |shown: &Shown| judge(&shown.chain).ok().filter(|now| now.peer() == shown.verdict.peer());
        let judged: Vec<_> = doubtful.iter().map(|Doubtful { id, shown }| (id, same(shown))).collect();
        let mut live = self.lock();
        let mut cut = 0;
        for (id, verdict) in judged {
            match verdict {
                Some(verdict) => drop(live.get_mut(id).map(|(shown, _)| shown.verdict = verdict)),
                // Dropping the sender is what cuts.
                None => cut += usize::from(live.remove(id).is_some()),
            }
        }
        cut
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        error::Error,
        identity::{CertificateIdentity, Subject},
    };

    fn verdict(trust_domain: &str, trust: u64) -> Verdict {
        let id = format!("spiffe://{trust_domain}/a");
        let peer = PeerCertificate {
            trust_domain: trust_domain.parse().unwrap(),
            identity: CertificateIdentity::Spiffe,
            subject: Subject::try_from(id.clone()).unwrap(),
            id,
            serial: "0a".to_owned(),
            fingerprint: "00".repeat(32),
            not_after: "2030-01-01T00:00:00Z".parse().unwrap(),
        };
        Verdict::forged(peer, trust)
    }

    #[test]
    fn a_connection_ends_when_its_chain_is_refused_or_means_another_caller() {
        let registry = Registry::default();
        let (_, mut cut) = registry.enter(vec![], verdict("a", 0));
        let mut is_cut = || cut.try_recv() != Err(oneshot::error::TryRecvError::Empty);
        let doubtful = || registry.doubtful(|_| false);
        assert_eq!(registry.cut_unless_same(&doubtful(), |_| Ok(verdict("a", 1))), 0);
        assert!(!is_cut());
        assert_eq!(registry.cut_unless_same(&doubtful(), |_| Ok(verdict("b", 1))), 1, "it would go on as a caller that it no longer is");
        assert!(is_cut());
        let (_, _cut) = registry.enter(vec![], verdict("a", 0));
        assert_eq!(registry.cut_unless_same(&doubtful(), |_| Err(Error::internal("revoked"))), 1);
    }

    #[test]
    fn a_connection_that_passed_is_doubted_no_more_and_one_that_left_is_not_counted() {
        let registry = Registry::default();
        let (_, _cut) = registry.enter(vec![], verdict("a", 0));
        let (gone, _ended) = registry.enter(vec![], verdict("a", 0));
        let under = |trust| registry.doubtful(move |verdict| verdict.is_under(trust));
        assert_eq!(under(0).len(), 0);
        let doubtful = under(1);
        assert_eq!(doubtful.len(), 2);
        registry.leave(gone);
        assert_eq!(registry.cut_unless_same(&doubtful, |_| Ok(verdict("a", 1))), 0);
        assert_eq!(under(1).len(), 0, "its new verdict is kept");
        assert_eq!(registry.cut_unless_same(&doubtful, |_| Err(Error::internal("refused"))), 1, "one of the two has left");
    }
}
