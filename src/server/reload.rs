//! Takes a changed configuration into service: policies, roles, tenants, issuers, trust domains, CRLs, the server's certificate.
//! A broken one leaves the old one in force and says so.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::signal::unix::Signal;

use super::{
    config::{self, Config, Watched},
    run::Parts,
};
use crate::{
    background::ticker,
    issuer::x509::Ca,
    model::{
        error::{Code, Error, Result},
        fault::Fault,
        name::CaName,
    },
    vend::Rules,
};

/// How often the files are looked at. A look reads their metadata, not their content.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What tells a changed file from an unchanged one: its inode, when that was changed (which nobody can set), its length.
type Stamp = Vec<Option<(u64, i64, i64, u64)>>;

/// Reloads on SIGHUP and when a watched file changed.
pub(super) async fn watch(parts: Arc<Parts>, path: PathBuf, started: Watched, mut hangup: Signal) {
    let mut watched = started.files.clone();
    let mut tick = ticker(LOOK_EVERY);
    let mut seen = stamp(&watched);
    loop {
        let asked = tokio::select! {
            _ = tick.tick() => false,
            _ = hangup.recv() => true,
        };
        let now = stamp(&watched);
        if !asked && now == seen {
            continue;
        }
        // From before the files were read: a change while they were is seen at the next look.
        seen = now;
        match reload(&parts, &path, &started).await {
            Ok(files) if files == watched => {}
            Ok(files) => {
                watched = files;
                seen = Stamp::new();
            }
            Err(faults) => {
                metrics::gauge!("daypass_config_in_force").set(0.0);
                for fault in &faults {
                    tracing::error!(%fault, "the new configuration is refused; the old one stays in force");
                }
                parts.vend.reloaded(Err(&faults)).await;
            }
        }
    }
}

/// Gives the files to look at from now on.
async fn reload(parts: &Arc<Parts>, path: &Path, started: &Watched) -> std::result::Result<Vec<PathBuf>, Vec<Fault>> {
    let (file, now) = (path.to_owned(), parts.vend.now());
    let loaded = tokio::task::spawn_blocking(move || config::load(&file, now)).await;
    let at_file = |error: Error| vec![Fault { file: path.display().to_string(), line: 0, message: error.to_string() }];
    let config = loaded.map_err(|panic| at_file(Error::internal(panic)))??;
    let watched = config.watched.clone();
    for warning in &config.warnings {
        tracing::warn!(%warning, "configuration");
    }
    if names(&config.rules) != names(&parts.vend.rules()) {
        return Err(at_file(Error::new(Code::InvalidRequest, "adding or removing a [[ca]], or whether it rotates, needs a restart")));
    }
    let ready = parts.keys.prepare(&config.rules, config.wrapper.clone()).await;
    ready.map_err(|error| at_file(Error::new(error.code(), error.cause().unwrap_or(error.public()).to_owned())))?;
    // It reads key files and builds the trust, with its CRLs: not on a thread that serves.
    let applied = tokio::task::spawn_blocking({
        let parts = parts.clone();
        move || apply(&parts, config)
    });
    applied.await.map_err(|panic| at_file(Error::internal(panic)))?.map_err(at_file)?;
    metrics::gauge!("daypass_config_in_force").set(1.0);
    let ignored = started.need_restart(&watched);
    parts.vend.reloaded(Ok(&ignored)).await;
    tracing::info!(policy_version = %parts.vend.rules().book.version(), "the new configuration is in force");
    if !ignored.is_empty() {
        tracing::warn!(sections = ignored.join(", "), "what has changed in these sections is not in force: it needs a restart");
    }
    Ok(watched.files)
}

/// Puts a checked configuration in force. What can still fail comes first, so that nothing is half taken.
fn apply(parts: &Parts, config: Config) -> Result<()> {
    parts.own.check(&config.identity)?;
    let callers = parts.authn.prepare(config.issuers, parts.vend.now())?;
    parts.trust.replace(config.trust_domains)?;
    parts.own.want(config.identity)?;
    parts.authn.replace(callers);
    parts.vend.replace_rules(config.rules);
    parts.keys.replace_wrapper(config.wrapper);
    Ok(())
}

/// The CAs by their configured names, and whether they rotate.
fn names(rules: &Rules) -> Vec<(&CaName, bool)> {
    rules.issuers.x509.cas().iter().map(|(name, ca)| (name, matches!(ca, Ca::Rotating(_)))).collect()
}

fn stamp(files: &[PathBuf]) -> Stamp {
    let one = |path: &PathBuf| std::fs::metadata(path).ok().map(|meta| (meta.ino(), meta.ctime(), meta.ctime_nsec(), meta.len()));
    files.iter().map(one).collect()
}
