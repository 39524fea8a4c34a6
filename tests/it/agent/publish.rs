//! A role's files on disk: whole, durable, owned and readable as configured, and never a moment without.

use std::{
    collections::BTreeMap,
    fs::{self, File, Permissions},
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use daypass::{
    agent::{
        accounts::User,
        config::{DEFAULT_FILE_MODE, FileNames, Place},
        desk::{Bundle, Fresh},
        publish::{DATA, Publisher},
        sockets::config::{Group, Mode},
    },
    client::types::Credential,
    model::SignedDuration,
};
use tempfile::TempDir;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::socket_world::{PATIENCE, aws, der, x509};
use crate::support::parts::{
    openssl::{Ca, Pair},
    wait_until,
};

struct World {
    folder: TempDir,
    ca: Ca,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::new(folder.path(), "ca");
        Self { folder, ca }
    }

    fn place(&self) -> Place {
        let dir = self.folder.path().join("web");
        Place { dir, owner: None, group: None, mode: DEFAULT_FILE_MODE, names: FileNames::default() }
    }

    fn pair(&self, name: &str) -> Pair {
        self.ca.leaf(name, &["DNS:localhost"], "serverAuth", 1)
    }

    fn fresh(&self, name: &str) -> Fresh {
        let Pair { cert, key } = self.pair(name);
        let mut fresh = x509("web", &cert, &key);
        if let Credential::X509(certificate) = &mut fresh.credential {
            certificate.root_der = vec![der(&self.ca.cert)];
        }
        fresh
    }
}

