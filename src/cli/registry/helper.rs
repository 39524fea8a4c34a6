//! `docker-credential-daypass`: what docker, skopeo, podman and others run for a registry's credentials, by the protocol of
//! docker-credential-helpers. Whoever runs it shows its standard output, so that is where its errors go.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    io::{self, Read, Write},
    path::Path,
};

use serde::Serialize;
use zeroize::Zeroizing;

use super::{known::Registries, registry};
use crate::{
    cli::{
        block_on,
        cache::{self, Held},
        exit::Exit,
    },
    client::{
        error::{Error, Result},
        settings::{Env, Flags, Settings},
        text::one_line,
    },
};

/// What it is called on disk.
pub const NAME: &str = "docker-credential-daypass";

/// The most that is read from standard input, in bytes.
pub const MAX_INPUT: usize = 64 * 1024;

/// What the protocol has a helper say of a registry that it knows nothing of: then docker goes on without credentials.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// What docker reads.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Credentials<'a> {
    #[serde(rename = "ServerURL")]
    server_url: &'a str,
    username: &'a str,
    secret: &'a str,
}

/// Whether a program's own name is the helper's: it may be a link to `daypass`.
pub fn is_name(word: Option<&OsString>) -> bool {
    word.is_some_and(|word| Path::new(word).file_name().is_some_and(|name| name == NAME))
}

/// Runs one verb with the process's own environment and streams.
pub fn run(words: &[OsString]) -> Exit {
    let text = match verb(words, &|name| env::var_os(name)) {
        Ok(text) => (text, Exit::Done),
        Err(error) => (Zeroizing::new(one_line(error.message())), Exit::Failed),
    };
    match writeln!(io::stdout(), "{}", *text.0) {
        Ok(()) => text.1,
        Err(_) => Exit::Failed,
    }
}

fn verb(words: &[OsString], env: Env<'_>) -> Result<Zeroizing<String>> {
    let [_, verb] = words else { return Err(usage()) };
    match verb.to_str() {
        Some("get") => get(&asked()?, env),
        Some("list") => list(env),
        Some("store") => {
            asked()?;
            Err(Error::usage(
                "daypass makes the credentials for this registry itself and stores none; to use your own, first run `daypass registry logout`",
            ))
        }
        Some("erase") => {
            asked()?;
            Err(Error::usage(
                "nothing is stored here, so nothing was erased; to have daypass revoke and forget, run `daypass registry logout`",
            ))
        }
        Some("version" | "--version") => Ok(Zeroizing::new(format!("{NAME} (daypass) v{}", env!("CARGO_PKG_VERSION")))),
        _ => Err(usage()),
    }
}

fn usage() -> Error {
    Error::usage(format!("usage: {NAME} get|list|version (docker runs it; `daypass registry login ROLE` tells docker to)"))
}

fn get(asked: &str, env: Env<'_>) -> Result<Zeroizing<String>> {
    let registries = Registries::read(env)?;
    let host = registry(asked).map_err(|_| Error::usage(NOT_FOUND))?;
    let known = registries.get(&host).ok_or_else(|| Error::usage(NOT_FOUND))?;
    let mut settings = Settings::load(Flags::default(), &known.env(env))?;
    // Nobody looks at what a helper remarks.
    settings.found_identity = None;
    settings.warnings.clear();
    let entry = block_on(async { cache::obtain(settings, &known.order(), false, env).await })??;
    let Held::Registry(held) = &entry.held else { return Err(Error::bad_answer("holds no credential for a registry")) };
    // A role can be moved to another registry, and what is that one's is not for this one to see.
    let (wanted, held_for) = (known.registry(&host), registry(&held.registry));
    if held_for.as_deref() != Ok(wanted) {
        return Err(Error::usage(format!(
            "the role {} is for the registry {} now and was for {wanted}: run `daypass registry logout {host}`, and log in again",
            known.role(),
            one_line(&held.registry),
        )));
    }
    let credentials = Credentials { server_url: asked, username: &held.username, secret: held.secret.expose() };
    json(&credentials)
}

/// The registries, each with its role: whose user name a lease will have is not known before it is made.
fn list(env: Env<'_>) -> Result<Zeroizing<String>> {
    let registries = Registries::read(env)?;
    let all: BTreeMap<_, _> = registries.iter().map(|(host, known)| (host.as_str(), known.role())).collect();
    json(&all)
}

fn json(value: &impl Serialize) -> Result<Zeroizing<String>> {
    serde_json::to_string(value).map(Zeroizing::new).map_err(|error| Error::usage(error.to_string()))
}

/// Standard input: for `get` and `erase` a registry, for `store` credentials, which are read so that docker need not break off.
fn asked() -> Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::with_capacity(MAX_INPUT + 1));
    let read = io::stdin().take(MAX_INPUT as u64 + 1).read_to_string(&mut text);
    match read {
        Ok(length) if length <= MAX_INPUT => Ok(Zeroizing::new(text.trim().to_owned())),
        Ok(_) => Err(Error::usage(format!("standard input is longer than {MAX_INPUT} bytes"))),
        Err(_) => Err(Error::usage("standard input is not text")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_knows_its_name() {
        for name in ["docker-credential-daypass", "/usr/local/bin/docker-credential-daypass"] {
            assert!(is_name(Some(&name.into())));
        }
        for name in ["daypass", "/x/docker-credential-daypass/daypass", "docker-credential-other"] {
            assert!(!is_name(Some(&name.into())));
        }
        assert!(!is_name(None));
    }
}
