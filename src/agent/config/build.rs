//! Makes a configuration of the sections, and says what is wrong with them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::SignedDuration;
use rustix::process::Signal;
use tracing_subscriber::EnvFilter;

use super::{
    ALLOWED_FILE_MODE, Config, DEFAULT_FILE_MODE, DEFAULT_HOOK_TIMEOUT, FileNames, IdentityWay, LogConfig, MAX_HOOK_TIMEOUT, MAX_NAME,
    MAX_ROLES, MAX_WORDS, OnChange, Place, RoleConfig, ServerConfig,
    file::{At, Draft, Reader},
    sections::{FilesSection, HealthSection, IdentitySection, LogSection, OnChangeSection, RoleSection, ServerSection},
};
use crate::{
    agent::{
        accounts::{gid, uid},
        sockets::SocketsSection,
    },
    client::{
        ci::{self, DEFAULT_AUDIENCE},
        material::files,
        settings::DEFAULT_TIMEOUT,
    },
    model::name::RoleName,
};

/// The signals that can be sent after a change.
const SIGNALS: [(&str, Signal); 5] =
    [("HUP", Signal::HUP), ("USR1", Signal::USR1), ("USR2", Signal::USR2), ("TERM", Signal::TERM), ("INT", Signal::INT)];

/// The longest life that can be asked for; the server has its own bounds below.
const MAX_TTL: SignedDuration = SignedDuration::from_hours(24 * 365);

/// The longest time that a call can be given. The agent's identity is acknowledged 30 s after it was given out: by then nobody may be at a
/// handshake with the one before.
const MAX_TIMEOUT: SignedDuration = SignedDuration::from_secs(29);

/// None when a section without which there is nothing is missing or broken; the reader has the faults.
pub(super) fn build(reader: &mut Reader, draft: Draft) -> Option<Config> {
    let Draft { seen, state_dir, server, identity, log, health, roles, sockets } = draft;
    for (name, example) in [("state_dir", "state_dir = \"state\""), ("server", "[server] with address = \"host:port\"")] {
        if !seen.iter().any(|seen| seen == name) {
            reader.fault(0, format!("{name} is missing: write {example}"));
        }
    }
    let has_roles = seen.iter().any(|seen| seen == "role");
    if !has_roles {
        reader.fault(0, "there is no role to keep: write [[role]] with name and dir");
    }
    let state_dir = state_dir.map(|found| reader.dir.join(found.value));
    let server = server.and_then(|section| server_config(reader, section));
    let identity = match identity {
        Some(section) => identity_way(reader, section),
        None => (!seen.iter().any(|seen| seen == "identity")).then_some(IdentityWay::Enrolled),
    };
    let log = log.map_or_else(|| Some(log_of(LogSection::default())), |section| log_config(reader, section));
    let health = health.map(|section| health_address(reader, &section));
    let roles = role_configs(reader, roles, state_dir.as_deref());
    let sockets = sockets_section(reader, sockets, &roles);
    Some(Config { state_dir: state_dir?, server: server?, identity: identity?, log: log?, health, roles, sockets })
}

fn server_config(reader: &mut Reader, section: At<ServerSection>) -> Option<ServerConfig> {
    let At { line, value: ServerSection { address, ca, timeout } } = section;
    let timeout = match timeout {
        None => DEFAULT_TIMEOUT,
        Some(wanted) if wanted.is_positive() && wanted <= MAX_TIMEOUT => wanted.unsigned_abs(),
        Some(wanted) => {
            reader.fault(line, format!("server.timeout: {wanted:#} is not between 1ms and {MAX_TIMEOUT:#}"));
            DEFAULT_TIMEOUT
        }
    };
    let address = address.parse().map_err(|why| reader.fault(line, format!("server.address is no address: {why}"))).ok()?;
    Some(ServerConfig { address, ca: ca.map(|ca| reader.dir.join(ca)), timeout })
}

fn identity_way(reader: &mut Reader, section: At<IdentitySection>) -> Option<IdentityWay> {
    let At { line, value } = section;
    let IdentitySection { certificate, key, token_file, platform, audience } = value;
    let path = |path: PathBuf| reader.dir.join(path);
    let way = match (certificate, key, token_file, platform) {
        (None, None, None, None) => Ok(IdentityWay::Enrolled),
        (Some(certificate), Some(key), None, None) => Ok(IdentityWay::Certificate { certificate: path(certificate), key: path(key) }),
        (None, None, Some(file), None) => Ok(IdentityWay::TokenFile(path(file))),
        (None, None, None, Some(platform)) => platform_way(&platform, audience.as_deref()),
        (Some(_), None, ..) => Err("identity.certificate is set without identity.key".to_owned()),
        (None, Some(_), ..) => Err("identity.key is set without identity.certificate".to_owned()),
        _ => Err("identity: give one of certificate and key, token_file, platform; or none, for the enrolled identity".to_owned()),
    };
    if audience.is_some() && !matches!(way, Ok(IdentityWay::Platform { .. }) | Err(_)) {
        reader.fault(line, "identity.audience is for a platform's token");
    }
    way.map_err(|why| reader.fault(line, why)).ok()
}

