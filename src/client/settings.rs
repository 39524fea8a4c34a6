//! Where the server is and who is asking: from flags, then from the environment.

use std::{
    ffi::OsString,
    fmt, fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use url::Url;
use zeroize::Zeroizing;

use super::{
    ci::{self, DEFAULT_AUDIENCE, Identity},
    error::{Error, Result},
    fingerprint::Fingerprint,
    token::TokenSource,
};

/// How long a call may take, its connection and its repetitions included, when nothing else is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest file of certificates, key or token that is read, in bytes.
pub const MAX_FILE: u64 = 1 << 20;

/// What the command line says; each one wins over the environment.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--addr`.
    pub addr: Option<String>,
    /// `--ca`.
    pub ca: Option<PathBuf>,
    /// `--cert`.
    pub cert: Option<PathBuf>,
    /// `--key`.
    pub key: Option<PathBuf>,
    /// `--token-file`.
    pub token_file: Option<PathBuf>,
    /// `--identity`.
    pub identity: Option<Identity>,
    /// `--token-audience`.
    pub token_audience: Option<String>,
    /// `--timeout`.
    pub timeout: Option<Duration>,
}

/// Everything that a connection needs, read and checked.
pub struct Settings {
    /// Where the server is.
    pub address: Address,
    /// Whom to trust.
    pub roots: Roots,
    /// Who is asking, by certificate.
    pub identity: Option<ClientCertificate>,
    /// Who is asking, by token.
    pub token: Option<TokenSource>,
    /// How long a call may take.
    pub timeout: Duration,
    /// Which identity was found without being set, for people; none when it was set.
    pub found_identity: Option<String>,
    /// What the user should know; one line each.
    pub warnings: Vec<String>,
}

/// Whom to trust for the server's certificate.
#[derive(Clone)]
pub enum Roots {
    /// The system's.
    System,
    /// Only these.
    Only {
        /// The setting that named them, with its path, for messages.
        source: String,
        /// The certificates; at least one.
        certificates: Vec<CertificateDer<'static>>,
    },
}

/// A client certificate with its key.
pub struct ClientCertificate {
    /// The leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key; rustls wipes it when it drops it.
    pub key: PrivateKeyDer<'static>,
}

/// A server's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// A host name or an IP address, without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl std::str::FromStr for Address {
    type Err = String;

    /// From `host:port` or `https://host[:port]`.
    fn from_str(text: &str) -> Result<Self, String> {
        let example = "write host:port, for example 127.0.0.1:7443";
        let (url, bare) = match text.split_once("://") {
            Some(("https", _)) => (text.to_owned(), false),
            Some((scheme, _)) => return Err(format!("daypass speaks TLS only, not {scheme}://; {example}")),
            None => (format!("https://{text}"), true),
        };
        let url = Url::parse(&url).map_err(|error| format!("{error}; {example}"))?;
        let more = url.path() != "/" || url.query().is_some() || url.fragment().is_some();
        if more || !url.username().is_empty() || url.password().is_some() {
            return Err(format!("there is more than a host and a port; {example}"));
        }
        if bare && url.port().is_none() && !text.trim_end_matches('/').ends_with(":443") {
            return Err(format!("the port is missing; {example}"));
        }
        let host = url.host_str().ok_or_else(|| format!("the host is missing; {example}"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port: url.port_or_known_default().unwrap_or(443) })
    }
}

/// Reads the environment; a parameter, so that tests need not change the process's own.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

