//! Certificates that a CRL names and that somebody shows all the same: looked into beside the handshakes, which do not wait for the store.

use std::{net::IpAddr, sync::Arc};

use tokio::sync::mpsc;

use super::limiters::Limiters;
use crate::{
    clock,
    model::identity::PeerCertificate,
    vend::{Origin, Vend},
};

/// Handshakes that wait to be looked into; the next ones are counted and forgotten, for their clients are refused in any case and come again.
pub(super) const SUSPECTS: usize = 256;

/// A handshake that failed because its client's certificate is revoked, after its client had proved to hold its key.
pub(super) struct Suspect {
    pub peer: Box<PeerCertificate>,
    pub address: IpAddr,
}

/// Where handshakes leave them.
pub(super) type Suspects = mpsc::Sender<Suspect>;

/// Leaves one to be looked into.
pub(super) fn report(suspects: &Suspects, suspect: Suspect) {
    if suspects.try_send(suspect).is_err() {
        metrics::counter!("daypass_suspects_dropped_total").increment(1);
    }
}

/// Looks into them, one after the other.
pub(super) async fn look(vend: Arc<Vend>, limiters: Arc<Limiters>, mut suspects: mpsc::Receiver<Suspect>) {
    while let Some(Suspect { peer, address }) = suspects.recv().await {
        // Each may cost a look at the store and a record: no more for one address than it may fail at anything else.
        if limiters.too_many_failures(address) {
            continue;
        }
        let call_id = uuid::Builder::from_random_bytes(clock::random()).into_uuid().simple().to_string();
        let origin = Origin { method: "tls/handshake", peer_address: Some(address), call_id };
        if let Err(error) = vend.revoked_was_shown(&origin, &peer).await {
            tracing::warn!(%error, %address, serial = peer.serial, "a revoked certificate was shown, and could not be looked into");
        }
    }
    // All senders are gone: the service is going too, and a pass that ends would be taken for a fault.
    std::future::pending::<()>().await;
}
