//! Files that are ours alone, and locks.

use std::os::unix::fs::{PermissionsExt, symlink};

use jiff::SignedDuration;

use super::{super::entry::tests::sample, *};

const KEY: &str = "aa11";

fn cache(path: &Path) -> CacheDir {
    let path = path.to_owned();
    CacheDir::open(&move |name| (name == NAME).then(|| path.clone().into_os_string())).unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_is_written_is_read_and_is_for_the_owner_only() {
    let temp = tempfile::tempdir().unwrap();
    let dir = cache(&temp.path().join("deep/cache"));
    assert_eq!(dir.read(KEY), Ok(None));
    let entry = sample(at(0), SignedDuration::from_secs(900));
    dir.write(KEY, &entry, at(0)).unwrap();
    assert_eq!(dir.read(KEY), Ok(Some(entry)));
    let mode_of = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!((mode_of(&dir.path), mode_of(&dir.file(KEY))), (0o700, 0o600));
    assert_eq!(fs::read_dir(&dir.path).unwrap().count(), 1, "no temporary file stays");
    dir.forget(KEY);
    assert_eq!(dir.read(KEY), Ok(None));
}

#[test]
fn what_is_odd_is_not_used_and_is_replaced() {
    let temp = tempfile::tempdir().unwrap();
    mode(temp.path(), 0o700);
    let dir = cache(temp.path());
    let entry = sample(at(0), SignedDuration::from_secs(900));
    let file = dir.file(KEY);
    let elsewhere = temp.path().join("elsewhere");
    type Spoil<'a> = &'a dyn Fn();
    let spoils: [(Spoil, &str); 6] = [
        (&|| mode(&file, 0o640), "others can read"),
        (&|| fs::write(&file, "{").unwrap(), "damaged"),
        (&|| fs::write(&file, "").unwrap(), "damaged"),
        (&|| fs::write(&file, fs::read_to_string(&file).unwrap().replace("\"version\":1", "\"version\":2")).unwrap(), "damaged"),
        (&|| fs::write(&file, " ".repeat(MAX_ENTRY + 1)).unwrap(), "larger"),
        (
            &|| {
                fs::rename(&file, &elsewhere).unwrap();
                symlink(&elsewhere, &file).unwrap();
            },
            "no plain file",
        ),
    ];
    for (spoil, why) in spoils {
        dir.write(KEY, &entry, at(0)).unwrap();
        spoil();
        let told = dir.read(KEY).unwrap_err();
        assert!(told.contains(why), "{told}");
        dir.write(KEY, &entry, at(0)).unwrap();
        assert_eq!(dir.read(KEY), Ok(Some(entry.clone())));
    }
    assert!(!file.is_symlink());
    let foreign = CacheDir { path: dir.path.clone(), owner: dir.owner + 1 };
    assert!(foreign.read(KEY).unwrap_err().contains("another user"));
}

#[test]
fn a_directory_that_others_can_enter_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    mode(temp.path(), 0o755);
    let path = temp.path().to_owned();
    let error = CacheDir::open(&move |name| (name == NAME).then(|| path.clone().into_os_string())).err().unwrap();
    assert!(error.kind() == Kind::Usage && error.message().contains("0755") && error.message().contains(NAME), "{error}");
    let homeless = CacheDir::open(&|_| None).err().unwrap();
    assert!(homeless.kind() == Kind::Usage && homeless.message().contains(NAME), "{homeless}");
}

#[test]
fn what_has_expired_is_swept() {
    let temp = tempfile::tempdir().unwrap();
    mode(temp.path(), 0o700);
    let dir = cache(temp.path());
    let short = sample(at(0), SignedDuration::from_secs(60));
    let long = sample(at(0), SignedDuration::from_secs(3_600));
    dir.write("aa01", &short, at(0)).unwrap();
    dir.write("bb01", &long, at(0)).unwrap();
    dir.write("cc01", &long, at(100)).unwrap();
    assert_eq!((dir.read("aa01"), dir.read("bb01")), (Ok(None), Ok(Some(long))));
}

#[tokio::test]
async fn one_holds_the_lock_and_another_waits_for_a_time() {
    let temp = tempfile::tempdir().unwrap();
    mode(temp.path(), 0o700);
    let dir = cache(temp.path());
    let first = dir.lock(KEY, Duration::ZERO).await.unwrap();
    assert!(dir.lock("bb22", Duration::ZERO).await.is_ok(), "another key");
    let error = dir.lock(KEY, Duration::from_millis(50)).await.err().unwrap();
    assert_eq!((error.kind(), error.code()), (Kind::Unavailable, "DEADLINE_EXCEEDED"));
    drop(first);
    assert!(dir.lock(KEY, Duration::ZERO).await.is_ok());
}

#[test]
fn where_it_lies() {
    let at = |set: &[(&str, &str)]| {
        let env = |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into());
        user_dir(NAME, "XDG_CACHE_HOME", ".cache", &env).map(|path| path.display().to_string()).ok()
    };
    assert_eq!(at(&[("HOME", "/h")]).as_deref(), Some("/h/.cache/daypass"));
    assert_eq!(at(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]).as_deref(), Some("/x/daypass"));
    assert_eq!(at(&[("HOME", "/h"), ("XDG_CACHE_HOME", "relative")]).as_deref(), Some("/h/.cache/daypass"));
    assert_eq!(at(&[("HOME", "/h"), (NAME, "/mine")]).as_deref(), Some("/mine"));
    assert_eq!(at(&[]), None);
}
