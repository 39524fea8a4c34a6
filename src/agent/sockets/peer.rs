//! Who is at the other end of a unix socket: the kernel says so, the peer cannot.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tonic::{Request, Status, transport::server::Connected};

use super::{authority::AnyAuthority, config::Access, seldom::Seldom};

/// How many connections a socket has at a time. Further ones wait to be accepted.
pub const MAX_CONNECTIONS: usize = 1024;

/// How many of them one user has. Further ones are closed.
pub const MAX_CONNECTIONS_PER_USER: usize = 256;

/// How long accepting rests after an error such as too many open files.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// A process as it was when it connected (`SO_PEERCRED`, unix(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its effective user id.
    pub uid: u32,
    /// Its effective group id.
    pub gid: u32,
    /// Its process id, for the log: it can be another's by now.
    pub pid: Option<i32>,
}

impl Peer {
    /// Whose call this is.
    pub(super) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let peer = request.extensions().get::<Self>().copied();
        peer.ok_or_else(|| Status::permission_denied("the kernel does not say who you are"))
    }
}

impl Access {
    /// Whether it names nobody: it is for everybody.
    pub fn is_open(&self) -> bool {
        self.uids.is_empty() && self.gids.is_empty()
    }

    /// Whether it lets a process have what it guards.
    pub fn allows(&self, peer: &Peer) -> bool {
        self.is_open() || self.uids.contains(&peer.uid) || self.gids.contains(&peer.gid)
    }
}

/// A connection of a known process.
pub(super) struct Connection {
    stream: AnyAuthority<UnixStream>,
    peer: Peer,
    _place: Place,
}

/// The connections that a socket gets, until it is dropped. An error never ends it.
pub(super) fn incoming(listener: UnixListener, name: &'static str) -> impl Stream<Item = io::Result<Connection>> {
    incoming_within(listener, name, Arc::new(Places::new()))
}

fn incoming_within(listener: UnixListener, name: &'static str, places: Arc<Places>) -> impl Stream<Item = io::Result<Connection>> {
    stream::unfold((listener, places), move |(listener, places)| async move {
        loop {
            // Nobody closes the semaphore.
            let permit = places.all.clone().acquire_owned().await.ok()?;
            let accepted = listener.accept().await.and_then(|(stream, _)| Ok((stream.peer_cred()?, stream)));
            match accepted {
                Ok((found, stream)) => {
                    let peer = Peer { uid: found.uid(), gid: found.gid(), pid: found.pid() };
                    if let Some(place) = places.enter(peer.uid, permit) {
                        return Some((Ok(Connection { stream: AnyAuthority::new(stream), peer, _place: place }), (listener, places)));
                    }
                    metrics::counter!("daypass_agent_connections_refused_total", "socket" => name).increment(1);
                    if places.refusals.may(Instant::now()) {
                        tracing::warn!(socket = name, uid = peer.uid, pid = peer.pid, "a user has as many connections as one may have");
                    }
                }
                Err(error) => {
                    tracing::warn!(socket = name, %error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    })
}

/// Counts connections. Holds no more entries than there are connections.
struct Places {
    all: Arc<Semaphore>,
    by_user: Mutex<HashMap<u32, usize>>,
    /// The log's lines of those who have no place.
    refusals: Seldom,
}

/// One of them.
struct Place {
    places: Arc<Places>,
    uid: u32,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(MAX_CONNECTIONS)), by_user: Mutex::default(), refusals: Seldom::default() }
    }

    fn enter(self: &Arc<Self>, uid: u32, permit: OwnedSemaphorePermit) -> Option<Place> {
        let mut by_user = self.by_user.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_user.entry(uid).or_default();
        if *count >= MAX_CONNECTIONS_PER_USER {
            return None;
        }
        *count += 1;
        Some(Place { places: Arc::clone(self), uid, _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_user = self.places.by_user.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_user.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                by_user.remove(&self.uid);
            }
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::{FutureExt, StreamExt};
    use tokio::io::AsyncReadExt;

    use super::*;

    #[test]
    fn who_is_named_is_let_in_and_nobody_named_means_everybody() {
        let peer = |uid, gid| Peer { uid, gid, pid: None };
        let access = |uids: &[u32], gids: &[u32]| Access { uids: uids.to_vec(), gids: gids.to_vec() };
        assert!(access(&[], &[]).allows(&peer(7, 7)));
        let both = access(&[1], &[2]);
        assert!(both.allows(&peer(1, 9)) && both.allows(&peer(9, 2)));
        assert!(!both.allows(&peer(2, 1)) && !both.allows(&peer(0, 0)), "nor root, when it is not named");
        assert!(!access(&[], &[2]).allows(&peer(2, 0)), "a list of groups alone shuts out every other user");
    }

    #[tokio::test]
    async fn the_kernel_says_who_it_is_and_one_user_cannot_take_all_places() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let mut connections = pin!(incoming(UnixListener::bind(&path).unwrap(), "test"));
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS_PER_USER {
            let client = UnixStream::connect(&path).await.unwrap();
            held.push((client, connections.next().await.unwrap().unwrap()));
        }
        let own = Peer {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            pid: Some(i32::try_from(std::process::id()).unwrap()),
        };
        assert!(held.iter().all(|(_, connection)| connection.connect_info() == own));
        let mut refused = UnixStream::connect(&path).await.unwrap();
        let mut byte = [0];
        tokio::select! {
            _ = connections.next() => panic!("it has a place"),
            read = refused.read(&mut byte) => assert_eq!(read.unwrap(), 0),
        }
        held.pop();
        let _client = UnixStream::connect(&path).await.unwrap();
        assert!(connections.next().await.unwrap().is_ok(), "a place that is given back is free");
    }

    #[tokio::test]
    async fn with_all_places_taken_others_wait() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let places = Arc::new(Places::new());
        let mut connections = pin!(incoming_within(UnixListener::bind(&path).unwrap(), "test", places.clone()));
        let mut others = Vec::new();
        for uid in 0..MAX_CONNECTIONS - 1 {
            let permit = places.all.clone().try_acquire_owned().unwrap();
            others.push(places.enter(u32::try_from(uid / MAX_CONNECTIONS_PER_USER).unwrap() + 1_000_000, permit).unwrap());
        }
        let (_first, _second) = (UnixStream::connect(&path).await.unwrap(), UnixStream::connect(&path).await.unwrap());
        let last = connections.next().await.unwrap().unwrap();
        assert!(connections.next().now_or_never().is_none(), "there is no place");
        drop(others.pop());
        let next = connections.next().await.unwrap();
        assert!(next.is_ok() && connections.next().now_or_never().is_none());
        drop((last, next, others));
        assert_eq!(places.all.available_permits(), MAX_CONNECTIONS - 1, "but the one that waits for the next");
        assert!(places.by_user.lock().unwrap().is_empty(), "who has none is not remembered");
    }
}
