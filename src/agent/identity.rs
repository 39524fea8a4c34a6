//! The agent's own identity: a client certificate that it got for an enrolment code, and that renews itself from then on.
//!
//! It lies in `identity/` of the state directory, a link to a directory that is written whole: whoever reads it finds a key, a certificate
//! and what belongs to them of one making, or the ones before.

mod keep;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::kept::make_own_dir;
use crate::{
    client::{
        Client,
        csr::{self, Csr, PrivateKey},
        error::{Error, Kind, Result},
        settings::{ClientCertificate, plain, read_bounded},
        types::{Credential, Issued, Lease, X509Credential},
    },
    clock,
    model::{hex, pem, secret::Secret},
    unix::{files, folder},
};

pub use self::keep::{Keeper, LOOK_AGAIN, SETTLE};

/// The link to the identity in force.
pub const IDENTITY: &str = "identity";
/// The key, PKCS #8.
pub const KEY: &str = "key.pem";
/// The certificate, then its chain.
pub const CERTIFICATE: &str = "cert.pem";
/// The roots of its CA.
pub const CA: &str = "ca.pem";
/// The lease.
pub const LEASE: &str = "lease.json";

/// The key of an identity that is being asked for: on disk before the code is used up, so that a crash costs neither.
const PENDING: &str = "enroll.key";

/// An identity.
pub struct Identity {
    /// What is kept of its lease.
    pub kept: KeptIdentity,
    chain_der: Vec<Vec<u8>>,
    roots_der: Vec<Vec<u8>>,
    key_pem: Zeroizing<String>,
}

/// What is kept of an identity's lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptIdentity {
    /// The lease: a UUID.
    pub lease_id: String,
    /// Which certificate of the lease it is, from 1.
    pub generation: u32,
    /// Whether the server was told that it is in use, and so refuses the ones before.
    pub acknowledged: bool,
    /// Who it makes its holder: a SPIFFE ID.
    pub subject: String,
    /// Its holder's tenant.
    pub tenant: String,
    /// When it expires.
    pub expires_at: Timestamp,
    /// No renewal goes past this: before then somebody enrols the agent anew.
    #[serde(default)]
    pub renew_until: Option<Timestamp>,
    /// From when on the next one is to be had; none when none can.
    #[serde(default)]
    pub renew_from: Option<Timestamp>,
    /// Before when it is to be had.
    #[serde(default)]
    pub renew_before: Option<Timestamp>,
}

impl KeptIdentity {
    fn of(lease: &Lease, acknowledged: bool) -> Self {
        Self {
            lease_id: lease.id.clone(),
            generation: lease.generation,
            acknowledged,
            subject: lease.subject.clone(),
            tenant: lease.tenant.clone(),
            expires_at: lease.expires_at,
            renew_until: lease.renew_until,
            renew_from: lease.rotation.map(|window| window.start),
            renew_before: lease.rotation.map(|window| window.end),
        }
    }
}

impl Identity {
    /// From an answer, once it is sure that it certifies the key that was made for it.
    ///
    /// # Errors
    /// When the server gave something else.
    pub fn new(issued: Issued, key: &PrivateKey, csr: &Csr) -> Result<Self> {
        let Issued { lease, credential } = issued;
        let Credential::X509(X509Credential { chain_der, root_der, .. }) = credential else {
            return Err(Error::bad_answer("is no certificate"));
        };
        let leaf = chain_der.first().ok_or_else(|| Error::bad_answer("lacks a certificate"))?;
        csr.serial_of(leaf)?;
        // The first one supersedes none.
        let kept = KeptIdentity::of(&lease, lease.generation == 1);
        Ok(Self { kept, chain_der, roots_der: root_der, key_pem: Zeroizing::new(key.pem().to_owned()) })
    }

    /// What to show to the server.
    ///
    /// # Errors
    /// When the key is none that can be used.
    pub fn certificate(&self) -> Result<ClientCertificate> {
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes());
        let key = key.map_err(|_| Error::new(Kind::Other, "KEY", "the identity's key is damaged; enrol anew"))?;
        Ok(ClientCertificate { chain: self.chain_der.iter().map(|der| CertificateDer::from(der.clone())).collect(), key })
    }
}

/// Where an identity lies.
#[derive(Debug, Clone)]
pub struct IdentityDir {
    state_dir: PathBuf,
}

