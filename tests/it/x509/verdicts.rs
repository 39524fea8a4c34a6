//! What openssl and pkilint say of everything that is made here.

use std::path::Path;

use daypass::{
    issuer::x509::{San, bootstrap},
    model::{
        SignedDuration,
        revocation::RevokedSerial,
        role::{ExtKeyUsage, X509Role},
    },
};
use rcgen::KeyPair;

use super::{
    tools::{must, openssl_csr, pkilint, run},
    world::*,
};

fn write_pem(path: &Path, der: &[u8], label: &str) {
    std::fs::write(path, pem(der, label)).unwrap();
}

fn pem(der: &[u8], label: &str) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A directory with `root.pem`, `issuing.pem`, and an empty CRL of the root.
fn files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("root.pem"), &WORLD.root.certificate_pem).unwrap();
    std::fs::write(dir.path().join("issuing.pem"), &WORLD.issuing.certificate_pem).unwrap();
    let crl = bootstrap::create_empty_root_crl(&WORLD.root, 1, now(), DAY).unwrap();
    write_pem(&dir.path().join("root.crl.pem"), &crl.der, "X509 CRL");
    dir
}

fn roles() -> Vec<(&'static str, X509Role)> {
    let plain = spec();
    vec![
        ("spiffe", plain.clone()),
        ("spiffe with a name", X509Role { common_name: Some(template("{claims.repository_id}")), ..plain.clone() }),
        (
            "server",
            X509Role {
                uri_sans: vec![],
                dns_sans: vec![template("{claims.repository_id}.apps.example.org")],
                ip_sans: vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()],
                ext_key_usage: vec![ExtKeyUsage::ServerAuth],
                ..plain.clone()
            },
        ),
        ("client", X509Role { ext_key_usage: vec![ExtKeyUsage::ClientAuth], ..plain.clone() }),
        (
            "name only",
            X509Role {
                uri_sans: vec![],
                common_name: Some(template("agent {claims.repository_id}")),
                ext_key_usage: vec![ExtKeyUsage::ClientAuth],
                ..plain
            },
        ),
    ]
}

fn at() -> String {
    now().as_second().to_string()
}

#[test]
fn openssl_accepts_a_leaf_and_refuses_it_once_revoked() {
    let dir = files();
    let minted = WORLD.issue(&role(spec()), &job(), &fresh_csr(), SignedDuration::from_mins(15)).unwrap();
    let serial = serials(&minted.handle).remove(0);
    let not_after = minted.expires_at;
    write_pem(&dir.path().join("leaf.pem"), &x509(minted.credential).chain_der[0], "CERTIFICATE");
    let at = at();
    let chain = ["verify", "-x509_strict", "-attime", &at, "-CAfile", "root.pem", "-untrusted", "issuing.pem"];
    must(dir.path(), "openssl", &[&chain[..], &["leaf.pem"]].concat());

    let other = RevokedSerial { serial: "5a".repeat(16), revoked_at: now(), not_after };
    let this = RevokedSerial { serial, revoked_at: now(), not_after };
    for (number, revoked, refused) in [(1, vec![], false), (2, vec![other.clone()], false), (3, vec![other, this], true)] {
        let crl = WORLD.authority.sign_crl(number, &revoked, now()).unwrap();
        let both = [pem(&crl.der, "X509 CRL"), std::fs::read_to_string(dir.path().join("root.crl.pem")).unwrap()].concat();
        std::fs::write(dir.path().join("all.crl.pem"), both).unwrap();
        for check in ["-crl_check", "-crl_check_all"] {
            let output = run(dir.path(), "openssl", &[&chain[..], &[check, "-CRLfile", "all.crl.pem", "leaf.pem"]].concat());
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.success(), !refused, "CRL {number}, {check}: {said}");
            assert_eq!(said.contains("error 23"), refused, "CRL {number}, {check}: {said}");
        }
    }
}

