//! GitHub Actions: the runner gives a job's step a URL and a token of its own, and for those an ID token.

use std::{sync::Arc, time::Duration};

use reqwest::{Client, StatusCode, redirect};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use url::{Host, Url};
use zeroize::Zeroizing;

use crate::client::{
    error::{Error, Kind, Result},
    fingerprint::Fingerprint,
    settings::{Env, variable},
    token::{identity_unavailable, no_identity},
};
use crate::model::secret::Secret;

/// How long one request may take.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest answer that is read, in bytes.
pub const MAX_ANSWER: usize = 64 * 1024;

const URL: &str = "ACTIONS_ID_TOKEN_REQUEST_URL";
const TOKEN: &str = "ACTIONS_ID_TOKEN_REQUEST_TOKEN";

/// What the job must say to have them.
const PERMISSION: &str = "give the workflow or the job `permissions: id-token: write` (a pull request from a fork cannot have it)";

/// What a job's step may ask its runner for.
pub struct TokenRequest {
    url: Url,
    token: Secret,
}

/// The runner's answer.
#[derive(Deserialize)]
struct Answer {
    value: String,
}

impl TokenRequest {
    /// By the environment of a step. The URL is taken as the runner gives it, when it is https: the runner's token goes there. Without TLS
    /// it stays on this machine.
    pub fn from_env(audience: &str, env: Env<'_>) -> Result<Self> {
        let text = |name| variable(name, env).and_then(|value| value.into_string().ok());
        let (Some(url), Some(token)) = (text(URL), text(TOKEN)) else {
            return Err(no_identity(format!("this GitHub Actions job may not ask for its identity: {PERMISSION}")));
        };
        let url =
            Url::parse(&url).ok().filter(|url| url.has_host() && (url.scheme() == "https" || url.scheme() == "http" && is_loopback(url)));
        let mut url = url.ok_or_else(|| no_identity(format!("{URL} is no https URL: it must be as the runner set it")))?;
        // The URL holds a query already; this goes behind it.
        url.query_pairs_mut().append_pair("audience", audience);
        Ok(Self { url, token: Secret::new(token) })
    }

    /// The runner's token is the job's own, and the URL says the audience.
    pub fn caller(&self) -> String {
        Fingerprint::of("daypass caller github").field(self.url.as_str()).field(self.token.expose()).hex()
    }

    /// Asks for an ID token: once, without following a redirect. The client repeats a call whose token could not be had.
    pub async fn send(&self) -> Result<Zeroizing<String>> {
        let bearer = Zeroizing::new(format!("Bearer {}", self.token.expose()));
        let mut bearer =
            reqwest::header::HeaderValue::from_str(&bearer).map_err(|_| no_identity(format!("{TOKEN} is not as the runner set it")))?;
        bearer.set_sensitive(true);
        let request = client()?.get(self.url.clone()).header("authorization", bearer).header("accept", "application/json");
        let mut response = request.send().await.map_err(|fault| unreachable(&fault))?;
        refuse(response.status())?;
        // Room for all of it at once: text that grows would leave copies behind.
        let mut body = Zeroizing::new(Vec::with_capacity(MAX_ANSWER));
        while let Some(chunk) = response.chunk().await.map_err(|fault| unreachable(&fault))? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(no_identity(format!("GitHub's answer is longer than {MAX_ANSWER} bytes: is {URL} as the runner set it?")));
            }
            body.extend_from_slice(&chunk);
        }
        match serde_json::from_slice::<Answer>(&body) {
            Ok(Answer { value }) if !value.is_empty() => Ok(Zeroizing::new(value)),
            _ => Err(no_identity(format!("GitHub's answer holds no token: is {URL} as the runner set it?"))),
        }
    }
}

/// Whether a URL's host is this machine.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// What a status means for the job.
fn refuse(status: StatusCode) -> Result<()> {
    let number = status.as_u16();
    match status {
        StatusCode::OK => Ok(()),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
            Err(identity_unavailable(format!("GitHub gives no ID token now (status {number}); try again")))
        }
        _ if status.is_server_error() => Err(identity_unavailable(format!("GitHub gives no ID token now (status {number}); try again"))),
        _ if status.is_redirection() => {
            Err(no_identity(format!("GitHub's ID token endpoint redirects (status {number}), which is not followed")))
        }
        _ => Err(no_identity(format!("GitHub refuses this job an ID token (status {number}): {PERMISSION}"))),
    }
}

fn unreachable(fault: &reqwest::Error) -> Error {
    let why = if fault.is_timeout() {
        format!("does not answer within {} s", REQUEST_TIMEOUT.as_secs())
    } else if fault.is_connect() {
        "cannot be reached".to_owned()
    } else {
        "broke off its answer".to_owned()
    };
    identity_unavailable(format!("GitHub's ID token endpoint {why}; try again"))
}

fn client() -> Result<Client> {
    let fault = |why: String| Error::new(Kind::Other, "TLS", format!("no HTTPS for GitHub's ID token endpoint: {why}"));
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|why| fault(why.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(redirect::Policy::none())
        .timeout(REQUEST_TIMEOUT)
        .user_agent(concat!("daypass/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|why| fault(why.without_url().to_string()))
}
