//! Whatever is done to a log is found. Exhaustive over a small log, at random over larger ones.

use std::{
    fs,
    path::{Path, PathBuf},
};

use daypass::audit::verify::{Broken, verify};
use proptest::prelude::*;

use super::{fill, open, segments};

/// Six records in three segments.
async fn small() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 900, 1..=6).await;
    assert_eq!(segments(dir.path()).len(), 3, "{:?}", segments(dir.path()));
    assert_eq!(verify(dir.path()).unwrap().records, 6);
    dir
}

fn files(dir: &Path) -> Vec<PathBuf> {
    segments(dir).into_iter().chain([dir.join("head")]).collect()
}

/// Replaces a file, expects that it is found, and puts it back.
fn must_break(dir: &Path, file: &Path, content: &[u8], what: &str) -> Broken {
    let before = fs::read(file).unwrap();
    fs::write(file, content).unwrap();
    let result = verify(dir);
    fs::write(file, before).unwrap();
    match result {
        Err(broken) => broken,
        Ok(summary) => panic!("{what} of {} was not found: {summary:?}", file.display()),
    }
}

#[tokio::test]
async fn any_flipped_byte() {
    let dir = small().await;
    for file in files(dir.path()) {
        let content = fs::read(&file).unwrap();
        for at in 0..content.len() {
            // The lowest bit, the one between upper and lower case, the highest, all of them.
            for bits in [0x01, 0x20, 0x80, 0xff] {
                let mut bent = content.clone();
                bent[at] ^= bits;
                let broken = must_break(dir.path(), &file, &bent, &format!("flipping {bits:02x} of byte {at}"));
                if file.extension().is_some() {
                    assert!(!broken.what.is_empty() && broken.seq.is_some(), "{broken}");
                }
            }
        }
    }
}

#[tokio::test]
async fn any_file_cut_at_any_byte_and_any_file_deleted() {
    let dir = small().await;
    for file in files(dir.path()) {
        let content = fs::read(&file).unwrap();
        for at in 0..content.len() {
            must_break(dir.path(), &file, &content[..at], &format!("a cut at {at}"));
        }
        fs::remove_file(&file).unwrap();
        let broken = verify(dir.path()).expect_err("a deleted file was not found");
        assert!(broken.to_string().contains(dir.path().to_str().unwrap()), "{broken}");
        fs::write(&file, content).unwrap();
    }
    verify(dir.path()).unwrap();
}

#[tokio::test]
async fn any_line_deleted_doubled_swapped_or_moved() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 1 << 20, 1..=6).await;
    let file = &segments(dir.path())[0];
    let content = fs::read_to_string(file).unwrap();
    let lines: Vec<&str> = content.split_inclusive('\n').collect();
    for from in 0..lines.len() {
        let mut without = lines.clone();
        let line = without.remove(from);
        let broken = must_break(dir.path(), file, without.concat().as_bytes(), &format!("deleting line {from}"));
        assert_eq!(broken.seq, Some(from as u64 + 1), "{broken}");
        for to in 0..=lines.len() {
            let mut doubled = lines.clone();
            doubled.insert(to, line);
            must_break(dir.path(), file, doubled.concat().as_bytes(), &format!("line {from} again at {to}"));
        }
        for to in (0..lines.len()).filter(|to| *to != from) {
            let mut swapped = lines.clone();
            swapped.swap(from, to);
            let broken = must_break(dir.path(), file, swapped.concat().as_bytes(), &format!("swapping {from} and {to}"));
            assert_eq!((broken.line, broken.seq), (from.min(to) as u64 + 1, Some(from.min(to) as u64 + 1)), "{broken}");
        }
    }
    verify(dir.path()).unwrap();
}

#[tokio::test]
async fn segments_renamed_joined_or_in_another_order() {
    let dir = small().await;
    let names = segments(dir.path());
    let [first, second, third] = &names[..] else { panic!("{names:?}") };
    let spare = dir.path().join("spare");
    let swap = |a: &Path, b: &Path| {
        fs::rename(a, &spare).unwrap();
        fs::rename(b, a).unwrap();
        fs::rename(&spare, b).unwrap();
    };
    for (a, b) in [(first, second), (second, third), (first, third)] {
        swap(a, b);
        verify(dir.path()).unwrap_err();
        assert!(verify(a).unwrap_err().what.contains("name"));
        swap(a, b);
    }
    verify(dir.path()).unwrap();
    let joined = [fs::read(first).unwrap(), fs::read(second).unwrap()].concat();
    must_break(dir.path(), first, &joined, "a segment with the next one's records");
    fs::copy(first, dir.path().join("audit-00000000000000000099.jsonl")).unwrap();
    verify(dir.path()).unwrap_err();
}

