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

use crate::model::identity::PeerCertificate;

/// What the handlers learn of a connection.
#[derive(Clone)]
pub(super) struct ConnInfo {
    /// The other end.
    pub address: SocketAddr,
    /// Its certificate, verified, when it showed one.
    pub peer: Option<Arc<PeerCertificate>>,
}

/// A connection in service.
pub(super) struct Conn {
    tls: TlsStream<TcpStream>,
    info: ConnInfo,
    /// Resolves when the connection must end; none for a client without a certificate.
    cut: Option<oneshot::Receiver<()>>,
    place: Option<(Arc<Registry>, u64)>,
    _permit: OwnedSemaphorePermit,
}

impl Conn {
    pub(super) fn new(tls: TlsStream<TcpStream>, info: ConnInfo, registry: &Arc<Registry>, permit: OwnedSemaphorePermit) -> Self {
        let chain = tls.get_ref().1.peer_certificates().map(<[_]>::to_vec);
        let (place, cut) = chain.map(|chain| registry.enter(chain)).unzip();
        let place = place.map(|id| (registry.clone(), id));
        Self { tls, info, cut, place, _permit: permit }
    }

    fn is_cut(&mut self, cx: &mut Context<'_>) -> bool {
        // A dropped sender cuts as well: the registry forgets a connection only when it must end.
        self.cut.as_mut().is_some_and(|cut| Pin::new(cut).poll(cx).is_ready())
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
            self.cut = None;
            return Poll::Ready(Err(cut_off()));
        }
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}

type Chain = Vec<CertificateDer<'static>>;

/// By connection: its chain, and the sender whose end cuts it.
type Live = HashMap<u64, (Arc<Chain>, oneshot::Sender<()>)>;

/// The live connections of clients with certificates.
#[derive(Default)]
pub(super) struct Registry {
    next: AtomicU64,
    live: Mutex<Live>,
}

impl Registry {
    fn enter(&self, chain: Chain) -> (u64, oneshot::Receiver<()>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(id, (Arc::new(chain), sender));
        (id, receiver)
    }

    fn leave(&self, id: u64) {
        self.lock().remove(&id);
    }

    /// Cuts every connection whose chain `trusted` no longer accepts. Answers how many.
    pub(super) fn cut_unless(&self, trusted: impl Fn(&[CertificateDer<'_>]) -> bool) -> usize {
        let live: Vec<(u64, Arc<Chain>)> = self.lock().iter().map(|(id, (chain, _))| (*id, chain.clone())).collect();
        let lost: Vec<u64> = live.iter().filter(|(_, chain)| !trusted(chain)).map(|(id, _)| *id).collect();
        let mut live = self.lock();
        // Dropping the sender is what cuts.
        lost.iter().filter(|id| live.remove(*id).is_some()).count()
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
