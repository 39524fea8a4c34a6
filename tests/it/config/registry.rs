//! `[[registry]]` and roles of its kind: the sample's are whole, and each fault is told.

use super::{SAMPLE, bootstrap, etc, fs, line, load, now};
use daypass::model::{SignedDuration, role::RoleSpec};

/// The sample with what it shows of registries taken in, and the files that it names.
fn world() -> (tempfile::TempDir, String) {
    let dir = etc();
    let ca = bootstrap::create_root("Token CA", now(), SignedDuration::from_hours(2400)).unwrap();
    fs::write(dir.path().join("registry-ca.pem"), &ca.certificate_pem).unwrap();
    fs::write(dir.path().join("registry-ca.key"), ca.key_pem.as_bytes()).unwrap();
    let all: Vec<&str> = SAMPLE.lines().collect();
    let begins = |at: usize| all[at] == "# [[registry]]" || (all[at] == "# [[role]]" && all[at + 1] == "# name = \"push\"");
    let mut inside = false;
    let taken_in = |(at, line): (usize, &&'static str)| {
        inside = begins(at) || (inside && line.starts_with("# "));
        if inside { line.trim_start_matches("# ") } else { *line }
    };
    let text: Vec<&str> = all.iter().enumerate().map(taken_in).collect();
    (dir, text.join("\n"))
}

#[test]
fn what_the_sample_shows_of_registries_is_whole() {
    let (dir, text) = world();
    let config = load(dir.path(), &text).unwrap();
    let warnings: Vec<_> = config.warnings.iter().map(|fault| fault.message.as_str()).collect();
    assert_eq!(
        warnings,
        ["[unreachable-role] no policy lets anybody issue the role \"push\""],
        "the sample's policy is for what is in force"
    );
    let names: Vec<_> = config.rules.issuers.registry.names().map(ToString::to_string).collect();
    assert_eq!(names, ["main"]);
    let role = &config.rules.book.catalog().roles[&"push".parse().unwrap()];
    let RoleSpec::Registry(push) = &role.spec else { panic!("another kind") };
    assert_eq!((push.token_ttl, push.repositories.len(), push.actions.len()), (SignedDuration::from_mins(5), 2, 2));
    let watched = |name: &str| config.watched.files.contains(&dir.path().join(name));
    assert!(watched("registry-ca.pem") && watched("registry-ca.key"), "another CA is taken up by itself");
}

#[test]
fn no_holder_of_a_certificate_can_sign_tokens() {
    // One root above the CA of leases, the CA of tokens, and the callers of another trust domain.
    let (dir, text) = world();
    let day = SignedDuration::from_hours(24);
    let root = bootstrap::create_root("Company root", now(), day * 100).unwrap();
    let issuing = bootstrap::create_issuing(&root, "Issuing", None, now(), day * 50).unwrap();
    let token_ca = bootstrap::create_issuing(&root, "Tokens", None, now(), day * 50).unwrap();
    let write = |name: &str, content: &str| fs::write(dir.path().join(name), content).unwrap();
    let bundle = |certificates: &[&bootstrap::Made], key: &bootstrap::Made| {
        write("registry-ca.pem", &certificates.iter().map(|made| made.certificate_pem.as_str()).collect::<String>());
        write("registry-ca.key", &key.key_pem);
    };
    let refused = |by: &str| {
        let faults = load(dir.path(), &text).err().unwrap_or_else(|| panic!("{by} may sign tokens"));
        let at = format!("daypass.toml:{}:", text.lines().position(|line| line == "[[registry]]").unwrap() + 1);
        let own: Vec<_> = faults.iter().filter(|fault| fault.contains("could sign tokens for this registry")).collect();
        assert!(own.len() == 1 && own[0].contains(by) && own[0].contains(&at), "{by}: {faults:?}");
    };
    bundle(&[&token_ca, &root], &token_ca);
    load(dir.path(), &text).unwrap_or_else(|faults| panic!("nobody else is below that root: {faults:?}"));
    write("vendor-ca.pem", &root.certificate_pem);
    refused("the trust domain vendor.example");
    write("issuing.pem", &issuing.certificate_pem);
    write("issuing.key", &issuing.key_pem);
    write("root.pem", &root.certificate_pem);
    refused("the CA issuing");
    let vendor = bootstrap::create_root("Vendor root", now(), day * 100).unwrap();
    write("vendor-ca.pem", &vendor.certificate_pem);
    bundle(&[&issuing], &issuing);
    refused("the CA issuing");
    bundle(&[&token_ca], &token_ca);
    load(dir.path(), &text).unwrap_or_else(|faults| panic!("a registry that knows the token CA alone takes nobody else's: {faults:?}"));
}

