//! A key, a certificate, files.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::Command,
    time::{Duration, Instant},
};

use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    run,
    server::{GOOD, Server, UNKNOWN},
};

#[test]
fn issue_writes_a_key_that_fits_its_certificate() {
    let server = Server::new();
    let dir = server.pki.path("new/tls");
    let run = server.run(&format!("issue web --ttl 15m --out {} -o json", dir.display()));
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{run:?}");
    let json = run.json();
    assert_eq!(json["lease"]["state"], "active");
    assert_eq!(json["lease"]["revocation"]["reach"], "crl");
    let credential = &json["credential"];
    assert_eq!(credential["serial"], "a1b2c3");
    assert_eq!(credential["not_after"], "2027-01-15T08:15:00Z");
    assert_eq!(credential["certificate_file"], dir.join("tls.crt").to_str().unwrap());
    assert_eq!(credential["private_key_file"], dir.join("tls.key").to_str().unwrap());
    assert_eq!(credential["ca_file"], dir.join("ca.crt").to_str().unwrap());
    assert!(credential.get("private_key").is_none());
    assert_eq!(credential["certificate"], fs::read_to_string(dir.join("tls.crt")).unwrap());
    assert_eq!(credential["ca"], fs::read_to_string(dir.join("ca.crt")).unwrap());
    let mode = |name: &str| fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("tls.key")), (0o700, 0o600));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 3);
    assert_fits(credential["certificate"].as_str().unwrap(), &fs::read_to_string(dir.join("tls.key")).unwrap());
}

#[test]
fn issue_without_a_directory_prints_everything() {
    let server = Server::new();
    let json = server.run("issue web -o json").json();
    let credential = &json["credential"];
    assert_fits(credential["certificate"].as_str().unwrap(), credential["private_key"].as_str().unwrap());
    assert!(credential.get("certificate_file").is_none());
    let text = server.run("issue web");
    let begins: Vec<_> = text.stdout.lines().filter(|line| line.starts_with("-----BEGIN")).collect();
    let certificate = "-----BEGIN CERTIFICATE-----";
    assert_eq!(begins, ["-----BEGIN PRIVATE KEY-----", certificate, certificate, certificate]);
    assert!(text.stderr.contains("lease       0192f0c1") && !text.stderr.contains("BEGIN"), "{text:?}");
    assert_fits(&text.stdout, &text.stdout[..text.stdout.find(certificate).unwrap()]);
}

#[test]
fn issue_with_a_csr_makes_no_key() {
    let server = Server::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    let (pem, der) = (server.pki.path("mine.csr"), server.pki.path("mine.der"));
    fs::write(&pem, csr.pem().unwrap()).unwrap();
    fs::write(&der, csr.der()).unwrap();
    let out = server.pki.path("out");
    let json = server.run(&format!("issue web --csr {} --out {} -o json", pem.display(), out.display())).json();
    assert!(json["credential"].get("private_key_file").is_none());
    assert_fits(json["credential"]["certificate"].as_str().unwrap(), &key.serialize_pem());
    assert!(out.join("tls.crt").exists() && !out.join("tls.key").exists());
    let json = server.run(&format!("issue web --csr {} -o json", der.display())).json();
    assert!(json["credential"].get("private_key").is_none());
    let wrong = server.run(&format!("issue web --csr {}", server.pki.path("ca.pem").display()));
    assert!(wrong.code == 2 && wrong.stderr.contains("no certificate request"), "{wrong:?}");
    let missing = server.run("issue web --csr /nonexistent.csr");
    assert!(missing.code == 2 && missing.stderr.contains("/nonexistent.csr"), "{missing:?}");
}

