//! Puts a role's files on disk: all of one making at one moment, durable, and never a moment without.
//!
//! The directory has the layout that kubelet gives to projected volumes: the files of one making lie in a version's directory of their
//! own, `..data` is a link to the one in force, and the names that programs open are links through it. One rename changes all of them.
//! The directory itself stays, so that it can be mounted into a container. The version before stays until the next change, for who has
//! resolved the link and not opened all its files.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{
    accounts::{gid, uid},
    config::{FileNames, Place},
    desk::{Bundle, Fresh},
};
use crate::{
    client::{
        csr,
        error::{Error, Kind, Result},
        material::{
            Material, NewFile,
            files::{CERTIFICATE, KEY},
        },
        settings::plain,
        types::Credential,
    },
    clock,
    model::{hex, pem},
    unix::{files, folder},
};

/// The link to the version in force.
pub const DATA: &str = "..data";

/// How the directory of a version begins.
const VERSION: &str = "..v-";

/// How a link begins that has not got its name yet.
const TEMPORARY: &str = "..tmp-";

/// The mode of what is public.
const PUBLIC: u32 = 0o644;

/// Where the files of one role go.
#[derive(Debug)]
pub struct Publisher {
    dir: PathBuf,
    owner: Option<u32>,
    group: Option<u32>,
    mode: u32,
    names: FileNames,
}

/// The files of one making, on disk and not in force yet; removed when they are dropped before.
#[derive(Debug)]
pub struct Staged<'a> {
    publisher: &'a Publisher,
    version: String,
    names: Vec<String>,
    committed: bool,
}

/// A file as it is to be.
struct Wanted {
    name: String,
    mode: u32,
    content: Zeroizing<Vec<u8>>,
}

impl Publisher {
    /// Makes the directory when it is missing, sees that it is fit, and removes what a crash left there.
    ///
    /// # Errors
    /// Usage, when others could replace files there, or something lies there that is not the agent's; else what the disk says.
    pub fn open(place: &Place) -> Result<Self> {
        let Place { dir, owner, group, mode, names } = place;
        let owner = owner.as_ref().map(uid).transpose()?;
        let group = group.as_ref().map(gid).transpose()?;
        let publisher = Self { dir: dir.clone(), owner, group, mode: mode.0, names: names.clone() };
        publisher.make_dir()?;
        for name in publisher.names.all() {
            publisher.check_name(name)?;
        }
        publisher.remove_leftovers(&[publisher.in_force()]);
        Ok(publisher)
    }

