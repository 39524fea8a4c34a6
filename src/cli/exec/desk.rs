//! What the command finds: variables and files, by the kind of each role.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::{dir::PrivateDir, endpoint::Endpoint};
use crate::{
    cli::{
        files,
        material::{self, Material, docker_config},
    },
    client::{
        error::{Error, Result},
        types::{AwsCredential, RegistryCredential},
    },
};

/// The folder of docker's configuration.
const DOCKER: &str = "docker";

/// What would win over the endpoint in an AWS SDK, or mislead it.
const AWS_RIVALS: [&str; 12] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_CREDENTIAL_EXPIRATION",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
];

/// Hands credentials to the command, and newer ones in their place.
pub struct Desk {
    dir: PrivateDir,
    with_secrets: bool,
    endpoint: Option<Endpoint>,
    registries: Vec<(String, RegistryCredential)>,
    /// By role: what its variables are called without the role's name, and what they hold.
    variables: BTreeMap<String, Vec<(String, Zeroizing<String>)>>,
    /// For all roles.
    common: BTreeMap<&'static str, Zeroizing<String>>,
}

impl Desk {
    /// A desk; `with_secrets` is `--env`.
    pub fn new(dir: PrivateDir, with_secrets: bool) -> Self {
        Self { dir, with_secrets, endpoint: None, registries: Vec::new(), variables: BTreeMap::new(), common: BTreeMap::new() }
    }

    /// Hands out a role's credential, in place of the one before.
    pub fn put(&mut self, role: &str, material: &Material) -> Result<()> {
        let mut variables = match material {
            Material::X509(_) => {
                let folder = self.dir.swap(&format!("tls-{role}"), &material.files())?;
                named(material.file_variables(|name| folder.join(name).to_string_lossy().into_owned()))
            }
            Material::Aws(_) if self.with_secrets => Vec::new(),
            Material::Aws(session) => self.put_session(role, session)?,
            Material::Registry(registry) => self.put_registry(role, registry)?,
            Material::Jwt(jwt) => {
                let path = self.dir.put(&format!("jwt-{role}/{}", files::TOKEN), jwt.token.expose().as_bytes())?;
                vec![("DAYPASS_JWT_FILE".to_owned(), text(&path.to_string_lossy()))]
            }
        };
        if self.with_secrets {
            let secrets = named(material.variables().unwrap_or_default());
            let new = secrets.into_iter().filter(|(name, _)| !variables.iter().any(|(known, _)| known == name));
            variables.extend(new.collect::<Vec<_>>());
        }
        self.variables.insert(role.to_owned(), variables);
        Ok(())
    }

    /// The environment of the command: what to set, and what to take out of its way.
    pub fn environment(&self, leases: &[(String, String)]) -> (Vec<(String, Zeroizing<String>)>, Vec<&'static str>) {
        let mut set: Vec<_> = self.common.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let lease_ids = leases.iter().map(|(role, id)| (role, "DAYPASS_LEASE_ID".to_owned(), text(id)));
        let by_role =
            self.variables.iter().flat_map(|(role, all)| all.iter().map(move |(name, value)| (role, name.clone(), value.clone())));
        let all: Vec<_> = lease_ids.chain(by_role).collect();
        for (role, name, value) in &all {
            set.push((with_role(name, role), value.clone()));
            // The plain name would be a guess when two roles have one kind.
            if all.iter().filter(|(_, other, _)| other == name).count() == 1 {
                set.push((name.clone(), value.clone()));
            }
        }
        let uses_aws = self.endpoint.is_some() || all.iter().any(|(_, name, _)| name == "AWS_ACCESS_KEY_ID");
        (set, if uses_aws { AWS_RIVALS.to_vec() } else { Vec::new() })
    }

    fn put_session(&mut self, role: &str, session: &AwsCredential) -> Result<Vec<(String, Zeroizing<String>)>> {
        if self.endpoint.is_none() {
            let endpoint = Endpoint::start()?;
            let token = self.dir.put("aws/endpoint-token", endpoint.token().as_bytes())?;
            self.common.insert("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", text(&token.to_string_lossy()));
            // A profile of the user's would win over the endpoint: empty files hide them all.
            for (name, file) in [("AWS_CONFIG_FILE", "aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", "aws/credentials")] {
                let path = self.dir.put(file, b"")?;
                self.common.insert(name, text(&path.to_string_lossy()));
            }
            self.endpoint = Some(endpoint);
        }
        let uri = self.endpoint.as_ref().map(|endpoint| {
            endpoint.put(role, session);
            endpoint.uri(role)
        });
        let uri = uri.map(|uri| ("AWS_CONTAINER_CREDENTIALS_FULL_URI", Zeroizing::new(uri)));
        Ok(named(uri.into_iter().chain(material::region(session)).collect()))
    }

    fn put_registry(&mut self, role: &str, registry: &RegistryCredential) -> Result<Vec<(String, Zeroizing<String>)>> {
        let others = self.registries.iter().filter(|(other, _)| other != role);
        if let Some((other, _)) = others.clone().find(|(_, other)| other.registry == registry.registry) {
            return Err(Error::usage(format!(
                "the roles {other} and {role} are for one registry, {}, and docker keeps one credential for each: take one exec for each",
                registry.registry
            )));
        }
        let all: Vec<_> = others.cloned().chain([(role.to_owned(), registry.clone())]).collect();
        let path = self.dir.put(&format!("{DOCKER}/{}", files::DOCKER_CONFIG), &docker_config(all.iter().map(|(_, registry)| registry)))?;
        self.registries = all;
        self.common.insert("DOCKER_CONFIG", text(&self.dir.path().join(DOCKER).to_string_lossy()));
        self.common.insert("REGISTRY_AUTH_FILE", text(&path.to_string_lossy()));
        Ok(vec![("DAYPASS_REGISTRY".to_owned(), text(&registry.registry))])
    }
}