#[test]
fn a_shell_can_eval_the_env_form() {
    let server = Server::new();
    let out = server.pki.path("it's here");
    let printed = run(server.daypass("issue web -o env --out").arg(&out));
    let script = format!(
        "{}\nprintf '%s|%s|%s|%s' \"$DAYPASS_LEASE_ID\" \"$DAYPASS_TLS_CERT\" \"$DAYPASS_TLS_KEY\" \"$DAYPASS_TLS_CA\"",
        printed.stdout
    );
    let shell = Command::new("sh").arg("-c").arg(script).output().unwrap();
    let path = |name: &str| out.join(name).to_str().unwrap().to_owned();
    let expected = format!("{GOOD}|{}|{}|{}", path("tls.crt"), path("tls.key"), path("ca.crt"));
    assert_eq!(String::from_utf8(shell.stdout).unwrap(), expected);
    let without = server.run("issue web -o env");
    assert!(without.code == 2 && without.stderr.contains("--out") && without.stderr.contains("is revoked"), "{without:?}");
    assert_eq!(server.seen.revoked(), [GOOD], "what cannot be delivered does not live on");
}

#[test]
fn what_fails_leaves_the_old_files() {
    let server = Server::new();
    let out = server.pki.path("out");
    assert_eq!(server.run(&format!("issue web --out {}", out.display())).code, 0);
    let before = fs::read(out.join("tls.key")).unwrap();
    for role in ["denied", "wrong-key"] {
        assert_ne!(server.run(&format!("issue {role} --out {}", out.display())).code, 0);
    }
    assert_eq!(fs::read(out.join("tls.key")).unwrap(), before);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 3);
    fs::remove_file(out.join("tls.key")).unwrap();
    std::os::unix::fs::symlink("/dev/null", out.join("tls.key")).unwrap();
    let linked = server.run(&format!("issue web --out {}", out.display()));
    assert!(linked.code == 2 && linked.stderr.contains("symbolic link"), "{linked:?}");
    assert_eq!(server.seen.calls("web"), 1, "what cannot be written is not asked for");
}

#[test]
fn get_and_renew_one_lease() {
    let server = Server::new();
    let got = server.run(&format!("lease get {GOOD} -o json")).json();
    assert_eq!((&got["id"], &got["kind"], &got["issued_at"]), (&GOOD.into(), &"x509".into(), &"2027-01-15T08:00:01Z".into()));
    let gone = server.run(&format!("lease get {UNKNOWN} -o json"));
    assert_eq!((gone.code, gone.error().0.as_str()), (5, "LEASE_NOT_FOUND"));
    let out = server.pki.path("renewed");
    let renewed = server.run(&format!("lease renew {GOOD} --ttl 5m --out {} -o json", out.display())).json();
    assert_eq!(renewed["lease"]["generation"], 2);
    assert_fits(renewed["credential"]["certificate"].as_str().unwrap(), &fs::read_to_string(out.join("tls.key")).unwrap());
}

fn assert_fits(certificate_pem: &str, key_pem: &str) {
    use rcgen::PublicKeyData;
    use rustls_pki_types::{CertificateDer, pem::PemObject};
    let leaf = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).unwrap();
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    let key = rcgen::KeyPair::from_pem(key_pem).unwrap();
    assert_eq!(leaf.public_key().raw, key.subject_public_key_info());
}

#[test]
fn a_cancelled_job_leaves_no_stray_key() {
    let server = Server::new();
    let out = server.pki.path("out");
    let mut child = server.daypass("issue slow --out").arg(&out).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while server.seen.calls("slow") == 0 {
        assert!(Instant::now() < deadline, "the call does not arrive");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "the key is in memory only");
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
}

#[test]
fn a_key_of_ones_own_may_be_a_link() {
    let server = Server::new();
    let out = server.pki.path("out");
    fs::create_dir(&out).unwrap();
    std::os::unix::fs::symlink(server.pki.path("client.key"), out.join("tls.key")).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = server.pki.path("mine.csr");
    fs::write(&csr, rcgen::CertificateParams::default().serialize_request(&key).unwrap().der()).unwrap();
    assert_eq!(server.run(&format!("issue web --csr {} --out {}", csr.display(), out.display())).code, 0);
    assert!(out.join("tls.key").is_symlink(), "it is left alone");
}
