//! A credential in the forms in which it is handed out: JSON, text, shell variables, files.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    csr::{Csr, PrivateKey},
    error::{Error, Result},
    text::one_line,
    types::{AwsCredential, Credential, JwtCredential, RegistryCredential, X509Credential},
};
use crate::model::pem;

/// The names of a credential's files.
pub mod files {
    /// The certificate and its chain.
    pub const CERTIFICATE: &str = "tls.crt";
    /// The private key.
    pub const KEY: &str = "tls.key";
    /// The roots that verify it.
    pub const CA: &str = "ca.crt";
    /// An AWS session, as AWS' shared credentials file has it.
    pub const AWS_CREDENTIALS: &str = "credentials";
    /// A registry's user and secret, as docker keeps them.
    pub const DOCKER_CONFIG: &str = "config.json";
    /// A token.
    pub const TOKEN: &str = "token";
    /// Every name that a credential's file can have.
    pub const ALL: &[&str] = &[KEY, CA, CERTIFICATE, AWS_CREDENTIALS, DOCKER_CONFIG, TOKEN];
}

/// Room for a file or a text that holds secrets: enough that it need not grow, which would leave a copy behind.
const ROOM: usize = 32 * 1024;

/// A credential that was checked, with the key that was made for it.
pub enum Material {
    /// A certificate.
    X509(Certified),
    /// An AWS session.
    Aws(AwsCredential),
    /// What `docker login` takes.
    Registry(RegistryCredential),
    /// A token.
    Jwt(JwtCredential),
}

/// A certificate with what belongs to it.
pub struct Certified {
    /// The leaf, then its chain, PEM.
    pub certificate: String,
    /// The roots, PEM.
    pub ca: String,
    serial: String,
    not_before: Timestamp,
    not_after: Timestamp,
    /// None when the caller has it.
    pub key: Option<PrivateKey>,
}

/// A file to write.
pub struct NewFile {
    /// Its name in its directory.
    pub name: &'static str,
    /// Its mode.
    pub mode: u32,
    /// What it holds; wiped.
    pub content: Zeroizing<Vec<u8>>,
}

