//! Envoy: mutual TLS with a certificate and roots that it takes by SDS over a unix socket.

use std::{collections::BTreeMap, path::Path, process::Command, time::Duration};

use serde_json::{Value, json};

use super::{
    nginx::curl,
    server::{Server, http_status},
    tool, wait_until,
};

/// What every request is answered with.
pub const HELLO: &str = "hello from envoy\n";

/// A running Envoy; it ends with this value.
#[derive(Debug)]
pub struct Envoy {
    /// On its admin port.
    server: Server,
}

/// The names of the secrets that it asks for.
#[derive(Debug, Clone, Copy)]
pub struct Secrets<'a> {
    /// Its own certificate and key.
    pub certificate: &'a str,
    /// The roots of its clients.
    pub roots: &'a str,
}

impl Envoy {
    /// Starts it. It takes its secrets from an SDS server at a unix socket, which need not answer yet: see
    /// [`Self::wait_until_it_serves`].
    pub fn start(sds: &Path, secrets: Secrets<'_>) -> Self {
        let config = |admin| configuration(admin, sds, secrets).to_string();
        let command = |admin, folder: &Path| {
            let mut command = Command::new(tool("envoy"));
            command.env_clear().env("PATH", "/usr/bin:/bin");
            command.args(["--config-yaml", &config(admin)]);
            // Shared memory of its own, one worker, and no second process.
            command.args(["--use-dynamic-base-id", "--concurrency", "1", "--disable-hot-restart", "--log-level", "info"]);
            command.current_dir(folder);
            command
        };
        Self { server: Server::start("Envoy", command, |admin| http_status(admin, "/server_info") == Some(200)) }
    }

    /// Waits until both secrets are there and the TLS port is open; the port.
    pub fn wait_until_it_serves(&self, patience: Duration) -> u16 {
        wait_until(patience, "Envoy has its secrets and serves", || {
            let ready = self.admin("/ready").is_some() && self.has_secrets();
            ready.then(|| self.listener_port()).flatten()
        })
    }

    /// The version (`version_info`) of a secret in service; none while it is not there.
    pub fn secret_version(&self, name: &str) -> Option<String> {
        Some(self.secret(name)?["version_info"].as_str().unwrap_or_default().to_owned())
    }

    /// A secret in service as Envoy shows it: a key is blotted out, a certificate is not.
    pub fn secret(&self, name: &str) -> Option<Value> {
        self.secrets("dynamic_active_secrets").into_iter().find(|secret| secret["name"] == name)
    }

    /// A counter or gauge by its full name, as `/stats` has it; 0 when there is none.
    ///
    /// `sds.<secret>.update_success`, `sds.<secret>.update_rejected` (a NACK), `sds.<secret>.update_attempt`.
    pub fn stat(&self, name: &str) -> u64 {
        self.stats(name).get(name).copied().unwrap_or(0)
    }

    /// The counters and gauges whose names contain a text.
    pub fn stats(&self, text: &str) -> BTreeMap<String, u64> {
        let all = self.admin("/stats").unwrap_or_default();
        let lines = all.lines().filter(|line| line.contains(text)).filter_map(|line| line.split_once(": "));
        lines.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
    }

    fn has_secrets(&self) -> bool {
        self.secrets("dynamic_warming_secrets").is_empty() && self.secrets("dynamic_active_secrets").len() == 2
    }

    fn secrets(&self, resource: &str) -> Vec<Value> {
        let Some(text) = self.admin(&format!("/config_dump?resource={resource}")) else { return Vec::new() };
        let dump: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        dump["configs"].as_array().cloned().unwrap_or_default()
    }

    fn listener_port(&self) -> Option<u16> {
        let listeners: Value = serde_json::from_str(&self.admin("/listeners?format=json")?).expect("JSON");
        let port = listeners["listener_statuses"][0]["local_address"]["socket_address"]["port_value"].as_u64()?;
        u16::try_from(port).ok().filter(|port| *port != 0)
    }

    /// What the admin port answers; none unless it is a 200.
    fn admin(&self, path: &str) -> Option<String> {
        let ran = curl(&["--fail", &format!("http://127.0.0.1:{}{path}", self.server.port())]);
        ran.ok.then(|| ran.text())
    }
}

fn configuration(admin: u16, sds: &Path, secrets: Secrets<'_>) -> Value {
    let address = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    // Its own stream for each secret, as Envoy does it.
    let source = json!({
        "resource_api_version": "V3",
        "api_config_source": {
            "api_type": "GRPC", "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "sds"}}],
        },
    });
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": true,
        // Every handshake shows the certificate in service.
        "disable_stateless_session_resumption": true,
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [{"name": secrets.certificate, "sds_config": source}],
            "validation_context_sds_secret_config": {"name": secrets.roots, "sds_config": source},
        },
    });
    let http = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "http_filters": [{
            "name": "router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }],
        "route_config": {"virtual_hosts": [{
            "name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": HELLO}}}],
        }]},
    });
    json!({
        "node": {"id": "envoy", "cluster": "test"},
        "admin": {"address": address(admin)},
        "static_resources": {
            // The system picks the port: nobody can be quicker.
            "listeners": [{
                "name": "tls", "address": address(0),
                "filter_chains": [{
                    "transport_socket": {"name": "tls", "typed_config": tls},
                    "filters": [{"name": "http", "typed_config": http}],
                }],
            }],
            "clusters": [{
                "name": "sds", "connect_timeout": "1s",
                "typed_extension_protocol_options": {
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                        "explicit_http_config": {"http2_protocol_options": {}},
                    },
                },
                "load_assignment": {
                    "cluster_name": "sds",
                    "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": sds}}}}]}],
                },
            }],
        },
    })
}
