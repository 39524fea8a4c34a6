//! `lease list`, `get`, `revoke`.

use std::io::Write;

use jiff::Timestamp;
use serde::Serialize;

use super::{
    args::{List, Revoke, TableFormat, TextFormat},
    exit::{Exit, Outcome},
    output,
};
use crate::client::{
    Client,
    error::{Error, Kind, Result},
    text::one_line,
    types::{LeaseFilter, RevokeFailure, RevokeStep},
};

/// How many leases a page has.
pub const PAGE: u32 = 500;

/// The JSON of a revocation: a contract.
#[derive(Debug, Default, Serialize)]
struct Tally {
    matched: u64,
    denied: u64,
    revoked: u64,
    failed: Vec<RevokeFailure>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    live_until: Option<Timestamp>,
}

/// `lease list`.
pub async fn list(client: &mut Client, args: List, now: Timestamp, out: &mut dyn Write) -> Outcome {
    let List { filter, state, limit, output: format } = args;
    let filter = filter.resolve(state, now).map_err(out_of_range)?;
    let mut leases = Vec::new();
    let mut next: Option<String> = None;
    let more = loop {
        let left = limit - u32::try_from(leases.len()).unwrap_or(limit);
        let page = client.leases(&filter, left.min(PAGE), next.as_deref()).await?;
        leases.extend(page.leases);
        leases.truncate(limit as usize);
        match page.next {
            None => break false,
            Some(_) if leases.len() == limit as usize => break true,
            again if again == next => return Err(Error::bad_answer("gives the same page again and again").into()),
            further => next = further,
        }
    };
    match format {
        TableFormat::Table => output::table(out, &leases)?,
        TableFormat::Json => output::json(out, &leases)?,
    }
    out.flush()?;
    if more {
        output::note(&format!("there are more than these {limit}; see them with a larger --limit"), format == TableFormat::Json);
    }
    Ok(Exit::Done)
}

/// `lease get`.
pub async fn get(client: &mut Client, id: &str, format: TextFormat, out: &mut dyn Write) -> Outcome {
    let lease = client.lease(id).await?;
    match format {
        TextFormat::Text => output::lease(out, &lease)?,
        TextFormat::Json => output::json(out, &lease)?,
    }
    Ok(Exit::Done)
}

/// `lease revoke`.
pub async fn revoke(client: &mut Client, args: Revoke, now: Timestamp, out: &mut dyn Write) -> Outcome {
    let Revoke { ids, filter, dry_run, yes, reason, output: format } = args;
    if !ids.is_empty() {
        return revoke_each(client, &ids, &reason, format, out).await;
    }
    let filter = filter.resolve(None, now).map_err(out_of_range)?;
    if !yes && !dry_run {
        let Tally { matched, .. } = matching(client, filter, true, &reason, &mut Silent).await?;
        let text = format!("{} would be revoked and nothing was; say --yes to revoke, or --dry-run to count only", leases(matched));
        return Err(Error::new(Kind::Usage, "NOT_CONFIRMED", text).into());
    }
    let tally = match format {
        TextFormat::Text => matching(client, filter, dry_run, &reason, &mut Progress).await?,
        TextFormat::Json => matching(client, filter, dry_run, &reason, &mut Silent).await?,
    };
    if tally.matched == 0 && tally.denied > 0 {
        let text = format!("you may not revoke any of the {} that match; ask an operator of their tenant", leases(tally.denied));
        return Err(Error::new(Kind::Denied, "PERMISSION_DENIED", text).into());
    }
    tally.print(format, out)?;
    Ok(if tally.failed.is_empty() { Exit::Done } else { Exit::Failed })
}

/// Revokes by id, one after the other; one failure never stops the rest.
async fn revoke_each(client: &mut Client, ids: &[String], reason: &str, format: TextFormat, out: &mut dyn Write) -> Outcome {
    let mut tally = Tally { matched: ids.len() as u64, ..Tally::default() };
    let mut kinds = Vec::new();
    for id in ids {
        match client.revoke(id, reason).await {
            Ok(lease) => {
                tally.revoked += 1;
                tally.live_until = tally.live_until.max(Some(lease.revocation.live_until));
                if format == TextFormat::Text {
                    writeln!(out, "{} {}: {}", one_line(&lease.id), lease.state.as_str(), output::reach(&lease))?;
                    out.flush()?;
                }
            }
            Err(error) if ids.len() == 1 => return Err(error.into()),
            Err(error) => {
                kinds.push(error.kind());
                let failure = RevokeFailure { id: id.clone(), code: error.code().to_owned(), message: error.message().to_owned() };
                if format == TextFormat::Text {
                    tell_failure(&failure);
                }
                tally.failed.push(failure);
            }
        }
    }
    if format == TextFormat::Json {
        output::json(out, &tally)?;
    }
    Ok(exit_of(tally.revoked, &kinds))
}