#[test]
fn each_fault_of_a_registry_is_told_with_its_line() {
    for (from, to, says) in [
        ("host = \"registry.example.org\"", "host = \"https://registry.example.org\"", "without a scheme"),
        ("service = \"registry.example.org\"", "service = \"\"", "service must be 1 to 255"),
        ("issuer = \"daypass.example.org\"", "issuer = \"day pass\"", "issuer must be 1 to 255"),
        ("rotate_every = \"24h\"", "rotate_every = \"59s\"", "rotate_every must be"),
        ("rotate_every = \"24h\"", "rotate_every = \"721h\"", "rotate_every must be"),
        ("registry-ca.key\"", "issuing.key\"", "the key is not the first certificate's"),
        ("registry-ca.pem\"", "server.pem\"", "is no CA"),
        ("registry-ca.pem\"", "absent.pem\"", "cannot be read"),
        ("registry = \"main\"", "registry = \"mian\"", "there is no registry mian that can be used; did you mean main?"),
        ("\"{tenant}/*\", \"base/alpine\"", "\"Base/*\"", "is no name of one"),
        ("\"{tenant}/*\", \"base/alpine\"", "\"{claims.repository_id}*\"", "is no name of one"),
        ("\"{tenant}/*\", \"base/alpine\"", "\"{claims.nothing}/a\"", "no issuer has the claim nothing"),
        ("\"{tenant}/*\", \"base/alpine\"", "\"a/{lease}\"", "{lease} cannot stand"),
        ("\"{tenant}/*\", \"base/alpine\"", "", "repositories is missing"),
        ("actions = [\"pull\", \"push\"]", "actions = []", "actions is empty"),
        ("actions = [\"pull\", \"push\"]", "actions = [\"push\"]", "a registry wants pull"),
        ("actions = [\"pull\", \"push\"]", "actions = [\"admin\"]", "unknown variant `admin`"),
        ("token_ttl = \"5m\"", "token_ttl = \"59s\"", "token_ttl must be"),
        ("token_ttl = \"5m\"", "token_ttl = \"301s\"", "token_ttl must be"),
    ] {
        let (dir, text) = world();
        assert!(text.contains(from), "{from}");
        let broken = text.replace(from, to);
        let faults = load(dir.path(), &broken).err().unwrap_or_else(|| panic!("{to} was taken"));
        assert!(faults.iter().any(|fault| fault.contains(says)), "{to}: {faults:?}");
    }
    let (dir, text) = world();
    let section = &text[text.find("\n[[registry]]\n").unwrap() + 1..];
    let section = &section[..section.find("\n\n").unwrap()];
    let twice = format!("{text}\n{section}\n\n{}", section.replace("\"main\"", "\"other\""));
    let faults = load(dir.path(), &twice).err().unwrap();
    let at = format!("daypass.toml:{}:", line(&twice, "issuer = \"daypass.example.org\"").max(twice[..text.len()].lines().count() + 1));
    assert!(faults.iter().any(|fault| fault.contains("there are two registries of the name main") && fault.contains(&at)), "{faults:?}");
    assert!(faults.iter().any(|fault| fault.contains("the registry main has the same service")), "{faults:?}");
}
