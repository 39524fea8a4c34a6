//! Accepts connections: bounded in number, in handshakes and in their time. An accept error never ends the server.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    addresses::Addresses,
    clones::{Suspect, Suspects, report},
    config::Limits,
    conn::{Conn, Held, Registry},
    tls::TlsEdge,
};
use crate::{
    authn::mtls::{Heard, with_verdict},
    clock::Clock,
};

/// How long accepting rests after an error such as too many open files.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// Handshaken connections that wait for the gRPC server to take them.
const READY_CONNECTIONS: usize = 64;

/// How long a client whose handshake failed may take to read why.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// What it may still send meanwhile, in bytes; it is thrown away.
const MAX_DRAIN: usize = 64 * 1024;

/// What a handshake needs.
pub(super) struct Acceptor {
    pub edge: Arc<TlsEdge>,
    pub registry: Arc<Registry>,
    pub clock: Arc<dyn Clock>,
    pub limits: Limits,
    pub suspects: Suspects,
}

impl Acceptor {
    /// Serves a listener until the receiver is dropped.
    pub(super) fn serve(self, listener: TcpListener) -> ReceiverStream<io::Result<Conn>> {
        let (ready, stream) = mpsc::channel(READY_CONNECTIONS);
        tokio::spawn(Arc::new(self).accept_all(listener, ready));
        ReceiverStream::new(stream)
    }

    async fn accept_all(self: Arc<Self>, listener: TcpListener, ready: mpsc::Sender<io::Result<Conn>>) {
        let connections = Arc::new(Semaphore::new(self.limits.connections));
        let handshakes = Arc::new(Semaphore::new(self.limits.handshakes));
        let addresses = Addresses::new(self.limits.connections_per_address, self.limits.handshakes_per_address);
        loop {
            let connection = tokio::select! {
                () = ready.closed() => return,
                Ok(connection) = connections.clone().acquire_owned() => connection,
                else => return,
            };
            let accepted = tokio::select! {
                () = ready.closed() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, address)) => {
                    let Some(place) = addresses.enter(address.ip()) else {
                        refused(address, "its address has as many connections as it may");
                        continue;
                    };
                    let held = Held { _connection: connection, address: place };
                    let (acceptor, handshakes, ready) = (self.clone(), handshakes.clone(), ready.clone());
                    tokio::spawn(async move {
                        // First one of its address's, and only then one of all: a silent address waits for itself.
                        let own = held.address.handshakes.clone();
                        let (Ok(own), Ok(all)) = (own.acquire().await, handshakes.acquire().await) else { return };
                        let conn = acceptor.handshake(tcp, address, held).await;
                        drop((own, all));
                        if let Some(conn) = conn {
                            let _shutting_down = ready.send(Ok(conn)).await;
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    metrics::counter!("daypass_accept_errors_total").increment(1);
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    }

    async fn handshake(&self, tcp: TcpStream, address: SocketAddr, held: Held) -> Option<Conn> {
        let _best_effort = tcp.set_nodelay(true);
        let acceptor = TlsAcceptor::from(self.edge.config());
        let limit = super::config::std_duration(self.limits.handshake_timeout);
        let (accepted, heard) = with_verdict(tokio::time::timeout(limit, acceptor.accept(tcp).into_fallible())).await;
        let tls = match accepted {
            Ok(Ok(tls)) => tls,
            Ok(Err((error, tcp))) => {
                if let Heard::Revoked(peer) = heard {
                    report(&self.suspects, Suspect { peer, address: address.ip() });
                }
                tokio::spawn(close_gently(tcp, held));
                return refused(address, &error.to_string());
            }
            Err(_) => return refused(address, "the handshake took too long"),
        };
        let now = self.clock.now();
        let verdict = match (tls.get_ref().1.peer_certificates(), heard) {
            (None, _) => None,
            (Some(_), Heard::Verdict(verdict)) if self.edge.stands(&verdict, now) => Some(verdict),
            // The trust changed while the handshake ran.
            (Some(chain), _) => match self.edge.judge(chain, now) {
                Ok(verdict) => Some(verdict),
                Err(error) => return refused(address, &error.to_string()),
            },
        };
        metrics::counter!("daypass_handshakes_total", "outcome" => "done").increment(1);
        Some(Conn::new(tls, address, verdict, &self.registry, held))
    }
}

/// Closes a connection whose handshake failed once the client has had time to read the alert. A socket that is closed while
/// bytes of the client wait unread (a client of TLS 1.3 sends its first request before it can know) is reset, and a reset
/// throws away the alert that says why.
async fn close_gently(mut tcp: TcpStream, held: Held) {
    let drained = async {
        tcp.shutdown().await?;
        let mut scratch = [0; 1024];
        for _ in 0..MAX_DRAIN / scratch.len() {
            if tcp.read(&mut scratch).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    };
    let _in_time = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
    drop(held);
}

fn refused(address: SocketAddr, why: &str) -> Option<Conn> {
    tracing::info!(%address, why, "a TLS handshake was refused");
    metrics::counter!("daypass_handshakes_total", "outcome" => "refused").increment(1);
    None
}
