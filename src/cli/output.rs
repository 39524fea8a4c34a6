//! What is printed, and how: text that a terminal may show, JSON, shell lines.

use std::io::{self, Write};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use crate::client::{
    error::Error,
    text::one_line,
    types::{Explanation, Lease, Reach, WhoAmI},
};

/// One JSON value, indented, with a line end.
pub fn json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// An error on standard error: one line. Nothing is left to do when even that fails.
pub fn error(error: &Error, as_json: bool) {
    let _ = writeln!(io::stderr(), "{}", error_line(error, as_json));
}

fn error_line(error: &Error, as_json: bool) -> String {
    let message = match error.call_id() {
        None => error.message().to_owned(),
        Some(id) => format!("{} (call id {id})", error.message()),
    };
    match as_json {
        true => json!({"error": {"code": error.code(), "message": message}}).to_string(),
        false => format!("daypass: {}", one_line(&message)),
    }
}

/// A remark on standard error: one line. Beside JSON it is JSON too, so that every line there parses.
pub fn note(text: &str, as_json: bool) {
    let line = match as_json {
        true => json!({"note": {"message": one_line(text)}}).to_string(),
        false => format!("daypass: {}", one_line(text)),
    };
    let _ = writeln!(io::stderr(), "{line}");
}

/// `whoami`.
pub fn who_am_i(out: &mut dyn Write, who: &WhoAmI) -> io::Result<()> {
    let WhoAmI { subject, tenant, method, authority, expires_at, claims, peer, roles } = who;
    field(out, "subject", subject)?;
    field(out, "tenant", tenant)?;
    field(out, "method", &format!("{method} ({authority})"))?;
    if !peer.is_empty() {
        field(out, "peer", peer)?;
    }
    if let Some(at) = expires_at {
        field(out, "expires", &at.to_string())?;
    }
    field(out, "roles", &if roles.is_empty() { "none: ask for a policy that permits you one".to_owned() } else { roles.join(", ") })?;
    for (name, value) in claims {
        field(out, "claim", &format!("{name} = {value}"))?;
    }
    Ok(())
}

/// `explain`.
pub fn explanation(out: &mut dyn Write, role: &str, explanation: &Explanation) -> io::Result<()> {
    let Explanation { allowed, reason, policies, policy_version } = explanation;
    let verdict = match allowed {
        true => format!("{role}: allowed"),
        false => format!("{role}: denied ({reason})"),
    };
    writeln!(out, "{} by policy {}", one_line(&verdict), one_line(policy_version))?;
    for policy in policies {
        let holds = if policy.satisfied { "applies" } else { "does not apply" };
        writeln!(out, "  {} {} (line {}) {holds}", one_line(&policy.effect), one_line(&policy.id), policy.line)?;
        for failed in &policy.failed {
            let why = if failed.absent { "cannot be told, a claim is absent" } else { "does not hold" };
            let claims = if failed.claims.is_empty() { String::new() } else { format!(" [{}]", one_line(&failed.claims.join(", "))) };
            writeln!(out, "    {why}: {}{}", one_line(&failed.condition), claims)?;
        }
    }
    if policies.is_empty() {
        writeln!(out, "  no policy speaks of it, and what is absent is denied")?;
    }
    Ok(())
}

/// One lease, field by field.
pub fn lease(out: &mut dyn Write, lease: &Lease) -> io::Result<()> {
    field(out, "lease", &lease.id)?;
    field(out, "role", &lease.role)?;
    field(out, "kind", lease.kind.as_str())?;
    field(out, "tenant", &lease.tenant)?;
    field(out, "subject", &lease.subject)?;
    field(out, "state", lease.state.as_str())?;
    field(out, "issued", &lease.issued_at.to_string())?;
    field(out, "expires", &lease.expires_at.to_string())?;
    if let (true, Some(until)) = (lease.renewable, lease.renew_until) {
        field(out, "renewable", &format!("until {until}"))?;
    } else {
        field(out, "renewable", if lease.renewable { "yes" } else { "no" })?;
    }
    rotation(out, lease)?;
    if let Some(at) = lease.revoked_at {
        field(out, "revoked", &at.to_string())?;
    }
    field(out, "revocation", &reach(lease))?;
    if !lease.serial.is_empty() {
        field(out, "serial", &lease.serial)?;
    }
    Ok(())
}

/// What tells why a watched lease did, or did not, rotate.
fn rotation(out: &mut dyn Write, lease: &Lease) -> io::Result<()> {
    let acknowledged = match lease.acknowledged_generation {
        0 => "none acknowledged".to_owned(),
        generation => format!("{generation} acknowledged"),
    };
    field(out, "generation", &format!("{}, {acknowledged}", lease.generation))?;
    if let Some(window) = lease.rotation {
        field(out, "rotation", &format!("{} to {}", window.start, window.end))?;
    }
    if lease.enrolled {
        field(out, "enrolled", "yes")?;
    }
    Ok(())
}

