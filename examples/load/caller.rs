//! The caller: its TLS, its connections, its credentials, and one request.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use daypass::{
    client::csr,
    proto::v1::{self, credential_service_client::CredentialServiceClient, issue_request::Input},
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use tokio_rustls::TlsConnector;
use tonic::{Request, metadata::AsciiMetadataValue, transport::Channel};

use super::{
    Result,
    dial::{connector, dial},
    world::World,
};

/// The role that is asked for unless another one is named.
pub const ROLE: &str = "web";

/// As whom requests come.
pub enum Who {
    /// With the operator's client certificate.
    Operator,
    /// With tokens, each used once, and no certificate.
    Job(Vec<String>),
}

/// Makes connections and requests.
pub struct Caller {
    address: SocketAddr,
    tls: TlsConnector,
    tokens: Option<Tokens>,
    role: String,
    token_endpoint: String,
    http: reqwest::Client,
}

/// What a registry's client logs in with.
pub struct Login {
    username: String,
    secret: String,
}

struct Tokens {
    all: Vec<AsciiMetadataValue>,
    used: AtomicUsize,
}

/// One worker's unchanging part of a request.
pub struct Ask {
    csr_der: Vec<u8>,
}

impl Ask {
    /// With a key pair and a CSR of its own.
    pub fn new() -> Result<Self> {
        let (_key, csr) = csr::make().map_err(|error| error.to_string())?;
        Ok(Self { csr_der: csr.der().to_vec() })
    }
}

impl Caller {
    /// A caller of this world's server.
    pub fn new(world: &World, who: Who, role: &str) -> Result<Self> {
        let (with_certificate, tokens) = match who {
            Who::Operator => (true, None),
            Who::Job(tokens) => {
                let all = tokens.into_iter().map(AsciiMetadataValue::try_from).collect::<std::result::Result<_, _>>()?;
                (false, Some(Tokens { all, used: AtomicUsize::new(0) }))
            }
        };
        let tls = connector(world.dir(), with_certificate)?;
        let token_endpoint = format!("http://{}/token?service=registry.dev.daypass.test&scope=repository:demo/app:pull,push", world.http);
        let http = reqwest::Client::builder().tls_backend_preconfigured(tls_of_nobody()).build()?;
        Ok(Self { address: world.grpc, tls, tokens, role: role.to_owned(), token_endpoint, http })
    }

    /// The operator, for what only it may do.
    pub fn operator(world: &World) -> Result<Self> {
        Self::new(world, Who::Operator, ROLE)
    }

    /// A new connection.
    pub async fn connect(&self) -> Result<Channel> {
        dial(&self.tls, self.address).await
    }

    /// A lease of role `push`.
    pub async fn log_in(&self, client: &mut CredentialServiceClient<Channel>) -> Result<Login> {
        let request = v1::IssueRequest { role: "push".to_owned(), ..Default::default() };
        let answer = client.issue(Request::new(request)).await?.into_inner();
        match answer.credential.and_then(|credential| credential.kind) {
            Some(v1::credential::Kind::Registry(v1::RegistryCredential { username, secret, .. })) => Ok(Login { username, secret }),
            _ => Err("an answer without a registry's credential".into()),
        }
    }

    /// One token for a registry.
    pub async fn exchange(&self, login: &Login) -> Result<bool> {
        let asked = self.http.get(&self.token_endpoint).basic_auth(&login.username, Some(&login.secret));
        let answer = asked.send().await?.error_for_status()?.text().await?;
        if answer.contains("\"token\":") { Ok(true) } else { Err("an answer without a token".into()) }
    }

    /// One credential; false when there is no token left to ask with.
    pub async fn issue(&self, client: &mut CredentialServiceClient<Channel>, ask: &Ask) -> Result<bool> {
        let input = Some(Input::X509(v1::X509Input { csr_der: ask.csr_der.clone() }));
        let mut request = Request::new(v1::IssueRequest { role: self.role.clone(), ttl: None, request_id: String::new(), input });
        if let Some(tokens) = &self.tokens {
            let Some(token) = tokens.all.get(tokens.used.fetch_add(1, Ordering::Relaxed)) else { return Ok(false) };
            request.metadata_mut().insert("authorization", token.clone());
        }
        let answer = client.issue(request).await?.into_inner();
        match answer.credential.and_then(|credential| credential.kind) {
            Some(v1::credential::Kind::X509(credential)) if credential.chain_der.is_empty() => {
                Err("an answer without a certificate".into())
            }
            Some(_) => Ok(true),
            None => Err("an answer without a credential".into()),
        }
    }
}

/// The token endpoint is plain HTTP here; a client wants to know whom it would trust all the same.
fn tls_of_nobody() -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    builder.expect("the provider has TLS 1.2 and 1.3").with_root_certificates(RootCertStore::empty()).with_no_client_auth()
}
