//! A server is killed at random moments of a load; what it acknowledged is there.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use daypass::{
    audit::{AuditLog, read, verify::verify},
    model::event::Event,
};

use super::{event, open};

const DIR: &str = "DAYPASS_TEST_AUDIT_CRASH_DIR";
const FIRST: &str = "DAYPASS_TEST_AUDIT_CRASH_FIRST";
const ROUNDS: u64 = 30;
const SEGMENT: u64 = 128 * 1024;

/// Not a test: what the test below starts as a process of its own, to kill it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by acknowledged_records_outlive_kill_9"]
async fn appends_until_it_is_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let log = Arc::new(open(Path::new(&dir), SEGMENT));
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let log = log.clone();
            tokio::spawn(async move {
                for at in 0_u64.. {
                    let id = first + at * 16 + task;
                    let seq = log.append(vec![event(id)]).await.unwrap().seq;
                    // One write, so that a line is whole or not there.
                    std::io::stdout().lock().write_all(format!("\nacknowledged {seq} {id}\n").as_bytes()).unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// Starts it, kills it `after` its first acknowledgement, and gives what it acknowledged.
fn one_life(dir: &Path, first: u64, after: Duration) -> BTreeMap<u64, u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "audit::crash::appends_until_it_is_killed", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let parse = |line: String| {
        let mut words = line.strip_prefix("acknowledged ")?.split(' ');
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    };
    let begun = lines.by_ref().find_map(parse).expect("it ended before it appended");
    let reader = std::thread::spawn(move || lines.filter_map(parse).chain([begun]).collect());
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

#[tokio::test]
async fn acknowledged_records_outlive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut total = 0;
    for round in 0..ROUNDS {
        let after = Duration::from_micros(u64::from(u32::from_le_bytes(daypass::clock::random::<4>())) % 60_000);
        let acknowledged = one_life(dir.path(), round * 1_000_000, after);
        verify(dir.path()).unwrap_or_else(|broken| panic!("round {round}, before it was opened again: {broken}"));
        drop(open(dir.path(), SEGMENT));
        let summary = verify(dir.path()).unwrap_or_else(|broken| panic!("round {round}: {broken}"));
        assert_eq!(summary.unfinished_bytes, 0);
        let first = *acknowledged.keys().next().unwrap();
        let records: BTreeMap<u64, String> = read::records(dir.path(), first - 1).unwrap().map(Result::unwrap).collect();
        for (seq, id) in &acknowledged {
            let record = records.get(seq).unwrap_or_else(|| panic!("round {round}: record {seq} was acknowledged and is gone"));
            let event: Event = serde_json::from_str(record).unwrap();
            assert_eq!(event.call_id, Some(id.to_string()), "round {round}: record {seq} is another one");
        }
        total += acknowledged.len();
    }
    assert!(total > 30 * 20, "only {total} appends in all: nothing was tested");
}
