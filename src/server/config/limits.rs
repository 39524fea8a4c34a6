//! `[server.limits]`: each with its default. `docs/limits.md` has them in words.

use std::time::Duration;

use serde::Deserialize;

use crate::{model::SignedDuration, vend::WatchLimits};

/// What one caller, one connection and one message may take.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The largest gRPC message that is read, in bytes.
    pub message_bytes: usize,
    /// The largest list of request headers, in bytes.
    pub header_bytes: u32,
    /// Requests in flight on one connection; more wait at the client (RFC 9113 section 5.1.2).
    pub streams_per_connection: u32,
    /// Streams that a client may reset before they were accepted; more end the connection.
    pub pending_resets: usize,
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
    /// TLS handshakes at once.
    pub handshakes: usize,
    /// Connections of one address (of one /64 of IPv6) at once; more are closed.
    pub connections_per_address: usize,
    /// TLS handshakes of one address at once; more wait, and hold up nobody else.
    pub handshakes_per_address: usize,
    /// HTTP connections of one address (of one /64 of IPv6) at once, at each of the HTTP ports; more are closed.
    pub http_connections_per_address: usize,
    /// How long a TLS handshake may take.
    pub handshake_timeout: SignedDuration,
    /// How long a connection may live; after that it is closed gracefully.
    pub connection_age: SignedDuration,
    /// How long a unary request may take.
    pub request_timeout: SignedDuration,
    /// Requests of one caller for each second, on average.
    pub requests_per_caller_per_second: u32,
    /// Requests of one caller at once, above the average.
    pub request_burst_per_caller: u32,
    /// Failed authentications from one address for each minute; more are refused without a record.
    pub failed_logins_per_address_per_minute: u32,
    /// Exchanges of one registry lease's secret for tokens for each minute, on average and at once.
    pub registry_exchanges_per_lease_per_minute: u32,
    /// Streams of watched leases at once.
    pub watches: usize,
    /// Those of one caller.
    pub watches_per_caller: usize,
    /// Streams of the trust bundle at once; more are refused.
    pub bundle_watches: usize,
    /// Streams of the trust bundle of one address (of one /64 of IPv6) at once; more are refused.
    pub bundle_watches_per_address: usize,
    /// How long a shutdown waits for what is in flight.
    pub drain_timeout: SignedDuration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 64 * 1024,
            header_bytes: 32 * 1024,
            streams_per_connection: 1_024,
            pending_resets: 20,
            connections: 10_000,
            handshakes: 256,
            connections_per_address: 2_000,
            handshakes_per_address: 64,
            http_connections_per_address: 256,
            handshake_timeout: SignedDuration::from_secs(5),
            connection_age: SignedDuration::from_hours(1),
            request_timeout: SignedDuration::from_secs(10),
            requests_per_caller_per_second: 1_000,
            request_burst_per_caller: 2_000,
            failed_logins_per_address_per_minute: 600,
            registry_exchanges_per_lease_per_minute: 600,
            watches: WatchLimits::default().total,
            watches_per_caller: WatchLimits::default().per_caller,
            bundle_watches: 100_000,
            bundle_watches_per_address: 1_000,
            drain_timeout: SignedDuration::from_secs(20),
        }
    }
}

impl Limits {
    /// What bounds the streams of watched leases.
    pub(in crate::server) fn of_watches(&self) -> WatchLimits {
        WatchLimits { total: self.watches, per_caller: self.watches_per_caller, age: self.connection_age }
    }

    /// What is out of bounds, in words.
    pub(super) fn faults(&self) -> Vec<String> {
        let counts = [
            ("message_bytes", self.message_bytes as u64, 1024, 4 * 1024 * 1024),
            ("header_bytes", u64::from(self.header_bytes), 4096, 1024 * 1024),
            ("streams_per_connection", u64::from(self.streams_per_connection), 1, 10_000),
            ("pending_resets", self.pending_resets as u64, 1, 1000),
            ("connections", self.connections as u64, 1, 1_000_000),
            ("handshakes", self.handshakes as u64, 1, 100_000),
            ("connections_per_address", self.connections_per_address as u64, 1, 1_000_000),
            ("handshakes_per_address", self.handshakes_per_address as u64, 1, 100_000),
            ("http_connections_per_address", self.http_connections_per_address as u64, 1, 1024),
            ("watches", self.watches as u64, 1, 1_000_000),
            ("watches_per_caller", self.watches_per_caller as u64, 1, 1_000_000),
            ("requests_per_caller_per_second", u64::from(self.requests_per_caller_per_second), 1, 1_000_000),
            ("request_burst_per_caller", u64::from(self.request_burst_per_caller), 1, 1_000_000),
            ("failed_logins_per_address_per_minute", u64::from(self.failed_logins_per_address_per_minute), 1, 1_000_000),
            ("registry_exchanges_per_lease_per_minute", u64::from(self.registry_exchanges_per_lease_per_minute), 1, 1_000_000),
            ("bundle_watches", self.bundle_watches as u64, 1, 1_000_000),
            ("bundle_watches_per_address", self.bundle_watches_per_address as u64, 1, 1_000_000),
        ];
        let spans = [
            ("handshake_timeout", self.handshake_timeout, 1, 60),
            ("connection_age", self.connection_age, 10, 7 * 24 * 3600),
            ("request_timeout", self.request_timeout, 1, 60),
            ("drain_timeout", self.drain_timeout, 1, 600),
        ];
        let off = |name: &str, low: u64, high: u64, unit: &str| format!("limits.{name} must be {low} to {high}{unit}");
        let counts =
            counts.into_iter().filter(|(_, n, low, high)| n < low || n > high).map(|(name, _, low, high)| off(name, low, high, ""));
        let spans = spans
            .into_iter()
            .filter(|(_, span, low, high)| span.as_secs() < *low || span.as_secs() > *high)
            .map(|(name, _, low, high)| format!("limits.{name} must be {low} to {high} seconds"));
        counts.chain(spans).collect()
    }
}

/// A span that was checked to be positive, for tokio and tonic.
pub(crate) fn std_duration(span: SignedDuration) -> Duration {
    span.try_into().unwrap_or(Duration::ZERO)
}
