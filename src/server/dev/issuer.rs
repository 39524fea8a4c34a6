//! A throwaway OIDC issuer: a key, its JWKS as a file, and a token with GitHub Actions' claims that is always fresh.

use std::{fs, path::Path, path::PathBuf, time::Duration};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::{KeyPair, KeySize},
    signature::KeyPair as _,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use zeroize::Zeroizing;

use super::{at, write};
use crate::{
    background::ticker,
    clock::{self, Clock, SystemClock},
    model::{
        Timestamp,
        error::{Error, Result},
        pem,
    },
};

/// The `iss` of its tokens.
const URL: &str = "https://token.actions.dev.daypass.test";

/// The `aud` of its tokens.
const AUDIENCE: &str = "daypass";

/// The `kid` of its key.
const KID: &str = "dev";

/// How long a token lives, in seconds, as at GitHub.
const LIFE: i64 = 300;

/// How often a new token is written: each may be used once for a role, and a script should find a fresh one.
const REFRESH_EVERY: Duration = Duration::from_millis(500);

/// Makes the issuer's key and JWKS unless they are there.
pub(super) fn make(dir: &Path) -> Result<()> {
    let (key_path, jwks_path) = (dir.join("issuer/key.pem"), dir.join("issuer/jwks.json"));
    if key_path.exists() && jwks_path.exists() {
        return Ok(());
    }
    let pair = KeyPair::generate(KeySize::Rsa2048).map_err(Error::internal)?;
    let der: Pkcs8V1Der<'_> = pair.as_der().map_err(Error::internal)?;
    let public = pair.public_key();
    let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (n, e) = (public.modulus(), public.exponent());
    let jwks = json!({ "keys": [{
        "kty": "RSA", "use": "sig", "alg": "RS256", "kid": KID,
        "n": number(n.big_endian_without_leading_zero()), "e": number(e.big_endian_without_leading_zero()),
    }] });
    write(&key_path, key_pem(der.as_ref()).as_bytes(), 0o600)?;
    write(&jwks_path, jwks.to_string().as_bytes(), 0o644)
}

/// Writes `job.jwt`.
pub(super) struct JobTokens {
    path: PathBuf,
    key: EncodingKey,
}

impl JobTokens {
    /// Opens the issuer of a directory.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("issuer/key.pem");
        let pem = Zeroizing::new(fs::read(&path).map_err(|error| at(&path, &error))?);
        Ok(Self { path: dir.join("job.jwt"), key: EncodingKey::from_rsa_pem(&pem).map_err(Error::internal)? })
    }

    /// Writes a fresh token.
    pub(super) fn write(&self, now: Timestamp) -> Result<()> {
        let id = uuid::Builder::from_random_bytes(clock::random()).into_uuid();
        let at = now.as_second();
        let claims = json!({
            "iss": URL, "aud": AUDIENCE, "sub": "repo:acme/widget:ref:refs/heads/main", "jti": id.to_string(),
            "iat": at, "nbf": at, "exp": at + LIFE,
            "ref": "refs/heads/main", "ref_type": "branch", "ref_protected": "true", "sha": "0".repeat(40),
            "repository": "acme/widget", "repository_id": "74", "repository_owner": "acme", "repository_owner_id": "65",
            "repository_visibility": "private", "run_id": "30433642", "run_number": "10", "run_attempt": "1",
            "actor": "octocat", "actor_id": "12", "workflow": "release", "head_ref": "", "base_ref": "", "event_name": "push",
            "environment": "prod", "runner_environment": "github-hosted",
            "workflow_ref": "acme/widget/.github/workflows/release.yml@refs/heads/main", "workflow_sha": "0".repeat(40),
            "job_workflow_ref": "acme/widget/.github/workflows/release.yml@refs/heads/main", "job_workflow_sha": "0".repeat(40),
        });
        let header = Header { kid: Some(KID.to_owned()), ..Header::new(Algorithm::RS256) };
        let token = jsonwebtoken::encode(&header, &claims, &self.key).map_err(Error::internal)?;
        write(&self.path, format!("{token}\n").as_bytes(), 0o600)
    }

    /// Keeps the token fresh until the task is ended.
    pub(super) async fn keep_fresh(self) {
        let mut tick = ticker(REFRESH_EVERY);
        loop {
            tick.tick().await;
            if let Err(error) = self.write(SystemClock.now()) {
                tracing::warn!(%error, "job.jwt could not be written");
            }
        }
    }
}

/// A key in PKCS #8 as text (RFC 7468 section 10).
fn key_pem(pkcs8: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::new());
    pem::push(&mut text, "PRIVATE KEY", pkcs8);
    text
}
