//! What `registry login` remembers: which role is for which registry, and where the server is. No secret.

use std::{collections::BTreeMap, ffi::OsString, fs, io, path::PathBuf};

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::{
    cli::cache::{Order, Wanted, user_dir},
    client::{
        error::{Error, Kind, Result},
        settings::{Env, Flags, plain, read_bounded, variable},
    },
    unix::files,
};

const FILE: &str = "registries.json";

/// The settings that are remembered. `DAYPASS_TOKEN` is a secret, and is not.
const REMEMBERED: [&str; 7] =
    ["DAYPASS_ADDR", "DAYPASS_CA", "DAYPASS_CERT", "DAYPASS_KEY", "DAYPASS_TOKEN_FILE", "DAYPASS_IDENTITY", "DAYPASS_AUDIENCE"];

/// Those that name a file.
const FILES: [&str; 4] = ["DAYPASS_CA", "DAYPASS_CERT", "DAYPASS_KEY", "DAYPASS_TOKEN_FILE"];

/// All registries of `registry login`.
#[derive(Debug)]
pub struct Registries {
    path: PathBuf,
    known: BTreeMap<String, Known>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    role: String,
    /// The registry that the role was for; it may be known by another name here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    registry: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttl_seconds: Option<u32>,
    /// By the names of the environment's variables.
    #[serde(default)]
    settings: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct Content<K> {
    registries: K,
}

impl Known {
    /// What a login with these flags, in this environment, has to remember.
    ///
    /// # Errors
    /// Usage, when a path is not UTF-8.
    pub fn new(role: &str, ttl: Option<SignedDuration>, flags: &Flags, env: Env<'_>) -> Result<Self> {
        let Flags { addr, ca, cert, key, token_file, identity, token_audience, timeout: _ } = flags;
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.clone().into_os_string());
        let by_flag = [
            addr.clone().map(OsString::from),
            path(ca),
            path(cert),
            path(key),
            path(token_file),
            identity.map(|identity| identity.as_str().into()),
            token_audience.clone().map(OsString::from),
        ];
        let mut settings = BTreeMap::new();
        for (name, flag) in REMEMBERED.into_iter().zip(by_flag) {
            let Some(value) = flag.or_else(|| variable(name, env)) else { continue };
            let value = if FILES.contains(&name) { std::path::absolute(value).unwrap_or_default().into_os_string() } else { value };
            let text = value.into_string().map_err(|_| Error::usage(format!("{name} is not UTF-8, and cannot be remembered")))?;
            settings.insert(name.to_owned(), text);
        }
        let ttl_seconds = ttl.and_then(|ttl| u32::try_from(ttl.as_secs()).ok());
        Ok(Self { role: role.to_owned(), registry: None, ttl_seconds, settings })
    }

    /// With the registry that the role's credentials are for.
    pub fn at(self, registry: String) -> Self {
        Self { registry: Some(registry), ..self }
    }

    /// The registry whose credentials `host` may see: what the login saw, or else the host itself.
    pub fn registry<'a>(&'a self, host: &'a str) -> &'a str {
        self.registry.as_deref().unwrap_or(host)
    }

    /// The role.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// What to ask the cache for.
    pub fn order(&self) -> Order {
        let ttl = self.ttl_seconds.map(|seconds| SignedDuration::from_secs(seconds.into()));
        Order { role: self.role.clone(), ttl, wanted: Wanted::Registry }
    }

    /// The environment; where it names no server, with what the login remembered over it.
    pub fn env<'a>(&'a self, env: Env<'a>) -> impl Fn(&str) -> Option<OsString> + 'a {
        let by_memory = variable("DAYPASS_ADDR", env).is_none();
        move |name| {
            let remembered = self.settings.get(name).filter(|_| by_memory && REMEMBERED.contains(&name));
            remembered.map(OsString::from).or_else(|| env(name))
        }
    }
}

