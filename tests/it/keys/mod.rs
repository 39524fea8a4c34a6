//! The keys of the service: rings, sealing, CAs and signers that rotate.
