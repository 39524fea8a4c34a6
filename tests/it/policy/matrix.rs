//! Every action, on every role and tenant, by every kind of caller, against a table that people review.
//!
//! A new action, role or tenant changes the table, and so fails until the table is reviewed: run the test with
//! `DAYPASS_BLESS=1` and read the difference.

use std::{fmt::Write as _, sync::Arc};

use daypass::{
    model::{identity::Identity, lease::Lease, name::TenantName},
    policy::{Action, Denial, LeaseAction, PolicyBook},
};

use super::world::{book, catalog, certificate, job, lease, now, operator, staff, token, vendor};

const TABLE: &str = include_str!("matrix.txt");
const SAMPLE: &str = include_str!("sample.cedar");

fn callers() -> Vec<(&'static str, Arc<Identity>)> {
    vec![
        ("operator", operator()),
        ("job-main", job("refs/heads/main")),
        ("job-branch", job("refs/heads/x")),
        ("staff", staff()),
        ("vendor", vendor()),
        ("vendor-b", certificate("vendor", "spiffe://dev/vendor/b")),
        ("gone", certificate("gone", "spiffe://dev/gone")),
        ("no-issuer", token("ci", "gone", "x", &[])),
    ]
}

fn cell(result: Result<(), Box<Denial>>) -> String {
    match result {
        Ok(()) => "yes".to_owned(),
        Err(denial) => {
            assert_eq!(denial.error.code().as_str(), denial.explanation.reason);
            assert!(!denial.explanation.allowed);
            denial.error.code().as_str().to_lowercase()
        }
    }
}

/// A row of the table: its name, and its cell for a caller.
type Row<'a> = (String, Box<dyn Fn(&Arc<Identity>) -> String + 'a>);

fn table(book: &PolicyBook) -> String {
    let roles: Vec<_> = catalog().roles.keys().map(ToString::to_string).chain(["unknown".to_owned()]).collect();
    let holders = [("job-main", job("refs/heads/main")), ("vendor", vendor()), ("gone", certificate("gone", "spiffe://dev/gone"))];
    let mut rows: Vec<Row<'_>> = Vec::new();
    for action in Action::ALL {
        // No arm for "any other": a new action does not compile until it is placed here.
        match action {
            Action::Issue | Action::Explain => {
                for role in &roles {
                    let name: daypass::model::name::RoleName = role.parse().unwrap();
                    rows.push((
                        format!("{} role {role}", action.as_str()),
                        Box::new(move |caller| {
                            cell(match action {
                                Action::Issue => book.decide_issue(caller, &name, None, None, now()).map(|_| ()),
                                _ => book.decide_explain(caller, &name, None, now()),
                            })
                        }),
                    ));
                }
            }
            Action::Renew | Action::Read | Action::Revoke => {
                for role in &roles {
                    for (holder_name, holder) in &holders {
                        let lease: Lease = lease(role, holder);
                        rows.push((
                            format!("{} lease {role} of {holder_name}", action.as_str()),
                            Box::new(move |caller| {
                                cell(match action {
                                    Action::Renew => book.decide_renew(caller, &lease, None, None, now()).map(|_| ()),
                                    Action::Read => book.decide_lease(LeaseAction::Read, caller, &lease, None, now()),
                                    _ => book.decide_lease(LeaseAction::Revoke, caller, &lease, None, now()),
                                })
                            }),
                        ));
                    }
                }
            }
            Action::Enroll => {
                for role in &roles {
                    for tenant in ["ci", "vendor"] {
                        let (name, tenant): (daypass::model::name::RoleName, TenantName) = (role.parse().unwrap(), tenant.parse().unwrap());
                        rows.push((
                            format!("enroll role {role} for {tenant}"),
                            Box::new(move |caller| cell(book.may_enroll(caller, &tenant, &name, None, now()).map(|_| ()))),
                        ));
                    }
                }
            }
            Action::Audit => {
                for tenant in catalog().tenants.keys().map(ToString::to_string).chain(["gone".to_owned()]) {
                    let name = tenant.parse().unwrap();
                    rows.push((
                        format!("audit tenant {tenant}"),
                        Box::new(move |caller| cell(book.decide_audit(caller, &name, None, now()))),
                    ));
                }
            }
        }
    }
    let callers = callers();
    let mut text = format!("{:<40}", "");
    for (name, _) in &callers {
        write!(text, "{name:<18}").unwrap();
    }
    text = text.trim_end().to_owned() + "\n";
    for (row, decide) in &rows {
        let mut line = format!("{row:<40}");
        for (_, caller) in &callers {
            write!(line, "{:<18}", decide(caller)).unwrap();
        }
        text += line.trim_end();
        text += "\n";
    }
    text
}

#[test]
fn the_sample_policy_decides_as_reviewed() {
    let found = table(&book(SAMPLE));
    if std::env::var_os("DAYPASS_BLESS").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/policy/matrix.txt"), &found).unwrap();
        return;
    }
    assert_eq!(found, TABLE, "the decisions differ from tests/it/policy/matrix.txt; review them:\n{found}");
}

#[test]
fn nothing_is_permitted_without_a_policy() {
    let empty = book("// nothing\n");
    assert!(empty.is_empty());
    let table = table(&empty);
    assert!(!table.contains(" yes"), "{table}");
}

#[test]
fn the_sample_has_no_warning_that_is_not_meant() {
    let book = book(SAMPLE);
    let warnings: Vec<_> = book.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(warnings, ["policy.cedar: [unreachable-role] no policy lets anybody issue the role \"db\""]);
}
