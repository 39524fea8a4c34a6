//! A role for first identities is checked at load: that its certificates are taken here, and that only such roles have a name to render.

use crate::config::{SAMPLE, etc, load};

/// A role of the sample's own CA for its own trust domain.
const AGENT: &str = r#"
[[role]]
name = "agent"
shared = true
kind = "x509"
ca = "issuing"
enrollment = true
default_ttl = "24h"
max_ttl = "24h"
max_life = "720h"
uri_sans = ["spiffe://example.org/agent/{tenant}/{enrollment.name}"]
ext_key_usage = ["client_auth"]
"#;

fn faults(role: &str) -> Vec<String> {
    let dir = etc();
    load(dir.path(), &format!("{SAMPLE}\n{role}")).map(|_| Vec::new()).unwrap_or_else(|faults| faults)
}

#[test]
fn such_a_role_loads_and_says_who_may_enrol_for_it_is_nobody_yet() {
    let dir = etc();
    let config = load(dir.path(), &format!("{SAMPLE}\n{AGENT}")).unwrap();
    let role = &config.rules.book.catalog().roles[&"agent".parse().unwrap()];
    assert!(role.enrollment().is_some());
    let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    assert!(
        warnings.iter().any(|warning| warning.contains("no policy lets anybody make an enrolment code for the role \"agent\"")),
        "{warnings:?}"
    );
}

#[test]
fn what_nobody_would_take_is_a_fault() {
    let with = |from: &str, to: &str| {
        assert!(AGENT.contains(from), "{from}");
        faults(&AGENT.replace(from, to))
    };
    for (faults, says) in [
        (with("[\"client_auth\"]", "[\"server_auth\"]"), "needs the ext_key_usage client_auth"),
        (with("spiffe://example.org/", "spiffe://elsewhere.example/"), "there is no [[trust_domain]] \"elsewhere.example\""),
        (with("spiffe://example.org/", "spiffe://vendor.example/"), "must have identity = \"spiffe\""),
        (with("spiffe://example.org/agent/{tenant}", "spiffe://{tenant}"), "there is no [[trust_domain]] \"{tenant}\""),
        (
            with("uri_sans = [\"spiffe://example.org/agent/{tenant}/{enrollment.name}\"]", "uri_sans = [\"https://example.org/x\"]"),
            "one URI in uri_sans, a SPIFFE ID",
        ),
        (
            with("uri_sans = [\"spiffe://example.org/agent/{tenant}/{enrollment.name}\"]", "common_name = \"{enrollment.name}\""),
            "one URI in uri_sans, a SPIFFE ID",
        ),
        (with("{enrollment.name}", "{claims.repository_id}"), "has no claims"),
        (with("enrollment = true\n", ""), "{enrollment.name} stands in the names of roles for first identities only"),
        (with("{enrollment.name}", "{enrollment.nmae}"), "is no placeholder"),
        (with("{enrollment.name}", "{enrollment.name}/{enrollment.name}"), "and there once"),
        (with("/{enrollment.name}\"]", "/x\"]\ncommon_name = \"{enrollment.name}\""), "and there once"),
    ] {
        assert!(faults.iter().any(|fault| fault.contains(says)), "{says}: {faults:#?}");
    }
    let unbound = SAMPLE.replace("own_cas = [\"issuing\"]", "own_cas = []");
    let dir = etc();
    let faults = load(dir.path(), &format!("{unbound}\n{AGENT}")).err().expect("its CRL holds nowhere");
    assert!(faults.iter().any(|fault| fault.contains("must name the CA issuing in own_cas")), "{faults:#?}");
}

#[test]
fn the_name_is_refused_in_roles_of_every_other_kind() {
    let jwt = "[[role]]\nname = \"federate\"\nshared = true\nkind = \"jwt\"\naudiences = [\"a\"]\nsubject = \"x:{enrollment.name}\"\n\
               default_ttl = \"5m\"\nmax_ttl = \"15m\"\n";
    let faults = faults(jwt);
    assert!(faults.iter().any(|fault| fault.contains("{enrollment.name} stands in")), "{faults:#?}");
}
