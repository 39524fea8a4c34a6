//! `[[ca]]` with `[ca.rotation]`, and the server's certificate from it: every fault at load.

use std::fs;

use crate::config::{SAMPLE, etc, load};

/// The sample with a CA that rotates.
fn rotating(rotation: &str) -> String {
    let at = SAMPLE.find("\n[[ca]]").expect("the sample has a CA");
    let end = at + 1 + SAMPLE[at + 1..].find("\n[").expect("something follows it");
    let section =
        format!("\n[[ca]]\nname = \"issuing\"\ncrl_url = \"http://daypass.example.org/crl/{{ca}}.crl\"\nrotation = {{ {rotation} }}\n");
    let keys = "\n[keys]\nwrapping_keys = [\"/etc/daypass/wrap.key\"]\n";
    format!("{}{section}{keys}{}", &SAMPLE[..at], &SAMPLE[end..])
}

#[track_caller]
fn faults(text: &str) -> Vec<String> {
    let dir = etc();
    match load(dir.path(), text) {
        Ok(_) => Vec::new(),
        Err(faults) => faults,
    }
}

#[track_caller]
fn one(text: &str, says: &str) {
    let faults = faults(text);
    assert!(faults.iter().any(|fault| fault.contains(says)), "{says:?} is not in {faults:#?}");
}

#[test]
fn a_ca_that_rotates_is_taken_with_and_without_a_root() {
    assert_eq!(faults(&rotating("every = \"720h\"")), Vec::<String>::new());
    let dir = etc();
    let root = daypass::issuer::x509::bootstrap::create_root(
        "Ring root",
        "2027-01-15T08:00:00Z".parse().unwrap(),
        daypass::model::SignedDuration::from_hours(24 * 365),
    )
    .unwrap();
    fs::write(dir.path().join("ring.pem"), &root.certificate_pem).unwrap();
    fs::write(dir.path().join("ring.key"), &*root.key_pem).unwrap();
    let under = |key: &str| rotating(&format!("every = \"720h\", root = {{ certificate = \"/etc/daypass/ring.pem\", key = \"{key}\" }}"));
    assert!(load(dir.path(), &under("/etc/daypass/ring.key")).is_ok());
    // Where its root is trusted by a file, its CRLs must be known: `own_cas` says so.
    fs::copy(dir.path().join("ring.pem"), dir.path().join("root.pem")).unwrap();
    assert!(load(dir.path(), &under("/etc/daypass/ring.key")).is_ok());
    let unnamed = under("/etc/daypass/ring.key").replacen("own_cas = [\"issuing\"]", "own_cas = []", 1);
    let unnamed = load(dir.path(), &unnamed).map(drop).unwrap_err();
    assert!(unnamed.iter().any(|fault| fault.contains("vouches for the CA issuing too")), "{unnamed:#?}");
    let other = load(dir.path(), &under("/etc/daypass/issuing.key")).map(drop).unwrap_err();
    assert!(other.iter().any(|fault| fault.contains("the root's key is not its certificate's")), "{other:#?}");
    // A root that ends before what it would sign.
    let long = under("/etc/daypass/ring.key").replace("every = \"720h\"", "every = \"8760h\"");
    let long = load(dir.path(), &long).map(drop).unwrap_err();
    assert!(long.iter().any(|fault| fault.contains("longer than its root still lives")), "{long:#?}");
}

