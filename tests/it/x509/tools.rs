//! openssl and pkilint, as they are on PATH or in `$DAYPASS_TEST_TOOLS/bin`. A missing tool fails the test that needs it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use rcgen::{KeyPair, SigningKey};

fn find(tool: &str) -> PathBuf {
    let own = std::env::var_os("DAYPASS_TEST_TOOLS").map(|dir| PathBuf::from(dir).join("bin"));
    let built = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/test-tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = own.into_iter().chain([built]).chain(std::env::split_paths(&path));
    places.map(|place| place.join(tool)).find(|file| file.is_file()).unwrap_or_else(|| {
        panic!(
            "this test needs {tool}, and it is neither in $DAYPASS_TEST_TOOLS/bin, target/test-tools/bin nor on PATH; \
             scripts/setup installs it"
        )
    })
}

/// Runs a tool in `dir`, whatever it says.
pub fn run(dir: &Path, tool: &str, args: &[&str]) -> Output {
    let file = find(tool);
    Command::new(&file).args(args).current_dir(dir).output().unwrap_or_else(|error| panic!("{} does not start: {error}", file.display()))
}

/// Runs a tool that must succeed, and gives what it wrote.
pub fn must(dir: &Path, tool: &str, args: &[&str]) -> String {
    let output = run(dir, tool, args);
    assert!(
        output.status.success(),
        "{tool} {args:?} failed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A CSR that openssl makes with a new key of these `genpkey` arguments.
pub fn openssl_csr(genpkey: &[&str], req: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    must(dir.path(), "openssl", &[&["genpkey"], genpkey, &["-out", "key.pem"]].concat());
    csr_of_key(dir.path(), req)
}

/// A CSR that openssl makes with the `key.pem` of a directory.
pub fn csr_of_key(dir: &Path, req: &[&str]) -> Vec<u8> {
    must(dir, "openssl", &[&["req", "-new", "-key", "key.pem", "-subj", "/CN=x", "-outform", "DER", "-out", "csr.der"], req].concat());
    std::fs::read(dir.join("csr.der")).unwrap()
}

/// pkilint's findings of warning and above, but for its false alarm on the scheme `spiffe`.
pub fn pkilint(dir: &Path, tool: &str, args: &[&str]) -> Vec<String> {
    let output = run(dir, tool, args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report: serde_json::Value = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{tool} {args:?} gave no report ({error}):\n{text}{}", String::from_utf8_lossy(&output.stderr)));
    let mut findings = Vec::new();
    for result in report["results"].as_array().expect("a report has results") {
        for finding in result["finding_descriptions"].as_array().expect("a result has findings") {
            let code = finding["code"].as_str().unwrap_or_default();
            let loud = !matches!(finding["severity"].as_str(), Some("INFO" | "DEBUG" | "NOTICE"));
            let false_alarm = code == "pkix.invalid_uri_syntax" && finding.to_string().contains("spiffe://");
            if loud && !false_alarm {
                findings.push(format!("{}: {finding}", result["node_path"]));
            }
        }
    }
    findings
}

/// A P-256 signature with the private key of a pair.
pub fn sign(pair: &KeyPair, message: &[u8]) -> Vec<u8> {
    pair.sign(message).unwrap()
}
