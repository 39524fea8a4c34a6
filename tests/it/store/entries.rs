//! What every store must do with what servers share besides leases.

use daypass::{
    clock,
    model::{error::Code, hex},
    store::{Collection, Entry, EntryStore, MAX_ENTRIES, MAX_ENTRY},
};
use futures::{
    FutureExt,
    future::{BoxFuture, join_all},
};

/// A check, on a store that is empty.
pub type Check = for<'a> fn(&'a dyn EntryStore) -> BoxFuture<'a, ()>;

macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        /// Every check with its name.
        pub const CHECKS: &[(&str, Check)] = &[$((stringify!($name), |store| $name(store).boxed())),*];

        /// Makes one test of each check; `$store` gives what keeps the store alive, and the store.
        macro_rules! each_entry_check {
            ($store:expr) => {
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $name() {
                        let (_held, store) = $store;
                        let checks = crate::store::entries::CHECKS;
                        let (_, check) = checks.iter().find(|(name, _)| *name == stringify!($name)).unwrap();
                        check(&store).await;
                    }
                )*
            };
        }
        pub(super) use each_entry_check;
    };
}

checks! {
    an_entry_is_written_over_the_version_before_only,
    a_write_and_a_deletion_may_be_repeated,
    one_of_many_writers_wins,
    collections_are_apart_and_in_order,
    the_revision_moves_with_every_change_and_no_other,
    a_body_of_any_bytes_comes_back,
    what_breaks_a_bound_is_refused,
    a_full_collection_takes_changes_and_nothing_new,
}

fn entry(key: &str, version: u64, body: &[u8]) -> Entry {
    Entry { key: key.to_owned(), version, body: body.to_vec() }
}

const KEYS: Collection = Collection::Keys;

async fn an_entry_is_written_over_the_version_before_only(store: &dyn EntryStore) {
    assert_eq!(store.entry(KEYS, "jwt-1").await.unwrap(), None);
    assert!(!store.write_entry(KEYS, &entry("jwt-1", 2, b"b")).await.unwrap(), "there is no version 1");
    assert!(store.write_entry(KEYS, &entry("jwt-1", 1, b"a")).await.unwrap());
    assert!(!store.write_entry(KEYS, &entry("jwt-1", 1, b"b")).await.unwrap(), "it is there already");
    assert!(!store.write_entry(KEYS, &entry("jwt-1", 3, b"b")).await.unwrap());
    assert!(store.write_entry(KEYS, &entry("jwt-1", 2, b"b")).await.unwrap());
    assert_eq!(store.entry(KEYS, "jwt-1").await.unwrap(), Some(entry("jwt-1", 2, b"b")));
    assert!(!store.delete_entry(KEYS, "jwt-1", 1).await.unwrap(), "another version is there");
    assert!(store.delete_entry(KEYS, "jwt-1", 2).await.unwrap());
    assert_eq!(store.entry(KEYS, "jwt-1").await.unwrap(), None);
}

async fn a_write_and_a_deletion_may_be_repeated(store: &dyn EntryStore) {
    for _ in 0..2 {
        assert!(store.write_entry(KEYS, &entry("a", 1, b"one")).await.unwrap());
    }
    for _ in 0..2 {
        assert!(store.delete_entry(KEYS, "a", 1).await.unwrap());
    }
}

async fn one_of_many_writers_wins(store: &dyn EntryStore) {
    for version in 1..=3 {
        let writes =
            (0..20).map(|n| async move { store.write_entry(KEYS, &entry("a", version, format!("{n}").as_bytes())).await.unwrap() });
        assert_eq!(join_all(writes).await.into_iter().filter(|won| *won).count(), 1);
    }
    let deletions = (0..20).map(|_| async { store.delete_entry(KEYS, "a", 3).await.unwrap() });
    assert!(join_all(deletions).await.into_iter().all(|gone| gone));
}

async fn collections_are_apart_and_in_order(store: &dyn EntryStore) {
    for collection in Collection::ALL {
        for key in ["b", "a", "c-1", "B"] {
            assert!(store.write_entry(collection, &entry(key, 1, collection.as_str().as_bytes())).await.unwrap());
        }
    }
    for collection in Collection::ALL {
        let entries = store.entries(collection).await.unwrap();
        assert_eq!(entries, ["B", "a", "b", "c-1"].map(|key| entry(key, 1, collection.as_str().as_bytes())));
    }
}

async fn the_revision_moves_with_every_change_and_no_other(store: &dyn EntryStore) {
    let mut revision = store.entries_revision(KEYS).await.unwrap();
    assert_eq!(revision, 0);
    let mut moved = async |expected: bool, what: &str| {
        let now = store.entries_revision(KEYS).await.unwrap();
        assert_eq!(now != revision, expected, "{what}");
        revision = now;
    };
    store.write_entry(KEYS, &entry("a", 1, b"a")).await.unwrap();
    moved(true, "written").await;
    store.write_entry(KEYS, &entry("a", 1, b"a")).await.unwrap();
    moved(false, "repeated").await;
    store.write_entry(KEYS, &entry("a", 3, b"a")).await.unwrap();
    moved(false, "refused").await;
    store.write_entry(Collection::Servers, &entry("a", 1, b"a")).await.unwrap();
    moved(false, "another collection's").await;
    store.delete_entry(KEYS, "a", 1).await.unwrap();
    moved(true, "deleted").await;
    store.delete_entry(KEYS, "a", 1).await.unwrap();
    moved(false, "there was none").await;
    store.write_entry(KEYS, &entry("a", 1, b"a")).await.unwrap();
    moved(true, "written again, as it was once").await;
}

async fn a_body_of_any_bytes_comes_back(store: &dyn EntryStore) {
    let bodies = [b"".to_vec(), b" 7 ".to_vec(), (0..=255).collect(), vec![0xff; MAX_ENTRY], clock::random::<64>().to_vec()];
    for (number, body) in bodies.iter().enumerate() {
        let written = entry(&format!("k{number}"), 1, body);
        assert!(store.write_entry(KEYS, &written).await.unwrap());
        assert_eq!(store.entry(KEYS, &written.key).await.unwrap(), Some(written));
    }
}

async fn what_breaks_a_bound_is_refused(store: &dyn EntryStore) {
    let long = "k".repeat(129);
    for bad in [entry("", 1, b""), entry(&long, 1, b""), entry("a b", 1, b""), entry("ä", 1, b""), entry("a", 1, &vec![0; MAX_ENTRY + 1])]
    {
        let error = store.write_entry(KEYS, &bad).await.unwrap_err();
        assert_eq!(error.code(), Code::Internal, "{:?}", bad.key);
    }
}

async fn a_full_collection_takes_changes_and_nothing_new(store: &dyn EntryStore) {
    let numbers: Vec<usize> = (0..MAX_ENTRIES).collect();
    for batch in numbers.chunks(50) {
        let writes = batch.iter().map(|n| async move { store.write_entry(KEYS, &entry(&format!("k{n}"), 1, b"")).await.unwrap() });
        assert!(join_all(writes).await.into_iter().all(|written| written));
    }
    assert!(!store.write_entry(KEYS, &entry(&hex::encode(&clock::random::<8>()), 1, b"")).await.unwrap());
    assert!(store.write_entry(KEYS, &entry("k7", 2, b"changed")).await.unwrap());
    assert!(store.delete_entry(KEYS, "k8", 1).await.unwrap());
    assert!(store.write_entry(KEYS, &entry("new", 1, b"")).await.unwrap());
    assert_eq!(store.entries(KEYS).await.unwrap().len(), MAX_ENTRIES);
}