#[test]
fn each_fault_of_a_rotation_is_told() {
    one(&rotating("every = \"30m\""), "rotation.every is");
    one(&rotating("every = \"24h\""), "at least twice publish_ahead");
    one(&rotating("every = \"720h\", publish_ahead = \"30s\""), "rotation.publish_ahead is");
    one(&rotating("every = \"720h\", life = \"721h\""), "it must be at least");
    one(&rotating("every = \"720h\", life = \"8784000h\""), "rotation.life is at most");
    one(&rotating("every = \"2h\", publish_ahead = \"1h\", life = \"2400h\""), "would be published at once");
    one(&rotating("every = \"720h\", acknowledged_after = \"0s\""), "rotation.acknowledged_after is 1s to 168h");
    one(&rotating("every = \"720h\", acknowledged_after = \"169h\""), "rotation.acknowledged_after is 1s to 168h");
    one(&rotating("every = \"720h\", speed = 1"), "unknown field");
    one(&rotating("every = \"720h\"").replace("/{ca}.crl", "/issuing.crl"), "crl_url must hold {ca}");
    one(&rotating("every = \"720h\"").replace("crl_url", "key = \"/etc/daypass/issuing.key\"\ncrl_url"), "certificate, key and root go");
    let keyless: String =
        SAMPLE.lines().filter(|line| !line.starts_with("key = \"/etc/daypass/issuing.key\"")).map(|line| format!("{line}\n")).collect();
    one(&keyless, "say its certificate, key and root");
    one(&rotating("every = \"720h\"").replace("[keys]\n", "").replace("wrapping_keys", "# wrapping_keys"), "[keys] wrapping_keys");
}

#[test]
fn names_of_keys_are_nobody_elses() {
    let second = rotating("every = \"720h\"")
        + "\n[[ca]]\nname = \"issuing-7\"\ncertificate = \"/etc/daypass/issuing.pem\"\nkey = \"/etc/daypass/issuing.key\"\n\
           root = \"/etc/daypass/root.pem\"\ncrl_url = \"http://daypass.example.org/crl/issuing-7.crl\"\n";
    one(&second, "has the name issuing-7");
    let jwt = rotating("every = \"720h\"") + "\n[[ca]]\nname = \"jwt\"\ncrl_url = \"http://a/{ca}\"\nrotation = { every = \"720h\" }\n";
    one(&jwt, "is the name of the keys that sign JWTs");
    let long = "a".repeat(60);
    let long = rotating("every = \"720h\"")
        + &format!("\n[[ca]]\nname = \"{long}\"\ncrl_url = \"http://a/{{ca}}\"\nrotation = {{ every = \"720h\" }}\n");
    one(&long, "has 52 characters at most");
}

#[test]
fn the_servers_certificate_comes_from_files_or_from_a_ca() {
    let from = |what: &str| {
        let pair = "certificate = \"/etc/daypass/server.pem\"\nkey = \"/etc/daypass/server.key\"\n";
        let stripped: String = rotating("every = \"720h\"")
            .lines()
            .filter(|line| {
                !line.starts_with("certificate = \"/etc/daypass/server.pem\"") && !line.starts_with("key = \"/etc/daypass/server.key\"")
            })
            .map(|line| format!("{line}\n"))
            .collect();
        assert!(!stripped.contains(pair));
        stripped.replacen("[server]\n", &format!("[server]\n{what}\n"), 1)
    };
    assert_eq!(
        faults(&from("certificate_from = { ca = \"issuing\", names = [\"localhost\", \"127.0.0.1\", \"::1\"] }")),
        Vec::<String>::new()
    );
    one(&from(""), "say either certificate and key, or certificate_from");
    one(&from("certificate_from = { ca = \"isuing\", names = [\"a\"] }"), "did you mean issuing?");
    one(&from("certificate_from = { ca = \"issuing\", names = [] }"), "1 to 32");
    one(&from("certificate_from = { ca = \"issuing\", names = [\"A b\"] }"), "server.certificate_from:");
    one(&from("certificate_from = { ca = \"issuing\", names = [\"a\"], life = \"30s\" }"), "life is");
}

#[test]
fn a_trust_domain_needs_a_ca_of_its_own() {
    let text = rotating("every = \"720h\"");
    let own = text.lines().find(|line| line.starts_with("own_cas")).expect("the sample binds its CA").to_owned();
    let ca = text.lines().find(|line| line.starts_with("ca = ") && line.contains("root.pem")).expect("and names its root").to_owned();
    assert_eq!(faults(&text.replacen(&ca, "", 1)), Vec::<String>::new(), "the ring's own roots are enough");
    one(&text.replacen(&ca, "", 1).replacen(&own, "", 1), "say its ca, or name a CA that rotates in own_cas");
    let twice = text + "\n[[trust_domain]]\nname = \"other.example.org\"\nown_cas = [\"issuing\"]\nidentity = \"spiffe\"\n";
    one(&twice, "each trust domain needs CAs of its own");
}
