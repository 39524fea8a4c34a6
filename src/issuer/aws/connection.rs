//! A way into AWS in use: clients, this service's own credentials and who they are there.

use std::{
    future::Future,
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use aws_config::SdkConfig;
use aws_sdk_sts::config::{BehaviorVersion, IdentityCache, Region, SharedCredentialsProvider, retry::RetryConfig, timeout::TimeoutConfig};
use aws_smithy_http_client::{
    Connector,
    proxy::ProxyConfig,
    tls::{Provider, rustls_provider::CryptoMode},
};
use tokio::{
    sync::{OnceCell, Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

use super::{
    config::{AwsConfig, AwsIdentity},
    failure::{Failed, Sent, failed},
    identity::{Ambient, Keyless, of_file},
};
use crate::{
    issuer::TokenSigner,
    model::error::{Error, Result},
};

/// Tries of one idempotent call, the first among them.
pub(super) const TRIES: u32 = 2;

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Signs this service's JWTs; replaced when a reload brings another.
pub(super) type Signer = ArcSwapOption<Arc<dyn TokenSigner>>;

/// A way into AWS in use.
pub struct Connection {
    pub(super) config: AwsConfig,
    pub(super) sts: aws_sdk_sts::Client,
    pub(super) iam: aws_sdk_iam::Client,
    /// What clients for other credentials are made from.
    sdk: SdkConfig,
    signer: Arc<Signer>,
    slots: Semaphore,
    caller: OnceCell<Caller>,
}

/// Who this service is there.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// Twelve digits.
    pub account: String,
    /// Whether it is itself a role's session, so that AWS bounds what it assumes to an hour.
    pub is_session: bool,
}

/// Connections that somebody holds. A reload that changes nothing of one finds it here, with its credentials and its sockets.
static OPEN: LazyLock<Mutex<Vec<Weak<Connection>>>> = LazyLock::new(Mutex::default);

impl Connection {
    /// The connection of a configuration: the one that is open already, or a new one. Asks nobody yet.
    pub fn of(config: AwsConfig) -> Arc<Self> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|held| held.strong_count() > 0);
        if let Some(held) = open.iter().filter_map(Weak::upgrade).find(|held| held.config == config) {
            return held;
        }
        let made = Arc::new(Self::new(config));
        open.push(Arc::downgrade(&made));
        made
    }

    fn new(config: AwsConfig) -> Self {
        let signer = Arc::new(Signer::empty());
        let bare = bare(&config);
        let credentials = match &config.identity {
            AwsIdentity::Ambient => SharedCredentialsProvider::new(Ambient::new(&bare)),
            AwsIdentity::WebIdentity { role_arn, audience, subject } => {
                let sts = aws_sdk_sts::Client::new(&bare);
                SharedCredentialsProvider::new(Keyless::new(sts, signer.clone(), role_arn.clone(), audience.clone(), subject.clone()))
            }
            AwsIdentity::CredentialsFile(file) => SharedCredentialsProvider::new(of_file(file)),
            AwsIdentity::Given(credentials) => credentials.clone(),
        };
        let sdk = bare.into_builder().credentials_provider(credentials).identity_cache(IdentityCache::lazy().build()).build();
        Self {
            sts: aws_sdk_sts::Client::new(&sdk),
            iam: aws_sdk_iam::Client::new(&sdk),
            slots: Semaphore::new(config.concurrency),
            caller: OnceCell::new(),
            config,
            sdk,
            signer,
        }
    }

    /// Who signs JWTs from now on.
    pub(super) fn sign_with(&self, signer: Option<&Arc<dyn TokenSigner>>) {
        self.signer.store(signer.map(|signer| Arc::new(signer.clone())));
    }

    /// Signs JWTs.
    pub(super) fn signer(&self) -> Result<Arc<dyn TokenSigner>> {
        signer_of(&self.signer)
    }

    /// The end of what begins now.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.config.timeout
    }

    /// A slot among those that may call at once. Waits half of the time at most: a call that begins with no time left would only leave open
    /// what became of it.
    pub(super) async fn slot(&self, deadline: Instant, asked: &str) -> Result<SemaphorePermit<'_>, Failed> {
        let waited = timeout_at(deadline - self.config.timeout / 2, self.slots.acquire()).await;
        waited.ok().and_then(std::result::Result::ok).ok_or_else(|| Failed::too_slow(asked, false))
    }

    /// Who this service is there. Asked once: credentials change, the identity behind them does not while the process runs.
    pub(super) async fn caller(&self, deadline: Instant) -> Result<&Caller, Failed> {
        let asked = "sts:GetCallerIdentity";
        self.caller
            .get_or_try_init(|| async {
                let sent = Sent::default();
                let call = self.sts.get_caller_identity().customize().interceptor(sent.clone()).send();
                let answer = within(deadline, asked, &sent, call).await?.map_err(|error| failed(&error, asked, &sent))?;
                let arn = answer.arn().unwrap_or_default();
                let account = answer.account().unwrap_or_default().to_owned();
                Ok(Caller { account, is_session: arn.contains(":assumed-role/") })
            })
            .await
    }

    /// What the caller is known to be without asking.
    pub(super) fn known_caller(&self) -> Option<&Caller> {
        self.caller.get()
    }

    /// A client of ECR that acts with a session's own credentials. It shares the sockets of all others.
    pub(super) fn ecr(&self, session: aws_sdk_sts::config::Credentials) -> aws_sdk_ecr::Client {
        let own = self.sdk.to_builder().credentials_provider(SharedCredentialsProvider::new(session));
        aws_sdk_ecr::Client::new(&own.identity_cache(IdentityCache::no_cache()).build())
    }
}

/// Waits for a call until the deadline.
pub(super) async fn within<T>(deadline: Instant, asked: &str, sent: &Sent, call: impl Future<Output = T>) -> Result<T, Failed> {
    timeout_at(deadline, call).await.map_err(|_| Failed::too_slow(asked, sent.happened()))
}

/// A configuration without credentials.
fn bare(config: &AwsConfig) -> SdkConfig {
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT.min(config.timeout)).operation_timeout(config.timeout);
    let client = aws_smithy_http_client::Builder::new().build_with_connector_fn(|settings, components| {
        let mut connector = Connector::builder();
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(aws_sdk_sts::config::RuntimeComponents::sleep_impl));
        connector.proxy_config(ProxyConfig::from_env()).tls_provider(Provider::Rustls(CryptoMode::AwsLc)).build()
    });
    let mut sdk = SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new(config.region.clone()))
        .http_client(client)
        .timeout_config(timeouts.build())
        .retry_config(RetryConfig::standard().with_max_attempts(TRIES));
    sdk.set_endpoint_url(config.endpoint.clone());
    sdk.build()
}

/// The signer of the moment.
pub(super) fn signer_of(signer: &Signer) -> Result<Arc<dyn TokenSigner>> {
    let held =
        signer.load_full().ok_or_else(|| Error::internal("a role or a way into AWS needs a JWT, and the configuration has no [oidc]"))?;
    Ok(Arc::clone(&held))
}