/// `DAYPASS_TLS_CERT` of role `web-1` is `DAYPASS_WEB_1_TLS_CERT`, and `AWS_X` is `DAYPASS_WEB_1_AWS_X`.
fn with_role(name: &str, role: &str) -> String {
    let role = role.to_ascii_uppercase().replace('-', "_");
    format!("DAYPASS_{role}_{}", name.strip_prefix("DAYPASS_").unwrap_or(name))
}

fn named(variables: Vec<material::Variable>) -> Vec<(String, Zeroizing<String>)> {
    variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn text(value: &str) -> Zeroizing<String> {
    Zeroizing::new(value.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{client::types::JwtCredential, model::secret::Secret};

    fn desk(parent: &tempfile::TempDir, with_secrets: bool) -> Desk {
        Desk::new(PrivateDir::make(&|_| Some(parent.path().into())).unwrap(), with_secrets)
    }

    fn jwt(token: &str) -> Material {
        Material::Jwt(JwtCredential { token: Secret::new(token.to_owned()), expires_at: "2027-01-15T08:15:00Z".parse().unwrap() })
    }

    fn registry(host: &str, secret: &str) -> Material {
        Material::Registry(RegistryCredential {
            registry: host.to_owned(),
            username: "u".to_owned(),
            secret: Secret::new(secret.to_owned()),
            expires_at: "2027-01-15T08:15:00Z".parse().unwrap(),
        })
    }

    fn aws() -> Material {
        Material::Aws(AwsCredential {
            access_key_id: "ASIA".to_owned(),
            secret_access_key: Secret::new("s".to_owned()),
            session_token: Secret::new("t".to_owned()),
            expires_at: "2090-01-15T08:15:00Z".parse().unwrap(),
            region: "eu-central-1".to_owned(),
        })
    }

    fn set(desk: &Desk) -> BTreeMap<String, String> {
        desk.environment(&[]).0.into_iter().map(|(name, value)| (name, value.to_string())).collect()
    }

    #[test]
    fn one_role_of_a_kind_has_plain_names_and_two_do_not() {
        let parent = tempfile::tempdir().unwrap();
        let mut desk = desk(&parent, false);
        desk.put("job-1", &jwt("one")).unwrap();
        let one = set(&desk);
        assert_eq!(one["DAYPASS_JWT_FILE"], one["DAYPASS_JOB_1_JWT_FILE"]);
        assert_eq!(fs::read_to_string(&one["DAYPASS_JWT_FILE"]).unwrap(), "one");
        desk.put("job-2", &jwt("two")).unwrap();
        let two = set(&desk);
        assert!(!two.contains_key("DAYPASS_JWT_FILE"));
        assert_ne!(two["DAYPASS_JOB_1_JWT_FILE"], two["DAYPASS_JOB_2_JWT_FILE"]);
    }

    #[test]
    fn registries_share_one_file_and_one_is_renewed_in_place() {
        let parent = tempfile::tempdir().unwrap();
        let mut desk = desk(&parent, false);
        desk.put("a", &registry("a:1", "one")).unwrap();
        desk.put("b", &registry("b:1", "two")).unwrap();
        desk.put("a", &registry("a:1", "three")).unwrap();
        let set = set(&desk);
        let config: serde_json::Value = serde_json::from_slice(&fs::read(&set["REGISTRY_AUTH_FILE"]).unwrap()).unwrap();
        assert_eq!(config["auths"].as_object().unwrap().len(), 2);
        assert_eq!(config["auths"]["a:1"]["auth"], "dTp0aHJlZQ==");
        assert_eq!(fs::read_dir(&set["DOCKER_CONFIG"]).unwrap().count(), 1);
        assert!(desk.put("c", &registry("b:1", "x")).unwrap_err().message().contains("b:1"));
    }

    #[tokio::test]
    async fn an_aws_session_is_behind_the_endpoint_or_in_variables_and_the_users_own_is_out_of_sight() {
        let parent = tempfile::tempdir().unwrap();
        let mut behind = desk(&parent, false);
        behind.put("deploy", &aws()).unwrap();
        let (variables, unset) = behind.environment(&[("deploy".to_owned(), "id-1".to_owned())]);
        let names: Vec<_> = variables.iter().map(|(name, _)| name.as_str()).collect();
        for name in ["AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_CONFIG_FILE", "AWS_REGION"] {
            assert!(names.contains(&name), "{names:?}");
        }
        assert!(names.contains(&"DAYPASS_DEPLOY_LEASE_ID") && names.contains(&"DAYPASS_LEASE_ID"));
        assert!(unset.contains(&"AWS_PROFILE") && unset.contains(&"AWS_ACCESS_KEY_ID"));
        assert!(!variables.iter().any(|(_, value)| value.as_str() == "s" || value.as_str() == "t"));
        let mut plain = desk(&parent, true);
        plain.put("deploy", &aws()).unwrap();
        let set = set(&plain);
        assert_eq!((set["AWS_ACCESS_KEY_ID"].as_str(), set["AWS_SESSION_TOKEN"].as_str()), ("ASIA", "t"));
        assert!(!set.contains_key("AWS_CONTAINER_CREDENTIALS_FULL_URI"));
    }
}
