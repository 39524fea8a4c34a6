//! Daypass vends short-lived credentials: it authenticates a caller, decides by policy, mints, records, answers.
//!
//! # Code map
//!
//! | room | what it holds |
//! |---|---|
//! | [`model`] | the words: identity, role, request, credential, lease, event, error; pure |
//! | [`policy`] | `(policy, identity, request, now) -> Grant or Denial`; pure |
//! | [`authn`] | a certificate or a token becomes a proof of identity |
//! | [`issuer`] | one folder for each kind of credential |
//! | [`keys`] | the keys of the service: when they are published, sign and go; sealed where they lie |
//! | [`store`] | where leases live: embedded, redis |
//! | [`audit`] | the append-only record: write, chain, verify |
//! | [`vend`] | the heart: issue, renew, revoke; knows only the ports below it |
//! | [`background`] | the passes that run on a schedule and on a signal |
//! | [`server`] | configuration, wiring, TLS, gRPC and HTTP edges, telemetry |
//! | [`client`], [`cli`], [`agent`] | the other wing: what runs beside a job |
//! | [`unix`] | files and unix sockets, for both wings |
//! | [`clock`] | time and randomness, the only place that reads them |
//!
//! `ARCHITECTURE.md` has the walk of a request and the invariants; `tests/tidy.rs` holds what must never import what.

pub mod agent;
pub mod audit;
pub mod authn;
pub mod background;
pub mod cli;
pub mod client;
pub mod clock;
pub mod issuer;
pub mod keys;
pub mod model;
pub mod policy;
pub mod proto;
pub mod server;
pub mod store;
pub mod unix;
pub mod vend;