impl Registries {
    /// From `DAYPASS_CONFIG_DIR`, else `daypass` in `$XDG_CONFIG_HOME`, else `~/.config/daypass`.
    ///
    /// # Errors
    /// Usage, when the file is there and is not as this program writes it.
    pub fn read(env: Env<'_>) -> Result<Self> {
        let path = user_dir("DAYPASS_CONFIG_DIR", "XDG_CONFIG_HOME", ".config", env)?.join(FILE);
        let known = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            _ => {
                let text = read_bounded(&path).map_err(|why| Error::usage(format!("{} cannot be read: {why}", path.display())))?;
                let content: Content<_> = serde_json::from_slice(&text)
                    .map_err(|why| Error::usage(format!("{} is damaged ({why}): mend or remove it", path.display())))?;
                content.registries
            }
        };
        Ok(Self { path, known })
    }

    /// One registry, by `host[:port]`.
    pub fn get(&self, host: &str) -> Option<&Known> {
        self.known.get(host)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Known)> {
        self.known.iter()
    }

    /// The name of the only one.
    ///
    /// # Errors
    /// Usage, when there is another number of them.
    pub fn only(&self) -> Result<String> {
        let names: Vec<_> = self.known.keys().cloned().collect();
        match names.as_slice() {
            [name] => Ok(name.clone()),
            [] => Err(Error::new(Kind::NotFound, "REGISTRY_NOT_FOUND", "there was no `daypass registry login`")),
            names => Err(Error::usage(format!("say which registry: {}", names.join(", ")))),
        }
    }

    /// Adds one, or replaces it.
    pub fn insert(&mut self, host: String, known: Known) {
        self.known.insert(host, known);
    }

    /// Takes one away.
    pub fn remove(&mut self, host: &str) -> Option<Known> {
        self.known.remove(host)
    }

    /// Writes the file in one step, mode 0600.
    ///
    /// # Errors
    /// What the disk says.
    pub fn write(&self) -> Result<()> {
        let fault = |why: String| Error::new(Kind::Other, "FILE", format!("{} cannot be written: {why}", self.path.display()));
        let mut text = serde_json::to_vec_pretty(&Content { registries: &self.known }).map_err(|error| fault(error.to_string()))?;
        text.push(b'\n');
        files::make_private_dir(files::folder(&self.path)).map_err(|error| fault(plain(&error)))?;
        files::replace(&self.path, 0o600, &text).map_err(|error| fault(plain(&error)))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_environment_wins_where_it_names_a_server() {
        let env = |name: &str| match name {
            "DAYPASS_ADDR" => Some("login:1".into()),
            "DAYPASS_CERT" => Some("relative.pem".into()),
            "DAYPASS_TOKEN" => Some("canary".into()),
            _ => None,
        };
        let flags = Flags { key: Some("k.pem".into()), ..Flags::default() };
        let known = Known::new("push", Some(SignedDuration::from_secs(900)), &flags, &env).unwrap();
        assert!(!serde_json::to_string(&known).unwrap().contains("canary"));
        let nothing = |_: &str| None;
        let remembered = known.env(&nothing);
        assert_eq!(remembered("DAYPASS_ADDR").unwrap(), "login:1");
        assert!(Path::new(&remembered("DAYPASS_CERT").unwrap()).is_absolute());
        assert!(Path::new(&remembered("DAYPASS_KEY").unwrap()).is_absolute());
        let other = |name: &str| (name == "DAYPASS_ADDR").then(|| "now:2".into());
        let now = known.env(&other);
        assert_eq!((now("DAYPASS_ADDR").unwrap(), now("DAYPASS_CERT")), ("now:2".into(), None));
    }

    #[test]
    fn they_read_back_and_a_damaged_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("made");
        let env = |name: &str| (name == "DAYPASS_CONFIG_DIR").then(|| config.clone().into_os_string());
        let mut registries = Registries::read(&env).unwrap();
        assert_eq!(registries.only().unwrap_err().kind(), Kind::NotFound);
        let known = Known::new("push", None, &Flags::default(), &|_| None).unwrap();
        registries.insert("a:1".to_owned(), known.clone());
        registries.write().unwrap();
        let mut registries = Registries::read(&env).unwrap();
        assert_eq!((registries.get("a:1"), registries.only().unwrap().as_str()), (Some(&known), "a:1"));
        registries.insert("b".to_owned(), known);
        assert!(registries.only().unwrap_err().message().contains("a:1, b"));
        fs::write(config.join(FILE), "{").unwrap();
        assert!(Registries::read(&env).unwrap_err().message().contains("damaged"));
    }
}