/// When nothing was done and always for the same reason, that reason; else done, or a partial failure.
fn exit_of(revoked: u64, kinds: &[Kind]) -> Exit {
    match kinds {
        [] => Exit::Done,
        [first, rest @ ..] if revoked == 0 && rest.iter().all(|kind| kind == first) => (*first).into(),
        _ => Exit::Failed,
    }
}

/// Who is told how far a revocation is.
trait Watch {
    fn step(&mut self, step: &RevokeStep, dry_run: bool);
}

/// Nobody.
struct Silent;

impl Watch for Silent {
    fn step(&mut self, _: &RevokeStep, _: bool) {}
}

/// Standard error.
struct Progress;

impl Watch for Progress {
    fn step(&mut self, step: &RevokeStep, dry_run: bool) {
        match step {
            RevokeStep::Matched { count, denied } => {
                if !dry_run {
                    output::note(&format!("to revoke: {}", leases(*count)), false);
                }
                if *denied > 0 {
                    output::note(&format!("not yours to revoke, left alone: {}", leases(*denied)), false);
                }
            }
            RevokeStep::Progress { revoked, failed } => output::note(&format!("{revoked} revoked, {failed} failed"), false),
            RevokeStep::Failure(failure) => tell_failure(failure),
            RevokeStep::Summary { .. } => {}
        }
    }
}

async fn matching(client: &mut Client, filter: LeaseFilter, dry_run: bool, reason: &str, watch: &mut dyn Watch) -> Result<Tally> {
    let mut tally = Tally { dry_run, ..Tally::default() };
    let (mut counted, mut ended) = (false, false);
    let mut steps = client.revoke_matching(filter, dry_run, reason).await?;
    while let Some(step) = steps.next().await? {
        watch.step(&step, dry_run);
        match step {
            RevokeStep::Matched { count, denied } => (counted, tally.matched, tally.denied) = (true, count, denied),
            RevokeStep::Progress { revoked, failed: _ } => tally.revoked = revoked,
            RevokeStep::Failure(failure) => tally.failed.push(failure),
            RevokeStep::Summary { revoked, failed: _, live_until } => {
                (tally.revoked, tally.live_until) = (revoked, live_until);
                ended = true;
            }
        }
    }
    if !counted {
        return Err(Error::bad_answer("lacks the count of what matches"));
    }
    if ended || dry_run || tally.matched == 0 {
        return Ok(tally);
    }
    let text = format!(
        "the server stopped after {} of {}; run the same command again, it goes on where it ended",
        tally.revoked,
        leases(tally.matched)
    );
    Err(Error::unavailable(text))
}

impl Tally {
    fn print(&self, format: TextFormat, out: &mut dyn Write) -> std::io::Result<()> {
        match format {
            TextFormat::Json => output::json(out, self),
            TextFormat::Text if self.dry_run => writeln!(out, "{} would be revoked", leases(self.matched)),
            TextFormat::Text => {
                let until = self.live_until.map(|at| format!("; what was revoked may be accepted until {at}")).unwrap_or_default();
                writeln!(out, "{} revoked, {} failed{until}", leases(self.revoked), self.failed.len())
            }
        }
    }
}

fn tell_failure(failure: &RevokeFailure) {
    output::note(&format!("{} not revoked: {} ({})", failure.id, failure.message, failure.code), false);
}

fn leases(count: u64) -> String {
    match count {
        1 => "1 lease".to_owned(),
        _ => format!("{count} leases"),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "map_err gives it away")]
fn out_of_range(error: jiff::Error) -> Error {
    Error::usage(format!("--issued-before is out of range: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_of_many_revocations() {
        assert_eq!(exit_of(2, &[]), Exit::Done);
        assert_eq!(exit_of(1, &[Kind::NotFound]), Exit::Failed);
        assert_eq!(exit_of(0, &[Kind::NotFound, Kind::NotFound]), Exit::NotFound);
        assert_eq!(exit_of(0, &[Kind::NotFound, Kind::Denied]), Exit::Failed);
    }

    #[test]
    fn the_json_of_a_revocation_is_the_contract() {
        let failure = RevokeFailure { id: "x".to_owned(), code: "LEASE_NOT_FOUND".to_owned(), message: "gone".to_owned() };
        let tally = Tally { matched: 2, revoked: 1, failed: vec![failure], ..Tally::default() };
        let expected = serde_json::json!({
            "matched": 2, "denied": 0, "revoked": 1,
            "failed": [{"id": "x", "code": "LEASE_NOT_FOUND", "message": "gone"}],
        });
        assert_eq!(serde_json::to_value(&tally).unwrap(), expected);
    }
}