fn platform_way(platform: &str, audience: Option<&str>) -> Result<IdentityWay, String> {
    let platform = match platform.parse() {
        Ok(platform @ ci::Identity::Of(_)) => platform,
        _ => return Err("identity.platform: write github, gitlab, buildkite, circleci or kubernetes".to_owned()),
    };
    let audience = ci::audience(audience.unwrap_or(DEFAULT_AUDIENCE)).map_err(|why| format!("identity.audience is no audience: {why}"))?;
    Ok(IdentityWay::Platform { platform, audience })
}

fn log_config(reader: &mut Reader, section: At<LogSection>) -> Option<LogConfig> {
    if let Err(error) = EnvFilter::try_new(&section.value.filter) {
        reader.fault(section.line, format!("log.filter: {error}"));
        return None;
    }
    Some(log_of(section.value))
}

fn log_of(section: LogSection) -> LogConfig {
    LogConfig { format: section.format, filter: section.filter }
}

fn health_address(reader: &mut Reader, section: &At<HealthSection>) -> std::net::SocketAddr {
    let listen = section.value.listen;
    if !listen.ip().is_loopback() {
        reader.fault(section.line, format!("health.listen: {listen} is not of the loopback interface; take 127.0.0.1"));
    }
    listen
}

fn role_configs(reader: &mut Reader, sections: Vec<At<RoleSection>>, state_dir: Option<&Path>) -> Vec<RoleConfig> {
    if sections.len() > MAX_ROLES {
        let count = sections.len();
        reader.fault(sections[MAX_ROLES].line, format!("there are {count} roles; an agent keeps at most {MAX_ROLES}"));
    }
    let mut roles: Vec<RoleConfig> = Vec::new();
    for section in sections {
        let line = section.line;
        let role = role_config(reader, section);
        let dir = |role: &RoleConfig| role.place.as_ref().map(|place| place.dir.clone());
        if roles.iter().any(|before| before.name == role.name) {
            reader.fault(line, format!("role {}: two roles have this name", role.name));
        }
        if let Some(mine) = dir(&role) {
            if roles.iter().any(|before| dir(before).as_ref() == Some(&mine)) {
                reader.fault(line, format!("role {}: another role has this dir", role.name));
            }
            if state_dir == Some(&mine) {
                reader.fault(line, format!("role {}: dir is the agent's state_dir; name another one", role.name));
            }
        }
        roles.push(role);
    }
    roles
}

fn role_config(reader: &mut Reader, section: At<RoleSection>) -> RoleConfig {
    let At { line, value } = section;
    let RoleSection { name, role, ttl, audience, dir, owner, group, mode, files, on_change } = value;
    let mut faults = Vec::new();
    let is_name = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !is_name || name.starts_with('-') {
        faults.push(format!("a name is 1 to {MAX_NAME} of a-z, 0-9 and -, and begins with none; got {name:?}"));
    }
    let role = role.unwrap_or_else(|| name.clone());
    if let (true, Err(why)) = (is_name || role != name, role.parse::<RoleName>()) {
        faults.push(format!("role: {why}"));
    }
    if ttl.is_some_and(|ttl| ttl < SignedDuration::from_secs(1) || ttl > MAX_TTL) {
        faults.push("ttl: write a span of at least 1s, such as \"15m\"".to_owned());
    }
    if let Some(Err(why)) = audience.as_deref().map(ci::audience) {
        faults.push(format!("audience: {why}"));
    }
    let place = match dir {
        Some(dir) => Some(place(reader.dir.join(dir), owner, group, mode, files, &mut faults)),
        None => {
            if owner.is_some() || group.is_some() || mode.is_some() || !files.is_empty() {
                faults.push("owner, group, mode and files are for files: name their dir".to_owned());
            }
            if on_change.is_some() {
                faults.push("on_change tells of files: name their dir".to_owned());
            }
            None
        }
    };
    let on_change = on_change.and_then(|section| told(section, &reader.dir, &mut faults));
    for fault in faults {
        reader.fault(line, format!("role {name}: {fault}"));
    }
    RoleConfig { name, role, ttl, audience, place, on_change }
}