impl IdentityDir {
    /// In a state directory, which is made (mode 0700) when it is missing.
    ///
    /// # Errors
    /// When it cannot be made, others may write into it or put another in its place, or it is another user's.
    pub fn open(state_dir: &Path) -> Result<Self> {
        let state_dir = std::path::absolute(state_dir).map_err(|error| fault(state_dir, &error))?;
        // Who could put a key of their own there would have the identity that it is certified for.
        folder::check(&state_dir).map_err(Error::usage)?;
        make_own_dir(&state_dir)?;
        Ok(Self { state_dir })
    }

    /// The path of the link.
    pub fn path(&self) -> PathBuf {
        self.state_dir.join(IDENTITY)
    }

    /// Whether there is an identity.
    pub fn is_filled(&self) -> bool {
        fs::symlink_metadata(self.path()).is_ok()
    }

    /// The identity in force.
    ///
    /// # Errors
    /// `NO_IDENTITY` when there is none; `FILE` when it cannot be read, or is damaged.
    pub fn load(&self) -> Result<Identity> {
        // Through the link once: all files are of one making.
        let dir = match fs::read_link(self.path()) {
            Ok(target) => self.state_dir.join(target),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = format!("there is no identity in {}; get a code and run `daypass agent enroll`", self.state_dir.display());
                return Err(Error::new(Kind::NotAuthenticated, "NO_IDENTITY", text));
            }
            Err(error) => return Err(fault(&self.path(), &error)),
        };
        let read = |name: &str| {
            let path = dir.join(name);
            read_bounded(&path).map_err(|why| damaged(&path, &why))
        };
        let certificates = |name: &str| {
            let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(name)?).map(|der| der.map(|der| der.to_vec())).collect();
            found.ok().filter(|found| !found.is_empty()).ok_or_else(|| damaged(&dir.join(name), "it holds no certificate"))
        };
        let key = read(KEY)?;
        let key = std::str::from_utf8(&key).map_err(|_| damaged(&dir.join(KEY), "it is no PEM"))?;
        Ok(Identity {
            kept: serde_json::from_slice(&read(LEASE)?).map_err(|error| damaged(&dir.join(LEASE), &error.to_string()))?,
            chain_der: certificates(CERTIFICATE)?,
            roots_der: certificates(CA)?,
            key_pem: Zeroizing::new(key.to_owned()),
        })
    }

    /// Puts an identity in force: whole, and on disk when this returns. The one before is removed.
    ///
    /// # Errors
    /// What the disk says; then the one before is in force, unless nothing but the last sync failed.
    pub fn store(&self, identity: &Identity) -> Result<()> {
        let random = hex::encode(&clock::random::<8>());
        let name = format!("{IDENTITY}.{random}");
        let dir = self.state_dir.join(&name);
        let stored = self.write(&dir, identity).and_then(|()| self.point_to(&name, &random));
        if stored.is_err() {
            self.remove_unless_in_force(&name);
        }
        stored?;
        self.remove_but(&name);
        Ok(())
    }

    /// The same for the next identity of a lease, in place of `present`.
    ///
    /// # Errors
    /// As [`Self::check_in_force`], and [`Self::store`].
    pub fn replace(&self, present: &Identity, next: &Identity) -> Result<()> {
        self.check_in_force(&present.kept)?;
        self.store(next)
    }

    /// Sees that an identity of this lease is in force still: somebody may enrol the agent anew while it runs, and theirs is to stay.
    ///
    /// # Errors
    /// `IDENTITY_REPLACED` when there is none any more, or one of another lease.
    pub fn check_in_force(&self, kept: &KeptIdentity) -> Result<()> {
        let replaced = |how: &str| Err(Error::new(Kind::Other, "IDENTITY_REPLACED", format!("{} {how}", self.path().display())));
        if !self.is_filled() {
            return replaced("was taken away while the agent runs with it");
        }
        // A damaged one is nobody's, and replaced.
        let found = read_bounded(&self.path().join(LEASE)).ok().and_then(|text| serde_json::from_slice::<KeptIdentity>(&text).ok());
        match found {
            Some(found) if found.lease_id != kept.lease_id => replaced("is of another enrolment than the agent runs with"),
            _ => Ok(()),
        }
    }

    fn write(&self, dir: &Path, identity: &Identity) -> Result<()> {
        files::make_private_dir(dir).map_err(|error| fault(dir, &error))?;
        let lease = serde_json::to_vec_pretty(&identity.kept).map_err(|error| damaged(dir, &error.to_string()))?;
        for (name, content) in [
            (KEY, identity.key_pem.as_bytes()),
            (CERTIFICATE, as_pem(&identity.chain_der).as_bytes()),
            (CA, as_pem(&identity.roots_der).as_bytes()),
            (LEASE, &lease),
        ] {
            let path = dir.join(name);
            files::create(&path, 0o600, content).map_err(|error| fault(&path, &error))?;
        }
        files::sync_dir(dir).map_err(|error| fault(dir, &error))
    }

    fn point_to(&self, name: &str, random: &str) -> Result<()> {
        let link = self.state_dir.join(format!(".{IDENTITY}.{random}"));
        let pointed = files::replace_link(&self.path(), Path::new(name), &link).and_then(|()| files::sync_dir(&self.state_dir));
        pointed.map_err(|error| fault(&self.path(), &error))
    }

    /// What could not be stored goes, unless the link leads to it already: then it stays until the next one.
    fn remove_unless_in_force(&self, name: &str) {
        if !fs::read_link(self.path()).is_ok_and(|target| target == Path::new(name)) {
            // What remains is never linked to, and removed with the next one.
            let _ = fs::remove_dir_all(self.state_dir.join(name));
        }
    }

    /// Removes the directories of earlier identities, and a key that was asked for: it is the identity's own, or nobody's, and must not be
    /// taken for the next enrolment's. What cannot be removed now is with the next one.
    fn remove_but(&self, name: &str) {
        let _ = fs::remove_file(self.state_dir.join(PENDING));
        let Ok(entries) = fs::read_dir(&self.state_dir) else { return };
        for entry in entries.flatten() {
            let is_earlier = entry.file_name().to_str().is_some_and(|found| found != name && found.starts_with("identity."));
            if is_earlier && let Err(error) = fs::remove_dir_all(entry.path()) {
                tracing::warn!(%error, path = %entry.path().display(), "an earlier identity was not removed");
            }
        }
    }

    /// The key that a code is redeemed for: the one of an earlier try, so that its code is not lost with its answer, or a new one.
    fn pending(&self) -> Result<(PrivateKey, Csr)> {
        let path = self.state_dir.join(PENDING);
        if path.exists() {
            let pem = read_bounded(&path).map_err(|why| damaged(&path, &why))?;
            let pem = std::str::from_utf8(&pem).map_err(|_| damaged(&path, "it is no PEM"))?;
            return csr::again(pem);
        }
        let made = csr::make()?;
        files::replace(&path, 0o600, made.0.pem().as_bytes()).map_err(|error| fault(&path, &error))?;
        Ok(made)
    }
}

