//! What is particular to the store on disk.

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use daypass::{
    model::{
        error::Code,
        lease::{Lease, LeaseFilter},
    },
    store::{Collection, Entry, EntryStore, LeaseStore, NewLease, Put, Swap, TokenUseKey, embedded::EmbeddedStore},
};
use tempfile::TempDir;

use super::{
    conformance::{each_check, pages},
    entries::each_entry_check,
    leases::{RETENTION, at, ca, expired, lease, new},
    reference,
};

mod conforms {
    use super::*;
    each_check!(store());
    each_entry_check!(store());
}

fn store() -> (TempDir, EmbeddedStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    (folder, store)
}

fn open(folder: &Path) -> EmbeddedStore {
    EmbeddedStore::open(&folder.join("leases.db"), RETENTION).unwrap()
}

#[test]
fn random_operations_agree_with_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    let mut count = 0;
    reference::agrees(24, || {
        count += 1;
        Box::new(EmbeddedStore::open(&folder.path().join(format!("{count}.db")), RETENTION).unwrap())
    });
}

#[tokio::test]
async fn a_reopened_store_has_kept_all() {
    let (folder, store) = store();
    let (first, second) = (lease("acme", "web", "spiffe://acme/a"), lease("acme", "web", "spiffe://acme/a"));
    let put = |lease: &Lease| NewLease {
        request_key: Some([1; 16]),
        token_use: Some(TokenUseKey { key: [2; 16], retry: None, until: at(9) }),
        ..new(lease)
    };
    store.put(&put(&first)).await.unwrap();
    store.put(&new(&second)).await.unwrap();
    assert_eq!(store.swap(&[expired(&second)]).await.unwrap(), [Swap::Done]);
    assert_eq!(store.next_crl_number(&ca(), 0).await.unwrap(), 1);
    let incarnation = store.incarnation().await.unwrap();
    let stats = store.stats().await.unwrap();
    drop(store);

    let store = open(folder.path());
    assert_eq!(pages(&store, &LeaseFilter::default(), 10).await, [first.clone(), expired(&second)]);
    assert_eq!(store.stats().await.unwrap(), stats);
    assert_eq!(store.incarnation().await.unwrap(), incarnation);
    assert_eq!(store.next_crl_number(&ca(), 0).await.unwrap(), 2);
    let again = lease("acme", "web", "spiffe://acme/a");
    assert_eq!(store.put(&put(&again)).await.unwrap(), Put::Existing(Box::new(first)));
    assert_eq!(store.put(&NewLease { request_key: None, ..put(&again) }).await.unwrap(), Put::TokenReplayed);
    assert_eq!(store.put(&NewLease { tenant_cap: 1, ..new(&again) }).await.unwrap(), Put::TenantCap);
}

#[tokio::test]
async fn its_files_are_for_the_owner_only_also_when_they_were_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases.db");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let store = open(folder.path());
    store.put(&new(&lease("acme", "web", "spiffe://acme/a"))).await.unwrap();
    let mut files = 0;
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
        files += 1;
    }
    assert!(files >= 2, "the database and its log");
}

#[test]
fn a_newer_schema_and_a_foreign_database_are_refused_in_words() {
    let (folder, store) = store();
    drop(store);
    let path = folder.path().join("leases.db");
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
    let error = EmbeddedStore::open(&path, RETENTION).err().unwrap();
    assert!(error.public().contains("has schema 7, and this service knows schema 2"), "{error}");

    let path = folder.path().join("foreign.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE notes (text)").unwrap();
    let error = EmbeddedStore::open(&path, RETENTION).err().unwrap();
    assert!(error.public().contains("is another program's database"), "{error}");

    let path = folder.path().join("text.db");
    std::fs::write(&path, "no database at all, ".repeat(100)).unwrap();
    assert_eq!(EmbeddedStore::open(&path, RETENTION).err().unwrap().code(), Code::StoreUnavailable);
    let error = EmbeddedStore::open(&folder.path().join("none/leases.db"), RETENTION).err().unwrap();
    assert!(error.public().contains("cannot be created"), "{error}");
}