fn put(publisher: &Publisher, fresh: &Fresh) -> bool {
    let staged = publisher.stage(fresh, None).unwrap();
    staged.map(|staged| staged.commit().unwrap()).is_some()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn versions(dir: &Path) -> usize {
    names(dir).iter().filter(|name| name.starts_with("..v-")).count()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// Whether a certificate is for a key, both PEM.
fn belong_together(cert: &[u8], key: &[u8]) -> bool {
    use rustls_pki_types::{CertificateDer, pem::PemObject};
    let cert = CertificateDer::from_pem_slice(cert).expect("a whole certificate");
    let (_, cert) = X509Certificate::from_der(&cert).expect("a certificate");
    let (_, csr) = daypass::client::csr::again(std::str::from_utf8(key).expect("text")).expect("a whole key");
    let (_, request) = x509_parser::prelude::X509CertificationRequest::from_der(csr.der()).expect("a request");
    cert.public_key().raw == request.certification_request_info.subject_pki.raw
}

#[test]
fn readers_never_see_a_mismatch_or_a_gap() {
    const READERS: usize = 3;
    let world = World::new();
    let publisher = Publisher::open(&world.place()).unwrap();
    let pairs: Vec<_> = ["a", "b", "c"].map(|name| world.fresh(name)).into();
    assert!(put(&publisher, &pairs[0]));
    let stop = Arc::new(AtomicBool::new(false));
    let counts: Vec<_> = (0..READERS).map(|_| Arc::new(AtomicU64::new(0))).collect();
    let readers: Vec<_> = counts
        .iter()
        .map(|count| {
            let (stop, count, dir) = (stop.clone(), count.clone(), publisher.dir().to_owned());
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    // Through one handle of the directory, as openat(2) has it.
                    let version = File::open(dir.join(DATA)).expect("there is always a version");
                    let of = |name: &str| PathBuf::from(format!("/proc/self/fd/{}/{name}", version.as_raw_fd()));
                    let cert = fs::read(of("tls.crt")).expect("there is always a certificate");
                    thread::yield_now();
                    let key = fs::read(of("tls.key")).expect("there is always a key");
                    assert!(belong_together(&cert, &key), "the certificate is another key's");
                    // By its own name each file is always there and whole.
                    for name in ["tls.crt", "tls.key", "ca.crt"] {
                        let text = fs::read_to_string(dir.join(name)).expect("its name is always there");
                        assert!(text.starts_with("-----BEGIN") && text.ends_with("-----\n"), "{name} is whole");
                    }
                    count.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for round in 1..60 {
        assert!(put(&publisher, &pairs[round % pairs.len()]), "each is another");
        // The version before stays until the next change: who holds it has all the time between two rotations.
        let then: Vec<_> = counts.iter().map(|count| count.load(Ordering::SeqCst)).collect();
        wait_until(PATIENCE, "every reader came round", || {
            let moved = counts.iter().zip(&then).all(|(count, then)| count.load(Ordering::SeqCst) > *then);
            (moved || readers.iter().any(thread::JoinHandle::is_finished)).then_some(())
        });
    }
    stop.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.join().expect("a reader saw what it must not");
    }
    assert_eq!(versions(publisher.dir()), 2, "the one in force and the one before");
}

#[test]
fn files_have_their_modes_and_the_directory_is_the_agents_own() {
    let world = World::new();
    let publisher = Publisher::open(&world.place()).unwrap();
    put(&publisher, &world.fresh("a"));
    let dir = publisher.dir();
    assert_eq!(["tls.key", "tls.crt", "ca.crt"].map(|name| mode(&dir.join(name))), [0o600, 0o644, 0o644]);
    assert_eq!((mode(dir), mode(&dir.join(DATA))), (0o700, 0o700));

    let own = rustix::process::getegid().as_raw();
    let shared = Place { dir: world.folder.path().join("shared"), group: Some(Group::Id(own)), mode: Mode(0o640), ..world.place() };
    let publisher = Publisher::open(&shared).unwrap();
    put(&publisher, &world.fresh("b"));
    let (dir, key) = (&shared.dir, shared.dir.join("tls.key"));
    assert_eq!((mode(&key), fs::metadata(&key).unwrap().gid(), mode(dir), mode(&dir.join(DATA))), (0o640, own, 0o750, 0o750));
    // Another mode is another version, with the same content.
    let publisher = Publisher::open(&Place { mode: Mode(0o440), ..shared.clone() }).unwrap();
    assert!(put(&publisher, &world.fresh("b2")));
    assert_eq!(mode(&key), 0o440);
}

#[test]
fn a_file_is_given_to_another_user_or_the_failure_says_what_is_needed() {
    let world = World::new();
    let place = Place { owner: Some(User::Id(12_345)), group: Some(Group::Id(23_456)), ..world.place() };
    let fresh = world.fresh("a");
    let publisher = Publisher::open(&place);
    if rustix::process::geteuid().is_root() {
        let publisher = publisher.unwrap();
        put(&publisher, &fresh);
        let key = fs::metadata(place.dir.join("tls.key")).unwrap();
        assert_eq!((key.uid(), key.gid(), key.mode() & 0o777), (12_345, 23_456, 0o600));
        let version = fs::metadata(place.dir.join(DATA)).unwrap();
        assert_eq!((version.uid(), version.mode() & 0o777), (0, 0o755), "nobody else replaces what is in it");
    } else {
        let failed = publisher.and_then(|publisher| publisher.stage(&fresh, None).map(|_| ())).unwrap_err();
        assert!(failed.message().contains("CAP_CHOWN"), "{failed}");
        assert_eq!(versions(&place.dir), 0, "nothing is left");
    }
}

#[test]
fn the_same_again_changes_nothing_and_the_bundle_goes_into_the_ca_file() {
    let world = World::new();
    let publisher = Publisher::open(&world.place()).unwrap();
    let fresh = world.fresh("a");
    assert!(put(&publisher, &fresh));
    let before = fs::read_link(publisher.dir().join(DATA)).unwrap();
    assert!(!put(&publisher, &fresh));
    assert_eq!(fs::read_link(publisher.dir().join(DATA)).unwrap(), before);
    // Also for the next agent.
    assert!(!put(&Publisher::open(&world.place()).unwrap(), &fresh));

    let next = Ca::new(world.folder.path(), "next");
    let other = Ca::new(world.folder.path(), "other");
    let (old, new, other) = (der(&world.ca.cert), der(&next.cert), der(&other.cert));
    let bundle = Bundle {
        version: "2".to_owned(),
        roots_der: vec![new.clone(), old.clone(), other.clone()],
        cas: BTreeMap::from([("issuing".to_owned(), vec![old, new]), ("partners".to_owned(), vec![other])]),
        jwks: String::new(),
    };
    publisher.stage(&fresh, Some(&bundle)).unwrap().expect("the roots are others").commit().unwrap();
    let roots = fs::read_to_string(publisher.dir().join("ca.crt")).unwrap();
    assert_eq!(roots.matches("-----BEGIN CERTIFICATE-----").count(), 2, "each once, and none of another CA: {roots}");
    assert!(publisher.stage(&fresh, Some(&bundle)).unwrap().is_none());
}

#[test]
fn what_a_crash_left_is_removed_and_what_was_not_committed_is_too() {
    let world = World::new();
    let publisher = Publisher::open(&world.place()).unwrap();
    put(&publisher, &world.fresh("a"));
    let dir = publisher.dir().to_owned();
    let whole = names(&dir);
    drop(publisher.stage(&world.fresh("b"), None).unwrap().expect("it is another"));
    assert_eq!(names(&dir), whole, "dropped before it was in force");

    fs::create_dir(dir.join("..v-dead")).unwrap();
    fs::write(dir.join("..v-dead/tls.key"), "half a k").unwrap();
    symlink("..v-dead", dir.join("..tmp-dead")).unwrap();
    Publisher::open(&world.place()).unwrap();
    assert_eq!(names(&dir), whole);
    // A crash between the two steps of the first publication: the version is in force, a name is missing.
    fs::remove_file(dir.join("tls.key")).unwrap();
    let publisher = Publisher::open(&world.place()).unwrap();
    put(&publisher, &world.fresh("c"));
    assert!(belong_together(&fs::read(dir.join("tls.crt")).unwrap(), &fs::read(dir.join("tls.key")).unwrap()));
}

#[test]
fn names_can_be_chosen_and_old_ones_go() {
    let world = World::new();
    let publisher = Publisher::open(&world.place()).unwrap();
    let fresh = world.fresh("a");
    put(&publisher, &fresh);
    let mut names_wanted = FileNames { combined: Some("site.pem".to_owned()), ..FileNames::default() };
    names_wanted.names.insert("tls.crt", "fullchain.pem".to_owned());
    let publisher = Publisher::open(&Place { names: names_wanted, ..world.place() }).unwrap();
    assert!(put(&publisher, &fresh));
    let dir = publisher.dir();
    let shown: Vec<_> = names(dir).into_iter().filter(|name| !name.starts_with("..")).collect();
    assert_eq!(shown, ["ca.crt", "fullchain.pem", "site.pem", "tls.key"]);
    let both = fs::read(dir.join("site.pem")).unwrap();
    assert!(belong_together(&both, &both));
    assert_eq!(mode(&dir.join("site.pem")), 0o600, "a key is in it");
    // Another kind: the files of the one before go.
    assert!(put(&publisher, &aws("web", "ASIAEXAMPLE", SignedDuration::from_hours(1))));
    let shown: Vec<_> = names(dir).into_iter().filter(|name| !name.starts_with("..")).collect();
    assert_eq!(shown, ["credentials"]);
    assert_eq!(mode(&dir.join("credentials")), 0o600);
}

#[test]
fn what_is_not_the_agents_is_left_alone() {
    let world = World::new();
    let place = world.place();
    fs::create_dir(&place.dir).unwrap();
    fs::write(place.dir.join("tls.key"), "mine").unwrap();
    let refused = Publisher::open(&place).unwrap_err();
    assert!(refused.message().contains("not the agent's"), "{refused}");
    assert_eq!(fs::read_to_string(place.dir.join("tls.key")).unwrap(), "mine");
    fs::remove_file(place.dir.join("tls.key")).unwrap();
    fs::write(place.dir.join("notes"), "mine").unwrap();
    put(&Publisher::open(&place).unwrap(), &world.fresh("a"));
    assert_eq!(fs::read_to_string(place.dir.join("notes")).unwrap(), "mine");
    fs::set_permissions(&place.dir, Permissions::from_mode(0o777)).unwrap();
    assert!(Publisher::open(&place).unwrap_err().message().contains("chmod go-w"));
}

/// An agent that runs as root must not be led elsewhere by who owns a folder on the way. What another agent writes is no more than that
/// user's to begin with.
#[test]
fn no_folder_on_the_way_is_another_users() {
    let world = World::new();
    let way = world.place().dir.with_file_name("way");
    fs::create_dir(&way).unwrap();
    fs::set_permissions(&way, Permissions::from_mode(0o775)).unwrap();
    let place = Place { dir: way.join("web"), ..world.place() };
    let refused = Publisher::open(&place).err().map(|error| error.message().to_owned());
    match rustix::process::geteuid().is_root() {
        true => assert!(refused.unwrap().contains("others may replace what lies in") && !place.dir.exists()),
        false => assert_eq!(refused, None),
    }
}

#[test]
fn a_certificate_of_another_key_is_never_published() {
    let world = World::new();
    let publisher = Publisher::open(&world.place()).unwrap();
    let (a, b) = (world.pair("a"), world.pair("b"));
    let failed = publisher.stage(&x509("web", &a.cert, &b.key), None).unwrap_err();
    assert_eq!(failed.code(), "WRONG_KEY");
    assert_eq!(names(publisher.dir()), [""; 0]);
}
