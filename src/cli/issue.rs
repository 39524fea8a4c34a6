//! `issue` and `lease renew`: a key, a request, a certificate, files.

use std::{io::Write, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{
    args::{Issue, IssueFormat, Making},
    exit::{Exit, Outcome},
    files::{self, OutDir},
    output,
};
use crate::{
    client::{
        Client,
        csr::{self, Csr, PrivateKey},
        error::{Error, Kind, Result},
        settings::read_bounded,
        types::{Credential, IssueOrder, Issued, Lease, OrderInput, RenewOrder, X509Credential},
    },
    clock,
    model::name::RoleName,
};

/// The columns of a line of PEM (RFC 7468, section 2).
const PEM_COLUMNS: usize = 64;

/// What is made ready before the server is asked, so that a wrong file or a full disk costs no lease.
struct Ready {
    format: IssueFormat,
    key: Option<PrivateKey>,
    csr: Csr,
    out: Option<OutDir>,
}

/// The JSON of an issued credential: a contract.
#[derive(Serialize)]
struct IssuedJson<'a> {
    lease: &'a Lease,
    credential: X509Json<'a>,
}

/// The JSON of a certificate: a contract.
#[derive(Serialize)]
struct X509Json<'a> {
    certificate: &'a str,
    ca: &'a str,
    serial: &'a str,
    not_before: Timestamp,
    not_after: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_file: Option<String>,
}

/// `issue`.
pub async fn issue(client: &mut Client, args: Issue, out: &mut dyn Write) -> Outcome {
    let Issue { role, making, request_id } = args;
    check_role(&role)?;
    let ttl = making.ttl;
    let ready = Ready::new(making)?;
    let request_id = request_id.unwrap_or_else(|| uuid::Builder::from_random_bytes(clock::random()).into_uuid().to_string());
    let order = IssueOrder { role, ttl, request_id, input: OrderInput::Csr(ready.csr.der().to_vec()) };
    let issued = client.issue(order).await?;
    ready.deliver(issued, out)
}

/// `lease renew`.
pub async fn renew(client: &mut Client, lease_id: String, making: Making, out: &mut dyn Write) -> Outcome {
    let ttl = making.ttl;
    let ready = Ready::new(making)?;
    let order = RenewOrder { lease_id, ttl, input: OrderInput::Csr(ready.csr.der().to_vec()) };
    let issued = client.renew(order).await?;
    ready.deliver(issued, out)
}

/// A name that no role can have is the name of no role: the same answer as for any other unknown one.
pub fn check_role(role: &str) -> Result<()> {
    role.parse::<RoleName>().map(drop).map_err(|error| {
        Error::new(Kind::NotFound, "ROLE_NOT_FOUND", format!("there is no such role: {error}; `daypass whoami` lists those you may have"))
    })
}

impl Ready {
    fn new(making: Making) -> Result<Self> {
        let Making { ttl: _, out, csr, output: format } = making;
        if format == IssueFormat::Env && out.is_none() {
            return Err(Error::usage("-o env names files: say where with --out DIR"));
        }
        let (key, csr) = match csr {
            Some(path) => (None, read_csr(&path)?),
            None => csr::make().map(|(key, csr)| (Some(key), csr))?,
        };
        let names: &[_] = if key.is_some() { &[files::KEY, files::CA, files::CERTIFICATE] } else { &[files::CA, files::CERTIFICATE] };
        let mut out = out.map(|path| OutDir::prepare(&path, names)).transpose()?;
        if let (Some(out), Some(key)) = (&mut out, &key) {
            out.stage(files::KEY, 0o600, key.pem().as_bytes())?;
        }
        Ok(Self { format, key, csr, out })
    }