/// As a version before left it: without collections.
#[tokio::test]
async fn an_older_schema_is_brought_up_and_keeps_its_leases() {
    let (folder, store) = store();
    let kept = lease("acme", "web", "spiffe://acme/a");
    store.put(&new(&kept)).await.unwrap();
    drop(store);
    let path = folder.path().join("leases.db");
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch("DROP TABLE entry; DROP TABLE collection; PRAGMA user_version = 1").unwrap();
    drop(old);
    let store = open(folder.path());
    assert_eq!(store.get(&[kept.id]).await.unwrap(), [Some(kept)]);
    let entry = Entry { key: "a".to_owned(), version: 1, body: b"b".to_vec() };
    assert!(store.write_entry(Collection::Keys, &entry).await.unwrap());
}

#[tokio::test]
async fn a_copy_that_was_put_back_is_another_incarnation() {
    let (folder, store) = store();
    let incarnation = store.incarnation().await.unwrap();
    drop(store);
    let (path, copy) = (folder.path().join("leases.db"), folder.path().join("copy.db"));
    // The copy goes through SQLite, so that it holds what still lies in the log.
    let copied = rusqlite::Connection::open(&path).unwrap().execute("VACUUM INTO ?1", [copy.to_str().unwrap()]);
    copied.unwrap();
    for name in ["leases.db-wal", "leases.db-shm"] {
        let _ = std::fs::remove_file(folder.path().join(name));
    }
    std::fs::rename(&copy, &path).unwrap();
    assert_ne!(open(folder.path()).incarnation().await.unwrap(), incarnation);
}

/// Names the folder in which [`in_a_process_whose_disk_fills`] works.
const FULL_DISK: &str = "DAYPASS_TEST_FULL_DISK";

/// The disk that fills is a limit on the size of files, set for a process of its own: the kernel then refuses to write.
#[test]
fn a_full_disk_is_an_error_within_a_second_and_it_recovers_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let test = "store::embedded::in_a_process_whose_disk_fills";
    let this = std::env::current_exe().unwrap();
    // A process that ignores XFSZ gets an error where it would be killed.
    let script = format!("trap '' XFSZ; ulimit -S -f 6000; exec '{}' --exact {test} --ignored --nocapture", this.display());
    let output = Command::new("sh").args(["-c", &script]).env(FULL_DISK, folder.path()).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert!(said.contains("the disk was full, and then it was not"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the test above runs it in a process of its own"]
async fn in_a_process_whose_disk_fills() {
    let folder = std::env::var_os(FULL_DISK).unwrap();
    let store = open(Path::new(&folder));
    let mut kept = Vec::new();
    // The first refusal may be followed by a put that finds room again (the log is folded into the database): it is full
    // when it stays so.
    let mut refused_in_a_row = 0;
    while refused_in_a_row < 10 {
        let next = lease("acme", "web", &format!("spiffe://acme/{}", "x".repeat(400)));
        let began = Instant::now();
        let outcome = store.put(&new(&next)).await;
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        match outcome {
            Ok(outcome) => {
                assert_eq!(outcome, Put::Stored);
                kept.push(next);
                refused_in_a_row = 0;
            }
            Err(error) => {
                assert_eq!(error.code(), Code::StoreUnavailable);
                refused_in_a_row += 1;
            }
        }
        assert!(kept.len() < 20_000, "the limit on files did not bite");
    }
    assert!(kept.len() > 10);
    assert_eq!(store.get(&[kept[0].id]).await.unwrap(), [Some(kept[0].clone())], "what is there can be read");

    let lifted = Command::new("prlimit").args(["--pid", &std::process::id().to_string(), "--fsize=unlimited"]).status().unwrap();
    assert!(lifted.success());
    let next = lease("acme", "web", "spiffe://acme/a");
    assert_eq!(store.put(&new(&next)).await.unwrap(), Put::Stored);
    kept.push(next);
    assert_eq!(pages(&store, &LeaseFilter::default(), 1000).await, kept, "nothing acknowledged is lost, nothing refused is there");
    println!("the disk was full, and then it was not");
}
