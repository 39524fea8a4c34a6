//! What one address may take of the places that all share: nobody shuts out the others before anything is known of it.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Semaphore;

/// What one stranger has as its own: an address, or the 64 bits of an IPv6 network (RFC 4291 section 2.5.1), in which it may take
/// any address.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

/// The addresses that have connections; no more of them than there are connections.
pub(super) struct Addresses {
    connections: usize,
    handshakes: usize,
    known: Mutex<HashMap<IpAddr, Known>>,
}

struct Known {
    connections: usize,
    handshakes: Arc<Semaphore>,
}

impl Addresses {
    /// `connections` and `handshakes` are what one address may have at once.
    pub(super) fn new(connections: usize, handshakes: usize) -> Arc<Self> {
        Arc::new(Self { connections, handshakes, known: Mutex::default() })
    }

    /// A place for one more connection; none when its address has as many as it may.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let network = network(address);
        let mut known = self.known();
        let fresh = || Known { connections: 0, handshakes: Arc::new(Semaphore::new(self.handshakes)) };
        let entry = known.entry(network).or_insert_with(fresh);
        if entry.connections >= self.connections {
            return None;
        }
        entry.connections += 1;
        Some(Place { addresses: self.clone(), network, handshakes: entry.handshakes.clone() })
    }

    fn known(&self) -> MutexGuard<'_, HashMap<IpAddr, Known>> {
        // Each change under the lock is complete in itself.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one connection; given back when it is dropped.
pub(super) struct Place {
    addresses: Arc<Addresses>,
    network: IpAddr,
    /// The handshakes that its address may have under way.
    pub handshakes: Arc<Semaphore>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut known = self.addresses.known();
        if let Some(entry) = known.get_mut(&self.network) {
            entry.connections = entry.connections.saturating_sub(1);
            if entry.connections == 0 {
                known.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_share_and_is_forgotten_without_connections() {
        let addresses = Addresses::new(2, 1);
        let enter = |address: &str| addresses.enter(address.parse().unwrap());
        let first = enter("192.0.2.1").unwrap();
        let second = enter("::ffff:192.0.2.1").expect("the same address, mapped");
        assert!(enter("192.0.2.1").is_none());
        assert!(Arc::ptr_eq(&first.handshakes, &second.handshakes));
        let other = enter("192.0.2.2").expect("another address has places of its own");
        drop(first);
        let again = enter("192.0.2.1").expect("a place was given back");
        drop((second, again, other));
        assert!(addresses.known().is_empty(), "no address is remembered for nothing");
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let addresses = Addresses::new(1, 1);
        let enter = |address: &str| addresses.enter(address.parse().unwrap());
        let _held = enter("2001:db8::1").unwrap();
        assert!(enter("2001:db8::2").is_none());
        assert!(enter("2001:db8:0:1::1").is_some());
    }
}
