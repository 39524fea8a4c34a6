//! Templates and places: what a caller's claims can and cannot make of a role, and what a role may not be.

use std::collections::BTreeMap;

use daypass::{
    issuer::x509::{RoleReport, San},
    model::{
        SignedDuration,
        catalog::Catalog,
        claim::{ClaimSpec, ClaimType, ClaimValue},
        error::Code,
        identity::{Identity, Proof},
        role::{ExtKeyUsage, KeyType, Role, X509Role},
    },
};
use proptest::prelude::*;

use super::{der::split, world::*};

const QUARTER: SignedDuration = SignedDuration::from_mins(15);

/// The three places of a template, each with `{claims.x}` as the whole of what varies.
fn places() -> [(&'static str, X509Role); 3] {
    let bare = X509Role { uri_sans: vec![], ..spec() };
    [
        ("uri", X509Role { uri_sans: vec![template("spiffe://example.org/ci/{claims.x}")], ..bare.clone() }),
        ("dns", X509Role { dns_sans: vec![template("{claims.x}.example.org")], ..bare.clone() }),
        ("name", X509Role { common_name: Some(template("{claims.x}")), ..bare }),
    ]
}

/// The names of a certificate: its subject's, then its SANs.
fn names(leaf: &[u8]) -> Vec<String> {
    use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};
    let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
    let subject = leaf.subject().iter_attributes().map(|attribute| format!("{}={}", attribute.attr_type(), attribute.as_str().unwrap()));
    let sans = leaf.subject_alternative_name().unwrap().map(|san| san.value.general_names.clone()).unwrap_or_default();
    let sans = sans.into_iter().map(|name| match name {
        GeneralName::URI(uri) => format!("uri:{uri}"),
        GeneralName::DNSName(host) => format!("dns:{host}"),
        other => format!("{other:?}"),
    });
    subject.chain(sans).collect()
}

fn named(spec: &X509Role, identity: &Identity) -> Result<Vec<String>, Code> {
    WORLD
        .issue(&role(spec.clone()), identity, &PLAIN, QUARTER)
        .map(|minted| names(&x509(minted.credential).chain_der[0]))
        .map_err(|error| error.code())
}

static PLAIN: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(fresh_csr);

/// Metacharacters of every syntax that a name passes through on its way.
const META: &[&str] = &[
    "*",
    "+",
    "/",
    ",",
    "..",
    ".",
    "../x",
    "a/b",
    "%2e%2e",
    "%2f",
    "%00",
    "\0",
    "\n",
    "\r\n",
    "\t",
    "#",
    "?",
    "a?b",
    "a#b",
    "@",
    "a@b",
    ":",
    "a:b",
    ";",
    "=",
    "CN=admin",
    ",CN=admin",
    "+CN=admin",
    "\\",
    "\\2c",
    "\"",
    "'",
    "<",
    ">",
    "{",
    "}",
    "{tenant}",
    "$",
    "`",
    "|",
    "&",
    "~",
    "^",
    "!",
    "(",
    ")",
    "[",
    "]",
    "",
    "*.evil",
    "ä",
    "а",
    "\u{202e}",
    "\u{feff}a",
    "ａ",
    "\u{0130}",
    "//evil.example",
    "a//b",
    "a/../b",
    "a ",
    " a",
    "-a",
    "a-",
    "A",
    "_",
    "a_b",
    "a.b",
    "a b",
];

