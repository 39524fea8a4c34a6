//! OpenSSL's command line: a CA of callers, their certificates, keys and requests, and a judge of what Daypass makes.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Ran, run};

/// OpenSSL's error for a certificate that is on the CRL (`X509_V_ERR_CERT_REVOKED`).
pub const REVOKED: &str = "error 23 ";

/// Runs `openssl` in a folder; the caller judges the outcome.
pub fn openssl<S: AsRef<OsStr>>(dir: &Path, args: impl IntoIterator<Item = S>) -> Ran {
    run(Command::new("openssl").args(args).current_dir(dir))
}

/// The same when nothing but success makes sense.
pub fn openssl_ok<S: AsRef<OsStr>>(dir: &Path, args: impl IntoIterator<Item = S>) -> Ran {
    let args: Vec<S> = args.into_iter().collect();
    let ran = openssl(dir, &args);
    let said: Vec<_> = args.iter().map(|arg| arg.as_ref().to_string_lossy()).collect();
    assert!(ran.ok, "openssl {} failed: {}", said.join(" "), ran.all());
    ran
}

/// What key to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA over P-256.
    P256,
    /// ECDSA over P-384.
    P384,
    /// RSA of so many bits.
    Rsa(u32),
    /// Ed25519.
    Ed25519,
}

impl KeyKind {
    fn args(self) -> Vec<String> {
        let words: &[&str] = match self {
            Self::P256 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            Self::P384 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
            Self::Rsa(bits) => {
                return ["-algorithm", "RSA", "-pkeyopt"].map(Into::into).into_iter().chain([format!("rsa_keygen_bits:{bits}")]).collect();
            }
            Self::Ed25519 => &["-algorithm", "ED25519"],
        };
        words.iter().map(|&word| word.into()).collect()
    }
}

/// Makes a private key (PKCS #8, PEM) in `dir/name.key`.
pub fn make_key(dir: &Path, name: &str, kind: KeyKind) -> PathBuf {
    let path = dir.join(format!("{name}.key"));
    let mut args: Vec<String> = vec!["genpkey".into(), "-out".into(), path.display().to_string()];
    args.extend(kind.args());
    openssl_ok(dir, args);
    path
}

/// Makes a PKCS #10 request (PEM) in `dir/name.csr` over a key, with a subject such as `/CN=x` and extensions such as
/// `subjectAltName=DNS:x`.
pub fn make_csr(dir: &Path, name: &str, key: &Path, subject: &str, extensions: &[&str]) -> PathBuf {
    let path = dir.join(format!("{name}.csr"));
    let (out, key) = (path.display().to_string(), key.display().to_string());
    let mut args = vec!["req", "-new", "-key", &key, "-out", &out, "-subj", subject];
    for extension in extensions {
        args.extend(["-addext", extension]);
    }
    openssl_ok(dir, args);
    path
}

/// The DER of a PEM file: `kind` is `req`, `x509` or `crl`.
pub fn to_der(kind: &str, pem: &Path) -> Vec<u8> {
    let dir = pem.parent().expect("a file lies in a folder");
    openssl_ok(dir, [OsStr::new(kind), "-in".as_ref(), pem.as_ref(), "-outform".as_ref(), "DER".as_ref()]).stdout
}

/// Writes the PEM of a DER: `kind` is `req`, `x509` or `crl`.
pub fn to_pem(kind: &str, der: &[u8], pem: &Path) {
    let from = pem.with_extension("der");
    fs::write(&from, der).expect("the test's folder can be written");
    let dir = pem.parent().expect("a file lies in a folder");
    let words = [OsStr::new(kind), "-inform".as_ref(), "DER".as_ref(), "-in".as_ref(), from.as_ref(), "-out".as_ref(), pem.as_ref()];
    openssl_ok(dir, words);
}

/// Asks OpenSSL whether a leaf holds: `roots`, `untrusted` and `crls` are PEM files. With CRLs, every certificate of the
/// chain is looked up, so there must be one of each issuer.
pub fn verify(leaf: &Path, roots: &Path, untrusted: Option<&Path>, crls: Option<&Path>) -> Ran {
    let mut args: Vec<&OsStr> = ["verify", "-x509_strict", "-CAfile"].map(OsStr::new).into();
    args.push(roots.as_ref());
    if let Some(untrusted) = untrusted {
        args.extend(["-untrusted".as_ref(), untrusted.as_os_str()]);
    }
    if let Some(crls) = crls {
        args.extend(["-crl_check_all".as_ref(), "-CRLfile".as_ref(), crls.as_os_str()]);
    }
    args.push(leaf.as_ref());
    openssl(leaf.parent().expect("a file lies in a folder"), args)
}

/// A certificate and its key, PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A CA of callers, which Daypass did not make.
#[derive(Debug)]
pub struct Ca {
    dir: PathBuf,
    /// Its certificate, a PEM file.
    pub cert: PathBuf,
}

