//! Logs and metrics.

mod timed;

use std::io::IsTerminal;

use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

pub(super) use timed::{TimedLog, TimedStore};

use super::config::LogFormat;
use crate::model::error::{Error, Result};

/// Bounds of latency histograms, in seconds.
const SECONDS: [f64; 13] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Libraries of the AWS SDK that log what they sign and are answered: below warnings that is keys, session tokens and noise, so no filter
/// opens them.
const QUIET: [&str; 11] = [
    "aws_config",
    "aws_credential_types",
    "aws_runtime",
    "aws_sdk_ecr",
    "aws_sdk_iam",
    "aws_sdk_sts",
    "aws_sigv4",
    "aws_smithy_http_client",
    "aws_smithy_runtime",
    "aws_smithy_runtime_api",
    "aws_smithy_types",
];

/// Starts the log on stderr. Called once for each process.
pub(super) fn start_log(format: LogFormat, filter: &str) -> Result<()> {
    let mut filter = EnvFilter::try_new(filter).map_err(|error| Error::internal(format_args!("log.filter: {error}")))?;
    for library in QUIET {
        let directive = format!("{library}=warn").parse().map_err(Error::internal)?;
        filter = filter.add_directive(directive);
    }
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.compact().with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    started.map_err(Error::internal)
}

/// Installs the recorder of metrics.
pub(super) fn start_metrics() -> Result<PrometheusHandle> {
    let recorder = PrometheusBuilder::new().set_buckets(&SECONDS).map_err(|error: BuildError| Error::internal(error))?;
    let handle = recorder.install_recorder().map_err(Error::internal)?;
    describe();
    Ok(handle)
}

fn describe() {
    metrics::describe_counter!("daypass_requests_total", "Requests, gRPC and exchanges of registries, by method and outcome");
    metrics::describe_histogram!("daypass_request_seconds", "How long a request took, by method");
    metrics::describe_histogram!("daypass_step_seconds", "How long a step of a request took: each call of the store and of the audit log");
    metrics::describe_counter!("daypass_handshakes_total", "TLS handshakes, by outcome");
    metrics::describe_counter!("daypass_accept_errors_total", "Connections that could not be accepted");
    metrics::describe_counter!("daypass_connections_cut_total", "Live connections ended because their client is no longer trusted");
    metrics::describe_counter!(
        "daypass_suspects_dropped_total",
        "Handshakes with a revoked certificate that were not looked into for clones"
    );
    metrics::describe_gauge!("daypass_live_leases", "Leases that are pending, active or revoking");
    metrics::describe_gauge!("daypass_sweep_lag_seconds", "How late the sweep is: the age of the oldest lease that is due");
    metrics::describe_counter!("daypass_swept_total", "Leases that the sweep took off, by what became of them");
    metrics::describe_gauge!("daypass_watches", "Streams of watched leases at this server");
    metrics::describe_gauge!("daypass_rotation_lag_seconds", "How late the rotation is: how long ago the oldest one that waits was due");
    metrics::describe_counter!("daypass_rotations_total", "Rotations of watched leases, by outcome");
    metrics::describe_counter!("daypass_clones_total", "Older generations that were shown than had been acknowledged, by role");
    metrics::describe_gauge!("daypass_open_leases", "Leases of failed calls that wait to be closed");
    metrics::describe_gauge!("daypass_audit_waiting", "Events that wait to become durable");
    metrics::describe_gauge!("daypass_audit_lag_seconds", "How long the oldest of them has waited");
    metrics::describe_gauge!("daypass_audit_up", "1 when the audit log can be written, else 0");
    metrics::describe_gauge!("daypass_jwks_age_seconds", "Age of an issuer's keys; absent until they were fetched");
    metrics::describe_gauge!("daypass_crl_number", "Number of the CRL as published, by CA");
    metrics::describe_gauge!("daypass_keys_up", "By ring: 1 when its keys can be read and kept and one of them signs, else 0");
    metrics::describe_gauge!("daypass_keys", "Keys of the service, by ring and state (prepared, active, retired)");
    metrics::describe_gauge!(
        "daypass_deny_list_up",
        "1 when the IAM role denies what was revoked, 0 when that could not be read or written"
    );
    metrics::describe_gauge!("daypass_config_in_force", "1 when the configuration on disk is in force, 0 when a reload was refused");
}