/// A variable to set.
pub type Variable = (&'static str, Zeroizing<String>);

impl Material {
    /// Checks what the server gave: a certificate is for the key of the request, and no text could break out of the line that
    /// it is written into.
    ///
    /// # Errors
    /// When it is not so.
    pub fn take(credential: Credential, csr: Option<&Csr>, key: Option<PrivateKey>) -> Result<Self> {
        match credential {
            Credential::X509(X509Credential { chain_der, root_der, not_before, not_after }) => {
                let leaf = chain_der.first().ok_or_else(|| Error::bad_answer("lacks a certificate"))?;
                let csr = csr.ok_or_else(|| Error::bad_answer("is a certificate that nobody asked for"))?;
                let serial = csr.serial_of(leaf)?;
                Ok(Self::X509(Certified { certificate: as_pem(&chain_der), ca: as_pem(&root_der), serial, not_before, not_after, key }))
            }
            Credential::Aws(aws) => {
                words("AWS session", &[&aws.access_key_id, aws.secret_access_key.expose(), aws.session_token.expose()])?;
                if !aws.region.is_empty() {
                    words("AWS region", &[&aws.region])?;
                }
                Ok(Self::Aws(aws))
            }
            Credential::Registry(registry) => {
                words("registry credential", &[&registry.registry, &registry.username, registry.secret.expose()])?;
                // RFC 7617, section 2: a user name with a colon cannot be sent.
                if registry.username.contains(':') {
                    return Err(Error::bad_answer("has a user name with a colon"));
                }
                Ok(Self::Registry(registry))
            }
            Credential::Jwt(jwt) => words("token", &[jwt.token.expose()]).map(|()| Self::Jwt(jwt)),
        }
    }

    /// When it ends.
    pub fn expires_at(&self) -> Timestamp {
        match self {
            Self::X509(Certified { not_after, .. }) => *not_after,
            Self::Aws(AwsCredential { expires_at, .. })
            | Self::Registry(RegistryCredential { expires_at, .. })
            | Self::Jwt(JwtCredential { expires_at, .. }) => *expires_at,
        }
    }

    /// Its files, in the order in which they get their names: whoever waits for the last one finds the others.
    pub fn files(&self) -> Vec<NewFile> {
        let secret = |name, content: Zeroizing<Vec<u8>>| NewFile { name, mode: 0o600, content };
        let public = |name, text: &str| NewFile { name, mode: 0o644, content: Zeroizing::new(text.as_bytes().to_vec()) };
        match self {
            Self::X509(Certified { certificate, ca, key, .. }) => {
                let key = key.as_ref().map(|key| secret(files::KEY, bytes(key.pem())));
                key.into_iter().chain([public(files::CA, ca), public(files::CERTIFICATE, certificate)]).collect()
            }
            Self::Aws(aws) => vec![secret(files::AWS_CREDENTIALS, bytes(&profile(aws)))],
            Self::Registry(registry) => vec![secret(files::DOCKER_CONFIG, docker_config([registry]))],
            // Without a line end: whoever reads it takes the file as it is.
            Self::Jwt(jwt) => vec![secret(files::TOKEN, bytes(jwt.token.expose()))],
        }
    }

    /// The names of its files, the most interesting first.
    pub fn names(&self) -> &'static [&'static str] {
        match self {
            Self::X509(Certified { key: Some(_), .. }) => &[files::CERTIFICATE, files::KEY, files::CA],
            Self::X509(_) => &[files::CERTIFICATE, files::CA],
            Self::Aws(_) => &[files::AWS_CREDENTIALS],
            Self::Registry(_) => &[files::DOCKER_CONFIG],
            Self::Jwt(_) => &[files::TOKEN],
        }
    }

    /// As variables that hold it; none for a certificate, which lives in files.
    pub fn variables(&self) -> Option<Vec<Variable>> {
        let plain = |text: &str| Zeroizing::new(text.to_owned());
        Some(match self {
            Self::X509(_) => return None,
            Self::Aws(aws) => {
                let mut variables = vec![
                    ("AWS_ACCESS_KEY_ID", plain(&aws.access_key_id)),
                    ("AWS_SECRET_ACCESS_KEY", plain(aws.secret_access_key.expose())),
                    ("AWS_SESSION_TOKEN", plain(aws.session_token.expose())),
                    ("AWS_CREDENTIAL_EXPIRATION", plain(&aws.expires_at.to_string())),
                ];
                variables.extend(region(aws));
                variables
            }
            Self::Registry(registry) => vec![
                ("DAYPASS_REGISTRY", plain(&registry.registry)),
                ("DAYPASS_REGISTRY_USERNAME", plain(&registry.username)),
                ("DAYPASS_REGISTRY_SECRET", plain(registry.secret.expose())),
            ],
            // DAYPASS_TOKEN is how this very program is told who asks.
            Self::Jwt(jwt) => vec![("DAYPASS_JWT", plain(jwt.token.expose()))],
        })
    }

    /// As variables that name its files, once they are written; `path` gives the path of one.
    pub fn file_variables(&self, path: impl Fn(&'static str) -> String) -> Vec<Variable> {
        let names = |name| Zeroizing::new(path(name));
        match self {
            Self::X509(Certified { key, .. }) => {
                let key = key.as_ref().map(|_| ("DAYPASS_TLS_KEY", names(files::KEY)));
                let certificate = ("DAYPASS_TLS_CERT", names(files::CERTIFICATE));
                [certificate].into_iter().chain(key).chain([("DAYPASS_TLS_CA", names(files::CA))]).collect()
            }
            Self::Aws(aws) => {
                let file = ("AWS_SHARED_CREDENTIALS_FILE", names(files::AWS_CREDENTIALS));
                [file].into_iter().chain(region(aws)).collect()
            }
            Self::Registry(registry) => {
                vec![("DOCKER_CONFIG", names("")), ("DAYPASS_REGISTRY", Zeroizing::new(registry.registry.clone()))]
            }
            Self::Jwt(_) => vec![("DAYPASS_JWT_FILE", names(files::TOKEN))],
        }
    }

    /// For people, on standard output: what they paste.
    pub fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::X509(Certified { certificate, ca, key, .. }) => {
                if let Some(key) = key {
                    out.write_all(key.pem().as_bytes())?;
                }
                out.write_all(certificate.as_bytes())?;
                out.write_all(ca.as_bytes())
            }
            Self::Aws(aws) => out.write_all(profile(aws).as_bytes()),
            Self::Registry(RegistryCredential { registry, username, secret, expires_at: _ }) => {
                writeln!(out, "registry {}", one_line(registry))?;
                writeln!(out, "username {}", one_line(username))?;
                writeln!(out, "secret   {}", secret.expose())
            }
            Self::Jwt(jwt) => writeln!(out, "{}", jwt.token.expose()),
        }
    }

    /// Its JSON: a contract. What is secret is left out when it lies in files.
    pub fn json(&self, path: Option<&dyn Fn(&'static str) -> String>) -> CredentialJson<'_> {
        let file = |name| path.map(|path| path(name));
        let secret = |text| if path.is_none() { Some(text) } else { None };
        match self {
            Self::X509(Certified { certificate, ca, serial, not_before, not_after, key }) => CredentialJson::X509 {
                certificate,
                ca,
                serial,
                not_before: *not_before,
                not_after: *not_after,
                private_key: key.as_ref().map(PrivateKey::pem).and_then(secret),
                certificate_file: file(files::CERTIFICATE),
                private_key_file: key.as_ref().and_then(|_| file(files::KEY)),
                ca_file: file(files::CA),
            },
            Self::Aws(AwsCredential { access_key_id, secret_access_key, session_token, expires_at, region }) => CredentialJson::Aws {
                access_key_id,
                secret_access_key: secret(secret_access_key.expose()),
                session_token: secret(session_token.expose()),
                expires_at: *expires_at,
                region,
                credentials_file: file(files::AWS_CREDENTIALS),
            },
            Self::Registry(RegistryCredential { registry, username, secret: password, expires_at }) => CredentialJson::Registry {
                registry,
                username,
                secret: secret(password.expose()),
                expires_at: *expires_at,
                config_file: file(files::DOCKER_CONFIG),
            },
            Self::Jwt(JwtCredential { token, expires_at }) => {
                CredentialJson::Jwt { token: secret(token.expose()), expires_at: *expires_at, token_file: file(files::TOKEN) }
            }
        }
    }
}

/// The JSON of a credential: a contract.
#[derive(Serialize)]
#[serde(untagged)]
#[allow(missing_docs, reason = "the names say it")]
pub enum CredentialJson<'a> {
    X509 {
        certificate: &'a str,
        ca: &'a str,
        serial: &'a str,
        not_before: Timestamp,
        not_after: Timestamp,
        #[serde(skip_serializing_if = "Option::is_none")]
        private_key: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        certificate_file: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        private_key_file: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        ca_file: Option<String>,
    },
    Aws {
        access_key_id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        secret_access_key: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        session_token: Option<&'a str>,
        expires_at: Timestamp,
        #[serde(skip_serializing_if = "str::is_empty")]
        region: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        credentials_file: Option<String>,
    },
    Registry {
        registry: &'a str,
        username: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        secret: Option<&'a str>,
        expires_at: Timestamp,
        #[serde(skip_serializing_if = "Option::is_none")]
        config_file: Option<String>,
    },
    Jwt {
        #[serde(skip_serializing_if = "Option::is_none")]
        token: Option<&'a str>,
        expires_at: Timestamp,
        #[serde(skip_serializing_if = "Option::is_none")]
        token_file: Option<String>,
    },
}

