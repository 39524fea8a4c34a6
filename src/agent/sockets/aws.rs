//! The agent's AWS sessions at the container credentials endpoint: `GET /creds/<role>`.
//!
//! Who has the token is let in. Where a role is for some users only, the kernel's table of connections says whose the other end is.

use std::{
    net::{SocketAddr, SocketAddrV4},
    path::Path,
};

use async_trait::async_trait;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
};
use zeroize::Zeroizing;

use super::{
    config::AwsSection,
    container::{self, Caller, Refusal, Sessions},
    view::Shown,
};
use crate::{
    agent::accounts::gid,
    client::{
        error::{Error, Kind, Result},
        settings::plain,
        types::AwsCredential,
    },
    unix::{
        files,
        place::{Placed, check_free_for_file, place},
    },
};

/// Where a role's session is.
pub const PATH: &str = "/creds/";

/// The kernel's tables of connections (proc_pid_net(5)): of sockets of IPv4, and of sockets of IPv6 that speak IPv4 too (RFC 4291 section
/// 2.5.5.2), as Java's do; each with the form of an address there.
const CONNECTIONS: [(&str, Form); 2] = [("/proc/net/tcp", in_table), ("/proc/net/tcp6", mapped_in_table)];

/// How a table writes an address.
type Form = fn(SocketAddrV4) -> String;

/// A connection of that table that is established, in its column `st`.
const ESTABLISHED: &str = "01";

/// The endpoint, bound.
pub(super) struct BoundAws {
    pub listener: TcpListener,
    pub token: Zeroizing<String>,
    pub address: SocketAddrV4,
    /// The file with the token; it goes with this value.
    pub file: Placed,
}

/// Listens, and writes the token.
pub(super) fn bind(section: &AwsSection) -> Result<BoundAws> {
    let fault = |error| Error::new(Kind::Other, "SOCKET", format!("{}: {}", section.listen, plain(&error)));
    let listener = std::net::TcpListener::bind(section.listen).map_err(fault)?;
    listener.set_nonblocking(true).map_err(fault)?;
    let listener = TcpListener::from_std(listener).map_err(fault)?;
    let SocketAddr::V4(address) = listener.local_addr().map_err(fault)? else {
        return Err(Error::usage(format!("{} is no IPv4 address", section.listen)));
    };
    let token = container::token();
    let group = section.token_group.as_ref().map(gid).transpose()?;
    let write = |path: &Path| files::create(path, 0o600, token.as_bytes());
    let placed = check_free_for_file(&section.token_file).and_then(|()| place(&section.token_file, section.token_mode.0, group, write));
    let ((), file) = placed.map_err(|error| super::fault(&section.token_file, &error))?;
    Ok(BoundAws { listener, token, address, file })
}

#[async_trait]
impl Sessions for Shown {
    async fn session(&self, path: &str, caller: Caller) -> Result<AwsCredential, Refusal> {
        let role = path.strip_prefix(PATH).ok_or(Refusal::NotFound)?;
        let following = self.desk.role(role).filter(|_| self.serves(role)).ok_or(Refusal::NotFound)?;
        if let Some(access) = self.access.get(role).filter(|access| !access.is_open()) {
            // The table knows no groups: a role that is for groups alone is for nobody here.
            let uid = owner(caller).await.ok_or(Refusal::Denied)?;
            if !access.uids.contains(&uid) {
                return Err(Refusal::Denied);
            }
        }
        let fresh = following.borrow().clone().ok_or(Refusal::NotReady)?;
        fresh.aws().cloned().ok_or(Refusal::NotFound)
    }
}

/// The user that made the other end of a connection; none when the kernel does not say, or no longer. A socket that its process has closed
/// shows as root's there, and is not established any more.
async fn owner(caller: Caller) -> Option<u32> {
    let (SocketAddr::V4(theirs), SocketAddr::V4(ours)) = (caller.theirs, caller.ours) else { return None };
    for (table, form) in CONNECTIONS {
        // A kernel without IPv6 has one table.
        let Ok(table) = tokio::fs::File::open(table).await else { continue };
        let (theirs, ours, mut lines) = (form(theirs), form(ours), BufReader::new(table).lines());
        while let Some(line) = lines.next_line().await.ok()? {
            if let Some(uid) = owner_in(&line, &theirs, &ours) {
                return Some(uid);
            }
        }
    }
    None
}

/// `sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode …`
fn owner_in(line: &str, theirs: &str, ours: &str) -> Option<u32> {
    let fields: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
    match fields.as_slice() {
        &[_, local, remote, ESTABLISHED, _, _, _, uid, _, inode] if (local, remote) == (theirs, ours) && inode != "0" => uid.parse().ok(),
        _ => None,
    }
}

/// An address as the table has it: the four bytes as one number of this machine's order, and the port, in hex.
fn in_table(address: SocketAddrV4) -> String {
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}

/// The same as an IPv4-mapped address of IPv6: four such numbers.
fn mapped_in_table(address: SocketAddrV4) -> String {
    format!("{:016X}{:08X}{}", 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), in_table(address))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 111 1 0000000000000000 100 0 0 10 0
   1: 0100007F:C001 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 222 1 0000000000000000 20 4 30 10 -1
   2: 0100007F:1F90 0100007F:C001 01 00000000:00000000 00:00000000 00000000  1000        0 333 1 0000000000000000 20 4 30 10 -1
   3: 0100007F:C002 0100007F:1F90 04 00000000:00000000 00:00000000 00000000     0        0 0 1 0000000000000000 20 4 30 10 -1
   4: 0100007F:C003 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 0 1 0000000000000000 20 4 30 10 -1
";

    #[test]
    #[cfg(target_endian = "little")]
    fn the_table_says_whose_an_established_connection_is() {
        let find = |theirs: &str| {
            let (theirs, ours) = (in_table(theirs.parse().unwrap()), in_table("127.0.0.1:8080".parse().unwrap()));
            TABLE.lines().find_map(|line| owner_in(line, &theirs, &ours))
        };
        assert_eq!(find("127.0.0.1:49153"), Some(1001), "the client's end, not the server's");
        assert_eq!(find("127.0.0.1:49154"), None, "one that is closing shows as root's");
        assert_eq!(find("127.0.0.1:49155"), None, "and so does one without a process");
        assert_eq!(find("127.0.0.1:49156"), None);
        assert_eq!(find("127.0.0.2:49153"), None);
    }

    #[tokio::test]
    async fn the_kernel_says_whose_a_real_connection_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let caller = Caller { theirs: client.local_addr().unwrap(), ours: client.peer_addr().unwrap() };
        assert_eq!(owner(caller).await, Some(rustix::process::geteuid().as_raw()));
        drop(client);
        assert_eq!(owner(caller).await, None);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_socket_of_ipv6_that_speaks_ipv4_is_found_in_the_other_table() {
        assert_eq!(mapped_in_table("127.0.0.1:49153".parse().unwrap()), "0000000000000000FFFF00000100007F:C001");
    }

    #[tokio::test]
    async fn the_kernel_says_whose_a_mapped_connection_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // A machine without IPv6 has no such sockets.
        let Ok(client) = TcpStream::connect(format!("[::ffff:127.0.0.1]:{port}")).await else { return };
        let (_served, theirs) = listener.accept().await.unwrap();
        assert!(client.local_addr().unwrap().is_ipv6() && theirs.is_ipv4());
        let caller = Caller { theirs, ours: listener.local_addr().unwrap() };
        assert_eq!(owner(caller).await, Some(rustix::process::geteuid().as_raw()));
    }
}
