//! Certificates as relying parties see them: OpenSSL, pkilint and nginx.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};

use super::world::{Caller, World};
use crate::support::parts::{
    github::{Issuer, Token},
    nginx::Nginx,
    openssl::{Ca, Pair, REVOKED, openssl_ok, to_pem, verify},
    pkilint::{lint_certificate, lint_chain, lint_crl},
    wait_until,
};

/// Within this a revocation must be in the CRL that is served.
const CRL_TIME: Duration = Duration::from_secs(1);

#[test]
fn the_json_of_an_issue_is_the_contract() {
    let world = World::start();
    let (job, operator) = (world.job(), world.operator());
    for (caller, tenant, subject) in [
        (&operator, "platform", "spiffe://dev.daypass.test/operator"),
        (&job, "widget", "oidc:github:repo:acme/widget:ref:refs/heads/main"),
    ] {
        let (answer, pair) = world.issue(caller, "web", tenant);
        assert_eq!(keys(&answer), ["credential", "lease"]);
        let lease = &answer["lease"];
        let promised = ["expires_at", "id", "issued_at", "kind", "renewable", "revocation", "role", "state", "subject", "tenant"];
        assert!(promised.iter().all(|name| keys(lease).contains(&name.to_string())), "{lease}");
        assert_eq!(keys(&lease["revocation"]), ["live_until", "reach"]);
        let said = ["role", "kind", "tenant", "subject", "state"].map(|name| lease[name].as_str().unwrap());
        assert_eq!(said, ["web", "x509", tenant, subject, "active"]);
        assert_eq!((&lease["renewable"], &lease["revocation"]["reach"]), (&json!(true), &json!("crl")));
        for time in [&lease["issued_at"], &lease["expires_at"], &lease["revocation"]["live_until"]] {
            let text = time.as_str().unwrap();
            assert!(text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok(), "{text} is not RFC 3339 in UTC");
        }
        assert_eq!(lease["expires_at"], lease["revocation"]["live_until"], "a live lease lives until it expires");
        assert_eq!(world.cli(&operator, ["lease", "get", lease["id"].as_str().unwrap(), "-o", "json"]).json(), *lease);
        accepted(&pair, None);
    }
}

#[test]
fn openssl_accepts_a_leaf_and_refuses_it_once_it_is_revoked() {
    let world = World::start();
    let (answer, pair) = world.issue(&world.operator(), "web", "tls");
    let point = format!("http://127.0.0.1:{}", world.http);
    let text =
        openssl_ok(world.dir(), ["x509".as_ref(), "-noout".as_ref(), "-text".as_ref(), "-in".as_ref(), pair.cert.as_os_str()]).text();
    let urls: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("URI:http")).collect();
    assert_eq!(urls.len(), 1, "{text}");
    let path = format!("http{}", urls[0]).strip_prefix(&point).expect("the CRL is where the certificate says").to_owned();

    let crls = crl_pems(&world, &path);
    accepted(&pair, Some(&crls));
    let id = answer["lease"]["id"].as_str().unwrap();
    let said = world.cli(&world.operator(), ["lease", "revoke", id, "-o", "json"]).json();
    assert_eq!((&said["revoked"], &said["failed"]), (&json!(1), &json!([])));
    wait_until(CRL_TIME, "the CRL has the revoked certificate", || {
        let crls = crl_pems(&world, &path);
        let ran = check(&pair, Some(&crls));
        (!ran.ok && ran.all().contains(REVOKED)).then_some(())
    });
    let lease = world.cli(&world.operator(), ["lease", "get", id, "-o", "json"]).json();
    assert_eq!(lease["state"], "revoked");
    assert_eq!(lease["renewable"], false);
    assert!(lease["revoked_at"].is_string());
}

#[test]
fn a_renewed_lease_has_a_new_certificate_and_a_revoke_ends_both() {
    let world = World::start();
    let (answer, first) = world.issue(&world.operator(), "web", "first");
    let id = answer["lease"]["id"].as_str().unwrap();
    let out = world.file("second");
    let said =
        world.cli(&world.operator(), ["lease", "renew", id, "--ttl", "30m", "-o", "json", "--out", &out.display().to_string()]).json();
    let second = Pair { cert: out.join("tls.crt"), key: out.join("tls.key") };
    assert_eq!((&said["lease"]["id"], &said["lease"]["generation"]), (&json!(id), &json!(2)));
    assert!(said["lease"]["expires_at"].as_str() > answer["lease"]["expires_at"].as_str());
    accepted(&second, None);
    assert_eq!(world.cli(&world.operator(), ["lease", "revoke", id]).code, 0);
    let crls = crl_pems(&world, "/crl/issuing.crl");
    for pair in [&first, &second] {
        let ran = check(pair, Some(&crls));
        assert!(!ran.ok && ran.all().contains(REVOKED), "{}", ran.all());
    }
}