impl Settings {
    /// From flags, then `DAYPASS_ADDR`, `DAYPASS_CA`, `DAYPASS_CERT`, `DAYPASS_KEY`, `DAYPASS_TOKEN` or
    /// `DAYPASS_TOKEN_FILE`, `DAYPASS_IDENTITY`, `DAYPASS_AUDIENCE`. An empty variable counts as unset. Where no certificate and no
    /// token is set, the identity that the job has from where it runs.
    ///
    /// # Errors
    /// A usage error that names the flag or variable, and the file, that is missing or wrong; not authenticated (`NO_IDENTITY`) when
    /// nothing is set and the job has no identity where it could have one.
    pub fn load(flags: Flags, env: Env<'_>) -> Result<Self> {
        let Flags { addr, ca, cert, key, token_file, identity: wanted, token_audience, timeout } = flags;
        let mut warnings = Vec::new();
        let address = address(addr, env)?;
        let roots = match Source::find(ca, "--ca", "DAYPASS_CA", env) {
            Some(source) => Roots::Only { certificates: source.certificates()?, source: source.to_string() },
            None => Roots::System,
        };
        let certificate = Source::find(cert, "--cert", "DAYPASS_CERT", env);
        let identity = match (certificate, Source::find(key, "--key", "DAYPASS_KEY", env)) {
            (Some(cert), Some(key)) => {
                warnings.extend(key.warn_if_readable_by_others());
                Some(ClientCertificate { chain: cert.certificates()?, key: key.private_key()? })
            }
            (None, None) => None,
            (Some(cert), None) => return Err(Error::usage(format!("{cert} is set without its key: set DAYPASS_KEY or --key"))),
            (None, Some(key)) => return Err(Error::usage(format!("{key} is set without its certificate: set DAYPASS_CERT or --cert"))),
        };
        let Found { token, found_identity } = Found::token(token_file, wanted, token_audience, identity.is_some(), env)?;
        Ok(Self { address, roots, identity, token, timeout: timeout.unwrap_or(DEFAULT_TIMEOUT), found_identity, warnings })
    }

    /// What tells this caller at this server from others, without asking anyone: hex digits that give nothing away.
    ///
    /// # Errors
    /// When the token's file cannot be read.
    pub fn caller(&self) -> Result<String> {
        let mut print = Fingerprint::of("daypass caller").field(self.address.to_string());
        if let Roots::Only { certificates, .. } = &self.roots {
            print = certificates.iter().fold(print.field("roots"), Fingerprint::field);
        }
        if let Some(ClientCertificate { chain, .. }) = &self.identity {
            print = chain.first().into_iter().fold(print.field("certificate"), Fingerprint::field);
        }
        if let Some(source) = &self.token {
            print = print.field("token").field(source.caller()?);
        }
        Ok(print.hex())
    }
}

/// Where tokens come from, and whether that was found and not set.
struct Found {
    token: Option<TokenSource>,
    found_identity: Option<String>,
}

impl Found {
    fn token(
        flag: Option<PathBuf>,
        wanted: Option<Identity>,
        audience: Option<String>,
        has_certificate: bool,
        env: Env<'_>,
    ) -> Result<Self> {
        let by_flag = matches!(wanted, Some(Identity::Of(_)));
        if flag.is_some() && by_flag {
            return Err(Error::usage("--identity and --token-file both say whose token to use: give one of them"));
        }
        // A flag wins over the environment: one that names an identity over a token there.
        let set = if by_flag { None } else { token(flag, env)? };
        if set.is_some() {
            return Ok(Self { token: set, found_identity: None });
        }
        let wanted = match (wanted, variable("DAYPASS_IDENTITY", env)) {
            (Some(wanted), _) => wanted,
            (None, Some(text)) => {
                text.to_string_lossy().parse().map_err(|why| Error::usage(format!("DAYPASS_IDENTITY is no identity: {why}")))?
            }
            (None, None) => Identity::Auto,
        };
        if wanted == Identity::Auto && has_certificate {
            return Ok(Self { token: None, found_identity: None });
        }
        let found = ci::find(wanted, &token_audience(audience, env)?, env)?;
        let found_identity = found.as_ref().map(|source| source.name().to_owned());
        Ok(Self { token: found, found_identity })
    }
}

fn token_audience(flag: Option<String>, env: Env<'_>) -> Result<String> {
    if let Some(audience) = flag {
        return Ok(audience);
    }
    match variable("DAYPASS_AUDIENCE", env) {
        Some(text) => ci::audience(&text.to_string_lossy()).map_err(|why| Error::usage(format!("DAYPASS_AUDIENCE is no audience: {why}"))),
        None => Ok(DEFAULT_AUDIENCE.to_owned()),
    }
}

