//! The configuration: the full sample is whole, and each fault is told with its line, all of them at once.

mod registry;
mod reload;

use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use daypass::{
    issuer::x509::{
        Authority, CaConfig, DEFAULT_CRL_LIFE, San,
        bootstrap::{self, Made},
    },
    keys::FileKek,
    model::{SignedDuration, Timestamp},
    server::config,
};

pub const SAMPLE: &str = include_str!("../../../deploy/daypass.toml");
const POLICY: &str = include_str!("../../../deploy/policy.cedar");

fn now() -> Timestamp {
    "2027-01-15T08:00:00Z".parse().unwrap()
}

/// The files that the sample names, in a directory that stands for /etc/daypass.
pub fn etc() -> tempfile::TempDir {
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
    let mut wrapping = fs::File::options().write(true).create_new(true).mode(0o600).open(dir.path().join("wrap.key")).unwrap();
    wrapping.write_all(FileKek::generate().as_bytes()).unwrap();
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

/// A root's CRL, PEM and DER.
fn root_crl() -> (String, Vec<u8>) {
    let root = bootstrap::create_root("Root", now(), SignedDuration::from_hours(2400)).unwrap();
    let crl = bootstrap::create_empty_root_crl(&root, 1, now(), SignedDuration::from_hours(24)).unwrap();
    let pem = format!("-----BEGIN X509 CRL-----\n{}\n-----END X509 CRL-----\n", STANDARD.encode(&crl.der));
    (pem, crl.der)
}

pub fn load(dir: &Path, text: &str) -> Result<config::Config, Vec<String>> {
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
        ("own_cas = [\"issuing\"]", "own_cas = []", "vouches for the CA issuing too: name it in own_cas"),
        ("{tenant}/web", "{tennant}/web", "{tennant} is no placeholder"),
        ("{tenant}/web", "{claims.repositry_id}/web", "no issuer has the claim repositry_id; did you mean repository_id?"),
        ("preset = \"github\"", "preset = \"gihub\"", "there is no preset gihub; did you mean github?"),
        ("algorithms = [\"ES256\"]", "algorithms = [\"HS256\"]", "there is no algorithm HS256"),
        ("tenant = \"acme-scan\"", "tenant = \"acme\"", "there is no tenant acme"),
        ("id = \"spiffe://example.org/operator\"", "id = \"spiffe://*/operator\"", "must be exact, or end in /*"),
        ("claims = { repository_id = \"74512345\" }", "claims = {}", "needs at least one claim"),
        ("[server.limits]", "[server.limits]\nmessage_bytes = 1", "limits.message_bytes must be"),
        ("/etc/daypass/issuing.key", "/etc/daypass/missing.key", "cannot be read"),
        ("audiences = [\"daypass\"]", "audiences = []", "audience"),
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

/// Each fault that only `serve` would find otherwise: a file's content, or a text of the sample.
#[test]
fn whatever_serve_would_stop_at_is_a_fault_with_its_line() {
    let garbage = |name: &'static str| move |dir: &Path| fs::write(dir.join(name), "garbage").unwrap();
    let nothing = |_: &Path| {};
    let other_key = |dir: &Path| assert!(fs::copy(dir.join("issuing.key"), dir.join("server.key")).is_ok());
    let crl = |dir: &Path| fs::write(dir.join("clients.crl"), "garbage").unwrap();
    let same_ca = |dir: &Path| assert!(fs::copy(dir.join("root.pem"), dir.join("vendor-ca.pem")).is_ok());
    let jwks = |dir: &Path| fs::write(dir.join("jwks.json"), "{}").unwrap();
    let redis = |with: &str| format!("kind = \"redis\"\n{with}\n#");
    type Break<'a> = &'a dyn Fn(&Path);
    let cases: &[(Break<'_>, &str, &str, &str, &str)] = &[
        (&garbage("server.pem"), "", "", "[server]", "server.pem and"),
        (&garbage("server.key"), "", "", "[server]", "cannot be used"),
        (&other_key, "", "", "[server]", "cannot be used"),
        (&garbage("vendor-ca.pem"), "", "", "name = \"vendor.example\"", "trust domain vendor.example: its CA"),
        (
            &same_ca,
            "identity = \"dns\"",
            "own_cas = [\"issuing\"]\nidentity = \"dns\"",
            "name = \"vendor.example\"",
            "shares a CA with example.org",
        ),
        (&crl, "# crls = ", "crls = ", "name = \"example.org\"", "trust domain example.org: a CRL does not parse"),
        (&nothing, "# crl_required = false", "crl_required = true", "name = \"example.org\"", "requires CRLs and has none"),
        (&nothing, "# root_crl = \"/etc/daypass/root.crl\"", "root_crl = \"missing.crl\"", "name = \"issuing\"", "cannot be read"),
        (&garbage("root.crl"), "# root_crl = ", "root_crl = ", "name = \"issuing\"", "is no CRL"),
        (&jwks, "# keys_file = \"/etc/daypass/github-jwks.json\"", "keys_file = \"jwks.json\"", "name = \"github\"", "no array \"keys\""),
        (&nothing, "# keys_file = ", "keys_file = ", "name = \"github\"", "issuer github: "),
        (
            &nothing,
            "url = \"https://ci.example.org\"",
            "url = \"https://token.actions.githubusercontent.com\"",
            "name = \"build-farm\"",
            "the issuer github has the same url",
        ),
        (&nothing, "filter = \"info\"", "filter = \"info=a=b\"", "[log]", "log.filter: "),
        (&nothing, "# retention", "retention = \"-1h\" #", "[store]", "store.retention must be 1m to 8760h"),
        (&nothing, "# retention", "retention = \"9000h\" #", "[store]", "store.retention must be 1m to 8760h"),
        (&nothing, "kind = \"embedded\"\npath =", &redis("urls = []"), "[store]", "at least one redis:// or rediss:// URL"),
        (&nothing, "kind = \"embedded\"\npath =", &redis("urls = [\"http://h\"]"), "[store]", "URL 1 of the lease store"),
        (
            &nothing,
            "kind = \"embedded\"\npath =",
            &redis("urls = [\"redis://h\"]\nprefix = \"{a}\""),
            "[store]",
            "the prefix of the Redis keys",
        ),
        (
            &nothing,
            "kind = \"embedded\"\npath =",
            &redis("urls = [\"redis://h\"]\ntimeout = \"0s\""),
            "[store]",
            "store.timeout must be 10ms to 1m",
        ),
        (
            &nothing,
            "kind = \"embedded\"\npath =",
            &redis("urls = [\"redis://h\"]\ntimeout = \"2m\""),
            "[store]",
            "store.timeout must be 10ms to 1m",
        ),
        (
            &garbage("redis-ca.pem"),
            "kind = \"embedded\"\npath =",
            &redis("urls = [\"rediss://h\"]\nca = \"redis-ca.pem\""),
            "[store]",
            "holds no certificates",
        ),
        (&nothing, "# segment_bytes = 67108864", "segment_bytes = 0", "[audit]", "audit.segment_bytes must be 65536 to"),
    ];
    for (break_files, good, bad, section, says) in cases {
        let dir = etc();
        break_files(dir.path());
        let broken = SAMPLE.replacen(good, bad, 1);
        assert!(good.is_empty() || broken != SAMPLE, "{good:?} is not in the sample");
        let faults = load(dir.path(), &broken).err().unwrap_or_else(|| panic!("{says}: was taken"));
        // A section of a list is at its head, the line before its name.
        let at = line(&broken, section) - usize::from(!section.starts_with('['));
        let place = format!("daypass.toml:{at}:");
        assert!(faults.iter().any(|fault| fault.contains(&place) && fault.contains(says)), "{says}: {place} not in {faults:#?}");
        assert_eq!(faults.len(), 1, "{faults:#?}");
    }
}

#[test]
fn a_fault_of_policy_is_told_beside_those_of_the_configuration() {
    let dir = etc();
    let broken = POLICY.replacen("permit(", "permitt(", 1) + "permit(principal, action, resource) when { principal.nothing == 1 };\n";
    fs::write(dir.path().join("policy.cedar"), &broken).unwrap();
    let syntax = format!("policy.cedar:{}:", line(&broken, "permitt"));
    // With holes in the catalog only the syntax is told ...
    let faults = load(dir.path(), &SAMPLE.replacen("kind = \"x509\"", "kind = \"ssh\"", 1)).err().expect("it is broken");
    assert!(faults.iter().any(|fault| fault.contains("there is no kind \"ssh\"")), "{faults:#?}");
    assert!(faults.iter().any(|fault| fault.contains(&syntax)), "{faults:#?}");
    assert!(!faults.iter().any(|fault| fault.contains("nothing")), "{faults:#?}");
    // ... and all of it where the fault lies elsewhere.
    let faults = load(dir.path(), &SAMPLE.replacen("filter = \"info\"", "filter = \"info=a=b\"", 1)).err().expect("it is broken");
    for says in ["log.filter", &syntax, "nothing"] {
        assert!(faults.iter().any(|fault| fault.contains(says)), "{says} not in {faults:#?}");
    }
}

#[test]
fn the_bounds_of_spans_and_sizes_are_taken() {
    let dir = etc();
    let [least, most] = config::SEGMENT_BYTES;
    for (good, bad) in [
        ("# retention", "retention = \"1m\" #".to_owned()),
        ("# retention", "retention = \"8760h\" #".to_owned()),
        ("# segment_bytes = 67108864", format!("segment_bytes = {least}")),
        ("# segment_bytes = 67108864", format!("segment_bytes = {most}")),
    ] {
        load(dir.path(), &SAMPLE.replacen(good, &bad, 1)).unwrap_or_else(|faults| panic!("{bad}: {faults:#?}"));
    }
}

#[test]
fn a_roots_crl_is_served_in_der_whatever_its_file_holds() {
    let (pem, der) = root_crl();
    let dir = etc();
    let with = SAMPLE.replacen("# root_crl = ", "root_crl = ", 1);
    for content in [pem.as_bytes(), &der] {
        fs::write(dir.path().join("root.crl"), content).unwrap();
        let config = load(dir.path(), &with).unwrap();
        assert_eq!(config.root_crls, [("root-issuing".to_owned(), der.clone())]);
    }
    for (content, says) in [
        ([pem.as_bytes(), pem.as_bytes()].concat(), "holds 2 CRLs"),
        ([&der[..], b"x"].concat(), "more than a CRL"),
        (Vec::new(), "no CRL"),
    ] {
        fs::write(dir.path().join("root.crl"), content).unwrap();
        let faults = load(dir.path(), &with).err().expect("it is refused");
        assert!(faults.iter().any(|fault| fault.contains(says)), "{says} not in {faults:#?}");
    }
}

#[test]
fn every_file_whose_change_a_reload_takes_up_is_watched() {
    let dir = etc();
    fs::write(dir.path().join("root.crl"), root_crl().1).unwrap();
    fs::write(dir.path().join("clients.crl"), root_crl().1).unwrap();
    fs::copy(dir.path().join("root.pem"), dir.path().join("issuer-ca.pem")).unwrap();
    let all = ["root_crl = ", "crls = ", "ca = \"/etc/daypass/issuer-ca.pem"]
        .iter()
        .fold(SAMPLE.to_owned(), |text, key| text.replacen(&format!("# {key}"), key, 1));
    let watched = load(dir.path(), &all).unwrap().watched;
    let names: Vec<_> = watched.files.iter().map(|path| path.strip_prefix(dir.path()).unwrap().to_str().unwrap()).collect();
    let expected = [
        "clients.crl",
        "daypass.toml",
        "issuer-ca.pem",
        "issuing.key",
        "issuing.pem",
        "policy.cedar",
        "root.crl",
        "root.pem",
        "server.key",
        "server.pem",
        "vendor-ca.pem",
    ];
    assert_eq!(names, expected);
}

#[test]
fn what_needs_a_restart_is_told_by_its_section_and_nothing_else_is() {
    let dir = etc();
    let (first, second) = (root_crl().1, root_crl().1);
    let with_crl = SAMPLE.replacen("# root_crl = ", "root_crl = ", 1);
    let watched = |crl: &[u8], text: &str| {
        fs::write(dir.path().join("root.crl"), crl).unwrap();
        load(dir.path(), text).unwrap().watched
    };
    let started = watched(&first, &with_crl);
    let cases = [
        ("grpc = \"0.0.0.0:7443\"", "grpc = \"0.0.0.0:7444\"", "server.grpc, server.http"),
        ("http = \"0.0.0.0:7480\"", "http = \"0.0.0.0:7481\"", "server.grpc, server.http"),
        ("# connections = 10000", "connections = 9999", "server.limits"),
        ("filter = \"info\"", "filter = \"debug\"", "log"),
        ("# retention = \"24h\"", "retention = \"25h\"", "store"),
        ("# segment_bytes = 67108864", "segment_bytes = 67108865", "audit"),
    ];
    for (old, new, section) in cases {
        let text = with_crl.replacen(old, new, 1);
        assert_ne!(text, with_crl);
        assert_eq!(started.need_restart(&watched(&first, &text)), [section]);
    }
    assert_eq!(started.need_restart(&watched(&second, &with_crl)), ["ca.root_crl"]);
    // What a reload takes up, a comment, and a default that is spelled out.
    for (old, new) in [
        ("max_ttl = \"1h\"", "max_ttl = \"2h\""),
        ("# connections = 10000", "connections = 10000"),
        ("# retention = \"24h\"", "retention = \"24h 0m\""),
        ("[log]", "[log] # a comment"),
    ] {
        let text = with_crl.replacen(old, new, 1);
        assert_ne!(text, with_crl);
        assert_eq!(started.need_restart(&watched(&first, &text)), <[&str; 0]>::default(), "{new}");
    }
}

#[test]
fn every_limit_stands_in_the_page_and_in_the_sample() {
    let source = include_str!("../../../src/server/config/limits.rs");
    let page = include_str!("../../../docs/limits.md");
    let body = source.split("pub struct Limits {").nth(1).unwrap().split("\n}").next().unwrap();
    let names: Vec<&str> = body.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split(':').next()).collect();
    assert!(names.len() > 10, "the limits are no longer found: mend this test");
    for name in names {
        assert!(page.contains(&format!("`{name}`")), "docs/limits.md does not name {name}");
        assert!(SAMPLE.contains(&format!("# {name} =")), "deploy/daypass.toml does not show {name}");
    }
}