#[test]
fn pkilint_finds_nothing() {
    let world = World::start();
    let (answer, pair) = world.issue(&world.operator(), "web", "tls");
    world.issue(&world.vendor(), "vendor-client", "vendor");
    assert_eq!(world.cli(&world.operator(), ["lease", "revoke", answer["lease"]["id"].as_str().unwrap()]).code, 0);
    let (issuing, root) = (read(world.file("pki/issuing.pem")), read(world.file("ca.pem")));
    let leaf = leaf_of(&pair.cert);
    assert_eq!(lint_certificate(&leaf), []);
    assert_eq!(lint_certificate(&leaf_of(&world.file("vendor/tls.crt"))), []);
    assert_eq!(lint_certificate(&issuing), []);
    assert_eq!(lint_certificate(&root), []);
    assert_eq!(lint_chain(&issuing, &leaf), []);
    assert_eq!(lint_chain(&root, &issuing), []);
    for crl in ["/crl/issuing.crl", "/crl/root-issuing.crl"] {
        assert_eq!(lint_crl(&world.fetch(crl)), [], "{crl}");
    }
}

#[test]
fn nginx_admits_a_leaf_and_refuses_it_revoked() {
    let world = World::start();
    let (answer, pair) = world.issue(&world.operator(), "web", "tls");
    let (_, other) = world.issue(&world.job(), "web", "other");
    let trusted = String::from_utf8(world.fetch("/ca.pem")).unwrap();
    let nginx = |world: &World| Nginx::start(&trusted, Some(&read_text(crl_pems(world, "/crl/issuing.crl"))));
    let before = nginx(&world);
    assert_eq!([&pair, &other].map(|pair| before.get_with_client_cert(&pair.cert, &pair.key)), [200, 200]);
    assert_eq!(world.cli(&world.operator(), ["lease", "revoke", answer["lease"]["id"].as_str().unwrap()]).code, 0);
    let after = nginx(&world);
    assert_eq!([&pair, &other].map(|pair| after.get_with_client_cert(&pair.cert, &pair.key)), [400, 200]);
}

#[test]
fn tokens_of_a_real_oidc_server_get_certificates() {
    let world = World::start();
    let issuer = Issuer::start();
    world.reconfigure(|world| {
        world.append(
            "daypass.toml",
            &format!(
                "[[issuer]]\nname = \"real\"\npreset = \"github\"\nurl = \"{}\"\naudiences = [\"https://daypass.example\"]\n\
                 allow_private_network = true\n\n[[tenant]]\nname = \"real\"\nkind = \"team\"\n\
                 members = [{{ issuer = \"real\", claims = {{ repository_id = \"74\" }} }}]\n",
                issuer.url()
            ),
        );
        world.append(
            "policy.cedar",
            "@id(\"real-web\") permit(principal is Token::real in Tenant::\"real\", action == Action::\"issue\", resource == Role::\"web\")\n\
             when { principal.claims.repository_id == \"74\" && principal.claims.ref == \"refs/heads/main\" };\n",
        );
    });
    let mint = |claims: Value| Caller::token(issuer.mint(&Token { claims, ..Token::default() }));
    let (answer, pair) = world.issue(&mint(json!({})), "web", "tls");
    accepted(&pair, None);
    assert_eq!(
        (&answer["lease"]["tenant"], &answer["lease"]["subject"]),
        (&json!("real"), &json!("oidc:real:repo:acme/widget:ref:refs/heads/main"))
    );

    issuer.rotate("RS256", "k2", true);
    accepted(&world.issue(&mint(json!({})), "web", "rotated").1, None);

    let elsewhere = world.cli(&mint(json!({"ref": "refs/heads/feature"})), ["issue", "web"]);
    assert_eq!(elsewhere.code, 4, "{elsewhere:?}");
    let stranger = world.cli(&mint(json!({"repository_id": "75"})), ["issue", "web"]);
    assert_eq!(stranger.code, 4, "{stranger:?}");
    let forged = mint(json!({"iss": "https://token.actions.dev.daypass.test"}));
    assert_eq!(world.cli(&forged, ["issue", "web"]).code, 3, "a key of one issuer does not speak for another");
}