fn address(flag: Option<String>, env: Env<'_>) -> Result<Address> {
    let (name, text) = match flag {
        Some(text) => ("--addr", text),
        None => match variable("DAYPASS_ADDR", env) {
            Some(text) => ("DAYPASS_ADDR", text.to_string_lossy().into_owned()),
            None => {
                return Err(Error::usage(
                    "no server is named: set DAYPASS_ADDR or --addr to its host:port (after `daypassd dev`: . .daypass/env.sh)",
                ));
            }
        },
    };
    text.parse().map_err(|why| Error::usage(format!("{name} is no address: {why}")))
}

fn token(flag: Option<PathBuf>, env: Env<'_>) -> Result<Option<TokenSource>> {
    if let (true, Some(text)) = (flag.is_none(), variable("DAYPASS_TOKEN", env)) {
        let text = text.into_string().map_err(|_| Error::usage("DAYPASS_TOKEN holds more than a token"))?;
        return TokenSource::fixed("DAYPASS_TOKEN", &Zeroizing::new(text)).map(Some);
    }
    let source = Source::find(flag, "--token-file", "DAYPASS_TOKEN_FILE", env);
    source.map(|source| TokenSource::file(source.to_string(), source.path)).transpose()
}

/// A variable that is set to something.
pub(crate) fn variable(name: &str, env: Env<'_>) -> Option<OsString> {
    env(name).filter(|value| !value.is_empty())
}

/// A file, and the setting that named it.
pub(crate) struct Source {
    /// The setting.
    pub name: &'static str,
    /// The file.
    pub path: PathBuf,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.path.display())
    }
}

impl Source {
    fn find(flag: Option<PathBuf>, flag_name: &'static str, env_name: &'static str, env: Env<'_>) -> Option<Self> {
        match flag {
            Some(path) => Some(Self { name: flag_name, path }),
            None => variable(env_name, env).map(|path| Self { name: env_name, path: path.into() }),
        }
    }

    fn bytes(&self) -> Result<Zeroizing<Vec<u8>>> {
        read_bounded(&self.path).map_err(|why| Error::usage(format!("{self} cannot be read: {why}")))
    }

    /// Its certificates; at least one.
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>> {
        let bytes = self.bytes()?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        match found {
            Ok(found) if !found.is_empty() => Ok(found),
            Ok(_) => Err(Error::usage(format!("{self} holds no certificate; it must be a PEM file (-----BEGIN CERTIFICATE-----)"))),
            Err(_) => Err(Error::usage(format!("{self} is damaged: its PEM does not decode"))),
        }
    }

    /// Its key.
    pub fn private_key(&self) -> Result<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_slice(&self.bytes()?).map_err(|_| {
            Error::usage(format!("{self} holds no private key; it must be an unencrypted PEM file (-----BEGIN PRIVATE KEY-----)"))
        })
    }

    /// What the user should know of its mode.
    pub fn warn_if_readable_by_others(&self) -> Option<String> {
        let mode = fs::metadata(&self.path).ok()?.permissions().mode() & 0o7777;
        (mode & 0o077 != 0).then(|| format!("others can read {self}, its mode is {mode:04o}; run: chmod 600 {}", self.path.display()))
    }
}

/// A file's bytes, [`MAX_FILE`] at most.
pub(crate) fn read_bounded(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let file = fs::File::open(path).map_err(|error| plain(&error))?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| plain(&error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("it is larger than {MAX_FILE} bytes"));
    }
    Ok(bytes)
}

