//! Listing, revoking, and the record.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use super::server::{self, FORBIDDEN, GOOD, LEASES, Server, UNKNOWN};

#[test]
fn list_follows_pages_up_to_its_limit() {
    let server = Server::new();
    let all = server.run("lease list -o json");
    let ids: Vec<_> = all.json().as_array().unwrap().iter().map(|lease| lease["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!((ids.len(), all.stderr.as_str()), (LEASES as usize, ""));
    assert!(ids.is_sorted());
    assert_eq!(*server.seen.page_sizes.lock().unwrap(), [100, 90, 80]);
    let some = server.run("lease list --limit 12");
    assert_eq!((some.code, some.stdout.lines().count()), (0, 13), "a head and twelve");
    assert!(some.stderr.contains("more than these 12") && some.stderr.contains("--limit"), "{some:?}");
    let exact = server.run("lease list --limit 25 -o json");
    assert_eq!((exact.json().as_array().unwrap().len(), exact.stderr.as_str()), (25, ""));
}

#[test]
fn revoke_by_id_goes_on_after_a_failure() {
    let server = Server::new();
    let one = server.run(&format!("lease revoke {GOOD} --reason lost -o json"));
    let expected = serde_json::json!({"matched": 1, "denied": 0, "revoked": 1, "failed": [], "live_until": "2027-01-15T08:15:00Z"});
    assert_eq!((one.code, one.json()), (0, expected));
    assert_eq!(*server.seen.revoke_reason.lock().unwrap(), "lost");
    assert_eq!(server.run(&format!("lease revoke {UNKNOWN}")).code, 5);
    assert_eq!(server.run(&format!("lease revoke {FORBIDDEN}")).code, 4);
    let many = server.run(&format!("lease revoke {UNKNOWN} {FORBIDDEN} {GOOD} -o json"));
    let json = many.json();
    assert_eq!((many.code, &json["revoked"], json["failed"].as_array().unwrap().len()), (1, &1.into(), 2));
    assert_eq!((&json["failed"][1]["id"], &json["failed"][1]["code"]), (&FORBIDDEN.into(), &"DENIED".into()));
    let text = server.run(&format!("lease revoke {UNKNOWN} {GOOD}"));
    assert!(text.code == 1 && text.stdout.contains("revoked: by CRL") && text.stderr.contains("LEASE_NOT_FOUND"), "{text:?}");
}

#[test]
fn revoke_by_filter_counts_first_and_wants_a_yes() {
    let server = Server::new();
    let unsure = server.run("lease revoke --role web");
    assert!(unsure.code == 2 && unsure.stderr.contains("3 leases would be revoked") && unsure.stderr.contains("--yes"), "{unsure:?}");
    let counted = server.run("lease revoke --role web --dry-run -o json");
    let expected = serde_json::json!({"matched": 3, "denied": 1, "revoked": 0, "failed": [], "dry_run": true});
    assert_eq!((counted.code, counted.json()), (0, expected));
    let done = server.run("lease revoke --role web --issued-before 2h --yes -o json");
    let json = done.json();
    assert_eq!((done.code, &json["matched"], &json["revoked"]), (1, &3.into(), &2.into()), "one failed");
    assert_eq!((&json["failed"][0]["id"], &json["failed"][0]["code"]), (&FORBIDDEN.into(), &"STORE_UNAVAILABLE".into()));
    let text = server.run("lease revoke --tenant acme --yes");
    assert_eq!(text.code, 0, "{text:?}");
    assert!(text.stderr.contains("to revoke: 3 leases") && text.stderr.contains("not yours to revoke, left alone: 1 lease"), "{text:?}");
    assert!(text.stderr.contains("1 revoked, 0 failed") && text.stdout.starts_with("3 leases revoked, 0 failed"), "{text:?}");
    let failed = server.run("lease revoke --role web --yes");
    assert!(failed.code == 1 && failed.stderr.contains("the store\u{fffd}[0m did not answer"), "{failed:?}");
    assert_eq!(server.run("lease revoke --tenant foreign --yes").code, 4);
    let cut = server.run("lease revoke --role cut --yes -o json");
    assert!(cut.code == 6 && cut.error().1.contains("after 1 of 3 leases"), "{cut:?}");
}

#[test]
fn tail_prints_records_as_they_are() {
    let server = Server::new();
    let json = server.run("audit tail --last 2 -o json");
    assert_eq!(json.stdout, format!("{}\n{}\n", server::record(4), server::record(5)));
    let text = server.run("audit tail --after-seq 4");
    assert_eq!(text.stdout, "5 2026-01-31T12:00:00Z CredentialService/Issue done role=web\n");
    assert_eq!(server.run("audit tail").stdout.lines().count(), 5);
    let asked: Vec<_> = server.seen.tails.lock().unwrap().iter().map(|tail| (tail.last, tail.after_seq)).collect();
    assert_eq!(asked, [(2, 0), (0, 4), (100, 0)]);
}

#[test]
fn a_followed_tail_goes_on_where_its_stream_ended() {
    let server = Server::new();
    let mut child = server.daypass("audit tail --last 2 --follow -o json").stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().take(4);
    let lines: Vec<_> = lines.map(Result::unwrap).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(lines, [4, 5, 6, 7].map(server::record));
}