#[test]
fn openssl_reads_every_kind_of_leaf_strictly() {
    let dir = files();
    let csrs = [
        openssl_csr(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], &[]),
        openssl_csr(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"], &["-sha384"]),
        openssl_csr(&["-algorithm", "ED25519"], &[]),
        openssl_csr(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], &["-sha512"]),
    ];
    // pkilint takes no wildcard (RFC 5280 leaves them to applications), openssl does.
    let wildcard = X509Role { uri_sans: vec![], dns_sans: vec![template("*.apps.example.org")], ..spec() };
    for (name, spec) in roles().into_iter().chain([("wildcard", wildcard)]) {
        for csr in &csrs {
            let minted = WORLD.issue(&role(spec.clone()), &job(), csr, SignedDuration::from_mins(15)).unwrap();
            write_pem(&dir.path().join("leaf.pem"), &x509(minted.credential).chain_der[0], "CERTIFICATE");
            let at = at();
            let verify = ["verify", "-x509_strict", "-attime", &at, "-CAfile", "root.pem", "-untrusted", "issuing.pem", "leaf.pem"];
            assert!(must(dir.path(), "openssl", &verify).contains("leaf.pem: OK"), "{name}");
        }
    }
}

#[test]
fn pkilint_is_content() {
    let dir = files();
    let path = dir.path();
    let lint = |what: &str, tool: &str, args: &[&str]| {
        let findings = pkilint(path, tool, args);
        assert!(findings.is_empty(), "{what}:\n{}", findings.join("\n"));
    };
    let certificate = |what: &str, file: &str| lint(what, "lint_pkix_cert", &["lint", "-s", "WARNING", "-f", "JSON", file]);
    let crl = |what: &str, file: &str| lint(what, "lint_crl", &["lint", "-t", "CRL", "-p", "PKIX", "-s", "WARNING", "-f", "JSON", file]);
    let signed = |what: &str, issuer: &str, subject: &str| {
        lint(what, "lint_pkix_signer_signee_cert_chain", &["lint", "-s", "WARNING", "-f", "JSON", issuer, subject]);
    };
    certificate("the root", "root.pem");
    certificate("the issuing CA", "issuing.pem");
    signed("root and CA", "root.pem", "issuing.pem");
    crl("the root's CRL", "root.crl.pem");
    for (number, serials) in [(1, vec![]), (2, vec!["5a".repeat(16), "00ff".to_owned()])] {
        let entry = |serial| RevokedSerial { serial, revoked_at: now(), not_after: now() + DAY };
        let revoked: Vec<_> = serials.into_iter().map(entry).collect();
        write_pem(&path.join("ca.crl.pem"), &WORLD.authority.sign_crl(number, &revoked, now()).unwrap().der, "X509 CRL");
        crl("the CA's CRL", "ca.crl.pem");
    }
    let rsa = openssl_csr(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"], &[]);
    let ed25519 = csr_for(&KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap());
    let csrs = [("P-256", fresh_csr()), ("RSA", rsa), ("Ed25519", ed25519)];
    for (position, (name, spec)) in roles().into_iter().enumerate() {
        let (key, csr) = &csrs[position % csrs.len()];
        let minted = WORLD.issue(&role(spec), &job(), csr, SignedDuration::from_mins(15)).unwrap();
        write_pem(&path.join("leaf.pem"), &x509(minted.credential).chain_der[0], "CERTIFICATE");
        certificate(&format!("the leaf {name} with {key}"), "leaf.pem");
        signed(&format!("CA and leaf {name}"), "issuing.pem", "leaf.pem");
    }
    let sans = vec![San::Dns("daypass.example.org".to_owned()), San::Ip("127.0.0.1".parse().unwrap())];
    let server = bootstrap::create_server_certificate(&WORLD.authority, sans, now(), DAY).unwrap();
    let client = bootstrap::create_client_certificate(&WORLD.authority, "spiffe://example.org/ops", now(), DAY).unwrap();
    for (what, made) in [("the server's certificate", server), ("the client's certificate", client)] {
        let leaf = made.chain_pem.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
        std::fs::write(path.join("made.pem"), leaf).unwrap();
        certificate(what, "made.pem");
        signed(what, "issuing.pem", "made.pem");
        let at = at();
        must(path, "openssl", &["verify", "-x509_strict", "-attime", &at, "-CAfile", "root.pem", "-untrusted", "issuing.pem", "made.pem"]);
    }
}

/// A control: pkilint is heard when it has something to say. It takes `localhost` for no domain name.
#[test]
fn pkilint_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    let sans = vec![San::Dns("localhost".to_owned())];
    let made = bootstrap::create_server_certificate(&WORLD.authority, sans, now(), DAY).unwrap();
    std::fs::write(dir.path().join("made.pem"), made.chain_pem.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap()).unwrap();
    let findings = pkilint(dir.path(), "lint_pkix_cert", &["lint", "-s", "WARNING", "-f", "JSON", "made.pem"]);
    assert!(findings.len() == 1 && findings[0].contains("invalid_domain_name_syntax"), "{findings:?}");
}