    /// Checks the certificate, writes the files, and only then says that it is done.
    fn deliver(self, issued: Issued, out: &mut dyn Write) -> Outcome {
        let Issued { lease, credential } = issued;
        let Credential::X509(X509Credential { chain_der, root_der, not_before, not_after }) = credential else {
            return Err(Error::usage("this kind cannot be printed yet").into());
        };
        let leaf = chain_der.first().ok_or_else(|| Error::bad_answer("lacks a certificate"))?;
        let serial = self.csr.serial_of(leaf)?;
        let (certificate, ca) = (pem(&chain_der), pem(&root_der));
        let written = match self.out {
            Some(dir) => Some(write(dir, self.key.is_some(), &certificate, &ca)?),
            None => None,
        };
        match (self.format, &written) {
            (IssueFormat::Json, _) => {
                let private_key = if written.is_none() { self.key.as_ref().map(PrivateKey::pem) } else { None };
                let (certificate_file, private_key_file, ca_file) = match written {
                    Some(Written { certificate, key, ca }) => (Some(certificate), key, Some(ca)),
                    None => (None, None, None),
                };
                let credential = X509Json {
                    certificate: &certificate,
                    ca: &ca,
                    serial: &serial,
                    not_before,
                    not_after,
                    private_key,
                    certificate_file,
                    private_key_file,
                    ca_file,
                };
                // The text may hold the private key: this buffer is wiped, as the others of it are.
                let mut text = Zeroizing::new(Vec::with_capacity(16 * 1024));
                output::json(&mut *text, &IssuedJson { lease: &lease, credential })?;
                out.write_all(&text)?;
            }
            (IssueFormat::Env, Some(written)) => written.print_env(&lease, out)?,
            (IssueFormat::Text, Some(written)) => {
                output::lease(out, &lease)?;
                written.print(out)?;
            }
            (IssueFormat::Text | IssueFormat::Env, None) => {
                output::lease(&mut std::io::stderr(), &lease)?;
                if let Some(key) = &self.key {
                    out.write_all(key.pem().as_bytes())?;
                }
                out.write_all(certificate.as_bytes())?;
                out.write_all(ca.as_bytes())?;
            }
        }
        Ok(Exit::Done)
    }
}

/// Where the files lie: absolute paths.
struct Written {
    certificate: String,
    key: Option<String>,
    ca: String,
}

impl Written {
    fn print_env(&self, lease: &Lease, out: &mut dyn Write) -> std::io::Result<()> {
        output::export(out, "DAYPASS_LEASE_ID", &lease.id)?;
        output::export(out, "DAYPASS_TLS_CERT", &self.certificate)?;
        if let Some(key) = &self.key {
            output::export(out, "DAYPASS_TLS_KEY", key)?;
        }
        output::export(out, "DAYPASS_TLS_CA", &self.ca)
    }

    fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        writeln!(out, "certificate {}", self.certificate)?;
        if let Some(key) = &self.key {
            writeln!(out, "key         {key}")?;
        }
        writeln!(out, "ca          {}", self.ca)
    }
}

fn write(mut dir: OutDir, with_key: bool, certificate: &str, ca: &str) -> Result<Written> {
    let path = |name| {
        let path = dir.file(name);
        path.to_str().map(str::to_owned).ok_or_else(|| Error::usage("--out must be a path of UTF-8 text"))
    };
    let key = if with_key { Some(path(files::KEY)?) } else { None };
    let written = Written { certificate: path(files::CERTIFICATE)?, key, ca: path(files::CA)? };
    // The key was staged first; the certificate comes last: whoever waits for it then finds the others.
    dir.stage(files::CA, 0o644, ca.as_bytes())?;
    dir.stage(files::CERTIFICATE, 0o644, certificate.as_bytes())?;
    dir.commit()?;
    Ok(written)
}

fn read_csr(path: &Path) -> Result<Csr> {
    let fault = |why| Error::usage(format!("--csr {} {why}", path.display()));
    let bytes = read_bounded(path).map_err(|why| fault(format!("cannot be read: {why}")))?;
    Csr::parse(&bytes).map_err(fault)
}

/// Certificates as PEM (RFC 7468).
fn pem(certificates: &[Vec<u8>]) -> String {
    let mut text = String::new();
    for der in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(der);
        for line in encoded.as_bytes().chunks(PEM_COLUMNS) {
            text.extend(line.iter().copied().map(char::from));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::{CertificateDer, pem::PemObject};

    use super::*;

    #[test]
    fn pem_reads_back() {
        for length in [0, 1, 47, 48, 49, 96, 1000] {
            let ders = vec![vec![7_u8; length], vec![9; 3]];
            let text = pem(&ders);
            assert!(text.lines().all(|line| line.len() <= PEM_COLUMNS));
            let read: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes()).map(|der| der.unwrap().to_vec()).collect();
            assert_eq!(read, ders);
        }
    }

    #[test]
    fn a_role_that_cannot_be_is_not_found() {
        assert!(check_role("web").is_ok());
        for role in ["No_Such", "", "../x", &"a".repeat(64)] {
            let error = check_role(role).unwrap_err();
            assert_eq!((error.kind(), error.code()), (Kind::NotFound, "ROLE_NOT_FOUND"));
        }
    }

    #[test]
    fn env_without_a_directory_is_usage_before_anything_is_made() {
        let making = Making { ttl: None, out: None, csr: None, output: IssueFormat::Env };
        assert_eq!(Ready::new(making).err().unwrap().kind(), Kind::Usage);
    }
}