/// A `config.json` that knows these registries and nothing else: docker and skopeo take it as it is.
pub fn docker_config<'a>(registries: impl IntoIterator<Item = &'a RegistryCredential>) -> Zeroizing<Vec<u8>> {
    let auths: serde_json::Map<_, _> =
        registries.into_iter().map(|registry| (registry.registry.clone(), json!({"auth": *basic(registry)}))).collect();
    let mut text = Zeroizing::new(Vec::with_capacity(ROOM));
    // Writing JSON of strings into memory cannot fail.
    let _ = serde_json::to_writer_pretty(&mut *text, &json!({"auths": auths}));
    text
}

/// `user:secret` in base64, as docker keeps it.
fn basic(registry: &RegistryCredential) -> Zeroizing<String> {
    let pair = Zeroizing::new(format!("{}:{}", registry.username, registry.secret.expose()));
    Zeroizing::new(STANDARD.encode(pair.as_bytes()))
}

/// A profile as AWS' shared credentials file has it.
fn profile(aws: &AwsCredential) -> Zeroizing<String> {
    let AwsCredential { access_key_id, secret_access_key, session_token, expires_at, region: _ } = aws;
    let mut text = Zeroizing::new(String::with_capacity(ROOM));
    // Writing into a string cannot fail.
    let _ = write!(
        text,
        "# expires {expires_at}\n[default]\naws_access_key_id = {access_key_id}\naws_secret_access_key = {}\naws_session_token = {}\n",
        secret_access_key.expose(),
        session_token.expose()
    );
    text
}

