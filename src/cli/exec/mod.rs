//! `exec`: runs a command with credentials that are renewed while it runs and revoked when it ends.
//!
//! The way it goes: catch signals, make a private directory, start the watcher, issue a lease for each role, hand the credentials out,
//! start the command; then wait for its end, pass signals on and renew; at last revoke, dismiss the watcher, remove the directory.

pub mod args;
mod command;
mod desk;
mod dir;
mod endpoint;
mod keep;
mod server;
mod signals;
mod watch;

use std::{
    collections::BTreeSet,
    pin::{Pin, pin},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep, sleep_until};

pub use self::watch::WATCH;
use self::{
    args::Exec,
    command::Running,
    desk::Desk,
    dir::PrivateDir,
    keep::{Held, Wish},
    server::{Server, not_revoked},
    signals::Signals,
    watch::Watcher,
};
use super::{
    block_on,
    connection::Connection,
    exit::{Exit, Outcome, Stop},
    issue::check_role,
    material::Material,
    output,
};
use crate::client::error::{Error, Result};

/// The most roles of one command.
pub const MAX_ROLES: usize = 16;

/// How long what was asked for may still take, once it is clear that the command will not be started.
pub const GRACE: Duration = Duration::from_secs(2);

/// A signal that comes later than this after the command's end means haste: the rest is left to the watcher.
pub const HASTE: Duration = Duration::from_secs(1);

/// `exec`.
pub fn run(connection: Connection, args: Exec) -> Outcome {
    let wishes = wishes(&args)?;
    let signals = Signals::catch()?;
    block_on(exec(Server::new(connection), wishes, args, signals))?
}

/// The watcher of an `exec`.
pub fn watch(connection: Connection) -> Outcome {
    watch::serve(&Server::new(connection))
}

async fn exec(server: Server, wishes: Vec<Wish>, args: Exec, mut signals: Signals) -> Outcome {
    server.warn()?;
    let dir = PrivateDir::make(&|name| std::env::var_os(name))?;
    let watcher = Watcher::start(&server, dir.path()).await?;
    let mut charge = Charge { server, watcher, held: Vec::new() };
    let outcome = charge.work(wishes, Desk::new(dir, args.env), &args, &mut signals).await;
    charge.end(&mut signals).await;
    outcome
}

/// One wish for each role.
fn wishes(args: &Exec) -> Result<Vec<Wish>> {
    args.roles.iter().try_for_each(|role| check_role(role))?;
    let known: BTreeSet<_> = args.roles.iter().map(String::as_str).collect();
    if known.len() < args.roles.len() {
        return Err(Error::usage("a role is named twice"));
    }
    if known.len() > MAX_ROLES {
        return Err(Error::usage(format!("at most {MAX_ROLES} roles fit one command")));
    }
    let mut wishes: Vec<_> = args.roles.iter().map(|role| Wish { role: role.clone(), ttl: args.ttl, audience: None }).collect();
    for text in &args.audiences {
        let (role, audience) = match text.split_once('=') {
            Some((role, audience)) if known.contains(role) => (role, audience),
            _ if known.len() == 1 => (args.roles[0].as_str(), text.as_str()),
            _ => return Err(Error::usage(format!("--audience {text}: say for which of the roles, as ROLE=AUD"))),
        };
        for wish in wishes.iter_mut().filter(|wish| wish.role == role) {
            if wish.audience.replace(audience.to_owned()).is_some() {
                return Err(Error::usage(format!("--audience: {role} has two; a token has one")));
            }
        }
    }
    Ok(wishes)
}

/// What must be ended, whatever happens.
struct Charge {
    server: Server,
    watcher: Watcher,
    held: Vec<Held>,
}

impl Charge {
    /// Issues, hands out, runs.
    async fn work(&mut self, wishes: Vec<Wish>, mut desk: Desk, args: &Exec, signals: &mut Signals) -> Outcome {
        for material in self.issue(wishes, signals).await? {
            desk.put(&material.0, &material.1)?;
        }
        let leases: Vec<_> = self.held.iter().map(|held| (held.wish.role.clone(), held.lease.id.clone())).collect();
        let (set, unset) = desk.environment(&leases);
        let mut running = match command::start(&args.command, &set, &unset) {
            Ok(running) => running,
            Err(exit) => return Ok(exit),
        };
        drop(set);
        // Who is killed before the watcher knows of the command leaves it running; its leases are revoked all the same.
        let (pid, group) = running.process();
        if let Err(error) = self.watcher.command(pid, group).await {
            output::note(&format!("warning: {error}"), false);
        }
        Ok(self.supervise(&mut running, desk, signals).await)
    }

