//! Who is asking, by token: where the token comes from, and how a fresh one is had.

use std::{fmt, path::PathBuf};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::time::{Duration, Instant};
use tonic::metadata::{Ascii, MetadataValue};
use zeroize::Zeroizing;

use super::{
    ci::{command::Command, github::TokenRequest},
    error::{Error, Kind, Result},
    fingerprint::Fingerprint,
    settings::read_bounded,
};

/// The longest token, in bytes; servers bound their headers.
pub const MAX_TOKEN: usize = 16 * 1024;

/// How long a token that can be had anew is used for several calls. The shortest-lived ones, of GitHub, live 5 minutes.
pub const MAX_TOKEN_AGE: Duration = Duration::from_secs(60);

/// Claims that differ between two tokens of one and the same caller (RFC 7519, section 4.1).
const OF_THE_TOKEN: [&str; 4] = ["exp", "iat", "jti", "nbf"];

/// A bearer token, as the value of an `authorization` header that libraries do not print.
#[derive(Clone)]
pub struct Token(MetadataValue<Ascii>);

impl Token {
    /// A token as a header's value (RFC 6750, section 2.1: only visible ASCII); none when the text is no token.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let token = text.trim();
        if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        let header = Zeroizing::new(format!("Bearer {token}"));
        let mut value = MetadataValue::try_from(header.as_str()).ok()?;
        value.set_sensitive(true);
        Some(Self(value))
    }

    /// The header's value.
    pub(super) fn header(&self) -> MetadataValue<Ascii> {
        self.0.clone()
    }
}

/// Nothing of it.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Where tokens of one caller come from.
pub struct TokenSource {
    /// For messages: the setting, or the CI system.
    name: String,
    way: Way,
}

enum Way {
    /// There is this one.
    Fixed { token: Token, caller: String },
    /// Whoever writes the file keeps it fresh.
    File(PathBuf),
    /// GitHub's runner is asked.
    Github(TokenRequest),
    /// A program of the CI system is asked.
    Command(Command),
}

impl TokenSource {
    /// A token that is at hand. `name` is the setting that holds it.
    pub(super) fn fixed(name: impl Into<String>, text: &str) -> Result<Self> {
        let name = name.into();
        let token = Token::parse(text).ok_or_else(|| no_token(&name))?;
        Ok(Self { name, way: Way::Fixed { token, caller: caller(text) } })
    }

    /// A file that holds one. What can be read only once, a pipe, is read now.
    pub(crate) fn file(name: impl Into<String>, path: PathBuf) -> Result<Self> {
        let name = name.into();
        let text = read(&name, &path)?;
        let fixed = Self::fixed(name, &text)?;
        let again = std::fs::metadata(&path).is_ok_and(|found| found.is_file());
        Ok(if again { Self { name: fixed.name, way: Way::File(path) } } else { fixed })
    }

    pub(super) fn github(name: impl Into<String>, request: TokenRequest) -> Self {
        Self { name: name.into(), way: Way::Github(request) }
    }

    pub(super) fn command(name: impl Into<String>, command: Command) -> Self {
        Self { name: name.into(), way: Way::Command(command) }
    }

    /// Where it comes from, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A token: a new one where the source makes them, else the one that there is. Bounded in time and size; the token is printed
    /// nowhere.
    ///
    /// # Errors
    /// Not authenticated (`NO_IDENTITY`) when the source says no, with what to set; unavailable (`IDENTITY_UNAVAILABLE`) when asking
    /// again can help; usage when a file cannot be read.
    pub async fn fresh_token(&self) -> Result<Token> {
        let text = match &self.way {
            Way::Fixed { token, .. } => return Ok(token.clone()),
            Way::File(path) => read(&self.name, path)?,
            Way::Github(request) => request.send().await?,
            Way::Command(command) => command.run().await?,
        };
        Token::parse(&text).ok_or_else(|| no_token(&self.name))
    }

    /// Whether asking again can give another token.
    pub fn is_renewable(&self) -> bool {
        !matches!(self.way, Way::Fixed { .. })
    }

    /// What tells one caller from another, as far as it is known without asking for a token: hex digits that give nothing away.
    /// Of a token all claims but those of the token itself: two jobs of one subject may still differ in what they may have.
    ///
    /// # Errors
    /// As [`Self::fresh_token`], of a file.
    pub fn caller(&self) -> Result<String> {
        Ok(match &self.way {
            Way::Fixed { caller, .. } => caller.clone(),
            Way::File(path) => caller(&read(&self.name, path)?),
            Way::Github(request) => request.caller(),
            Way::Command(command) => command.caller(),
        })
    }
}

/// The token that a client holds, and where it gets the next one.
pub(super) struct Bearer {
    source: TokenSource,
    held: Option<(Token, Instant)>,
}

impl Bearer {
    pub fn new(source: TokenSource) -> Self {
        Self { source, held: None }
    }

