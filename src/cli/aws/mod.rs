//! `aws-credential-process`.

use std::io::Write;

use clap::Args as ClapArgs;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{
    cache::{self, Held, Order, Wanted},
    exit::{Exit, Outcome},
    issue::check_role,
    values::ttl,
};
use crate::client::{
    error::Error,
    settings::{Env, Settings},
};

/// `aws-credential-process`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
The session is kept in $XDG_CACHE_HOME/daypass or ~/.cache/daypass (or
DAYPASS_CACHE_DIR), mode 0600, and given again until a quarter of its life is
left, so that one lease serves every process. When the server is away a cached
session that still works is given, with a warning.

Example, in ~/.aws/config:
  [profile deploy]
  credential_process = daypass aws-credential-process deploy
  region = eu-central-1

Then:
  aws --profile deploy s3 ls
  AWS_PROFILE=deploy python3 job.py")]
pub struct CredentialProcess {
    /// The role, of kind aws
    role: String,
    /// How long the session shall live, 15m to 12h [default: the role's]
    #[arg(long, value_name = "SPAN", value_parser = ttl)]
    ttl: Option<SignedDuration>,
    /// Take a new session, not the cached one: for example after a revocation
    #[arg(long)]
    no_cache: bool,
}

/// What the AWS SDKs read (AWS SDKs and Tools Reference Guide, "Process credential provider").
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Answer<'a> {
    version: u32,
    access_key_id: &'a str,
    secret_access_key: &'a str,
    session_token: &'a str,
    expiration: Timestamp,
}

/// `aws-credential-process`.
pub async fn credential_process(settings: Settings, args: CredentialProcess, env: Env<'_>, out: &mut dyn Write) -> Outcome {
    let CredentialProcess { role, ttl, no_cache } = args;
    check_role(&role)?;
    let entry = cache::obtain(settings, &Order { role, ttl, wanted: Wanted::Aws }, no_cache, env).await?;
    let Held::Aws(session) = &entry.held else {
        return Err(Error::bad_answer("holds no AWS session").into());
    };
    let answer = Answer {
        version: 1,
        access_key_id: &session.access_key_id,
        secret_access_key: session.secret_access_key.expose(),
        session_token: session.session_token.expose(),
        expiration: entry.expires_at,
    };
    // Room for all of it at once, and wiped afterwards.
    let mut text = Zeroizing::new(Vec::with_capacity(16 * 1024));
    serde_json::to_writer(&mut *text, &answer).map_err(std::io::Error::from)?;
    text.push(b'\n');
    out.write_all(&text)?;
    Ok(Exit::Done)
}
