//! `issue` and `lease renew`: a key, a request, a credential of whatever kind the role is, and where it goes.

pub mod args;

use std::{io::Write, path::Path};

use serde::Serialize;
use zeroize::Zeroizing;

use self::args::{Issue, IssueFormat, Making};
use super::{
    exit::{Exit, Outcome, Stop},
    files::{self, OutDir},
    material::{CredentialJson, Material},
    output,
};
use crate::{
    client::{
        Client,
        csr::{self, Csr, PrivateKey},
        error::{Error, Kind, Result},
        settings::read_bounded,
        types::{CredentialKind, IssueOrder, Issued, Lease, OrderInput, RenewOrder},
    },
    clock,
    model::name::RoleName,
};

/// Why a lease is revoked whose credential reached nobody, for the record.
pub const UNDELIVERED: &str = "the client could not deliver the credential";

/// What is made ready before the server is asked, so that a wrong file costs no lease.
struct Ready {
    format: IssueFormat,
    input: Input,
    out: Option<OutDir>,
}

/// What the order carries. The kind of a role is not known beforehand: a request for a certificate goes along, and other kinds
/// take no notice of it.
enum Input {
    /// The key of the request is made here, in memory.
    OwnKey(PrivateKey, Csr),
    /// A request whose key the caller has.
    Csr(Csr),
    /// Only a token can come of it.
    Audience(String),
}

/// The JSON of an issued credential: a contract.
#[derive(Serialize)]
struct IssuedJson<'a> {
    lease: &'a Lease,
    credential: CredentialJson<'a>,
}

/// `issue`.
pub async fn issue(client: &mut Client, args: Issue, out: &mut dyn Write) -> Outcome {
    let Issue { role, making, request_id } = args;
    check_role(&role)?;
    // Whoever repeats the same request gets the same certificate again, and it may lie where an earlier run put it.
    let repeatable = request_id.is_some() && making.csr.is_some();
    let ttl = making.ttl;
    let ready = Ready::new(making)?;
    let order = IssueOrder { role, ttl, request_id: request_id.unwrap_or_else(new_request_id), input: ready.input.order() };
    let Issued { lease, credential } = client.issue(order).await?;
    match ready.deliver(&lease, credential, out) {
        Err(stop) if !repeatable => Err(undelivered(client, &lease, stop).await),
        outcome => outcome,
    }
}

/// `lease renew`.
pub async fn renew(client: &mut Client, lease_id: String, making: Making, out: &mut dyn Write) -> Outcome {
    let ttl = making.ttl;
    let ready = Ready::new(making)?;
    let order = RenewOrder { lease_id, ttl, input: ready.input.order() };
    let Issued { lease, credential } = client.renew(order).await?;
    // What was handed out before is still good, and somebody works with it: the lease is not revoked when this one is lost.
    ready.deliver(&lease, credential, out)
}

/// A name that no role can have is the name of no role: the same answer as for any other unknown one.
pub fn check_role(role: &str) -> Result<()> {
    role.parse::<RoleName>().map(drop).map_err(|error| {
        Error::new(Kind::NotFound, "ROLE_NOT_FOUND", format!("there is no such role: {error}; `daypass whoami` lists those you may have"))
    })
}

/// A random one: the repetitions of one order are one request.
pub fn new_request_id() -> String {
    uuid::Builder::from_random_bytes(clock::random()).into_uuid().to_string()
}

/// Revokes a lease whose credential reached nobody, and says so.
async fn undelivered(client: &mut Client, lease: &Lease, stop: Stop) -> Stop {
    let revoked = client.revoke(&lease.id, UNDELIVERED).await;
    let Stop::Error(error) = stop else { return stop };
    let told = match revoked {
        Ok(_) => format!("its lease {} is revoked", lease.id),
        Err(why) => format!("its lease {} could not be revoked ({why}) and lives until {}", lease.id, lease.expires_at),
    };
    Stop::Error(error.hint(&told))
}

impl Input {
    fn order(&self) -> OrderInput {
        match self {
            Self::OwnKey(_, csr) | Self::Csr(csr) => OrderInput::Csr(csr.der().to_vec()),
            Self::Audience(audience) => OrderInput::Audience(audience.clone()),
        }
    }
}

impl Ready {
    fn new(making: Making) -> Result<Self> {
        let Making { ttl: _, out, csr, audience, output: format } = making;
        let input = match (audience, csr) {
            (Some(audience), _) => Input::Audience(audience),
            (None, Some(path)) => Input::Csr(read_csr(&path)?),
            (None, None) => csr::make().map(|(key, csr)| Input::OwnKey(key, csr))?,
        };
        let own_key = matches!(input, Input::OwnKey(..));
        let names: Vec<_> = files::ALL.iter().copied().filter(|name| own_key || *name != files::KEY).collect();
        let out = out.map(|path| OutDir::prepare(&path, &names)).transpose()?;
        if out.as_ref().is_some_and(|dir| dir.file("").to_str().is_none()) {
            return Err(Error::usage("--out must be a path of UTF-8 text"));
        }
        Ok(Self { format, input, out })
    }

