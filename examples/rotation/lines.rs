//! Connections to several servers: one that is lost is dialled anew, at another server.

use std::{net::SocketAddr, time::Duration};

use tokio::{sync::Mutex, time::timeout};
use tokio_rustls::TlsConnector;
use tonic::transport::Channel;

use super::{Result, dial::dial};

/// How long one server may take to answer a dial.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Rounds over all servers before a dial is given up.
const ROUNDS: usize = 20;

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(500);

/// The connections of a fleet.
pub struct Lines {
    servers: Vec<SocketAddr>,
    tls: TlsConnector,
    lines: Vec<Mutex<Line>>,
}

/// One connection as it is now.
#[derive(Clone)]
pub struct Line {
    /// For requests.
    pub channel: Channel,
    /// Where it leads.
    pub server: usize,
    /// How often it was dialled.
    dialled: u64,
}

impl Lines {
    /// Dials so many, over all servers in turn.
    pub async fn dial(servers: Vec<SocketAddr>, tls: TlsConnector, count: usize) -> Result<Self> {
        let mut lines = Vec::new();
        for n in 0..count {
            let server = n % servers.len();
            lines.push(Mutex::new(Line { channel: dial(&tls, servers[server]).await?, server, dialled: 1 }));
        }
        Ok(Self { servers, tls, lines })
    }

    /// One of them.
    pub async fn get(&self, place: usize) -> Line {
        self.lines[place % self.lines.len()].lock().await.clone()
    }

    /// One of them after `lost` failed: who finds it dialled anew already takes that one.
    pub async fn get_anew(&self, place: usize, lost: &Line) -> Result<Line> {
        let mut line = self.lines[place % self.lines.len()].lock().await;
        if line.dialled != lost.dialled {
            return Ok(line.clone());
        }
        let mut why = "no server".into();
        for turn in 1..=ROUNDS * self.servers.len() {
            let server = (lost.server + turn) % self.servers.len();
            match timeout(DIAL_TIMEOUT, dial(&self.tls, self.servers[server])).await {
                Ok(Ok(channel)) => {
                    *line = Line { channel, server, dialled: line.dialled + 1 };
                    return Ok(line.clone());
                }
                Ok(Err(error)) => why = error,
                Err(_) => why = "no answer".into(),
            }
            if turn % self.servers.len() == 0 {
                tokio::time::sleep(PAUSE).await;
            }
        }
        Err(why)
    }
}
