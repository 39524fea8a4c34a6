//! The server, and who the agent is there: read anew for each connection, because identities change under a running agent.

use std::{env, ffi::OsString, sync::Arc};

use tokio::sync::{Notify, watch};

use super::{
    config::{Config, IdentityWay, ServerConfig},
    identity::{Identity, IdentityDir},
    keeper::Connect,
};
use crate::client::{
    Client,
    ci::{self, GITLAB_VARIABLE, KUBERNETES_FILE_VARIABLE},
    error::Result,
    settings::{ClientCertificate, Roots, Settings, Source},
    token::TokenSource,
};

/// Makes clients of the server.
pub struct Server {
    config: ServerConfig,
    way: IdentityWay,
    enrolled: Option<watch::Receiver<Arc<Identity>>>,
    doubts: Option<Arc<Notify>>,
}

/// The identity that the agent enrolled for, where it lies and as it becomes.
pub struct Enrolled {
    /// Where it lies.
    pub dir: IdentityDir,
    /// Whoever renews it puts the next one here.
    pub current: watch::Sender<Arc<Identity>>,
    /// Who has reason to think that it is not in force any more says so here.
    pub doubts: Arc<Notify>,
}

impl Enrolled {
    /// The identity in the state directory; none when the agent has another way.
    ///
    /// # Errors
    /// `NO_IDENTITY` when there is none; `FILE` when it cannot be read.
    pub fn load(config: &Config) -> Result<Option<Self>> {
        if config.identity != IdentityWay::Enrolled {
            return Ok(None);
        }
        let dir = IdentityDir::open(&config.state_dir)?;
        let current = watch::Sender::new(Arc::new(dir.load()?));
        Ok(Some(Self { dir, current, doubts: Arc::default() }))
    }
}

impl Server {
    /// By the configuration; nothing is read yet.
    pub fn new(config: &Config, enrolled: Option<&Enrolled>) -> Self {
        let (current, doubts) = enrolled.map(|found| (found.current.subscribe(), found.doubts.clone())).unzip();
        Self { config: config.server.clone(), way: config.identity.clone(), enrolled: current, doubts }
    }

    /// Whom to trust for it.
    ///
    /// # Errors
    /// Usage, when the file cannot be read or holds no certificate.
    pub fn roots(&self) -> Result<Roots> {
        match &self.config.ca {
            None => Ok(Roots::System),
            Some(path) => {
                let source = Source { name: "server.ca", path: path.clone() };
                Ok(Roots::Only { certificates: source.certificates()?, source: source.to_string() })
            }
        }
    }

    /// What a connection needs, as it is now.
    ///
    /// # Errors
    /// As the files that are read.
    pub fn settings(&self) -> Result<Settings> {
        let mut settings = Settings {
            address: self.config.address.clone(),
            roots: self.roots()?,
            identity: None,
            token: None,
            timeout: self.config.timeout,
            found_identity: None,
            warnings: Vec::new(),
        };
        match &self.way {
            IdentityWay::Enrolled => {
                let current = self.enrolled.as_ref().map(|current| current.borrow().clone());
                settings.identity = current.map(|current| current.certificate()).transpose()?;
            }
            IdentityWay::Certificate { certificate, key } => {
                let certificate = Source { name: "identity.certificate", path: certificate.clone() };
                let key = Source { name: "identity.key", path: key.clone() };
                settings.warnings.extend(key.warn_if_readable_by_others());
                settings.identity = Some(ClientCertificate { chain: certificate.certificates()?, key: key.private_key()? });
            }
            IdentityWay::TokenFile(path) => {
                settings.token = Some(TokenSource::file(format!("identity.token_file ({})", path.display()), path.clone())?);
            }
            IdentityWay::Platform { platform, audience } => settings.token = ci::find(*platform, audience, &of_the_platform)?,
        }
        Ok(settings)
    }
}

impl Connect for Server {
    fn client(&self) -> Result<Client> {
        Client::new(self.settings()?)
    }

    fn identity(&self) -> Option<watch::Receiver<Arc<Identity>>> {
        self.enrolled.clone()
    }

    fn was_refused(&self) {
        if let Some(doubts) = &self.doubts {
            doubts.notify_one();
        }
    }
}

/// The environment without what is meant for the command line: the agent's configuration says who it is.
fn of_the_platform(name: &str) -> Option<OsString> {
    let is_ours = name.starts_with("DAYPASS_") && name != GITLAB_VARIABLE && name != KUBERNETES_FILE_VARIABLE;
    if is_ours { None } else { env::var_os(name) }
}