    /// The held token while it is young, else a fresh one.
    pub async fn token(&mut self, now: Instant) -> Result<Token> {
        if let Some((token, since)) = &self.held
            && now.saturating_duration_since(*since) < MAX_TOKEN_AGE
        {
            return Ok(token.clone());
        }
        let token = self.source.fresh_token().await?;
        self.held = Some((token.clone(), now));
        Ok(token)
    }

    /// Forgets the held token: for one credential a token may be used once.
    pub fn spent(&mut self) {
        self.held = None;
    }
}

/// The claims of a token, unverified: good for telling tokens apart, and for nothing that trusts them.
pub(super) fn claims(token: &str) -> Option<serde_json::Map<String, serde_json::Value>> {
    let payload = token.trim().split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

fn caller(token: &str) -> String {
    match claims(token) {
        Some(mut claims) => {
            claims.retain(|name, _| !OF_THE_TOKEN.contains(&name.as_str()));
            Fingerprint::of("daypass caller claims").field(serde_json::Value::Object(claims).to_string()).hex()
        }
        None => Fingerprint::of("daypass caller token").field(token.trim()).hex(),
    }
}

fn read(name: &str, path: &std::path::Path) -> Result<Zeroizing<String>> {
    let bytes = read_bounded(path).map_err(|why| Error::usage(format!("{name} cannot be read: {why}")))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Error::usage(format!("{name} is not text")))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn no_token(name: &str) -> Error {
    Error::usage(format!("{name} holds no token: it must be one line of at most {MAX_TOKEN} bytes without spaces, as your CI gave it"))
}

/// The CI system gives no identity, and what to do about it.
pub(super) fn no_identity(message: impl Into<String>) -> Error {
    Error::new(Kind::NotAuthenticated, "NO_IDENTITY", message)
}

/// The CI system does not answer now.
pub(super) fn identity_unavailable(message: impl Into<String>) -> Error {
    Error::new(Kind::Unavailable, "IDENTITY_UNAVAILABLE", message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn jwt(claims: &serde_json::Value) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    #[test]
    fn two_tokens_of_one_caller_are_one_caller_and_every_other_claim_counts() {
        let base = json!({"iss": "https://ci", "sub": "repo:a/b", "exp": 1, "iat": 1, "nbf": 1, "jti": "x"});
        let next = json!({"iss": "https://ci", "sub": "repo:a/b", "exp": 2, "iat": 2, "nbf": 2, "jti": "y"});
        let source = |claims: &serde_json::Value| TokenSource::fixed("TEST", &jwt(claims)).unwrap().caller().unwrap();
        assert_eq!(source(&base), source(&next));
        let mut other = base.clone();
        for (name, value) in [("iss", "https://other"), ("sub", "repo:a/c"), ("environment", "production")] {
            other[name] = json!(value);
            assert_ne!(source(&base), source(&other), "{name}");
        }
        assert_ne!(caller("opaque-1"), caller("opaque-2"));
        assert!(!caller("opaque-1").contains("opaque"));
    }

    #[tokio::test]
    async fn a_file_is_read_again_and_a_pipe_is_not() {
        let now = Instant::now();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "one\n").unwrap();
        let source = TokenSource::file("--token-file", path.clone()).unwrap();
        let mut bearer = Bearer::new(source);
        let header = |token: Token| token.header().to_str().unwrap().to_owned();
        assert_eq!(header(bearer.token(now).await.unwrap()), "Bearer one");
        std::fs::write(&path, "two\n").unwrap();
        assert_eq!(header(bearer.token(now).await.unwrap()), "Bearer one", "it is young");
        bearer.spent();
        assert_eq!(header(bearer.token(now).await.unwrap()), "Bearer two");
        std::fs::remove_file(&path).unwrap();
        bearer.spent();
        assert_eq!(bearer.token(now).await.unwrap_err().kind(), Kind::Usage);
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, b"piped\n").unwrap();
        drop(writer);
        let fd = std::os::fd::AsRawFd::as_raw_fd(&reader);
        let source = TokenSource::file("--token-file", format!("/dev/fd/{fd}").into()).unwrap();
        assert!(!source.is_renewable());
        assert_eq!(header(source.fresh_token().await.unwrap()), "Bearer piped");
        assert_eq!(header(source.fresh_token().await.unwrap()), "Bearer piped");
    }

    #[tokio::test]
    async fn a_token_is_used_for_a_minute() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "one").unwrap();
        let mut bearer = Bearer::new(TokenSource::file("F", path.clone()).unwrap());
        let now = Instant::now();
        bearer.token(now).await.unwrap();
        std::fs::write(&path, "two").unwrap();
        assert_eq!(bearer.token(now + MAX_TOKEN_AGE - Duration::from_secs(1)).await.unwrap().header(), "Bearer one");
        assert_eq!(bearer.token(now + MAX_TOKEN_AGE).await.unwrap().header(), "Bearer two");
    }
}