/// An IO error in plain words, without the number.
pub(crate) fn plain(error: &std::io::Error) -> String {
    use std::io::ErrorKind as K;
    match error.kind() {
        K::NotFound => "there is no such file".to_owned(),
        K::PermissionDenied => "you may not (permission denied)".to_owned(),
        K::IsADirectory => "it is a directory".to_owned(),
        K::StorageFull => "the disk is full".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{
        super::token::{MAX_TOKEN, Token},
        *,
    };

    fn taken(settings: &Settings) -> Token {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(settings.token.as_ref().unwrap().fresh_token()).unwrap()
    }

    fn load(flags: Flags, env: &[(&str, &str)]) -> Result<Settings> {
        let env: HashMap<String, OsString> = env.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
        Settings::load(flags, &|name| env.get(name).cloned())
    }

    fn fault(flags: Flags, env: &[(&str, &str)]) -> String {
        let error = load(flags, env).err().expect("these settings are wrong");
        assert_eq!(error.kind(), super::super::error::Kind::Usage);
        error.message().to_owned()
    }

    #[test]
    fn addresses() {
        let good = [
            ("127.0.0.1:7443", "127.0.0.1:7443"),
            ("https://vend.example.org:7443", "vend.example.org:7443"),
            ("https://vend.example.org", "vend.example.org:443"),
            ("https://vend.example.org:7443/", "vend.example.org:7443"),
            ("localhost:443", "localhost:443"),
            ("[::1]:7443", "[::1]:7443"),
        ];
        for (text, shown) in good {
            assert_eq!(text.parse::<Address>().map(|a| a.to_string()), Ok(shown.to_owned()), "{text}");
        }
        for bad in [
            "",
            "localhost",
            "http://localhost:7443",
            "localhost:7443/x",
            "u:p@localhost:1",
            "localhost:99999",
            "a b:1",
            "localhost:7443?x",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn flags_win_over_the_environment_and_empty_is_unset() {
        let flags = Flags { addr: Some("flag:1".to_owned()), ..Flags::default() };
        let env = [("DAYPASS_ADDR", "env:2"), ("DAYPASS_CA", ""), ("DAYPASS_TOKEN", ""), ("DAYPASS_CERT", "")];
        let settings = load(flags, &env).unwrap();
        assert_eq!(settings.address.to_string(), "flag:1");
        assert!(settings.token.is_none() && settings.identity.is_none() && matches!(settings.roots, Roots::System));
        assert_eq!(settings.timeout, DEFAULT_TIMEOUT);
    }

    #[test]
    fn a_fault_names_the_setting_and_the_file() {
        assert!(fault(Flags::default(), &[]).contains("DAYPASS_ADDR"));
        let addr = ("DAYPASS_ADDR", "h:1");
        let text = fault(Flags::default(), &[addr, ("DAYPASS_CA", "/nonexistent/ca.pem")]);
        assert!(text.contains("DAYPASS_CA (/nonexistent/ca.pem)") && text.contains("no such file"), "{text}");
        let flags = Flags { ca: Some("/nonexistent/x".into()), ..Flags::default() };
        assert!(fault(flags, &[addr]).contains("--ca (/nonexistent/x)"));
        assert!(fault(Flags::default(), &[addr, ("DAYPASS_CERT", "c.pem")]).contains("DAYPASS_KEY"));
        assert!(fault(Flags::default(), &[addr, ("DAYPASS_KEY", "k.pem")]).contains("DAYPASS_CERT"));
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty");
        fs::write(&empty, "").unwrap();
        assert!(fault(Flags::default(), &[addr, ("DAYPASS_CA", empty.to_str().unwrap())]).contains("no certificate"));
        assert!(fault(Flags::default(), &[addr, ("DAYPASS_TOKEN_FILE", empty.to_str().unwrap())]).contains("no token"));
        let large = dir.path().join("large");
        fs::File::create(&large).unwrap().set_len(MAX_FILE + 1).unwrap();
        assert!(fault(Flags::default(), &[addr, ("DAYPASS_CA", large.to_str().unwrap())]).contains("larger than"));
    }

    #[test]
    fn a_token_is_one_word_and_never_printed() {
        let settings = load(Flags::default(), &[("DAYPASS_ADDR", "h:1"), ("DAYPASS_TOKEN", "ey.canary.sig\n")]).unwrap();
        let token = taken(&settings);
        assert_eq!(token.header().to_str().unwrap(), "Bearer ey.canary.sig");
        assert!(!format!("{token:?} {:?}", token.header()).contains("canary"));
        for bad in ["two words", "caf\u{e9}", "a\u{7}b", &"x".repeat(MAX_TOKEN + 1)] {
            let text = fault(Flags::default(), &[("DAYPASS_ADDR", "h:1"), ("DAYPASS_TOKEN", bad)]);
            assert!(text.contains("DAYPASS_TOKEN") && !text.contains(bad), "{text}");
        }
    }

    #[test]
    fn the_token_flag_wins_and_the_variable_wins_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        fs::write(&file, "from-file\n").unwrap();
        let env = [("DAYPASS_ADDR", "h:1"), ("DAYPASS_TOKEN", "from-env"), ("DAYPASS_TOKEN_FILE", file.to_str().unwrap())];
        let header = |flags| taken(&load(flags, &env).unwrap()).header().to_str().unwrap().to_owned();
        assert_eq!(header(Flags::default()), "Bearer from-env");
        assert_eq!(header(Flags { token_file: Some(file.clone()), ..Flags::default() }), "Bearer from-file");
    }

    #[test]
    fn a_key_that_others_can_read_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("k.pem");
        fs::write(&key, "").unwrap();
        let source = Source { name: "DAYPASS_KEY", path: key.clone() };
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(source.warn_if_readable_by_others().unwrap().contains("0640"));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(source.warn_if_readable_by_others(), None);
    }

    #[test]
    fn what_is_set_wins_over_what_is_found() {
        let here = [("DAYPASS_ADDR", "h:1"), ("GITLAB_CI", "true"), ("DAYPASS_ID_TOKEN", "from.git.lab")];
        let found = load(Flags::default(), &here).unwrap();
        assert_eq!(found.found_identity.as_deref(), Some("GitLab CI (DAYPASS_ID_TOKEN)"));
        assert_eq!(taken(&found).header().to_str().unwrap(), "Bearer from.git.lab");
        let with = |more: &[(&'static str, &'static str)]| [here.as_slice(), more].concat();
        let set = load(Flags::default(), &with(&[("DAYPASS_TOKEN", "set")])).unwrap();
        assert_eq!((taken(&set).header().to_str().unwrap(), set.found_identity), ("Bearer set", None));
        let none = load(Flags::default(), &with(&[("DAYPASS_IDENTITY", "none")])).unwrap();
        assert!(none.token.is_none());
        let flags = Flags { identity: Some("gitlab".parse().unwrap()), ..Flags::default() };
        let flag = load(flags.clone(), &with(&[("DAYPASS_TOKEN", "set")])).unwrap();
        assert_eq!(taken(&flag).header().to_str().unwrap(), "Bearer from.git.lab");
        assert!(fault(Flags { token_file: Some("f".into()), ..flags }, &here).contains("--identity and --token-file"));
        assert!(fault(Flags::default(), &with(&[("DAYPASS_IDENTITY", "gihub")])).contains("DAYPASS_IDENTITY"));
        assert!(fault(Flags::default(), &with(&[("DAYPASS_AUDIENCE", "a b")])).contains("DAYPASS_AUDIENCE"));
    }

    #[test]
    fn a_caller_is_told_apart_by_server_and_identity() {
        let caller = |env: &[(&str, &str)]| load(Flags::default(), env).unwrap().caller().unwrap();
        let all = [
            caller(&[("DAYPASS_ADDR", "h:1")]),
            caller(&[("DAYPASS_ADDR", "h:2")]),
            caller(&[("DAYPASS_ADDR", "h:1"), ("DAYPASS_TOKEN", "a")]),
            caller(&[("DAYPASS_ADDR", "h:1"), ("DAYPASS_TOKEN", "b")]),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[at + 1..].contains(one));
        }
        assert_eq!(all[0], caller(&[("DAYPASS_ADDR", "https://h:1")]));
    }
}