    /// Issues all at once. The first failure ends it, and so does a signal: what is under way then may still come in, to be revoked.
    async fn issue(&mut self, wishes: Vec<Wish>, signals: &mut Signals) -> Outcome<Vec<(String, Material)>> {
        let many = wishes.len() > 1;
        let mut coming: FuturesUnordered<_> = wishes.into_iter().map(|wish| issue_one(wish, &self.server, many)).collect();
        let mut materials = Vec::new();
        let mut stop: Option<Stop> = None;
        let mut grace = pin!(sleep_until(Instant::now() + Duration::from_secs(365 * 24 * 3600)));
        loop {
            tokio::select! {
                came = coming.next() => match came {
                    None => break,
                    Some(Ok((held, material))) => {
                        materials.push((held.wish.role.clone(), material));
                        self.held.push(held);
                        if let Some(held) = self.held.last()
                            && let Err(error) = self.watcher.lease(&held.lease).await
                        {
                            stop.get_or_insert(error.into());
                        }
                    }
                    Some(Err(error)) => drop(stop.get_or_insert(error.into())),
                },
                caught = signals.next() => {
                    if caught.ends() {
                        stop.get_or_insert(Stop::Signal(Exit::signal(caught.signal.as_raw())));
                    }
                }
                () = &mut grace => break,
            }
            if stop.is_some() && grace.deadline() > Instant::now() + GRACE {
                grace.as_mut().reset(Instant::now() + GRACE);
            }
        }
        stop.map_or(Ok(materials), Err)
    }

    /// Until the command ends: passes signals on, and renews.
    async fn supervise(&mut self, running: &mut Running, mut desk: Desk, signals: &mut Signals) -> Exit {
        type Renewal = Pin<Box<dyn Future<Output = (usize, Option<(Held, Material)>)>>>;
        let renewal = |at: usize, held: Held, server: Server| -> Renewal { Box::pin(async move { (at, held.renewed(server).await) }) };
        let mut renewals: FuturesUnordered<Renewal> =
            self.held.iter().enumerate().map(|(at, held)| renewal(at, held.clone(), self.server.clone())).collect();
        loop {
            tokio::select! {
                exit = running.end() => return exit,
                caught = signals.next() => running.pass_on(caught),
                Some((at, renewed)) = renewals.next(), if !renewals.is_empty() => {
                    let Some((newer, material)) = renewed else { continue };
                    let role = &newer.wish.role;
                    self.held[at] = match desk.put(role, &material) {
                        Ok(()) => newer,
                        Err(error) => {
                            output::note(&format!("warning: role {role}: the renewed credential could not be handed over: {error}"), false);
                            self.held[at].clone().undelivered(&newer)
                        }
                    };
                    renewals.push(renewal(at, self.held[at].clone(), self.server.clone()));
                }
            }
        }
    }

    /// Revokes all leases and dismisses the watcher. Who is in haste leaves it to the watcher.
    async fn end(self, signals: &mut Signals) {
        let Self { server, watcher, held } = self;
        let revoke = async {
            let ids: Vec<_> = held.iter().map(|held| held.lease.id.clone()).collect();
            let failed = match server.client() {
                _ if ids.is_empty() => Vec::new(),
                Ok(mut client) => server.revoke(&ids, &mut client).await,
                Err(error) => ids.into_iter().map(|id| (id, error.clone())).collect(),
            };
            for (id, error) in &failed {
                let lease = held.iter().find(|held| held.lease.id == *id);
                lease.into_iter().for_each(|held| output::note(&not_revoked(&held.lease, error), false));
            }
        };
        let hasty = async {
            sleep(HASTE).await;
            while !signals.next().await.ends() {}
        };
        tokio::select! {
            () = revoke => watcher.dismiss().await,
            () = hasty => {}
        }
    }
}

async fn issue_one(wish: Wish, server: &Server, many: bool) -> Result<(Held, Material)> {
    let role = wish.role.clone();
    wish.issue(server).await.map_err(|error| if many { error.hint(&format!("this is about role {role}")) } else { error })
}
