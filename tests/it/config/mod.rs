//! The configuration: the full sample is whole, and each fault is told with its line, all of them at once.

use std::{fs, path::Path};

use daypass::{
    issuer::x509::{
        Authority, CaConfig, DEFAULT_CRL_LIFE, San,
        bootstrap::{self, Made},
    },
    model::{SignedDuration, Timestamp},
    server::config,
};

const SAMPLE: &str = include_str!("../../../deploy/daypass.toml");
const POLICY: &str = include_str!("../../../deploy/policy.cedar");

fn now() -> Timestamp {
    "2027-01-15T08:00:00Z".parse().unwrap()
}

/// The files that the sample names, in a directory that stands for /etc/daypass.
fn etc() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let day = SignedDuration::from_hours(24);
    let root = bootstrap::create_root("Root", now(), day * 100).unwrap();
    let vendor = bootstrap::create_root("Vendor root", now(), day * 100).unwrap();
    let issuing = bootstrap::create_issuing(&root, "Issuing", None, now(), day * 50).unwrap();
    let authority = Authority::load(ca(&root, &issuing), now()).unwrap();
    let names = vec![San::Dns("daypass.example.org".to_owned())];
    let server = bootstrap::create_server_certificate(&authority, names, now(), day).unwrap();
    let files: [(&str, &str); 8] = [
        ("root.pem", &root.certificate_pem),
        ("vendor-ca.pem", &vendor.certificate_pem),
        ("issuing.pem", &issuing.certificate_pem),
        ("issuing.key", &issuing.key_pem),
        ("server.pem", &server.chain_pem),
        ("server.key", &server.key_pem),
        ("policy.cedar", POLICY),
        ("daypass.toml", ""),
    ];
    for (name, content) in files {
        fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

fn ca(root: &Made, issuing: &Made) -> CaConfig {
    CaConfig {
        name: "issuing".parse().unwrap(),
        chain_pem: issuing.certificate_pem.clone().into_bytes(),
        root_pem: root.certificate_pem.clone().into_bytes(),
        key: bootstrap::file_key(issuing).unwrap(),
        crl_url: "http://daypass.example.org/crl/issuing.crl".to_owned(),
        crl_life: DEFAULT_CRL_LIFE,
    }
}

fn load(dir: &Path, text: &str) -> Result<config::Config, Vec<String>> {
    let text = text.replace("/etc/daypass", dir.to_str().unwrap()).replace("/var/lib/daypass", dir.to_str().unwrap());
    let path = dir.join("daypass.toml");
    fs::write(&path, text).unwrap();
    config::load(&path, now()).map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

/// The line of the sample, from 1, on which a text stands first.
fn line(text: &str, what: &str) -> usize {
    text.lines().position(|line| line.contains(what)).unwrap_or_else(|| panic!("no {what:?}")) + 1
}

#[test]
fn the_full_sample_is_whole_and_shows_the_true_defaults() {
    let dir = etc();
    let config = load(dir.path(), SAMPLE).unwrap();
    assert_eq!(config.warnings, Vec::new());
    assert_eq!(config.rules.book.catalog().roles.len(), 2);
    // With what is commented out taken in, nothing changes: so the comments say the defaults.
    let limits: String = SAMPLE
        .split("[server.limits]")
        .nth(1)
        .unwrap()
        .lines()
        .take_while(|line| !line.starts_with('['))
        .map(|line| line.trim_start_matches("# ").to_owned() + "\n")
        .collect();
    let spelled = SAMPLE.replacen("[server.limits]\n", &format!("[server.limits]{limits}\n[unused]\n"), 1);
    let spelled: String = spelled.lines().filter(|line| *line != "[unused]").map(|line| line.to_owned() + "\n").collect();
    let spelled = load(dir.path(), &spelled).unwrap();
    assert_eq!(spelled.limits, config.limits);
}

#[test]
fn every_fault_is_told_at_once_with_its_line() {
    let dir = etc();
    let broken = SAMPLE
        .replace("connection_age", "conection_age")
        .replace("# conection_age = \"1h\"", "conection_age = \"1h\"")
        .replace("shared = true ", "sharde = true ")
        .replace("issuer = \"github\", claims", "issuer = \"githbu\", claims")
        .replace("{ project_id = \"8\" }", "{ projectid = \"8\" }")
        .replace("max_ttl = \"4h\"", "max_ttl = \"4x\"")
        .replace("[policy]", "[polcy]");
    let faults = load(dir.path(), &broken).err().expect("it is broken");
    for (what, says) in [
        ("conection_age", "unknown field `conection_age`"),
        ("sharde", "unknown field `sharde`"),
        ("max_ttl = \"4x\"", ""),
        ("[polcy]", "unknown key polcy; did you mean policy?"),
    ] {
        let place = format!("daypass.toml:{}:", line(&broken, what));
        assert!(faults.iter().any(|fault| fault.contains(&place) && fault.contains(says)), "{what}: {place} not in {faults:#?}");
    }
    for says in
        ["there is no issuer githbu; did you mean github?", "has no claim projectid; did you mean project_id?", "[policy] is missing"]
    {
        assert!(faults.iter().any(|fault| fault.contains(says)), "{says} not in {faults:#?}");
    }
}

#[test]
fn references_spans_and_secrets_are_checked() {
    let dir = etc();
    let cases = [
        ("default_ttl = \"15m\"", "default_ttl = \"2h\"", "1s <= default_ttl <= max_ttl"),
        ("ends_at = \"2027-06-30T00:00:00Z\"", "# none", "must have ends_at"),
        ("kind = \"x509\"", "kind = \"ssh\"", "there is no kind \"ssh\""),
        ("own_cas = [\"issuing\"]", "own_cas = [\"isuing\"]", "there is no CA isuing; did you mean issuing?"),
        ("{tenant}/web", "{tennant}/web", "{tennant} is no placeholder"),
        ("{tenant}/web", "{claims.repositry_id}/web", "no issuer has the claim repositry_id; did you mean repository_id?"),
        ("preset = \"github\"", "preset = \"gihub\"", "there is no preset gihub; did you mean github?"),
        ("algorithms = [\"ES256\"]", "algorithms = [\"HS256\"]", "there is no algorithm HS256"),
        ("tenant = \"acme-scan\"", "tenant = \"acme\"", "there is no tenant acme"),
        ("id = \"spiffe://example.org/operator\"", "id = \"spiffe://*/operator\"", "must be exact, or end in /*"),
        ("claims = { repository_id = \"74512345\" }", "claims = {}", "needs at least one claim"),
        ("[server.limits]", "[server.limits]\nmessage_bytes = 1", "limits.message_bytes must be"),
        ("/etc/daypass/issuing.key", "/etc/daypass/missing.key", "cannot be read"),
        ("audiences = [\"https://daypass.example.org\"]", "audiences = []", "audience"),
    ];
    for (good, bad, says) in cases {
        let broken = SAMPLE.replacen(good, bad, 1);
        assert_ne!(broken, SAMPLE, "{good:?} is not in the sample");
        let faults = load(dir.path(), &broken).err().unwrap_or_else(|| panic!("{bad} was taken"));
        assert!(faults.iter().any(|fault| fault.contains(says) && fault.contains("daypass.toml:")), "{bad}: {faults:#?}");
    }
    let redis = SAMPLE.replace(
        "kind = \"embedded\"\npath = \"/var/lib/daypass/leases.db\"",
        "kind = \"redis\"\nurls = [\"redis://u:secret@127.0.0.1:1\"]",
    );
    let faults = load(dir.path(), &redis).err().expect("a password in a URL is refused");
    assert!(faults.iter().any(|fault| fault.contains("password_file")) && !format!("{faults:?}").contains("secret"), "{faults:?}");
}

#[test]
fn a_fault_of_policy_stands_at_its_line_of_the_policy_file() {
    let dir = etc();
    let broken = POLICY
        .replace("claims.ref ==", "claims.reff ==")
        .replace("Role::\"web\"\n) when {\n  principal.claims.project_id", "Role::\"wbe\"\n) when {\n  principal.claims.project_id");
    fs::write(dir.path().join("policy.cedar"), &broken).unwrap();
    let faults = load(dir.path(), SAMPLE).err().expect("it is broken");
    let place = |what: &str| format!("policy.cedar:{}:", line(&broken, what));
    assert!(faults.iter().any(|fault| fault.contains(&place("claims.reff")) && fault.contains("did you mean ref?")), "{faults:#?}");
    assert!(faults.iter().any(|fault| fault.contains(&place("wbe")) && fault.contains("web")), "{faults:#?}");
}