#[test]
fn certificates_of_openssl_get_certificates_and_may_stand_beside_a_token() {
    let world = World::start();
    let callers = Ca::new(world.dir(), "callers");
    world.reconfigure(|world| {
        world.append(
            "daypass.toml",
            "[[trust_domain]]\nname = \"example.org\"\nca = \"callers/ca.pem\"\nidentity = \"spiffe\"\n\n[[tenant]]\nname = \"agents\"\n\
             kind = \"sub-processor\"\nends_at = \"2036-01-01T00:00:00Z\"\n\
             members = [{ trust_domain = \"example.org\", id = \"spiffe://example.org/agent\" }]\n",
        );
        world.append(
            "policy.cedar",
            "@id(\"agents-web\") permit(principal is Certificate in Tenant::\"agents\", action == Action::\"issue\", resource == Role::\"web\");\n",
        );
    });
    let agent = callers.client("agent", &["URI:spiffe://example.org/agent"]);
    let (answer, pair) = world.issue(&Caller::pair(agent.clone()), "web", "tls");
    accepted(&pair, None);
    assert_eq!((&answer["lease"]["tenant"], &answer["lease"]["subject"]), (&json!("agents"), &json!("spiffe://example.org/agent")));

    let foreign = callers.client("foreign", &["URI:spiffe://dev.daypass.test/operator"]);
    assert_eq!(world.cli(&Caller::pair(foreign), ["whoami"]).code, 3, "a CA speaks for its own trust domain only");
    let other = callers.client("other", &["URI:spiffe://example.org/other"]);
    assert_eq!(world.cli(&Caller::pair(other), ["whoami"]).code, 4, "known, but of no tenant");

    let both = Caller::pair(agent).beside(world.job_token());
    let seen = world.cli(&both, ["whoami", "-o", "json"]).json();
    assert_eq!((&seen["method"], &seen["tenant"], &seen["peer"]), (&json!("oidc"), &json!("widget"), &json!("spiffe://example.org/agent")));
    let (answer, _) = world.issue(&both, "web", "both");
    assert_eq!(answer["lease"]["subject"], "oidc:github:repo:acme/widget:ref:refs/heads/main", "the token is the caller");
    let record = world.records().into_iter().rfind(|record| record["method"] == "CredentialService/Issue").unwrap();
    assert_eq!(record["actor"]["peer"], "spiffe://example.org/agent");
}

fn keys(json: &Value) -> Vec<String> {
    let mut keys: Vec<_> = json.as_object().unwrap_or_else(|| panic!("{json} is no object")).keys().cloned().collect();
    keys.sort();
    keys
}

/// The first certificate of a file; pkilint takes no more than one.
fn leaf_of(chain: &Path) -> Vec<u8> {
    CertificateDer::pem_file_iter(chain).unwrap().next().unwrap().unwrap().to_vec()
}

fn read(path: PathBuf) -> Vec<u8> {
    fs::read(path).unwrap()
}

fn read_text(path: PathBuf) -> String {
    fs::read_to_string(path).unwrap()
}

/// Both CRLs of the chain as one PEM file, fetched now.
fn crl_pems(world: &World, issuing: &str) -> PathBuf {
    let text: String = [issuing, "/crl/root-issuing.crl"]
        .map(|path| {
            let pem = world.file("one-crl.pem");
            to_pem("crl", &world.fetch(path), &pem);
            read_text(pem)
        })
        .concat();
    let all = world.file("crls.pem");
    fs::write(&all, text).unwrap();
    all
}

/// OpenSSL's judgement, by the `ca.crt` that the client wrote beside the leaf.
fn check(pair: &Pair, crls: Option<&PathBuf>) -> crate::support::parts::Ran {
    verify(&pair.cert, &pair.cert.with_file_name("ca.crt"), Some(&pair.cert), crls.map(PathBuf::as_path))
}

fn accepted(pair: &Pair, crls: Option<&PathBuf>) {
    let ran = check(pair, crls);
    assert!(ran.ok, "{}", ran.all());
}