/// The region, by both names: some SDKs read only the second.
pub fn region(aws: &AwsCredential) -> impl Iterator<Item = Variable> {
    let names = if aws.region.is_empty() { [].as_slice() } else { &["AWS_REGION", "AWS_DEFAULT_REGION"] };
    let region = aws.region.clone();
    names.iter().map(move |name| (*name, Zeroizing::new(region.clone())))
}

fn bytes(text: &str) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(text.as_bytes().to_vec())
}

/// Each text is one word of visible ASCII, so that it cannot end a line, a header or a field.
fn words(what: &str, texts: &[&str]) -> Result<()> {
    match texts.iter().all(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())) {
        true => Ok(()),
        false => Err(Error::bad_answer(format_args!("has an {what} with characters that cannot stand there"))),
    }
}

/// Certificates as PEM (RFC 7468).
fn as_pem(certificates: &[Vec<u8>]) -> String {
    let mut text = String::new();
    for der in certificates {
        pem::push(&mut text, "CERTIFICATE", der);
    }
    text
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::{CertificateDer, pem::PemObject};

    use super::*;
    use crate::model::secret::Secret;

    fn aws() -> AwsCredential {
        AwsCredential {
            access_key_id: "ASIAEXAMPLE".to_owned(),
            secret_access_key: Secret::new("s3cr/et+".to_owned()),
            session_token: Secret::new("tok==".to_owned()),
            expires_at: "2027-01-15T08:15:00Z".parse().unwrap(),
            region: "eu-central-1".to_owned(),
        }
    }

    fn registry(host: &str) -> RegistryCredential {
        RegistryCredential {
            registry: host.to_owned(),
            username: "lease".to_owned(),
            secret: Secret::new("p:w".to_owned()),
            expires_at: "2027-01-15T08:15:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn pem_reads_back() {
        for length in [0, 1, 47, 48, 49, 96, 1000] {
            let ders = vec![vec![7_u8; length], vec![9; 3]];
            let text = as_pem(&ders);
            assert!(text.lines().all(|line| line.len() <= pem::COLUMNS));
            let read: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes()).map(|der| der.unwrap().to_vec()).collect();
            assert_eq!(read, ders);
        }
    }

    #[test]
    fn json_is_the_contract_and_names_files_instead_of_secrets() {
        let json = |material: &Material| serde_json::to_value(material.json(None)).unwrap();
        let expires = "2027-01-15T08:15:00Z";
        assert_eq!(
            json(&Material::Aws(aws())),
            json!({"access_key_id": "ASIAEXAMPLE", "secret_access_key": "s3cr/et+", "session_token": "tok==", "expires_at": expires,
                "region": "eu-central-1"})
        );
        assert_eq!(
            json(&Material::Registry(registry("r:5000"))),
            json!({"registry": "r:5000", "username": "lease", "secret": "p:w", "expires_at": expires})
        );
        let jwt = JwtCredential { token: Secret::new("a.b.c".to_owned()), expires_at: expires.parse().unwrap() };
        let jwt = Material::Jwt(jwt);
        assert_eq!(json(&jwt), json!({"token": "a.b.c", "expires_at": expires}));
        let path = |name: &'static str| format!("/d/{name}");
        assert_eq!(serde_json::to_value(jwt.json(Some(&path))).unwrap(), json!({"expires_at": expires, "token_file": "/d/token"}));
    }

    #[test]
    fn docker_reads_the_pair_back() {
        let (a, b) = (registry("a:1"), registry("b"));
        let config: serde_json::Value = serde_json::from_slice(&docker_config([&a, &b])).unwrap();
        let pair = |host: &str| String::from_utf8(STANDARD.decode(config["auths"][host]["auth"].as_str().unwrap()).unwrap()).unwrap();
        assert_eq!((pair("a:1").as_str(), pair("b").as_str()), ("lease:p:w", "lease:p:w"));
    }

    #[test]
    fn a_text_that_would_break_out_of_its_line_is_refused() {
        for (key, region) in [("A\nB", "r"), ("A", "r\n[x]"), ("", "r"), ("A B", "r")] {
            let aws = AwsCredential { access_key_id: key.to_owned(), region: region.to_owned(), ..aws() };
            assert_eq!(Material::take(Credential::Aws(aws), None, None).err().unwrap().code(), "BAD_ANSWER");
        }
        let colon = RegistryCredential { username: "a:b".to_owned(), ..registry("h") };
        assert!(Material::take(Credential::Registry(colon), None, None).is_err());
        assert!(Material::take(Credential::Aws(AwsCredential { region: String::new(), ..aws() }), None, None).is_ok());
    }
}