    /// Where the files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes the files of a credential beside those in force; none when those are the same already, and durable.
    ///
    /// # Errors
    /// When the credential is none that can be written, or what the disk says; then nothing has changed.
    pub fn stage(&self, fresh: &Fresh, bundle: Option<&Bundle>) -> Result<Option<Staged<'_>>> {
        let wanted = self.wanted(fresh, bundle)?;
        if self.is_in_force(&wanted) {
            // A commit may have failed right before its end.
            sync(&self.dir)?;
            return Ok(None);
        }
        let version = format!("{VERSION}{}", random());
        let names = wanted.iter().map(|file| file.name.clone()).collect();
        let staged = Staged { publisher: self, version, names, committed: false };
        self.write_version(&self.dir.join(&staged.version), &wanted)?;
        Ok(Some(staged))
    }

    fn wanted(&self, fresh: &Fresh, bundle: Option<&Bundle>) -> Result<Vec<Wanted>> {
        let files = material(fresh, bundle)?.files();
        let combined = self.names.combined.as_ref().and_then(|name| combined(name, self.mode, &files));
        let wanted = files.into_iter().map(|NewFile { name, mode, content }| {
            let mode = if mode & 0o077 == 0 { self.mode } else { PUBLIC };
            Wanted { name: self.names.of(name).to_owned(), mode, content }
        });
        Ok(wanted.chain(combined).collect())
    }

    /// Whether the version in force holds exactly this, with the modes and owners that are configured.
    fn is_in_force(&self, wanted: &[Wanted]) -> bool {
        let Some(version) = self.in_force() else { return false };
        let dir = self.dir.join(version);
        let count = fs::read_dir(&dir).map(Iterator::count).unwrap_or(0);
        count == wanted.len() && wanted.iter().all(|file| self.is_same(&dir.join(&file.name), file)) && self.has_links(wanted)
    }

    fn is_same(&self, path: &Path, file: &Wanted) -> bool {
        let Ok(found) = fs::symlink_metadata(path) else { return false };
        let own = found.is_file() && found.mode() & 0o7777 == file.mode && found.len() == file.content.len() as u64;
        let owned = self.owner.is_none_or(|owner| owner == found.uid()) && self.group.is_none_or(|group| group == found.gid());
        own && owned && fs::read(path).map(Zeroizing::new).is_ok_and(|content| content == file.content)
    }

    fn has_links(&self, wanted: &[Wanted]) -> bool {
        wanted.iter().all(|file| fs::read_link(self.dir.join(&file.name)).is_ok_and(|target| target == target_of(&file.name)))
    }

    /// Everything is on disk when this returns.
    fn write_version(&self, dir: &Path, wanted: &[Wanted]) -> Result<()> {
        // Nobody else can enter until all of it is as it must be.
        DirBuilder::new().mode(0o700).create(dir).map_err(|error| fault(dir, &error))?;
        for file in wanted {
            let path = dir.join(&file.name);
            self.write_file(&path, file).map_err(|error| fault(&path, &error))?;
        }
        self.open_to_readers(dir)?;
        sync(dir)
    }

    fn write_file(&self, path: &Path, wanted: &Wanted) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(&wanted.content)?;
        fchown(&file, self.owner, self.group)?;
        // After the owner: a change of that may take bits away.
        file.set_permissions(Permissions::from_mode(wanted.mode))?;
        file.sync_all()
    }

    /// A directory stays the agent's own, so that nobody else can replace what is in it; whoever may read a file may enter.
    fn open_to_readers(&self, dir: &Path) -> Result<()> {
        let mode = match (self.owner, self.mode & 0o040) {
            (Some(_), _) => 0o755,
            (None, 0) => 0o700,
            (None, _) => 0o750,
        };
        chown(dir, None, self.group).map_err(|error| fault(dir, &error))?;
        fs::set_permissions(dir, Permissions::from_mode(mode)).map_err(|error| fault(dir, &error))
    }

    fn make_dir(&self) -> Result<()> {
        let dir = &self.dir;
        folder::check(dir).map_err(Error::usage)?;
        let is_new = !dir.exists();
        files::make_private_dir(dir).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::usage(format!("{} is no directory; name another one", dir.display())),
            _ => fault(dir, &error),
        })?;
        let found = fs::metadata(dir).map_err(|error| fault(dir, &error))?;
        let own = rustix::process::geteuid().as_raw();
        if found.uid() != own && found.uid() != 0 {
            let text = format!(
                "{} is user {}'s, who could replace what the agent writes there; name a directory of its own",
                dir.display(),
                found.uid()
            );
            return Err(Error::usage(text));
        }
        if found.mode() & 0o022 != 0 {
            return Err(Error::usage(format!("others may write into {}; run: chmod go-w {0}", dir.display())));
        }
        // One that somebody else made for other things too keeps its mode.
        if is_new || found.uid() == own && self.in_force().is_some() { self.open_to_readers(dir) } else { Ok(()) }
    }

    /// A name must be free, or a link of ours.
    fn check_name(&self, name: &str) -> Result<()> {
        let path = self.dir.join(name);
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(fault(&path, &error)),
            Ok(_) if fs::read_link(&path).is_ok_and(|target| target.starts_with(DATA)) => Ok(()),
            Ok(_) => Err(Error::usage(format!("{} is there and not the agent's; remove it, or name another dir", path.display()))),
        }
    }

    /// The name of the version in force.
    fn in_force(&self) -> Option<String> {
        let target = fs::read_link(self.dir.join(DATA)).ok()?;
        target.to_str().filter(|name| name.starts_with(VERSION)).map(str::to_owned)
    }

    /// Gives a link its name in one step.
    fn link(&self, target: &Path, name: &str) -> Result<()> {
        let (temporary, path) = (self.dir.join(format!("{TEMPORARY}{}", random())), self.dir.join(name));
        files::replace_link(&path, target, &temporary).map_err(|error| fault(&path, &error))
    }

    /// Removes versions but these, and links that never got their name.
    fn remove_leftovers(&self, kept: &[Option<String>]) {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
            let is_kept = kept.iter().flatten().any(|kept| *kept == name);
            let removed = match () {
                () if name.starts_with(VERSION) && !is_kept => fs::remove_dir_all(self.dir.join(&name)),
                () if name.starts_with(TEMPORARY) => fs::remove_file(self.dir.join(&name)),
                () => Ok(()),
            };
            if let Err(error) = removed {
                tracing::warn!(%error, dir = %self.dir.display(), name, "an earlier version was not removed");
            }
        }
    }

    /// Removes links of ours whose file there is no more: the kind of the role, or a name in the configuration, has changed.
    fn remove_links_but(&self, names: &[String]) {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
            let path = self.dir.join(&name);
            if !names.contains(&name) && fs::read_link(&path).is_ok_and(|target| target == target_of(&name)) {
                // A dangling link is no secret, and the next change tries again.
                let _ = fs::remove_file(path);
            }
        }
    }
}

