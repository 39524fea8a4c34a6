//! docker's own configuration file, of which one key is ours to change.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use crate::client::{
    error::{Error, Kind, Result},
    settings::{Env, plain, read_bounded, variable},
};
use crate::unix::files;

/// The name that follows `docker-credential-`.
const HELPER: &str = "daypass";

const KEY: &str = "credHelpers";

/// `config.json`, read and to be written. Every other key stays.
#[derive(Debug)]
pub struct DockerConfig {
    /// The file itself, where the name is a link.
    path: PathBuf,
    mode: u32,
    content: Map<String, Value>,
    changed: bool,
}

impl DockerConfig {
    /// From the directory `DOCKER_CONFIG`, else `~/.docker`.
    ///
    /// # Errors
    /// Usage, when it is there and is no JSON object, or its `credHelpers` are none.
    pub fn read(env: Env<'_>) -> Result<Self> {
        let dir = variable("DOCKER_CONFIG", env).map(PathBuf::from);
        let dir = dir.or_else(|| variable("HOME", env).map(|home| Path::new(&home).join(".docker")));
        let dir = dir.ok_or_else(|| Error::usage("there is no home directory here: set DOCKER_CONFIG to docker's directory"))?;
        let named = dir.join("config.json");
        // A link stays one, and what it leads to is changed.
        let path = fs::canonicalize(&named).unwrap_or(named);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self { path, mode: 0o600, content: Map::new(), changed: false }),
            Err(error) => Err(Error::usage(format!("{} cannot be read: {}", path.display(), plain(&error)))),
            Ok(found) => {
                let text = read_bounded(&path).map_err(|why| Error::usage(format!("{} cannot be read: {why}", path.display())))?;
                let content = parse(&text).map_err(|why| Error::usage(format!("{} {why}: mend it first", path.display())))?;
                Ok(Self { path, mode: found.mode() & 0o777, content, changed: false })
            }
        }
    }

    /// Has docker ask us for a registry.
    ///
    /// # Errors
    /// Usage, when it asks another helper for it.
    pub fn set(&mut self, host: &str) -> Result<()> {
        if let Some(other) = self.helper(host).filter(|helper| *helper != HELPER) {
            return Err(Error::usage(format!(
                "{} has docker-credential-{other} for {host}: take that out of its `{KEY}` first",
                self.path.display()
            )));
        }
        if let Value::Object(helpers) = self.content.entry(KEY).or_insert_with(|| Map::new().into()) {
            self.changed |= helpers.insert(host.to_owned(), HELPER.into()).is_none();
        }
        Ok(())
    }

    /// Has docker ask us no more; says whether it did.
    pub fn unset(&mut self, host: &str) -> bool {
        if self.helper(host) != Some(HELPER) {
            return false;
        }
        if let Some(Value::Object(helpers)) = self.content.get_mut(KEY) {
            helpers.remove(host);
            if helpers.is_empty() {
                self.content.remove(KEY);
            }
        }
        self.changed = true;
        true
    }

    /// Writes the file in one step, if it has changed.
    ///
    /// # Errors
    /// What the disk says.
    pub fn write(&self) -> Result<()> {
        if !self.changed {
            return Ok(());
        }
        let fault = |why: String| Error::new(Kind::Other, "FILE", format!("{} cannot be written: {why}", self.path.display()));
        // docker itself indents with a tab.
        let mut text = Vec::new();
        let mut to = serde_json::Serializer::with_formatter(&mut text, serde_json::ser::PrettyFormatter::with_indent(b"\t"));
        serde::Serialize::serialize(&self.content, &mut to).map_err(|error| fault(error.to_string()))?;
        files::make_private_dir(files::folder(&self.path)).map_err(|error| fault(plain(&error)))?;
        files::replace(&self.path, self.mode, &text).map_err(|error| fault(plain(&error)))
    }

    fn helper(&self, host: &str) -> Option<&str> {
        self.content.get(KEY)?.get(host)?.as_str()
    }
}

/// The error completes "config.json ...".
fn parse(text: &[u8]) -> Result<Map<String, Value>, String> {
    if text.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    let content: Map<String, Value> = serde_json::from_slice(text).map_err(|why| format!("is no JSON object ({why})"))?;
    match content.get(KEY) {
        None | Some(Value::Object(_)) => Ok(content),
        Some(_) => Err(format!("has a `{KEY}` that is no object")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use serde_json::json;

    use super::*;

    fn open(dir: &Path) -> Result<DockerConfig> {
        let dir = dir.as_os_str().to_owned();
        DockerConfig::read(&move |name| (name == "DOCKER_CONFIG").then(|| dir.clone()))
    }

    fn content(path: &Path) -> Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn every_other_key_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        let before = json!({"auths": {"x": {"auth": "dTpw"}}, "credHelpers": {"gcr.io": "gcloud"}, "psFormat": "table", "n": 1.5});
        fs::write(&file, before.to_string()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let mut config = open(dir.path()).unwrap();
        config.set("127.0.0.1:5000").unwrap();
        config.write().unwrap();
        let mut expected = before.clone();
        expected["credHelpers"]["127.0.0.1:5000"] = json!("daypass");
        assert_eq!(content(&file), expected);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
        let mut config = open(dir.path()).unwrap();
        assert!(!config.unset("gcr.io") && !config.unset("other"), "that is not ours");
        assert!(config.unset("127.0.0.1:5000"));
        config.write().unwrap();
        assert_eq!(content(&file), before);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn it_is_made_when_missing_and_a_link_stays_one() {
        let dir = tempfile::tempdir().unwrap();
        let made = dir.path().join("made");
        let mut config = open(&made).unwrap();
        config.set("r").unwrap();
        config.write().unwrap();
        assert_eq!(content(&made.join("config.json")), json!({"credHelpers": {"r": "daypass"}}));
        assert_eq!(fs::metadata(made.join("config.json")).unwrap().mode() & 0o777, 0o600);
        let linked = dir.path().join("linked");
        fs::create_dir(&linked).unwrap();
        symlink(made.join("config.json"), linked.join("config.json")).unwrap();
        let mut config = open(&linked).unwrap();
        assert!(config.unset("r"));
        config.write().unwrap();
        assert!(linked.join("config.json").is_symlink());
        assert_eq!(content(&made.join("config.json")), json!({}));
    }

    #[test]
    fn what_is_broken_or_anothers_is_refused_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        for bad in ["{", "[]", "{\"credHelpers\": []}", "{}{}"] {
            fs::write(&file, bad).unwrap();
            let error = open(dir.path()).unwrap_err();
            assert!(error.kind() == Kind::Usage && error.message().contains("config.json"), "{error}");
            assert_eq!(fs::read_to_string(&file).unwrap(), bad);
        }
        fs::write(&file, json!({"credHelpers": {"r": "ecr-login"}}).to_string()).unwrap();
        assert!(open(dir.path()).unwrap().set("r").unwrap_err().message().contains("docker-credential-ecr-login"));
    }
}