fn place(
    dir: PathBuf,
    owner: Option<crate::agent::accounts::User>,
    group: Option<crate::agent::sockets::config::Group>,
    mode: Option<crate::agent::sockets::config::Mode>,
    files: FilesSection,
    faults: &mut Vec<String>,
) -> Place {
    let mode = mode.unwrap_or(DEFAULT_FILE_MODE);
    if mode.0 & !ALLOWED_FILE_MODE != 0 || mode.0 & 0o400 == 0 {
        faults
            .push(format!("mode: {:04o} is none of 0400, 0440, 0600 and 0640: a key is for its owner, and for its group at most", mode.0));
    }
    if dir.file_name().is_none() {
        faults.push(format!("dir: {} names no directory", dir.display()));
    }
    if let Some(Err(error)) = owner.as_ref().map(uid) {
        faults.push(format!("owner: {error}"));
    }
    if let Some(Err(error)) = group.as_ref().map(gid) {
        faults.push(format!("group: {error}"));
    }
    Place { dir, owner, group, mode, names: file_names(files, faults) }
}

fn file_names(section: FilesSection, faults: &mut Vec<String>) -> FileNames {
    let FilesSection { certificate, key, ca, combined, credentials, config, token } = section;
    let mut names = FileNames { combined, ..FileNames::default() };
    let given = [
        (files::CERTIFICATE, certificate),
        (files::KEY, key),
        (files::CA, ca),
        (files::AWS_CREDENTIALS, credentials),
        (files::DOCKER_CONFIG, config),
        (files::TOKEN, token),
    ];
    names.names.extend(given.into_iter().filter_map(|(name, given)| Some((name, given?))));
    for name in names.all() {
        let is_name = (1..=255).contains(&name.len()) && !name.starts_with("..") && !name.contains(['/', '\0']) && name != ".";
        if !is_name {
            faults.push(format!("files: {name:?} is no name of a file, or begins with two dots"));
        }
    }
    let distinct: BTreeSet<&str> = names.all().collect();
    if distinct.len() < names.all().count() {
        faults.push("files: two of them have one name".to_owned());
    }
    names
}

fn told(section: OnChangeSection, dir: &Path, faults: &mut Vec<String>) -> Option<OnChange> {
    let OnChangeSection { command, timeout, env, signal, pid_file } = section;
    match (command, signal, pid_file) {
        (Some(words), None, None) => {
            command_faults(&words, &env, faults);
            Some(OnChange::Command { words, timeout: hook_timeout(timeout, faults), env })
        }
        (None, Some(signal), Some(pid_file)) => {
            if timeout.is_some() || !env.is_empty() {
                faults.push("on_change: timeout and env are for a command".to_owned());
            }
            let name = signal.strip_prefix("SIG").unwrap_or(&signal);
            let Some((_, signal)) = SIGNALS.iter().find(|(known, _)| *known == name) else {
                faults.push(format!("on_change.signal: {signal:?} is none of HUP, USR1, USR2, TERM and INT"));
                return None;
            };
            Some(OnChange::Signal { signal: *signal, pid_file: dir.join(pid_file) })
        }
        _ => {
            faults.push("on_change: give a command, or signal and pid_file".to_owned());
            None
        }
    }
}

fn command_faults(words: &[String], env: &std::collections::BTreeMap<String, String>, faults: &mut Vec<String>) {
    if words.first().is_none_or(String::is_empty) {
        faults.push("on_change.command: name a program, then its arguments: [\"systemctl\", \"reload\", \"nginx\"]".to_owned());
    }
    if words.len().max(env.len()) > MAX_WORDS {
        faults.push(format!("on_change: a command has at most {MAX_WORDS} words and {MAX_WORDS} variables"));
    }
    if words.iter().any(|word| word.contains('\0')) {
        faults.push("on_change.command: a word holds a NUL".to_owned());
    }
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            faults.push(format!("on_change.env: {name:?} cannot be a variable, or its value not its value"));
        }
    }
}

fn hook_timeout(wanted: Option<SignedDuration>, faults: &mut Vec<String>) -> Duration {
    match wanted.map(Duration::try_from) {
        None => DEFAULT_HOOK_TIMEOUT,
        Some(Ok(wanted)) if !wanted.is_zero() && wanted <= MAX_HOOK_TIMEOUT => wanted,
        Some(_) => {
            faults.push(format!("on_change.timeout: write a span of at most {}s", MAX_HOOK_TIMEOUT.as_secs()));
            DEFAULT_HOOK_TIMEOUT
        }
    }
}

fn sockets_section(reader: &mut Reader, section: Option<At<SocketsSection>>, roles: &[RoleConfig]) -> SocketsSection {
    let Some(At { line, value: mut sockets }) = section else { return SocketsSection::default() };
    sockets.resolve(&reader.dir);
    let names = roles.iter().map(|role| role.name.as_str()).collect();
    for fault in sockets.faults(&names) {
        reader.fault(line, fault);
    }
    sockets
}

impl FilesSection {
    fn is_empty(&self) -> bool {
        let Self { certificate, key, ca, combined, credentials, config, token } = self;
        [certificate, key, ca, combined, credentials, config, token].into_iter().all(Option::is_none)
    }
}