    /// Checks the credential, writes the files, and only then says that it is done.
    fn deliver(self, lease: &Lease, credential: crate::client::types::Credential, out: &mut dyn Write) -> Outcome {
        let (csr, key) = match self.input {
            Input::OwnKey(key, csr) => (Some(csr), Some(key)),
            Input::Csr(csr) => {
                if lease.kind != CredentialKind::X509 {
                    output::note("--csr is for certificates; it was not needed", self.format == IssueFormat::Json);
                }
                (Some(csr), None)
            }
            Input::Audience(_) => (None, None),
        };
        let material = Material::take(credential, csr.as_ref(), key)?;
        if self.format == IssueFormat::Env && self.out.is_none() && material.variables().is_none() {
            return Err(Error::usage("-o env of a certificate names files: say where with --out DIR").into());
        }
        match self.out {
            Some(dir) => {
                let folder = dir.file("");
                let path = move |name: &'static str| path_text(&folder, name);
                write(dir, &material)?;
                Delivery { format: self.format, lease, material: &material, path: Some(&path) }.print(out)?;
            }
            None => Delivery { format: self.format, lease, material: &material, path: None }.print(out)?,
        }
        // What is still on its way may yet meet a full disk.
        out.flush()?;
        Ok(Exit::Done)
    }
}

/// What is said about a credential once its files are written.
struct Delivery<'a> {
    format: IssueFormat,
    lease: &'a Lease,
    material: &'a Material,
    /// Gives the path of a file that was written; none without --out.
    path: Option<&'a dyn Fn(&'static str) -> String>,
}

impl Delivery<'_> {
    fn print(&self, out: &mut dyn Write) -> Outcome<()> {
        // The text holds secrets: this buffer is wiped, as the others of them are, and is large enough not to move.
        let mut text = Zeroizing::new(Vec::with_capacity(64 * 1024));
        match self.format {
            IssueFormat::Json => output::json(&mut *text, &IssuedJson { lease: self.lease, credential: self.material.json(self.path) })?,
            IssueFormat::Env => self.exports(&mut text)?,
            IssueFormat::Text => match self.path {
                Some(path) => {
                    output::lease(&mut *text, self.lease)?;
                    for name in self.material.names() {
                        writeln!(text, "{:<11} {}", label(name), path(name))?;
                    }
                }
                None => {
                    // The credential matters; a closed standard error does not.
                    let _ = output::lease(&mut std::io::stderr(), self.lease);
                    self.material.text(&mut *text)?;
                }
            },
        }
        Ok(out.write_all(&text)?)
    }

    fn exports(&self, text: &mut Vec<u8>) -> std::io::Result<()> {
        output::export(text, "DAYPASS_LEASE_ID", &self.lease.id)?;
        let variables = match self.path {
            Some(path) => self.material.file_variables(path),
            None => self.material.variables().unwrap_or_default(),
        };
        variables.iter().try_for_each(|(name, value)| output::export(text, name, value))
    }
}

fn write(mut dir: OutDir, material: &Material) -> Result<()> {
    for file in material.files() {
        dir.stage(file.name, file.mode, &file.content)?;
    }
    dir.commit()
}

/// What a file is called in text for people.
fn label(name: &str) -> &'static str {
    match name {
        files::CERTIFICATE => "certificate",
        files::KEY => "key",
        files::CA => "ca",
        files::AWS_CREDENTIALS => "credentials",
        files::DOCKER_CONFIG => "config",
        _ => "token",
    }
}

/// The path of a file in a directory that is known to be UTF-8 text; of the directory itself without a name.
fn path_text(folder: &Path, name: &str) -> String {
    match name {
        "" => folder.to_string_lossy().trim_end_matches('/').to_owned(),
        name => folder.join(name).to_string_lossy().into_owned(),
    }
}

fn read_csr(path: &Path) -> Result<Csr> {
    let fault = |why| Error::usage(format!("--csr {} {why}", path.display()));
    let bytes = read_bounded(path).map_err(|why| fault(format!("cannot be read: {why}")))?;
    Csr::parse(&bytes).map_err(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_that_cannot_be_is_not_found() {
        assert!(check_role("web").is_ok());
        for role in ["No_Such", "", "../x", &"a".repeat(64)] {
            let error = check_role(role).unwrap_err();
            assert_eq!((error.kind(), error.code()), (Kind::NotFound, "ROLE_NOT_FOUND"));
        }
    }

    #[test]
    fn a_key_is_made_unless_there_is_no_need() {
        let making = |audience: Option<&str>| Making {
            ttl: None,
            out: None,
            csr: None,
            audience: audience.map(str::to_owned),
            output: IssueFormat::Json,
        };
        assert!(matches!(Ready::new(making(None)).unwrap().input, Input::OwnKey(..)));
        assert!(matches!(Ready::new(making(Some("sts"))).unwrap().input.order(), OrderInput::Audience(audience) if audience == "sts"));
    }
}