impl Ca {
    /// Makes a self-signed CA in a folder of its own: `dir/name`.
    pub fn new(dir: &Path, name: &str) -> Self {
        let dir = dir.join(name);
        fs::create_dir_all(&dir).expect("the test's folder can be written");
        make_key(&dir, "ca", KeyKind::P256);
        fs::write(dir.join("ca.cnf"), CONFIG).expect("the test's folder can be written");
        fs::write(dir.join("index.txt"), "").expect("the test's folder can be written");
        fs::write(dir.join("crlnumber"), "01\n").expect("the test's folder can be written");
        let subject = format!("/CN={name}");
        openssl_ok(
            &dir,
            [
                "req",
                "-x509",
                "-config",
                "ca.cnf",
                "-extensions",
                "root",
                "-key",
                "ca.key",
                "-out",
                "ca.pem",
                "-days",
                "30",
                "-subj",
                &subject,
            ],
        );
        let cert = dir.join("ca.pem");
        Self { dir, cert }
    }

    /// Makes a client certificate for 10 days with names such as `URI:spiffe://example.org/agent` or `DNS:agent`; a CN alone
    /// when there are none.
    pub fn client(&self, cn: &str, names: &[&str]) -> Pair {
        self.leaf(cn, names, "clientAuth", 10)
    }

    /// Makes a leaf with an extended key usage, for some days.
    pub fn leaf(&self, cn: &str, names: &[&str], usage: &str, days: u32) -> Pair {
        let key = make_key(&self.dir, cn, KeyKind::P256);
        let csr = make_csr(&self.dir, cn, &key, &format!("/CN={cn}"), &[]);
        self.sign(cn, &csr, names, usage, days);
        Pair { cert: self.dir.join(format!("{cn}.pem")), key }
    }

    /// Signs a request: for a second certificate of the same key, or over a strange one.
    pub fn sign(&self, name: &str, csr: &Path, names: &[&str], usage: &str, days: u32) -> PathBuf {
        let mut extensions = format!(
            "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage={usage}\n\
             subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        );
        if !names.is_empty() {
            extensions += &format!("subjectAltName={}\n", names.join(","));
        }
        fs::write(self.dir.join("leaf.ext"), extensions).expect("the test's folder can be written");
        let cert = self.dir.join(format!("{name}.pem"));
        let (csr, out, days) = (csr.display().to_string(), cert.display().to_string(), days.to_string());
        openssl_ok(
            &self.dir,
            ["x509", "-req", "-in", &csr, "-CA", "ca.pem", "-CAkey", "ca.key", "-days", &days, "-extfile", "leaf.ext", "-out", &out],
        );
        cert
    }

    /// Puts a certificate on the CRL that [`Ca::crl`] makes next.
    pub fn revoke(&self, cert: &Path) {
        let cert = cert.display().to_string();
        openssl_ok(&self.dir, ["ca", "-config", "ca.cnf", "-revoke", &cert]);
    }

    /// Makes the next CRL, a PEM file, good for a day.
    pub fn crl(&self) -> PathBuf {
        openssl_ok(&self.dir, ["ca", "-config", "ca.cnf", "-gencrl", "-out", "ca.crl"]);
        self.dir.join("ca.crl")
    }
}

/// For `openssl req` and `openssl ca`.
const CONFIG: &str = "\
[req]
distinguished_name = name
[name]
[root]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[ca]
default_ca = this
[this]
certificate = ca.pem
private_key = ca.key
database = index.txt
crlnumber = crlnumber
default_md = sha256
default_crl_days = 1
crl_extensions = crl
[crl]
authorityKeyIdentifier = keyid
";

#[test]
fn a_ca_signs_and_revokes() {
    let dir = tempfile::tempdir().expect("a folder");
    let ca = Ca::new(dir.path(), "callers");
    let agent = ca.client("agent", &["URI:spiffe://example.org/agent"]);
    let other = ca.client("other", &[]);
    let text =
        openssl_ok(dir.path(), ["x509".as_ref(), "-noout".as_ref(), "-text".as_ref(), "-in".as_ref(), agent.cert.as_os_str()]).text();
    assert!(text.contains("URI:spiffe://example.org/agent"), "{text}");

    let ran = verify(&agent.cert, &ca.cert, None, Some(&ca.crl()));
    assert!(ran.ok, "{}", ran.all());
    ca.revoke(&agent.cert);
    let crl = ca.crl();
    let ran = verify(&agent.cert, &ca.cert, None, Some(&crl));
    assert!(!ran.ok && ran.all().contains(REVOKED), "{}", ran.all());
    let ran = verify(&other.cert, &ca.cert, None, Some(&crl));
    assert!(ran.ok, "the other one is still good: {}", ran.all());
    let stranger = Ca::new(dir.path(), "strangers");
    assert!(!verify(&other.cert, &stranger.cert, None, None).ok);
}

#[test]
fn keys_and_requests_of_every_kind() {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, kind) in [("p256", KeyKind::P256), ("p384", KeyKind::P384), ("rsa", KeyKind::Rsa(2048)), ("ed", KeyKind::Ed25519)] {
        let key = make_key(dir.path(), name, kind);
        let csr = make_csr(dir.path(), name, &key, "/CN=x", &["subjectAltName=DNS:x.example"]);
        let der = to_der("req", &csr);
        let back = dir.path().join("back.pem");
        to_pem("req", &der, &back);
        assert_eq!(to_der("req", &back), der);
        openssl_ok(dir.path(), ["req".as_ref(), "-verify".as_ref(), "-noout".as_ref(), "-in".as_ref(), back.as_os_str()]);
    }
}
