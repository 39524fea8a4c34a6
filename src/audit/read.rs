//! Reads the record: to follow it, and to rebuild a store from it. Only durable records are read; a server may append meanwhile.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};

use super::{
    record::{MAX_RECORD, seq_of},
    segments::{self, Head, Line, Lines, Segment},
};
use crate::model::{
    SignedDuration, Timestamp,
    error::{Code, Error},
    event::Event,
    lease::{Lease, LeaseId},
};

/// Events are appended in the order in which they end, and dated when they begin: a record may be this much older than the
/// one before it, and a clock may be set back by as much, before [`replay`] misses one.
pub const REPLAY_MARGIN: SignedDuration = SignedDuration::from_mins(5);

/// The records after `after_seq`, oldest first, as they lie in the log, without the newline; 0 means from the first.
///
/// `None` from the iterator means that no more are durable now; asked again later it goes on, in constant memory and without
/// searching again ([`super::DiskLog::subscribe`] tells when). After an error it ends.
///
/// # Errors
/// `Code::AuditUnavailable` when the directory cannot be read.
pub fn records(dir: &Path, after_seq: u64) -> Result<Records, Error> {
    let durable = durable(dir)?;
    Ok(Records { dir: dir.to_owned(), next: after_seq.saturating_add(1), durable, open: None, failed: false })
}

/// The newest `count` durable records, oldest first; like [`records`] it goes on with new ones.
///
/// # Errors
/// As [`records`].
pub fn newest(dir: &Path, count: u64) -> Result<Records, Error> {
    let mut records = records(dir, 0)?;
    records.next = records.durable.saturating_sub(count) + 1;
    Ok(records)
}

/// Records in order. See [`records`].
pub struct Records {
    dir: PathBuf,
    next: u64,
    durable: u64,
    open: Option<Open>,
    failed: bool,
}

struct Open {
    path: PathBuf,
    lines: Lines,
}

impl Iterator for Records {
    type Item = Result<(u64, String), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = self.step().transpose()?;
        self.failed = result.is_err();
        Some(result)
    }
}

impl Records {
    fn step(&mut self) -> Result<Option<(u64, String)>, Error> {
        if self.failed {
            return Ok(None);
        }
        if self.next > self.durable {
            self.durable = durable(&self.dir)?;
            if self.next > self.durable {
                return Ok(None);
            }
        }
        let seq = self.next;
        // Twice: at the end of a segment, and then in the one that begins with this record.
        for _ in 0..2 {
            let open = match self.open.take() {
                Some(open) => open,
                None => Open::at(&self.dir, seq)?,
            };
            let open = self.open.insert(open);
            if let Some(line) = open.find(seq)? {
                self.next = seq + 1;
                return Ok(Some((seq, line)));
            }
            self.open = None;
        }
        Err(unreadable(&self.dir, format_args!("record {seq} is missing")))
    }
}

impl Open {
    /// The segment that holds a record, a little before it.
    fn at(dir: &Path, seq: u64) -> Result<Self, Error> {
        let segments = segments::list(dir).map_err(|error| unreadable(dir, error))?;
        let Some(Segment { path, .. }) = segments.into_iter().rev().find(|segment| segment.first <= seq) else {
            return Err(unreadable(dir, format_args!("no segment holds record {seq}")));
        };
        let lines = seek(&path, seq).map_err(|error| unreadable(&path, error))?;
        Ok(Self { path, lines })
    }

    /// Reads on to a record; none at the segment's end.
    fn find(&mut self, seq: u64) -> Result<Option<String>, Error> {
        loop {
            let line = match self.lines.next().map_err(|error| unreadable(&self.path, error))? {
                Line::Whole(line) => line,
                // A record that is being written, after the one that is looked for if that is in this segment at all.
                Line::Unfinished(_) | Line::End => return Ok(None),
                Line::TooLong => return Err(unreadable(&self.path, "a line is too long")),
            };
            match seq_of(line) {
                Some(found) if found < seq => {}
                Some(found) if found == seq => {
                    let line = String::from_utf8(line.to_vec()).map_err(|error| unreadable(&self.path, error))?;
                    return Ok(Some(line));
                }
                _ => return Err(unreadable(&self.path, format_args!("record {seq} is not where it should be"))),
            }
        }
    }
}

/// Opens a segment not far before a record, by bisection: records are in order.
fn seek(path: &Path, seq: u64) -> io::Result<Lines> {
    const NEAR: u64 = 4 * MAX_RECORD as u64;
    let (mut low, mut high) = (0, std::fs::metadata(path)?.len());
    while high - low > NEAR {
        let middle = low + (high - low) / 2;
        let mut lines = Lines::open(path, middle)?;
        // Up to the end of the line in whose midst this is.
        if !matches!(lines.next()?, Line::Whole(_)) {
            break;
        }
        let start = lines.offset;
        let found = match lines.next()? {
            Line::Whole(line) => seq_of(line),
            _ => None,
        };
        match found {
            Some(found) if found <= seq => low = start,
            _ => high = middle,
        }
    }
    Lines::open(path, low)
}

/// The events since a time, in the order of the log: what a store is rebuilt from. Reads from the newest segment backwards only
/// as far as needed, then forwards, in constant memory.
///
/// # Errors
/// As [`records`].
pub fn replay(dir: &Path, since: Timestamp) -> Result<impl Iterator<Item = Result<Event, Error>>, Error> {
    let first = segments_since(dir, since)?.first().map_or(1, |segment| segment.first);
    let path = dir.to_owned();
    let events = records(dir, first.saturating_sub(1))?.map(move |record| parse::<Event>(&path, record?.1.as_bytes()));
    Ok(events.filter(move |event| event.as_ref().map_or(true, |event| event.time >= since)))
}