#[tokio::test]
async fn a_broken_log_is_not_opened_and_the_error_names_the_place() {
    let dir = small().await;
    let last = segments(dir.path()).pop().unwrap();
    let content = fs::read_to_string(&last).unwrap();
    fs::write(&last, content.replacen("CredentialService", "CredentialServicf", 1)).unwrap();
    let Err(error) = daypass::audit::DiskLog::open(daypass::audit::AuditOptions::new(dir.path())) else { panic!("it was opened") };
    assert!(error.public().contains(&format!("{}:1: its \"hash\"", last.display())), "{error}");
    for (what, cut) in [("half", content.len() / 4), ("all but a byte", content.len() - 1), ("all", 0)] {
        fs::write(&last, &content[..cut]).unwrap();
        assert!(daypass::audit::DiskLog::open(daypass::audit::AuditOptions::new(dir.path())).is_err(), "{what} was opened");
        assert_eq!(fs::metadata(&last).unwrap().len(), cut as u64, "evidence was touched");
    }
    fs::write(&last, &content).unwrap();
    let head = fs::read(dir.path().join("head")).unwrap();
    fs::remove_file(dir.path().join("head")).unwrap();
    assert!(daypass::audit::DiskLog::open(daypass::audit::AuditOptions::new(dir.path())).is_err());
    fs::write(dir.path().join("head"), head).unwrap();
    drop(open(dir.path(), 900));
    assert_eq!(verify(dir.path()).unwrap().records, 6);
}

#[tokio::test]
async fn a_torn_end_that_was_never_acknowledged_is_cut_and_recorded() {
    let dir = small().await;
    let last = segments(dir.path()).pop().unwrap();
    let content = fs::read(&last).unwrap();
    fs::write(&last, [&content[..], &content[..100]].concat()).unwrap();
    assert_eq!(verify(dir.path()).unwrap().unfinished_bytes, 100);
    assert_eq!(verify(&last).unwrap().unfinished_bytes, 100);
    drop(open(dir.path(), 1 << 20));
    let summary = verify(dir.path()).unwrap();
    assert_eq!((summary.records, summary.unfinished_bytes), (7, 0));
    let text = fs::read_to_string(&last).unwrap();
    let record = text.lines().last().unwrap();
    assert!(record.contains("log/recovered") && record.contains("100 bytes"), "{record}");
}

#[tokio::test]
async fn whole_records_behind_the_head_are_kept_and_called_uncertain() {
    let dir = small().await;
    let head = fs::read(dir.path().join("head")).unwrap();
    fill(dir.path(), 1 << 20, 7..=9).await;
    fs::write(dir.path().join("head"), head).unwrap();
    assert_eq!(verify(dir.path()).unwrap().records, 9);
    drop(open(dir.path(), 1 << 20));
    let (seq, record) = daypass::audit::read::newest(dir.path(), 1).unwrap().next().unwrap().unwrap();
    assert_eq!(seq, 10);
    assert!(record.contains("log/uncertain") && record.contains("seq 7-9"), "{record}");
    drop(open(dir.path(), 1 << 20));
    assert_eq!(verify(dir.path()).unwrap().records, 10);
}

#[tokio::test]
async fn an_empty_newest_segment_is_gone_on_with() {
    let dir = small().await;
    fs::write(dir.path().join("audit-00000000000000000007.jsonl"), "").unwrap();
    assert_eq!(verify(dir.path()).unwrap().records, 6);
    fill(dir.path(), 1 << 20, 7..=7).await;
    let summary = verify(dir.path()).unwrap();
    assert_eq!((summary.records, summary.segments), (7, 4));
}

#[tokio::test]
async fn a_directory_without_a_log_is_no_valid_log() {
    let dir = tempfile::tempdir().unwrap();
    assert!(verify(dir.path()).unwrap_err().what.contains("no audit log"));
    assert!(verify(&dir.path().join("nothing")).is_err());
    drop(open(dir.path(), 1 << 20));
    let summary = verify(dir.path()).unwrap();
    assert_eq!((summary.records, summary.first_seq, summary.last_seq), (0, 0, 0));
}

#[tokio::test]
async fn a_single_segment_verifies_alone_wherever_it_lies() {
    let dir = small().await;
    let elsewhere = tempfile::tempdir().unwrap();
    for (at, path) in segments(dir.path()).iter().enumerate() {
        let copy = elsewhere.path().join(format!("copy-{at}"));
        fs::copy(path, &copy).unwrap();
        let summary = verify(&copy).unwrap();
        assert_eq!((summary.first_seq, summary.records, summary.head_seq), (2 * at as u64 + 1, 2, None));
        let content = fs::read(path).unwrap();
        for cut in [1, 100, content.len() - 1] {
            fs::write(&copy, &content[..cut]).unwrap();
            assert!(verify(&copy).is_err(), "cut at {cut}");
        }
    }
    let last = segments(dir.path()).pop().unwrap();
    let content = fs::read_to_string(&last).unwrap();
    let first_line = content.split_inclusive('\n').next().unwrap();
    fs::write(&last, first_line).unwrap();
    assert!(verify(&last).unwrap_err().what.contains("cut off"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_bytes_in_place_of_any_others(
        segment_bytes in 500_u64..6000, count in 2_u64..25, at in any::<prop::sample::Index>(), long in 0_usize..80, new in prop::collection::vec(any::<u8>(), 0..80),
        file in any::<prop::sample::Index>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(fill(dir.path(), segment_bytes, 1..=count));
        let files = files(dir.path());
        let file = file.get(&files);
        let content = fs::read(file).unwrap();
        let at = at.index(content.len());
        let changed = [&content[..at], &new[..], &content[(at + long).min(content.len())..]].concat();
        prop_assume!(changed != content);
        // Bytes without an end, behind the last record, are what a crash leaves: they change no record.
        prop_assume!(!changed.starts_with(&content));
        must_break(dir.path(), file, &changed, "a change");
    }
}
