//! pkilint: judges certificates, chains and CRLs by RFC 5280.

use std::{fs, path::Path, process::Command};

use serde::Deserialize;

use super::{run, tool};

/// pkilint knows no URI without a path that it likes, and calls every `spiffe://` name this.
const FALSE_ALARM: &str = "pkix.invalid_uri_syntax";

/// Something that pkilint finds fault with, a warning or worse.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Finding {
    /// `WARNING`, `ERROR` or `FATAL`.
    pub severity: String,
    /// Its stable name.
    pub code: String,
    /// More about it.
    #[serde(default)]
    pub message: Option<String>,
}

/// Findings of a certificate, PEM or DER.
pub fn lint_certificate(cert: &[u8]) -> Vec<Finding> {
    lint("lint_pkix_cert", &[], &[cert])
}

/// Findings of a certificate against the one of its issuer.
pub fn lint_chain(issuer: &[u8], subject: &[u8]) -> Vec<Finding> {
    lint("lint_pkix_signer_signee_cert_chain", &[], &[issuer, subject])
}

/// Findings of a CRL, PEM or DER.
pub fn lint_crl(crl: &[u8]) -> Vec<Finding> {
    lint("lint_crl", &["-t", "CRL", "-p", "PKIX"], &[crl])
}

fn lint(program: &str, options: &[&str], documents: &[&[u8]]) -> Vec<Finding> {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let mut command = Command::new(tool(program));
    command.arg("lint").args(options).args(["-s", "WARNING", "-f", "JSON"]);
    for (number, document) in documents.iter().enumerate() {
        let path = dir.path().join(number.to_string());
        fs::write(&path, document).expect("a temporary file can be written");
        command.arg(path);
    }
    let ran = run(&mut command);
    // It exits with the number of findings; what it could not read at all leaves no JSON.
    let report: Report =
        serde_json::from_slice(&ran.stdout).unwrap_or_else(|error| panic!("{program} could not judge: {error}: {}", ran.all()));
    report.results.into_iter().flat_map(|result| result.finding_descriptions).filter(|finding| !is_false_alarm(finding)).collect()
}

fn is_false_alarm(finding: &Finding) -> bool {
    finding.code == FALSE_ALARM && finding.message.as_deref().is_some_and(|message| message.contains("\"spiffe://"))
}

#[derive(Deserialize)]
struct Report {
    results: Vec<Result>,
}

#[derive(Deserialize)]
struct Result {
    finding_descriptions: Vec<Finding>,
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).expect("a file of the test's own can be read")
}

#[test]
fn a_good_chain_passes_and_faults_are_found() {
    let dir = tempfile::tempdir().expect("a folder");
    let ca = super::openssl::Ca::new(dir.path(), "ca");
    let good = read(&ca.client("agent", &["URI:spiffe://example.org/agent"]).cert);
    assert_eq!(lint_certificate(&good), [], "the false alarm is left out");
    assert_eq!(lint_certificate(&read(&ca.cert)), []);
    assert_eq!(lint_chain(&read(&ca.cert), &good), []);
    assert_eq!(lint_crl(&read(&ca.crl())), []);

    let bad = read(&ca.client("bad", &["URI:not a uri"]).cert);
    let codes: Vec<_> = lint_certificate(&bad).into_iter().map(|finding| finding.code).collect();
    assert_eq!(codes, [FALSE_ALARM], "only spiffe:// is excused");
    let stranger = super::openssl::Ca::new(dir.path(), "stranger");
    assert_ne!(lint_chain(&read(&stranger.cert), &good), []);
}