#[test]
fn no_metacharacter_changes_what_a_certificate_says() {
    for value in META {
        let identity = caller(&[("x", value)]);
        for (place, spec) in places() {
            let expected = match place {
                "uri" => format!("uri:spiffe://example.org/ci/{value}"),
                "dns" => format!("dns:{value}.example.org"),
                _ => format!("2.5.4.3={value}"),
            };
            let harmless = match place {
                "uri" => matches!(*value, "-a" | "a-" | "A" | "_" | "a_b" | "a.b"),
                "dns" => false,
                _ => matches!(*value, "." | ".." | "@" | "a@b" | "-a" | "a-" | "A" | "_" | "a_b" | "a.b" | "a b"),
            };
            let outcome = named(&spec, &identity);
            match harmless {
                true => assert_eq!(outcome, Ok(vec![expected]), "{value:?} as {place}"),
                false => assert_eq!(outcome, Err(Code::ClaimNotUsable), "{value:?} as {place}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever a claim holds, it is refused, or it stands in its place alone and unchanged.
    #[test]
    fn any_claim_stands_alone_or_not_at_all(value in prop_oneof!["\\PC{0,80}", "[a-z0-9-]{1,70}", "[ -~]{0,40}", "[a-z./*+,%=]{1,12}"]) {
        let identity = caller(&[("x", &value)]);
        for (place, spec) in places() {
            match named(&spec, &identity) {
                Err(code) => prop_assert_eq!(code, Code::ClaimNotUsable),
                Ok(found) => {
                    prop_assert!(value.is_ascii() && !value.contains(['/', '*', '+', ',', '%', '=', '\0', '?', '#', ':']));
                    let expected = match place {
                        "uri" => format!("uri:spiffe://example.org/ci/{value}"),
                        "dns" => format!("dns:{value}.example.org"),
                        _ => format!("2.5.4.3={value}"),
                    };
                    prop_assert_eq!(found, vec![expected]);
                }
            }
        }
    }

    /// Two callers whose claim differs never get the same names.
    #[test]
    fn two_claims_never_make_one_name(a in "[ -~]{1,30}", b in "[ -~]{1,30}") {
        prop_assume!(a != b);
        for (_, spec) in places() {
            if let (Ok(first), Ok(second)) = (named(&spec, &caller(&[("x", &a)])), named(&spec, &caller(&[("x", &b)]))) {
                prop_assert_ne!(first, second);
            }
        }
    }
}

#[test]
fn a_claim_that_is_absent_or_of_another_type_is_refused() {
    for (_, spec) in places() {
        assert_eq!(named(&spec, &caller(&[])), Err(Code::ClaimNotUsable));
        for value in [ClaimValue::Boolean(true), ClaimValue::Strings(vec!["a".to_owned()])] {
            let mut identity = caller(&[]);
            if let Proof::Token { token, .. } = &mut identity.proof {
                token.claims.insert("x".to_owned(), value);
            }
            assert_eq!(named(&spec, &identity), Err(Code::ClaimNotUsable));
        }
    }
}

#[test]
fn names_that_are_too_long_are_refused() {
    let [(_, uri), (_, dns), (_, name)] = places();
    let with = |length: usize| caller(&[("x", &"a".repeat(length))]);
    assert!(named(&name, &with(64)).is_ok());
    assert_eq!(named(&name, &with(65)), Err(Code::ClaimNotUsable));
    assert!(named(&dns, &with(63)).is_ok());
    assert_eq!(named(&dns, &with(64)), Err(Code::ClaimNotUsable));
    assert!(named(&uri, &with(900)).is_ok());
    assert_eq!(named(&uri, &with(1024)), Err(Code::ClaimNotUsable));
}

#[test]
fn a_wildcard_comes_from_the_role_only() {
    let dns = |source| X509Role { uri_sans: vec![], dns_sans: vec![template(source)], ..spec() };
    assert_eq!(named(&dns("*.{claims.x}.example.org"), &caller(&[("x", "a")])), Ok(vec!["dns:*.a.example.org".to_owned()]));
    assert_eq!(named(&dns("{claims.x}.example.org"), &caller(&[("x", "*")])), Err(Code::ClaimNotUsable));
    assert_eq!(named(&dns("a.*.{claims.x}"), &caller(&[("x", "a")])), Err(Code::ClaimNotUsable));
}

#[test]
fn a_name_that_two_templates_make_is_said_once() {
    let dns = ["{claims.x}.example.org", "a.example.org", "b.example.org"].map(template).to_vec();
    let found = named(&X509Role { dns_sans: dns, uri_sans: vec![], ..spec() }, &caller(&[("x", "a")])).unwrap();
    assert_eq!(found, ["dns:a.example.org", "dns:b.example.org"]);
}

#[test]
fn a_claim_never_chooses_the_trust_domain() {
    let role = X509Role { uri_sans: vec![template("spiffe://{claims.x}/a")], ..spec() };
    assert_eq!(named(&role, &caller(&[("x", "example.org")])), Err(Code::Internal));
}

#[test]
fn the_subject_is_empty_or_one_common_name() {
    let leaf = x509(WORLD.issue(&role(spec()), &job(), &PLAIN, QUARTER).unwrap().credential).chain_der.remove(0);
    let subject = &split(super::der::content(super::der::tbs_of(&leaf)))[5];
    assert_eq!(subject[..], [0x30, 0]);
}

#[test]
fn a_plan_holds_all_that_a_role_says() {
    let spec = X509Role {
        common_name: Some(template("{role} of {tenant}")),
        dns_sans: vec![template("{role}.{tenant}.example.org")],
        ip_sans: vec!["192.0.2.7".parse().unwrap()],
        ext_key_usage: vec![ExtKeyUsage::ClientAuth, ExtKeyUsage::ServerAuth, ExtKeyUsage::ClientAuth],
        ..spec()
    };
    let plan = plan_for(spec, daypass::issuer::x509::Serial::random());
    assert_eq!(plan.common_name.as_deref(), Some("web of acme"));
    let expected = [
        San::Uri("spiffe://example.org/acme/4711".to_owned()),
        San::Dns("web.acme.example.org".to_owned()),
        San::Ip("192.0.2.7".parse().unwrap()),
    ];
    assert_eq!(plan.sans, expected);
    assert_eq!(plan.ext_key_usage, [ExtKeyUsage::ServerAuth, ExtKeyUsage::ClientAuth]);
}

fn catalog() -> Catalog {
    let claim = |name: &str, ty| ClaimSpec { name: name.to_owned(), path: vec![name.to_owned()], ty, required: false };
    let claims = vec![claim("repository_id", ClaimType::Integer), claim("ref", ClaimType::String), claim("fork", ClaimType::Boolean)];
    Catalog { issuers: BTreeMap::from([("github".parse().unwrap(), claims)]), ..Catalog::default() }
}

fn report(role: &Role) -> RoleReport {
    WORLD.issuer.check_role(role, &catalog(), now())
}

#[test]
fn a_sound_role_has_no_fault() {
    let server = X509Role {
        common_name: Some(template("{tenant} {claims.ref}")),
        dns_sans: vec![template("*.{tenant}.example.org"), template("{claims.repository_id}.example.org")],
        ..spec()
    };
    for spec in [spec(), server] {
        assert_eq!(report(&role(spec)), RoleReport::default());
    }
}

#[test]
fn every_fault_of_a_role_is_found() {
    let bare = || X509Role { uri_sans: vec![], ..spec() };
    let uri = |source: &str| X509Role { uri_sans: vec![template(source)], ..spec() };
    let dns = |source: &str| X509Role { dns_sans: vec![template(source)], ..bare() };
    let cases: Vec<(X509Role, &str)> = vec![
        (X509Role { ca: "mian".parse().unwrap(), ..spec() }, "did you mean main?"),
        (X509Role { ca: "elsewhere".parse().unwrap(), ..spec() }, "there is no CA elsewhere"),
        (X509Role { key_types: vec![], ..spec() }, "key_types is empty"),
        (X509Role { ext_key_usage: vec![], ..spec() }, "ext_key_usage is empty"),
        (X509Role { ext_key_usage: vec![ExtKeyUsage::ClientAuth], ..bare() }, "name nobody"),
        (X509Role { common_name: Some(template("a")), ..bare() }, "server_auth needs"),
        (X509Role { ip_sans: vec!["0.0.0.0".parse().unwrap()], ..spec() }, "no host has"),
        (X509Role { uri_sans: vec![template("spiffe://a/b"), template("https://a/b")], ..spec() }, "only URI SAN"),
        (uri("spiffe://Example.org/a"), "trust domain"),
        (uri("spiffe://exa mple.org/a"), "trust domain"),
        (uri("spiffe://example.org"), "a path follows"),
        (uri("spiffe://example.org/a/"), "segment"),
        (uri("spiffe://example.org/{claims.ref}/../a"), "segment"),
        (uri("SPIFFE://example.org/a"), "lower case"),
        (uri("spiffe://{claims.ref}/a"), "must not choose"),
        (uri("{claims.ref}"), "must not choose"),
        (uri("example.org/a"), "no absolute URI"),
        (uri("https://example.org"), "normal form"),
        (uri("spiffe://example.org/{claims.repositoryid}"), "did you mean repository_id?"),
        (uri("spiffe://example.org/{claims.nonesuch}"), "no issuer has the claim nonesuch"),
        (uri("spiffe://example.org/{claims.fork}"), "boolean"),
        (dns("{claims.ref}_x.example.org"), "no DNS name"),
        (dns("UPPER.example.org"), "no DNS name"),
        (dns("-{claims.ref}.example.org"), "no DNS name"),
        (dns("a..b"), "no DNS name"),
        (dns("10.0.0.1"), "reads as an address"),
        (dns("*.example"), "two labels"),
        (dns("a.*.example.org"), "no DNS name"),
        (X509Role { common_name: Some(template(&"x".repeat(65))), ..spec() }, "no common name"),
        (X509Role { common_name: Some(template(" {claims.ref}")), ..spec() }, "no common name"),
    ];
    for (spec, why) in cases {
        let report = report(&role(spec.clone()));
        assert!(report.faults.iter().any(|fault| fault.contains(why)), "{why:?} is not among {:?}", report.faults);
        assert_eq!(report.faults.len(), 1, "{why:?} alone was expected: {:?}", report.faults);
    }
}

#[test]
fn all_faults_come_at_once() {
    let spec = X509Role { ca: "mian".parse().unwrap(), key_types: vec![], uri_sans: vec![template("x")], ..spec() };
    assert_eq!(report(&role(spec)).faults.len(), 3);
}

#[test]
fn a_role_that_outlives_its_ca_is_warned_of() {
    let long = Role { max_ttl: DAY * 31, ..role(X509Role { key_types: vec![KeyType::P256], ..spec() }) };
    let report = report(&long);
    assert_eq!(report.faults, Vec::<String>::new());
    assert!(report.warnings[0].contains("max_ttl"), "{report:?}");
}