impl Staged<'_> {
    /// Puts the files in force, at one moment. It is durable when this returns.
    ///
    /// # Errors
    /// What the disk says.
    pub fn commit(mut self) -> Result<()> {
        let publisher = self.publisher;
        let before = publisher.in_force();
        publisher.link(Path::new(&self.version), DATA)?;
        self.committed = true;
        for name in &self.names {
            if fs::read_link(publisher.dir.join(name)).is_ok_and(|target| target == target_of(name)) {
                continue;
            }
            publisher.check_name(name)?;
            publisher.link(&target_of(name), name)?;
        }
        sync(&publisher.dir)?;
        publisher.remove_links_but(&self.names);
        publisher.remove_leftovers(&[Some(self.version.clone()), before]);
        Ok(())
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if !self.committed {
            // What cannot be removed now goes with the next change, or the next start.
            let _ = fs::remove_dir_all(self.publisher.dir.join(&self.version));
        }
    }
}

/// What is to be written, checked: a certificate is for its key, and no text breaks out of its line. The roots of the bundle stand beside
/// those that came with the certificate: it has those that sign next.
fn material(fresh: &Fresh, bundle: Option<&Bundle>) -> Result<Material> {
    let Credential::X509(certificate) = &fresh.credential else { return Material::take(fresh.credential.clone(), None, None) };
    let mut certificate = certificate.clone();
    let beside: Vec<_> = bundle.into_iter().flat_map(|bundle| bundle.roots_beside(&certificate.root_der)).cloned().collect();
    for root in beside {
        if !certificate.root_der.contains(&root) {
            certificate.root_der.push(root);
        }
    }
    // Enough room that it need not grow, which would leave a copy behind.
    let mut text = Zeroizing::new(String::with_capacity(2 * fresh.key_der.len() + 256));
    pem::push(&mut text, "PRIVATE KEY", &fresh.key_der);
    let (key, csr) = csr::again(&text)?;
    Material::take(Credential::X509(certificate), Some(&csr), Some(key))
}

/// The key, then the certificate and its chain, in one file; none where there is no certificate.
fn combined(name: &str, mode: u32, found: &[NewFile]) -> Option<Wanted> {
    let content = |name| found.iter().find(|file| file.name == name).map(|file| &file.content);
    let (key, certificate) = (content(KEY)?, content(CERTIFICATE)?);
    let mut both = Zeroizing::new(Vec::with_capacity(key.len() + certificate.len()));
    both.extend_from_slice(key);
    both.extend_from_slice(certificate);
    Some(Wanted { name: name.to_owned(), mode, content: both })
}

fn target_of(name: &str) -> PathBuf {
    Path::new(DATA).join(name)
}

fn random() -> String {
    hex::encode(&clock::random::<8>())
}

fn sync(dir: &Path) -> Result<()> {
    files::sync_dir(dir).map_err(|error| fault(dir, &error))
}

fn fault(path: &Path, error: &io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => "; another owner or group is root's to give: run the agent as root or with CAP_CHOWN",
        _ => "",
    };
    Error::new(Kind::Other, "FILE", format!("{} cannot be written: {}{hint}", path.display(), plain(error)))
}
