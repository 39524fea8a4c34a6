//! This service's own credentials.

use aws_config::{
    SdkConfig, default_provider::credentials::DefaultCredentialsChain, profile::ProfileFileCredentialsProvider,
    provider_config::ProviderConfig,
};
use aws_credential_types::provider::{self, error::CredentialsError, future};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_sts::config::{Credentials, ProvideCredentials};
use std::{fmt, path::Path, sync::Arc};
use tokio::sync::OnceCell;

use super::{
    connection::{Signer, signer_of},
    failure::{Sent, failed},
    plan::plain_claims,
    session::{JWT_LIFE, jwt_id},
};
use crate::clock::{Clock, SystemClock};

/// The name of this service's own sessions.
const SESSION_NAME: &str = "daypass";

/// What the SDK finds: environment, profile, web identity file, container, instance. It is looked for when it is needed first.
pub(super) struct Ambient {
    config: ProviderConfig,
    chain: OnceCell<DefaultCredentialsChain>,
}

impl Ambient {
    pub fn new(sdk: &SdkConfig) -> Self {
        let mut config = ProviderConfig::without_region().with_region(sdk.region().cloned());
        if let Some(client) = sdk.http_client() {
            config = config.with_http_client(client);
        }
        Self { config, chain: OnceCell::new() }
    }

    async fn find(&self) -> provider::Result {
        let chain = self.chain.get_or_init(|| DefaultCredentialsChain::builder().configure(self.config.clone()).build()).await;
        chain.provide_credentials().await
    }
}

impl ProvideCredentials for Ambient {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.find())
    }
}

impl fmt::Debug for Ambient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ambient")
    }
}

/// The profile `default` of a file, read when it is needed.
pub(super) fn of_file(file: &Path) -> ProfileFileCredentialsProvider {
    let files = EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, file).build();
    ProfileFileCredentialsProvider::builder().profile_files(files).profile_name("default").build()
}

/// A role that is assumed with a JWT that this service signs about itself.
pub(super) struct Keyless {
    sts: aws_sdk_sts::Client,
    signer: Arc<Signer>,
    role_arn: String,
    audience: String,
    subject: String,
}

impl Keyless {
    pub fn new(sts: aws_sdk_sts::Client, signer: Arc<Signer>, role_arn: String, audience: String, subject: String) -> Self {
        Self { sts, signer, role_arn, audience, subject }
    }

    async fn assume(&self) -> provider::Result {
        let now = SystemClock.now();
        let times = (now.as_second(), now.as_second() + JWT_LIFE.as_secs());
        let claims = plain_claims(&self.audience, &self.subject, times, &jwt_id());
        let token = signer_of(&self.signer).and_then(|signer| signer.sign(claims, now)).map_err(CredentialsError::invalid_configuration)?;
        let (asked, sent) = ("sts:AssumeRoleWithWebIdentity", Sent::default());
        let call = self.sts.assume_role_with_web_identity().role_arn(&self.role_arn).role_session_name(SESSION_NAME);
        let call = call.web_identity_token(token.expose()).customize().interceptor(sent.clone()).send();
        // By its name alone: what AWS says besides may hold anything.
        let named = |error| CredentialsError::provider_error(failed(&error, asked, &sent).error);
        let answer = call.await.map_err(named)?;
        let made = answer.credentials().ok_or_else(|| CredentialsError::unhandled("the answer holds no credentials"))?;
        let expiry = (*made.expiration()).try_into().map_err(CredentialsError::unhandled)?;
        Ok(Credentials::builder()
            .access_key_id(made.access_key_id())
            .secret_access_key(made.secret_access_key())
            .session_token(made.session_token())
            .expiry(expiry)
            .provider_name("daypass")
            .build())
    }
}

impl ProvideCredentials for Keyless {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.assume())
    }
}

impl fmt::Debug for Keyless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyless({})", self.role_arn)
    }
}
