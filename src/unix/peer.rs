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

use super::seldom::Seldom;

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
    ///
    /// # Errors
    /// `PERMISSION_DENIED`, when it did not come over a connection of [`incoming`].
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let peer = request.extensions().get::<Self>().copied();
        peer.ok_or_else(|| Status::permission_denied("the kernel does not say who you are"))
    }
}

/// A connection of a known process.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    peer: Peer,
    _place: Place,
}

/// How many connections a socket has at a time.
#[derive(Debug, Clone, Copy)]
pub struct Most {
    /// In all. Further ones wait to be accepted.
    pub connections: usize,
    /// Of one user. Further ones are closed.
    pub per_user: usize,
}

/// The connections that a socket gets, until it is dropped. An error never ends it. `refused` hears of whom it closes.
pub fn incoming(listener: UnixListener, most: Most, refused: impl Fn(Peer)) -> impl Stream<Item = io::Result<Connection>> {
    incoming_within(listener, Arc::new(Places::new(most)), refused)
}

fn incoming_within(listener: UnixListener, places: Arc<Places>, refused: impl Fn(Peer)) -> impl Stream<Item = io::Result<Connection>> {
    let begun = (listener, places, refused, Seldom::default());
    stream::unfold(begun, async |(listener, places, refused, lines)| {
        loop {
            // Nobody closes the semaphore.
            let permit = places.all.clone().acquire_owned().await.ok()?;
            let accepted = listener.accept().await.and_then(|(stream, _)| Ok((stream.peer_cred()?, stream)));
            match accepted {
                Ok((found, stream)) => {
                    let peer = Peer { uid: found.uid(), gid: found.gid(), pid: found.pid() };
                    if let Some(place) = places.enter(peer.uid, permit) {
                        return Some((Ok(Connection { stream, peer, _place: place }), (listener, places, refused, lines)));
                    }
                    refused(peer);
                }
                Err(error) => {
                    if lines.may(Instant::now()) {
                        tracing::warn!(%error, socket = ?listener.local_addr().ok(), "a connection could not be accepted");
                    }
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    })
}

/// Counts connections. Holds no more entries than there are connections.
#[derive(Debug)]
struct Places {
    all: Arc<Semaphore>,
    by_user: Mutex<HashMap<u32, usize>>,
    per_user: usize,
}

/// One of them.
#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    uid: u32,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    fn new(most: Most) -> Self {
        Self { all: Arc::new(Semaphore::new(most.connections)), by_user: Mutex::default(), per_user: most.per_user }
    }

    fn enter(self: &Arc<Self>, uid: u32, permit: OwnedSemaphorePermit) -> Option<Place> {
        let mut by_user = self.by_user.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_user.entry(uid).or_default();
        if *count >= self.per_user {
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

    #[tokio::test]
    async fn the_kernel_says_who_it_is_and_one_user_cannot_take_all_places() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let mut connections = pin!(incoming(UnixListener::bind(&path).unwrap(), Most { connections: 8, per_user: 3 }, |_| {}));
        let mut held = Vec::new();
        for _ in 0..3 {
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
        let most = Most { connections: 8, per_user: 3 };
        let places = Arc::new(Places::new(most));
        let mut connections = pin!(incoming_within(UnixListener::bind(&path).unwrap(), places.clone(), |_| {}));
        let mut others = Vec::new();
        for nth in 0..most.connections - 1 {
            let permit = places.all.clone().try_acquire_owned().unwrap();
            others.push(places.enter(u32::try_from(nth / most.per_user).unwrap() + 1_000_000, permit).unwrap());
        }
        let (_first, _second) = (UnixStream::connect(&path).await.unwrap(), UnixStream::connect(&path).await.unwrap());
        let last = connections.next().await.unwrap().unwrap();
        assert!(connections.next().now_or_never().is_none(), "there is no place");
        drop(others.pop());
        let next = connections.next().await.unwrap();
        assert!(next.is_ok() && connections.next().now_or_never().is_none());
        drop((last, next, others));
        assert_eq!(places.all.available_permits(), most.connections - 1, "but the one that waits for the next");
        assert!(places.by_user.lock().unwrap().is_empty(), "who has none is not remembered");
    }
}