/// Trades a code for an identity and puts it in force. A run that was cut short is repeated with the same code.
///
/// # Errors
/// Usage, when there is one already; as [`Client::redeem`]; what the disk says.
pub async fn enroll(dir: &IdentityDir, client: &mut Client, code: &Secret) -> Result<Identity> {
    if dir.is_filled() {
        let path = dir.path();
        return Err(Error::usage(format!("there is an identity in {} already; remove it first to enrol anew", path.display())));
    }
    let (key, csr) = dir.pending()?;
    let identity = Identity::new(client.redeem(code, &csr).await?, &key, &csr)?;
    dir.store(&identity)?;
    Ok(identity)
}

/// The identity after a renewal, over a connection that shows the present one. It is not stored yet.
///
/// # Errors
/// As the server says.
pub async fn renewed(client: &mut Client, present: &Identity) -> Result<Identity> {
    let (key, csr) = csr::make()?;
    let issued = client.renew_identity(&present.kept.lease_id, present.kept.generation, &csr).await?;
    Identity::new(issued, &key, &csr)
}

/// Tells the server, over a connection that shows this identity, that it is in use, and stores that.
///
/// # Errors
/// As the server says, or the disk.
pub async fn acknowledge(dir: &IdentityDir, client: &mut Client, identity: &Identity) -> Result<Identity> {
    let kept = &identity.kept;
    client.acknowledge_identity(&kept.lease_id, kept.generation).await?;
    let acknowledged = Identity {
        kept: KeptIdentity { acknowledged: true, ..kept.clone() },
        chain_der: identity.chain_der.clone(),
        roots_der: identity.roots_der.clone(),
        key_pem: identity.key_pem.clone(),
    };
    dir.replace(identity, &acknowledged)?;
    Ok(acknowledged)
}

fn as_pem(certificates: &[Vec<u8>]) -> String {
    let mut text = String::new();
    for der in certificates {
        pem::push(&mut text, "CERTIFICATE", der);
    }
    text
}

fn fault(path: &Path, error: &io::Error) -> Error {
    Error::new(Kind::Other, "FILE", format!("{}: {}", path.display(), plain(error)))
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::new(Kind::Other, "FILE", format!("{} cannot be used: {why}", path.display()))
}

#[cfg(test)]
mod tests;
