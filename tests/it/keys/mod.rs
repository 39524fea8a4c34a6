//! The keys of the service: rings, sealing, CAs and signers that rotate.

mod ca_handshakes;
mod ca_leases;
mod ca_server;
mod ca_world;