/// One line for each lease, under a head.
pub fn table(out: &mut dyn Write, leases: &[Lease]) -> io::Result<()> {
    let head = ["ID", "ROLE", "TENANT", "STATE", "ISSUED", "EXPIRES", "SUBJECT"].map(str::to_owned);
    let rows = leases.iter().map(|lease| {
        let state = lease.state.as_str().to_owned();
        let (issued, expires) = (seconds(lease.issued_at), seconds(lease.expires_at));
        [one_line(&lease.id), one_line(&lease.role), one_line(&lease.tenant), state, issued, expires, one_line(&lease.subject)]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    for row in &rows {
        let mut line = String::new();
        for (text, width) in row.iter().zip(widths) {
            line.push_str(&format!("{text:width$}  "));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// How far a revocation of the lease reaches, in a few words.
pub fn reach(lease: &Lease) -> String {
    let until = lease.revocation.live_until;
    match lease.revocation.reach {
        Reach::Crl => format!("by CRL; may be accepted until {until}"),
        Reach::Lease => format!("this lease alone; may be accepted until {until}"),
        Reach::RoleSessions => format!("with every older session of its IAM role; may be accepted until {until}"),
        Reach::Expiry => format!("not before it expires; may be accepted until {until}"),
    }
}

/// A line that a POSIX shell reads as an assignment of exactly this value.
pub fn export(out: &mut dyn Write, name: &str, value: &str) -> io::Result<()> {
    writeln!(out, "export {name}={}", shell_quoted(value))
}

/// In single quotes, inside of which a shell reads nothing but the end quote.
fn shell_quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

fn field(out: &mut dyn Write, name: &str, value: &str) -> io::Result<()> {
    writeln!(out, "{name:<11} {}", one_line(value))
}

fn seconds(at: Timestamp) -> String {
    // Cut, not rounded: a table must not show a time that has not come.
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;
    use crate::client::types::{CredentialKind, LeaseState, Revocation, RotationWindow};

    fn sample() -> Lease {
        Lease {
            id: "0192f0c1-7b5a-7000-8000-000000000000".to_owned(),
            role: "web".to_owned(),
            kind: CredentialKind::X509,
            tenant: "acme".to_owned(),
            subject: "spiffe://a/\u{1b}[31mb".to_owned(),
            state: LeaseState::Active,
            issued_at: "2026-01-31T12:00:00.123Z".parse().unwrap(),
            expires_at: "2026-01-31T12:15:00Z".parse().unwrap(),
            renewable: true,
            revocation: Revocation { reach: Reach::Crl, live_until: "2026-01-31T12:15:00Z".parse().unwrap() },
            generation: 1,
            renew_until: None,
            revoked_at: None,
            serial: "0a".to_owned(),
            credential_id: "0a".to_owned(),
            rotation: None,
            acknowledged_generation: 0,
            enrolled: false,
        }
    }

    fn text(print: impl Fn(&mut dyn Write) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        print(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_error_names_the_call_where_the_servers_log_says_more() {
        let mut status = tonic::Status::internal("something is wrong at the server; its log says what");
        status.metadata_mut().insert("x-daypass-call-id", "0af3".parse().unwrap());
        let error = Error::from_status(&status);
        assert_eq!(error_line(&error, false), "daypass: something is wrong at the server; its log says what (call id 0af3)");
        let line: serde_json::Value = serde_json::from_str(&error_line(&error, true)).unwrap();
        assert_eq!(line["error"]["code"], "INTERNAL");
        assert!(line["error"]["message"].as_str().unwrap().ends_with("(call id 0af3)"), "{line}");
        let own = Error::unavailable("no server");
        assert_eq!(error_line(&own, false), "daypass: no server");
        assert!(!error_line(&own, true).contains("call id"));
    }

    #[test]
    fn a_table_has_a_head_columns_and_no_escapes() {
        let shown = text(|out| table(out, &[sample()]));
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].find("ROLE"), lines[1].find("web"));
        assert!(lines[1].contains("2026-01-31T12:00:00Z") && lines[1].ends_with("spiffe://a/\u{fffd}[31mb"));
        assert_eq!(text(|out| table(out, &[])).lines().count(), 1);
    }

    #[test]
    fn a_lease_as_text_keeps_no_escapes() {
        let shown = text(|out| lease(out, &sample()));
        assert!(shown.contains("expires     2026-01-31T12:15:00Z\n"), "{shown}");
        assert!(!shown.contains('\u{1b}'));
    }

    #[test]
    fn a_lease_as_text_says_how_its_rotation_stands() {
        let shown = text(|out| lease(out, &sample()));
        assert!(
            shown.contains("generation  1, none acknowledged\n") && !shown.contains("rotation") && !shown.contains("enrolled"),
            "{shown}"
        );
        let window = RotationWindow { start: "2026-01-31T12:06:00Z".parse().unwrap(), end: "2026-01-31T12:07:15Z".parse().unwrap() };
        let agents = Lease { generation: 3, acknowledged_generation: 2, rotation: Some(window), enrolled: true, ..sample() };
        let shown = text(|out| lease(out, &agents));
        for line in ["generation  3, 2 acknowledged", "rotation    2026-01-31T12:06:00Z to 2026-01-31T12:07:15Z", "enrolled    yes"] {
            assert!(shown.lines().any(|shown| shown == line), "{line:?} is not in:\n{shown}");
        }
    }

    #[test]
    fn an_explanation_says_what_failed() {
        let explained = Explanation {
            allowed: false,
            reason: "DENIED".to_owned(),
            policies: vec![crate::client::types::ConsideredPolicy {
                id: "deploy".to_owned(),
                effect: "permit".to_owned(),
                satisfied: false,
                line: 12,
                failed: vec![crate::client::types::FailedCondition {
                    condition: "context.claims.ref == \"refs/heads/main\"".to_owned(),
                    claims: vec!["ref".to_owned()],
                    absent: false,
                }],
            }],
            policy_version: "0123456789ab".to_owned(),
        };
        let shown = text(|out| explanation(out, "web", &explained));
        assert!(shown.starts_with("web: denied (DENIED) by policy 0123456789ab\n"), "{shown}");
        assert!(shown.contains("does not hold: context.claims.ref == \"refs/heads/main\" [ref]"), "{shown}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_shell_reads_back_what_was_quoted(value in "[^\\x00]{0,40}") {
            let script = text(|out| export(out, "X", &value)) + "printf %s \"$X\"";
            let run = Command::new("sh").arg("-c").arg(script).output().unwrap();
            prop_assert_eq!(run.stdout, value.into_bytes());
        }
    }
}