/// The leases that events since a time left on record, the newest segment's first, each as its newest version there.
///
/// A lease that changed in several segments comes again, in an older version, with the older ones: what was given first holds, and
/// [`LeaseStore::restore`](crate::store::LeaseStore::restore) keeps to that by itself. So memory is bounded by a segment: about
/// 50 bytes for each lease in it.
///
/// # Errors
/// As [`records`].
pub fn leases_since(dir: &Path, since: Timestamp) -> Result<Leases, Error> {
    Ok(Leases { segments: segments_since(dir, since)?, since, durable: durable(dir)?, open: None, wanted: Vec::new() })
}

/// Leases from the record. See [`leases_since`].
pub struct Leases {
    /// Those that are still to be read, oldest first.
    segments: Vec<Segment>,
    since: Timestamp,
    durable: u64,
    open: Option<Open>,
    /// Where in the open segment the newest versions stand, the last one first.
    wanted: Vec<u64>,
}

impl Iterator for Leases {
    type Item = Result<Lease, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = self.step().transpose()?;
        if result.is_err() {
            self.segments.clear();
            self.wanted.clear();
        }
        Some(result)
    }
}

impl Leases {
    fn step(&mut self) -> Result<Option<Lease>, Error> {
        loop {
            if let (Some(open), Some(wanted)) = (&mut self.open, self.wanted.last()) {
                let offset = open.lines.offset;
                let Line::Whole(line) = open.lines.next().map_err(|error| unreadable(&open.path, error))? else {
                    return Err(unreadable(&open.path, "it became shorter"));
                };
                if offset < *wanted {
                    continue;
                }
                self.wanted.pop();
                return Ok(parse::<Snapshot<Lease>>(&open.path, line)?.lease);
            }
            let Some(segment) = self.segments.pop() else {
                return Ok(None);
            };
            self.wanted = self.newest_versions(&segment.path)?;
            let lines = Lines::open(&segment.path, 0).map_err(|error| unreadable(&segment.path, error))?;
            self.open = Some(Open { path: segment.path, lines });
        }
    }

    /// Where the newest version of each lease of a segment stands, the last one first.
    fn newest_versions(&self, path: &Path) -> Result<Vec<u64>, Error> {
        let mut newest: HashMap<LeaseId, (u32, u64)> = HashMap::new();
        let mut lines = Lines::open(path, 0).map_err(|error| unreadable(path, error))?;
        loop {
            let offset = lines.offset;
            let line = match lines.next().map_err(|error| unreadable(path, error))? {
                Line::Whole(line) if seq_of(line).is_some_and(|seq| seq <= self.durable) => line,
                Line::TooLong => return Err(unreadable(path, "a line is too long")),
                _ => break,
            };
            let Snapshot { time, lease: Some(lease) } = parse::<Snapshot<Version>>(path, line)? else {
                continue;
            };
            if time < self.since {
                continue;
            }
            match newest.entry(lease.id) {
                Entry::Occupied(entry) if entry.get().0 > lease.version => {}
                Entry::Occupied(mut entry) => *entry.get_mut() = (lease.version, offset),
                Entry::Vacant(entry) => {
                    entry.insert((lease.version, offset));
                }
            }
        }
        let mut offsets: Vec<u64> = newest.into_values().map(|(_, offset)| offset).collect();
        offsets.sort_unstable_by(|a, b| b.cmp(a));
        Ok(offsets)
    }
}

/// The part of a record that is about a lease.
#[derive(Deserialize)]
struct Snapshot<L> {
    time: Timestamp,
    lease: Option<L>,
}

#[derive(Deserialize)]
struct Version {
    id: LeaseId,
    version: u32,
}

/// The segments that may hold events since a time, oldest first.
fn segments_since(dir: &Path, since: Timestamp) -> Result<Vec<Segment>, Error> {
    #[derive(Deserialize)]
    struct Time {
        time: Timestamp,
    }
    let since = since.checked_sub(REPLAY_MARGIN).unwrap_or(Timestamp::MIN);
    let mut segments = segments::list(dir).map_err(|error| unreadable(dir, error))?;
    let mut from = segments.len();
    while from > 0 {
        from -= 1;
        let path = &segments[from].path;
        let mut lines = Lines::open(path, 0).map_err(|error| unreadable(path, error))?;
        if let Line::Whole(line) = lines.next().map_err(|error| unreadable(path, error))?
            && parse::<Time>(path, line)?.time < since
        {
            break;
        }
    }
    segments.drain(..from);
    Ok(segments)
}

fn durable(dir: &Path) -> Result<u64, Error> {
    match Head::read(dir).map_err(|error| unreadable(dir, error))? {
        Head::At(link) => Ok(link.seq),
        Head::Absent | Head::Empty => Ok(0),
        Head::Malformed => Err(unreadable(dir, "the head is malformed")),
    }
}

fn parse<T: DeserializeOwned>(path: &Path, line: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(line).map_err(|error| unreadable(path, error))
}

fn unreadable(path: &Path, why: impl fmt::Display) -> Error {
    Error::new(Code::AuditUnavailable, "the audit log cannot be read").because(format_args!("{}: {why}", path.display()))
}
