//! `registry login` and `logout`, and the credential helper that docker then runs.

mod docker_config;
pub mod helper;
mod known;

use std::{env, io::Write, path::Path};

use clap::{Args as ClapArgs, Subcommand};
use jiff::SignedDuration;

use self::{
    docker_config::DockerConfig,
    known::{Known, Registries},
};
use super::{
    cache::{self, Held, Order, Wanted},
    exit::{Exit, Outcome},
    issue::check_role,
    output,
    values::ttl,
};
use crate::client::{
    error::{Error, Kind, Result},
    settings::{Env, Flags, Settings},
    text::one_line,
};

/// The longest name of a registry, in bytes: that of a host (RFC 1035) and a port.
pub const MAX_REGISTRY: usize = 253 + 6;

/// `registry`.
#[derive(Debug, Subcommand)]
pub enum Registry {
    /// Have docker, skopeo and podman ask daypass for a registry's credentials
    #[command(after_help = "\
It remembers in ~/.config/daypass that the role is for this registry, with the
server and the files that say who you are, and no secret; and it writes
`credHelpers` into docker's config.json. From then on every push and pull runs
docker-credential-daypass, which keeps one lease for all of them.

Examples:
  daypass registry login push
  daypass registry login push 127.0.0.1:5000 --ttl 30m
  docker push 127.0.0.1:5000/demo/app:v1")]
    Login(Login),
    /// Undo `registry login`, and revoke the lease that is kept
    #[command(after_help = "Example:\n  daypass registry logout 127.0.0.1:5000")]
    Logout {
        /// The registry [default: the only one]
        #[arg(value_parser = registry)]
        registry: Option<String>,
    },
}

/// `registry login`.
#[derive(Debug, ClapArgs)]
pub struct Login {
    /// The role, of kind registry or ecr
    role: String,
    /// The registry as images name it, host[:port] [default: the role's]
    #[arg(value_parser = registry)]
    registry: Option<String>,
    /// How long each lease shall live [default: the role's]
    #[arg(long, value_name = "SPAN", value_parser = ttl)]
    ttl: Option<SignedDuration>,
}

/// `registry`.
pub async fn run(flags: Flags, quiet: bool, command: Registry, env: Env<'_>, out: &mut dyn Write) -> Outcome {
    match command {
        Registry::Login(args) => login(flags, quiet, args, env, out).await,
        Registry::Logout { registry } => logout(flags, registry, env, out).await,
    }
}

async fn login(flags: Flags, quiet: bool, args: Login, env: Env<'_>, out: &mut dyn Write) -> Outcome {
    let Login { role, registry: given, ttl } = args;
    check_role(&role)?;
    // What is broken costs no lease.
    let mut docker = DockerConfig::read(env)?;
    let mut registries = Registries::read(env)?;
    let known = Known::new(&role, ttl, &flags, env)?;
    let mut settings = Settings::load(flags, env)?;
    if quiet {
        settings.found_identity = None;
    }
    // The first credential proves that the role is one for a registry, and the helper finds it in the cache.
    let entry = cache::obtain(settings, &Order { role: role.clone(), ttl, wanted: Wanted::Registry }, false, env).await?;
    let Held::Registry(credential) = &entry.held else {
        return Err(Error::bad_answer("holds no credential for a registry").into());
    };
    let own = registry(&credential.registry).map_err(|why| Error::bad_answer(format_args!("names a registry, and {why}")))?;
    let host = given.unwrap_or_else(|| own.clone());
    if host != own {
        output::note(&format!("warning: the role {role} is for the registry {own}, and not {host}, unless that is the same one"), false);
    }
    docker.set(&host)?;
    registries.insert(host.clone(), known.at(own));
    registries.write()?;
    docker.write()?;
    writeln!(out, "docker takes credentials for {host} from daypass now (role {role})")?;
    if !on_path(helper::NAME, env) {
        let own = env::current_exe().ok().and_then(|path| path.canonicalize().ok());
        let own = own.map_or_else(|| "daypass".to_owned(), |path| path.display().to_string());
        output::note(
            &format!("warning: {0} is not on PATH, where docker looks for it: ln -s {own} /usr/local/bin/{0}", helper::NAME),
            false,
        );
    }
    Ok(Exit::Done)
}

async fn logout(flags: Flags, given: Option<String>, env: Env<'_>, out: &mut dyn Write) -> Outcome {
    let mut docker = DockerConfig::read(env)?;
    let mut registries = Registries::read(env)?;
    let host = match given {
        Some(host) => host,
        None => registries.only()?,
    };
    let known = registries.remove(&host);
    let had_helper = docker.unset(&host);
    if known.is_none() && !had_helper {
        let text = format!("there was no `daypass registry login` for {host}");
        return Err(Error::new(Kind::NotFound, "REGISTRY_NOT_FOUND", text).into());
    }
    docker.write()?;
    registries.write()?;
    if let Some(known) = known
        && let Err(error) = revoke(flags, &known, env).await
    {
        output::note(&format!("warning: the lease that was kept for {host} lives until it expires: {}", error.message()), false);
    }
    writeln!(out, "docker takes credentials for {host} from daypass no more")?;
    Ok(Exit::Done)
}

async fn revoke(flags: Flags, known: &Known, env: Env<'_>) -> Result<()> {
    let settings = Settings::load(flags, &known.env(env))?;
    cache::revoke(settings, &known.order(), "registry logout", env).await.map(drop)
}

/// `host[:port]` of a registry, as docker names it in its configuration: of a URL too.
pub fn registry(text: &str) -> Result<String, String> {
    let text = text.trim();
    let text = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    let host = text.split('/').next().unwrap_or_default().to_ascii_lowercase();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b);
    match !host.is_empty() && host.len() <= MAX_REGISTRY && host.bytes().all(plain) {
        true => Ok(host),
        false => Err(format!("{:?} is no registry: write its host, or host:port", one_line(text))),
    }
}

fn on_path(name: &str, env: Env<'_>) -> bool {
    env("PATH").is_some_and(|path| env::split_paths(&path).any(|dir| Path::new(&dir).join(name).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_as_docker_names_them() {
        for (text, host) in [
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("https://Registry.Example.org/v2/", "registry.example.org"),
            ("http://localhost:5000\n", "localhost:5000"),
            ("[::1]:5000", "[::1]:5000"),
            ("1234.dkr.ecr.eu-central-1.amazonaws.com", "1234.dkr.ecr.eu-central-1.amazonaws.com"),
        ] {
            assert_eq!(registry(text), Ok(host.to_owned()));
        }
        for bad in ["", "https://", "a b", "a\u{1b}", "user@host", &"a".repeat(MAX_REGISTRY + 1)] {
            assert!(registry(bad).is_err(), "{bad:?}");
        }
    }
}
